"""Linear models as targets: softmax, one-vs-rest, binary logistic and linear regression. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from understudy.types import Answers, Ask, Exposure, Floats, Signal, Space

Link = Literal["softmax", "one-vs-rest", "identity"]


def softmax(logits: Floats) -> Floats:
    """Row-wise softmax, shape (n, c), safe for any finite logits."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def normalised_sigmoid(logits: Floats) -> Floats:
    """One-vs-rest probabilities: each class's sigmoid, divided by their sum. Shape (n, c)."""
    log_p = -np.logaddexp(0.0, -logits)
    return softmax(log_p)


@dataclass(frozen=True, eq=False)
class LinearTarget:
    """A linear model: weights (c, d), bias (c,), and the link by which scores become answers.

    `softmax` and `one-vs-rest` answer label, probabilities and logits; `identity` answers values (regression).
    A binary logistic model has two rows; only their difference matters. `scored=False`: only the labels of this model
    mean anything (it was solved from labels), so nothing else is answered.
    """

    weights: Floats
    bias: Floats
    space: Space
    link: Link = "softmax"
    scored: bool = True

    @property
    def exposure(self) -> Exposure:
        if self.link == "identity":
            return Exposure.of(Signal.VALUE, len(self.bias))
        signals = [Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS] if self.scored else [Signal.LABEL]
        return Exposure.of(signals, len(self.bias))

    @property
    def parameters(self) -> dict[str, Floats]:
        """The arrays that make this model, in its own gauge."""
        return {"weights": self.weights, "bias": self.bias}

    def scores(self, inputs: Floats) -> Floats:
        """(n, c) linear scores."""
        return np.asarray(inputs.reshape(len(inputs), self.weights.shape[1]) @ self.weights.T + self.bias)

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Every signal this model can produce, or those that `ask` names."""
        z = self.scores(self.space.check(inputs))
        if self.link == "identity":
            return Answers({Signal.VALUE: z}, z.shape[1])
        values = {Signal.LABEL: z.argmax(1) if len(z) else np.zeros(0, np.int64)}
        if self.scored:
            values[Signal.PROBABILITIES] = softmax(z) if self.link == "softmax" else normalised_sigmoid(z)
            values[Signal.LOGITS] = z
        answers = Answers(values, z.shape[1])
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)
