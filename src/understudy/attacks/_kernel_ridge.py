"""Kernel ridge regression, solved from its answers at its own training rows."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from understudy.protocols import Metered
from understudy.targets.kernel import KernelTarget, squared
from understudy.types import Array, Floats, Signal

_CHECKS = 20
_WIDTHS = 2.0 ** np.arange(-20, 11)  # gammas to begin with, over the inverse of the median squared distance
_NARROWING = 60  # golden sections around the best
_EXPLAINS = 1e-6  # share of the answers that may be left over


def kernel_ridge(target: Metered, inputs: Floats, truth: Array, rng: Generator) -> tuple[KernelTarget, float] | None:
    """The model and its largest error on fresh points, relative to the spread of the answers; None: it is none.

    Answers f at the training rows, and the rule (K + alpha) dual = truth, give K (truth - f) = alpha f: one unknown
    where the kernel is known. Of the Gaussian kernel gamma is a second one, found by how little that leaves over.
    Costs a query per training row, and twenty.
    """
    x = inputs.reshape(len(inputs), -1)
    if target.remaining < len(x) + _CHECKS:
        return None
    f = np.asarray(target.query(inputs)[Signal.VALUE], np.float64)
    if not f.any():
        return None
    left = np.asarray(truth, np.float64).reshape(len(x), -1) - f
    apart = squared(x, x)
    unit = float(np.median(apart[apart > 0])) if (apart > 0).any() else 1.0

    def misfit(log_gamma: float) -> tuple[float, float]:
        moved = np.exp(-np.exp(log_gamma) * apart) @ left
        alpha = float((moved * f).sum() / (f * f).sum())
        return float(np.linalg.norm(moved - alpha * f) / max(float(np.linalg.norm(moved)), 1e-300)), alpha

    starts = np.log(_WIDTHS / unit)
    best = int(np.argmin([misfit(g)[0] for g in starts]))
    low, high = starts[max(best - 1, 0)], starts[min(best + 1, len(starts) - 1)]
    golden = (5**0.5 - 1) / 2
    for _ in range(_NARROWING):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if misfit(a)[0] < misfit(b)[0] else (a, high)
    log_gamma = (low + high) / 2
    share, alpha = misfit(log_gamma)
    if not (share <= _EXPLAINS and alpha > 0):
        return None
    copy = KernelTarget(x, left / alpha, float(np.exp(log_gamma)), target.space)
    fresh = target.space.sample(_CHECKS // 2, rng)
    a, b = inputs[rng.integers(len(inputs), size=(2, _CHECKS - _CHECKS // 2))]
    points = np.concatenate([fresh, a + 0.5 * (b - a)])
    wanted = np.asarray(target.query(points)[Signal.VALUE], np.float64)
    spread = max(float(f.std()), 1e-300)
    return copy, float(np.abs(copy.query(points)[Signal.VALUE] - wanted).max()) / spread
