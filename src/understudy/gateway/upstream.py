"""The model server behind the gateway: pooled HTTP, or the ASGI application that the gateway wraps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from understudy.errors import MissingExtra, TargetError

#: Response headers that the gateway reads.
_TELLING = ("content-type", "content-encoding", "inference-header-content-length", "retry-after")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Reply(NamedTuple):
    """What came back. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unreachable(TargetError):
    """The upstream could not be reached, broke off, or answered more than is allowed."""


class TooSlow(Unreachable):
    """The upstream did not answer in time."""


class Upstream(Protocol):
    """Whoever answers in the end."""

    async def ask(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The answer to one inference request. Raises Unreachable or TooSlow; never shows a header value."""

    async def forward(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Any request as it is, `url` from its path on: for observing only."""

    async def close(self) -> None:
        """Let go of connections."""


class HttpUpstream:
    """A model server over HTTP/1.1: connections are kept and bounded, redirects and compression are not asked for."""

    def __init__(
        self, url: str, headers: Mapping[str, str], timeout_s: float, most: int, connections: int, ca_file: Path | None
    ) -> None:
        try:
            from pyreqwest.client import ClientBuilder
            from pyreqwest.exceptions import PyreqwestError
        except ImportError:
            raise MissingExtra("the gateway needs its libraries: pip install 'understudy[guard]'") from None
        builder = (
            ClientBuilder()
            .http1_only()
            .follow_redirects(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .referer(False)
            .no_proxy()
            .user_agent("understudy-guard")
            .connect_timeout(timedelta(seconds=min(timeout_s, 10)))
            .timeout(timedelta(seconds=timeout_s))
            .max_connections(connections)
            .pool_max_idle_per_host(connections)
            .default_headers({"accept": "application/json", "accept-encoding": "identity", **headers})
        )
        if ca_file is not None:
            builder = builder.add_root_certificate_pem(ca_file.read_bytes())
        self._client, self._url, self._most = builder.build(), url, most
        self._origin, self._failed = "://".join(urlsplit(url)[:2]), PyreqwestError

    async def ask(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """POST to the inference route."""
        return await self._send(self._client.post(self._url), body, headers, _read)

    async def forward(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Any request as it is: for observing only."""
        return await self._send(self._client.request(method, self._origin + url), body, headers, _headers)

    async def _send(
        self, request: Any, body: bytes, headers: Mapping[str, str], read: Callable[[Any], dict[str, str]]
    ) -> Reply:
        try:
            async with request.body_bytes(body).headers(headers).build_streamed() as response:
                length = response.get_header("content-length")
                if length is not None and length.isdigit() and int(length) > self._most:
                    raise Unreachable(f"the upstream's answer has {length} bytes (guard.max_answer: {self._most})")
                answer = bytes(await response.bytes()) if length is not None else await self._bounded(response)
                return Reply(response.status, read(response), answer)
        except self._failed as error:
            kind = TooSlow if isinstance(error, TimeoutError) else Unreachable
            raise kind(f"the upstream did not answer ({type(error).__name__})") from None

    async def _bounded(self, response: Any) -> bytes:
        parts, size = [], 0
        while (chunk := await response.body_reader.read_chunk()) is not None:
            parts.append(bytes(chunk))
            size += len(parts[-1])
            if size > self._most:
                raise Unreachable(f"the upstream's answer passes {self._most} bytes (guard.max_answer)")
        return b"".join(parts)

    async def close(self) -> None:
        await self._client.close()


def _read(response: Any) -> dict[str, str]:
    """The headers that say how an answer is to be read, by name; one that is not ASCII text is left out."""
    read = dict[str, str]()
    for name in _TELLING:
        with suppress(ValueError):
            if (value := response.get_header(name)) is not None:
                read[name] = value
    return read


def _headers(response: Any) -> dict[str, str]:
    """All headers by name; one that is not ASCII text is left out: the client cannot read it."""
    read = dict[str, str]()
    for name in response.headers:
        with suppress(ValueError):
            read[name.lower()] = response.headers[name]
    return read


class AsgiUpstream:
    """The wrapped application of those who serve with FastAPI or the like: the gateway is its middleware."""

    def __init__(self, app: App, path: str, most: int) -> None:
        self._app, self._path, self._most = app, path, most

    async def ask(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """One request to the application, with nothing in it but the rebuilt body."""
        return await self.forward("POST", self._path, body, {"host": "understudy-guard", **headers})

    async def forward(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Any request as it is: for observing only."""
        path, _, query = url.partition("?")
        given = {**headers, "content-length": str(len(body))}
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.encode(), v.encode()) for k, v in given.items()],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
        }
        told, status, head, parts = False, 0, dict[str, str](), list[bytes]()

        async def receive() -> MutableMapping[str, Any]:
            nonlocal told
            if told:
                return {"type": "http.disconnect"}
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                head.update({k.decode("latin-1").lower(): v.decode("latin-1") for k, v in message.get("headers", ())})
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
                if sum(map(len, parts)) > self._most:
                    raise Unreachable(f"the application's answer passes {self._most} bytes (guard.max_answer)")

        try:
            await self._app(scope, receive, send)
        except Unreachable:
            raise
        except Exception as error:
            raise Unreachable(f"the application failed ({type(error).__name__})") from error
        return Reply(status, head, b"".join(parts))

    async def close(self) -> None:
        return None
