"""A small network trained on classes of two, and on points known to lie beyond the boundary, no matter how far."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.random import Generator

from understudy.targets.network import NetworkTarget
from understudy.types import Bools, Floats, Space

Way = Literal["clamped", "as labels", "unused"]


@dataclass(frozen=True)
class Clamped:
    """Adam on the cross-entropy of labels; of counterfactuals only while they lie on the wrong side (`clamped`)."""

    hidden: tuple[int, ...] = (64, 32)
    steps: int = 1500
    batch: int = 64
    rate: float = 5e-3
    penalty: float = 1e-4

    def fit(
        self, x: Floats, labels: Floats, other: Floats, beyond: Floats, way: Way, space: Space, rng: Generator
    ) -> NetworkTarget:
        """A substitute of two classes.

        `x` (n, d) answered `labels` (n,) 0 or 1; `other` (m, d) counterfactuals, said to be of class `beyond` (m,).
        """
        if way == "unused":
            other, beyond = other[:0], beyond[:0]
        rows, wanted = np.concatenate([x, other]), np.concatenate([labels, beyond])
        clamp = np.arange(len(rows)) >= (len(x) if way == "clamped" else len(rows))
        middle, spread = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)
        layers = self._trained((rows - middle) / spread, wanted, clamp, rng)
        first, bias = layers[0][0] / spread, layers[0][1]
        made = [(first, bias - first @ middle), *layers[1:]]
        out, last = made[-1]
        made[-1] = (np.vstack([0 * out, out]), np.concatenate([0 * last, last]))
        return NetworkTarget(tuple(made), space)

    def _trained(self, x: Floats, wanted: Floats, clamp: Bools, rng: Generator) -> list[tuple[Floats, Floats]]:
        widths = [x.shape[1], *self.hidden, 1]
        weights = [rng.normal(0, np.sqrt(2 / a), (b, a)) for a, b in pairwise(widths)]
        biases = [np.zeros(b) for b in widths[1:]]
        parameters = [*weights, *biases]
        first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
        k = len(weights)
        for step in range(1, self.steps + 1):
            chosen = rng.integers(len(x), size=min(self.batch, len(x)))
            values = [x[chosen]]
            for w, b in zip(weights[:-1], biases[:-1], strict=True):
                values.append(np.maximum(values[-1] @ w.T + b, 0))
            p = 0.5 + 0.5 * np.tanh(0.5 * (values[-1] @ weights[-1].T + biases[-1])[:, 0])
            target, held = wanted[chosen], clamp[chosen]
            error = np.where(held, p - 0.5, p - target)
            error = np.where(held & ((p > 0.5) == (target > 0.5)), 0.0, error)  # it lies beyond already
            slope, gradients = (error / len(chosen))[:, None], list[Floats]()
            for i in reversed(range(k)):
                gradients = [slope.T @ values[i] + self.penalty * weights[i], *gradients, slope.sum(0)]
                if i:
                    slope = (slope @ weights[i]) * (values[i] > 0)
            order = [*gradients[:k], *reversed(gradients[k:])]
            rate = self.rate * min(1.0, 2 * (1 - step / (self.steps + 1)))
            for p_, g, m, v in zip(parameters, order, first, second, strict=True):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p_ -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        return list(zip(weights, biases, strict=True))
