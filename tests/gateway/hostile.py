"""Malformed and hostile requests, generated: no crash, no hang, no 5xx of ours while upstream and record are healthy.

    python tests/gateway/hostile.py --cases 1000000 --seed 1 --start 0

runs cases `start` to `start + cases` of a seed and prints progress; a case is made from its seed and number alone, so a
run that was ended goes on with `--start`. The exit code is 1 where anything was found: an exception, a status of 500 or
more, no answer within ten seconds, an answer that is no HTTP, or a request that reached the upstream and is not one
that our own protocol allows (strict JSON, the declared shape, inside the space). `make test` runs 5,000 cases of seed
0. The nine gateways are those of `house.py`, in this process; `sockets.py` does the like over real connections, where
servers meet what no ASGI server lets through.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from canary import command_line
from damaging import case
from house import BATCH, PARTS, House, Part, in_houses

_PATIENCE = 10.0
_PARTS = {part.route: part for part in PARTS}


# the upstream


class Unfit(Exception):
    """The upstream was asked what it should never be asked."""


def answer(part: Part, body: bytes, length: str | None) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """A server's answer to a request, which it reads strictly. Raises Unfit."""

    def never(text: str) -> Any:
        raise Unfit(f"{part.name}: {text} in the upstream's request")

    try:
        size = len(body) if length is None else int(length)
        asked, tail = json.loads(body[:size], parse_constant=never), body[size:]
        if part.protocol == "open-inference":
            (tensor,) = asked["inputs"]
            n, width = tensor["shape"]
            flat = (
                list(struct.unpack(f"<{n * width}{'f' if part.options.get('datatype') == 'FP32' else 'd'}", tail))
                if tail
                else tensor["data"]
            )
            rows = [flat[i * width : (i + 1) * width] for i in range(n)]
            fits = set(asked) == {"inputs", "outputs"} and len(flat) == n * width
        elif part.protocol == "mlflow":
            rows, fits = asked["dataframe_split"]["data"], set(asked) == {"dataframe_split", "params"}
        elif part.protocol == "sagemaker":
            rows, fits = [row["features"] for row in asked["instances"]], set(asked) == {"instances"}
        else:
            (name,) = set(asked) - {"signature_name"}
            rows, fits = asked[name], True
        fits &= all(
            len(row) == part.width and all(type(v) in (int, float) and 0 <= v <= 1 for v in row) for row in rows
        )
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise Unfit(f"{part.name}: {type(error).__name__} in {body[:200]!r}") from None
    if not fits or not 1 <= len(rows) <= 100:
        raise Unfit(f"{part.name}: {body[:200]!r}")
    return _answer(part.name, len(rows))


@cache
def _answer(name: str, n: int) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    from planting import Planted, _legitimate, _truth

    part, rng = next(p for p in PARTS if p.name == name), random.Random(0)
    made = Planted(200, [(b"content-type", b"application/json")], b"", _truth(part, rng, n))
    text, tail = _legitimate(part, made, rng, n)
    if tail is None:
        return text.encode(), made.headers
    return text.encode() + tail, [*made.headers, (b"inference-header-content-length", str(len(text.encode())).encode())]


@dataclass
class Run:
    """What came of some cases. `found`: (case number, what) each."""

    cases: int = 0
    seconds: float = 0.0
    answered: int = 0  # cases in which the upstream was reached
    longest: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    found: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        said = ", ".join(f"{count:,} x {status or 'gone'}" for status, count in sorted(self.statuses.items()))
        return (
            f"{self.cases:,} cases, upstream reached in {self.answered:,}; {len(self.found)} found; {said}; "
            f"longest {self.longest:.1f} s; {self.cases / max(self.seconds, 1e-9):,.0f} cases/s"
        )


async def run(seed: int, start: int, cases: int, told: Callable[[int, Run], None] | None = None) -> Run:
    """Run cases `start` to `start + cases`."""
    made, began = Run(), time.monotonic()

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        message, headers = await receive(), dict(scope["headers"])
        length = headers.get(b"inference-header-content-length")
        made.answered += 1
        body, head = answer(_PARTS[scope["path"]], message["body"], length and length.decode())
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    async def one(house: House, number: int) -> None:
        part, request = case(seed, number, house.keys)
        request.slow = number % 10_000 == 7
        before = time.monotonic()
        try:
            wire = await asyncio.wait_for(house.ask(part.name, request), _PATIENCE)
        except Exception as error:
            made.found.append((number, f"{part.name}: {type(error).__name__}: {error}"))
            return
        made.longest = max(made.longest, time.monotonic() - before)
        status = int(wire[9:12]) if wire else 0
        made.statuses[status] += 1
        if status >= 500:
            made.found.append((number, f"{part.name}: {wire[:200] if wire else b''!r}"))

    def after(next_: int) -> bool:
        made.cases, made.seconds = next_ - start, time.monotonic() - began
        if told and next_ % 10_000 < BATCH:
            told(next_, made)
        return False

    await in_houses(upstream, one, start, cases, after)
    return made


if __name__ == "__main__":
    command_line(__doc__ or "", run)
