"""What the watcher says of a calibration, and of a ladder, that cannot do what its owner expects."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import benign
import pytest
from desk import LADDER, Desk

from understudy.gateway.metrics import log
from understudy.gateway.watcher import Lookout
from understudy.watch import Calibration


def said(folder: Path, blob: bytes, capsys: pytest.CaptureFixture[str], **changes: Any) -> list[dict[str, Any]]:
    """Its log after one look."""
    log.cache_clear()  # it goes to where standard error is now
    desk = Desk(folder, **changes)
    (folder / "calibration.bin").write_bytes(blob)
    assert desk.service.manifest.monitor is not None
    lookout = Lookout(desk.service, desk.service.manifest.monitor, None)
    lookout.step(desk.now)
    lookout.close(desk.now)
    log.cache_clear()
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_what_watches_is_told_with_the_level_it_was_made_for(tmp_path: Path, capsys: Any) -> None:
    (line,) = said(tmp_path, benign.calibration(), capsys)
    assert (line["event"], line["level"], line["stated_level"]) == ("watching", "info", benign.LEVEL)


@pytest.mark.parametrize("kind", ["empty", "half", "format", "form"])
def test_a_calibration_that_is_no_use_is_named_and_nothing_pretends_to_watch(
    kind: str, tmp_path: Path, capsys: Any
) -> None:
    whole = benign.calibration()
    blob = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "format": whole.replace(b'"format":7', b'"format":6'),
        "form": whole,
    }[kind]
    changes = {"space": {"low": 0, "high": 1, "shape": [63]}} if kind == "form" else {}
    (line,) = said(tmp_path, blob, capsys, **changes)
    assert line["event"] == "watching failed; it is tried again"
    assert str(tmp_path / "calibration.bin") in line["reason"]


def test_a_ladder_that_reads_a_meter_which_is_not_there_is_told(tmp_path: Path, capsys: Any) -> None:
    blind = dataclasses.replace(Calibration.from_bytes(benign.calibration()), leak=None).to_bytes()
    steps = [line["step"] for line in said(tmp_path, blind, capsys) if "no leak meter" in line["event"]]
    assert steps == ["2-reduce"]


def test_a_budget_that_no_step_reads_is_told(tmp_path: Path) -> None:
    told = {
        name: [w for w in Desk(folder, monitor={"response": response}).service.warnings if "leak budget" in w]
        for name, response in (
            ("with", LADDER),
            ("without", LADDER[:1]),
            ("other", [LADDER[1] | {"tiers": ["partner"]}]),
        )
        if (folder := tmp_path / name).mkdir() is None
    }
    assert told["with"] == []
    assert told["without"] == told["other"]
    assert told["other"] == [
        "monitor: nothing is done when the leak budget of tier standard is reached: no step names it"
    ]
