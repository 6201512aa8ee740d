"""Betting against "this query is like those of benign customers": from scores to wealth.

A score's conformal p-value is bet on by a mixture of four powers; wealth moves between betting and cash by fixed share
(Herbster and Warmuth, Machine Learning 32, 1998, with two states). The wealth is a test *statistic*: its size means
nothing until accounts are ranked by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.types import Array, Floats

SHARE = 0.01  # of the wealth that changes sides at every query
MARGIN = 0.01  # added to every p-value: accounts differ, so the smallest tell little
POWERS = (0.3, 0.5, 0.7, 0.9)
ENOUGH = 50  # calibration values of a class below which all classes are pooled


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What scores of benign queries are: sorted values of one score, all together and by answered class."""

    pooled: Floats
    by_label: Mapping[int, Floats]

    @classmethod
    def of(cls, values: Floats, labels: Array | None) -> Reference:
        """From the values of eligible queries; `labels` (n,) where the score is compared within a class."""
        split: dict[int, Floats] = {}
        if labels is not None:
            kinds, counts = np.unique(labels, return_counts=True)
            split = {int(k): np.sort(values[labels == k]) for k in kinds[counts >= ENOUGH]}
        return cls(np.sort(values), split)

    def p_values(self, scores: Floats, labels: Array, coin: Floats) -> Floats:
        """(n,) randomised conformal p-values. `coin` (n,) uniform on [0, 1)."""
        if not self.by_label:
            return _rank(self.pooled, scores, coin)
        found = np.empty(len(scores))
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            found[rows] = _rank(self.by_label.get(int(label), self.pooled), scores[rows], coin[rows])
        return found


def _rank(values: Floats, scores: Floats, coin: Floats) -> Floats:
    low, high = values.searchsorted(scores, "left"), values.searchsorted(scores, "right")
    found: Floats = (len(values) - high + coin * (1 + high - low)) / (len(values) + 1)
    return found


def bets(p: Floats) -> Floats:
    """What one unit of wealth becomes at these p-values; expectation 1 or less where they are uniform."""
    logs = np.log(np.maximum(p, 1e-12))
    total = np.zeros(p.shape)
    for k in POWERS:
        total += k * np.exp((k - 1) * logs)
    return total / len(POWERS)


@dataclass(frozen=True, slots=True, eq=False)
class Purse:
    """Wealth of one account per score (s,): the shares that bet and that wait (they add up to 1), and log of both."""

    betting: Floats
    cash: Floats
    log: Floats

    @classmethod
    def new(cls, scores: int) -> Purse:
        return cls(np.full(scores, 0.5), np.full(scores, 0.5), np.zeros(scores))

    def after(self, e: Floats) -> tuple[Floats, Purse]:
        """Log wealth (n, s) after each of n queries with bets `e` (n, s), and the purse after the last."""
        if not len(e):
            return np.zeros((0, len(self.log))), self
        betting, cash, log = self.path(e)
        return log, Purse(betting[-1], cash[-1], log[-1])

    def path(self, e: Floats) -> tuple[Floats, Floats, Floats]:
        """The shares that bet and that wait, and log wealth, (n, s) each, after each of one or more queries.

        Each query is a matrix [[(1-a) e, a e], [a, 1-a]] on (betting, cash): products of all prefixes by doubling
        (Hillis and Steele, CACM 29, 1986), scaled to stay finite.
        """
        a, b, c, d = (1 - SHARE) * e, SHARE * e, np.full(e.shape, SHARE), np.full(e.shape, 1 - SHARE)
        log, step = np.zeros(e.shape), 1
        while step < len(e):
            a1, b1, c1, d1 = a[step:], b[step:], c[step:], d[step:]
            a0, b0, c0, d0 = a[:-step], b[:-step], c[:-step], d[:-step]
            made = (a1 * a0 + b1 * c0, a1 * b0 + b1 * d0, c1 * a0 + d1 * c0, c1 * b0 + d1 * d0)
            size = np.maximum(np.maximum(made[0], made[1]), np.maximum(made[2], made[3]))
            log[step:] += log[:-step] + np.log(size)
            for whole, part in zip((a, b, c, d), made, strict=True):
                whole[step:] = part / size
            step *= 2
        betting, cash = a * self.betting + b * self.cash, c * self.betting + d * self.cash
        total = betting + cash
        log += np.log(total) + self.log
        return betting / total, cash / total, log


def coins(seed: int, start: int, shape: tuple[int, int]) -> Floats:
    """(n, s) uniforms on [0, 1) keyed by account and query, so that nothing depends on how queries are batched."""
    n, s = shape
    return coins_at(np.uint64(seed), np.arange(start, start + n), s)


def coins_at(seeds: NDArray[np.uint64] | np.uint64, places: NDArray[np.int64], s: int) -> Floats:
    """(n, s) of queries of several accounts: `seeds` (n, 1), and the number of each query in its account, from 0.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    counter = (places[:, None] * s + np.arange(1, s + 1)).astype(np.uint64)
    with np.errstate(over="ignore"):
        x = seeds + counter * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    found: Floats = (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found


def p_of(references: Sequence[Reference], scores: Floats, labels: Array, coin: Floats) -> Floats:
    """(n, s) conformal p-values of scores (n, s); 1 where a score is NaN."""
    p, open_ = np.ones(scores.shape), ~np.isnan(scores)
    for j, reference in enumerate(references):
        rows = np.flatnonzero(open_[:, j])
        if len(rows):
            p[rows, j] = reference.p_values(scores[rows, j], labels[rows], coin[rows, j])
    return p


def bets_of(references: Sequence[Reference], scores: Floats, labels: Array, coin: Floats) -> Floats:
    """(n, s) what one unit of wealth becomes; 1, no bet at all, where a score is NaN."""
    p = np.minimum(1.0, p_of(references, scores, labels, coin) + MARGIN)
    return np.where(np.isnan(scores), 1.0, bets(p))


#: what a bet brings at p = 0.1
UNUSUAL = float(bets(np.array(0.1 + MARGIN)))


def unusual(e: Floats) -> tuple[Floats, Floats]:
    """(s,) bets placed, and how many of them at p-values below 0.1: what drift is told by."""
    return (e != 1).sum(0).astype(np.float64), (e > UNUSUAL).sum(0).astype(np.float64)
