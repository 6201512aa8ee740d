"""Linear models from labels alone: points on the decision boundaries, and one null space for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.attacks._frame import Frame
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.linear import LinearTarget
from understudy.types import Floats, Signal, Space

Ints = NDArray[np.int64]

_LEVELS = (5, 6, 7, 8, 9, 10, 12, 14, 17)  # bits at which a substitute is worth the time it takes to solve for it
_SUSPECT = 8  # bits from which a linear model must explain its own boundary points
_RARE = 2  # a class answered no more often than this wants more starting points
_MISFIT = 1.5  # median distance of a solved boundary from its bracket, in brackets; linear models stay below 0.2


@dataclass(frozen=True)
class BoundaryNullspace:
    """Bisect between differently labelled points; every boundary point is one equation on all the weights.

    Extracts:
        Weights and biases of a linear classifier (logistic, softmax, linear SVM), binary or multiclass, up to one
        positive scale and a constant added to all classes. Labels show no more.

    Needs:
        Labels (or scores, of which only the largest is used). Inputs anywhere inside the space.

    Cost:
        About `bits` x `oversample` queries per parameter: (c - 1)(d + 1) parameters, c classes, d inputs. Nothing is
        yielded below 5 bits per equation; the attack ends at `bits`, where one more halving moves no boundary by
        more than a millionth of the segment it was found on.

    Reference:
        Lowd and Meek, KDD 2005, section 3 (bisection for a binary linear model); Tramer et al., USENIX Security 2016,
        section 6 (labels only).

    Differs from the paper:
        The papers recover one hyperplane from one boundary point and line searches along each axis. Here boundary
        points lie anywhere, all classes are solved in one joint system, whose null space is the model, and each
        equation is weighted by the width of its bracket in units of the solved score. Bisections run in step, one
        batch per bit. Whether the target is linear at all is decided from brackets the solution cannot meet.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS})
    adapts_to: ClassVar[frozenset[str]] = frozenset({"label-only", "round", "top-k"})
    bits: int = 20
    oversample: float = 1.2
    starts_per_class: int = 40
    checks: int = 50

    def opening(self, space: Space, outputs: int) -> int:
        """Queries before the first substitute, about: starting points, checks, and the coarsest bisection."""
        equations = (outputs - 1) * (int(np.prod(space.shape)) + 1)
        return self.starts_per_class * outputs + self.checks + int(_LEVELS[0] * self.oversample * equations)

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """A substitute at each of several precisions, coarse to fine."""
        frame = Frame.of(target, pool, rng)
        found = self._starts(target, frame, rng)
        if found is None:
            return
        points, labels = found
        seen = np.unique(labels)
        n = int(np.ceil(self.oversample * (len(seen) - 1) * (frame.d + 1)))
        checks = min(self.checks, target.remaining // 20)
        bits = min(self.bits, (target.remaining - checks) // n)
        if bits < _LEVELS[0]:
            return
        check_points = frame.sample(checks, rng)
        check_labels = frame.labels(target, check_points)
        brackets = _Brackets.between(points, labels, n, rng)
        if len(brackets.below) < (len(seen) - 1) * (frame.d + 1) - 1:
            return  # too few pairs of different labels for as many equations as there are weights
        for bit in range(1, bits + 1):
            brackets.halve(lambda u: frame.labels(target, u))
            last = bit == bits or target.remaining < len(brackets.below)
            if bit not in _LEVELS and not last:
                continue
            solved = _solve(brackets, points, labels, target.exposure.outputs)
            notes = {
                "bits": bit,
                "boundary_points": len(brackets.below),
                "check_queries": checks,
                "singular_gap": solved.gap,
                "misfit": solved.misfit,
                "classes_never_answered": [k for k in range(target.exposure.outputs) if k not in solved.classes],
            }
            if bit >= _SUSPECT and solved.misfit > _MISFIT:
                yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, notes)
                return
            agreed = (solved.scores(check_points).argmax(1) == check_labels).mean() if checks else float("nan")
            weights, bias = frame.weights(solved.weights, solved.bias)
            copy = LinearTarget(weights, bias, target.space, scored=False)
            notes["fidelity"] = float(agreed)
            yield Extraction(copy, target.spent, Verdict.APPROXIMATE, copy.parameters, notes)
            if target.remaining < len(brackets.below):  # others may spend from this meter too
                return

    def _starts(self, target: Metered, frame: Frame, rng: Generator) -> tuple[Floats, Ints] | None:
        """Labelled points of at least two classes; None where the budget shows one class only.

        Corners first: a linear score spreads widest there, so rare classes show and segments are long. Then the
        attacker's rows and uniform points, and ever wider where the space has no bounds.
        """
        c = target.exposure.outputs
        points, labels = np.zeros((0, frame.d)), np.zeros(0, np.int64)
        for source in (frame.corners, frame.sample, frame.wider().corners, frame.wider().wider().corners):
            least = max(4 * c, int(1.3 * (frame.d + 1)))
            n = min(max(least, min(self.starts_per_class * c, target.remaining // 15)), target.remaining // 2)
            if n < 1:
                break
            fresh = source(n, rng)
            points, labels = np.concatenate([points, fresh]), np.concatenate([labels, frame.labels(target, fresh)])
            if (np.unique(labels, return_counts=True)[1] > _RARE).sum() > 1:
                break
        return (points, labels) if len(np.unique(labels)) > 1 else None


@dataclass(eq=False)
class _Brackets:
    """Segments whose ends are answered differently, halved in step. All arrays have one row per segment."""

    low: Floats
    high: Floats
    below: Ints  # label at the low end, fixed
    above: Ints  # label at the high end, updated

    @classmethod
    def between(cls, points: Floats, labels: Ints, n: int, rng: Generator) -> _Brackets:
        """Up to `n` different segments, their low ends balanced over the classes, their high ends in any other class.

        Balance is essential: a rare class with fewer than d + 1 equations opens a second null direction. So is
        difference: the same segment twice is one equation, and boundary points span no more than the ends that made
        them, so ends used least go first.
        """
        used: set[tuple[int, int]] = set()
        times = np.zeros(len(labels), np.int64)
        classes = sorted(np.unique(labels), key=lambda k: int((labels == k).sum()))
        for i, k in enumerate(classes):
            mine, others = np.flatnonzero(labels == k), np.flatnonzero(labels != k)
            until = n - (n - len(used)) * (len(classes) - i - 1) // (len(classes) - i)
            for lap in range(len(mine) * len(others)):
                fresh = [side[np.lexsort((rng.random(len(side)), times[side]))] for side in (mine, others)]
                size = max(map(len, fresh))
                ends = zip(np.resize(fresh[0], size), np.resize(np.roll(fresh[1], lap), size), strict=True)
                for low, high in ends:
                    pair = (int(low), int(high))
                    if len(used) < until and pair not in used and pair[::-1] not in used:
                        used.add(pair)
                        times[list(pair)] += 1
                if len(used) >= until or lap > 4 * (until // size + 1):
                    break
        first, second = np.array(sorted(used), np.intp).T
        return cls(points[first], points[second], labels[first], labels[second].copy())

    def halve(self, ask: Any) -> None:
        """One bit: ask all midpoints in one batch."""
        middle = (self.low + self.high) / 2
        answered = ask(middle)
        same = answered == self.below
        self.low = np.where(same[:, None], middle, self.low)
        self.high = np.where(same[:, None], self.high, middle)
        self.above = np.where(same, self.above, answered)


@dataclass(frozen=True, eq=False)
class _Solution:
    weights: Floats  # (c, d) in frame coordinates
    bias: Floats  # (c,)
    classes: frozenset[int]
    gap: float  # second smallest over smallest singular value
    misfit: float  # median |score difference at the middle| over the bracket's width in score

    def scores(self, u: Floats) -> Floats:
        return u @ self.weights.T + self.bias


def _solve(brackets: _Brackets, points: Floats, labels: Ints, outputs: int) -> _Solution:
    """The null space of all boundary equations, reweighted by each bracket's width in units of the score."""
    kept, classes = _enough(brackets, outputs)
    low, high, i, j = (a[kept] for a in (brackets.low, brackets.high, brackets.below, brackets.above))
    place = np.full(outputs, -1)
    place[classes] = np.arange(len(classes))
    rows = _equations((low + high) / 2, place[i], place[j], len(classes))
    width = np.linalg.norm(high - low, axis=1)
    d = low.shape[1]
    known = np.isin(labels, classes)
    for _ in range(3):
        scaled = rows / width[:, None]
        values, vectors = scipy.linalg.eigh(scaled.T @ scaled, subset_by_index=[0, 1])
        model = np.zeros((len(classes), d + 1))
        model[1:] = vectors[:, 0].reshape(len(classes) - 1, d + 1)
        right = ((points[known] @ model[:, :d].T + model[:, d]).argmax(1) == place[labels[known]]).mean()
        wrong = ((points[known] @ -model[:, :d].T - model[:, d]).argmax(1) == place[labels[known]]).mean()
        model = model if right >= wrong else -model
        difference = model[place[i]] - model[place[j]]
        score_low = np.einsum("nd,nd->n", difference[:, :d], low) + difference[:, d]
        score_high = np.einsum("nd,nd->n", difference[:, :d], high) + difference[:, d]
        span = np.abs(score_high - score_low)
        width = np.maximum(span, 0.1 * np.median(span) + 1e-300)
    misfit = float(np.median(np.abs(score_low + score_high) / 2 / width))
    weights = np.zeros((outputs, d))
    bias = np.full(outputs, -1e6 * max(float(np.abs(model).max()), 1e-300))  # a class never answered never wins
    weights[classes], bias[classes] = model[:, :d], model[:, d]
    gap = float(np.sqrt(max(values[1], 0.0) / max(values[0], 1e-16 * float(np.trace(scaled.T @ scaled)))))
    return _Solution(weights, bias, frozenset(int(k) for k in classes), gap, misfit)


def _enough(brackets: _Brackets, outputs: int) -> tuple[NDArray[np.bool_], Ints]:
    """Segments between classes that have at least d + 1 equations each, or, where few have, all."""
    kept = np.ones(len(brackets.below), bool)
    while True:
        counts = np.bincount(brackets.below[kept], minlength=outputs) + np.bincount(
            brackets.above[kept], minlength=outputs
        )
        poor = (counts > 0) & (counts <= brackets.low.shape[1])
        rich = np.flatnonzero((counts > 0) & ~poor)
        if not poor.any() or len(rich) < 2:
            return kept, np.flatnonzero(counts > 0)
        kept = kept & np.isin(brackets.below, rich) & np.isin(brackets.above, rich)


def _equations(x: Floats, i: Ints, j: Ints, classes: int) -> Floats:
    """Rows of (w_i - w_j) . x + (b_i - b_j) = 0 on the stacked weights of all classes but the first, which are zero."""
    n, d = x.shape
    extended = np.hstack([x, np.ones((n, 1))])
    rows = np.zeros((n, classes, d + 1))
    rows[np.arange(n), i] += extended
    rows[np.arange(n), j] -= extended
    return rows[:, 1:].reshape(n, -1)
