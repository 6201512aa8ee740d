"""Allowances that several processes share on one machine, whoever is killed, and a million of them."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from understudy.gateway.ledger import MappedLedger
from understudy.guard import Allowance

HAMMER = Path(__file__).with_name("hammer.py")
ANY = Allowance()
Names = list[tuple[str, str, Allowance]]


def _forked(ledger: MappedLedger, names: Names, admitted: Any) -> None:
    async def main() -> int:
        return sum([(await ledger.admit(names, 1)).admitted for _ in range(20_000)])

    with admitted.get_lock():
        pass
    mine = asyncio.run(main())
    with admitted.get_lock():
        admitted.value += mine


def test_workers_forked_from_one_process_exclude_each_other(tmp_path: Path) -> None:
    """A lock taken before a fork would be shared with the child, and keep nobody out."""
    ledger, context = MappedLedger(tmp_path / "l"), multiprocessing.get_context("fork")
    admitted = context.Value("q", 0)
    names: Names = [("p:x", "you", ANY), ("g", "all", Allowance(None, 30_000))]
    workers = [context.Process(target=_forked, args=(ledger, names, admitted)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert admitted.value == 30_000
    assert ledger.usage("p:x").day_used == 30_000
    asyncio.run(ledger.close())


@pytest.mark.parametrize(
    ("cap", "keys", "kills"),
    [
        (60_000, 3, 0),
        (150_000, 20, 20),
        (100_000, 20_000, 20),
        pytest.param(1_500_000, 50_000, 1_500, marks=pytest.mark.slow),
    ],
)
def test_four_processes_are_exact_whoever_is_killed(tmp_path: Path, cap: int, keys: int, kills: int) -> None:
    """Never over; what is charged and was never answered are requests of the killed, one each."""
    arguments = [str(a) for a in (HAMMER, tmp_path, cap, keys, kills, 7)]
    done = subprocess.run([sys.executable, *arguments], timeout=400, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed = int(done.stdout)
    assert killed >= min(kills, 20), "everything was spent too soon: raise the cap"
    answered = Counter[str]()
    for notes in tmp_path.glob("notes*"):
        answered.update(notes.read_text().split())
    ledger = MappedLedger(tmp_path / "l")
    charged, total = dict(ledger.entries()), sum(answered.values())
    asyncio.run(ledger.close())
    assert charged["g"].day_used == cap
    assert cap - killed <= total <= cap, f"{total - cap:+,} rows"
    assert cap <= charged["o:acme"].day_used + killed
    lost = [charged[key].day_used - n for key, n in answered.items()]
    assert min(lost) >= 0, "an answered request is never forgotten"
    assert sum(lost) <= killed


@pytest.mark.slow
def test_a_million_principals(tmp_path: Path) -> None:
    """At most 128 bytes each, everything found again, and the slowest admission (a growing file) within seconds."""

    async def main() -> float:
        ledger, slowest = MappedLedger(tmp_path / "l"), 0.0
        for i in range(1_000_000):
            began = time.perf_counter()
            assert (
                await ledger.admit([(f"p:customer-{i:07d}", "you", Allowance(60, 100)), ("g", "all", ANY)], 1)
            ).admitted
            slowest = max(slowest, time.perf_counter() - began)
        await ledger.close()
        return slowest

    assert asyncio.run(main()) < 5
    ledger = MappedLedger(tmp_path / "l")
    keys, size = ledger.size()
    assert keys == 1_000_001
    assert size / keys <= 128
    assert ledger.usage("g").day_used == 1_000_000
    assert all(ledger.usage(f"p:customer-{i:07d}").day_used == 1 for i in range(0, 1_000_000, 997))
    asyncio.run(ledger.close())
