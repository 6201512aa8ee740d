"""Memory of one worker over many requests of many principals: the gateway in this process, no sockets, all recorded."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

from serving.stacks import SIZES, WORK, manifest, request

_AT_ONCE, _LOOKS = 64, 20
_ROUTE = "/v2/models/m1/infer"


def grow(requests: int, principals: int) -> int:
    """Ask `requests` times in the names of `principals` in turn, looking at memory on the way; prints what is found."""
    folder = WORK.with_name("memory")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        seen, kept = asyncio.run(_ask(folder, requests, principals))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{requests:,} requests of {principals:,} principals, one worker, record durable, inputs whole\n")
    print("| requests | principals so far | anonymous MB | file-backed MB | seconds |\n|---|---|---|---|---|")
    for done, anonymous, file, seconds in seen:
        names = min(done, principals)
        print(f"| {done:,} | {names:,} | {anonymous / 2**20:.1f} | {file / 2**20:.1f} | {seconds:.0f} |")
    first, last = seen[0], seen[-1]
    full = next(look for look in seen if look[0] >= principals)
    print(f"\nAnonymous memory per principal, from {first[0]:,} requests to all principals seen: ", end="")
    print(f"{(full[1] - first[1]) / max(principals - first[0], 1):,.0f} bytes")
    print(f"From then on, over {last[0] - full[0]:,} requests more: {(last[1] - full[1]) / 2**20:+.1f} MB")
    print(f"The file of allowances: {kept / principals:,.0f} bytes per principal (mapped, shared by all workers)")
    return 0


async def _ask(folder: Path, requests: int, principals: int) -> tuple[list[tuple[int, int, int, float]], int]:
    from understudy.gateway.app import Gateway

    trusted = {"addresses": ["127.0.0.1/32"], "principal": "x-principal", "default_tier": "standard"}
    path = manifest(folder, "1 KB", 1, trusted=trusted)
    gateway = Gateway([path], app=_model)
    await gateway.open()
    body, head = request(SIZES["1 KB"]), [(b"host", b"here"), (b"content-type", b"application/json")]
    start, seen, done = time.monotonic(), [], 0
    every = max(requests // _LOOKS, 1)

    async def one(number: int) -> None:
        name = b"customer-%09d" % (number % principals)
        scope = {
            **{"type": "http", "method": "POST", "path": _ROUTE, "query_string": b"", "client": ("127.0.0.1", 9)},
            "headers": [*head, (b"x-principal", name)],
        }
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)

        await gateway(scope, receive, send)
        if status != 200:
            raise RuntimeError(f"request {number} was answered with {status}")

    async def line(first: int) -> None:
        nonlocal done
        for number in range(first, requests, _AT_ONCE):
            await one(number)
            done += 1
            if done % every == 0 or done == 10_000:
                seen.append((done, *_memory(), time.monotonic() - start))

    await asyncio.gather(*(line(first) for first in range(_AT_ONCE)))
    await gateway.close()
    return seen, (folder / "guard/m1/allowances.ledger").stat().st_size


async def _model(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": _ANSWER})


def _memory() -> tuple[int, int]:
    """Anonymous and file-backed resident bytes of this process."""
    status = Path("/proc/self/status").read_text()
    fields = dict(row.split(":", 1) for row in status.splitlines() if row.startswith("Rss"))
    return int(fields["RssAnon"].split()[0]) * 1024, int(fields["RssFile"].split()[0]) * 1024


_N = SIZES["1 KB"]
_TENSOR = {"name": "predict_proba", "shape": [1, _N], "datatype": "FP64", "data": [1 / _N] * _N}
_ANSWER = json.dumps({"model_name": "m", "outputs": [_TENSOR]}).encode()
