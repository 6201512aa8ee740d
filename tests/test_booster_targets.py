"""Models of XGBoost and LightGBM as their users save them: what they answer, and an audit of one from its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from conftest import Cli
from understudy import registry
from understudy.errors import ManifestError
from understudy.types import Box, Mixed

DATA = {
    "two classes": load_breast_cancer(return_X_y=True),
    "three classes": load_iris(return_X_y=True),
    "values": load_diabetes(return_X_y=True),
}
SMALL = {"n_estimators": 8, "max_depth": 2, "n_jobs": 1}


def saved(kind: str, data: str, folder: Path, **more: Any) -> tuple[Any, Path]:
    """A fitted model with scikit-learn's interface, and the file it wrote."""
    x, y = DATA[data]
    if kind == "xgboost":
        made: Any = (xgboost.XGBRegressor if data == "values" else xgboost.XGBClassifier)(**SMALL, **more)
        made.fit(x, y).save_model(folder / "model.ubj")
        return made, folder / "model.ubj"
    made = (lightgbm.LGBMRegressor if data == "values" else lightgbm.LGBMClassifier)(**SMALL, verbose=-1, **more)
    made.fit(x, y).booster_.save_model(folder / "model.txt")
    return made, folder / "model.txt"


def around(x: Any) -> Box:
    return Box(x.min(0), x.max(0))


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("data", DATA)
def test_answers_are_those_of_the_library(tmp_path: Path, kind: str, data: str) -> None:
    model, path = saved(kind, data, tmp_path)
    x, _ = DATA[data]
    answers = registry.load("targets", kind).load(path, around(x)).query(x)
    if data == "values":
        np.testing.assert_array_equal(answers["value"][:, 0], model.predict(x))
        return
    np.testing.assert_array_equal(answers["probabilities"], model.predict_proba(x))
    np.testing.assert_array_equal(answers["label"], model.predict(x))
    margins = model.predict(x, output_margin=True) if kind == "xgboost" else model.predict(x, raw_score=True)
    if data == "two classes":
        np.testing.assert_array_equal(np.diff(answers["logits"])[:, 0], margins)
    else:
        np.testing.assert_array_equal(answers["logits"], margins)


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_missing_values_go_where_the_library_sends_them(tmp_path: Path, kind: str) -> None:
    model, path = saved(kind, "two classes", tmp_path)
    x = DATA["two classes"][0].copy()
    x[::3, 20] = np.nan
    space = Mixed(np.nanmin(x, 0), np.nanmax(x, 0), missing=[20])
    answers = registry.load("targets", kind).load(path, space, signals=["probabilities"]).query(x)
    np.testing.assert_array_equal(answers["probabilities"], model.predict_proba(x))


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
@pytest.mark.parametrize(
    ("data", "d", "signals", "said"),
    [
        ("values", 10, ["probabilities"], "is a regression: it cannot give probabilities; it gives value"),
        ("two classes", 30, ["value"], "is a classifier of 2 classes: it cannot give value"),
        ("two classes", 7, None, "takes 30 columns; the space has 7"),
    ],
)
def test_what_does_not_fit_is_said(
    tmp_path: Path, kind: str, data: str, d: int, signals: list[str] | None, said: str
) -> None:
    _, path = saved(kind, data, tmp_path)
    with pytest.raises(ManifestError, match=said):
        registry.load("targets", kind).load(path, Box(0, 1, (d,)), signals=signals)


def test_a_model_that_ranks_is_refused(tmp_path: Path) -> None:
    x, _ = DATA["values"]
    grades = np.arange(len(x)) % 4
    lightgbm.LGBMRanker(**SMALL, verbose=-1).fit(x, grades, group=[len(x)]).booster_.save_model(tmp_path / "m.txt")
    with pytest.raises(ManifestError, match="objective lambdarank"):
        registry.load("targets", "lightgbm").load(tmp_path / "m.txt", around(x))
    xgboost.XGBRanker(**SMALL).fit(x, grades, qid=np.zeros(len(x), int)).save_model(tmp_path / "m.ubj")
    with pytest.raises(ManifestError, match="objective rank:ndcg"):
        registry.load("targets", "xgboost").load(tmp_path / "m.ubj", around(x))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.4, 0.7, 0.9, 0.99])
def test_a_lightgbm_file_of_which_a_part_is_missing_is_refused(tmp_path: Path, share: float) -> None:
    _, path = saved("lightgbm", "three classes", tmp_path)  # given such a file, the library itself ends the process
    text = path.read_text(encoding="utf-8")
    whole = text.index("end of parameters")
    path.write_text(text[: int(share * whole)], encoding="utf-8")
    with pytest.raises(ManifestError, match="is not a model that LightGBM can load"):
        registry.load("targets", "lightgbm").load(path, Box(0, 10, (4,)))


def test_a_lightgbm_file_that_does_not_say_its_objective_is_refused(tmp_path: Path) -> None:
    _, path = saved("lightgbm", "three classes", tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("objective=multiclass num_class:3", "objective="), encoding="utf-8")
    with pytest.raises(ManifestError, match="objective none"):
        registry.load("targets", "lightgbm").load(path, Box(0, 10, (4,)))


MANIFEST = """
apiVersion: understudy/v1
kind: Endpoint
metadata: {{id: progression, owner: me@example.org, contact: security@example.org}}
model: {{version: "1"}}
target: {{{kind}: {file}, signals: {{value: {{}}}}, outputs: 1}}
space: {{low: {low}, high: {high}, shape: [10]}}
pool: {{data: rows.npy, provenance: none}}
evaluation: {{data: rows.npy}}
goals: [{{id: copy, metric: regression-error, threshold: 0.01, basis: as good as ours}}]
tiers: [{{id: all, who: anybody, signals: {{value: {{}}}}, limits: {{per_day: 5000}}}}]
audit: {{attacks: [additive-steps], seeds: 1}}
"""


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_an_audit_solves_a_saved_model(cli: Cli, tmp_path: Path, kind: str) -> None:
    _, path = saved(kind, "values", tmp_path)
    x, _ = DATA["values"]
    np.save(tmp_path / "rows.npy", x)
    text = MANIFEST.format(kind=kind, file=path.name, low=x.min(0).tolist(), high=x.max(0).tolist())
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    done = cli("audit", "m.yaml", "--out", "run", "--jobs", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "COPIED" in done.stdout
    found = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert "exact" in json.dumps(found)
