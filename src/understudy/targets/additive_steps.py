"""Sums of step functions as targets: what boosted trees and forests are, term by term. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.targets.linear import softmax
from understudy.types import Answers, Ask, Bools, Exposure, Floats, Signal, Space

StepLink = Literal["softmax", "probabilities", "identity"]
Ints = NDArray[np.int64]

_CELLS = 2**22  # products held at once


@dataclass(frozen=True, eq=False)
class AdditiveStepsTarget:
    """f(x) = constant + sum over terms of weight * (1 where every threshold of the term is exceeded, else 0).

    `feature` and `threshold`, shape (m,): step j is "x[feature[j]] > threshold[j]", or where the threshold is NaN
    "x[feature[j]] is missing". `terms`, shape (t, order): indices of the steps of each term, -1 where it has fewer.
    `weights` (t, k) and `constant` (k,). `single`: x is compared as float32.

    `softmax`: the sums are logits (k = 1: of the second class of two) and label, probabilities and logits are answered;
    `probabilities`: the sums are the probabilities (k = 1: of the second class); `identity`: they are values.
    """

    feature: Ints
    threshold: Floats
    terms: Ints
    weights: Floats
    constant: Floats
    space: Space
    link: StepLink = "identity"
    single: bool = True

    @property
    def exposure(self) -> Exposure:
        k = len(self.constant)
        if self.link == "identity":
            return Exposure.of(Signal.VALUE, k)
        signals = [Signal.LABEL, Signal.PROBABILITIES] + ([Signal.LOGITS] if self.link == "softmax" else [])
        return Exposure.of(signals, max(k, 2))

    @property
    def parameters(self) -> dict[str, Floats | Ints]:
        """The arrays that make this model."""
        return {
            "feature": self.feature,
            "threshold": self.threshold,
            "terms": self.terms,
            "weights": self.weights,
            "constant": self.constant,
        }

    def design(self, inputs: Floats) -> Bools:
        """Which terms hold for which inputs, shape (n, t)."""
        x = inputs.reshape(len(inputs), -1)
        if self.single:
            x = x.astype(np.float32)
        above = np.ones((len(x), len(self.threshold) + 1), np.bool_)  # the last column stands for "no step"
        above[:, :-1] = np.where(
            np.isnan(self.threshold), np.isnan(x[:, self.feature]), x[:, self.feature] > self.threshold
        )
        holds = np.ones((len(x), len(self.terms)), np.bool_)
        for steps in self.terms.T:
            holds &= above[:, steps]
        return holds

    def scores(self, inputs: Floats) -> Floats:
        """(n, k) sums."""
        chunk = max(_CELLS // max(len(self.terms), 1), 1)
        parts = [self.design(inputs[i : i + chunk]) @ self.weights for i in range(0, len(inputs), chunk)]
        return np.concatenate([np.zeros((0, len(self.constant))), *parts]) + self.constant

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Every signal this model can produce, or those that `ask` names."""
        z = self.scores(self.space.check(inputs))
        if self.link == "identity":
            return Answers({Signal.VALUE: z}, z.shape[1])
        if z.shape[1] == 1:
            z = np.hstack([1 - z if self.link == "probabilities" else 0 * z, z])
        p = z if self.link == "probabilities" else softmax(z)
        values = {Signal.LABEL: z.argmax(1) if len(z) else np.zeros(0, np.int64), Signal.PROBABILITIES: p}
        if self.link == "softmax":
            values[Signal.LOGITS] = z
        answers = Answers(values, z.shape[1])
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)
