"""The bare pass-through: raw ASGI and aiohttp, nothing looked at. What a proxy in Python costs before it guards."""

from __future__ import annotations

import os
from typing import Any

import aiohttp

_UPSTREAM = os.environ["UPSTREAM"]
_session: aiohttp.ClientSession | None = None


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """One request to the upstream and back, as it is."""
    global _session
    if scope["type"] != "http":
        return
    if _session is None:
        connector = aiohttp.TCPConnector(limit=256, keepalive_timeout=75)
        _session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    head = {"content-type": "application/json"}
    async with _session.post(_UPSTREAM + scope["path"], data=b"".join(parts), headers=head) as answer:
        body = await answer.read()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
