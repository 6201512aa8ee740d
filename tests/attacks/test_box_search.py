"""Tree ensembles copied box by box, from an explainer that finds the nearest counterfactual inside a box."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

import understudy as us
from understudy import registry
from understudy.endpoint import ArrayPool
from understudy.targets.callable import CallableTarget
from understudy.types import Ask, Box, Exposure, Floats
from understudy.wrappers import Metered

INPUTS, TRUTH = load_iris(return_X_y=True)
SPACE = Box(INPUTS.min(0), INPUTS.max(0))


def on_grid(x: Floats, up: bool) -> Floats:
    """The nearest float32 numbers that are no smaller, or no larger."""
    near = x.astype(np.float32)
    beside = np.nextafter(near, np.float32(np.inf if up else -np.inf))
    return np.where((near < x) if up else (near > x), beside, near).astype(float)


class Nearest:
    """The nearest point of another class, by looking into every cell between the model's thresholds."""

    def __init__(self, model: Any) -> None:
        self.model = model
        trees = np.ravel(getattr(model, "estimators_", [model]))
        edges = [set[float]() for _ in range(4)]
        for tree in trees:
            for j, t in zip(tree.tree_.feature, tree.tree_.threshold, strict=True):
                if j >= 0:
                    edges[j].add(float(t))
        #: the numbers at which a cell begins: models compare float32
        below = [on_grid(np.array(sorted(e)), up=False).astype(np.float32) for e in edges]
        self.edges = [np.unique(np.nextafter(b, np.float32(np.inf))).astype(float) for b in below]

    def __call__(self, x: Floats, within: tuple[Floats, Floats] | None = None) -> dict[str, Any]:
        low, high = (SPACE.low, SPACE.high) if within is None else within
        low, high = on_grid(low, up=True), on_grid(high, up=False)
        labels, found = self.model.predict(x), np.full(x.shape, np.nan)
        for i, row in enumerate(x):
            # of each cell the point nearest to the row: along a column, its own value or the near end of a cell
            places = []
            for j in range(4):
                starts = np.array([low[j], *self.edges[j][(self.edges[j] > low[j]) & (self.edges[j] <= high[j])]])
                ends = np.append(np.nextafter(starts[1:].astype(np.float32), np.float32(-np.inf)), high[j])
                places.append(np.clip(row[j], starts, np.minimum(ends, high[j])))
            points = np.array([*product(*places)])
            other = points[self.model.predict(points) != labels[i]]
            if len(other):
                found[i] = other[((other - row) ** 2).sum(1).argmin()]
        return {"label": labels, "counterfactual": found}


def target(model: Any) -> CallableTarget:
    return CallableTarget(Nearest(model), Exposure.of(["label", "counterfactual"], 3), SPACE)


@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeClassifier(max_depth=4, random_state=0),
        RandomForestClassifier(3, max_depth=3, random_state=0),
        GradientBoostingClassifier(n_estimators=3, max_depth=1, random_state=0),
    ],
    ids=["tree", "forest", "boosting"],
)
def test_every_box_of_an_ensemble_is_found(model: Any) -> None:
    model.fit(INPUTS, TRUTH)
    got = us.extract(target(model), "box-search", budget=2500, seed=0)
    assert got.verdict is us.Verdict.APPROXIMATE  # labels alone are never called exact
    assert got.notes["complete"]
    assert got.notes["open"] == 0
    x = np.concatenate([SPACE.sample(20_000, np.random.default_rng(1)), INPUTS])
    assert (got.substitute.query(x).labels() == model.predict(x)).mean() >= 0.9999


def test_what_the_budget_does_not_hold_is_said() -> None:
    model = RandomForestClassifier(8, max_depth=4, random_state=0).fit(INPUTS, TRUTH)
    got = us.extract(target(model), "box-search", budget=120, seed=0)
    assert not got.notes["complete"]
    assert got.notes["open"] > 0
    x = SPACE.sample(5000, np.random.default_rng(1))
    assert (got.substitute.query(x).labels() == model.predict(x)).mean() > 0.7  # measured 0.86


def test_without_a_box_to_look_in_it_is_refused() -> None:
    model = Nearest(DecisionTreeClassifier(max_depth=2, random_state=0).fit(INPUTS, TRUTH))
    for call, space, why in (
        (lambda x: model(x), SPACE, "takes no `within`"),
        (model, Box(-np.inf, np.inf, (4,)), "a space with bounds"),
    ):
        got = us.extract(CallableTarget(call, Exposure.of(["label", "counterfactual"], 3), space), "box-search", 300)
        assert (got.verdict, got.substitute) == (us.Verdict.NOT_OF_FAMILY, None)
        assert why in got.notes["reason"]


def test_a_box_stays_on_record(tmp_path: Path) -> None:
    from understudy.store import _ask_from, _ask_text
    from understudy.wrappers import query_digest

    ask = Ask(within=((0.1, 0.2), (1.0, 2.0)))
    assert _ask_from(_ask_text(ask)) == ask
    x = np.zeros((1, 2))
    assert len({query_digest(x, a) for a in (None, Ask(), ask, Ask(within=((0.0, 0.2), (1.0, 2.0))))}) == 3


@pytest.mark.parametrize("from_the_start", [True, False])
def test_slivers_without_end_use_up_the_budget_and_no_more(from_the_start: bool) -> None:
    def call(x: Floats, within: tuple[Floats, Floats]) -> dict[str, Any]:
        low, high = within
        beside = np.where(np.arange(4) == 0, low + 1e-9, x)  # however much of it is cut off, the wall moves along
        far = np.where(np.arange(4) == 1, (x + high) / 2, x)
        whole = not from_the_start and np.array_equal(low, SPACE.low) and np.array_equal(high, SPACE.high)
        return {"label": np.zeros(len(x), int), "counterfactual": far if whole else beside}

    lying = CallableTarget(call, Exposure.of(["label", "counterfactual"], 3), SPACE)
    meter = Metered(lying, 120)
    run = registry.create("attacks", "box-search").run(meter, ArrayPool(np.zeros((0, 4))), np.random.default_rng(0))
    found = list(run)
    assert meter.spent <= 120
    assert [(e.notes["complete"], e.notes["open"]) for e in found] == ([] if from_the_start else [(False, 1)])
