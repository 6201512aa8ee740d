"""What models look at: importances against closed forms and scikit-learn's, and agreement of a copy with its target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.inspection import permutation_importance

import understudy as us
from understudy.cell import Known
from understudy.errors import UsageError
from understudy.importance import importances, ranks, spearman, telling
from understudy.metrics.importance_agreement import ImportanceAgreement
from understudy.targets.linear import LinearTarget
from understudy.types import Signal

CANCER, DIAGNOSES = load_breast_cancer(return_X_y=True)
SPACE = us.Box(CANCER.min(0) - 1, CANCER.max(0) + 1)


def test_a_linear_models_importances_are_its_weights_times_the_spread() -> None:
    rng = np.random.default_rng(0)
    weights = np.array([[3.0, 0.0, -2.0, 0.5]])
    model = LinearTarget(weights, np.zeros(1), us.Box(-9, 9, shape=(4,)), "identity")
    x = rng.normal(size=(4000, 4)) * [1, 5, 1, 2]
    found = us.importances(model, np.clip(x, -9, 9))
    gap = 2 / np.pi**0.5  # mean |x - x'| of a standard normal
    wanted = gap * np.array([3, 0, 2, 1]) / np.sqrt(9 + 4 + 1)
    assert found.values == pytest.approx(wanted, rel=0.05)
    assert found.ranking.tolist() == [0, 2, 3, 1]


def test_they_agree_with_scikit_learns_on_a_boosted_model() -> None:
    model = GradientBoostingClassifier(random_state=0).fit(CANCER, DIAGNOSES)
    target = us.target(model.predict_proba, "probabilities", 2, SPACE)
    ours = us.importances(target, CANCER).values
    before = model.predict_proba(CANCER)

    def stays(estimator: Any, x: Any, _: Any) -> float:
        return -float(np.abs(estimator.predict_proba(x) - before).sum(1).mean() / 2)

    theirs = permutation_importance(model, CANCER, DIAGNOSES, scoring=stays, n_repeats=3, random_state=0)
    assert spearmanr(ours, theirs.importances_mean).statistic >= 0.97
    assert ours == pytest.approx(theirs.importances_mean, abs=0.01)


def test_a_trained_copy_looks_at_the_same_columns_as_its_target() -> None:
    model = GradientBoostingClassifier(random_state=0).fit(CANCER[::2], DIAGNOSES[::2])
    target = us.target(model.predict_proba, "probabilities", 2, SPACE)
    copy = us.extract(target, "retraining", 250, 0, CANCER[::2]).substitute
    assert copy is not None
    x = CANCER[1::2]
    agreed = us.rank_agreement(us.importances(copy, x), us.importances(target, x))
    assert agreed.low <= agreed.value <= agreed.high
    assert agreed.value >= 0.5
    stranger = LinearTarget(np.random.default_rng(1).normal(size=(2, 30)) / CANCER.std(0), np.zeros(2), SPACE)
    strange = us.rank_agreement(us.importances(stranger, x), us.importances(target, x))
    assert strange.high < agreed.low


def test_the_same_seed_gives_the_same_and_labels_are_enough() -> None:
    model = GradientBoostingClassifier(random_state=0).fit(CANCER, DIAGNOSES)
    target = us.target(model.predict, "label", 2, SPACE)
    one, two = us.importances(target, CANCER, seed=3), us.importances(target, CANCER, seed=3)
    assert np.array_equal(one.per_row, two.per_row)
    assert set(np.unique(one.per_row)) <= {0.0, 1.0}
    assert not np.array_equal(one.per_row, us.importances(target, CANCER, seed=4).per_row)
    assert us.rank_agreement(one, two).value == 1.0


def test_ranks_share_ties_as_scipys_do() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 40) / 7, rng.integers(0, 5, 40) / 3
    assert np.array_equal(ranks(a), rankdata(a))
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert np.isnan(spearman(np.ones(4), a[:4]))


def test_an_audit_measures_it_only_where_that_asks_nothing_more() -> None:
    rng = np.random.default_rng(0)
    space = us.Box(-1, 1, shape=(6,))
    target = LinearTarget(rng.normal(size=(3, 6)), np.zeros(3), space)
    x = space.sample(100, rng)
    known = Known(x, target.query(x), target)  # knows its parameters, and answers to x alone
    values = ImportanceAgreement().measure(target, known, x)
    assert values.shape == (6,)
    assert ImportanceAgreement().summary(values) == 1.0
    closed = us.target(lambda rows: target.query(rows)["probabilities"], "probabilities", 3, space)
    with pytest.raises(UsageError, match="only the evaluation set"):
        ImportanceAgreement().measure(target, Known(x, closed.query(x), closed), x)


def test_the_metric_is_spearmans_correlation() -> None:
    rng = np.random.default_rng(2)
    space = us.Box(-1, 1, shape=(8,))
    one, two = (LinearTarget(rng.normal(size=(3, 8)), np.zeros(3), space) for _ in range(2))
    x = space.sample(150, rng)
    measured = ImportanceAgreement().measure(one, two, x)
    assert telling(one, two) is Signal.PROBABILITIES
    a, b = (importances(m, x, np.random.default_rng(0)).values for m in (one, two))
    assert ImportanceAgreement().summary(measured) == pytest.approx(spearmanr(a, b).statistic)


def test_one_row_cannot_be_shuffled() -> None:
    with pytest.raises(us.UnderstudyError, match="at least two rows"):
        us.importances(LinearTarget(np.ones((2, 30)), np.zeros(2), SPACE), CANCER[:1])
