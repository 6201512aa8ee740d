"""Models solved from input gradients, behind a meter, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import understudy as us
from understudy.targets.callable import CallableTarget
from understudy.targets.linear import LinearTarget
from understudy.targets.network import NetworkTarget
from understudy.targets.sklearn import SklearnTarget
from understudy.testing import explained, linear, network
from understudy.types import Box, Exposure

SCORED = ["probabilities", "attribution"]
VALUED = ["value", "attribution"]


def solved(target: Any, budget: int = 2000, seed: int = 0, data: Any = None) -> Any:
    return us.extract(target, "gradient-solving", budget, seed, data)


def furthest(copy: Any, target: Any, signal: str) -> float:
    points = target.space.sample(5000, np.random.default_rng(99))
    return float(np.abs(copy.query(points)[signal] - target.query(points)[signal]).max())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("outputs", [2, 3, 10])
def test_a_softmax_needs_one_gradient_and_its_checks(seed: int, outputs: int) -> None:
    target = explained(linear(seed, outputs=outputs, features=20), SCORED)
    found = solved(target, seed=seed)
    assert found.verdict is us.Verdict.EXACT
    assert found.spent <= 12 + 24  # the middle of the space may be saturated
    assert furthest(found.substitute, target, "probabilities") < 1e-9


@pytest.mark.parametrize("signal", ["logits", "value"])
def test_scores_with_their_own_gradients(signal: str) -> None:
    model = linear(3, link="identity" if signal == "value" else "softmax")
    found = solved(explained(model, [signal, "attribution"]))
    assert (found.verdict, found.spent, found.notes["gradients_of"]) == (us.Verdict.EXACT, 12, "scores")


def test_log_odds_whose_gradient_is_answered_for_the_second_class_alone() -> None:
    model = linear(2, outputs=2)
    weights = model.weights[1] - model.weights[0]

    def call(x: Any) -> Any:
        return {"probabilities": model.query(x)["probabilities"], "attribution": np.tile(weights, (len(x), 1))}

    target = CallableTarget(call, Exposure.of(SCORED, 2), model.space)
    found = solved(target)
    assert (found.verdict, found.notes["gradients_of"]) == (us.Verdict.EXACT, "odds")
    assert furthest(found.substitute, target, "probabilities") < 1e-9


def test_a_logistic_regression_on_real_data() -> None:
    inputs, truth = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(inputs, truth)
    box = Box(inputs.min(0), inputs.max(0))
    parameters = SklearnTarget.of(model, box).parameters
    assert parameters is not None
    found = solved(explained(LinearTarget(parameters["weights"], parameters["bias"], box), SCORED), data=inputs[::2])
    assert found.verdict is us.Verdict.EXACT
    assert (found.substitute.query(inputs).labels() == model.predict(inputs)).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("widths", [(20, 16, 4), (64, 32, 10)])
def test_a_hidden_layer_costs_some_two_queries_per_unit(seed: int, widths: tuple[int, ...]) -> None:
    target = explained(network(seed, widths=widths), SCORED)
    found = solved(target, seed=seed)
    assert (found.verdict, found.notes["units"]) == (us.Verdict.EXACT, widths[1])
    assert found.spent <= 3 * widths[1] + 80
    assert furthest(found.substitute, target, "probabilities") < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_a_single_output_is_solved_without_inventing_units(seed: int) -> None:
    target = explained(replace(network(seed, widths=(10, 8, 1)), link="identity"), VALUED)
    found = solved(target, seed=seed)
    assert (found.verdict, found.notes["units"]) == (us.Verdict.EXACT, 8)
    assert furthest(found.substitute, target, "value") < 1e-9


def test_a_trained_network_on_digits() -> None:
    inputs, truth = load_digits(return_X_y=True)
    inputs = inputs / 16
    fitted = MLPClassifier((16,), max_iter=40, random_state=0, tol=1e-1).fit(inputs, truth)
    layers = tuple((w.T, b) for w, b in zip(fitted.coefs_, fitted.intercepts_, strict=True))
    target = explained(NetworkTarget(layers, Box(0, 1, (64,))), SCORED)
    found = solved(target, data=inputs[:300])
    assert found.verdict is us.Verdict.EXACT
    assert found.spent <= 3 * 16 + 100
    assert (found.substitute.query(inputs[300:]).labels() == fitted.predict(inputs[300:])).mean() >= 0.99


def test_other_families_are_refused() -> None:
    for target in (
        explained(linear(link="one-vs-rest"), SCORED),
        explained(network(1, widths=(6, 5, 5, 3)), SCORED),
        explained(linear(), ["label", "attribution"]),
    ):
        found = solved(target, 5000)
        assert found.verdict is us.Verdict.NOT_OF_FAMILY
        assert found.substitute is None
        assert found.notes["reason"]


def test_rounded_answers_are_refused() -> None:
    model = linear()

    def call(x: Any) -> Any:
        answers = explained(model, SCORED).query(x)
        return {s: np.round(answers[s], 3) for s in SCORED[1:]} | {"probabilities": answers["probabilities"]}

    found = solved(CallableTarget(call, Exposure.of(SCORED, 3), model.space))
    assert (found.verdict, found.notes["reason"]) == (us.Verdict.NOT_OF_FAMILY, "answers or attributions are rounded")
