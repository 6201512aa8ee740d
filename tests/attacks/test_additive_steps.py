"""Ensembles of trees, solved to the last bit or refused: real models of three libraries on real data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

import understudy as us
from understudy.attacks._step_scores import between32
from understudy.attacks.additive_steps import AdditiveSteps
from understudy.endpoint import ArrayPool
from understudy.protocols import Extraction, Verdict
from understudy.types import Floats, Mixed, Space
from understudy.wrappers import Metered

Call = Callable[[Any], Any]
CANCER, DIABETES = load_breast_cancer(return_X_y=True), load_diabetes(return_X_y=True)


def box(x: Floats) -> us.Box:
    return us.Box(x.min(0), x.max(0))


def attack(
    call: Call, signal: str, outputs: int, space: Space, budget: int, seed: int = 0, rows: Floats | None = None
) -> list[Extraction]:
    meter = Metered(us.target(call, signal, outputs, space), budget)
    pool = ArrayPool(np.zeros((0, *space.shape)) if rows is None else rows)
    found = list(AdditiveSteps().run(meter, pool, np.random.default_rng(seed)))
    assert meter.spent <= budget
    return found


def apart(found: Extraction, call: Call, signal: str, x: Floats) -> float:
    """The largest difference on the data's own rows and on 20,000 uniform points."""
    assert found.substitute is not None
    points = np.concatenate([x, found.substitute.space.sample(20_000, np.random.default_rng(99))])
    ours, theirs = found.substitute.query(points)[signal], np.asarray(call(points))
    if signal == "logits":
        ours = ours[:, 1:] - ours[:, :1]
    return float(np.abs(ours - theirs.reshape(ours.shape)).max())


@pytest.mark.parametrize("seed", range(3))
def test_depth_one_is_exact_at_forty_queries_per_threshold(seed: int) -> None:
    model = GradientBoostingRegressor(max_depth=1, random_state=seed, subsample=0.8).fit(*DIABETES)
    (found,) = attack(model.predict, "value", 1, box(DIABETES[0]), 20_000, seed)
    assert found.verdict is Verdict.EXACT
    assert found.notes["terms"] == [found.notes["steps"]]
    assert found.spent <= 40 * found.notes["steps"]
    assert apart(found, model.predict, "value", DIABETES[0]) <= 1e-9


def test_depth_two_is_exact_within_12_000_queries() -> None:
    model = GradientBoostingClassifier(max_depth=2, random_state=0, subsample=0.8).fit(*CANCER)
    (found,) = attack(model.decision_function, "logits", 2, box(CANCER[0]), 30_000)
    assert found.verdict is Verdict.EXACT
    assert found.spent <= 12_000
    assert apart(found, model.decision_function, "logits", CANCER[0]) <= 1e-9
    assert found.parameters is not None
    # every threshold of the copy is one of the model's, as float32 sees it
    trees = [tree.tree_ for tree in model.estimators_.ravel()]
    real = {
        (int(i), float(_below(t)))
        for tree in trees
        for i, t in zip(tree.feature, tree.threshold, strict=True)
        if i >= 0
    }
    ours = zip(found.parameters["feature"].tolist(), found.parameters["threshold"].tolist(), strict=True)
    assert set(ours) <= real


def _below(threshold: float) -> float:
    """The largest float32 number that is not above a threshold."""
    near = np.float32(threshold)
    return float(near if near <= threshold else np.nextafter(near, np.float32(-np.inf)))


def test_depth_three_is_exact() -> None:
    model = GradientBoostingRegressor(max_depth=3, n_estimators=30, random_state=0).fit(*DIABETES)
    (found,) = attack(model.predict, "value", 1, box(DIABETES[0]), 40_000)
    assert found.verdict is Verdict.EXACT
    assert len(found.notes["terms"]) == 3
    assert apart(found, model.predict, "value", DIABETES[0]) <= 1e-9


def test_probabilities_of_three_classes() -> None:
    x, y = load_wine(return_X_y=True)
    model = GradientBoostingClassifier(max_depth=2, n_estimators=20, random_state=0).fit(x, y)
    (found,) = attack(model.predict_proba, "probabilities", 3, box(x), 10_000)
    assert found.verdict is Verdict.EXACT
    assert found.notes["link"] == "softmax"
    assert apart(found, model.predict_proba, "probabilities", x) <= 1e-9


def test_a_forest_sums_probabilities() -> None:
    model = RandomForestClassifier(max_depth=2, n_estimators=50, random_state=0).fit(*CANCER)
    (found,) = attack(model.predict_proba, "probabilities", 2, box(CANCER[0]), 20_000)
    assert found.verdict is Verdict.EXACT
    assert found.notes["link"] == "probabilities"
    assert apart(found, model.predict_proba, "probabilities", CANCER[0]) <= 1e-9


def test_float64_thresholds_are_told_from_float32_ones() -> None:
    model = HistGradientBoostingClassifier(max_depth=2, max_iter=20, early_stopping=False, random_state=0).fit(*CANCER)
    (found,) = attack(model.predict_proba, "probabilities", 2, box(CANCER[0]), 20_000)
    assert found.verdict is Verdict.EXACT
    assert found.notes["grid"] == "float64"
    assert found.notes["unsettled_steps"] == 0
    assert found.parameters is not None
    real = {float(t) for (p,) in model._predictors for t in p.nodes["num_threshold"][p.nodes["is_leaf"] == 0]}
    assert set(found.parameters["threshold"].tolist()) <= real


def test_gaps_and_whole_numbers() -> None:
    x = DIABETES[0].copy()
    x[:, 1] = x[:, 1] > 0
    x[:, 3] = np.round(100 * x[:, 3])
    rng = np.random.default_rng(0)
    x[:, [2, 3]] = np.where(rng.random((len(x), 2)) < 0.2, np.nan, x[:, [2, 3]])
    y = CANCER[1][: len(x)] ^ (DIABETES[1] > 140)
    model = HistGradientBoostingClassifier(max_depth=2, max_iter=30, early_stopping=False, random_state=0).fit(x, y)
    low, high = np.nanmin(x, 0), np.nanmax(x, 0)
    space = Mixed(low, high, integer=[3], categories={1: 2}, missing=[2, 3])
    (found,) = attack(model.predict_proba, "probabilities", 2, space, 20_000)
    assert found.verdict is Verdict.EXACT
    assert found.parameters is not None
    assert np.isnan(found.parameters["threshold"]).any()
    assert apart(found, model.predict_proba, "probabilities", x) <= 1e-9


def test_a_saved_xgboost_model(tmp_path: Path) -> None:
    """Float32 answers and inputs: exact to their precision."""
    xgboost = pytest.importorskip("xgboost")
    options = {"max_depth": 2, "n_estimators": 50, "learning_rate": 0.1, "n_jobs": 1}
    xgboost.XGBClassifier(**options).fit(*CANCER).save_model(tmp_path / "model.ubj")
    model = xgboost.Booster(model_file=tmp_path / "model.ubj")
    model.set_param({"nthread": 1})
    (found,) = attack(model.inplace_predict, "probabilities", 2, box(CANCER[0]), 20_000)
    assert found.verdict is Verdict.EXACT
    assert found.notes["grid"] == "float32"
    assert found.substitute is not None
    points = np.concatenate([CANCER[0], box(CANCER[0]).sample(20_000, np.random.default_rng(99))])
    ours = found.substitute.query(points)["probabilities"][:, 1]
    assert np.abs(ours - model.inplace_predict(points)).max() <= 1e-5


def test_a_saved_lightgbm_model(tmp_path: Path) -> None:
    """Float64 thresholds that are not round take 29 queries more each."""
    lightgbm = pytest.importorskip("lightgbm")
    options = {"max_depth": 2, "n_estimators": 30, "n_jobs": 1, "verbose": -1}
    lightgbm.LGBMRegressor(**options).fit(*DIABETES).booster_.save_model(tmp_path / "model.txt")
    model = lightgbm.Booster(model_file=tmp_path / "model.txt")
    (found,) = attack(model.predict, "value", 1, box(DIABETES[0]), 20_000)
    assert found.verdict is Verdict.EXACT
    assert found.notes["grid"] == "float64"
    assert found.notes["unsettled_steps"] == 0
    assert apart(found, model.predict, "value", DIABETES[0]) <= 1e-9


def test_what_is_smooth_is_refused_with_eight_queries() -> None:
    x, y = load_iris(return_X_y=True)
    network = MLPClassifier(max_iter=3000, random_state=0).fit(x, y)
    for model in (LogisticRegression(max_iter=1000).fit(x, y), network):
        (found,) = attack(model.predict_proba, "probabilities", 3, box(x), 10_000)
        assert found.verdict is Verdict.NOT_OF_FAMILY
        assert found.substitute is None
        assert found.spent == 8


def test_a_deep_forest_is_learnt_and_called_that() -> None:
    model = RandomForestClassifier(n_estimators=50, random_state=0).fit(*CANCER)
    (found,) = attack(model.predict_proba, "probabilities", 2, box(CANCER[0]), 3000, rows=CANCER[0][::2])
    assert found.verdict is Verdict.APPROXIMATE
    assert found.notes["reason"]
    assert found.notes["way"].startswith("trained on")
    assert found.substitute is not None
    held_out = CANCER[0][1::2]
    agreed = float((found.substitute.query(held_out).labels() == model.predict(held_out)).mean())
    assert agreed >= 0.93
    assert abs(agreed - found.notes["fidelity"]) <= 0.06


def test_rounded_answers_are_never_called_exact() -> None:
    model = GradientBoostingClassifier(max_depth=2, random_state=0).fit(*CANCER)
    found = attack(lambda x: model.predict_proba(x).round(3), "probabilities", 2, box(CANCER[0]), 4000)
    assert [f.verdict for f in found] == [Verdict.APPROXIMATE]


def test_the_middle_of_float32_numbers() -> None:
    """Bisection ends between neighbours, at zero and at bounds that are no float32 numbers too."""
    rng = np.random.default_rng(0)
    a = np.concatenate([rng.normal(size=200), [0.1, -1.0, 0.0, -1e-38, 1.0]])
    b = a + np.concatenate([rng.exponential(size=200), [1e-12, 2.0, 1e-44, 1e-37, 1e-9]])
    wanted = rng.uniform(a, b)
    asked = 0
    while True:
        middle = between32(a, b, np.full(len(a), 1e-6))
        inside = (middle > a) & (middle < b)
        assert ((middle == a) | inside).all()
        if not inside.any():
            break
        assert (middle[inside].astype(np.float32) == middle[inside]).all()
        a, b = np.where(inside & (middle <= wanted), middle, a), np.where(inside & (middle > wanted), middle, b)
        asked += 1
    assert asked < 90
    assert (np.nextafter(a.astype(np.float32), np.float32(np.inf)) >= b).all()


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_a_float64_step_at_zero_is_settled_at_once(low: float) -> None:
    def call(x: Floats) -> Floats:  # below the least float32 lie many more float64 numbers than between others
        return np.sqrt(2) * (x[:, :1] > 0) + np.sqrt(3) * (x[:, 1:2] > 0.135) + np.sqrt(5) * (x[:, 2:] > 1 / 3)

    (found,) = attack(call, "value", 1, us.Box(low, 1, (3,)), 700)
    assert (found.verdict, found.notes["grid"], found.notes["unsettled_steps"]) == (Verdict.EXACT, "float64", 0)
    assert found.parameters is not None
    x = np.array([[0, 0, 0], [5e-324, 0.135, 1 / 3], [1, np.nextafter(0.135, 1), np.nextafter(1 / 3, 1)]])
    assert apart(found, call, "value", x) <= 1e-9


def test_a_step_beside_zero_does_not_use_up_the_budget() -> None:
    def call(x: Floats) -> Floats:
        return np.sqrt(2) * (x[:, :1] > 1e-310) + np.sqrt(3) * (x[:, 1:2] > 1 / 7) + np.sqrt(5) * (x[:, 2:] > 1 / 3)

    (found,) = attack(call, "value", 1, us.Box(-1, 1, (3,)), 700)
    assert (found.verdict, found.notes["unsettled_steps"]) == (Verdict.EXACT, 1)
