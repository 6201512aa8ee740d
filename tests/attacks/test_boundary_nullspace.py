"""Published counts for labels only (Tramer et al. 2016: 65,000 queries for digits, 827 for binary), at ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

import understudy as us
from understudy.attacks.boundary_nullspace import BoundaryNullspace
from understudy.endpoint import ArrayPool
from understudy.protocols import Extraction, Verdict
from understudy.types import Floats
from understudy.wrappers import Metered


def unit(inputs: Floats) -> Floats:
    """Scaled to [-1, 1] per column, as in the paper."""
    low, high = inputs.min(0), inputs.max(0)
    return np.asarray(2 * (inputs - low) / np.where(high > low, high - low, 1) - 1)


def attack(
    predict: Callable[[Any], Any], outputs: int, box: us.Box, budget: int, seed: int, pool: Floats | None = None
) -> tuple[list[Extraction], int]:
    target = Metered(us.target(predict, "label", outputs, box), budget)
    rows = np.zeros((0, *box.shape)) if pool is None else pool
    found = list(BoundaryNullspace().run(target, ArrayPool(rows), np.random.default_rng(seed)))
    assert target.spent <= budget
    return found, target.spent


def agreement(found: Extraction, predict: Callable[[Any], Any], box: us.Box) -> float:
    points = box.sample(20_000, np.random.default_rng(99))
    assert found.substitute is not None
    return float((found.substitute.query(points).labels() == predict(points)).mean())


def test_digits_labels_only() -> None:
    inputs, truth = load_digits(return_X_y=True)
    model, box = LogisticRegression(max_iter=5000).fit(inputs, truth), us.Box(0, 16, shape=(64,))
    for budget, bar in ((14_600, 0.99995), (7_500, 0.995)):
        for seed in range(2):
            found, _ = attack(model.predict, 10, box, budget, seed)
            assert agreement(found[-1], model.predict, box) >= bar
            assert found[-1].verdict is Verdict.APPROXIMATE  # never exact from labels alone


@pytest.mark.parametrize("estimator", [LogisticRegression(max_iter=5000), LinearSVC()])
def test_binary_labels_only_within_827_queries(estimator: Any) -> None:
    inputs, truth = load_breast_cancer(return_X_y=True)
    box = us.Box(-1, 1, shape=(30,))
    model = estimator.fit(unit(inputs), truth)
    for seed in range(5):
        found, spent = attack(model.predict, 2, box, 827, seed)
        assert spent <= 827
        assert agreement(found[-1], model.predict, box) >= 0.999


def test_as_many_inputs_as_spam_within_827_queries() -> None:
    """57 inputs of very unequal weight, as spam has; the data itself is benchmarks/boundary_nullspace.py's."""
    box = us.Box(-1, 1, shape=(57,))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        weights = rng.lognormal(0, 1.5, 57) * rng.choice([-1, 1], 57)

        def predict(x: Floats, weights: Floats = weights) -> Any:
            return (x @ weights + 0.3 * np.linalg.norm(weights) > 0).astype(int)

        found, spent = attack(predict, 2, box, 827, seed)
        assert spent <= 827
        assert agreement(found[-1], predict, box) >= 0.99


def test_raw_features_and_no_bounds() -> None:
    inputs, truth = load_breast_cancer(return_X_y=True)
    model = LogisticRegression(max_iter=20_000).fit(inputs, truth)
    for box, pool in (
        (us.Box(inputs.min(0) * 0.9, inputs.max(0) * 1.1 + 1e-3), None),
        (us.Box(-np.inf, np.inf, shape=(30,)), inputs[:100]),
    ):
        found, _ = attack(model.predict, 2, box, 2000, 0, pool)
        assert found[-1].substitute is not None
        assert (found[-1].substitute.query(inputs).labels() == model.predict(inputs)).mean() > 0.995


@pytest.mark.parametrize("estimator", [DecisionTreeClassifier(random_state=0), SVC()])
def test_what_is_not_linear_is_refused(estimator: Any) -> None:
    inputs, truth = load_breast_cancer(return_X_y=True)
    model = estimator.fit(unit(inputs), truth)
    found, _ = attack(model.predict, 2, us.Box(-1, 1, shape=(30,)), 2000, 0, unit(inputs)[:200])
    assert found[-1].verdict is Verdict.NOT_OF_FAMILY
    assert found[-1].substitute is None


def test_one_run_is_a_curve_and_a_seed_decides_it() -> None:
    inputs, truth = load_breast_cancer(return_X_y=True)
    model, box = LogisticRegression(max_iter=5000).fit(unit(inputs), truth), us.Box(-1, 1, shape=(30,))
    first, again = (attack(model.predict, 2, box, 827, 3)[0] for _ in range(2))
    assert len(first) >= 5
    assert [f.spent for f in first] == sorted({f.spent for f in first})
    assert first[-1].parameters is not None
    assert again[-1].parameters is not None
    assert np.array_equal(first[-1].parameters["weights"], again[-1].parameters["weights"])


@pytest.mark.parametrize("budget", [0, 1, 5, 50, 200])
def test_a_poor_budget_makes_nothing_and_breaks_nothing(budget: int) -> None:
    inputs, truth = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=5000).fit(inputs, truth)
    attack(model.predict, 10, us.Box(0, 16, shape=(64,)), budget, 0)
