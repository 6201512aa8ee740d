"""Alerts on their way: to a file, to a SIEM's file, to a webhook. Each waits in the book until its sink has it."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.alerts import Alert, to_ocsf
from understudy.errors import ManifestError, MonitorError, RecordError
from understudy.gateway.book import Book, Waiting
from understudy.gateway.metrics import log
from understudy.manifest_monitor import MonitorPart, Webhook

if TYPE_CHECKING:
    import urllib3

UNDELIVERED = "undelivered.jsonl"
_LARGEST = 64 * 2**20  # bytes of a file before it is put aside under the time
_PAUSE, _LONGEST = 1.0, 900.0  # seconds before the second try, and at most


class Delivery:
    """The sinks of one endpoint. `folder`: its part of the guard folder."""

    def __init__(self, folder: Path, monitor: MonitorPart) -> None:
        self._folder, self._sinks = folder, monitor.sinks
        self._http: urllib3.PoolManager | None = None
        webhook = monitor.sinks.webhook
        self._secret = b"" if webhook is None else secret_of(webhook)

    def run(self, book: Book, now: float) -> tuple[int, int]:
        """Try what is due; returns how many were delivered, and how many tries failed.

        Files come first, and of a webhook's failures one ends the run: it may have taken all of `timeout_s`.
        """
        done = failed = 0
        for waiting in book.waiting(now):
            try:
                self._deliver(waiting)
            except OSError as error:
                failed += 1
                self._failed(book, waiting, getattr(error, "strerror", None) or type(error).__name__, now)
                if waiting.sink == "webhook":
                    break
            except RecordError:  # of another version: it holds nothing else up
                failed += 1
                self._give_up(book, waiting, "it was written by another version")
            else:
                done += 1
                book.sent(waiting.n)
        return done, failed

    def _deliver(self, waiting: Waiting) -> None:
        sinks = self._sinks
        if waiting.sink == "file" and sinks.file is not None:
            append(self._folder / sinks.file, waiting.alert)
        elif waiting.sink == "ocsf" and sinks.ocsf is not None:
            alert = Alert.read(waiting.alert, self._folder)
            append(self._folder / sinks.ocsf, json.dumps(to_ocsf(alert, version("understudy"))))
        elif waiting.sink == "webhook" and sinks.webhook is not None:
            self._post(sinks.webhook, waiting.alert)
        else:  # a sink that the manifest no longer names
            append(self._folder / UNDELIVERED, waiting.alert)

    def _post(self, webhook: Webhook, body: str) -> None:
        """Raises OSError where the other side does not say 2xx."""
        import urllib3

        if self._http is None:
            self._http = urllib3.PoolManager(maxsize=1, retries=False)
        headers = {"content-type": "application/json", "user-agent": "understudy", **self._signed(body.encode())}
        try:
            reply = self._http.request(
                "POST", webhook.url, body=body.encode(), headers=headers, timeout=webhook.timeout_s, redirect=False,
                preload_content=False,
            )  # fmt: skip
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise OSError(0, type(error).__name__) from None
        reply.close()  # whatever it says beside, however long it takes to say it
        if not 200 <= reply.status < 300:
            raise OSError(0, f"HTTP {reply.status}")

    def _signed(self, body: bytes) -> dict[str, str]:
        if not self._secret:
            return {}
        at = str(int(time.time()))
        return {"x-understudy-time": at, "x-understudy-signature": signature(self._secret, at, body)}

    def _failed(self, book: Book, waiting: Waiting, why: str, now: float) -> None:
        webhook = self._sinks.webhook
        if waiting.sink == "webhook" and webhook is not None and waiting.tries + 1 >= webhook.tries:
            self._give_up(book, waiting, why)
            return
        log().error("an alert could not be delivered", sink=waiting.sink, reason=why, given_up=False)
        book.put_off(waiting.n, now + min(_PAUSE * 2**waiting.tries, _LONGEST))

    def _give_up(self, book: Book, waiting: Waiting, why: str) -> None:
        log().error("an alert could not be delivered", sink=waiting.sink, reason=why, given_up=True)
        append(self._folder / UNDELIVERED, waiting.alert)
        book.sent(waiting.n)


def signature(secret: bytes, at: str, body: bytes) -> str:
    """`v1=` and HMAC-SHA256 over the time, a full stop and the body, in hexadecimal."""
    return "v1=" + hmac.new(secret, at.encode() + b"." + body, hashlib.sha256).hexdigest()


def secret_of(webhook: Webhook) -> bytes:
    """What signs a webhook's alerts. Raises ManifestError where the variable is not set."""
    if webhook.secret is None:
        return b""
    value = os.environ.get(webhook.secret.env, "")
    if len(value) < 16:
        raise ManifestError(
            f"monitor.sinks.webhook.secret: set {webhook.secret.env} to 16 or more random characters, or leave it out"
        )
    return (webhook.secret.prefix + value).encode()


def append(path: Path, line: str) -> None:
    """Add a line durably; a file that has grown large is put aside first, never removed. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.stat().st_size >= _LARGEST:
        path.rename(_aside(path))
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        before, blob = os.fstat(handle).st_size, line.encode() + b"\n"
        if os.write(handle, blob) < len(blob):
            os.ftruncate(handle, before)  # half a line would spoil the next
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(handle)


def _aside(path: Path) -> Path:
    stem = f"{path.stem}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    names = (path.with_name(f"{stem}{f'-{i}' if i else ''}{path.suffix}") for i in range(10_000))
    for name in names:
        if not name.exists():
            return name
    raise MonitorError(f"{path}: too many files of this second")
