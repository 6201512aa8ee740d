"""ReLU networks solved from scores: fewer queries than parameters, exact, and nothing wrong is handed back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.tree import DecisionTreeClassifier

import understudy as us
from understudy.attacks._kinks import Line, Scan
from understudy.attacks.critical_points import CriticalPoints
from understudy.endpoint import ArrayPool
from understudy.protocols import Extraction, Target, Verdict
from understudy.targets.network import NetworkTarget
from understudy.testing import network
from understudy.types import Exposure, Floats
from understudy.wrappers import Defended, Metered

ANYTHING = us.Box(-np.inf, np.inf, shape=(64,))


def attack(target: Target, signal: str, budget: int, rows: Any = None, seed: int = 0) -> Extraction:
    exposed = Defended(target, (), "thief", Exposure.of(signal, target.exposure.outputs))
    meter = Metered(exposed, budget)
    pool = ArrayPool(np.zeros((0, *target.space.shape)) if rows is None else rows)
    (found,) = CriticalPoints().run(meter, pool, np.random.default_rng(seed))
    assert found.spent == meter.spent <= budget
    return found


def network_of(fitted: Any, space: us.Box, link: Any = "softmax") -> NetworkTarget:
    layers = tuple((w.T, b) for w, b in zip(fitted.coefs_, fitted.intercepts_, strict=True))
    return NetworkTarget(layers, space, link=link)


@cache
def digits(units: int, seed: int) -> NetworkTarget:
    inputs, truth = load_digits(return_X_y=True)
    with pytest.warns(ConvergenceWarning):
        fitted = MLPClassifier((units,), max_iter=20, random_state=seed).fit(inputs[:800] / 16, truth[:800])
    return network_of(fitted, ANYTHING)


def rows() -> Floats:
    return np.asarray(load_digits().data / 16, np.float64)


def worst(found: Extraction, target: NetworkTarget, inputs: Floats) -> float:
    """Largest error of any score, those of classes but for a common constant."""
    assert isinstance(found.substitute, NetworkTarget)
    apart = found.substitute.scores(inputs) - target.scores(inputs)
    return float(np.abs(apart if target.link == "identity" else apart - apart.mean(1, keepdims=True)).max())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("signal", "most"), [("logits", 1000), ("probabilities", 1450)])
def test_digits_network_is_solved_exactly(signal: str, most: int, seed: int) -> None:
    target = digits(32, seed)  # 2,410 parameters
    found = attack(target, signal, most, seed=seed)
    assert found.verdict is Verdict.EXACT
    assert found.notes["units_found"] == 32
    probes = np.concatenate([np.random.default_rng(9).uniform(0, 1, (5000, 64)), rows()])
    assert worst(found, target, probes) <= 2.0**-26


def test_parameters_are_those_of_the_network() -> None:
    target = digits(8, 0)
    found = attack(target, "logits", 2000)
    assert found.parameters is not None
    weights, bias = target.layers[0]
    size = np.linalg.norm(weights, axis=1)
    mine, theirs = found.parameters["weights_1"], weights / size[:, None]
    pairs = np.linalg.norm(mine[:, None] - theirs[None], axis=2).argmin(1)
    assert sorted(pairs) == list(range(8))
    np.testing.assert_allclose(mine, theirs[pairs], atol=1e-8)
    np.testing.assert_allclose(found.parameters["bias_1"], (bias / size)[pairs], atol=1e-8)
    np.testing.assert_allclose(found.parameters["weights_2"], (target.layers[1][0] * size)[:, pairs], atol=1e-7)


def test_a_single_number_per_answer_is_enough() -> None:
    inputs, truth = load_diabetes(return_X_y=True)
    with pytest.warns(ConvergenceWarning):
        fitted = MLPRegressor(hidden_layer_sizes=(20,), max_iter=300, random_state=0).fit(
            10 * inputs, (truth - 150) / 80
        )
    target = network_of(fitted, us.Box(-np.inf, np.inf, shape=(10,)), "identity")
    found = attack(target, "value", 2000)
    assert found.verdict is Verdict.EXACT
    assert worst(found, target, 10 * inputs) <= 2.0**-30


@pytest.mark.parametrize(
    ("target", "signal", "why"),
    [
        (network(activation="tanh"), "logits", "smooth"),
        (network(activation="logistic"), "probabilities", "smooth"),
        (network(widths=(4, 3)), "probabilities", "linear"),
    ],
    ids=["tanh", "logistic", "softmax"],
)
def test_others_are_refused_cheaply(target: Target, signal: str, why: str) -> None:
    found = attack(target, signal, 1000)
    assert found.verdict is Verdict.NOT_OF_FAMILY
    assert found.substitute is None
    assert why in found.notes["reason"]
    assert found.spent <= 24


def test_a_tree_is_refused_cheaply() -> None:
    inputs, truth = load_digits(return_X_y=True)
    tree = DecisionTreeClassifier(min_samples_leaf=30, random_state=0).fit(inputs / 16, truth)
    found = attack(us.target(tree.predict_proba, "probabilities", 10, ANYTHING), "probabilities", 1000)
    assert (found.verdict, found.spent) == (Verdict.NOT_OF_FAMILY, 24)


def bent(kinks: Sequence[float], jumps: Floats) -> tuple[Any, Line]:
    """A piecewise linear function of one variable with these kinks."""
    return (lambda u: np.maximum(u - np.asarray(kinks), 0) @ jumps), Line(np.zeros(1), np.ones(1), -1e4, 1e4, 1.0)


def noise(u: Floats, y: Floats) -> Floats:
    return np.asarray(4e-16 * np.maximum(np.abs(y).max(1), 1 + np.abs(u[:, 0])))


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_kink_inside_a_probe_is_put_right(outputs: int) -> None:
    # the first probe goes from 0 to 0.001: without the repair two kinks are found at its ends, and the true one is lost
    kinks = [-2.0, -0.01, 0.0004, 0.3, 5.0]
    jumps = np.random.default_rng(0).normal(size=(5, outputs))
    ask, line = bent(kinks, jumps)
    trace = Scan(ask, noise, line, check=outputs == 1, most=1000).run()
    np.testing.assert_allclose(trace.kinks, kinks, rtol=1e-9)
    np.testing.assert_allclose(trace.jumps, jumps, rtol=1e-6)


@pytest.mark.parametrize("outputs", [1, 3])
def test_kinks_close_together_and_beside_places_asked_are_all_found(outputs: int) -> None:
    rng, found = np.random.default_rng(0), 0
    for _ in range(30):  # the scan asks at tan of multiples of pi / 2^n
        beside = np.tan(np.pi * rng.choice([1, 3, 5, 7, 11], 2, False) / 32) + rng.choice([-1, 1], 2) * 1e-6
        close = rng.normal() + np.array([0, 10.0 ** rng.uniform(-5, -3)])
        kinks = np.sort(np.concatenate([beside, close, rng.standard_cauchy(12)]))
        ask, line = bent(kinks.tolist(), rng.normal(size=(16, outputs)))
        trace = Scan(ask, noise, line, check=outputs == 1, most=4000).run()
        found += len(trace.kinks) == 16 and np.allclose(trace.kinks, kinks, rtol=1e-7, atol=1e-9)
    assert found >= 29


@pytest.mark.parametrize("outputs", [2, 3])
def test_fidelity_is_of_classes_where_only_differences_of_scores_are_known(outputs: int) -> None:
    """A deep network's probabilities: the copy is poor, of two classes too, and is not handed back."""
    rng = np.random.default_rng(1)
    first, second, last = rng.normal(size=(6, 4)), rng.normal(size=(6, 6)), rng.normal(size=(outputs, 6))
    deep = NetworkTarget(
        ((first, np.zeros(6)), (second, np.full(6, 0.1)), (last, np.zeros(outputs))), us.Box(-1, 1, (4,))
    )
    found = attack(deep, "probabilities", 1500)
    assert found.substitute is None
    assert "no single hidden layer" in found.notes["reason"]
