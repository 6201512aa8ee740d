"""Fully connected networks as targets: any number of hidden layers of one activation. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from understudy.targets.linear import softmax
from understudy.types import Answers, Ask, Exposure, Floats, Signal, Space

Activation = Literal["relu", "tanh", "logistic"]


def _relu(z: Floats) -> Floats:
    return np.maximum(z, 0.0)


def _logistic(z: Floats) -> Floats:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * z))  # safe for any z


#: What a hidden unit makes of its sum, by scikit-learn's names.
ACTIVATIONS: Mapping[Activation, Callable[[Floats], Floats]] = {"relu": _relu, "tanh": np.tanh, "logistic": _logistic}


@dataclass(frozen=True, eq=False)
class NetworkTarget:
    """A network: one (weights (out, in), bias (out,)) per layer, the last one without activation, and a link.

    `softmax` answers label, probabilities and logits, of two or more outputs; `identity` answers values (regression).
    `skip` (outputs, inputs): a linear term from the inputs straight to the scores, where the network has one.
    """

    layers: tuple[tuple[Floats, Floats], ...]
    space: Space
    activation: Activation = "relu"
    link: Literal["softmax", "identity"] = "softmax"
    skip: Floats | None = None

    @property
    def outputs(self) -> int:
        return len(self.layers[-1][1])

    @property
    def exposure(self) -> Exposure:
        if self.link == "identity":
            return Exposure.of(Signal.VALUE, self.outputs)
        return Exposure.of([Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS], self.outputs)

    @property
    def parameters(self) -> dict[str, Floats]:
        """This model's arrays, layer by layer from 1: `weights_1` (out, in), `bias_1` (out,), ...; `skip` if any."""
        named = [(("weights", w), ("bias", b)) for w, b in self.layers]
        arrays = {f"{name}_{i}": array for i, layer in enumerate(named, 1) for name, array in layer}
        return arrays if self.skip is None else arrays | {"skip": self.skip}

    def scores(self, inputs: Floats) -> Floats:
        """(n, outputs) sums of the last layer."""
        x, act = inputs.reshape(len(inputs), self.layers[0][0].shape[1]), ACTIVATIONS[self.activation]
        h = x
        for weights, bias in self.layers[:-1]:
            h = act(h @ weights.T + bias)
        weights, bias = self.layers[-1]
        z = h @ weights.T + bias
        return np.asarray(z if self.skip is None else z + x @ self.skip.T)

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Every signal this model can produce, or those that `ask` names."""
        z = self.scores(self.space.check(inputs))
        if self.link == "identity":
            return Answers({Signal.VALUE: z}, self.outputs)
        labels = z.argmax(1) if len(z) else np.zeros(0, np.int64)
        answers = Answers({Signal.LABEL: labels, Signal.PROBABILITIES: softmax(z), Signal.LOGITS: z}, self.outputs)
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)
