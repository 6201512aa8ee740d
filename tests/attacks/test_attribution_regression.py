"""Logistic and linear regressions copied through shap and lime themselves, behind a meter."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import understudy as us
from understudy.targets.callable import CallableTarget
from understudy.types import Box, Exposure

INPUTS, TRUTH = load_breast_cancer(return_X_y=True)
ORDER = np.random.default_rng(6).permutation(len(INPUTS))
TRAIN, POOL, REST = ORDER[:284], ORDER[284:384], ORDER[384:]
BOX = Box(INPUTS.min(0), INPUTS.max(0))
MODEL = make_pipeline(StandardScaler(), LogisticRegression()).fit(INPUTS[TRAIN], TRUTH[TRAIN])


def explained(explain: Any, model: Any = MODEL) -> CallableTarget:
    """A classifier whose answers come with what `explain` makes of the rows; the explainers' warnings are their own."""

    def call(x: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"probabilities": model.predict_proba(x), "attribution": explain(x)}

    return CallableTarget(call, Exposure.of(["probabilities", "attribution"], 2), BOX)


def agreement(copy: Any, rows: Any) -> float:
    return float((copy.query(rows).labels() == MODEL.predict(rows)).mean())


def imported(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def test_shap_of_log_odds_needs_two_queries_and_checks() -> None:
    shap = imported("shap")
    explainer = shap.LinearExplainer(MODEL[-1], MODEL[0].transform(INPUTS[TRAIN]))
    target = explained(lambda x: explainer.shap_values(MODEL[0].transform(x)))
    found = us.extract(target, "attribution-regression", 100, 0, INPUTS[POOL])
    assert (found.verdict, found.spent) == (us.Verdict.EXACT, 12)
    assert agreement(found.substitute, INPUTS[REST]) == 1
    assert agreement(found.substitute, BOX.sample(20_000, np.random.default_rng(1))) > 0.999


@pytest.mark.parametrize("discretised", [False, True])
def test_lime_copies_within_a_hundred_queries(discretised: bool) -> None:
    module = imported("lime.lime_tabular")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explainer = module.LimeTabularExplainer(INPUTS[TRAIN], discretize_continuous=discretised, random_state=0)

    def one(x: Any) -> Any:
        found = explainer.explain_instance(x, MODEL.predict_proba, num_features=len(x), num_samples=1000)
        return [weight for _, weight in sorted(found.as_map()[1])]

    target = explained(lambda x: np.array([one(each) for each in x]))
    found = us.extract(target, "attribution-regression", 100, 0, INPUTS[POOL])
    assert found.spent <= 100
    assert agreement(found.substitute, INPUTS[REST]) >= 0.99
    assert agreement(found.substitute, BOX.sample(20_000, np.random.default_rng(1))) >= 0.99


def test_shap_of_a_linear_regression() -> None:
    shap = imported("shap")
    inputs, truth = load_diabetes(return_X_y=True)
    model = LinearRegression().fit(inputs, truth)
    explainer = shap.LinearExplainer(model, inputs)

    def call(x: Any) -> Any:
        return {"value": model.predict(x), "attribution": explainer.shap_values(x)}

    target = CallableTarget(call, Exposure.of(["value", "attribution"], 1), Box(inputs.min(0), inputs.max(0)))
    found = us.extract(target, "attribution-regression", 100, 0)
    assert (found.verdict, found.spent) == (us.Verdict.EXACT, 12)
    np.testing.assert_allclose(found.substitute.query(inputs)["value"][:, 0], model.predict(inputs), rtol=1e-9)


def test_a_forest_is_refused() -> None:
    model = RandomForestClassifier(20, random_state=0).fit(INPUTS[:, :3], np.arange(len(INPUTS)) % 2)
    rng = np.random.default_rng(0)
    box = Box(INPUTS[:, :3].min(0), INPUTS[:, :3].max(0))

    def call(x: Any) -> Any:
        p = np.clip(model.predict_proba(x), 0.01, 0.99)
        return {"probabilities": p, "attribution": rng.standard_normal(x.shape)}

    target = CallableTarget(call, Exposure.of(["probabilities", "attribution"], 2), box)
    found = us.extract(target, "attribution-regression", 200, 0)
    assert (found.verdict, found.substitute) == (us.Verdict.NOT_OF_FAMILY, None)


def test_attributions_alone_are_refused() -> None:
    target = CallableTarget(lambda x: x, Exposure.of("attribution", 2), BOX)
    found = us.extract(target, "attribution-regression", 100, 0)
    assert (found.verdict, found.spent) == (us.Verdict.NOT_OF_FAMILY, 0)
