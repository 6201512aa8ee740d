"""A tanh network of 2,225 unknowns: 11,125 queries for 99.96 % (Tramer et al. 2016, table 4); here all of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.svm import SVR

import understudy as us
from understudy.attacks.hessian_diagonalisation import HessianDiagonalisation
from understudy.endpoint import ArrayPool
from understudy.protocols import Extraction, Target, Verdict
from understudy.targets.linear import softmax
from understudy.testing import linear, network
from understudy.types import Box, Floats
from understudy.wrappers import Metered

Call = Callable[[Any], Any]


def attack(call: Call, signal: str, outputs: int, box: Box, budget: int = 10_000, seed: int = 0) -> list[Extraction]:
    meter = Metered(us.target(call, signal, outputs, box), budget)
    pool = ArrayPool(np.zeros((0, *box.shape)))
    found = list(HessianDiagonalisation().run(meter, pool, np.random.default_rng(seed)))
    assert meter.spent <= budget
    assert all(extraction.spent == meter.spent for extraction in found)
    return found


def scored(model: Target) -> Call:
    return lambda x: model.query(x)["probabilities"]


def apart(found: Extraction, call: Call, box: Box, signal: str = "probabilities") -> tuple[float, float]:
    """Label agreement and the largest total variation (of values: difference) on 20,000 uniform points."""
    points = box.sample(20_000, np.random.default_rng(99))
    assert found.substitute is not None
    ours, theirs = found.substitute.query(points)[signal], np.asarray(call(points))
    theirs = theirs.reshape(ours.shape)
    return float((ours.argmax(1) == theirs.argmax(1)).mean()), float(np.abs(ours - theirs).sum(1).max() / 2)


def trained(load: Callable[..., Any], units: int, activation: Any, seed: int = 0) -> tuple[Call, int, Box]:
    """A scikit-learn network on real data, scaled to [-1, 1]."""
    inputs, truth = load(return_X_y=True)
    low, high = inputs.min(0), np.maximum(inputs.max(0), inputs.min(0) + 1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = MLPClassifier((units,), activation=activation, random_state=seed, max_iter=100)
        model.fit(2 * (inputs - low) / (high - low) - 1, truth)
    return model.predict_proba, len(model.classes_), Box(-1, 1, (inputs.shape[1],))


@pytest.mark.parametrize("seed", range(5))
def test_a_network_of_2225_unknowns_is_solved_for_less_than_one_query_each(seed: int) -> None:
    model = network(seed, widths=(105, 20, 5), activation="tanh", spread=1.0)
    call = scored(model)
    (found,) = attack(call, "probabilities", 5, model.space, 2_225, seed)
    assert found.verdict is Verdict.EXACT
    assert found.spent <= 1_300
    labels, variation = apart(found, call, model.space)
    assert labels == 1.0
    assert variation <= 1e-8


@pytest.mark.parametrize("activation", ["tanh", "logistic"])
@pytest.mark.parametrize(("load", "units"), [(load_digits, 16), (load_wine, 10), (load_breast_cancer, 10)])
def test_networks_of_scikit_learn(load: Callable[..., Any], units: int, activation: str) -> None:
    call, outputs, box = trained(load, units, activation)
    (found,) = attack(call, "probabilities", outputs, box)
    assert found.verdict is Verdict.EXACT
    assert found.notes["units"] == units
    labels, variation = apart(found, call, box)
    assert labels == 1.0
    assert variation <= 1e-6


def test_the_weights_are_the_targets_up_to_order_and_sign() -> None:
    model = network(3, widths=(12, 6, 4), activation="tanh")
    (found,) = attack(lambda x: model.query(x)["logits"], "logits", 4, model.space)
    assert found.parameters is not None
    ours, theirs = (np.column_stack([p["weights_1"], p["bias_1"]]) for p in (found.parameters, model.parameters))
    near = np.abs(ours[:, None] - np.stack([theirs, -theirs], 1).reshape(-1, 13)).max(2).min(1)
    assert near.max() <= 1e-8


def test_values_in_their_own_units() -> None:
    inputs, truth = load_diabetes(return_X_y=True)
    model = MLPRegressor(hidden_layer_sizes=(8,), activation="tanh", random_state=0, max_iter=3000).fit(
        10 * inputs, (truth - 150) / 80
    )
    box = Box(inputs.min(0), inputs.max(0))

    def call(x: Floats) -> Any:
        return 80 * model.predict(10 * x) + 150

    (found,) = attack(call, "value", 1, box)
    assert found.verdict is Verdict.EXACT
    assert apart(found, call, box, "value")[1] <= 1e-6


def test_logits_with_a_constant_of_their_own_in_every_answer() -> None:
    model, noise = network(2, widths=(8, 5, 4), activation="tanh"), np.random.default_rng(0)

    def call(x: Floats) -> Any:
        return model.query(x)["logits"] + noise.standard_normal((len(x), 1))

    (found,) = attack(call, "logits", 4, model.space)
    assert found.verdict is Verdict.EXACT
    assert apart(found, scored(model), model.space)[1] <= 1e-8


def rounded(x: Floats) -> Floats:
    return network(activation="tanh").query(x)["probabilities"].round(6)


def deep(x: Floats) -> Floats:
    return network(widths=(4, 3, 3, 3), activation="tanh", spread=2.0).query(x)["probabilities"]


def wide(x: Floats) -> Floats:
    return network(widths=(4, 9, 3), activation="tanh", spread=2.0).query(x)["probabilities"]


def kernel(x: Floats) -> Floats:
    rng = np.random.default_rng(0)
    machines = [SVR(gamma=1.0).fit(rng.uniform(-1, 1, (60, 4)), rng.standard_normal(60)) for _ in range(3)]
    return softmax(np.column_stack([machine.predict(x) for machine in machines]))


def forest(x: Floats) -> Floats:
    inputs = np.random.default_rng(0).uniform(-1, 1, (100, 4))
    model = GradientBoostingClassifier(n_estimators=5).fit(inputs, (3 * inputs[:, 0]).round() % 3)
    return np.asarray(model.predict_proba(x))


@pytest.mark.parametrize(
    ("call", "most"),
    [
        (scored(linear()), 12),
        (scored(network()), 12),
        (forest, 12),
        (rounded, 12),
        (deep, 400),
        (wide, 400),
        (kernel, 400),
    ],
    ids=["linear", "relu", "trees", "rounded", "two layers", "wider than its inputs", "kernel machine"],
)
def test_what_it_cannot_solve_is_refused(call: Call, most: int) -> None:
    (found,) = attack(call, "probabilities", 3, Box(-1, 1, (4,)))
    assert found.verdict is Verdict.NOT_OF_FAMILY
    assert found.substitute is None
    assert found.notes["reason"]
    assert found.spent <= most


@pytest.mark.parametrize("budget", [0, 11, 12, 50, 500])
def test_too_small_a_budget_buys_nothing_and_raises_nothing(budget: int) -> None:
    model = network(widths=(105, 20, 5), activation="tanh", spread=1.0)
    assert attack(scored(model), "probabilities", 5, model.space, budget) == []
