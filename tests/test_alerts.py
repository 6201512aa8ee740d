"""An alert carries what whoever handles it needs, and nothing that was asked; OCSF readers understand it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from conftest import ROOT
from understudy import alerts
from understudy.alerts import Alert, Score, explanations, to_ocsf
from understudy.records import Range

ALERT = Alert(
    id="a1",
    at="2026-11-24T12:00:00.250+00:00",
    kind="extraction",
    source="live",
    message="key:acme-1 asks like somebody who copies the model (p = 0.001)",
    endpoint="digits",
    route="/v2/models/digits/infer",
    model_version="1",
    manifest_version="0123456789abcdef",
    principal="key:acme-1",
    party="key:acme",
    tier="standard",
    exposure="label + probabilities (top-1, 2 decimals)",
    volumes=alerts.Volumes(
        queries=900, queries_last_hour=900, since="2026-11-24T11:50:00+00:00", until="2026-11-24T12:00:00+00:00"
    ),
    inputs=alerts.InputStatistics(kept="whole", seen=512, repeats=0.0, out_of_range=0.1, mean=[0.5], spread=[0.2]),
    networks=["192.0.2.7"],
    clients=["python-requests/2"],
    detectors=[Score(detector="sweep-count", value=9.5), Score(detector="novelty", value=1.0)],
    p_value=0.001,
    alarmed_at=40,
    calibration=alerts.CalibrationNote(
        made="2026-11-01T00:00:00+00:00", accounts=1200, level=0.01, horizon=1024, threshold=3.1
    ),
    leak=alerts.Leak(labels=Range(low=0.62, estimate=0.71, high=0.8), probabilities=None),
    benign=explanations([Score(detector="sweep-count", value=9.5)]),
    action=alerts.Action(id="r1", step="2-reduce", do="reduce", until="2026-12-01T12:00:00+00:00"),
)


def test_it_is_what_the_schema_says_and_comes_back_whole() -> None:
    text = ALERT.model_dump_json()
    schema = json.loads((ROOT / "schemas" / "alert.json").read_text())
    Draft202012Validator(schema).validate(json.loads(text))
    assert Alert.read(text, Path("alerts.jsonl")) == ALERT


def test_the_loudest_detectors_say_what_to_rule_out() -> None:
    scores = [Score(detector=name, value=v) for name, v in [("line-depth", 5), ("grid", 2), ("probe", -1)]]
    told = explanations(scores, leak=True)
    assert told[:2] == [alerts.BENIGN["line-depth"], alerts.BENIGN["grid"]]
    assert alerts.BENIGN["probe"] not in told
    assert alerts.BENIGN["leak"] in told
    assert explanations([])  # there is always somebody to ask first


def test_ocsf_names_who_what_and_how_sure() -> None:
    event = to_ocsf(ALERT, "0.1.0")
    assert (event["class_uid"], event["category_uid"], event["type_uid"]) == (
        2004,
        2,
        2004 * 100 + event["activity_id"],
    )
    assert event["time"] == 1_795_521_600_250
    assert event["metadata"]["uid"] == event["finding_info"]["uid"] == "a1"
    assert (event["severity"], event["severity_id"]) == ("High", 4)
    assert event["finding_info"]["analytic"]["name"] == "sweep-count"
    assert event["evidences"][0]["actor"]["user"] == {"uid": "key:acme-1", "org": {"uid": "key:acme"}}
    assert {o["value"] for o in event["observables"]} == {"key:acme-1", "192.0.2.7", "python-requests/2"}
    assert event["unmapped"]["p_value"] == 0.001
    assert "confidence_score" not in event  # a p-value is not the probability of innocence
    assert None not in (event | event["evidences"][0] | event["finding_info"]).values()  # absent, never null
    json.dumps(event, allow_nan=False)


@pytest.mark.parametrize(
    ("kind", "held", "grade"),
    [
        ("extraction", None, "Medium"),
        ("extraction", 0.1, "Low"),
        ("extraction", 0.5, "Medium"),
        ("extraction", 0.95, "Critical"),
        ("leak", 0.95, "Medium"),
        ("leak", 0.2, "Low"),
        ("volume", 0.95, "Informational"),
    ],
)
def test_severity_is_what_they_could_hold(kind: str, held: float | None, grade: str) -> None:
    leak = None if held is None else alerts.Leak(labels=Range(low=0, estimate=held, high=1), probabilities=None)
    alert = ALERT.model_copy(update={"kind": kind, "leak": leak})
    assert to_ocsf(alert, "0.1.0")["severity"] == grade
    if leak is not None:  # who solved the model from its scores holds it, whatever labels alone would have taught
        soft = alerts.Leak(labels=Range(low=0, estimate=held / 2, high=1), probabilities=leak.labels)
        assert to_ocsf(alert.model_copy(update={"leak": soft}), "0.1.0")["severity"] == grade
