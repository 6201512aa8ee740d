"""Walking to where the answer changes: which column does it, and between which two numbers of its grid."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
from numpy.random import Generator

from understudy.attacks._columns import Columns, Ints
from understudy.attacks._oracle import Oracle
from understudy.attacks._parts import Part
from understudy.types import Floats

_COARSE = 14  # halvings after which slant is looked for
_ASIDE = (
    0.01,
    0.003,
    0.001,
    0.0003,
)  # steps aside, in what the space draws, that must all move a threshold to be slant
_UNKNOWN = 0.15  # weight of a column without a known threshold beside one that has one


class NotATree(Exception):
    """The answers are not those of one tree that could be copied; the text says why."""


class Edges:
    """Thresholds as they become known, and the searches that find them. An edge is (column, last number inside).

    The first threshold is tested for moving when other columns do, which that of a tree does not.
    """

    def __init__(self, oracle: Oracle, columns: Columns, rng: Generator) -> None:
        self.oracle, self.columns, self._rng = oracle, columns, rng
        self.known: list[list[float]] = [[] for _ in range(columns.d)]  # the number below each threshold, ascending
        self._tested = columns.whole.copy()
        self._upright = False
        self._marked = np.zeros(columns.d)

    def grow(self, row: Floats, leaf: int, part: Part) -> Part:
        """The box around a row within a part whose opposite corners, and each mark held, answer `leaf`.

        Where equal answers are one leaf this is the leaf, as far as it lies in the part.
        """
        columns, numbers = self.columns, self.columns.marks(row[None])[0] < 0
        base = row.copy()
        for stage in range(2):
            goal = base.copy()
            for f in np.flatnonzero(columns.ordered & (part.below < part.high)).tolist():
                goal[f] = columns.ends(f, part.below[f], part.high[f])[stage]
            part, reached = self._advance(base if stage == 0 else np.where(numbers, row, base), goal, leaf, part)
            base = np.where(numbers, row, reached)
        for goal in self._marks(base, part):
            part, _ = self._advance(base, np.where(np.isinf(goal), base, goal), leaf, part)
        return part

    def _marks(self, base: Floats, part: Part) -> list[Floats]:
        """Rows that hold, one after the other, every mark of a part; infinite where a column has no more of them."""
        mine = self.columns.marks(base[None])[0]
        waiting = [
            [self.columns.value[m] for m in self.columns.marks_of(f) if part.held[m] and m != mine[f]]
            for f in range(self.columns.d)
        ]
        rounds = max(map(len, waiting), default=0)
        return [np.array([w[i] if i < len(w) else np.inf for w in waiting]) for i in range(rounds)]

    def _advance(self, base: Floats, goal: Floats, leaf: int, part: Part) -> tuple[Part, Floats]:
        """The part without what proves not to be `leaf` on the way to the goal, and how far the row could be moved."""
        base, goal = base.copy(), goal.copy()
        while not _same(base, goal) and self.oracle.ask(goal[None])[0] != leaf:
            base, f = self.responsible(base, goal, leaf)
            part, base[f] = self.trimmed(part, base, goal, f, leaf)
            goal[f] = base[f]
        return part, goal

    def responsible(self, base: Floats, goal: Floats, leaf: int) -> tuple[Floats, int]:
        """A row that answers `leaf`, and the column whose move to the goal changes that."""
        order = self._order(base, goal)
        weight = np.cumsum([_UNKNOWN + len(self.known[f]) + self._marked[f] for f in order])
        inside, outside = 0, len(order)
        while outside - inside > 1:
            half = ((weight[inside - 1] if inside else 0.0) + weight[outside - 1]) / 2
            middle = int(np.clip(np.searchsorted(weight, half) + 1, inside + 1, outside - 1))
            if self.oracle.ask(_hybrid(base, goal, order[:middle])[None])[0] == leaf:
                inside = middle
            else:
                outside = middle
        return _hybrid(base, goal, order[:inside]), int(order[inside])

    def _order(self, base: Floats, goal: Floats) -> Ints:
        moved = np.flatnonzero(~((base == goal) | (np.isnan(base) & np.isnan(goal))))
        return moved[np.argsort([-len(self.known[f]) - self._marked[f] for f in moved], kind="stable")]

    def trimmed(self, part: Part, base: Floats, goal: Floats, f: int, leaf: int) -> tuple[Part, float]:
        """The part up to where moving column f of `base` to the goal changes the answer; the last value inside."""
        here, there = self.columns.marks(np.stack([base, goal]))[:, f]
        if there >= 0:
            self._marked[f] += 1
            return part.without(int(there)), float(base[f])
        if here >= 0:
            return part.numberless(f), float(base[f])
        last, cut = self.threshold(base, f, float(goal[f]), leaf)
        return (part.up_to(f, cut) if goal[f] > base[f] else part.above(f, cut)), last

    def threshold(self, base: Floats, f: int, outer: float, leaf: int) -> tuple[float, float]:
        """Two neighbours of the grid between which the answer stops being `leaf`: (the inner, the lower of them)."""
        inner, up = float(base[f]), outer > base[f]

        def inside(value: float, keep: bool = True) -> bool:
            row = base.copy()
            row[f] = value
            return bool(self.oracle.ask(row[None], keep)[0] == leaf)

        known = self.known[f]
        while candidates := known[bisect_left(known, min(inner, outer)) : bisect_left(known, max(inner, outer))]:
            low = candidates[len(candidates) // 2]
            near, far = (low, self.columns.step(f, low, True)) if up else (self.columns.step(f, low, True), low)
            if far != outer and inside(far):
                inner = far
                continue
            outer = far
            if near == inner or inside(near):
                return near, low
            outer = near
        halvings = 0
        while (middle := self.columns.between(f, inner, outer, halvings)) is not None:
            inner, outer = (middle, outer) if inside(middle) else (inner, middle)
            halvings += 1
            if halvings == _COARSE and not self._upright:
                self._look_for_slant(base, f, inner, outer, leaf)
        if not self._tested[f]:
            self._tested[f] = True
            middle = inner + (outer - inner) / 2
            near, far = float(np.nextafter(middle, inner)), float(np.nextafter(middle, outer))
            if not inside(near, False) or inside(far, False):  # float32 rounds the one in, the other out
                self.columns.double[f] = True
                while (middle := self.columns.between(f, inner, outer, 0)) is not None:
                    inner, outer = (middle, outer) if inside(middle) else (inner, middle)
        insort(known, min(inner, outer))
        return inner, min(inner, outer)

    def _look_for_slant(self, base: Floats, f: int, inner: float, outer: float, leaf: int) -> None:
        """Raises NotATree when a threshold moves with other columns, however little they do."""
        columns = self.columns
        loose = columns.ordered & ~columns.whole & ~np.isnan(base)
        loose[f] = False
        for step in _ASIDE if loose.any() else ():
            rows = np.stack([base, base])
            rows[:, loose] = aside(base[None], columns, self._rng, step)[0, loose]
            rows[:, f] = inner, outer
            one, two = self.oracle.ask(rows)
            if one == leaf != two:
                break
        else:
            if loose.any():
                raise NotATree("where one column changes the answer depends on all others: the boundary is slanted")
        self._upright = True


def aside(rows: Floats, columns: Columns, rng: Generator, step: float = _ASIDE[0]) -> Floats:
    """Rows moved by a share of what the space draws in every column that is not whole, inside the space."""
    loose = columns.ordered & ~columns.whole
    if not loose.any():
        return rows
    with np.errstate(invalid="ignore"):
        width = np.nanquantile(columns.drawn[:, loose], 0.95, axis=0) - np.nanquantile(
            columns.drawn[:, loose], 0.05, axis=0
        )
    moved = rows.copy()
    moved[:, loose] += step * width / 0.9 * rng.choice([-1.0, 1.0], (len(rows), int(loose.sum())))
    return columns.rows(np.clip(moved, columns.low, columns.high))


def _hybrid(base: Floats, goal: Floats, moved: Ints) -> Floats:
    row = base.copy()
    row[moved] = goal[moved]
    return row


def _same(a: Floats, b: Floats) -> bool:
    return bool(np.array_equal(a, b, equal_nan=True))
