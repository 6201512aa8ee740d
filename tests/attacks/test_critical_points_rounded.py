"""ReLU networks solved from rounded and float32 scores: to the step of the grid, and nothing wrong is called exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import understudy as us
from understudy import registry
from understudy.attacks._refit import Sample, refit
from understudy.attacks.critical_points import CriticalPoints
from understudy.endpoint import ArrayPool
from understudy.protocols import Extraction, Target, Verdict
from understudy.targets.network import NetworkTarget
from understudy.testing import network
from understudy.types import Exposure, Floats, Grain, Signal
from understudy.wrappers import Defended, Metered

ANYTHING = us.Box(-np.inf, np.inf, shape=(64,))


@cache
def digits(units: int, seed: int) -> NetworkTarget:
    inputs, truth = load_digits(return_X_y=True)
    with pytest.warns(ConvergenceWarning):
        fitted = MLPClassifier((units,), max_iter=20, random_state=seed).fit(inputs[:800] / 16, truth[:800])
    layers = tuple((w.T, b) for w, b in zip(fitted.coefs_, fitted.intercepts_, strict=True))
    return NetworkTarget(layers, ANYTHING)


def rows() -> Floats:
    return np.asarray(load_digits().data / 16, np.float64)


def rounded(model: NetworkTarget, decimals: int) -> Target:
    return us.target(lambda x: np.round(model.scores(x), decimals), "logits", model.outputs, model.space)


def in_float32(model: NetworkTarget) -> Target:
    """All of its sums, not only its answers."""
    layers = [(w.astype(np.float32), b.astype(np.float32)) for w, b in model.layers]

    def scores(x: Floats) -> Any:
        h = x.astype(np.float32)
        for w, b in layers[:-1]:
            h = np.maximum(h @ w.T + b, 0)
        return h @ layers[-1][0].T + layers[-1][1]

    return us.target(scores, "logits", model.outputs, model.space)


def attack(target: Target, budget: int, pool: Any = None, seed: int = 0) -> list[Extraction]:
    meter = Metered(target, budget)
    given = ArrayPool(np.zeros((0, *target.space.shape)) if pool is None else pool)
    found = list(CriticalPoints().run(meter, given, np.random.default_rng(seed)))
    assert meter.spent <= budget
    return found


def judged(found: Extraction, model: NetworkTarget, inputs: Floats) -> tuple[float, float]:
    """Largest error, and share of equal labels."""
    assert isinstance(found.substitute, NetworkTarget)
    ours, theirs = found.substitute.scores(inputs), model.scores(inputs)
    return float(np.abs(ours - theirs).max()), float((ours.argmax(1) == theirs.argmax(1)).mean())


@pytest.mark.parametrize(
    ("expose", "error"),
    [(lambda m: rounded(m, 6), 5e-7), (lambda m: rounded(m, 4), 5e-5), (in_float32, 1e-5)],
    ids=["6 decimals", "4 decimals", "float32"],
)
def test_a_network_is_solved_to_the_step_of_the_grid(expose: Callable[[NetworkTarget], Target], error: float) -> None:
    model = digits(8, 0)
    (found,) = attack(expose(model), 1200)
    assert found.verdict is Verdict.EXACT
    assert (found.notes["units_found"], found.notes["check_queries"]) == (8, 100)
    assert found.notes["check_error_in_quanta"] <= 1
    inputs = np.concatenate([np.random.default_rng(9).uniform(0, 1, (5000, 64)), rows()])
    off, same = judged(found, model, inputs)
    assert off <= error
    assert same >= 0.9998


@pytest.mark.slow
@pytest.mark.parametrize("expose", [lambda m: rounded(m, 4), in_float32], ids=["4 decimals", "float32"])
def test_a_larger_network_too_where_the_attacker_has_rows(expose: Callable[[NetworkTarget], Target]) -> None:
    model = digits(32, 2)
    (found,) = attack(expose(model), 2900, rows()[-100:])
    assert (found.verdict, found.notes["units_found"]) == (Verdict.EXACT, 32)
    off, same = judged(found, model, np.concatenate([np.random.default_rng(9).uniform(0, 1, (5000, 64)), rows()]))
    assert off <= 5e-5
    assert same >= 0.9998


def test_parameters_are_those_of_the_network() -> None:
    model = replace(network(2, widths=(6, 5, 4)), space=us.Box(-np.inf, np.inf, (6,)))
    (found,) = attack(rounded(model, 6), 2000)
    assert found.parameters is not None
    (weights, bias), (outer, _) = model.layers
    size = np.linalg.norm(weights, axis=1)
    mine, theirs = found.parameters["weights_1"], weights / size[:, None]
    pairs = np.linalg.norm(mine[:, None] - theirs[None], axis=2).argmin(1)
    assert sorted(pairs) == list(range(5))
    np.testing.assert_allclose(mine, theirs[pairs], atol=1e-6)
    np.testing.assert_allclose(found.parameters["bias_1"], (bias / size)[pairs], atol=1e-5)
    np.testing.assert_allclose(found.parameters["weights_2"], (outer * size)[:, pairs], atol=1e-5)


def test_inside_a_box_units_possibly_missed_are_named() -> None:
    model = network(1, widths=(4, 5, 3))
    inputs = model.space.sample(2000, np.random.default_rng(9))
    (found,) = attack(rounded(model, 4), 2000)
    assert found.verdict is Verdict.APPROXIMATE  # however small the error on checks: a silent unit leaves no trace
    assert "may be missing" in found.notes["possibly_missed"]
    assert us.fidelity(found.substitute, model, inputs).value >= 0.999


@pytest.mark.parametrize("declared", [True, False])
def test_rounded_probabilities_are_refused(declared: bool) -> None:
    model = network(1)
    granted = Exposure({Signal.PROBABILITIES: Grain(decimals=4)}, 3)
    target: Target = Defended(model, [registry.create("defences", "round", decimals=4)], "thief", granted)
    if not declared:
        target = us.target(lambda x: model.query(x)["probabilities"].round(4), "probabilities", 3, model.space)
    (found,) = attack(target, 1000)
    assert (found.verdict, found.substitute) == (Verdict.NOT_OF_FAMILY, None)
    assert found.spent == (0 if declared else 24)
    assert "probabilities of 4 decimals" in found.notes["reason"]


def test_a_smooth_network_is_refused_cheaply() -> None:
    (found,) = attack(in_float32_of(network(activation="tanh")), 1000)
    assert (found.verdict, found.spent) == (Verdict.NOT_OF_FAMILY, 24)
    assert "smooth" in found.notes["reason"]


def in_float32_of(model: NetworkTarget) -> Target:
    return us.target(lambda x: model.scores(x).astype(np.float32), "logits", model.outputs, model.space)


def test_a_deeper_network_is_not_called_exact() -> None:
    model = replace(network(1, widths=(5, 6, 6, 3)), space=us.Box(-np.inf, np.inf, (5,)))
    (found,) = attack(rounded(model, 5), 400)
    assert found.verdict is not Verdict.EXACT


def test_too_many_inputs_are_refused_with_the_reason() -> None:
    model = replace(network(1, widths=(700, 3, 3)), space=us.Box(-np.inf, np.inf, (700,)))
    (found,) = attack(in_float32_of(model), 1000)
    assert found.verdict is Verdict.NOT_OF_FAMILY
    assert "700 inputs too many" in found.notes["reason"]


def test_a_budget_below_the_first_layers_buys_nothing() -> None:
    assert attack(rounded(digits(8, 0), 4), 200) == []


def test_a_fit_starts_from_random_rows() -> None:
    rng = np.random.default_rng(0)
    rows, outer = rng.standard_normal((4, 7)), rng.standard_normal((4, 3))
    u = 2 * rng.standard_normal((300, 6))
    y = np.maximum(np.hstack([u, np.ones((300, 1))]) @ rows.T, 0) @ outer + 1
    fit = refit(rng.standard_normal((6, 7)), Sample.of(u, y, np.full(300, 1e-6)), skip=True, steps=200)
    assert fit.rms <= 1
