"""Calibrating from a log, as it is typed: what is left out, what is refused, what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from conftest import DEMO, Cli
from understudy.calibrating import hold, learn, read_excluded, substitutes
from understudy.errors import UsageError
from understudy.leak import LeakMeter
from understudy.testing import linear
from understudy.types import Answers, Floats, Signal
from understudy.watch import Calibration, Queries, Watch

MODEL = linear(features=5)


def rows(n: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    mixed: Floats = np.tanh(rng.normal(size=(n, 5)) @ np.random.default_rng(0).normal(size=(5, 5)) / 3)
    return np.round(mixed, 2)


def asked(name: str, x: Floats, audit: bool = False) -> Queries:
    return Queries(name, f"of {name}", np.arange(len(x)) * 60.0, x, MODEL.query(x), audit=audit)


def test_audits_and_confirmed_abusers_are_left_out_and_a_level_is_refused() -> None:
    log = [asked(f"a{i}", rows(40, i)) for i in range(60)]
    log += [asked("thief", rows(40, 99)), asked("audit", rows(40, 98), audit=True), asked("blind", rows(40, 97))]
    log[-1] = Queries("blind", "p", log[-1].at, None, log[-1].answers)
    owned = rows(300, 1000)
    learnt = learn(
        owned,
        MODEL.query(owned),
        log,
        np.random.default_rng(0),
        made=1e9,
        model="v2",
        excluded=frozenset({"of thief"}),
        horizon=32,
        leak=False,
    )
    assert learnt.calibration.accounts == 36  # of 60, 24 set the scales
    assert learnt.refused == "1 % needs 99 accounts; you have 36"
    assert learnt.notes[0].startswith("left out: 2 accounts")
    assert "1 accounts have no inputs" in learnt.notes[1]
    assert (learnt.calibration.made, learnt.calibration.model) == (1e9, "v2")


def test_the_meter_is_held_against_trained_substitutes() -> None:
    rng, owned = np.random.default_rng(1), rows(1200, 3)
    meter = LeakMeter.fit(owned, MODEL.query(owned), rng)
    sets = {}
    for i in range(6):
        x = rows(300, 10 + i) if i % 2 else np.round(rng.uniform(-1, 1, (300, 5)), 2)
        sets[f"set {i}"] = (x, MODEL.query(x))
    held = hold(meter, sets, rng)
    assert set(held.truths) == {"label", "probability"}
    assert held.truths["label"].error < 0.1
    x = rows(200, 50)
    sketch = held.sketch()
    sketch.add(x, Answers({Signal.LABEL: MODEL.query(x).labels()}, 3))
    real = substitutes(held, x, MODEL.query(x), rng)["label"]
    estimate = held.read(sketch).label
    assert abs(estimate.value - real) < 0.1
    assert estimate.low < estimate.value < estimate.high or estimate.high == 1


def test_excluded_names_are_one_a_line() -> None:
    assert read_excluded("key:a # confirmed on Monday\n\n acme \n") == {"key:a", "acme"}
    with pytest.raises(UsageError, match="names none"):
        read_excluded("# nobody\n")


def test_what_is_typed_writes_a_calibration_that_monitor_reads(cli: Cli, tmp_path: Path) -> None:
    body = yaml.safe_load((DEMO / "risk_score.yaml").read_text(encoding="utf-8"))
    from understudy.endpoint import open_endpoint

    endpoint = open_endpoint(DEMO / "risk_score.yaml")
    pool, rng = endpoint.evaluation, np.random.default_rng(0)
    log = tmp_path / "log.jsonl"
    with log.open("w", encoding="utf-8") as file:
        for a in range(60):
            x = pool[rng.integers(len(pool), size=20)]
            answers = endpoint.owner.query(x)
            signal = next(iter(answers.values))
            for i, (row, answer) in enumerate(zip(x, answers[signal], strict=True)):
                record = {"who": f"u{a}", "at": 1e9 + 60 * i, "x": row.tolist(), "y": np.asarray(answer).tolist()}
                file.write(json.dumps(record) + "\n")
    mapping = {"principal": "who", "time": "at", "inputs": "x", "answers": {str(signal): "y"}}
    body["monitor"] = {"logs": mapping, "horizon": 16, "level": 0.05}
    for path in DEMO.iterdir():
        if path.suffix in (".py", ".npz", ".npy", ".csv"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "endpoint.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    done = cli("calibrate", tmp_path / "endpoint.yaml", log, "--no-leak", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "36 benign accounts ranked over their first 16 queries" in done.stdout
    made = Calibration.from_bytes((tmp_path / "calibration.bin").read_bytes())
    assert (made.level, made.horizon) == (0.05, 16)
    assert Watch(made).fresh("a", "b").n == 0
    assert ((tmp_path / "calibration.bin").stat().st_mode & 0o777) == 0o600
    refused = cli("calibrate", tmp_path / "endpoint.yaml", log, "--no-leak", "--level", 0.001, cwd=tmp_path)
    assert refused.returncode == 3
    assert "0.1 % needs 999 accounts; you have 36" in refused.stderr
