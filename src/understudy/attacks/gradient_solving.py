"""Linear models and one hidden ReLU layer from input gradients: each gradient is d equations at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from understudy.attacks._bought import Spent
from understudy.attacks._frame import Frame
from understudy.attacks._jacobians import Jacobian
from understudy.attacks._relu_net import Net, Units, assemble
from understudy.attacks._slopes import Raw, Seen, Slopes, beside
from understudy.protocols import Extraction, Metered, Pool, Target, Verdict
from understudy.targets.linear import LinearTarget
from understudy.types import Floats, Signal

_STEP = 1e-4  # of the frame, to a point beside the first: the slope there tells whose gradients these are
_RANK = 1e-5  # second singular value of a jump relative to the first, at most: a unit's jump has rank one
_NEAR = 1e-7  # share of a segment, either side of a kink
_NARROW = 1e-10  # share of a segment below which kinks are not told apart


class _Misfit(Exception):
    """The target is not of the family, and why."""


@dataclass(frozen=True)
class GradientSolving:
    """One answer and its gradient fix a linear model; two of them either side of a kink fix a hidden ReLU unit.

    Extracts:
        Weights and biases of linear, logistic and softmax models, and of networks with one hidden ReLU layer (up to
        what no input shows: scale and order of units, what all classes share).

    Needs:
        Attributions that are input gradients, of probabilities, of logits, of log-odds (two classes) or of values,
        with values, logits or probabilities beside them; float64 for networks. Nothing of the attacker's, but rows
        help where the box is much wider than the data. Units that bend only where nothing is drawn stay unseen.

    Cost:
        A linear model: 1 query solves it, 1 beside it tells whose gradients these are, and `checks` fresh ones
        certify it; up to 24 more where the middle of the space is saturated. A network of h units: some 2 h more
        (one output: 3 h), the search along lines included, and `network_checks`
        fresh ones: a unit that bends nowhere near any of these stays unseen.

    Reference:
        Milli, Schmidt, Dragan and Hardt, Model Reconstruction from Model Explanations, FAT* 2019.

    Differs from the paper:
        Gradients come with answers, as explanation interfaces give them, and are used with them: both sides of a
        kink are linear, so their intersection is the kink, and bisecting towards it is left out (the paper: h log of
        1 / precision queries). A kink counts as one unit where the answer at the intersection confirms it. Instead of
        one line, segments to points whose answers are not yet explained are searched, until fresh points are. Several
        outputs are solved at once; whose gradients they are is learned from the answers. A target of another family
        is refused: a jump of more than rank one, or a unit that unexplains answers explained before.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.ATTRIBUTION})
    adapts_to: ClassVar[frozenset[str]] = frozenset()
    checks: int = 10
    network_checks: int = 50
    attempts: int = 3
    tolerance: float = 1e-7

    def opening(self, space: Any, outputs: int) -> int:
        """Queries before the first substitute, at the least."""
        return 2 + self.checks

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """One extraction, exact or refused; nothing where the budget ends before."""
        signal = beside(target.exposure)
        if signal is None:
            reason = "gradients alone leave biases open: values, logits or all probabilities are needed beside them"
            yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason})
            return
        scores = Slopes(target, Frame.of(target, pool, rng), signal)
        reason = ""
        for _ in range(self.attempts):
            try:
                yield self._solve(scores, rng)
            except Spent:
                return
            except _Misfit as misfit:
                reason = str(misfit)
                continue
            return
        yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason})

    def _solve(self, scores: Slopes, rng: Generator) -> Extraction:
        base = _base(scores, rng)
        towards = rng.standard_normal(base.u.shape)
        towards *= np.where(base.u * towards > 0, -1, 1)  # inwards
        beside = scores.buy(base.u + _STEP * towards / np.abs(towards).max())
        if scores.relative == 1:
            raise _Misfit("answers or attributions are rounded")
        kind = scores.kind(base, beside)
        known = scores.read(_join(base, beside), kind)
        if np.isnan(known.noise).any():
            raise _Misfit("answers are saturated")
        search = _Search(scores, kind, known, max(self.tolerance, 64 * scores.relative))
        if search.unexplained(known).any():
            raise _Misfit("the gradients are not those of a piecewise linear model")
        fresh, wanted = 0, self.checks
        while fresh < wanted:
            points = scores.read(scores.buy(scores.frame.sample(self.checks, rng)), kind)
            odd = np.flatnonzero(search.unexplained(points))
            usable = int((~np.isnan(points.noise)).sum())
            if not usable:
                raise _Misfit("answers are saturated")
            fresh, wanted = (0, self.network_checks) if len(odd) else (fresh + usable, wanted)
            for row in odd.tolist():
                search.follow(_row(points, row))
            search.keep(points)
        copy = search.copy()
        notes = {
            "fidelity": 1.0,
            "gradients_of": kind,
            "units": len(search.units),
            "check_queries": fresh,
            "residual": search.residual(points),
        }
        return Extraction(copy, scores.target.spent, Verdict.EXACT, copy.parameters, notes)  # type: ignore[attr-defined]


def _join(a: Raw, b: Raw) -> Raw:
    return Raw(*(np.concatenate(parts) for parts in zip(a, b, strict=True)))


def _row(seen: Seen, row: int) -> Seen:
    return Seen(*(part[row : row + 1] for part in seen))


def _base(scores: Slopes, rng: Generator) -> Raw:
    """The middle of the space where answers are not saturated, else the least saturated of a few points."""
    found = scores.buy(np.clip(0.05 * rng.standard_normal((1, scores.frame.d)), -0.5, 0.5))
    if scores.signal is Signal.PROBABILITIES:
        for _ in range(3):
            if found.answers.min(1).max() > 1e-3:
                break
            found = _join(found, scores.buy(scores.frame.sample(8, rng)))
    best = int(np.nan_to_num(found.answers.min(1)).argmax()) if scores.signal is Signal.PROBABILITIES else 0
    return Raw(*(part[best : best + 1] for part in found))


class _Search:
    """The network as far as it is known: linear around the base, and units whose kinks were crossed."""

    def __init__(self, scores: Slopes, kind: Any, known: Seen, tolerance: float) -> None:
        self.scores, self.kind, self.tolerance = scores, kind, tolerance
        self.base, self._kept = _row(known, 0), known
        m, d = known.slopes.shape[1:]
        self.units = Units.none(m, d)
        self._steep = float(np.abs(known.slopes).max())
        self.net = self._net()

    def _net(self) -> Net:
        seen = Jacobian(self.base.u[0], self.base.slopes[0], float(self.base.noise[0]), True)
        return assemble(self.units, seen, self.base.u, self.base.y, self.base.noise, closed=1e-9)

    def _left(self, seen: Seen) -> tuple[Floats, Floats]:
        """What the net leaves of scores (n, m) and slopes (n, m, d)."""
        net = self.net
        slopes = np.stack([net.units.slopes(u) for u in seen.u])
        return seen.y - net.predict(seen.u), seen.slopes - (slopes if net.skip is None else slopes + net.skip)

    def _errors(self, seen: Seen) -> Floats:
        """(n,) errors of scores and slopes, relative to their size, beyond what noise explains; NaN where unknown."""
        y, slopes = self._left(seen)
        size = max(float(np.abs(self._kept.y).max()), self._steep, 1e-300)
        error = np.maximum(np.abs(y).max(1), np.abs(slopes).max((1, 2)))
        return np.asarray(np.maximum(error - 30 * seen.noise, 0) / size)

    def unexplained(self, seen: Seen) -> Any:
        """(n,) whose answers the net does not give; unusable ones do not count."""
        return self._errors(seen) > self.tolerance

    def residual(self, seen: Seen) -> float:
        """The largest relative error among usable answers."""
        return float(np.nanmax(self._errors(seen), initial=0.0))

    def keep(self, seen: Seen) -> None:
        """Remember answers that were explained; refuse where that is no longer so."""
        self._kept = Seen(*(np.concatenate(parts) for parts in zip(self._kept, seen, strict=True)))
        if self.unexplained(self._kept).any():
            raise _Misfit("units found on one line do not explain the answers on another")

    def follow(self, end: Seen) -> None:
        """Find the units that bend between the base and a point that is not explained."""
        if not self.unexplained(end).any():
            return
        found = list[tuple[Floats, Floats, float]]()
        open_ = [(self.base, end)]
        while open_:
            a, b = open_.pop()
            middle = self._between(a, b, found)
            if middle is not None:
                open_ += [(middle, b), (a, middle)]
        directions, rows, offsets = (np.array(part) for part in zip(*found, strict=True))
        self.units = self.units.join(Units(directions, rows, offsets))
        self._steep = max(self._steep, float(np.abs(end.slopes).max()))
        self.net = self._net()

    def _between(self, a: Seen, b: Seen, found: list[tuple[Floats, Floats, float]]) -> Seen | None:
        """Where to part a segment; None where it has no kink, or one that was found."""
        (ra, rb), (ga, gb) = ((y[0] for y in pair) for pair in zip(self._left(a), self._left(b), strict=True))
        way = b.u[0] - a.u[0]
        jump, gap = gb - ga, rb - ra - ga @ way
        noise = float(max(a.noise[0], b.noise[0], self.base.noise[0]))
        small = self.tolerance * self._steep + 30 * noise
        if np.abs(jump).max() <= small and np.abs(gap).max() <= small:
            return None
        length = float(np.abs(way).max())
        if length < _NARROW:
            raise _Misfit("kinks too close to be told apart, or no kinks")
        bend = jump @ way
        share = 1 - float(gap @ bend) / max(float(bend @ bend), 1e-300)
        if not 0 < share < 1:
            return self._ask(a.u + 0.5 * way)
        if len(bend) == 1:
            return self._one_output(a, b, share, jump[0], small, found)
        at = self._ask(a.u + share * way)
        left = self._left(at)[0][0] - ra - share * (ga @ way)
        outer, sizes, inner = np.linalg.svd(jump, full_matrices=False)
        alone = sizes[1] <= _RANK * sizes[0] + small
        if alone and np.abs(left).max() <= self.tolerance * np.abs(bend).max() + 30 * noise:
            row = inner[0] * np.sign(inner[0] @ way)
            found.append((outer[:, 0] * np.sign(inner[0] @ way), sizes[0] * row, -sizes[0] * float(row @ at.u[0])))
            return None
        return at if 1e-3 < share < 1 - 1e-3 else self._ask(a.u + 0.5 * way)

    def _one_output(
        self, a: Seen, b: Seen, share: float, jump: Floats, small: float, found: list[tuple[Floats, Floats, float]]
    ) -> Seen | None:
        """The same for one output, where every jump has rank one: slopes either side of the kink tell if it is one.

        The answer there does not: two kinks that turn back from each other leave an intersection beside both.
        """
        way = b.u - a.u
        at = a.u + share * way
        beside = self._ask(np.concatenate([at - _NEAR * way, at + _NEAR * way]))
        slopes = self._left(beside)[1] - np.concatenate([self._left(a)[1], self._left(b)[1]])
        if np.abs(slopes).max() <= small:
            sign = np.sign(jump @ way[0])
            found.append((np.array([sign]), sign * jump, -float(sign * jump @ at[0])))
            return None
        return _row(beside, 1) if 1e-3 < share < 1 - 1e-3 else self._ask(a.u + 0.5 * way)

    def _ask(self, u: Floats) -> Seen:
        seen = self.scores.read(self.scores.buy(u), self.kind)
        if np.isnan(seen.noise).any():
            raise _Misfit("answers are saturated on the way")
        return seen

    def copy(self) -> Target:
        """The target's copy: linear, or a network."""
        scores, value = self.scores, self.scores.signal is Signal.VALUE
        if len(self.units):
            return self.net.target(scores.frame, scores.basis, value)
        y, slopes = self.base.y[0], self.base.slopes[0]
        weights, bias = scores.frame.weights(slopes, y - slopes @ self.base.u[0])
        link: Any = "identity" if value else "softmax"
        return LinearTarget(scores.basis.T @ weights, scores.basis.T @ bias, scores.frame.space, link)
