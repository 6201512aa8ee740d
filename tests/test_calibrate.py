"""Calibrating from a log, as it is typed: what is left out, what is refused, what is written."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import DEMO, Cli
from understudy import calibrating
from understudy.calibrating import Learnt, hold, learn, read_excluded, substitutes
from understudy.errors import UsageError
from understudy.leak import LeakMeter
from understudy.testing import linear
from understudy.types import Answers, Floats, Signal
from understudy.watch import Calibration, Queries, Watch, calibrate

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
    assert learnt.notes[1] == "left out: 1 account whose inputs were not kept, or only in part"
    assert (learnt.calibration.made, learnt.calibration.model) == (1e9, "v2")


def test_a_cohort_that_the_guard_cannot_know_is_named() -> None:
    log = [asked(f"a{i}", rows(16, i)) for i in range(400)]
    log = [replace(q, segment="tools") if i < 200 else q for i, q in enumerate(log)]
    owned = rows(300, 1000)

    def notes(declared: frozenset[str]) -> list[str]:
        learnt = learn(
            *(owned, MODEL.query(owned), log, np.random.default_rng(0)),
            **{"made": 1e9, "model": "v2", "level": 0.05, "horizon": 16, "leak": False},
            declared=lambda principal, party: "tools" if party in declared else None,
        )
        assert set(learnt.calibration.segments) == {"tools"}
        return [note for note in learnt.notes if note.startswith("warning")]

    few = frozenset(f"of a{i}" for i in range(150))
    assert [note.split(" are in it")[0] for note in notes(few)] == ["warning: 50 of 200 accounts of segment 'tools'"]
    assert notes(few | {f"of a{i}" for i in range(200)}) == []


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
    assert read_excluded(b"key:a # confirmed on Monday\r\n\n acme \n#x\n") == {"key:a", "acme"}
    assert read_excluded("\ufeffuser#12\n".encode()) == {"user#12"}
    with pytest.raises(UsageError, match="names none"):
        read_excluded(b"# nobody\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_excluded("Zo\u00eb".encode("latin-1"))


def learnt_of(log: Iterable[Queries], **options: Any) -> Learnt:
    owned = rows(300, 1000)
    told: dict[str, Any] = {"made": 0.0, "model": "1", "level": 0.1, "horizon": 32, "leak": False, **options}
    return learn(owned, MODEL.query(owned), log, np.random.default_rng(0), **told)


def unkept(queries: Queries, some: slice = slice(None)) -> list[Queries]:
    """The same without inputs, those of `some` of the queries."""
    start, end, _ = some.indices(len(queries))
    hidden = replace(queries.take(some), inputs=None)
    return [q for q in (queries.take(slice(0, start)), hidden, queries.take(slice(end, None))) if len(q)]


def test_accounts_without_inputs_hide_none_of_those_that_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "_MOST", 20)
    blind = [q for i in range(50) for q in unkept(asked(f"b{i}", rows(40, i)))]
    learnt = learnt_of([*blind, *(asked(f"a{i}", rows(40, i)) for i in range(20))])
    assert learnt.calibration.accounts == 12  # of 20, 8 set the scales
    assert "left out: 50 accounts whose inputs were not kept, or only in part" in learnt.notes
    assert not learnt.calibration.scorer.blind


def test_young_accounts_do_not_use_up_the_room_of_those_that_can_be_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "_MOST", 40)
    young = [asked(f"y{i}", rows(17, i)) for i in range(60)]
    learnt = learnt_of([*young, *(asked(f"a{i}", rows(40, i)) for i in range(60))])
    assert learnt.calibration.accounts >= 15  # 40 old and 40 young were read; none, had the first 40 been
    assert "the first 40 accounts that asked enough were read; the others were not" in learnt.notes


def test_a_long_life_is_looked_at_as_far_as_it_counts() -> None:
    held, most = list[weakref.ref[Floats]](), list[int]()

    def log() -> Iterator[Queries]:
        for i in range(30):
            yield asked(f"a{i}", rows(40, i))
        for i in range(400):  # 40,000 queries of one account
            one = asked("z", rows(100, i))
            held.append(weakref.ref(one.at))
            yield one
            del one
            most.append(sum(ref() is not None for ref in held))

    learnt = learnt_of(log())
    assert learnt.calibration.accounts == 19
    assert max(most) <= 32 + 2  # 3,200 queries are kept for copies


def test_who_is_excluded_and_not_in_the_log_is_told() -> None:
    log = [asked(f"a{i}", rows(40, i)) for i in range(30)]
    notes = learnt_of(log, excluded=frozenset({"a3", "of a4", "a44"})).notes
    assert notes[:2] == (
        "left out: 2 accounts (excluded by name, or the owner's own audits)",
        "excluded, but not in this log: a44",
    )


def test_an_account_may_be_answered_otherwise_from_some_day_on() -> None:
    log = []
    for i in range(30):
        whole = asked(f"a{i}", rows(40, i))
        labels = replace(whole, answers=Answers({Signal.LABEL: whole.answers.labels()}, 3))
        log += [labels.take(slice(0, 25)), whole.take(slice(25, None))]
    learnt = learnt_of(log, leak=True)
    assert learnt.calibration.accounts == 18
    assert learnt.calibration.leak is not None


def test_accounts_whose_inputs_were_kept_in_part_can_be_learnt_from_without() -> None:
    log = [q for i in range(30) for q in unkept(asked(f"a{i}", rows(40, i)), slice(10, 30))]
    learnt = learnt_of(log, also=["novelty"])
    assert learnt.calibration.scorer.blind
    assert learnt.calibration.accounts == 18
    assert "monitor.also: novelty reads inputs, so it is left out" in learnt.notes


def test_detectors_that_read_inputs_are_refused_where_none_are_kept() -> None:
    owned = rows(300, 1000)
    log = [unkept(asked(f"a{i}", rows(40, i))) for i in range(30)]
    rng, told = np.random.default_rng(0), {"level": 0.1, "horizon": 32}
    with pytest.raises(UsageError, match="no inputs are kept, and detectors that read them are asked for: novelty"):
        calibrate(owned, MODEL.query(owned), log, rng, blind=True, also=("volume", "novelty"), **told)
    made = calibrate(owned, MODEL.query(owned), log, rng, blind=True, also=("volume",), **told)
    assert made.scorer.names == ("margin", "volume")


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
    with log.open("a", encoding="utf-8") as file:
        file.write('broken\n{"who": null}\n')
    rejects = tmp_path / "rejects.jsonl"
    done = cli("calibrate", tmp_path / "endpoint.yaml", log, "--no-leak", "--rejects", rejects, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 record rejected: the line is not JSON" in done.stdout
    assert len(rejects.read_text().splitlines()) == 2
    assert "36 benign accounts ranked over their first 16 queries" in done.stdout
    made = Calibration.from_bytes((tmp_path / "calibration.bin").read_bytes())
    assert (made.level, made.horizon) == (0.05, 16)
    assert Watch(made).fresh("a", "b").n == 0
    assert ((tmp_path / "calibration.bin").stat().st_mode & 0o777) == 0o600
    refused = cli("calibrate", tmp_path / "endpoint.yaml", log, "--no-leak", "--level", 0.001, cwd=tmp_path)
    assert refused.returncode == 3
    assert "0.1 % needs 999 accounts; you have 36" in refused.stderr
    assert "36 benign accounts ranked over their first 16 queries: too few to alarm anybody at 0.1 %" in refused.stdout
