"""Kernel ridge regression as a target. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from understudy.types import Answers, Ask, Exposure, Floats, Signal, Space

_CELLS = 2**22  # similarities held at once


@dataclass(frozen=True, eq=False)
class KernelTarget:
    """f(x) = sum over the rows of dual * exp(-gamma |x - row|^2). `rows` (n, d), `dual` (n, outputs)."""

    rows: Floats
    dual: Floats
    gamma: float
    space: Space

    @property
    def exposure(self) -> Exposure:
        return Exposure.of(Signal.VALUE, self.dual.shape[1])

    @property
    def parameters(self) -> dict[str, Floats]:
        """The arrays that make this model."""
        return {"rows": self.rows, "dual": self.dual, "gamma": np.array(self.gamma)}

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Values (n, outputs)."""
        x = self.space.check(inputs)
        x = x.reshape(len(x), self.rows.shape[1])
        step = max(_CELLS // len(self.rows), 1)
        parts = [gaussian(x[i : i + step], self.rows, self.gamma) @ self.dual for i in range(0, len(x), step)]
        return Answers({Signal.VALUE: np.concatenate([np.zeros((0, self.dual.shape[1])), *parts])}, self.dual.shape[1])


def gaussian(a: Floats, b: Floats, gamma: float) -> Floats:
    """(len(a), len(b)) exp(-gamma |a - b|^2)."""
    return np.asarray(np.exp(-gamma * squared(a, b)))


def squared(a: Floats, b: Floats) -> Floats:
    """(len(a), len(b)) squared distances, 0 at the least."""
    apart = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    return np.asarray(np.maximum(apart, 0.0))
