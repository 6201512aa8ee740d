"""What the tables share: one thread, agreement on uniform points, and rows of markdown."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SEEDS = (0, 1, 2, 3, 4)
POINTS = 20_000
Call = Callable[[Any], Any]


def one_thread() -> None:
    """Start again with one thread per library: they read these when they are loaded."""
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if not wanted.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def uniform(box: Any, seed: int) -> Any:
    """Points to judge a copy on; no attack sees this generator."""
    return box.sample(POINTS, np.random.default_rng([seed, 20_000]))


def meter(call: Call, signal: str, outputs: int, box: Any, budget: int, defences: Sequence[Any] = ()) -> Any:
    """What an attack meets: a target behind the defences, counted."""
    import understudy as us
    from understudy.wrappers import Defended, Metered

    target = us.target(call, signal, outputs, box)
    exposure = target.exposure
    for defence in defences:
        exposure = defence.reveals(exposure)
    return Metered(Defended(target, tuple(defences), "thief", exposure) if defences else target, budget)


def last(attack: Any, target: Any, seed: int, pool: Any = None) -> Any:
    """The last copy of a run. `pool`: rows of the attacker's, none by default."""
    from understudy.endpoint import ArrayPool

    rows = np.zeros((0, *target.space.shape)) if pool is None else pool
    *_, found = attack.run(target, ArrayPool(rows), np.random.default_rng(seed))
    return found


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def heading(*cells: str) -> str:
    return f"{row(*cells)}\n{'|---' * len(cells)}|"


def percent(values: Sequence[float]) -> str:
    """Median and worst of several runs."""
    return f"{100 * statistics.median(values):.3f} % (worst {100 * min(values):.3f})"


def verdict(met: bool) -> str:
    return "met" if met else "**missed**"
