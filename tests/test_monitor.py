"""The monitor end to end: a log of benign accounts and one that copies the model."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml
from click.testing import CliRunner, Result

import portfolio
from portfolio import Asked
from understudy.alerts import Alert
from understudy.cli import main
from understudy.gateway.keys import path_of
from understudy.history import Row
from understudy.history.chain import DEFAULT, Chain
from understudy.manifest import load
from understudy.survey import Survey
from understudy.types import Answers, Signal
from understudy.wire.oip import OpenInference

CUSTOMERS = 40
ALLOWED = 1  # benign accounts alarmed: 0.2 are expected of 40 at 0.5 %; two or more come in one run of 58


def traffic(copier: bool = True) -> list[Asked]:
    """Benign accounts that the calibration has not seen, and the one that copies among them."""
    return [*portfolio.benign(CUSTOMERS, 7), *([portfolio.copying()] if copier else [])]


def history(folder: Path, accounts: list[Asked], kept: str = "whole", **about: Any) -> Path:
    """The gateway's record of them, in the order of time."""
    rows = []
    for a in accounts:
        answers = Answers({Signal.PROBABILITIES: portfolio.predict(a.inputs)}, 10)
        for i in range(len(a.at)):
            one = slice(i, i + 1)
            row = (a.at[i], a.principal, a.principal, "paid", "/", "1", "r", 200, 1, a.inputs[one], answers.take(one))
            rows.append(Row(*row, **about))
    made = Chain(folder, "w1", kept, None, DEFAULT)
    rows.sort(key=lambda row: row.at)
    for i in range(0, len(rows), 5000):
        made.keep(rows[i : i + 5000])
    made.close()
    return folder


def events(path: Path, accounts: list[Asked]) -> Path:
    """The same as KServe's logger writes it, a few rows a request, requests and responses mixed."""
    codec, lines = OpenInference(), list[tuple[float, dict[str, Any]]]()
    for a in accounts:
        for i in range(0, len(a.at), 4):
            x = a.inputs[i : i + 4]
            asked = codec.request(x, frozenset({Signal.PROBABILITIES}))
            answers = Answers({Signal.PROBABILITIES: portfolio.predict(x)}, 10)
            answer = codec.respond(codec.parse(asked.body, {}, (64,)), answers, "digits")
            when = np.datetime64(round(a.at[i] * 1e3), "ms").item().isoformat() + "Z"
            about = {"specversion": "1.0", "id": f"{a.principal}/{i}", "source": "x", "time": when}
            about["metadata"] = json.dumps({"X-Principal": [a.principal]})
            for late, kind, message in ((0.0, "request", asked), (0.2, "response", answer)):
                event = {**about, "type": f"org.kubeflow.serving.inference.{kind}", "data": orjson.loads(message.body)}
                lines.append((a.at[i] + late, event))
    path.write_bytes(b"".join(orjson.dumps(event) + b"\n" for _, event in sorted(lines, key=lambda x: x[0])))
    return path


def monitor(manifest: Path, *more: Any) -> Result:
    """As it is typed; `--out` is beside the manifest."""
    arguments = ["monitor", str(manifest), *map(str, more), "--out", str(manifest.parent / "out"), "--jobs", "1"]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def found(out: Path) -> tuple[Survey, list[Alert]]:
    """What it wrote."""
    survey = Survey.read((out / "monitor.json").read_text(), out)
    return survey, [Alert.read(line, out) for line in (out / "alerts.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["history", "kserve"])
def test_the_copier_is_found_and_nobody_else(tmp_path: Path, kind: str) -> None:
    path, accounts = portfolio.manifest(tmp_path), traffic()
    seen = {"network": "192.0.2.7", "client": "python-requests/2.32"}
    if kind == "history":
        log = history(tmp_path / "history", accounts, context=seen)
    else:
        log = events(tmp_path / "log.jsonl", accounts)
    done = monitor(path, log)
    assert done.exit_code == 1, done.output
    survey, alerts = found(tmp_path / "out")
    assert (survey.verdict, survey.accounts) == ("alarmed", CUSTOMERS + 1)
    assert survey.queries == sum(len(a.at) for a in accounts)
    first, *others = survey.parties
    assert first.party == "key:copier"
    assert sum(p.alarmed for p in others) <= ALLOWED
    assert all(p.p_value is not None and p.p_value >= (first.p_value or 0) for p in others)
    (alert,) = (a for a in alerts if a.principal == first.party)
    assert alert.principal == "key:copier"
    assert alert.alarmed_at is not None
    assert alert.alarmed_at <= 20  # of about 80: equation solving is blatant
    assert alert.p_value is not None
    assert alert.p_value <= 0.01
    assert alert.calibration is not None
    assert alert.calibration.accounts == 240
    assert alert.leak is not None
    assert alert.leak.probabilities is not None
    assert (alert.leak.probabilities.estimate or 0) > 0.95  # it solved for the model
    assert alert.benign
    assert alert.inputs.mean is not None
    if kind == "history":
        assert (alert.networks, alert.clients) == (["192.0.2.7"], ["python-requests/2.32"])
    assert all(reason in done.output.replace("\n", " ") for reason in alert.benign)
    for text in (done.output, (tmp_path / "out" / "monitor.html").read_text()):
        assert not re.search(r"thie|theft|steal|attack|malicious", text)


def test_benign_traffic_alone_is_no_alarm(tmp_path: Path) -> None:
    """The gateway's own history, which need not be named; and a level that is not the calibration's is told."""
    path = portfolio.manifest(tmp_path)
    history(path_of(load(path), path).with_name("history"), list(portfolio.benign(10, 9)))
    done = monitor(path)
    assert done.exit_code == 0, done.output
    assert "asks for a level of 1 %, the calibration was made for 0.5 %" in done.output.replace("\n", " ")
    assert found(tmp_path / "out")[1] == []


def test_jobs_do_not_change_what_is_found(tmp_path: Path) -> None:
    path, log = portfolio.manifest(tmp_path), events(tmp_path / "log.jsonl", traffic()[-20:])
    assert monitor(path, log).exit_code == 1
    alone = found(tmp_path / "out")
    assert monitor(path, log, "--jobs", 2).exit_code == 1
    again = found(tmp_path / "out")
    same = {"created": ""}
    assert alone[0].model_copy(update=same) == again[0].model_copy(update=same)
    assert [a.id for a in alone[1]] == [a.id for a in again[1]]


def test_a_party_is_judged_by_all_its_accounts(tmp_path: Path) -> None:
    """Split over five accounts: each is seen by itself, and what they learned adds up."""
    whole = portfolio.copying()
    parts = [Asked(f"key:part-{i}", whole.at[i::5], whole.inputs[i::5]) for i in range(5)]
    path = portfolio.manifest(tmp_path, logs={"party": 'metadata."x-party"'})
    log = events(tmp_path / "log.jsonl", [*traffic(copier=False)[:20], *parts])
    text = log.read_text()
    for i in range(5):
        one = json.dumps(json.dumps({"X-Principal": [f"key:part-{i}"]}))
        both = json.dumps(json.dumps({"X-Principal": [f"key:part-{i}"], "X-Party": ["ring"]}))
        assert one in text
        text = text.replace(one, both)
    log.write_text(text)
    monitor(path, log)
    ring = next(p for p in found(tmp_path / "out")[0].parties if p.party == "ring")
    assert (ring.size, ring.queries) == (5, len(whole.at))
    assert ring.p_value == min(1.0, 5 * min(a.p_value or 1.0 for a in ring.accounts))
    assert ring.leak is not None
    assert ring.leak.probabilities is not None
    assert (ring.leak.probabilities.estimate or 0) > 0.95


def test_what_cannot_be_assessed_is_not_called_fine(tmp_path: Path) -> None:
    path, accounts = portfolio.manifest(tmp_path), traffic(copier=False)[:5]
    hashed = history(tmp_path / "hashed", accounts, "hash")
    done = monitor(path, hashed)
    assert done.exit_code == 3
    assert "Not assessed: the log holds no inputs" in done.output
    (tmp_path / "calibration.bin").write_bytes(portfolio.calibration(100).to_bytes())
    done = monitor(path, history(tmp_path / "history", accounts))
    assert done.exit_code == 3
    assert "0.5 % needs 199 accounts; you have 60" in done.output.replace("\n", " ")
    (tmp_path / "calibration.bin").unlink()
    done = monitor(path, tmp_path / "history")
    assert done.exit_code == 3
    assert "there is no calibration yet" in done.output


def test_mistakes_end_with_two(tmp_path: Path) -> None:
    path = portfolio.manifest(tmp_path)
    assert monitor(path, tmp_path / "nothing.jsonl").exit_code == 2
    assert monitor(path).exit_code == 2  # no logs named, and no history yet
    (tmp_path / "calibration.bin").write_bytes(b"damaged" * 9)
    assert monitor(path, history(tmp_path / "history", traffic()[:1])).exit_code == 2
    portfolio.manifest(tmp_path)
    body = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**body, "space": {"low": 0, "high": 1, "shape": [8]}}))
    assert "another shape" in monitor(path, tmp_path / "history").output


def test_audits_are_left_out_and_data_quality_accuses_nobody(tmp_path: Path) -> None:
    path = portfolio.manifest(tmp_path)
    history(tmp_path / "history", [portfolio.copying()], audit=True)
    faulty = [Asked(a.principal, a.at, np.where(np.arange(64) == 20, 255.0, a.inputs)) for a in portfolio.benign(1, 9)]
    made = Chain(tmp_path / "history", "w2", "whole", None, DEFAULT)
    made.close()
    history(tmp_path / "more", [*traffic(copier=False)[:30], *faulty])
    monitor(path, tmp_path / "history", tmp_path / "more")
    survey, _ = found(tmp_path / "out")
    assert survey.quality.aside == {"the owner's own audits": len(portfolio.copying().at)}
    assert "key:copier" not in {a.principal for p in survey.parties for a in p.accounts}
    assert survey.quality.faults[0].principal == faulty[0].principal
    assert survey.quality.faults[0].out_of_range == 1


def test_drift_of_the_crowd_is_told_as_drift(tmp_path: Path) -> None:
    shifted = [Asked(a.principal, a.at, np.clip(1 - a.inputs, 0, 1)) for a in portfolio.benign(40, 11)]
    monitor(portfolio.manifest(tmp_path), history(tmp_path / "history", shifted))
    survey, _ = found(tmp_path / "out")
    assert "novelty" in {d.detector for d in survey.quality.drift}


HOSTILE = '<script>alert(1)</script>"\u202e' + "x" * 300


def test_names_do_nothing_in_the_page_and_files_are_the_owners(tmp_path: Path) -> None:
    accounts = [*traffic(copier=False)[:5], portfolio.copying()._replace(principal=HOSTILE)]
    done = monitor(portfolio.manifest(tmp_path), history(tmp_path / "history", accounts))
    assert done.exit_code == 1
    page = (tmp_path / "out" / "monitor.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!#)""", page)  # nothing is fetched
    assert not re.search(r"url\(|@import", page)
    assert "\u202e" not in done.output
    for made in (tmp_path / "out").iterdir():
        assert made.stat().st_mode & 0o077 == 0


def test_the_page_holds_what_the_survey_says(tmp_path: Path) -> None:
    monitor(portfolio.manifest(tmp_path), history(tmp_path / "history", traffic()))
    survey, _ = found(tmp_path / "out")
    page = (tmp_path / "out" / "monitor.html").read_text(encoding="utf-8")
    for party in survey.parties:
        assert party.party in page
    for reason in chain.from_iterable(p.benign for p in survey.parties):
        assert reason[1:].split("'")[0] in page


def test_inputs_that_were_kept_in_part_are_said_to_be(tmp_path: Path) -> None:
    copier = portfolio.copying()
    half = len(copier.at) // 2
    first, rest = (Asked(copier.principal, copier.at[s], copier.inputs[s]) for s in (slice(half), slice(half, None)))
    whole = history(tmp_path / "whole", [*traffic(copier=False)[:3], first])
    done = monitor(portfolio.manifest(tmp_path), whole, history(tmp_path / "hashed", [rest], "hash"))
    assert done.exit_code == 1
    survey, (alert,) = found(tmp_path / "out")
    assert (alert.inputs.kept, alert.inputs.seen, alert.volumes.queries) == ("partly", half, len(copier.at))
    assert "inputs were kept only in part of 1 account: the rest is not assessed" in survey.gaps
    (alone,) = (a for p in survey.parties for a in p.accounts if a.principal == copier.principal)
    monitor(portfolio.manifest(tmp_path), whole)
    (same,) = (a for p in found(tmp_path / "out")[0].parties for a in p.accounts if a.principal == copier.principal)
    assert (alone.out_of_range, alone.repeats) == (same.out_of_range, same.repeats)  # of what was looked at


@pytest.mark.slow
def test_the_page_is_drawn_by_a_browser(tmp_path: Path) -> None:
    monitor(portfolio.manifest(tmp_path), history(tmp_path / "history", traffic()))
    picture = tmp_path / "page.png"
    page = (tmp_path / "out" / "monitor.html").resolve().as_uri()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,1600", f"--screenshot={picture}"]
    subprocess.run(["chromium", *options, page], check=True, capture_output=True, timeout=60)
    assert picture.stat().st_size > 20_000
