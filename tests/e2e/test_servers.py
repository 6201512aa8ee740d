"""Audits of models that real servers serve, from the command line, over loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import DEMO, Cli

sys.path.insert(0, str(Path(__file__).parent))
import servers


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("serve", "protocol"),
    [(servers.mlserver, "open-inference"), (servers.mlflow, "mlflow")],
    ids=["mlserver", "mlflow"],
)
def test_a_served_model_is_audited(serve: Callable[[Path], Any], protocol: str, cli: Cli, tmp_path: Path) -> None:
    work = tmp_path / "server"
    work.mkdir()
    text = (DEMO / "risk_score.yaml").read_text(encoding="utf-8")
    (tmp_path / "models.py").write_bytes((DEMO / "models.py").read_bytes())
    with serve(work) as url:
        http = f"  http: {{url: '{url}', protocol: {protocol}}}\n  concurrency: 2\n"
        manifest = tmp_path / "endpoint.yaml"
        manifest.write_text(text.replace("  python: models:risk_score\n", http), encoding="utf-8")
        done = cli("audit", manifest, "--out", tmp_path / "run", "--json")
        assert done.returncode == 0, done.stderr
        found = {f["tier"]: f for f in json.loads(done.stdout)["findings"]}
        assert all(f["outcome"] == "reached" for f in found.values())
        assert {s["verdict"] for s in found["partner"]["seeds"]} == {"exact"}
        assert found["partner"]["queries"]["estimate"] < 60
        # the wrong protocol is one clear error, and nothing is lost
        other = "mlflow" if protocol != "mlflow" else "open-inference"
        manifest.write_text(manifest.read_text().replace(f"protocol: {protocol}", f"protocol: {other}"))
        wrong = cli("audit", manifest, "--out", tmp_path / "wrong")
        assert wrong.returncode == 2
        assert "Traceback" not in wrong.stderr
        assert "understudy: " in wrong.stderr
