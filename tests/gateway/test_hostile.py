"""Whatever is sent, the gateway stands: no crash, no hang, and no 5xx of its own while upstream and record are well."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import hostile
import pytest
import sockets
from house import PARTS, keys, manifest

from running import start_guard
from understudy.gateway import app as gateway
from understudy.types import Box
from understudy.wire import kserve


@pytest.mark.parametrize("cases", [5_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_request_breaks_the_gateway(cases: int) -> None:
    made = asyncio.run(hostile.run(0, 0, cases))
    assert made.found == [], made.found[:10]
    assert made.answered > 0.1 * cases
    assert {200, 204, 400, 401, 403, 404, 405, 408, 413, 415} <= made.statuses.keys()


def broken(*_: Any) -> Any:
    raise KeyError("secret")


@pytest.mark.parametrize(
    ("where", "name", "change"),
    [
        (kserve.KServeV1, "parse", broken),
        (gateway, "margin", broken),
        (kserve.KServeV1, "error", broken),
        (hostile.House, "__doc__", None),
    ],
    ids=["a request's reader fails", "what goes on record fails", "a refusal fails", "nothing is changed"],
)
def test_a_fault_is_found(where: Any, name: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, name, change)
    assert bool(asyncio.run(hostile.run(0, 0, 600)).found) == (change is not None)


def test_what_is_passed_on_unchecked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream here reads strictly: inputs outside the space do not reach it unnoticed."""
    monkeypatch.setattr(Box, "check", lambda self, x: x)
    found = asyncio.run(hostile.run(0, 0, 600)).found
    assert found


def test_no_bytes_break_the_process(tmp_path: Path) -> None:
    """1,000 oddities over connections, twelve at a time; the process answers throughout and tells of no crash."""
    statuses = Counter[int]()

    def answer(path: str, headers: dict[str, str], body: bytes) -> bytes:
        part = next(part for part in PARTS if part.route == path)
        said, head = hostile.answer(part, body, headers.get("inference-header-content-length"))
        lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(said), *(b": ".join(h) for h in head)]
        return b"\r\n".join([*lines, b"", said])

    async def attack() -> None:
        async with sockets.RawUpstream(answer) as upstream:
            paths = [manifest(part, tmp_path, upstream.url) for part in PARTS]
            held = {part.name: keys(path, part) for part, path in zip(PARTS, paths, strict=True)}
            guard = await asyncio.to_thread(start_guard, tmp_path, *paths)
            try:
                turns = asyncio.Semaphore(12)

                async def one(number: int) -> None:
                    rng = random.Random(f"sockets:{number}")
                    if number % 2:
                        data = sockets.garbage(rng, rng.choice(list(held["oip"].values())))
                    else:
                        data = sockets.written(hostile.case(0, number, held)[1])
                    async with turns:
                        got = await sockets.exchange(guard.url, data, 1.0, rng.random() < 0.5, rng.choice((1, 1, 1, 9)))
                    assert not got or got.startswith(b"HTTP/1."), (number, got[:200])
                    for line in got.split(b"\r\n"):
                        if line.startswith(b"HTTP/1.1 "):
                            statuses[int(line[9:12])] += 1
                            assert int(line[9:12]) < 500, (number, data[:300], got[:300])

                for first in range(0, 1000, 100):
                    await asyncio.gather(*(one(i) for i in range(first, first + 100)))
                    health = b"GET /healthz HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n"
                    assert b'{"status":"up"}' in await sockets.exchange(guard.url, health, 10)
                assert upstream.asked > 50
            finally:
                code = await asyncio.to_thread(guard.stop)
            said = guard.log.read_text()
            assert code == 0
            assert "\nTraceback" not in said
            assert "the gateway failed" not in said
            assert "died" not in said

    asyncio.run(attack())
    assert {200, 400, 401, 404, 405} <= statuses.keys()
