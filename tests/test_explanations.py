"""Explanations beside answers: held against their shapes, withheld unless granted, carried where there is a place."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from understudy.endpoint import defences
from understudy.errors import AnswerError, ManifestError
from understudy.gateway.service import compile_service
from understudy.manifest import load
from understudy.targets.callable import CallableTarget
from understudy.testing import check_target, explained, linear
from understudy.types import EXPLANATIONS, Box, Exposure, Signal
from understudy.wrappers import Defended

SERVED = ["label", "probabilities", "attribution", "counterfactual"]


def manifest(folder: Path, signals: dict[str, Any], granted: dict[str, Any], protocol: str = "json") -> Path:
    """A manifest of an endpoint over HTTP."""
    path = folder / "explained.yaml"
    made = {
        "apiVersion": "understudy/v1",
        "kind": "Endpoint",
        "metadata": {"id": "explained", "owner": "a@example.org", "contact": "b@example.org", "kind": "classification"},
        "model": {"version": "1"},
        "target": {
            "http": {"url": "http://127.0.0.1:1/v2/models/m/infer", "protocol": protocol},
            "signals": signals,
            "outputs": 2,
        },
        "space": {"low": -1, "high": 1, "shape": [4]},
        "evaluation": {"data": "x.npy"},
        "goals": [{"id": "copy", "metric": "fidelity", "threshold": 0.9, "basis": "an example"}],
        "tiers": [{"id": "t", "who": "anyone", "limits": {"per_day": 500}, "signals": granted}],
    }
    path.write_text(yaml.safe_dump(made), encoding="utf-8")
    return path


@pytest.mark.parametrize("outputs", [2, 3])
def test_a_model_that_explains_itself_is_a_target(outputs: int) -> None:
    target = explained(linear(outputs=outputs), SERVED)
    rng = np.random.default_rng(0)
    check_target(target, target.space.sample(8, rng), rng)


def test_a_counterfactual_is_of_another_class() -> None:
    target = explained(linear(), SERVED)
    found = target.query(target.space.sample(100, np.random.default_rng(0)))
    wide = linear()
    scores = wide.scores(found["counterfactual"])
    assert (scores.argmax(1) != found["label"]).all()
    two = np.sort(scores, axis=1)[:, -2:]
    assert np.ptp(two, axis=1).max() < 1e-7


@pytest.mark.parametrize(
    ("signal", "answer", "wanted"),
    [
        ("attribution", np.zeros((3, 5)), "5 numbers per answer, expected 8"),
        ("attribution", np.full((3, 8), np.nan), "not all finite"),
        ("attribution", np.zeros((2, 8)), "3 inputs were asked and 2 answers came back"),
        ("counterfactual", np.zeros((3, 8)), "8 numbers per answer, expected 4"),
        ("counterfactual", np.array([[np.nan, 0, 0, 0]] * 3), "not all finite"),
    ],
)
def test_an_explanation_of_another_shape_is_refused(signal: str, answer: Any, wanted: str) -> None:
    target = CallableTarget(lambda x: answer, Exposure.of(signal, 2), Box(-1, 1, (4,)))
    with pytest.raises(AnswerError, match=wanted):
        target.query(np.zeros((3, 4)))


def test_of_two_classes_one_row_of_attributions_will_do() -> None:
    target = CallableTarget(lambda x: x, Exposure.of("attribution", 2), Box(-1, 1, (4,)))
    x = target.space.sample(3, np.random.default_rng(0))
    np.testing.assert_array_equal(target.query(x)["attribution"], np.hstack([-x, x]))


def test_no_counterfactual_is_a_row_of_nan() -> None:
    target = CallableTarget(lambda x: np.full(x.shape, np.nan), Exposure.of("counterfactual", 2), Box(-1, 1, (4,)))
    assert np.isnan(target.query(np.zeros((2, 4)))["counterfactual"]).all()


@pytest.mark.parametrize("granted", [set(g) for n in range(1, 5) for g in combinations(SERVED, n)], ids=str)
def test_what_is_not_granted_is_withheld(granted: set[str]) -> None:
    target = explained(linear(), SERVED)
    shown = Defended(target, (), "someone", Exposure.of(sorted(granted), 3))
    answers = shown.query(target.space.sample(5, np.random.default_rng(0)))
    assert set(answers.values) == shown.exposure.signals == {Signal(name) for name in granted}


def test_a_tier_with_reduced_scores_and_an_explanation(tmp_path: Path) -> None:
    whole = {"probabilities": {}, "attribution": {}}
    granted = {"probabilities": {"decimals": 2}, "attribution": {}}
    tier = load(manifest(tmp_path, whole, granted)).tiers[0]
    assert [type(d).__name__ for d in defences(tier)] == ["Round"]
    alone = load(manifest(tmp_path, whole, {"label": {}, "attribution": {}})).tiers[0]
    assert defences(alone) == []
    label = load(manifest(tmp_path, whole, {"label": {}})).tiers[0]
    target = explained(linear(outputs=2), ["probabilities", "attribution"])
    answers = Defended(target, defences(label), "someone", Exposure.of("label", 2)).query(np.zeros((2, 4)))
    assert not EXPLANATIONS & answers.values.keys()


@pytest.mark.parametrize(
    ("granted", "warned"),
    [
        ({"probabilities": {"decimals": 2}, "attribution": {}}, "receives attribution whole beside probabilities made"),
        ({"probabilities": {"decimals": 2}}, None),
        ({"probabilities": {}, "attribution": {}}, None),
    ],
)
def test_an_explanation_that_undoes_the_rounding_is_warned_of(
    tmp_path: Path, granted: dict[str, Any], warned: str | None
) -> None:
    path = manifest(tmp_path, {"probabilities": {}, "attribution": {}}, granted, "json")
    said = [w for w in compile_service(path).warnings if "attribution" in w]
    assert (warned is None and not said) or (warned is not None and warned in said[0])


def test_an_explanation_takes_no_grade(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="given whole or not at all"):
        load(manifest(tmp_path, {"probabilities": {}, "attribution": {"decimals": 2}}, {"probabilities": {}}))


@pytest.mark.parametrize("protocol", ["open-inference", "json", "mlflow"])
def test_the_gateway_says_at_once_where_a_protocol_has_no_place(tmp_path: Path, protocol: str) -> None:
    whole = {"probabilities": {}, "attribution": {}, "counterfactual": {}}
    path = manifest(tmp_path, whole, whole, protocol)
    if protocol == "json":
        assert compile_service(path).exposure.signals >= EXPLANATIONS
        return
    with pytest.raises(ManifestError, match="no place for attribution"):
        compile_service(path)
