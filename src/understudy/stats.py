"""Intervals and resampling: the statistics behind every figure. Numpy only; randomness is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from understudy.types import Bools, Estimate, Floats

Z95 = 1.959963984540054
_STUDENT = {2: 12.706204736432095, 3: 4.302652729911275}  # 97.5 % quantile of Student's t for n pairs


def wilson(hits: int, n: int, z: float = Z95) -> Estimate:
    """Wilson score interval of a proportion (Wilson 1927, JASA 22:209)."""
    if n <= 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    p = hits / n
    centre, scale = p + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if hits == 0 else (centre - half) / scale
    high = 1.0 if hits == n else (centre + half) / scale
    return Estimate(p, low, high, n)


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson 1934, Biometrika 26:404); (0, 1) of nothing."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _solve(lambda p: 1 - _binomial(hits - 1, n, p) - tail)
    high = 1.0 if hits == n else _solve(lambda p: tail - _binomial(hits, n, p))
    return low, high


def _binomial(k: int, n: int, p: float) -> float:
    """Probability of at most `k` hits of `n`."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def _solve(rising: Callable[[float], float]) -> float:
    """Where a function that rises over [0, 1] passes zero."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def mean_interval(values: Floats, z: float = Z95) -> Estimate:
    """Normal interval of a mean; agreement (0 or 1) gets Wilson's, which stays honest at 0 and 1."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, -math.inf, math.inf, 0)
    if np.isin(values, (0.0, 1.0)).all():
        return wilson(int(values.sum()), n, z)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Estimate(mean, mean - z * error, mean + z * error, n)


def curve_interval(
    values: Floats, rng: np.random.Generator, resamples: int = 1000, level: float = 0.95
) -> tuple[Floats, Floats, Floats]:
    """Mean and interval of curves over seeds and test points, by hierarchical bootstrap.

    `values` has shape (seeds, points on the curve, test points): seeds are resampled, and the test points (shared by
    all seeds and all points on the curve) are resampled once per replicate. Where all values are 0 or 1 the interval
    is widened to Wilson's on the number of test points, since resampling sees no spread at 0 and 1.
    Returns (mean, low, high), each of shape (points on the curve,).
    """
    seeds, points, tests = values.shape
    mean = values.mean((0, 2))
    by_test = rng.multinomial(tests, np.full(tests, 1 / tests), resamples) / tests
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    per_seed = values.reshape(seeds * points, tests) @ by_test.T
    draws = np.einsum("rs,spr->pr", by_seed, per_seed.reshape(seeds, points, resamples))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(draws, [tail, 100 - tail], axis=1)
    if np.isin(values, (0.0, 1.0)).all():
        for i, m in enumerate(mean):
            w = wilson_of_mean(float(m), tests)
            low[i], high[i] = max(0.0, min(low[i], w.low)), min(1.0, max(high[i], w.high))
    return mean, np.minimum(low, mean), np.maximum(high, mean)


def wilson_of_mean(p: float, n: int, z: float = Z95) -> Estimate:
    """Wilson's interval for a proportion that is an average over seeds, so not a whole number of hits."""
    centre, scale = p + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(max(p * (1 - p), 0.0) / n + z * z / (4 * n * n))
    return Estimate(p, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale), n)


def first_crossing(queries: Sequence[int], reached: Bools) -> int | None:
    """The first query count at which a curve has reached its threshold; None = never (censored)."""
    hits = np.flatnonzero(reached)
    return int(queries[hits[0]]) if len(hits) else None


def paired_interval(
    a: Sequence[float], b: Sequence[float], rng: np.random.Generator, resamples: int = 10000
) -> Estimate:
    """Mean of a - b over pairs with a bootstrap-t interval (Efron & Tibshirani 1993, section 12.5).

    Fewer than four pairs are too few to resample: they get Student's interval, and one pair an infinite one.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    n = len(difference)
    if n < 2:
        return Estimate(float(difference.mean()) if n else math.nan, -math.inf, math.inf, n)
    mean, error = float(difference.mean()), float(difference.std(ddof=1)) / math.sqrt(n)
    if n in _STUDENT:
        return Estimate(mean, mean - _STUDENT[n] * error, mean + _STUDENT[n] * error, n)
    draws = difference[rng.integers(0, n, (resamples, n))]
    spread = draws.std(1, ddof=1) / math.sqrt(n)
    usable = spread > 0
    t = (draws.mean(1)[usable] - mean) / spread[usable]
    low, high = np.percentile(t, [2.5, 97.5]) if len(t) else (0.0, 0.0)
    return Estimate(mean, mean - float(high) * error, mean - float(low) * error, n)
