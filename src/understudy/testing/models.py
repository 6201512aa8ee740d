"""Small real models that plug-ins are put to work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random import Generator

from understudy.protocols import Target
from understudy.targets.additive_steps import AdditiveStepsTarget, StepLink
from understudy.targets.callable import CallableTarget
from understudy.targets.linear import LinearTarget, Link
from understudy.targets.network import Activation, NetworkTarget
from understudy.targets.tree import TreeTarget
from understudy.types import EXPLANATIONS, Answers, Box, Exposure, Floats, Signal, Space
from understudy.wrappers import Defended


def linear(seed: int = 0, *, features: int = 4, outputs: int = 3, link: Link = "softmax") -> LinearTarget:
    """A linear model on the box [-1, 1], drawn from `seed`, with nothing withheld and its parameters in the open."""
    rng = np.random.default_rng([seed, 20])
    weights, bias = 3 * rng.standard_normal((outputs, features)), 0.3 * rng.standard_normal(outputs)
    return LinearTarget(weights, bias, Box(-1, 1, (features,)), link)


def network(
    seed: int = 0, *, widths: Sequence[int] = (4, 3, 3), activation: Activation = "relu", spread: float = 1.5
) -> NetworkTarget:
    """A network on the box [-1, 1] with these layer widths, inputs first, weights and biases drawn from `seed`.

    Sums have a standard deviation of about `spread`: larger means more bent, and more certain of its classes.
    """
    rng = np.random.default_rng([seed, 21])
    layers = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        scale = spread * (np.sqrt(3) if i == 0 else 1) / np.sqrt(fan_in)  # a uniform input has variance 1/3
        layers.append((scale * rng.standard_normal((fan_out, fan_in)), 0.5 * rng.standard_normal(fan_out)))
    return NetworkTarget(tuple(layers), Box(-1, 1, (widths[0],)), activation)


def steps(
    seed: int = 0, *, features: int = 4, outputs: int = 3, terms: int = 12, link: StepLink = "softmax"
) -> AdditiveStepsTarget:
    """A sum of `terms` steps and products of two steps on the box [-1, 1], drawn from `seed`."""
    rng = np.random.default_rng([seed, 22])
    pairs = np.stack([np.arange(terms), (np.arange(terms) + 1) % terms], axis=1)
    pairs[::2, 1] = -1  # every other term is one step
    columns = 1 if outputs == 2 else outputs
    weights, constant = rng.standard_normal((terms, columns)), np.zeros(columns)
    if link == "probabilities":
        weights, constant = weights - weights.mean(1, keepdims=True) * (columns > 1), np.full(columns, 1 / outputs)
        weights /= 2 * outputs * np.abs(weights).sum(0).max()
    threshold = rng.uniform(-0.9, 0.9, terms).astype(np.float32).astype(np.float64)
    space = Box(-1, 1, (features,))
    return AdditiveStepsTarget(np.arange(terms) % features, threshold, pairs, weights, constant, space, link)


def tree(seed: int = 0, signal: str = "probabilities", *, features: int = 4, outputs: int = 3) -> TreeTarget:
    """A tree of 16 leaves on the box [-1, 1], drawn from `seed`; each leaf answers `signal` in a way of its own.

    Of labels alone there are only `outputs`.
    """
    rng, inner, leaves = np.random.default_rng([seed, 23]), 15, 16
    k, places = inner + leaves, np.arange(inner + leaves)
    low, high = np.full((k, features), -1.0), np.full((k, features), 1.0)
    feature, threshold = np.full(k, -1), np.full(k, np.inf)
    for node in range(inner):
        f = feature[node] = rng.integers(features)
        cut = threshold[node] = np.float32(low[node, f] + rng.uniform(0.2, 0.8) * (high[node, f] - low[node, f]))
        for side, (bound, value) in enumerate([(high, cut), (low, cut)], 2 * node + 1):
            low[side], high[side] = low[node], high[node]
            bound[side, f] = value
    scores = rng.dirichlet(np.ones(outputs), leaves) if signal != "value" else rng.normal(size=(leaves, outputs))
    answers = Answers({Signal(signal): rng.integers(outputs, size=leaves) if signal == "label" else scores}, outputs)
    going = np.where(places < inner, places, -1)
    left, right = np.where(going < 0, -1, 2 * going + 1), np.where(going < 0, -1, 2 * going + 2)
    none = np.zeros(k, np.bool_)
    return TreeTarget(
        *(Box(-1, 1, (features,)), Exposure.of(signal, outputs), answers, feature, threshold, left, right),
        *(np.where(places < inner, -1, places - inner), none, np.zeros((k, 0), np.bool_)),
        *(np.zeros(features, np.bool_), np.ones(features, np.bool_)),
    )


def explained(model: LinearTarget | NetworkTarget, signals: str | Sequence[str]) -> CallableTarget:
    """A model that answers `signals`, explanations among them if they are named.

    Attributions are gradients: of values or logits where those are answered, else of probabilities. A counterfactual
    is the nearest point of another class, 1e-9 beyond the boundary, and only linear classifiers have one.
    """
    exposure = Exposure.of(signals, model.exposure.outputs)
    d, plain = model.space.shape[0], (Signal.VALUE, Signal.LOGITS)

    def call(x: Floats) -> dict[Signal, Any]:
        answers, wanted = model.query(x), dict[Signal, Any]()
        if isinstance(model, LinearTarget):
            slopes = np.broadcast_to(model.weights, (len(x), *model.weights.shape))
        else:
            slopes = np.stack([_jacobian(model, row) for row in x])
        for signal in exposure.grains:
            if signal is Signal.ATTRIBUTION:
                if not exposure.signals.intersection(plain) and Signal.PROBABILITIES in answers:
                    p = answers[Signal.PROBABILITIES]
                    slopes = p[:, :, None] * (slopes - np.einsum("nk,nkd->nd", p, slopes)[:, None])
                wanted[signal] = slopes.reshape(len(x), -1)
            elif signal is Signal.COUNTERFACTUAL:
                assert isinstance(model, LinearTarget)
                wanted[signal] = _nearest_other(model, x.reshape(-1, d))
            else:
                wanted[signal] = answers[signal]
        return wanted

    return CallableTarget(call, exposure, model.space)


def _jacobian(model: NetworkTarget, x: Floats) -> Floats:
    """(outputs, d) slopes of a ReLU network's scores at one point."""
    slopes, h = np.eye(len(x)), x
    for weights, bias in model.layers[:-1]:
        z = weights @ h + bias
        slopes, h = (weights * (z > 0)[:, None]) @ slopes, np.maximum(z, 0.0)
    made = model.layers[-1][0] @ slopes
    return np.asarray(made if model.skip is None else made + model.skip)


def _nearest_other(model: LinearTarget, x: Floats) -> Floats:
    """(n, d) the nearest points of another class, just beyond the boundary."""
    z, rows = model.scores(x), np.arange(len(x))
    top = z.argmax(1)
    towards = model.weights - model.weights[top][:, None]  # (n, c, d)
    length = np.linalg.norm(towards, axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        far = np.where(length > 0, (z[rows, top][:, None] - z) / length, np.inf)
    nearest = far.argmin(1)
    unit = towards[rows, nearest] / length[rows, nearest][:, None]
    return np.asarray(x + (far[rows, nearest][:, None] + 1e-9) * unit)


def victim(signals: str | Sequence[str], seed: int = 0, *, features: int = 4, outputs: int = 3) -> Target:
    """A linear model that answers exactly `signals`: a regression for "value", else a softmax."""
    exposure = Exposure.of(signals, outputs)
    if EXPLANATIONS & exposure.signals:
        return explained(linear(seed, features=features, outputs=outputs), signals)
    model = linear(
        seed,
        features=features,
        outputs=outputs,
        link="identity" if Signal.VALUE in exposure.signals else "softmax",
    )
    return Defended(model, (), "contract", exposure)


@dataclass(frozen=True)
class SpacePool:
    """A pool that never runs dry: inputs spread over a space."""

    space: Space

    def draw(self, n: int, rng: Generator) -> Floats:
        """`n` inputs."""
        return self.space.sample(n, rng)


@dataclass(frozen=True)
class EmptyPool:
    """The pool of an attacker who has no inputs."""

    space: Space

    def draw(self, n: int, rng: Generator) -> Floats:
        """None, shape (0, *space.shape)."""
        return np.zeros((0, *self.space.shape))
