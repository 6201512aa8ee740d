"""On which numbers a sum of steps compares: float32 ones, or float64 ones between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from understudy.attacks._step_groups import SIDES, decoded, packed
from understudy.attacks._step_terms import MISSING, Found, Step
from understudy.targets.additive_steps import AdditiveStepsTarget
from understudy.types import Array, Bools, Floats

_FEW = 8  # steps that show whether thresholds are round
_HALVINGS = 31  # from a float32 to the next, in float64
_TRIED = 5  # steps that are looked into; a float64 threshold passes for a float32 one with a chance of 1 in 10 each


@dataclass(frozen=True)
class Grid:
    """Whether inputs are compared as float32, and the thresholds that are known more finely than that."""

    single: bool = True
    finer: dict[Step, float] = field(default_factory=dict)
    unsettled: int = 0  # thresholds that the budget left at float32

    def applied(self, copy: AdditiveStepsTarget) -> AdditiveStepsTarget:
        """The copy that compares on this grid."""
        steps = zip(copy.feature.tolist(), copy.threshold.tolist(), strict=True)
        return replace(copy, threshold=np.array([self.finer.get(s, s[1]) for s in steps]), single=self.single)


def settle(found: Found) -> Grid:
    """Ask between the neighbouring float32 numbers around steps; where targets compare float64, go on to those.

    Two queries for each of five steps; on a float64 grid four per step to try the roundest number, where that is worth
    trying, and 29 more to bisect, which up to eight steps share, as far as the budget goes.
    """
    steps = [step for step in found.above if step[1] != MISSING and not found.scores.whole[step[0]]]
    above = np.array([found.above[step] for step in steps])
    below = np.array([step[1] for step in steps])
    neighbours = np.flatnonzero(above == np.nextafter(below.astype(np.float32), np.float32(np.inf)))
    tried = [steps[j] for j in neighbours[:: max(len(neighbours) // _TRIED, 1)][:_TRIED]]
    if not tried or found.scores.target.remaining < 4 * len(tried):
        return Grid()
    gaps = np.array([[step[1] + share * (found.above[step] - step[1]) for share in (0.45, 0.55)] for step in tried])
    if (_passed(found, tried, gaps) == [False, True]).all():
        return Grid()
    finer = _rounded(found, steps[:_FEW])
    if finer:
        finer |= _rounded(found, steps[_FEW:])
    finer |= _bisected(found, [step for step in steps if step not in finer])
    return Grid(False, finer, len(steps) - len(finer))


def _rounded(found: Found, steps: list[Step]) -> dict[Step, float]:
    """The thresholds that are round numbers, give or take the last bit."""
    if not steps or found.scores.target.remaining < 5 * len(steps):
        return {}
    round_ = np.array([_roundest(step[1], found.above[step]) for step in steps])
    places = [np.nextafter(round_, -np.inf), round_, np.nextafter(round_, np.inf)]
    places.append(np.nextafter(places[-1], np.inf))
    ends = [step[1] for step in steps], [found.above[step] for step in steps]
    passed = _passed(found, steps, np.clip(places, *ends).T)
    last = passed.argmax(1) - 1  # the last place below the step
    known = passed[:, -1] & (last >= 0)
    return {steps[j]: float(places[last[j]][j]) for j in np.flatnonzero(known).tolist()}


def _bisected(found: Found, steps: list[Step]) -> dict[Step, float]:
    """The largest float64 number below each step; of fewer steps where the budget does not hold all.

    Steps whose surroundings do not meet are halved by the same queries, as far as the sums they make are told apart.
    """
    low, high = np.array([step[1] for step in steps]), np.array([found.above[step] for step in steps])
    rounding = np.full(len(steps), found.scores.rounding(found.scores.raw[:1])[0])
    groups = [g for some in _strangers(found, steps) for g in packed(some, lambda g: _sums(found, steps, g), rounding)]
    groups = sorted(groups, key=len, reverse=True)[: max(found.scores.target.remaining // _HALVINGS, 0)]
    possible = [_sums(found, steps, g) for g in groups]
    open_ = list(range(len(groups)))
    for _ in range(_HALVINGS):  # more than between float32 numbers, but for those beside zero
        if not open_:
            break
        middles = [low[groups[j]] + (high[groups[j]] - low[groups[j]]) / 2 for j in open_]
        points = np.array([_context(found, [steps[i] for i in groups[j]]) for j in open_])
        for point, j, middle in zip(points, open_, middles, strict=True):
            point[[steps[i][0] for i in groups[j]]] = middle
        sums, rough = found.scores.ask(points)
        going = []
        for j, middle, answer, fuzz in zip(open_, middles, sums, rough, strict=True):
            group = groups[j]
            side = decoded(possible[j], answer, float(fuzz) + float(rounding[group].sum()))
            if side is None:  # no float64 number decides here
                groups[j] = group[:0]
                continue
            passed = SIDES[len(group)][side]
            high[group], low[group] = np.where(passed, middle, high[group]), np.where(passed, low[group], middle)
            middle = low[group] + (high[group] - low[group]) / 2
            if ((low[group] < middle) & (middle < high[group])).any():
                going.append(j)
        open_ = going
    middle = low + (high - low) / 2
    settled = (middle <= low) | (middle >= high)
    return {steps[i]: float(low[i]) for group in groups for i in group if settled[i]}


def _strangers(found: Found, steps: list[Step]) -> Iterator[list[int]]:
    """Steps none of whose surroundings raise another's feature, until none is left."""
    features = [{i for i, _ in _term(found, step)} for step in steps]
    waiting = list(range(len(steps)))
    while waiting:
        taken, some, rest = set[int](), list[int](), list[int]()
        for j in waiting:
            if features[j] & taken:
                rest.append(j)
            else:
                some.append(j)
                taken |= features[j]
        yield some
        waiting = rest


def _passed(found: Found, steps: list[Step], places: Floats) -> Bools:
    """Whether each place (n, m) along each step's feature is answered as what lies above the step."""
    base = np.array([_context(found, [step]) for step in steps])
    points = np.repeat(base[:, None], places.shape[1] + 1, axis=1)
    for j, (i, _) in enumerate(steps):
        points[j, 1:, i] = places[j]
    sums, rounding = found.scores.ask(points.reshape(-1, points.shape[-1]))
    sums = sums.reshape(*points.shape[:2], -1)
    return np.asarray(np.abs(sums[:, 1:] - sums[:, :1]).max(2) <= 2 * rounding.reshape(points.shape[:2])[:, 1:])


def _sums(found: Found, steps: list[Step], group: Array) -> Floats:
    """(2 ** m, k) what the model answers around a group of steps, each of them passed or not."""
    sides = SIDES[len(group)]
    points = np.tile(_context(found, [steps[j] for j in group]), (len(sides), 1))
    for member, j in enumerate(group):
        points[:, steps[j][0]] = np.where(sides[:, member], found.above[steps[j]], steps[j][1])
    return found.copy().scores(points)


def _term(found: Found, step: Step) -> tuple[Step, ...]:
    """The shortest term that holds a step."""
    return min((steps for steps in found.terms if step in steps), key=len)


def _context(found: Found, steps: Sequence[Step]) -> Floats:
    """The point just above every step of the terms of some steps, all else lowest."""
    x = found.scores.low.copy()
    for step in steps:
        for i, below in _term(found, step):
            x[i] = found.above[(i, below)]
    return x


def _roundest(a: float, b: float) -> float:
    """The number with the fewest digits in [a, b]."""
    if a <= 0 <= b:
        return 0.0
    for digits in range(1, 17):
        near = float(f"{(a + b) / 2:.{digits}g}")
        if a <= near <= b:
            return near
    return (a + b) / 2
