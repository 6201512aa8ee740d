"""The columns of a table as a tree sees them: numbers on a grid, and values (categories, gaps) with no order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.types import Bools, Box, Floats, Mixed, Space

Ints = NDArray[np.int64]

_FARTHEST = 1e30  # beyond this no threshold is looked for where there is no bound
_DRAWN = 2000  # free draws by which the size of a part of the space is judged
_GAPS = 0.1  # share of gaps among values drawn where there may be any
_PATIENCE = 10  # halvings after which ends of different magnitude are halved by their exponent


class Columns:
    """Grids, bounds and values without order, per flat column.

    A number lies on a grid: whole numbers, float32, or float64 where `double` says so. Values without order ("marks":
    category codes, and NaN where a column may be missing) are numbered through all columns: mark m is `value[m]` in
    column `owner[m]`; those of column f start at `first[f]`.
    """

    def __init__(self, space: Space, rng: Generator) -> None:
        self.space, self.d = space, int(np.prod(space.shape))
        low, high = np.full(self.d, -np.inf), np.full(self.d, np.inf)
        whole, counts, gaps = np.zeros(self.d, np.bool_), np.zeros(self.d, np.int64), np.zeros(self.d, np.bool_)
        if isinstance(space, Box):
            low, high = space.low.ravel(), space.high.ravel()
        if isinstance(space, Mixed):
            counts = np.where(space.categories.ravel() > 2, space.categories.ravel(), 0)  # of two, order is no matter
            whole, gaps = space.whole.ravel() & (counts == 0), space.missing.ravel()
        self.low, self.high = np.maximum(low, -_FARTHEST), np.minimum(high, _FARTHEST)
        self.whole, self.ordered, self.gaps = whole, counts == 0, gaps
        self.double = np.zeros(self.d, np.bool_)
        sizes = counts + gaps
        self.first = np.cumsum(sizes) - sizes
        self.owner = np.repeat(np.arange(self.d), sizes)
        self.value = np.arange(len(self.owner)) - self.first[self.owner].astype(np.float64)
        self.value[(self.first + counts)[gaps]] = np.nan
        self.drawn = self.rows(space.sample(_DRAWN, rng))

    # inputs and rows

    def rows(self, inputs: Floats) -> Floats:
        """Inputs as flat rows on the grid, shape (n, d)."""
        flat = np.asarray(inputs, np.float64).reshape(-1, self.d)
        single = ~(self.double | self.whole)
        if single.any():
            with np.errstate(over="ignore"):
                near = flat.astype(np.float32).astype(np.float64)
            flat = np.where(single & (near >= self.low) & (near <= self.high), near, flat)
        return flat

    def inputs(self, rows: Floats) -> Floats:
        """Flat rows as inputs, shape (n, *shape)."""
        return rows.reshape(len(rows), *self.space.shape)

    def marks(self, rows: Floats) -> Ints:
        """The mark each value is, shape (n, d); -1 for numbers on a grid."""
        codes = np.full(rows.shape, -1)
        if len(self.owner):
            gap = np.isnan(rows)
            whole = np.where(gap, 0, rows).astype(np.int64)
            last = np.append(self.first[1:], len(self.owner)) - 1
            codes = np.where(gap, last, np.where(self.ordered, -1, self.first + whole))
        return codes

    # numbers on a grid

    def step(self, f: int, value: float, up: bool) -> float:
        """The next number of a column's grid."""
        if self.whole[f]:
            return float(np.floor(value) + 1 if up else np.ceil(value) - 1)
        kind = np.float64 if self.double[f] else np.float32
        near = kind(value)
        if (float(near) > value) if up else (float(near) < value):
            return float(near)  # `value` is not on the grid
        return float(np.nextafter(near, kind(np.inf if up else -np.inf)))

    def ends(self, f: int, below: float, high: float) -> tuple[float, float]:
        """The least and the largest number on the grid in (below, high] that the space holds."""
        least = self.step(f, below, True) if below >= self.low[f] else self.low[f]
        if not self.whole[f] and not self.double[f] and below < self.low[f]:
            least = _on_grid(self.low[f], True)
        most = high if high < self.high[f] else self.high[f]
        if not self.whole[f] and not self.double[f]:
            most = _on_grid(most, False)
        return (least, most) if least <= most else (least, least)

    def between(self, f: int, a: float, b: float, halvings: int) -> float | None:
        """A number of the grid strictly between two of its numbers, about half-way; None where there is none."""
        a, b = min(a, b), max(a, b)
        if self.step(f, a, True) >= b:
            return None
        if self.whole[f]:
            return float(np.floor((a + b) / 2))
        kind: Any = np.float64 if self.double[f] else np.float32
        far = max(abs(a), abs(b))
        if far > 2.0**16 or (halvings >= _PATIENCE and (a * b <= 0 or far > 2 * min(abs(a), abs(b)))):
            middle = _from_order((_to_order(kind(a)) + _to_order(kind(b))) // 2, kind)
        else:
            middle = float(kind(a + (b - a) / 2))
        return middle if a < middle < b else self.step(f, a, True)

    # sizes and draws

    def share(self, f: int, below: float, high: float, held: Bools) -> float:
        """About which share of the space's draws have a value of column f in (below, high] or among its marks."""
        x = self.drawn[:, f]
        inside = (x > below) & (x <= high) & self.ordered[f]
        mine = self.marks_of(f)
        for mark in mine[held[mine]]:
            inside = inside | (np.isnan(x) if np.isnan(self.value[mark]) else x == self.value[mark])
        known = self.high[f] - self.low[f]
        least = (min(high, self.high[f]) - max(below, self.low[f])) / known if self.ordered[f] else 0.0
        return float(max((inside.sum() + 0.5) / (_DRAWN + 1), min(least, 1.0) if known < _FARTHEST else 0.0))

    def marks_of(self, f: int) -> Ints:
        """The marks of one column."""
        return np.flatnonzero(self.owner == f)

    def pick(self, f: int, below: float, high: float, held: Bools, n: int, rng: Generator) -> Floats:
        """`n` values of column f in (below, high] or among its marks held, drawn as the space draws."""
        mine = self.marks_of(f)
        marks = self.value[mine[held[mine]]]
        if not self.ordered[f] or below >= high:
            return rng.choice(marks, n)
        x = self.drawn[:, f]
        inside = x[(x > below) & (x <= high)]
        least, most = self.ends(f, below, high)
        if len(inside):
            values = np.clip(rng.choice(inside, n), least, most)
        else:
            values = np.full(n, self.between(f, least, most, _PATIENCE) or most)
        return np.where(rng.random(n) < _GAPS, np.nan, values) if len(marks) else values

    def spread(self, f: int, ends: list[float], held: Bools, n: int, rng: Generator) -> Floats:
        """`n` values of column f, even over the intervals between `ends`; half of them at an end of theirs.

        A leaf that hides among others is bounded by a few thresholds: however narrow it is, ends lie on its side.
        """
        if not self.ordered[f] or ends[0] >= ends[-1]:
            return self.pick(f, ends[0], ends[-1], held, n, rng)
        reach = np.array([self.ends(f, low, high) for low, high in pairwise(ends)])[rng.integers(len(ends) - 1, size=n)]
        values = reach[:, 0] + rng.random(n) * (reach[:, 1] - reach[:, 0])
        if self.whole[f]:
            values = np.round(values)
        elif not self.double[f]:
            values = values.astype(np.float32).astype(np.float64)
        values = np.clip(values, reach[:, 0], reach[:, 1])
        values = np.where(rng.random(n) < 0.5, reach[np.arange(n), rng.integers(2, size=n)], values)
        gap = self.gaps[f] and held[self.marks_of(f)[-1]]
        return np.where(rng.random(n) < _GAPS, np.nan, values) if gap else values


def _on_grid(value: float, up: bool) -> float:
    near = np.float32(value)
    if (float(near) < value) if up else (float(near) > value):
        near = np.nextafter(near, np.float32(np.inf if up else -np.inf))
    return float(near)


def _to_order(value: Any) -> int:
    """The rank of a float among all floats of its kind."""
    bits = int(value.view(np.int64 if value.dtype == np.float64 else np.int32))
    return bits if bits >= 0 else -(bits & ((1 << (8 * value.dtype.itemsize - 1)) - 1))


def _from_order(rank: int, kind: Any) -> float:
    size = np.dtype(kind).itemsize
    whole = np.array(abs(rank), np.int64 if size == 8 else np.int32).view(kind)
    return float(whole if rank >= 0 else -whole)
