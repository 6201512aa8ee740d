"""Published counts for scores (Tramer et al. 2016, table 4: 530 queries for 105 x 5), at ours: d + 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier

import understudy as us
from understudy.attacks.equation_solving import EquationSolving
from understudy.defences.rounding import Round
from understudy.defences.top_k import TopK
from understudy.endpoint import ArrayPool
from understudy.protocols import Defence, Extraction, Target, Verdict
from understudy.targets.linear import softmax
from understudy.types import Floats
from understudy.wrappers import Defended, Metered

Call = Callable[[Any], Any]


def synthetic(seed: int) -> Call:
    """A random softmax of the published shape: 105 inputs, 5 classes."""
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(5, 105)), rng.normal(size=5)
    return lambda x: softmax(x @ weights.T + bias)


def attack(
    call: Call,
    outputs: int,
    box: us.Box,
    budget: int,
    defences: tuple[Defence, ...] = (),
    signal: str = "probabilities",
    seed: int = 0,
) -> list[Extraction]:
    target: Target = us.target(call, signal, outputs, box)
    if defences:
        exposure = target.exposure
        for defence in defences:
            exposure = defence.reveals(exposure)
        target = Defended(target, defences, "thief", exposure)
    meter = Metered(target, budget)
    found = list(EquationSolving().run(meter, ArrayPool(np.zeros((0, *box.shape))), np.random.default_rng(seed)))
    assert meter.spent <= budget
    return found


def compare(found: Extraction, call: Call, box: us.Box) -> tuple[float, float]:
    """(label agreement, largest total variation) on 20,000 uniform points."""
    points = box.sample(20_000, np.random.default_rng(99))
    assert found.substitute is not None
    ours, theirs = found.substitute.query(points)["probabilities"], call(points)
    return float((ours.argmax(1) == theirs.argmax(1)).mean()), float(np.abs(ours - theirs).sum(1).max() / 2)


def test_softmax_in_d_plus_one_queries() -> None:
    box = us.Box(-1, 1, shape=(105,))
    for seed in range(3):
        (found,) = attack(synthetic(seed), 5, box, 1000)
        assert found.verdict is Verdict.EXACT
        assert found.notes["solve_queries"] == 106
        assert found.spent == 106 + found.notes["check_queries"]
        labels, variation = compare(found, synthetic(seed), box)
        assert labels == 1.0
        assert variation <= 1e-12


def test_iris_in_seven_queries_in_all() -> None:
    inputs, truth = load_iris(return_X_y=True)
    model, box = LogisticRegression(max_iter=1000).fit(inputs, truth), us.Box(inputs.min(0), inputs.max(0))
    (found,) = attack(model.predict_proba, 3, box, 7)
    assert found.spent == 7
    assert compare(found, model.predict_proba, box)[1] <= 1e-8


@pytest.mark.parametrize(("decimals", "bar"), [(4, 0.999), (3, 0.997), (2, 0.993)])
def test_rounded_answers_at_530_queries(decimals: int, bar: float) -> None:
    box = us.Box(-1, 1, shape=(105,))
    found = attack(synthetic(1), 5, box, 530, (Round(decimals),))
    assert found[-1].notes["precision"] == f"{decimals} decimals"
    assert found[-1].verdict is Verdict.APPROXIMATE
    assert compare(found[-1], synthetic(1), box)[0] >= bar


def test_label_and_confidence_rounded_to_two_decimals() -> None:
    inputs, truth = load_digits(return_X_y=True)
    model, box = LogisticRegression(max_iter=5000).fit(inputs, truth), us.Box(0, 16, shape=(64,))
    found = attack(model.predict_proba, 10, box, 3000, (TopK(1), Round(2)))
    assert len(found) >= 3
    assert compare(found[-1], model.predict_proba, box)[0] >= 0.99


def test_label_and_confidence_at_full_precision_are_exact() -> None:
    inputs, truth = load_iris(return_X_y=True)
    model, box = LogisticRegression(max_iter=1000).fit(inputs, truth), us.Box(0, 8, shape=(4,))
    found = attack(model.predict_proba, 3, box, 300, (TopK(1),))
    assert found[-1].verdict is Verdict.EXACT
    assert compare(found[-1], model.predict_proba, box)[1] <= 1e-8


def test_one_vs_rest() -> None:
    inputs, truth = load_iris(return_X_y=True)
    model, box = OneVsRestClassifier(LogisticRegression()).fit(inputs, truth), us.Box(0, 8, shape=(4,))
    (found,) = attack(model.predict_proba, 3, box, 100)
    assert found.verdict is Verdict.EXACT
    assert found.notes["family"] == "one-vs-rest"
    assert compare(found, model.predict_proba, box)[1] <= 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_raw_features_where_the_centre_is_saturated(seed: int) -> None:
    inputs, truth = load_breast_cancer(return_X_y=True)
    model = LogisticRegression(max_iter=20_000).fit(inputs, truth)
    box = us.Box(inputs.min(0) * 0.9, inputs.max(0) * 1.1 + 1e-3)
    (found,) = attack(model.predict_proba, 2, box, 200, seed=seed)
    assert found.verdict is Verdict.EXACT
    assert compare(found, model.predict_proba, box)[1] <= 1e-8


@pytest.mark.parametrize("seed", range(3))
def test_one_class_nearly_everywhere_is_still_solved_exactly(seed: int) -> None:
    weights = np.random.default_rng(7).normal(size=(1, 30))

    def call(x: Floats) -> Floats:
        positive = 1 / (1 + np.exp(22 - 2.7 * (x @ weights.T)))
        return np.asarray(np.hstack([1 - positive, positive]))

    box = us.Box(-1, 1, shape=(30,))
    found = attack(call, 2, box, 500, seed=seed)[-1]
    assert found.verdict is Verdict.EXACT
    assert compare(found, call, box)[1] <= 1e-7


@pytest.mark.parametrize("seed", range(3))
def test_a_forest_is_never_solved_at_any_budget(seed: int) -> None:
    inputs, truth = load_iris(return_X_y=True)
    model = RandomForestClassifier(30, random_state=0).fit(inputs, truth)
    for budget in (20, 60, 400):
        found = attack(model.predict_proba, 3, us.Box(0, 8, shape=(4,)), budget, seed=seed)
        assert all(f.verdict is not Verdict.EXACT for f in found)
    assert found[-1].verdict is Verdict.NOT_OF_FAMILY


def test_regression() -> None:
    inputs, truth = load_diabetes(return_X_y=True)
    model = LinearRegression().fit(inputs, truth)
    found = attack(model.predict, 1, us.Box(-0.2, 0.2, shape=(10,)), 100, signal="value")[-1]
    assert found.verdict is Verdict.EXACT
    assert found.parameters is not None
    assert np.allclose(found.parameters["weights"][0], model.coef_, rtol=1e-8)


@pytest.mark.parametrize("signal", ["logits", "probabilities"])
def test_logits_are_used_as_logits_whatever_they_are_called(signal: str) -> None:
    inputs, truth = load_digits(return_X_y=True)
    model, box = LogisticRegression(max_iter=5000).fit(inputs, truth), us.Box(0, 16, shape=(64,))
    found = attack(model.decision_function, 10, box, 200, signal=signal)[-1]
    assert found.verdict is Verdict.EXACT
    assert found.notes["logits_called_probabilities"] is (signal == "probabilities")
    assert compare(found, model.predict_proba, box)[0] == 1.0


@pytest.mark.parametrize("defences", [(), (Round(2),)])
@pytest.mark.parametrize("estimator", [DecisionTreeClassifier(random_state=0), MLPClassifier((32,), random_state=0)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_another_family_is_refused(estimator: Any, defences: tuple[Defence, ...]) -> None:
    inputs, truth = load_digits(n_class=5, return_X_y=True)
    model = estimator.fit(inputs, truth)
    found = attack(model.predict_proba, 5, us.Box(0, 16, shape=(64,)), 2000, defences)
    assert found[-1].verdict is Verdict.NOT_OF_FAMILY
    assert found[-1].substitute is None


@pytest.mark.parametrize("defences", [(Round(1),), (Round(3),), (TopK(1), Round(2)), (TopK(1),)])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_the_family_is_not_refused_however_saturated(scale: float, defences: tuple[Defence, ...]) -> None:
    rng = np.random.default_rng(7)
    weights, bias = 2 * scale * rng.normal(size=(5, 20)) / 20**0.5, scale * rng.normal(size=5)

    def call(x: Floats) -> Floats:
        return softmax(x @ weights.T + bias)

    found = attack(call, 5, us.Box(-1, 1, shape=(20,)), 1000, defences)
    assert compare(found[-1], call, us.Box(-1, 1, shape=(20,)))[0] >= 0.97


def test_a_noisy_target_is_never_called_exact() -> None:
    inputs, truth = load_iris(return_X_y=True)
    model, box = LogisticRegression(max_iter=1000).fit(inputs, truth), us.Box(0, 8, shape=(4,))
    rng = np.random.default_rng(0)

    def noisy(x: Floats) -> Floats:
        return softmax(np.log(model.predict_proba(x)) + 0.05 * rng.normal(size=(len(x), 3)))

    found = attack(noisy, 3, box, 500)
    assert all(f.verdict is not Verdict.EXACT for f in found)


@pytest.mark.parametrize("defences", [(), (TopK(1), Round(2))])
@pytest.mark.parametrize("budget", [0, 1, 2, 3, 5, 20, 60])
def test_a_poor_budget_breaks_nothing(budget: int, defences: tuple[Defence, ...]) -> None:
    inputs, truth = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=5000).fit(inputs, truth)
    attack(model.predict_proba, 10, us.Box(0, 16, shape=(64,)), budget, defences)
