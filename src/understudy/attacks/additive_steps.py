"""Boosted trees and forests from scores: a sum of step functions, solved term by term."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from understudy.attacks._bought import Precision
from understudy.attacks._frame import Frame
from understudy.attacks._step_grid import Grid, settle
from understudy.attacks._step_learning import closeness, learn
from understudy.attacks._step_scores import Scores
from understudy.attacks._step_terms import Found, chase, scattered, sweep, together, uneven
from understudy.errors import BudgetExceeded
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.additive_steps import StepLink
from understudy.types import Floats, Signal

_JUMP = 1e-5  # of the space's width: a shift that few steps lie within, and that changes any smooth answer
_PAIRS = 24  # pairs of features on which the link is tried
_FIRST, _MOST = 16, 256  # fresh points asked at once
_BATCH = 32  # chases side by side
_HELD, _FEWEST = 500, 5  # answers held out to judge a trained copy on
_LOST = 8  # chases, and one more per 20 terms, that may end without a term: beyond that no sum of steps is behind it


@dataclass(frozen=True)
class AdditiveSteps:
    """Trees summed are a polynomial in steps "x_i > a": sweep the axes, then chase what stays unexplained.

    Extracts:
        Every threshold, and the weight of every product of steps: a copy equal to the ensemble everywhere, in the gauge
        in which the lowest corner of the space is the constant. In practice boosted trees and forests of depth 1 to
        3; deeper ones have more terms than budgets hold, and a trained copy is made of them.

    Needs:
        Values, logits or probabilities, every output, unrounded. Of probabilities the attack finds out whether they
        or their log-ratios are sums. Inputs anywhere inside the space, gaps included where the space has any.

    Cost:
        About 25 queries per threshold (it is bisected to neighbouring float32 numbers) and 15 per product of thresholds
        already known, 6 per axis for the sweep, and the check queries: 10 % of the rest, `checks` at least. Where
        features only add, one query halves thresholds of up to eight features at once, and a threshold takes about 10.
        8 queries refuse a smooth model. Where inputs are compared as float64, a threshold takes 29 more, which up to
        eight share, or 4 where it is a round number (0.135). With less than a share `reserve` of the budget left, or
        once products of more than `deepest` steps turn up, the rest is spent on a trained copy.

    Reference:
        Line scans by bisection, on single trees: Tramer, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016,
        section 4.2.

    Differs from the paper:
        The paper solves no ensembles. Here a sum of trees is taken for a polynomial in steps, whose Moebius transform
        over a product of chains is sparse: terms are found by lowering the coordinates of a point that the model so
        far does not explain, features by halving and thresholds by bisection, until the unexplained part is one term.
        Fresh points, half of them uniform, certify the copy once all are explained; equal steps up and down inside one
        interval are met by chance or not at all. Float32 answers are fitted again by least squares; exact then means
        to their precision. Targets that compare float64 numbers are told from those that compare float32 ones, and
        their thresholds are then settled to the last bit.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset()
    checks: int = 250
    probes: int = 6
    deepest: int = 4
    reserve: float = 0.3
    learner: str = "boosting"
    train: bool = True  # False: what cannot be solved is refused, for a suite that has other attacks to go on with

    def opening(self, space: Any, outputs: int) -> int:
        """Queries before its substitute, at the least: a sweep along every axis, and twenty thresholds."""
        return self.probes * int(np.prod(space.shape)) + 500

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """One extraction: exact, trained, or none for a target that is not piecewise constant.

        Notes: `way`, solved or trained on what; `reason`, why it was not solved; `terms` by number of steps; `steps`,
        thresholds found; `link`; `grid`, on which inputs are compared; `fidelity`.
        """
        if any(grain.top_k is not None for s, grain in target.exposure.grains.items() if s is not Signal.LABEL):
            return
        hunt = _Hunt(self, target, pool, rng)
        try:
            reason = hunt.refused() or hunt.solve(int(self.reserve * target.remaining))
        except BudgetExceeded:
            reason = "the budget ended"
        yield from hunt.ended(reason)


class _Hunt:
    """One run: the terms found, the points not explained yet, and how many fresh ones in a row were."""

    def __init__(self, attack: AdditiveSteps, target: Metered, pool: Pool, rng: Generator) -> None:
        frame = Frame.of(target, pool, rng)
        self._attack, self._target, self._rng = attack, target, rng
        self._scores, self._rows = Scores(target, frame), frame.inputs(frame.data).reshape(-1, frame.d)
        self._found: Found | None = None
        self._grid = Grid()
        self._open = np.zeros((0, frame.d))
        self._explained, self._residual = 0, np.inf
        self._smooth = False

    def refused(self) -> str:
        """Why the target is of another family: several points are answered otherwise a hair's breadth away.

        Four points anywhere, and four of the attacker's rows: scores may be saturated everywhere else.
        """
        scores, low, high = self._scores, self._scores.low, self._scores.high
        rows = self._rows[self._rng.permutation(len(self._rows))[:4]]
        x = np.concatenate([self._rng.uniform(low, high, (4, scores.d)), rows])
        n = len(x)
        x = np.where(scores.whole, scores.held(x), x)
        moved = x + ~scores.whole * (high - low) * np.where(x > (low + high) / 2, -_JUMP, _JUMP)
        sums, rounding = scores.ask(np.concatenate([x, moved]))
        self._smooth = bool((np.abs(sums[:n] - sums[n:]).max(1) > rounding[:n]).sum() > 2)
        if self._smooth:
            return "answers change with every small change of the input"
        precision = Precision.of(scores.raw.ravel())
        if (
            not self._attack.train and not precision.is_float
        ):  # a forest's, perhaps, or rounded: either may be trained on
            return f"answers of {precision} are too coarse to be solved"
        return ""

    def solve(self, floor: int) -> str:
        """Find terms until fresh points are explained; else why not. At least `floor` queries are left."""
        scores = self._scores
        probes = scores.held(np.linspace(scores.low, scores.high, self._attack.probes + 2)[1:-1])
        if scores.signal is Signal.PROBABILITIES:
            scores.linked("probabilities")
            scores.linked("probabilities" if self._adds_up(uneven(scores, probes)) else "softmax")
        found = self._found = Found(scores)
        for term in sweep(scores, probes, self._rng):
            found.add(term)
        lost, side, fresh, refitted = 0, 8, _FIRST, 0
        while self._target.remaining > floor:
            if not len(self._open):
                need = max(self._attack.checks, self._target.spent // 11) - self._explained
                if need <= 0:
                    if scores.single:
                        found.refit()
                    self._residual = found.residual()
                    self._grid = settle(found)
                    return ""
                fresh = self._check(found, min(fresh, need, self._target.remaining))
                continue
            orders = [self._rng.permutation(scores.d) for _ in self._open[:side]]
            terms = together([chase(x.copy(), found, o) for x, o in zip(self._open, orders, strict=False)], found)
            new = sum(found.add(term) for term in terms)
            if scores.single and (not new or len(found.terms) > 1.1 * refitted):
                found.refit()
                refitted = len(found.terms)
            if not new:
                lost, self._open = lost + len(orders), self._open[side:]
            if found.order > self._attack.deepest:
                return f"products of {found.order} steps: too deep"
            if lost > _LOST + len(found.terms) // 20:
                return "what is left over is no sum of steps"
            self._open = self._unexplained(found, self._open)
            side = int(np.clip(2 * new, 2, _BATCH))
        return "more terms than the budget holds"

    def _check(self, found: Found, n: int) -> int:
        """Ask `n` fresh points, half of them uniform, and keep those that are not explained; how many to ask next."""
        scores = self._scores
        uniform = scores.held(self._rng.uniform(scores.low, scores.high, (n - n // 2, scores.d)))
        x = np.concatenate([uniform, scattered(found, n // 2, self._rows, self._rng)])
        self._open = self._unexplained(found, x)
        if scores.single and 0 < len(self._open) <= n // 4:  # few: rounding, perhaps, of weights measured once
            found.refit()
            self._open = self._unexplained(found, self._open)
        self._explained = 0 if len(self._open) else self._explained + n
        return _FIRST if len(self._open) else min(2 * n, _MOST)

    def _unexplained(self, found: Found, x: Floats) -> Floats:
        return x[found.left_over(x, *self._scores.ask(x))]

    def _adds_up(self, features: list[int]) -> bool:
        """Whether probabilities themselves, rather than their log-ratios, are sums.

        Most pairs of features do not meet in any tree: raising both changes a sum by both changes.
        """
        scores = self._scores
        if scores.zeros or len(features) < 2:
            return scores.zeros
        pairs = np.array([self._rng.choice(features, 2, replace=False) for _ in range(_PAIRS)])
        x = np.tile(scores.low, (4, _PAIRS, 1))
        for corner, raised in enumerate(((), (0,), (1,), (0, 1))):
            for j in raised:
                x[corner, np.arange(_PAIRS), pairs[:, j]] = scores.high[pairs[:, j]]
        apart = dict[str, int]()
        links: tuple[StepLink, ...] = ("softmax", "probabilities")
        for link in links:
            scores.linked(link)
            sums, rounding = scores.ask(x.reshape(-1, scores.d))
            sums = sums.reshape(4, _PAIRS, -1)
            mixed = np.abs(sums[0] - sums[1] - sums[2] + sums[3]).max(1)
            apart[link] = int((mixed > 2 * rounding.reshape(4, -1).max(0)).sum())
        return apart["probabilities"] < apart["softmax"]

    # what is said of it

    def ended(self, reason: str) -> Iterator[Extraction]:
        """The copy: solved where there is no `reason` why it is not; trained, where enough is left for that."""
        notes = {"reason": reason} if reason else {}
        if self._smooth or (reason and not self._attack.train):
            yield Extraction(None, self._target.spent, Verdict.NOT_OF_FAMILY, None, notes | {"family": "none"})
        elif self._found is not None and not reason:
            yield self._solved(self._found)
        else:
            yield from self._trained(notes)

    def _solved(self, found: Found) -> Extraction:
        copy = self._grid.applied(found.copy())
        notes = self._notes() | {
            "way": "solved",
            "fidelity": 1.0,
            "residual": self._residual,
            "check_queries": self._explained,
            "grid": "float32" if self._grid.single else "float64",
            "unsettled_steps": self._grid.unsettled,
        }
        return Extraction(copy, self._target.spent, Verdict.EXACT, copy.parameters, notes)

    def _trained(self, notes: dict[str, Any]) -> Iterator[Extraction]:
        """A learner's copy from everything bought and what is left, chosen and judged on an eighth of the latter."""
        scores, held = self._scores, min(self._target.remaining // 8, _HELD)
        if held < _FEWEST:
            return
        apart = self._natural(held)
        answers = self._target.query(apart)
        while self._target.remaining:
            scores.ask(self._natural(min(self._target.remaining, _MOST)).reshape(-1, scores.d))
        edges = tuple(np.array([b for b, _ in (self._found.steps(i) if self._found else ())]) for i in range(scores.d))
        copies = learn(self._attack.learner, self._target.space, edges, scores.answers(), self._rng)
        closest = {name: closeness(copy, apart, answers) for name, copy in copies.items()}
        name = max(closest, key=lambda name: closest[name])
        notes |= {"fidelity": closest[name], "way": f"trained on {name}", "held_out": held, "scores": closest}
        yield Extraction(copies[name], self._target.spent, Verdict.APPROXIMATE, None, self._notes() | notes)

    def _natural(self, n: int) -> Floats:
        """(n, *shape): half of them the attacker's rows crossed where there are two, the others uniform."""
        space = self._target.space
        x, half = space.sample(n, self._rng), n // 2
        if len(self._rows) > 1:
            a, b = self._rows[self._rng.integers(len(self._rows), size=(2, half))]
            mixed = np.where(self._rng.random(a.shape) < self._rng.uniform(0, 0.5, (half, 1)), b, a)
            x[:half] = mixed.reshape(half, *space.shape)
        return x

    def _notes(self) -> dict[str, Any]:
        found = self._found
        if found is None:
            return {}
        orders = np.bincount([len(steps) for steps in found.terms], minlength=2)[1:]
        return {"link": self._scores.link, "steps": len(found.above), "terms": orders.tolist()}
