"""The monitor section: what a ladder may say, and where a wrong one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from running import manifest as digits
from understudy.errors import ManifestError
from understudy.gateway.service import compile_service
from understudy.manifest import load
from understudy.manifest_parts import seconds


def loaded(tmp_path: Path, **monitor: Any) -> Any:
    return load(digits(tmp_path, 9, monitor=monitor)).monitor


def test_everything_has_a_default(tmp_path: Path) -> None:
    part = loaded(tmp_path)
    assert (part.level, part.horizon, part.calibration, part.response) == (0.01, 1024, "calibration.bin", [])
    assert part.sinks.file == "alerts.jsonl"
    assert part.sinks.webhook is None


def test_a_ladder_is_read(tmp_path: Path) -> None:
    part = loaded(
        tmp_path,
        segments={"batch": {"parties": ["key:acme"]}, "tools": {"principals": ["key:globex-1"]}},
        leak_budget={"standard": 0.5},
        response=[
            {"when": {"p_value": 0.05}, "do": "note"},
            {"when": {"p_value": 0.01}, "do": "alert"},
            {"when": {"p_value": 0.01, "leak": 0.3}, "do": "throttle", "factor": 0.5, "expires": "12h"},
            {"id": "cap", "when": {"leak_budget": True}, "do": "reduce", "to_tier": "public", "tiers": ["standard"]},
            {"when": {"p_value": 0.001}, "do": "suspend", "whom": "party"},
        ],
    )
    assert [part.name(i) for i in range(5)] == ["1-note", "2-alert", "3-throttle", "cap", "5-suspend"]
    assert seconds(part.response[2].expires) == 43_200
    assert part.segment("key:acme-7", "key:acme") == "batch"
    assert part.segment("key:globex-1", "key:globex") == "tools"
    assert part.segment("key:globex-2", "key:globex") is None
    assert type(part).model_validate(part.model_dump(mode="json")) == part  # as a run's record keeps it


@pytest.mark.parametrize(
    ("monitor", "wanted"),
    [
        ({"response": [{"when": {}, "do": "note"}]}, ["monitor.response.0.when", "name at least one of p_value"]),
        ({"response": [{"when": {"p_value": 0.01}, "do": "reduce"}]}, ["reduce needs it"]),
        ({"response": [{"when": {"leak": 0.5}, "do": "alert", "to_tier": "public"}]}, ["to_tier belongs to reduce"]),
        ({"response": [{"when": {"p_value": 0.01}, "do": "alert", "factor": 0.5}]}, ["factor belongs to throttle"]),
        ({"response": [{"when": {"leak": 0.9}, "do": "suspend"}]}, ["suspend accuses somebody", "needs a p_value"]),
        ({"response": [{"when": {"queries": 9}, "do": "reverify"}]}, ["reverify accuses somebody"]),
        (
            {"response": [{"when": {"p_value": 0.05}, "do": "throttle"}]},
            ["monitor.response.0.when.p_value", "may not be above monitor.level (0.01)"],
        ),
        (
            {"response": [{"when": {"p_value": 0.01}, "do": "reduce", "to_tier": "standrad"}]},
            ["monitor.response.0.to_tier", "no tier is called 'standrad'"],
        ),
        (
            {"response": [{"when": {"p_value": 0.01}, "do": "reduce", "to_tier": "partner"}]},
            ["monitor.response.0.to_tier", "partner receives probabilities, which is not within the label of public"],
        ),
        ({"response": [{"when": {"leak_budget": True}, "do": "alert"}]}, ["leak_budget: no tier has one"]),
        ({"leak_budget": {"gold": 0.5}}, ["monitor.leak_budget", "no tier is called 'gold'"]),
        ({"leak_budget": {"standard": 1.5}}, ["monitor.leak_budget.standard", "less than or equal to 1"]),
        ({"response": [{"when": {"leak": 0.5}, "do": "alert", "expires": "a week"}]}, ["monitor.response.0.expires"]),
        ({"segments": {"a": {"parties": ["x"]}, "b": {"principals": ["x"]}}}, ["x is in two segments"]),
        (
            {"response": [{"id": "a", "when": {"leak": share}, "do": "note"} for share in (0.5, 0.6)]},
            ["ids must differ; a is given twice"],
        ),
        ({"sinks": {"webhook": {"url": "https://me:secret@example.org"}}}, ["monitor.sinks.webhook.url"]),
    ],
)  # fmt: skip
def test_a_wrong_ladder_is_refused(tmp_path: Path, monitor: dict[str, Any], wanted: list[str]) -> None:
    with pytest.raises(ManifestError) as caught:
        loaded(tmp_path, **monitor)
    for part in wanted:
        assert part in str(caught.value)


def test_a_fault_is_told_with_its_line(tmp_path: Path) -> None:
    path = digits(tmp_path, 9, monitor={"response": [{"when": {"p_value": 0.05}, "do": "suspend"}]})
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "p_value" in text)
    with pytest.raises(ManifestError, match=rf"digits\.yaml:{line}: monitor\.response\.0\.when\.p_value"):
        load(path)


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [("whole", None), *((kept, "no detector of content runs") for kept in ("sketch", "hash", "none"))],
)
def test_the_guard_says_what_its_logging_takes_from_the_monitor(
    tmp_path: Path, inputs: str, wanted: str | None
) -> None:
    path = digits(tmp_path, 9, monitor={}, guard={"logging": {"inputs": inputs}})
    told = [text for text in compile_service(path).warnings if "monitor" in text]
    assert bool(told) == (wanted is not None)
    if wanted:
        assert wanted in told[0]
        body = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({k: v for k, v in body.items() if k != "monitor"}))
        assert not [text for text in compile_service(path).warnings if "monitor" in text]
