"""Many accounts at once: which of them to report, with a bound on the share of false ones among these."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from understudy.types import Floats


def benjamini_hochberg(p_values: Floats, rate: float) -> NDArray[np.bool_]:
    """(n,) True for the accounts to report: false ones among them are a share of at most `rate` on average.

    Benjamini and Hochberg, JRSS B 57, 1995. It holds for ranks that share one calibration, which depend on each other
    positively (Bates, Candes, Lei, Romano and Sesia, Annals of Statistics 51, 2023). Not for parties that were picked
    because they look linked: for those use `e_benjamini_hochberg`.
    """
    order = np.argsort(p_values, kind="stable")
    passing = np.flatnonzero(p_values[order] <= rate * np.arange(1, len(order) + 1) / max(len(order), 1))
    found = np.zeros(len(order), np.bool_)
    if len(passing):
        found[order[: passing[-1] + 1]] = True
    return found


def e_value(p_values: Floats, level: float = 0.01) -> Floats:
    """(n,) 1 / level where p is at most `level`, else 0: expectation at most 1, however accounts depend."""
    return np.where(p_values <= level, 1 / level, 0.0)


def e_benjamini_hochberg(e_values: Floats, rate: float) -> NDArray[np.bool_]:
    """(n,) as `benjamini_hochberg` for e-values, under any dependence (Wang and Ramdas, JRSS B 84, 2022)."""
    with np.errstate(divide="ignore"):
        return benjamini_hochberg(1 / np.asarray(e_values, np.float64), rate)
