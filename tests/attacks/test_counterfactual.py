"""Linear boundaries solved from counterfactuals, behind a meter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import understudy as us
from understudy.targets.callable import CallableTarget
from understudy.targets.linear import LinearTarget
from understudy.targets.sklearn import SklearnTarget
from understudy.testing import explained, linear, network
from understudy.types import Box, Exposure

SHOWN = ["label", "counterfactual"]


@pytest.mark.parametrize("seed", range(5))
def test_one_nearest_counterfactual_is_the_boundary(seed: int) -> None:
    target = explained(linear(seed, outputs=2, features=20), SHOWN)
    found = us.extract(target, "counterfactual", 100, seed)
    assert (found.verdict, found.spent) == (us.Verdict.EXACT, 11)
    points = target.space.sample(20_000, np.random.default_rng(9))
    assert (found.substitute.query(points).labels() == target.query(points).labels()).mean() > 0.9999


def real() -> tuple[Any, LinearTarget]:
    inputs, truth = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(inputs, truth)
    box = Box(inputs.min(0), inputs.max(0))
    parameters = SklearnTarget.of(model, box).parameters
    assert parameters is not None
    return inputs, LinearTarget(parameters["weights"], parameters["bias"], box)


def nearest(model: LinearTarget, inputs: Any, weight: Any, beyond: float = 1e-9) -> CallableTarget:
    """Counterfactuals nearest in a distance that weighs the columns, `beyond` the boundary by that share."""
    normal, offset = np.diff(model.weights, axis=0)[0], float(np.diff(model.bias)[0])
    way = normal / weight

    def call(x: Any) -> Any:
        step = (x @ normal + offset) / (normal @ way)
        return {"label": model.query(x).labels(), "counterfactual": x - (1 + beyond) * step[:, None] * way}

    return CallableTarget(call, Exposure.of(SHOWN, 2), model.space)


def test_a_logistic_regression_in_a_weighted_distance() -> None:
    inputs, model = real()
    target = nearest(model, inputs, 1 / inputs.std(0) ** 2)
    found = us.extract(target, "counterfactual", 100, 0, inputs[::3])
    assert found.verdict is us.Verdict.EXACT
    assert found.spent == 11 + 30 + 10
    assert (found.substitute.query(inputs).labels() == model.query(inputs).labels()).all()


def test_what_is_no_plane_is_refused() -> None:
    inputs, model = real()
    curved = network(widths=(4, 8, 2))

    def call(x: Any) -> Any:
        return {"label": curved.query(x).labels(), "counterfactual": np.tanh(3 * x[:, ::-1])}

    for target in (
        nearest(model, inputs, 1.0, beyond=0.3),  # robust ones
        CallableTarget(call, Exposure.of(SHOWN, 2), curved.space),
        CallableTarget(lambda x: np.full(x.shape, np.nan), Exposure.of("counterfactual", 2), curved.space),
        explained(linear(), SHOWN),  # three classes
    ):
        found = us.extract(target, "counterfactual", 200, 0)
        assert (found.verdict, found.substitute) == (us.Verdict.NOT_OF_FAMILY, None)
