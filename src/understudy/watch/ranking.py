"""From wealth to a rank among benign accounts: the only thing that may raise an alarm.

One benign *account* is one unit of calibration, so nothing is assumed about the queries inside an account: repeats,
sorted batches, sessions and drift are all in the ranked statistic (Vovk, Gammerman and Shafer 2005, with accounts as
examples).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.types import Floats

FIRST_AGE = 16
QUANTILE = 0.9
LEAST_SCALE = (0.25, 1.0)  # nats, in the first age and later: one chance event must not be a record for long


def ages(last: int) -> list[int]:
    """16, 32, 64, ... up to `last`, which is among them."""
    found = [FIRST_AGE]
    while found[-1] < last:
        found.append(found[-1] * 2)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Normaliser:
    """What the largest log wealth so far is among accounts of an age: `high` (s, k) its 90 % quantile, `excess` (s, k)
    the mean above it. It decides about power, never about validity.
    """

    high: Floats
    excess: Floats

    @classmethod
    def of(cls, peaks: Floats) -> Normaliser:
        """From `peaks` (accounts, s, k): NaN where an account is younger than that age; some account reaches each."""
        high, excess = np.zeros(peaks.shape[1:]), np.zeros(peaks.shape[1:])
        for k in range(peaks.shape[2]):
            old = peaks[~np.isnan(peaks[:, 0, k]), :, k]
            high[:, k] = np.quantile(old, QUANTILE, axis=0)
            above = np.maximum(old - high[:, k], 0)
            excess[:, k] = above.sum(0) / np.maximum((above > 0).sum(0), 1)
        early, later = LEAST_SCALE
        return cls(high, np.maximum(excess, np.where(np.arange(peaks.shape[2]) == 0, early, later)))

    def each(self, peak: Floats, age: int) -> Floats:
        """(s,) normalised peaks of an account of this age."""
        found: Floats = self.z(peak[None], age - 1)[0]
        return found

    def z(self, peak: Floats, start: int) -> Floats:
        """(n, s) normalised peaks of queries start, start + 1, ... of an account (counted from 0)."""
        return self.at(peak, np.arange(start + 1, start + 1 + len(peak)))

    def at(self, peak: Floats, age: NDArray[np.int64]) -> Floats:
        """(n, s) normalised peaks of accounts of these ages (n,).

        To nine decimals: where nothing was bet accounts are equal, and rounding must not rank them.
        """
        k = np.ceil(np.log2(np.maximum(age, FIRST_AGE) / FIRST_AGE)).astype(int)
        k = np.minimum(k, self.high.shape[1] - 1)
        found: Floats = np.round((peak - self.high[:, k].T) / self.excess[:, k].T, 9)
        return found


def needed(level: float, confidence: float | None = None) -> int:
    """Ranked accounts without which no threshold holds at `level`: 99 for 1 %, 999 for 0.1 %.

    With `confidence`, for a bound that holds for this very calibration with that probability: 299 for 1 % at 95 %.
    """
    if confidence is None:
        return math.ceil(1 / level - 1e-9) - 1
    return math.ceil(math.log(1 - confidence) / math.log1p(-level) - 1e-9)


def rank_at(accounts: int, level: float, confidence: float | None = None) -> int | None:
    """Which of the sorted statistics (1 = smallest) is the threshold at `level`; None where there are too few.

    With `confidence`: the smallest k with P(Bin(m, level) <= m - k) <= 1 - confidence.
    """
    if accounts < needed(level, confidence):
        return None
    if confidence is None:
        return math.ceil((accounts + 1) * (1 - level) - 1e-9)
    total, term = 0.0, accounts * math.log1p(-level)  # log of P(Bin = 0)
    over = -1
    for j in range(accounts + 1):
        total += math.exp(term)
        if total > 1 - confidence:
            break
        over = j
        term += math.log((accounts - j) / (j + 1)) + math.log(level) - math.log1p(-level) if j < accounts else 0.0
    return accounts - over


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Sorted statistics of ranked accounts per epoch of age. An epoch ends at `ends[e]` queries and may spend
    `weights[e]` of the level.
    """

    ends: tuple[int, ...]
    weights: tuple[float, ...]
    statistics: tuple[Floats, ...]

    @classmethod
    def of(cls, peaks: list[Floats], horizon: int) -> Ranking:
        """From the statistic of each account per epoch it lived through: (epochs lived,) each."""
        epochs = max((len(p) for p in peaks), default=0)
        halves = [0.5 ** (e + 1) for e in range(epochs)]
        if halves:
            halves[-1] *= 2  # nothing is left unspent
        sorted_ = tuple(np.sort([p[e] for p in peaks if len(p) > e]) for e in range(epochs))
        return cls(tuple(horizon * 2**e for e in range(epochs)), tuple(halves), sorted_)

    @property
    def accounts(self) -> int:
        """Ranked accounts in the first epoch."""
        return len(self.statistics[0]) if self.statistics else 0

    def epoch(self, n: int) -> int | None:
        """The epoch that the account's n-th query (from 1) falls in; None beyond the last."""
        return next((e for e, end in enumerate(self.ends) if n <= end), None)

    def threshold(self, e: int, level: float, confidence: float | None = None) -> float | None:
        """What the statistic must exceed in epoch `e`; None where there are too few accounts."""
        k = rank_at(len(self.statistics[e]), level * self.weights[e], confidence)
        return None if k is None else float(self.statistics[e][k - 1])

    def p_value(self, peaks: Floats) -> float:
        """Of an account with these largest statistics, one per epoch it has reached (-inf where none yet)."""
        found = 1.0
        for peak, weight, values in zip(peaks, self.weights, self.statistics, strict=False):
            if peak > -np.inf:
                above = len(values) - int(values.searchsorted(peak, "left"))
                found = min(found, (1 + above) / (len(values) + 1) / weight)
        return found


def spans(n: int, start: int, horizon: int, epochs: int) -> list[tuple[int, slice]]:
    """(epoch, rows) of `n` queries from the account's `start`-th (from 0) on; rows beyond the last are in none."""
    found, low = [], 0
    for e in range(epochs):
        high = horizon * 2**e
        rows = slice(max(low - start, 0), min(max(high - start, 0), n))
        if rows.start < rows.stop:
            found.append((e, rows))
        low = high
    return found
