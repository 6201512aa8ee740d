"""Two hidden ReLU layers, whole, for a few queries per unknown; and refused, not guessed, where they cannot be had."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from understudy.attacks.critical_points_deep import CriticalPointsDeep
from understudy.endpoint import ArrayPool
from understudy.protocols import Extraction, Target, Verdict
from understudy.targets.network import NetworkTarget
from understudy.testing import network
from understudy.types import Box, Exposure, Floats
from understudy.wrappers import Defended, Metered


def attack(model: Target, signal: str = "logits", budget: int = 30_000, seed: int = 0) -> list[Extraction]:
    shown = Defended(model, (), "thief", Exposure.of(signal, model.exposure.outputs))
    meter, pool = Metered(shown, budget), ArrayPool(np.zeros((0, *model.space.shape)))
    found = list(CriticalPointsDeep().run(meter, pool, np.random.default_rng(seed)))
    assert all(extraction.spent == meter.spent <= budget for extraction in found)
    return found


def unbounded(model: NetworkTarget) -> NetworkTarget:
    return replace(model, space=Box(-np.inf, np.inf, model.space.shape))


def trained(inputs: Floats, truth: Any, *hidden: int, seed: int = 0) -> NetworkTarget:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = MLPClassifier(hidden, random_state=seed, max_iter=60).fit(inputs, truth)
    layers = tuple((w.T, b) for w, b in zip(fitted.coefs_, fitted.intercepts_, strict=True))
    return unbounded(NetworkTarget(layers, Box(-1, 1, (inputs.shape[1],))))


def error(found: Extraction, model: NetworkTarget, points: Floats) -> float:
    """The largest error of centred scores."""
    assert found.substitute is not None
    apart = found.substitute.query(points)["logits"] - model.query(points)["logits"]
    return float(np.abs(apart - apart.mean(1, keepdims=True)).max())


@pytest.mark.parametrize("signal", ["logits", "probabilities"])
def test_a_trained_20_10_10_5(signal: str) -> None:
    inputs, truth = make_classification(2000, 20, n_informative=10, n_classes=5, random_state=0)
    model = trained(inputs, truth, 10, 10)
    (found,) = attack(model, signal)
    assert found.verdict is Verdict.EXACT
    assert found.notes["units_found"] == [10, 10]
    assert found.spent <= 3_600
    uniform = np.random.default_rng(9).uniform(inputs.min(), inputs.max(), (20_000, 20))
    assert error(found, model, uniform) <= 2**-20
    assert error(found, model, inputs) <= 2**-20


def test_a_trained_64_16_16_10() -> None:
    inputs, truth = load_digits(return_X_y=True)
    model = trained(inputs / 16, truth, 16, 16)
    (found,) = attack(model)
    assert found.verdict is Verdict.EXACT
    assert found.spent <= 6_400
    assert error(found, model, np.random.default_rng(9).uniform(0, 1, (20_000, 64))) <= 2**-20
    assert error(found, model, inputs / 16) <= 2**-20


@pytest.mark.parametrize("seed", range(4))
def test_exact_is_never_said_of_a_wrong_network(seed: int) -> None:
    model = unbounded(network(seed, widths=(6, 5, 5, 4)))
    for found in attack(model, seed=seed, budget=10_000):
        if found.verdict is Verdict.EXACT:
            points = np.random.default_rng(9).standard_normal((20_000, 6))
            assert error(found, model, np.concatenate([points, 10 * points])) <= 2**-18


@pytest.mark.parametrize(
    "model",
    [
        network(widths=(6, 5, 5, 4)),
        unbounded(network(widths=(6, 5, 5, 4), activation="tanh")),
        unbounded(network(widths=(4, 6, 6, 6, 3))),
    ],
    ids=["inputs are bounded", "tanh", "three layers, more units than inputs"],
)
def test_what_it_cannot_solve_is_refused(model: NetworkTarget) -> None:
    for found in attack(model, budget=6_000):
        assert found.verdict is Verdict.NOT_OF_FAMILY
        assert found.notes["reason"]


@pytest.mark.parametrize("budget", [0, 1, 100, 400])
def test_too_small_a_budget_raises_nothing(budget: int) -> None:
    assert attack(unbounded(network(widths=(20, 10, 10, 5))), budget=budget) == []
