"""An audit from the command line on the demo's real models: plan, run, gates, verdicts, determinism, bad input."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

import understudy as us
from conftest import DEMO, Cli
from understudy.records import Report
from understudy.store import Store

RISK = DEMO / "risk_score.yaml"


def findings(folder: Path) -> list[dict[str, Any]]:
    """The findings of a run, without what differs between two runs by nature: times, the run's name."""
    rows = [json.loads(line) for line in (folder / "findings.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row.pop("at"), row.pop("run")
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("audit") / "run"
    return folder, us.run_audit(RISK, folder, fail_if=["fidelity>=0.95@5000"])


def test_every_tier_is_copied_and_exactly_where_probabilities_are_shown(run: tuple[Path, Report]) -> None:
    by_tier = {f.tier: f for f in run[1].findings}
    assert [f.outcome for f in by_tier.values()] == ["reached"] * 3
    assert all(s.verdict == "exact" for s in by_tier["partner"].seeds)
    assert (
        by_tier["partner"].measures["parameter-error"].value < 1e-6
        if "parameter-error" in by_tier["partner"].measures
        else True
    )
    public, partner = by_tier["public"].queries.estimate, by_tier["partner"].queries.estimate
    assert public is not None
    assert partner is not None
    assert partner < 60 < public


def test_the_record_is_whole_and_counts_every_query(run: tuple[Path, Report]) -> None:
    folder, report = run
    store = Store.open(folder)
    store.verify()
    counts = store.counts()
    for finding in report.findings:
        for seed in finding.seeds:
            assert counts[f"{finding.tier}/{finding.attack}/{seed.seed}"]["answered"] == seed.spent
            assert seed.spent <= finding.threat_model.budget
    assert counts["evaluation"]["answered"] == 143
    store.close()


def test_only_the_owner_can_read_a_run(run: tuple[Path, Report]) -> None:
    assert stat.S_IMODE(run[0].stat().st_mode) == 0o700
    for path in run[0].iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_gate_fires_at_the_intervals_upper_end(run: tuple[Path, Report]) -> None:
    gate = run[1].gates[0]
    assert gate.fired
    assert "queries" in gate.reason


def test_same_seed_same_findings_in_any_number_of_processes(run: tuple[Path, Report], cli: Cli, tmp_path: Path) -> None:
    done = cli("audit", RISK, "--out", tmp_path / "again", "--jobs", 2, "--fail-if", "fidelity>=0.95@5000")
    assert done.returncode == 1, done.stderr
    assert findings(tmp_path / "again") == findings(run[0])


def test_a_finished_run_resumed_asks_nothing(run: tuple[Path, Report], cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    before = Store.open(folder).counts()
    done = cli("audit", RISK, "--resume", folder, "--jobs", 1, "--fail-if", "fidelity>=0.95@5000")
    assert done.returncode == 1, done.stderr
    assert Store.open(folder).counts() == before
    assert findings(folder) == findings(run[0])


def test_plan_asks_nothing_and_prints_the_bill(cli: Cli, tmp_path: Path) -> None:
    done = cli("audit", RISK, "--plan", "--json", cwd=tmp_path)
    bill = json.loads(done.stdout)
    assert bill["queries"] == 3 * 3 * 15_000 + 143
    assert [row["money"] for row in bill["rows"]] == [15, 75, 300]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--budget", 12, "--tier", "public"], 3, "under the tier's allowance"),
        (["--seeds", 2, "--budget", 12, "--tier", "public"], 3, "2 repetition(s) ran; at least 3 are needed"),
        (["--budget", 60, "--tier", "public", "--fail-if", "fidelity>=0.5@60"], 1, "fidelity>=0.5@60"),
        (["--budget", 12, "--tier", "public", "--fail-if", "fidelity>=0.9999@50000"], 3, "12 queries only"),
    ],
)
def test_not_reached_within_a_poor_attempt_is_not_assessed(
    here: Cli, tmp_path: Path, options: list[Any], code: int, said: str
) -> None:
    done = here("audit", RISK, "--jobs", 1, "--out", tmp_path / "run", "--json", *options)
    assert done.returncode == code, done.stderr
    assert said in done.stdout


def test_reached_is_reported_far_below_the_allowance(here: Cli, tmp_path: Path) -> None:
    done = here("audit", RISK, "--jobs", 1, "--out", tmp_path / "run", "--json", "--budget", 60, "--tier", "partner")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["findings"][0]["outcome"] == "reached"


def test_a_mistake_is_one_message_and_exit_code_2(here: Cli, cli: Cli, tmp_path: Path) -> None:
    manifest = tmp_path / "endpoint.yaml"
    text = RISK.read_text(encoding="utf-8")
    cases = {
        text.replace("models:risk_score\n", "modles:risk_score\n"): "no module named 'modles'",
        text.replace("models:risk_score\n", "models:risk_scoer\n"): "did you mean 'risk_score'?",
        text.replace("[auto]", "[atuo]"): "did you mean 'auto'?",
        text.replace("[auto]", "[{name: retraining, sampler: random}]"): "cannot be made with",
        text.replace("metric: fidelity", "metric: max-total-variation"): "not a mean over queries",
        text.replace("{data: models:patients_evaluation}", "{data: nothing.npy}"): "nothing.npy cannot be read",
        text.replace("low: [5,", "low: [15,"): "lies outside the space",
        text.replace("probabilities: {top_k: 1, decimals: 2}", "logits: {}"): "tiers.1.signals: grants",
    }
    shutil.copy(DEMO / "models.py", tmp_path)
    for body, wanted in cases.items():
        manifest.write_text(body, encoding="utf-8")
        done = here("audit", manifest, "--jobs", 1, "--out", tmp_path / "run")
        assert done.returncode == 2, (wanted, done.stderr)
        assert wanted in done.stderr
        assert not (tmp_path / "run").exists()
    typed = cli("audit", manifest, "--out", tmp_path / "run", "--jobs", 1)
    assert (typed.returncode, typed.stdout, typed.stderr) == (2, done.stdout, done.stderr)


def test_a_target_off_this_machine_needs_leave(here: Cli, tmp_path: Path) -> None:
    text = RISK.read_text(encoding="utf-8")
    http = "  http: {url: 'https://models.example.org/score', protocol: json, options: {}}\n"
    body = text.replace("  python: models:risk_score\n", http)
    codec = "{body: {instances: $inputs}, paths: {probabilities: predictions}}"
    manifest = tmp_path / "endpoint.yaml"
    shutil.copy(DEMO / "models.py", tmp_path)
    for leave, wanted in (
        ("", "is not on this machine"),
        ("authorisation: {by: cto, scope: risk score, until: 2020-01-01}\n", "ended on 2020-01-01"),
    ):
        manifest.write_text(body.replace("options: {}", f"options: {codec}") + leave, encoding="utf-8")
        done = here("audit", manifest, "--jobs", 1, "--out", tmp_path / "run")
        assert done.returncode == 2, done.stderr
        assert wanted in done.stderr
        assert not (tmp_path / "run").exists()


def test_another_manifest_cannot_resume_a_run(here: Cli, run: tuple[Path, Report]) -> None:
    done = here("audit", RISK, "--jobs", 1, "--resume", run[0], "--seeds", 4)
    assert done.returncode == 2
    assert "was started with another manifest" in done.stderr


def test_forget_removes_a_run_and_nothing_else(cli: Cli, run: tuple[Path, Report], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    assert cli("forget", folder, "--yes").returncode == 0
    assert not folder.exists()
    assert cli("forget", tmp_path, "--yes").returncode == 2
    assert tmp_path.exists()


def test_an_edited_record_is_not_resumed(here: Cli, run: tuple[Path, Report], tmp_path: Path) -> None:
    import sqlite3

    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    with sqlite3.connect(folder / "exchanges.sqlite") as db:
        db.execute("UPDATE exchanges SET rows = rows - 1 WHERE cell LIKE 'public%' AND batch = 1")
    db.close()
    done = here("audit", RISK, "--jobs", 1, "--resume", folder, "--fail-if", "fidelity>=0.95@5000")
    assert done.returncode == 2
    assert "was changed after it was written" in done.stderr


def test_report_is_made_again_from_the_record(run: tuple[Path, Report], cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    done = cli("report", folder)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    assert "partner" in done.stdout


@pytest.mark.parametrize("kind", ["attacks", "defences", "detectors", "learners", "metrics", "targets", "protocols"])
def test_list_names_every_plug_in(here: Cli, kind: str) -> None:
    done = here("list", kind)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3


def test_the_owners_recipe_may_give_scores_where_labels_are_audited(cli: Cli, tmp_path: Path) -> None:
    """As when an audit goes through the gateway: the target lets out labels, the recipe gives what models give."""
    body = yaml.safe_load((DEMO / "digit_reader.yaml").read_text(encoding="utf-8"))
    body["target"] |= {"python": "only:labels", "signals": {"label": {}}}
    body["tiers"] = body["tiers"][:1]
    shutil.copy(DEMO / "models.py", tmp_path)
    text = "from models import digit_reader\n\n\ndef labels(x):\n    return digit_reader(x).argmax(1)\n"
    (tmp_path / "only.py").write_text(text, encoding="utf-8")
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    done = cli("audit", tmp_path / "labels.yaml", "--budget", 60, "--seeds", 1, "--jobs", 1, "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert 0.9 < json.loads(done.stdout)["findings"][0]["ceiling"]["value"] <= 1
