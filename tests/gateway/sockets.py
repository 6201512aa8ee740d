"""The same attacks over real connections: an upstream of raw bytes, `understudy guard`, a customer of raw bytes.

Servers on both sides meet here what no ASGI message can hold: reason phrases, trailers, broken framing, bytes that are
no HTTP at all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

import asking
from house import PARTS, Request
from planting import Planted

Answer = Callable[[str, dict[str, str], bytes], bytes]


class RawUpstream:
    """An HTTP server whose answers are bytes that `answer(path, headers, body)` makes; afterwards it hangs up."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.asked = answer, 0

    async def __aenter__(self) -> RawUpstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines) if n}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.asked += 1
            writer.write(self.answer(first.split()[1], headers, body))
            await writer.drain()
        writer.close()


def told(planted: Planted, rng: random.Random) -> bytes:
    """A planted answer as bytes on a connection, framed in one of HTTP's ways or wrongly, canaries in the frame."""
    lines = [f"HTTP/1.1 {planted.status} {planted.word(rng)}".encode(), *(b": ".join(h) for h in planted.headers)]
    if rng.random() < 0.2:
        odd = rng.choice((b"\xff\xfe", "é".encode(), b"\t", b'"', b"a" * 9000))
        lines.append(b"X-" + planted.word(rng).encode() + b": " + odd + planted.word(rng).encode())
    body, kind = planted.body, rng.random()
    if kind < 0.25:
        lines.append(b"transfer-encoding: chunked")
        cut = rng.randrange(len(body) + 1)
        chunks = b"".join(
            b"%x;%s\r\n%s\r\n" % (len(c), planted.word(rng).encode(), c) for c in (body[:cut], body[cut:]) if c
        )
        trailer = b"x-score: " + planted.word(rng).encode() + b"\r\n" if rng.random() < 0.5 else b""
        body = chunks + b"0\r\n" + trailer + b"\r\n"
    elif kind < 0.3:
        lines.append(b"content-length: %d" % (len(body) + rng.choice((7, -1, 10**9))))
    elif kind < 0.33:
        lines[0] = rng.choice((planted.word(rng).encode(), b"HTTP/9.9 200", b"HTTP/1.1 0200 x", b"HTTP/1.1 999 x", b""))
    elif kind < 0.36:
        body = planted.word(rng).encode() + body
        lines.insert(0, rng.choice((b"HTTP/1.1 103 x\r\nlink: a\r\n", b"HTTP/1.1 100 x\r\n", b"HTTP/1.1 101 x\r\n")))
    elif kind < 0.9:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def written(request: Request) -> bytes:
    """A request as bytes on a connection that ends with it."""
    path = quote(request.path, safe="/:?%;.*[]") or "/"
    line = f"{request.method or 'GET'} {path}".encode("latin-1", "replace") + (
        b"?" + request.query if request.query else b""
    )
    body = b"".join(request.chunks)
    names = {name for name, _ in request.headers}
    more = [] if b"content-length" in names else [(b"content-length", str(len(body)).encode())]
    head = [(b"host", b"guard"), (b"connection", b"close"), *request.headers, *more]
    return b"\r\n".join([line + b" HTTP/1.1", *(b": ".join(pair) for pair in head), b"", body])


async def exchange(url: str, data: bytes, seconds: float, ends: bool = False, pieces: int = 1) -> bytes:
    """What comes back for these bytes until the other side hangs up, or nothing more within `seconds`."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    got = b""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            for i in range(pieces):
                writer.write(data[len(data) * i // pieces : len(data) * (i + 1) // pieces])
                await writer.drain()
                if pieces > 1:
                    await asyncio.sleep(0.01)
            if ends:
                writer.write_eof()
            while piece := await reader.read(2**16):
                got += piece
    writer.close()
    return got


def garbage(rng: random.Random, key: str) -> bytes:
    """Bytes that are not, or not quite, an HTTP request."""
    part = rng.choice(PARTS)
    route, fits = part.route.encode(), asking.valid(part, rng, 1)
    body = repr(fits[0]).replace("'", '"').encode()
    size = b"%d" % len(body)
    head = b"host: g\r\nauthorization: Bearer " + key.encode() + b"\r\n"
    post = b"POST " + route + b" HTTP/1.1\r\n" + head
    length = b"content-length: " + size + b"\r\n"
    chunked = b"transfer-encoding: chunked\r\n"
    whole = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    return rng.choice(
        (
            rng.randbytes(rng.choice((1, 30, 3000))),
            b"\r\n" * 50,
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
            b"GET http://other" + route + b" HTTP/1.1\r\n" + head + b"\r\n",
            b"CONNECT a:443 HTTP/1.1\r\n" + head + b"\r\n",
            b"OPTIONS * HTTP/1.1\r\n" + head + b"\r\n",
            b"POST http://[::1 HTTP/1.1\r\n" + head + length + b"\r\n" + body,
            b"POST \xff\xfe HTTP/1.1\r\n" + head + b"\r\n",
            b"POST /%ff%fe%00 HTTP/1.1\r\n" + head + b"\r\n",
            b"POST /a%2e%2e" + route + b"?" + b"a" * 70_000 + b" HTTP/1.1\r\n" + head + b"\r\n",
            b"FOO" * 900 + b" / HTTP/1.1\r\n\r\n",
            b"POST //" + route + b" HTTP/1.1\r\n" + head + length + b"\r\n" + body,
            b"POST " + route + b" HTTP/1.0\r\n\r\n" + body,
            post + length + length + b"\r\n" + body,
            post + length + b"content-length: 3\r\n\r\n" + body,
            post + b"content-length: -1\r\n\r\n" + body,
            post + b"content-length: 5, 5\r\n\r\n" + body,
            post + b"content-length: 1e3\r\n\r\n",
            post + b"content-length: 99999999999999999999999\r\n\r\n",
            post + b"content-length: 262145\r\n\r\n" + body,
            post + length + b"\r\n" + body[: len(body) // 2],
            post + length + b"\r\n" + body + post + length + b"\r\n" + body,
            (post + length + b"\r\n" + body) * 40,
            post + chunked + b"\r\n" + whole,
            post + chunked + length + b"\r\n" + whole,
            post + chunked + b"\r\n" + b"zz\r\n" + body,
            post + chunked + b"\r\n" + b"ffffffffffffffffff\r\n",
            post + chunked + b"\r\n-1\r\n",
            post + chunked + b"\r\n" + whole[:-2] + b"x-api-key: a\r\n\r\n",
            post + b"transfer-encoding: chunked, chunked\r\n\r\n" + whole,
            post + b"transfer-encoding: gzip, chunked\r\n\r\n" + whole,
            post + b"transfer-encoding: xchunked\r\n" + length + b"\r\n" + body,
            post + chunked + b"\r\n" + b"1;" + b"e" * 70_000 + b"\r\na\r\n0\r\n\r\n",
            post + b"expect: 100-continue\r\n" + length + b"\r\n" + body,
            post
            + b"upgrade: websocket\r\nconnection: upgrade\r\n"
            + b"sec-websocket-key: dGhlIHNhbXBsZQ==\r\nsec-websocket-version: 13\r\n\r\n",
            post
            + b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk\r\n"
            + length
            + b"\r\n"
            + body,
            post + b"x: " + b"a" * 100_000 + b"\r\n\r\n",
            post + b"".join(b"x-%d: a\r\n" % i for i in range(3000)) + length + b"\r\n" + body,
            post + b"no colon\r\n" + length + b"\r\n" + body,
            post + b" folded: x\r\n" + length + b"\r\n" + body,
            post + b"x: a\x00b\r\n" + length + b"\r\n" + body,
            post + b"x y: a\r\n" + length + b"\r\n" + body,
            post + b": a\r\n\r\n",
            post.replace(b"\r\n", b"\n") + length + b"\n" + body,
            post + b"x: a\rb: c\r\n" + length + b"\r\n" + body,
            post + b"host: two\r\n" + length + b"\r\n" + body,
            post + b"authorization: Bearer two\r\n" + length + b"\r\n" + body,
        )
    )
