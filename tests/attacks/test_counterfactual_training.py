"""Training on counterfactuals that lie beyond the boundary, some way or other."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import understudy as us
from understudy.attacks._clamped import Clamped
from understudy.targets.callable import CallableTarget
from understudy.types import Box, Exposure, Floats

INPUTS, TRUTH = load_breast_cancer(return_X_y=True)
INPUTS = INPUTS[:, [0, 1, 7, 21, 27]]
SPACE, SPREAD = Box(INPUTS.min(0) - 1, INPUTS.max(0) + 1), INPUTS.std(0)
MODEL = RandomForestClassifier(30, max_depth=5, random_state=0).fit(INPUTS[::2], TRUTH[::2])
KNOWN, LABELS = INPUTS[::2], MODEL.predict(INPUTS[::2])


def unlike(x: Floats) -> dict[str, Any]:
    """The nearest row of the owner's that is answered otherwise: what several explainers give."""
    labels = MODEL.predict(x)
    found = np.empty_like(x)
    for i, row in enumerate(x):
        others = KNOWN[labels[i] != LABELS]
        found[i] = others[(((others - row) / SPREAD) ** 2).sum(1).argmin()]
    return {"label": labels, "counterfactual": found}


def served() -> CallableTarget:
    return CallableTarget(unlike, Exposure.of(["label", "counterfactual"], 2), SPACE)


def test_a_forest_is_copied_from_few_rows_and_their_counterfactuals() -> None:
    got = us.extract(served(), "counterfactual-training", budget=80, pool=INPUTS[1::4], seed=0)
    assert got.verdict is us.Verdict.APPROXIMATE
    assert set(got.notes["scores"]) == {"clamped", "as labels", "unused"}
    mine = INPUTS[3::4]
    assert (got.substitute.query(mine).labels() == MODEL.predict(mine)).mean() > 0.9  # measured 0.958 to 0.965


def test_clamping_leaves_points_that_lie_beyond_alone() -> None:
    """One side is all that is asked, and counterfactuals lie far beyond: as labels they drag the boundary along."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(-1, 0, 150), rng.uniform(-1, 1, 150)])  # the boundary is at 0
    far = np.column_stack([np.zeros(150) + 1e-6, x[:, 1]])
    space, fresh = Box(-1, 1, (2,)), rng.uniform(-1, 1, (4000, 2))
    truth = fresh[:, 0] > 0
    right = {}
    for way in ("clamped", "as labels", "unused"):
        copy = Clamped(steps=800).fit(x, np.zeros(150), far, np.ones(150), way, space, np.random.default_rng(1))
        right[way] = float((copy.query(fresh).labels() == truth).mean())
    assert right["unused"] < 0.6  # one class alone was answered
    assert right["clamped"] > 0.95


def test_three_classes_are_refused() -> None:
    target = CallableTarget(lambda x: {}, Exposure.of(["label", "counterfactual"], 3), SPACE)
    got = us.extract(target, "counterfactual-training", budget=50)
    assert (got.verdict, got.substitute) == (us.Verdict.NOT_OF_FAMILY, None)
    assert "two classes" in got.notes["reason"]


@pytest.mark.slow
def test_diverse_counterfactuals_of_dice() -> None:
    dice_ml = pytest.importorskip("dice_ml", reason="it wants a library of hundreds of megabytes, so CI has none")
    import pandas as pd

    names = [f"c{i}" for i in range(5)]
    frame = pd.DataFrame(KNOWN, columns=names).assign(y=LABELS)
    data = dice_ml.Data(dataframe=frame, continuous_features=names, outcome_name="y")
    explainer = dice_ml.Dice(data, dice_ml.Model(model=MODEL, backend="sklearn"), method="random")

    def call(x: Floats) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the explainer's own
            made = explainer.generate_counterfactuals(
                pd.DataFrame(x, columns=names), total_CFs=1, desired_class="opposite", random_seed=0, verbose=False
            )
        found = [
            e.final_cfs_df[names].to_numpy(float)[0] if e.final_cfs_df is not None and len(e.final_cfs_df) else None
            for e in made.cf_examples_list
        ]
        return {"label": MODEL.predict(x), "counterfactual": [np.full(5, np.nan) if f is None else f for f in found]}

    target = CallableTarget(call, Exposure.of(["label", "counterfactual"], 2), SPACE)
    got = us.extract(target, "counterfactual-training", budget=60, pool=INPUTS[1::4], seed=0)
    mine = INPUTS[3::4]
    assert (got.substitute.query(mine).labels() == MODEL.predict(mine)).mean() > 0.9
