"""Linear classifiers from counterfactuals: one nearest counterfactual is the normal of the boundary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.attacks._frame import Frame
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.linear import LinearTarget
from understudy.types import Floats, Signal


@dataclass(frozen=True)
class Counterfactual:
    """The nearest input of the other class lies straight across the boundary; any other nearest one lies on it.

    Extracts:
        The boundary of a linear classifier of two classes. Its scale is in no counterfactual: labels alone are copied.

    Needs:
        Counterfactuals just beyond the boundary, with a label or scores beside them: nearest in the plain Euclidean
        distance, or in any other, weighted or not. Nothing of the attacker's.

    Cost:
        Euclidean: 1 query, and `checks` fresh ones that certify it. Another distance: d more.

    Reference:
        Aivodji, Bolot and Gambs, Model Extraction from Counterfactual Explanations, 2020 (the interface).

    Differs from the paper:
        The paper trains a surrogate on counterfactuals as labelled points, which shifts its boundary past theirs; here
        they are points of the boundary, and d of them are solved for it. Certified on fresh queries: every label is
        right and every counterfactual lies on the boundary. Counterfactuals that do not, such as diverse or robust
        ones and those of curved boundaries, are refused.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.COUNTERFACTUAL})
    adapts_to: ClassVar[frozenset[str]] = frozenset()
    checks: int = 10
    tolerance: float = 1e-5

    def opening(self, space: Any, outputs: int) -> int:
        """Queries before the first substitute, at the least."""
        return 1 + self.checks

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """One extraction, exact or refused; nothing where the budget ends before."""
        classes = {Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS} & target.exposure.signals
        if Signal.COUNTERFACTUAL not in target.exposure.signals or not classes or target.exposure.outputs != 2:
            reason = "two classes are needed, and labels or scores that say which side of the boundary is which"
            yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason})
            return
        frame = Frame.of(target, pool, rng)
        found = _Found(target, frame)
        for extra in (1, frame.d):
            if target.remaining < extra + self.checks:
                return
            found.ask(frame.sample(extra, rng))
            plane = found.euclidean() if extra == 1 else found.through()
            copy, error = found.judged(plane, frame.sample(self.checks, rng))
            if error <= self.tolerance:
                notes = {"fidelity": 1.0, "residual": error, "euclidean": extra == 1}
                yield Extraction(copy, target.spent, Verdict.EXACT, copy.parameters, notes)
                return
        reason = "counterfactuals do not lie on one hyperplane"
        yield Extraction(
            None, target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason, "residual": min(error, 1.0)}
        )


class _Found:
    """Inputs (n, d), their classes, and their counterfactuals (n, d), all of them in inputs' own units."""

    def __init__(self, target: Metered, frame: Frame) -> None:
        self._target, self._frame = target, frame
        self._x, self._other = np.zeros((0, frame.d)), np.zeros((0, frame.d))

    def ask(self, u: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Inputs, counterfactuals and classes of these points; those without a counterfactual are not kept."""
        x = self._frame.inputs(u)
        answers = self._target.query(x)
        flat, other = x.reshape(len(x), -1), np.asarray(answers[Signal.COUNTERFACTUAL], np.float64)
        kept = np.isfinite(other).all(1) & (other != flat).any(1)
        self._x, self._other = np.concatenate([self._x, flat[kept]]), np.concatenate([self._other, other[kept]])
        return flat, other, answers.labels()

    def euclidean(self) -> tuple[Floats, float]:
        """The plane through the first counterfactual, straight across the way to it."""
        if not len(self._x):
            return np.zeros(self._frame.d), 0.0
        normal = self._other[0] - self._x[0]
        normal = normal / np.linalg.norm(normal)
        return normal, -float(normal @ self._other[0])

    def through(self) -> tuple[Floats, float]:
        """The plane that comes nearest to all counterfactuals, columns measured by the frame."""
        if not len(self._x):
            return np.zeros(self._frame.d), 0.0
        u = (self._other - self._frame.middle) / self._frame.half
        normal = np.linalg.svd(u - u.mean(0))[2][-1] / self._frame.half
        normal = normal / np.linalg.norm(normal)
        return normal, -float(normal @ self._other.mean(0))

    def judged(self, plane: tuple[Floats, float], u: Floats) -> tuple[LinearTarget, float]:
        """The copy with that boundary, and its error on fresh points: 1 where a label is wrong.

        Else the largest distance of a counterfactual from the boundary, relative to how far it is from its input.
        """
        (normal, offset), (x, other, labels) = plane, self.ask(u)
        agreed = ((x @ normal + offset > 0) == (labels == 1)).mean() >= 0.5
        normal, offset = (normal, offset) if agreed else (-normal, -offset)
        copy = LinearTarget(
            np.stack([-normal, normal]) / 2, np.array([-offset, offset]) / 2, self._frame.space, scored=False
        )
        kept = np.isfinite(other).all(1)
        right = copy.query(x.reshape(-1, *self._frame.space.shape)).labels() == labels
        if not right.all() or not kept.any():
            return copy, 1.0
        far = np.abs(other[kept] @ normal + offset)
        return copy, float(far.max() / max(float(np.linalg.norm(other[kept] - x[kept], axis=1).max()), 1e-300))
