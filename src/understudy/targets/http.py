"""A model behind HTTP: one request per query, asked again only where that is right, and never believed unchecked."""

from __future__ import annotations

import email.utils
import ipaddress
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import urllib3
from numpy.typing import ArrayLike

from understudy.errors import AnswerError, InputError, TargetError
from understudy.targets.callable import checked
from understudy.types import Answers, Ask, Exposure, Space
from understudy.wire import Client, Message

_AGAIN = frozenset({429, 502, 503, 504})
_LONGEST_WAIT = 120.0  # seconds that a server may ask us to wait
_HINTS = {
    400: "does the protocol, or its options, fit this server?",
    401: "is the credential right? target.http.headers names the environment variable",
    403: "is the credential right? target.http.headers names the environment variable",
    404: "is the url the whole route?",
    405: "is the url the inference route?",
    413: "lower target.batch",
    415: "is this the right protocol?",
    422: "does the protocol, or its options, fit this server?",
}


@dataclass(frozen=True, eq=False)
class HttpTarget:
    """A prediction server. `url` is the whole inference route; `headers` may hold secrets and appear nowhere.

    `timeout_s` per attempt; `retries` after refused or broken connections, timeouts, 429, 502, 503 and 504, with
    exponential back-off that honours Retry-After up to two minutes. `max_rows` per request; `pace` requests per second,
    over all threads; `ca_file`: certificates to trust instead of the system's; `max_bytes` of an answer.
    """

    url: str
    codec: Client
    exposure: Exposure
    space: Space
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 30.0
    retries: int = 4
    max_rows: int | None = None
    pace: float | None = None
    ca_file: str | None = None
    max_bytes: int = 64 * 2**20
    _pool: urllib3.PoolManager = field(init=False, repr=False)
    _pacer: _Pacer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        pool = urllib3.PoolManager(
            maxsize=16, block=True, retries=False, cert_reqs="CERT_REQUIRED", ca_certs=self.ca_file
        )
        object.__setattr__(self, "_pool", pool)
        object.__setattr__(self, "_pacer", _Pacer(self.pace))

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Ask once for all rows. Raises InputError, TargetError (nothing came) or AnswerError (what came is no use)."""
        x = self.space.check(inputs)
        if not len(x):
            return self.exposure.nothing(0, self.space.shape)
        if self.max_rows is not None and len(x) > self.max_rows:
            raise InputError(f"{len(x)} rows in one request; this target takes {self.max_rows} (target.batch)")
        if ask is not None and ask.within is not None:
            raise InputError("no protocol carries a box to look for counterfactuals in")
        wanted = self.exposure.signals
        message = self._ask(self.codec.request(x, wanted))
        try:
            raw = self.codec.answers(message, wanted, len(x))
            answers = checked(raw, len(x), self.exposure, self.space.shape)
        except AnswerError as error:
            raise AnswerError(str(error), error.raw or message.body) from None
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)

    def _ask(self, message: Message) -> Message:
        """The answer, after as many attempts as are allowed."""
        trouble = ""
        for attempt in range(self.retries + 1):
            self._pacer.wait()
            try:
                status, headers, answer = self._once(message)
            except urllib3.exceptions.SSLError:
                raise TargetError(
                    f"{self._where}: its TLS certificate is not trusted; see target.http.ca_file"
                ) from None
            except (urllib3.exceptions.HTTPError, OSError) as error:
                trouble, asked_to_wait = _broken(error), None
            else:
                if 200 <= status < 300:
                    return Message(answer, {name.lower(): value for name, value in headers.items()})
                if status not in _AGAIN:
                    raise TargetError(self._refused(status, headers, answer))
                trouble, asked_to_wait = f"HTTP {status}", _retry_after(headers)
            if attempt < self.retries:
                self._rest(attempt, asked_to_wait)
        raise TargetError(f"{self._where}: {trouble}; given up after {self.retries + 1} attempts")

    def _once(self, message: Message) -> tuple[int, Mapping[str, str], bytes]:
        own = {name.lower() for name in self.headers}
        head = {name: value for name, value in message.headers.items() if name not in own}
        head |= {} if "accept" in own else {"accept": message.headers["content-type"]}
        timeout = urllib3.Timeout(connect=min(self.timeout_s, 10), read=self.timeout_s)
        response = self._pool.request(
            "POST",
            self.url,
            body=message.body,
            headers={**head, **self.headers},
            timeout=timeout,
            redirect=False,
            preload_content=False,
        )
        try:
            answer = response.read(self.max_bytes + 1)
            if len(answer) > self.max_bytes:
                response.close()
                raise AnswerError(f"the answer is larger than {self.max_bytes:,} bytes", b"")
            return response.status, response.headers, answer
        finally:
            response.release_conn()

    def _rest(self, attempt: int, asked: float | None) -> None:
        if asked is not None and asked > _LONGEST_WAIT:
            raise TargetError(f"{self._where}: asks to wait {asked:,.0f} seconds; try again later, with --resume")
        backoff = min(0.5 * 2**attempt, 30.0) * (0.5 + random.random())
        time.sleep(asked if asked is not None else backoff)

    def _refused(self, status: int, headers: Mapping[str, str], answer: bytes) -> str:
        if 300 <= status < 400:
            return f"{self._where}: HTTP {status}, redirects to {headers.get('Location', 'nowhere')[:200]}; change url"
        shown = "".join(c if c.isprintable() else " " for c in answer[:60].decode("utf-8", "replace")).strip()
        for secret in self.headers.values():
            shown = shown.replace(secret, "***")
        hint = _HINTS.get(status, "see the server's log")
        return f"{self._where}: HTTP {status} ({shown!r}); {hint}"

    @property
    def _where(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{':' + str(parts.port) if parts.port else ''}{parts.path}"


class _Pacer:
    """Requests start at least 1 / pace seconds apart, over all threads."""

    def __init__(self, pace: float | None) -> None:
        self._gap = 1 / pace if pace else 0.0
        self._lock, self._next = threading.Lock(), 0.0

    def wait(self) -> None:
        """Sleep until this request's turn."""
        if not self._gap:
            return
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._gap
        time.sleep(max(start - time.monotonic(), 0))


def is_local(url: str) -> bool:
    """Whether a URL's host is this machine: `localhost` or a loopback address. Resolves nothing."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _broken(error: Exception) -> str:
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "cannot connect (is the server running?)"
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.ReadTimeoutError):
        return "no answer in time"
    return "the connection broke"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isdigit():
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None
