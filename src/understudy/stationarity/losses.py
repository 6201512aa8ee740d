"""Losses summed over the training set: value-free, only gradients and what the Hessian does to a direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from understudy.types import Floats


@dataclass(frozen=True, eq=False)
class Slope:
    """A loss at one model, as a function of the weights (k, d), the bias (k,) aside.

    `per_row`: derivative by each score, shape (n, k). `bend` maps changes of scores (n, k) to changes of `per_row`.
    """

    inputs: Floats
    per_row: Floats
    bend: Callable[[Floats], Floats]

    @property
    def gradient(self) -> Floats:
        """(k, d)."""
        return self.per_row.T @ self.inputs

    @property
    def bias(self) -> Floats:
        """Gradient by the bias, (k,)."""
        return np.asarray(self.per_row.sum(0))

    def hessian(self, direction: Floats) -> Floats:
        """The Hessian of the weights times a direction (k, d)."""
        return self.bend(self.inputs @ direction.T).T @ self.inputs


Loss = Callable[[Floats, Floats, Floats], Slope]  # inputs (n, d), scores (n, k), truth (n, k)


def squares(x: Floats, scores: Floats, truth: Floats) -> Slope:
    """Half the squared error."""
    return Slope(x, scores - truth, lambda u: u)


def logistic(x: Floats, scores: Floats, truth: Floats) -> Slope:
    """Cross-entropy: of a sigmoid for one score (truth 0 or 1), of a softmax for several (truth one-hot)."""
    if scores.shape[1] == 1:
        p = 0.5 * (1 + np.tanh(scores / 2))
        return Slope(x, np.where(truth > 0, -0.5 * (1 - np.tanh(scores / 2)), p), lambda u: p * (1 - p) * u)
    e = np.exp(scores - scores.max(1, keepdims=True))
    q = e / e.sum(1, keepdims=True)
    return Slope(x, q - truth, lambda u: q * (u - (q * u).sum(1, keepdims=True)))


def squared_hinge(x: Floats, scores: Floats, truth: Floats) -> Slope:
    """max(0, 1 - y f)^2 of each score against the others, y = 1 or -1 (truth 0 or 1)."""
    sign = 2 * truth - 1
    short = np.maximum(1 - sign * scores, 0)
    return Slope(x, -2 * sign * short, lambda u: 2 * (short > 0) * u)
