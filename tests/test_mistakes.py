"""What people get wrong on the command line: one message that says what, where and what to do; never a traceback."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import DEMO, Cli

GOOD = (DEMO / "risk_score.yaml").read_text(encoding="utf-8")
MODEL = "python: models:risk_score\n"

THEIRS = """
import numpy as np
def on_fire(x): raise RuntimeError("GPU on fire")
def text(x): return "<html>"
def three(x): return np.ones((len(x), 3)) / 3
def gap(x): return np.full((len(x), 2), np.nan)
def sums(x): return np.full((len(x), 2), 0.9)
def gone(): raise OSError("the file is gone")
def untrained(seed): raise RuntimeError("cannot train")
three_of_them = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a user: the demo's models, and code of their own that misbehaves."""
    shutil.copy(DEMO / "models.py", tmp_path)
    (tmp_path / "theirs.py").write_text(THEIRS, encoding="utf-8")
    (tmp_path / "broken.py").write_text("raise ValueError('no licence')\n", encoding="utf-8")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "text.skops").write_text("hello", encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    return tmp_path


@pytest.fixture
def login_page() -> Iterator[str]:
    """A server that answers every question with 200 and HTML."""

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b"<html><body>Please log in</body></html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/predict"
    server.shutdown()
    server.server_close()


def told(cli: Cli, folder: Path, text: str, *options: str) -> str:
    """What an audit of this manifest says on standard error before it gives up."""
    (folder / "endpoint.yaml").write_text(text, encoding="utf-8")
    done = cli("audit", "endpoint.yaml", "--tier", "partner", "--jobs", 1, *options, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr.partition("at a time\n")[2] or done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("threshold:", "treshold:", "endpoint.yaml:32: goals.0.treshold: unknown field"),
        (
            "metric: fidelity",
            "metric: fidelty",
            "endpoint.yaml:31: goals.0.metric: no metric is called 'fidelty' - did",
        ),
        ("[auto]", "[autto]", "endpoint.yaml:54: audit.attacks.0: no attack is called 'autto' - did you mean 'auto'?"),
        ("[auto]", "[{name: retraining, rows: 3}]", "(options: learners, sampling, first, growth, most)"),
        ("per_day: 500", "per_day: '500'", "tiers.0.limits.per_day: Input should be a valid integer, found '500'"),
        ("recipe: models:risk_score_recipe", "recipe: models:risk", "model.recipe: models:risk: models has no 'risk'"),
        (MODEL, "python: models:risk_scor\n", "endpoint.yaml:13: target: models:risk_scor: models has no 'risk_scor'"),
        (MODEL, "python: modls:risk_score\n", "no module named 'modls'; is it installed, or beside the manifest?"),
        (MODEL, "python: broken:model\n", "importing broken failed: ValueError: no licence"),
        (MODEL, "python: theirs:three_of_them\n", "theirs:three_of_them is not callable"),
        (MODEL, "skops: model.pkl\n", "is a pickle: loading one runs whatever code is in it. Convert it"),
        (MODEL, "skops: text.skops\n", "is not a skops file that can be loaded"),
        (MODEL, "skops: nowhere.skops\n", "nowhere.skops: cannot be read: No such file"),
        (MODEL, "xgboost: text.skops\n", "is not a model that XGBoost can load"),
        (MODEL, "xgboost: nowhere.ubj\n", "nowhere.ubj: there is no such file"),
        (MODEL, "lightgbm: text.skops\n", "is not a model that LightGBM can load: it does not begin as one"),
        (MODEL, 'http: {url: "http://127.0.0.1:9/", protocol: kserve}\n', "did you mean 'kserve-v1'?"),
        (MODEL, 'http: {url: "https://far.example/", protocol: mlflow}\n', "needs authorisation: {by: who gave leave"),
        ("data: models:patients_evaluation", "data: nowhere.csv", "evaluation: "),
        ("data: models:patients_evaluation", "data: theirs:gone", "theirs:gone raised OSError: the file is gone"),
    ],
)
def test_a_wrong_manifest_costs_no_query(here: Cli, folder: Path, old: str, new: str, said: str) -> None:
    assert said in told(here, folder, GOOD.replace(old, new, 1))
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("on_fire", "the function raised RuntimeError: GPU on fire"),
        ("text", "not a rectangular array of numbers"),
        ("three", "3 numbers per answer, expected 2 (classes changed?)"),
        ("gap", "row 0 is not finite"),
        ("sums", "do not sum to one (row 0 sums to 1.8)"),
    ],
)
def test_a_bad_answer_names_its_batch(here: Cli, folder: Path, model: str, said: str) -> None:
    text = told(here, folder, GOOD.replace(MODEL, f"python: theirs:{model}\n"))
    assert text.startswith("understudy: batch 0 (143 queries): ")
    assert said in text
    assert "go on with: understudy audit endpoint.yaml --resume runs/" in text


def test_a_login_page_is_no_answer(cli: Cli, folder: Path, login_page: str) -> None:
    text = GOOD.replace(MODEL, f'http: {{url: "{login_page}", protocol: kserve-v1}}\n')
    assert "batch 0 (143 queries): the server answered HTML" in told(cli, folder, text)


def test_a_recipe_that_fails_is_told_and_nothing_bought_is_lost(cli: Cli, folder: Path) -> None:
    text = told(cli, folder, GOOD.replace("recipe: models:risk_score_recipe", "recipe: theirs:untrained"))
    assert "theirs:untrained raised RuntimeError: cannot train" in text
    assert "go on with" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tier", "publik"], "no tier is called publik (tiers: public, standard, partner)"),
        (["--fail-if", "fidelity>0.95"], "expected METRIC>=VALUE@QUERIES, e.g. fidelity>=0.95@5000"),
        (["--fail-if", "fidelty>=0.95@500"], "no metric is called 'fidelty' - did you mean 'fidelity'?"),
        (["--fail-if", "fidelity<=0.95@500"], "write fidelity>=0.95@500"),
        (["--fail-if", "accuracy>=0.95@500"], "no goal measures accuracy (goals: fidelity)"),
        (["--out", "file"], "file cannot be made a run folder: Not a directory; give another with --out"),
        (["--out", "file/run"], "cannot be made a run folder: Not a directory; give another with --out"),
        (["--resume", "."], "is not a run folder (no exchanges.sqlite in it)"),
    ],
)
def test_a_wrong_option_is_refused(cli: Cli, folder: Path, options: list[str], said: str) -> None:
    assert said in told(cli, folder, GOOD, *options)


def test_a_damaged_run_folder_is_told(cli: Cli, folder: Path) -> None:
    (folder / "endpoint.yaml").write_text(GOOD, encoding="utf-8")
    done = cli("audit", "endpoint.yaml", "--tier", "partner", "--out", "run", "--jobs", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    run = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    run["manifest"]["goals"][0]["basis"] = None
    for name, text, said in (
        (
            "run.json",
            json.dumps(run),
            "run.json: the manifest in it is of another version (goals.0.basis): audit again",
        ),
        ("findings.jsonl", "", "has no findings yet: go on with understudy audit MANIFEST --resume"),
        ("findings.jsonl", "{}\n", "findings.jsonl is damaged, or of another version: id: Field required"),
        ("run.json", "{", "run.json is damaged, or of another version: Invalid JSON"),
    ):
        (folder / "run" / name).write_text(text, encoding="utf-8")
        done = cli("report", "run", cwd=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr
