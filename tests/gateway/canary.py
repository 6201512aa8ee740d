"""Canaries in generated upstream answers, and a search for them in the raw bytes that leave the gateway.

    python tests/gateway/canary.py --cases 1000000 --seed 1 --start 0

runs cases `start` to `start + cases` of a seed and prints progress; a case is made from its seed and number alone, so a
run that was ended goes on with `--start`. The exit code is 1 where anything was found. `make test` runs 5,000 cases of
seed 0, and shows for each of a list of deliberate faults that the same search finds it.

Each case takes one of nine endpoints (six protocols; JSON and binary tensors; classes, scores, logits, regression
values), one of its tiers, a request that asks for more in some way, and an answer of the upstream's with numbers, words
and bytes in it that nobody is granted (`planting.py`). `searching.py` says what counts as found. The gateway is whole:
keys, limits, record before release; it runs in this process. `sockets.py` does the same over real connections.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import asking
from house import BATCH, PARTS, House, Part, Request, in_houses
from planting import Planted, plant
from searching import findings


class Case(NamedTuple):
    """One case: whom it is asked of, as which tier, what, how many rows, and what the upstream will say."""

    part: Part
    tier: str
    asked: dict[str, Any]  # the request's JSON, empty where it does not go to the inference route
    request: Request
    rows: int
    planted: Planted


def case(seed: int, number: int, keys: dict[str, dict[str, str]]) -> Case:
    """Case `number` of a seed."""
    rng = random.Random(f"{seed}:{number}")
    part = rng.choice(PARTS)
    tier, n = rng.choice(list(part.tiers)), rng.randrange(1, 4)
    body, tail, head = asking.valid(part, rng, n)
    if part.protocol == "open-inference" and rng.random() < 0.6:
        body["id"] = rng.choice(asking.IDS)
    if rng.random() < (0.3 if part.asks == "refuse" else 0.7):
        asking.wider(part, rng, body, head)
    key = None if tier == "label" and rng.random() < 0.3 else keys[part.name][tier]
    request = asking.written(rng, part, body, tail, head, key)
    planted = plant(part, rng, n)
    if rng.random() < 0.12:
        request = asking.elsewhere(rng, part, request)
        if (request.method, request.path) != ("POST", part.route):
            body = {}
    return Case(part, tier, body, request, n, planted)


@dataclass
class Run:
    """What came of some cases. `found`: (case number, what) each."""

    cases: int = 0
    seconds: float = 0.0
    canaries: int = 0
    asked: int = 0  # cases in which the upstream was reached
    statuses: Counter[int] = field(default_factory=Counter)
    found: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        said = ", ".join(f"{count:,} x {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"{self.cases:,} cases, {self.canaries:,} canaries, upstream reached in {self.asked:,}; "
            f"{len(self.found)} found; {said}; {self.cases / max(self.seconds, 1e-9):,.0f} cases/s"
        )


_CASE: ContextVar[Planted] = ContextVar("case")


async def run(
    seed: int, start: int, cases: int, told: Callable[[int, Run], None] | None = None, until_found: bool = False
) -> Run:
    """Run cases `start` to `start + cases`, or until something is found. What the gateway raises is raised here."""
    made, began = Run(), time.monotonic()

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        planted = _CASE.get()
        made.asked += 1
        await send({"type": "http.response.start", "status": planted.status, "headers": planted.headers})
        await send({"type": "http.response.body", "body": planted.body})

    async def one(house: House, number: int) -> None:
        it = case(seed, number, house.keys)
        _CASE.set(it.planted)
        wire = await house.ask(it.part.name, it.request)
        assert wire is not None
        made.statuses[int(wire[9:12])] += 1
        made.canaries += len(it.planted.numbers) + len(it.planted.words) + len(it.planted.blobs)
        found = findings(it.part, it.tier, it.asked, it.planted, it.rows, wire)
        made.found += [(number, f"{it.part.name}, tier {it.tier}: {what}") for what in found]

    def after(next_: int) -> bool:
        made.cases, made.seconds = next_ - start, time.monotonic() - began
        if told and next_ % 10_000 < BATCH:
            told(next_, made)
        return bool(until_found and made.found)

    await in_houses(upstream, one, start, cases, after)
    return made


def quietly() -> None:
    """Keep the gateway's log of hundreds of thousands of refusals off the terminal."""
    import structlog

    from understudy.gateway.metrics import log

    log()  # configures; what it logs to is made at its first line
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("understudy").setLevel(logging.CRITICAL)


def command_line(about: str, run: Any) -> None:
    """`--cases`, `--seed`, `--start` for an attack's `run(seed, start, cases, told)`; exit code 1 where it finds."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="the first case's number")
    options = parser.parse_args()
    quietly()
    shown = 0

    def told(next_: int, so_far: Any) -> None:
        nonlocal shown
        for number, what in so_far.found[shown:][:20]:
            print(f"FOUND in case {number} of seed {options.seed}: {what}", flush=True)
        shown = len(so_far.found)
        print(f"{so_far}; go on with --start {next_}", flush=True)

    made = asyncio.run(run(options.seed, options.start, options.cases, told))
    told(options.start + options.cases, made)
    sys.stdout.flush()
    os._exit(1 if made.found else 0)


if __name__ == "__main__":
    command_line(__doc__ or "", run)
