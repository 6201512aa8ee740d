"""Trees are copied exactly, thresholds to the last bit, from answers that tell leaves apart; nearly so from labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import understudy as us
from understudy import registry
from understudy.endpoint import ArrayPool
from understudy.protocols import Extraction, Target, Verdict
from understudy.wrappers import Defended, Metered

Call = Callable[[Any], Any]


def attacked(target: Target, budget: int, seed: int = 0, attack: str = "path-finding", pool: Any = None) -> Extraction:
    """The last extraction; what it says it spent is what was spent."""
    rows = np.zeros((0, *target.space.shape)) if pool is None else pool
    meter = Metered(target, budget)
    *_, found = registry.create("attacks", attack).run(meter, ArrayPool(rows), np.random.default_rng(seed))
    assert found.spent == meter.spent <= budget
    return found


def agreement(found: Extraction, target: Target, rows: Any) -> float:
    """Share of rows answered alike in everything the target answers."""
    assert found.substitute is not None
    ours, theirs = found.substitute.query(rows), target.query(rows)
    same = [(ours[s] == theirs[s]).reshape(len(rows), -1).all(1) for s in theirs.values]
    return float(np.all(same, axis=0).mean())


def around(rows: Any) -> us.Box:
    flat = rows.max(0) == rows.min(0)
    return us.Box(rows.min(0) - flat, rows.max(0) + flat)


def leaf_ids(model: Any, box: us.Box) -> Target:
    return us.target(lambda x: model.apply(x)[:, None], "value", 1, box)


BREAST, DIGITS, DIABETES = (load(return_X_y=True) for load in (load_breast_cancer, load_digits, load_diabetes))


@pytest.mark.parametrize(
    ("data", "make", "per_leaf"),
    [
        (BREAST, lambda: DecisionTreeClassifier(max_leaf_nodes=17, random_state=0), 60),
        (DIABETES, lambda: DecisionTreeRegressor(max_leaf_nodes=64, random_state=0), 60),
        (DIGITS, lambda: DecisionTreeClassifier(max_leaf_nodes=40, random_state=0), 100),
    ],
    ids=["breast cancer", "diabetes", "digits"],
)
def test_every_leaf_is_found_and_every_threshold_is_exact(data: Any, make: Callable[[], Any], per_leaf: int) -> None:
    inputs, truth = data
    model = make().fit(inputs, truth)
    leaves, target = model.get_n_leaves(), leaf_ids(model, around(inputs))
    found = attacked(target, per_leaf * leaves)
    assert found.verdict is Verdict.EXACT
    assert found.notes["leaves"] == leaves
    assert agreement(found, target, inputs) == 1
    assert agreement(found, target, target.space.sample(20_000, np.random.default_rng(9))) == 1
    cuts = np.sort(model.tree_.threshold[model.tree_.feature >= 0].astype(np.float32))
    parameters = found.parameters
    assert parameters is not None
    ours = np.sort(parameters["threshold"][parameters["feature"] >= 0])
    assert np.isin(ours, np.concatenate([cuts, np.nextafter(cuts, np.float32(-np.inf))])).all()


def table() -> tuple[Any, Any, us.Mixed]:
    """Numbers with gaps, whole numbers and categories."""
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=2000), rng.integers(0, 20, 2000), rng.integers(0, 7, 2000), rng.integers(0, 4, 2000)]
    rows = np.stack([*columns, rng.exponential(size=2000)], axis=1)
    truth = np.sin(2 * rows[:, 0]) + np.isin(rows[:, 2], [1, 4, 5]) * rows[:, 4] + 0.1 * rows[:, 1] * (rows[:, 3] == 2)
    rows[rng.random(2000) < 0.15, 0] = np.nan
    rows[rng.random(2000) < 0.1, 4] = np.nan
    kinds: Any = {"integer": [1], "categories": {2: 7, 3: 4}, "missing": [0, 4]}
    return rows, truth, us.Mixed([-4, 0, 0, 0, 0], [4, 19, 6, 3, 9], (5,), **kinds)


def histogram() -> Any:
    return HistGradientBoostingRegressor(
        max_iter=1, max_leaf_nodes=16, categorical_features=[2, 3], min_samples_leaf=5, early_stopping=False
    )


def light() -> Any:
    return lightgbm.LGBMRegressor(
        n_estimators=1, num_leaves=16, learning_rate=1, min_child_samples=5, n_jobs=1, verbose=-1
    )


@pytest.mark.parametrize(
    ("make", "fit"),
    [
        (lambda: DecisionTreeRegressor(max_leaf_nodes=40, random_state=0), {}),
        (histogram, {}),
        (lambda: xgboost.XGBRegressor(n_estimators=1, max_depth=5, learning_rate=1, n_jobs=1), {}),
        (light, {"categorical_feature": [2, 3]}),
    ],
    ids=["scikit-learn", "histogram", "xgboost", "lightgbm"],
)
def test_categories_whole_numbers_and_gaps(make: Callable[[], Any], fit: Any) -> None:
    rows, truth, space = table()
    model = make().fit(rows, truth, **fit)
    target = us.target(lambda x: model.predict(x)[:, None], "value", 1, space)
    found = attacked(target, 8000)
    assert found.verdict is Verdict.EXACT
    assert agreement(found, target, rows) == 1
    assert agreement(found, target, space.sample(5000, np.random.default_rng(9))) == 1


@pytest.mark.parametrize("bound", [None, np.inf], ids=["box", "any number"])
def test_columns_computed_in_float64_are_told(bound: float | None) -> None:
    inputs, truth = DIABETES
    model = make_pipeline(StandardScaler(), DecisionTreeRegressor(max_depth=4, random_state=0)).fit(inputs, truth)
    box = around(inputs) if bound is None else us.Box(-bound, bound, (10,))
    target = us.target(lambda x: model.predict(x)[:, None], "value", 1, box)
    found = attacked(target, 5000)
    assert found.verdict is Verdict.EXACT
    assert set(found.notes["float64_columns"]) == set(model[-1].tree_.feature) - {-2}
    assert agreement(found, target, inputs) == 1


@pytest.mark.parametrize("defence", [None, ("top-k", {"k": 1}), ("round", {"decimals": 2})], ids=str)
def test_leaves_that_answer_alike_are_told_apart(defence: Any) -> None:
    inputs, truth = BREAST
    model = DecisionTreeClassifier(min_samples_leaf=5, random_state=0).fit(inputs, truth)
    target: Target = us.target(model.predict_proba, "probabilities", 2, around(inputs))
    if defence is not None:
        made = registry.create("defences", defence[0], **defence[1])
        target = Defended(target, [made], "", made.reveals(target.exposure))
    found = attacked(target, 4000)
    assert 2 * found.notes["answers"] < model.get_n_leaves()
    assert found.verdict is Verdict.APPROXIMATE  # a leaf could hide among others
    assert agreement(found, target, inputs) == 1
    assert agreement(found, target, target.space.sample(20_000, np.random.default_rng(9))) == 1


def scaled() -> tuple[Any, Any]:
    inputs, truth = BREAST
    return (inputs - inputs.min(0)) / (inputs.max(0) - inputs.min(0)), truth


@pytest.mark.parametrize(
    ("make", "decimals", "most"),
    [
        (lambda: LogisticRegression(), None, 20),
        (lambda: LogisticRegression(), 1, 100),
        (lambda: LogisticRegression(), 3, 100),
        (lambda: MLPClassifier((16,), max_iter=300, random_state=0), None, 20),
        (lambda: MLPClassifier((16,), max_iter=300, random_state=0), 2, 100),
        (lambda: GradientBoostingClassifier(n_estimators=50, random_state=0), None, 2500),
        (lambda: GradientBoostingClassifier(n_estimators=50, random_state=0), 3, 2500),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_other_models_are_refused(make: Callable[[], Any], decimals: int | None, most: int) -> None:
    inputs, truth = scaled()
    model = make().fit(inputs, truth)
    target: Target = us.target(model.predict_proba, "probabilities", 2, us.Box(0, 1, (30,)))
    if decimals is not None:
        made = registry.create("defences", "round", decimals=decimals)
        target = Defended(target, [made], "", made.reveals(target.exposure))
    found = attacked(target, 20_000)
    assert found.verdict is Verdict.NOT_OF_FAMILY
    assert found.spent <= most


def test_noise_and_forests_are_refused() -> None:
    inputs, truth = BREAST
    rng = np.random.default_rng(0)
    noisy = us.target(lambda x: x[:, :1] + rng.normal(size=(len(x), 1)), "value", 1, around(inputs))
    assert attacked(noisy, 1000).spent == 2
    forest = RandomForestClassifier(50, random_state=0).fit(inputs, truth)
    found = attacked(us.target(forest.predict_proba, "probabilities", 2, around(inputs)), 1000)
    assert (found.verdict, found.spent <= 150) == (Verdict.NOT_OF_FAMILY, True)


def test_a_budget_that_ends_early_leaves_a_copy_that_is_not_called_exact() -> None:
    inputs, truth = DIABETES
    target = leaf_ids(DecisionTreeRegressor(max_depth=8, random_state=0).fit(inputs, truth), around(inputs))
    found = attacked(target, 2000)
    assert found.verdict is Verdict.APPROXIMATE
    uniform = agreement(found, target, target.space.sample(4000, np.random.default_rng(9)))
    assert uniform > 0.4
    assert abs(found.notes["fidelity"] - uniform) < 0.2


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("load", [load_breast_cancer, load_iris], ids=["breast cancer", "iris"])
def test_small_trees_from_labels(load: Callable[..., Any], seed: int) -> None:
    inputs, truth = load(return_X_y=True)
    model = DecisionTreeClassifier(max_leaf_nodes=17, random_state=seed).fit(inputs, truth)
    half = np.random.default_rng(seed).random(len(inputs)) < 0.5
    target = us.target(model.predict, "label", 3, around(inputs))
    found = attacked(target, 300 * model.get_n_leaves(), seed, "tree-labels", inputs[half])
    assert found.verdict is Verdict.APPROXIMATE
    assert agreement(found, target, inputs[~half]) >= 0.99
