"""What can be said of units that no query switched: they leave no trace, but how rarely others were seen tells."""

from __future__ import annotations

from typing import Any

from numpy.random import Generator

from understudy.attacks._star import Star
from understudy.types import Bools

_UNIFORM = 2000  # points on which units are counted that uniform inputs switch: the copy's, no queries


def unseen(attack: Star, units: int | None, rng: Generator) -> dict[str, Any]:
    """Which tests were made, how many units each kind of input switches, and about how many are probably unseen.

    `units`: how many there are, if that is known.
    """
    ends, found, quiet = attack.ends, attack.units, attack.quiet()
    changed = attack.changed()
    silent, uniform = attack.unexplained(), rng.uniform(ends.low, ends.high, (_UNIFORM, len(ends.low)))
    by_rows, by_uniform = _switched(found.on(ends.u[: ends.own])), _switched(found.on(uniform))
    once, more = int((changed.sum(0) == 1).sum()), chao(changed)
    said = (
        "units that no query switched may be missing, and where they switch the copy is wrong: "
        f"the last {quiet} of {len(ends)} tests showed no new one, and of {len(found)} found {once} were switched by "
        f"one test alone, which foretells {more:.0f} more at least that such tests can switch; uniform inputs switch "
        f"{by_uniform} of those found and cannot show the others"
    )
    if not ends.own:
        said += "; no rows of real data were there to test on"
    return {
        "tests": {"own_rows": ends.own, "corners": len(ends) - ends.own, "since_a_new_unit": quiet},
        "tests_unexplained": {"own_rows": int(silent[: ends.own].sum()), "corners": int(silent[ends.own :].sum())},
        "units_switched": {"by_own_rows": by_rows, "by_uniform_inputs": by_uniform, "by_one_test_alone": once},
        "units_probably_unseen": round(more, 1),
        "units_never_reached": None if units is None else units - len(found),
        "possibly_missed": said,
    }


def _switched(on: Bools) -> int:
    """How many units (n, m) are on in some rows and off in others."""
    return int((on.any(0) & ~on.all(0)).sum())


def chao(seen: Bools) -> float:
    """How many species no sample (n, m) showed, at least (Chao 1984, Scand. J. Statist. 11:265; corrected for bias)."""
    times = seen.sum(0)
    once, twice, n = int((times == 1).sum()), int((times == 2).sum()), max(len(seen), 1)
    return (n - 1) / n * max(once * (once - 1), 0) / (2 * (twice + 1))
