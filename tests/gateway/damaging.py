"""Malformed and hostile requests: valid ones damaged, mislabelled, sent oddly or elsewhere, and plain rubbish."""

from __future__ import annotations

import copy
import gzip
import random
import zlib
from functools import cache
from typing import Any

import asking
from house import PARTS, Part, Request

_DEEP = ("[", '{"a":', '[{"a":[', '{"inputs":[', '{"instances":[')
_LENGTHS = (
    b"0",
    b"-1",
    b"5",
    b"262145",
    b"9" * 30,
    b"1e3",
    b"0x10",
    b"",
    b" 7 ",
    "٣".encode(),
    b"\xb2",
    b"+4",
    b"00000012",
)
_ENCODINGS = (
    b"gzip",
    b"GZIP",
    b"deflate",
    b"br",
    b"zstd",
    b"gzip, gzip",
    b"identity",
    b"",
    b"\xff\xfe",
    b"x-gzip",
    b"chunked",
)
_TYPES = (
    b"application/json", b"text/plain", b"", b"application/octet-stream", b"text/csv", b"\xff", b"multipart/form-data",
    b"application/json; charset=utf-16", b"application/x-npy", b"application/json\t", b"json" * 2000,
)  # fmt: skip
_CREDENTIALS = (
    b"Bearer", b"Bearer ", b"bearer us_00000000_" + b"A" * 43, b"Basic dXM6dXM=", b"Bearer \xff\xfe", b"Bearer a.b.c",
    b"Bearer " + b"x" * 9000, b"Bearer us_" + b"\x80" * 20, b"Bearer ey.ey.", b"Negotiate", b"", b"Bearer us_ us_",
)  # fmt: skip
_CLIENTS = (("192.0.2.7", 1), ("::1", 1), ("fe80::1%eth0", 1), ("::ffff:10.0.0.1", 1), ("", 0), ("unix", 0), None)
_URIS = (
    b"//[",
    b"http://[::1/score",
    b"\xff\xfe",
    b"/v2/models/m/infer?x=" + b"a" * 5000,
    b"",
    b"?",
    b"http://a:b@c:d/e",
)


def case(seed: int, number: int, keys: dict[str, dict[str, str]]) -> tuple[Part, Request]:
    """Case `number` of a seed."""
    rng = random.Random(f"hostile:{seed}:{number}")
    part = rng.choice(PARTS)
    body, tail, head = asking.valid(part, rng, rng.choice((1, 1, 2, 3, 101)))
    if rng.random() < 0.3:
        asking.wider(part, rng, body, head)
    kind = rng.random()
    if kind < 0.4:
        for _ in range(rng.choice((1, 1, 2, 5))):
            body = _changed(rng, copy.deepcopy(body))
    key = keys[part.name][rng.choice(list(part.tiers))] if rng.random() < 0.95 else None
    request = asking.written(rng, part, body, tail, head, key)
    if 0.38 < kind < 0.65:
        request.chunks = [_bytes(rng, b"".join(request.chunks))]
    for _ in range(rng.choice((0, 1, 1, 2))):
        rng.choice((_headers, _transfer, _place, _credentials, _encoding))(rng, part, request)
    if rng.random() < 0.5:  # a length that fits, so that more gets past the first check
        size = str(sum(map(len, request.chunks))).encode()
        request.headers = [h for h in request.headers if h[0] != b"content-length"] + [(b"content-length", size)]
    return part, request


def value(rng: random.Random) -> Any:
    """Something that does not belong there."""
    return rng.choice((
        None, True, "", "0.5", [], {}, [[]], [None], 0, -1, 1e308, -1e308, 5e-324, 10**18, 2**63, 2**64, 10**400,
        -(10**30), float("nan"), float("inf"), "x" * 3000, "\ud800", "\x00", "é\u202e", {"b64": "AAAA"}, {"$rows": []},
        "$inputs", ["a"],
        [[0.5, [0.5]]], {"0": 0.5}, 0.1 + 0.2, "NaN", [10**400], {"shape": [2**62]}, [True, False, True], -0.0,
        rng.random(), rng.randrange(-5, 300), [rng.random()] * rng.randrange(8),
        [[rng.random()] * 3] * rng.randrange(200),
        "9" * 5000, {"__proto__": {"a": 1}}, {f"k{i}": i for i in range(50)}, [[[[[[0.5]]]]]],
    ))  # fmt: skip


def _changed(rng: random.Random, body: Any) -> Any:
    """The JSON with one of its parts replaced, removed, doubled or renamed."""
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for at, inner in list(items)[:12]:
            places.append((part, at))
            walk(inner)

    walk(body)
    if not places or rng.random() < 0.04:
        return value(rng)
    holder, at = rng.choice(places)
    kind = rng.randrange(7)
    if kind < 3:
        holder[at] = value(rng)
    elif kind == 3:
        del holder[at]
    elif kind == 4 and isinstance(holder, list):
        holder[at:at] = [copy.deepcopy(holder[at])] * rng.choice((1, 2, 50))
    elif kind == 4:
        holder[rng.choice(("id", "shape", "data", "inputs", "instances", "columns", at + "x", "é", ""))] = holder.pop(
            at
        )
    elif kind == 5:
        holder[at] = [holder[at]] if rng.random() < 0.7 else {"a": holder[at]}
    elif isinstance(holder, dict):
        holder[rng.choice(list(asking.FIELDS))] = value(rng)
    return body


def _bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes damaged, or replaced by others."""
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(13)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.choice((1, 1, 2, 30))) + data[at:]
    if kind == 2 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 3:
        return data[:at] + data[at + rng.randrange(40) :]
    if kind == 4:
        return data + data[at:]
    if kind == 5:
        return rng.randbytes(rng.choice((0, 1, 7, 300, 5000)))
    if kind == 6:
        opened = rng.choice(_DEEP) * rng.choice((10, 130, 1000, 1025, 20_000))
        return (opened + rng.choice(("", "0.5", "]" * 1000))).encode()
    if kind == 7:
        return rng.choice((b"\xef\xbb\xbf", b" " * 5000, b"\x00", b"\xff\xfe")) + data
    if kind == 8:
        return data.decode("latin-1").encode(rng.choice(("utf-16", "utf-32", "utf-8")))
    if kind == 9:
        text = rng.choice(
            (b"NaN", b"Infinity", b"1e999", b"-", b"01", b"1.", b".5", b"0x1", b"1" * 4000, b"1e-999", b"1E+2")
        )
        return data.replace(b"0.", text + b",0.", rng.choice((1, -1)))
    if kind == 10:
        return data.replace(b'"', rng.choice((b"'", b'\\"', b'""', b"\x01")), rng.randrange(1, 4))
    if kind == 11:
        return rng.choice(
            (gzip.compress(b"[" + b" " * 10**6, 9, mtime=0), zlib.compress(data), gzip.compress(data, mtime=0)[:-9])
        )
    return rng.choice((
        b"<xml/>", b"null", b"[]", b"{}", b"0", b'""', b"{" + data, b"a=b&c=d", b"--x\r\n\r\n", data + b"}",
        data + b"\n" + data,
        b'{"instances":' + b"[[0.5,0.5,0.5]," * 3000 + b"[]]", b'{"a":1,' * 3000,
    ))  # fmt: skip


def _headers(rng: random.Random, part: Part, request: Request) -> None:
    """Headers that are odd, double, or very many."""
    kind = rng.randrange(7)
    if kind == 0:
        more = [(rng.choice((b"content-type", b"accept")), rng.choice(_TYPES)) for _ in range(rng.randrange(1, 4))]
    elif kind == 1:
        more = [(b"inference-header-content-length", rng.choice(_LENGTHS)) for _ in range(rng.randrange(1, 3))]
    elif kind == 2:
        more = [
            (f"x-{i}".encode(), rng.randbytes(20).translate(None, b"\0\r\n")) for i in range(rng.choice((1, 30, 400)))
        ]
    elif kind == 3:
        more = [(b"host", rng.choice((b"", b":", b"[::1", b"\xff", b"a" * 5000, b"a:b:c"))) for _ in range(2)]
    elif kind == 4:
        more = rng.sample(asking.HEADERS, 6)
    elif kind == 5:
        more = [(b"expect", b"100-continue"), (b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"te", b"gzip")]
    else:
        more = [(b"transfer-encoding", b"chunked"), (b"content-length", rng.choice(_LENGTHS))]
    request.headers = [*request.headers, *more] if rng.random() < 0.6 else [*more, *request.headers]


def _transfer(rng: random.Random, part: Part, request: Request) -> None:
    """A body in odd pieces, of another length than stated, or that ends early."""
    data, kind = b"".join(request.chunks), rng.randrange(4)
    if kind == 0:
        size = rng.choice((1, 3, 100))
        request.chunks = [data[i : i + size] for i in range(0, min(len(data), 300 * size), size)] or [b""]
    elif kind == 1:
        request.chunks, request.gone = [data[: rng.randrange(len(data) + 1)]], True
    elif kind == 2:
        request.chunks = [b"", *request.chunks, b"", b""]
    else:
        request.headers = [h for h in request.headers if h[0] != b"content-length"]
        request.headers.append((b"content-length", rng.choice(_LENGTHS)))
        if rng.random() < 0.2:
            request.chunks = [data, b" " * 2**17, b" " * 2**17, b" "]


def _place(rng: random.Random, part: Part, request: Request) -> None:
    """Another route, method, query or address."""
    asking.elsewhere(rng, part, request)
    kind = rng.randrange(6)
    if kind == 0:
        request.path = rng.choice(
            ("*", "\ufffd" * 9, "/" * 9000, "/%2e%2e/", "http://other" + part.route, "\x00", "/a b\r\nc: d")
        )
    elif kind == 1:
        request.query = rng.choice((b"%" * 4000, b"\xff\xfe=1", b"&" * 9000, b"a[]=1&a[]=2", b"%00%0d%0a"))
    elif kind == 2:
        request.path = rng.choice(("/-/admit", "/-/mirror"))
        request.headers = [
            *request.headers,
            (b"x-original-uri", rng.choice((*_URIS, part.route.encode(), b"/v2/models/m/infer"))),
        ]
    elif kind == 3:
        request.client = rng.choice(_CLIENTS)
    elif kind == 4:
        request.method = rng.choice(("", "post", "M" * 3000, "GET /", "\xe9", *asking.VERBS))


def _credentials(rng: random.Random, part: Part, request: Request) -> None:
    """Credentials that are none, or too many."""
    kept = [h for h in request.headers if h[0] not in (b"authorization", b"x-api-key")]
    mine = [h for h in request.headers if h not in kept]
    many = [
        (rng.choice((b"authorization", b"x-api-key", b"x-principal")), rng.choice(_CREDENTIALS))
        for _ in range(rng.choice((1, 1, 2, 300)))
    ]
    request.headers = kept + rng.choice((many, many + mine, mine + mine, []))


def _encoding(rng: random.Random, part: Part, request: Request) -> None:
    """Content-Encoding that is a lie, or a bomb."""
    data, form = b"".join(request.chunks), rng.choice(_ENCODINGS)
    request.headers = [*request.headers, *[(b"content-encoding", form)] * rng.choice((1, 1, 2))]
    request.chunks = [rng.choice((
        data, gzip.compress(data, 1, mtime=0), zlib.compress(data), zlib.compress(data)[2:-4],
        gzip.compress(data, mtime=0) * 2,
        gzip.compress(data, mtime=0) + b"x", gzip.compress(gzip.compress(data, mtime=0), mtime=0), _bomb(), b"\x1f\x8b",
    ))]  # fmt: skip


@cache
def _bomb() -> bytes:
    return gzip.compress(b"[" * 30_000_000, 9, mtime=0)
