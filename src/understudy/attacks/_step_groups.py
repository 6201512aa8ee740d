"""Several thresholds halved by one query: the sum that is answered tells which of them lie below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from numpy.random import Generator

from understudy.attacks._step_scores import Scores
from understudy.types import Array, Bools, Floats

_WIDEST = 8  # thresholds in one query: 256 sums to tell apart
_APART = 1000  # roundings between two sums: what is neither passes for one of them once in some hundred times
_MIXES = 3  # moves along all axes, beside the highest corner, by which a sum is told
_PATIENCE = 4  # groups that may fail in excess of those that do not, before no more are formed
_NARROW = 2.0**-7  # of an axis: wider intervals hold several thresholds too often
SIDES = [np.array([*product((False, True), repeat=m)]).reshape(2**m, m) for m in range(_WIDEST + 1)]


class Halving:
    """Middles of intervals along many axes through the lowest corner, in few queries where features only add.

    There the corner moved along several axes at once answers the sum of what each move alone would. As every middle
    answers as one end of its interval or the other, few sums can come back; one that is none of them (there were two
    thresholds in an interval) costs the group's members a query each.
    """

    def __init__(self, scores: Scores, adds: bool) -> None:
        self._scores, self._misses = scores, 0 if adds else _PATIENCE

    def ask(
        self, axis: Array, below: Floats, above: Floats, ends: tuple[Floats, Floats], rounding: Floats, middle: Floats
    ) -> tuple[Floats, Floats]:
        """Sums (n, k) and their rounding where the corner is moved along each `axis` (n,) to `middle`.

        `ends`: sums (n, k) at `below` and `above`; `rounding` (n,): of both together. Raises BudgetExceeded.
        """
        scores, sums, error = self._scores, np.empty_like(ends[0]), rounding.copy()
        alone = np.ones(len(axis), np.bool_)
        narrow = above - below <= _NARROW * (scores.high - scores.low)[axis]
        if self._misses < _PATIENCE and narrow.any():
            start = scores.ask(scores.low[None])[0][0]
            groups = [g for g in self._groups(axis, narrow, ends[1] - ends[0], rounding) if len(g) > 1]
            points = np.tile(scores.low, (len(groups), 1))
            for point, group in zip(points, groups, strict=True):
                point[axis[group]] = middle[group]
            told, rough = scores.ask(points)
            for group, answer, fuzz in zip(groups, told, rough, strict=True):
                possible = ends[0][group].sum(0) - (len(group) - 1) * start + _sums(group, ends[1] - ends[0])
                side = decoded(possible, answer, fuzz + rounding[group].sum())
                self._misses = max(self._misses + (1 if side is None else -1), 0)
                if side is not None:
                    sums[group] = np.where(SIDES[len(group)][side][:, None], ends[1][group], ends[0][group])
                    alone[group] = False
        x = np.tile(scores.low, (int(alone.sum()), 1))
        x[np.arange(len(x)), axis[alone]] = middle[alone]
        sums[alone], error[alone] = scores.ask(x)
        return sums, error

    def _groups(self, axis: Array, narrow: Bools, change: Floats, rounding: Floats) -> Iterator[Array]:
        """Narrow intervals, no two along one axis."""
        along = [np.flatnonzero(narrow & (axis == i)) for i in np.unique(axis[narrow])]
        for layer in range(max(map(len, along))):
            waiting = [int(members[layer]) for members in along if len(members) > layer]
            yield from packed(waiting, lambda group: _sums(group, change), rounding)


def adds(scores: Scores, rng: Generator, axis: Array, place: Floats, sums: Floats, rounding: Floats) -> bool:
    """Whether moves along all axes at once are answered as the sum of them, at four points.

    `axis`, `place` (n,): moves of the lowest corner, sorted; `sums` (n, k) and `rounding` (n,): what each alone was
    answered.
    """
    first, count = np.unique(axis, return_index=True)[1], np.bincount(axis)
    chosen = first + np.concatenate([[count - 1], rng.integers(count, size=(_MIXES, len(count)))])
    told, rough = scores.ask(place[chosen])
    wanted = sums[chosen].sum(1) - (len(count) - 1) * sums[first[0]]
    return bool((np.abs(told - wanted).max(1) <= rough + rounding[chosen].sum(1)).all())


def packed(waiting: Sequence[int], sums: Callable[[Array], Floats], rounding: Floats) -> Iterator[Array]:
    """Everyone `waiting`, in groups of up to eight whose possible `sums` (2 ** m, k) can be told apart."""
    while waiting:
        group, rest = [waiting[0]], list[int]()
        for one in waiting[1:]:
            wider = np.array([*group, one])
            if len(group) < _WIDEST and _gap(sums(wider)) > _APART * rounding[wider].sum():
                group.append(one)
            else:
                rest.append(one)
        yield np.array(group)
        waiting = rest


def decoded(possible: Floats, answer: Floats, rounding: float) -> int | None:
    """Which of the possible sums (2 ** m, k) was answered; None where it is none of them."""
    off = np.abs(possible - answer).max(1)
    best = int(off.argmin())
    return best if off[best] <= rounding else None


def _sums(group: Array, change: Floats) -> Floats:
    found: Floats = SIDES[len(group)] @ change[group]
    return found


def _gap(sums: Floats) -> float:
    """A distance that no two of them fall short of: the largest over the outputs of the least."""
    return float(np.diff(np.sort(sums, 0), axis=0).min(0).max())
