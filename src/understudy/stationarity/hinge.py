"""The hinge loss: its slope is not settled at rows on the margin, so their shares are solved for with C."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from understudy.types import Floats

_WIDTHS = (1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 2e-2, 5e-2)  # how far from 1 a margin may be and count as on it
_PINNED = 1e-4  # an interval narrower than that, as a share, is one value
_EXPLAINED = 1e-8  # what of the weights may be left unexplained, as a share


class Margin(NamedTuple):
    """C with the interval in which every C gives this very model.

    `residual`: what of the weights no C explains, as a share; `on`: rows on the margin; `inside`: rows within it.
    """

    value: float
    low: float
    high: float
    residual: float
    on: int
    inside: int
    amplification: float  # |dC / d weights|


def solve(x: Floats, scores: Floats, sign: Floats, weights: Floats, bias: float) -> Margin | None:
    """C of a linear SVM from its weights (d,): w = C sum of y x within the margin + sum of a y x on it, 0 <= a <= C.

    `sign`: 1 or -1. Which rows are on the margin depends on how far training went: the narrowest width that explains
    the weights is taken; a wider one would only widen the interval. The bias is free (its row of the equations is 0)
    or a weight like the others (liblinear), whichever explains more. None where nothing explains the weights.
    """
    best: Margin | None = None
    margin = sign * scores
    for width in _WIDTHS:
        near, inside = np.abs(margin - 1) <= width, margin < 1 - width
        for constant in (0.0, bias):
            rows = sign[:, None] * np.hstack([x, np.ones((len(x), 1))])
            found = _bounded(rows[inside].sum(0), rows[near], np.append(weights, constant), int(inside.sum()))
            if found is not None and (best is None or found.residual < best.residual / 10):
                best = found
        if best is not None and best.residual <= _EXPLAINED:
            break
    return best


def _bounded(pull: Floats, near: Floats, wanted: Floats, inside: int) -> Margin | None:
    """C and its interval by linear programming, then by least squares over the shares that are at neither bound."""
    from scipy.optimize import linprog

    d, m, unit = len(wanted), len(near), float(np.abs(wanted).max())
    if not unit or (not inside and not m):
        return None
    columns = np.column_stack([pull / max(inside, 1), near.T])
    scale = np.maximum(np.abs(columns).max(1), 1e-300)  # equations of equal size
    columns, goal = columns / scale[:, None], wanted / scale
    size = float(np.abs(goal).max())
    # unknowns: C times the rows within, the shares on the margin, and the largest misfit
    tied = np.zeros((m, m + 2))
    tied[:, 0], tied[:, 1:-1] = -1 / max(inside, 1), np.eye(m)
    misfit = np.block([[columns, -np.ones((d, 1))], [-columns, -np.ones((d, 1))]])
    ceiling = np.concatenate([goal, -goal]) / size
    rows, limits = np.vstack([tied, misfit]), np.concatenate([np.zeros(m), ceiling])
    least = linprog(np.eye(m + 2)[-1], rows, limits, bounds=(0, None), method="highs")
    if least.x is None:
        return None
    share: Floats = least.x * size
    allowed = [(0, None)] * (m + 1) + [(0, 1.01 * share[-1] / size + 1e-9)]
    ends = list[float]()
    for way in (1.0, -1.0):
        end = linprog(way * np.eye(m + 2)[0], rows, limits, bounds=allowed, method="highs")
        ends.append(np.inf if end.x is None else float(end.x[0]) * size / max(inside, 1))
    low, high = ends
    at = share[0] / max(inside, 1)
    free = (share[1:-1] > 1e-6 * at) & (share[1:-1] < (1 - 1e-6) * at)
    full = share[1:-1] >= (1 - 1e-6) * at
    fitted = np.column_stack([columns[:, 0] * max(inside, 1) + columns[:, 1:][:, full].sum(1), columns[:, 1:][:, free]])
    solved = np.linalg.lstsq(fitted, goal, rcond=1e-12)[0]
    steep = float(np.linalg.norm(np.linalg.pinv(fitted, rcond=1e-12)[0] / scale))
    if high <= low * (1 + _PINNED) and abs(solved[0] / low - 1) <= 10 * _PINNED:
        left = float(np.linalg.norm(fitted @ solved - goal) / np.linalg.norm(goal))
        return Margin(float(solved[0]), float(solved[0]), float(solved[0]), left, m, inside, steep)
    middle = low if not np.isfinite(high) else float(np.sqrt(low * high)) if low > 0 else high / 2
    return Margin(middle, low, high, float(share[-1]) / size, m, inside, steep)
