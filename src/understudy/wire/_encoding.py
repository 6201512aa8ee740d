"""Compressed bodies: gzip and deflate in one layer, never more than a bound; everything else is refused."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from understudy.wire._codec import RequestError

_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def decoded(body: bytes, headers: Mapping[str, str], limit: int) -> bytes:
    """A request's body as it was before Content-Encoding; header names in lower case.

    At most `limit` bytes are ever made. Raises RequestError: 415 for another encoding or several, 413 for a body over
    the limit, 400 for a stream that is broken, cut short, or followed by anything (a second gzip member included).
    """
    name = headers.get("content-encoding", "").strip().lower()
    if name in ("", "identity"):
        if len(body) > limit:
            raise RequestError(413, f"the body is larger than {limit:,} bytes")
        return body
    window = _WINDOW.get(name)
    if window is None:
        raise RequestError(415, "this Content-Encoding is not supported; send gzip, deflate, or none")
    stream = zlib.decompressobj(window)
    try:
        whole = stream.decompress(body, limit + 1)
    except zlib.error:
        raise RequestError(400, f"the body is not {name}") from None
    if len(whole) > limit:
        raise RequestError(413, f"the body is larger than {limit:,} bytes once decompressed")
    if not stream.eof or stream.unused_data:
        raise RequestError(400, f"the body is not one whole {name} stream")
    return whole
