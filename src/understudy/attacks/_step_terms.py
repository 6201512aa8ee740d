"""Terms of a sum of step functions: found by sweeping axes, and by chasing what the terms found so far leave over."""

from __future__ import annotations

from collections.abc import Generator as Steps
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.random import Generator

from understudy.attacks._step_groups import Halving, adds
from understudy.attacks._step_scores import Scores
from understudy.targets.additive_steps import AdditiveStepsTarget
from understudy.types import Bools, Floats

MISSING = -np.inf
Step = tuple[int, float]  # feature, largest float32 below the step; MISSING: the step is that the feature is NaN
Probed = tuple[np.ndarray, Floats, Floats, Floats]  # axes, places along them, sums (n, k), their rounding (n,)
Asking = Steps[Floats, tuple[Floats, Floats, Bools], "Term | None"]


@dataclass(frozen=True)
class Term:
    """A product of steps, its weight, and the points just above each step."""

    steps: tuple[Step, ...]
    above: tuple[float, ...]
    weight: Floats


class Found:
    """The terms found so far, as a model: weights are measured from the lowest corner up."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.constant = scores.ask(scores.low[None])[0][0]
        self.terms: dict[tuple[Step, ...], Floats] = {}
        self.above: dict[Step, float] = {}
        self._copy: AdditiveStepsTarget | None = None

    def add(self, term: Term) -> bool:
        """Whether it is new."""
        self.above |= dict(zip(term.steps, term.above, strict=True))
        if term.steps in self.terms:
            return False
        self.terms[term.steps], self._copy = term.weight, None
        return True

    def steps(self, feature: int) -> list[tuple[float, float]]:
        """(below, above) of each known step of a feature, ascending."""
        known = ((below, above) for (i, below), above in self.above.items() if i == feature)
        return sorted(step for step in known if step[0] != MISSING)

    @property
    def order(self) -> int:
        return max(map(len, self.terms), default=0)

    def copy(self) -> AdditiveStepsTarget:
        """The model, as a target."""
        if self._copy is None:
            place = {step: j for j, step in enumerate(sorted(self.above))}
            terms = np.full((len(self.terms), max(self.order, 1)), -1)
            for row, steps in zip(terms, self.terms, strict=True):
                row[: len(steps)] = [place[step] for step in steps]
            self._copy = AdditiveStepsTarget(
                np.array([i for i, _ in place], np.int64),
                np.array([np.nan if below == MISSING else below for _, below in place], np.float64),
                terms,
                np.array([*self.terms.values()]).reshape(len(self.terms), len(self.constant)),
                self.constant,
                self.scores.target.space,
                self.scores.link,
            )
        return self._copy

    def left_over(self, x: Floats, sums: Floats, rounding: Floats) -> Bools:
        """(n,) whether an answer is not explained by the terms found so far."""
        return np.asarray(np.abs(sums - self.copy().scores(x)).max(1) > 2 * rounding)

    def residual(self) -> float:
        """The largest difference to any bought answer that is not saturated."""
        x, sums, rounding = self.scores.bought()
        return float(np.abs(sums - self.copy().scores(x))[np.isfinite(rounding)].max(initial=0.0))

    def refit(self) -> None:
        """Weights by least squares over every answer that is explained: float32 answers measure a term poorly once."""
        x, sums, rounding = self.scores.bought()
        good = np.isfinite(rounding) & ~self.left_over(x, sums, rounding)
        design = self.copy().design(x[good]) / rounding[good, None]
        design = np.hstack([1 / rounding[good, None], design])
        wanted = (sums - self.copy().scores(x))[good] / rounding[good, None]
        change = np.linalg.lstsq(design.T @ design, design.T @ wanted, rcond=1e-12)[0]
        self.constant, self._copy = self.constant + change[0], None
        self.terms = {steps: w + c for (steps, w), c in zip(self.terms.items(), change[1:], strict=True)}


def uneven(scores: Scores, probes: Floats) -> list[int]:
    """Features along whose axes through the lowest corner the probed positions (m, d) are not answered alike."""
    axis, _, sums, rounding = _probed(scores, probes)
    first = np.searchsorted(axis, axis)
    apart = np.abs(sums - sums[first]).max(1) > rounding + rounding[first]
    return [int(i) for i in np.unique(axis[apart])]


def sweep(scores: Scores, probes: Floats, rng: Generator) -> list[Term]:
    """Every step along every axis through the lowest corner that the probed positions (m, d) bracket, as terms.

    All axes at once: between neighbouring positions with different answers the middle is asked, until they are
    neighbouring float32 numbers.
    """
    first = _probed(scores, probes)
    together = adds(scores, rng, *first)
    found = _swept(scores, first, Halving(scores, together))
    if together:
        places = [np.array([term.steps[0][1] for term in found]), np.array([term.above[0] for term in found])]
        axis = np.array([term.steps[0][0] for term in found], np.int64)
        below, above = (scores.ask(_moved(scores.low, axis, place)) for place in places)
        off = np.abs(above[0] - below[0] - np.array([term.weight for term in found]).reshape(below[0].shape)).max(1)
        if (off > 2 * (below[1] + above[1])).any():  # features that do not only add, after all
            found = _swept(scores, first, Halving(scores, False))
    gaps = np.flatnonzero(scores.missing)
    sums, rounding = scores.ask(
        np.concatenate([scores.low[None], _moved(scores.low, gaps, np.full(len(gaps), np.nan))])
    )
    apart = np.abs(sums[1:] - sums[0]).max(1) > rounding[1:] + rounding[0]
    return found + [Term(((int(gaps[j]), MISSING),), (np.nan,), sums[j + 1] - sums[0]) for j in np.flatnonzero(apart)]


def _swept(scores: Scores, first: Probed, halving: Halving) -> list[Term]:
    axis, place, sums, rounding = first
    while True:
        order = np.lexsort((place, axis))
        axis, place, sums, rounding = axis[order], place[order], sums[order], rounding[order]
        a, b = np.arange(len(axis) - 1), np.arange(1, len(axis))
        apart = np.abs(sums[b] - sums[a]).max(1) > rounding[a] + rounding[b]
        split = np.flatnonzero(apart & (axis[a] == axis[b]) & (place[a] < place[b]))
        middle = scores.between(axis[split], place[split], place[split + 1])
        open_ = (middle > place[split]) & (middle < place[split + 1])
        if not open_.any():
            break
        below, above = split[open_], split[open_] + 1
        new_axis, new = axis[below], middle[open_]
        new_sums, new_rounding = halving.ask(
            *(new_axis, place[below], place[above], (sums[below], sums[above]), rounding[below] + rounding[above], new)
        )
        axis, place = np.concatenate([axis, new_axis]), np.concatenate([place, new])
        sums, rounding = np.concatenate([sums, new_sums]), np.concatenate([rounding, new_rounding])
    return [
        Term(((int(axis[i]), float(place[i])),), (float(place[i + 1]),), sums[i + 1] - sums[i]) for i in split.tolist()
    ]


def _probed(scores: Scores, probes: Floats) -> Probed:
    """Axis and place of every position, sorted, with the sums (n, k) and their rounding there."""
    position = np.sort(np.concatenate([scores.low[None], probes, scores.high[None]]), axis=0).T  # (d, m)
    axis, place = np.repeat(np.arange(scores.d), position.shape[1]), position.ravel()
    return axis, place, *scores.ask(_moved(scores.low, axis, place))


def _moved(base: Floats, axis: np.ndarray, place: Floats) -> Floats:
    x = np.tile(base, (len(axis), 1))
    x[np.arange(len(axis)), axis] = place
    return x


def chase(x: Floats, found: Found, order: np.ndarray) -> Asking:
    """From a point that is not explained to a term that is missing.

    Coordinates are lowered, as long as something stays unexplained, until only a minimal point is left: the
    unexplained part there is the weight of one term, measured once more on the corners around it.
    """
    low = found.scores.low
    while True:
        kept = yield from _relevant(x, low, order)
        x = np.where(np.isin(np.arange(len(x)), kept), x, low)
        steps: dict[int, tuple[float, float]] = {}
        for i in kept:
            step = yield from _lowered(x, i, found)
            x[i] = low[i] if step is None else step[1]
            if step is not None:
                steps[i] = step
        if not steps:
            return None
        features = sorted(steps)
        sides = np.array([*product((0, 1), repeat=len(features))])
        corners = np.tile(low, (len(sides), 1))
        below = [max(steps[i][0], low[i]) for i in features]  # the lowest number stands beside NaN
        corners[:, features] = np.where(sides, [steps[i][1] for i in features], below)
        sums, rounding, hot = yield corners
        weight = (-1.0) ** (len(features) - sides.sum(1)) @ sums
        if np.abs(weight).max() > rounding.max() * 2:
            return Term(tuple((i, steps[i][0]) for i in features), tuple(steps[i][1] for i in features), weight)
        if not hot[:-1].any():
            return None
        x = corners[int(np.argmax(hot))]


def _relevant(x: Floats, low: Floats, order: np.ndarray) -> Steps[Floats, tuple[Floats, Floats, Bools], list[int]]:
    """Features that together keep a point unexplained while all others are lowered."""
    order = order[(x != low)[order]]
    kept: list[int] = []
    end = len(order)

    def point(m: int) -> Floats:
        raised = np.zeros(len(x), np.bool_)
        raised[order[:m]] = raised[kept] = True
        return np.where(raised, x, low)[None]

    while end:
        hot = (yield point(0))[2][0]
        if hot:
            break
        start = 0
        while end - start > 1:
            middle = (start + end) // 2
            if (yield point(middle))[2][0]:
                end = middle
            else:
                start = middle
        kept.append(int(order[end - 1]))
        end -= 1
    return kept


def _lowered(
    x: Floats, i: int, found: Found
) -> Steps[Floats, tuple[Floats, Floats, Bools], tuple[float, float] | None]:
    """The step (below, above) of feature `i` at which a point becomes unexplained; None if it is so from the bottom."""
    low, column = found.scores.low[i], np.array([i])

    def at(place: float) -> Floats:
        moved = x.copy()
        moved[i] = place
        return moved[None]

    if (yield at(low))[2][0]:
        return None
    if np.isnan(x[i]):
        return MISSING, np.nan
    known = [(below, above) for below, above in found.steps(i) if above <= x[i]]
    places = [low, *(above for _, above in known), x[i]]
    start, end = 0, len(places) - 1
    while end - start > 1:
        middle = (start + end) // 2
        if (yield at(places[middle]))[2][0]:
            end = middle
        else:
            start = middle
    a, b = places[start], places[end]
    if end <= len(known) and known[end - 1][1] == b:
        below = known[end - 1][0]
        if below <= a or not (yield at(below))[2][0]:
            return known[end - 1]
        b = below
    while True:  # a step that is not known yet
        half = float(found.scores.between(column, np.array([a]), np.array([b]))[0])
        if not a < half < b:
            return a, b
        if (yield at(half))[2][0]:
            b = half
        else:
            a = half


def together(chases: Sequence[Asking], found: Found) -> list[Term]:
    """Run chases side by side, one batch of questions per round."""
    waiting = [(one, next(one)) for one in chases]
    ended: list[Term] = []
    while waiting:
        x = np.concatenate([points for _, points in waiting])
        sums, rounding = found.scores.ask(x)
        hot = found.left_over(x, sums, rounding)
        stops = np.cumsum([len(points) for _, points in waiting])
        going = []
        for (one, points), stop in zip(waiting, stops.tolist(), strict=True):
            part = slice(stop - len(points), stop)
            try:
                going.append((one, one.send((sums[part], rounding[part], hot[part]))))
            except StopIteration as end:
                if end.value is not None:
                    ended.append(end.value)
        waiting = going
    return ended


def scattered(found: Found, n: int, rows: Floats, rng: Generator) -> Floats:
    """`n` points that meet every known cell: per coordinate an end, anywhere, or anywhere in a random cell."""
    scores = found.scores
    low, high = scores.low, scores.high
    x = rng.uniform(low, high, (n, scores.d))
    for i in range(scores.d):
        edges = np.array([low[i], *(above for _, above in found.steps(i)), high[i]])
        cell = rng.integers(len(edges) - 1, size=n)
        x[:, i] = np.where(rng.random(n) < 0.7, rng.uniform(edges[cell], edges[cell + 1]), x[:, i])
    end = rng.random(x.shape)
    share = rng.choice([0.0, 0.25, 0.5], (n, 1))
    x = np.where(end < share, high, np.where(end > 1 - share / 2, low, x))
    x = np.where((rng.random(x.shape) < 0.15) & scores.missing, np.nan, scores.held(x))
    if len(rows):
        some = rng.random(n) < 0.25
        x[some] = rows[rng.integers(len(rows), size=int(some.sum()))]
    return x
