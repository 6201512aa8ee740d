"""Defences fitted to the owner's data: the audit and the gateway get the same object, and the owner is asked once."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import DEMO, Cli
from understudy import fitting
from understudy.endpoint import open_endpoint
from understudy.errors import TargetError, UsageError
from understudy.gateway.service import compile_service
from understudy.types import Answers

SECRET = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4"
BINS: dict[str, Any] = {"name": "bins", "bins": 8}
NOISE: dict[str, Any] = {"name": "noise", "scale": 0.3, "key_env": "RISK_NOISE_KEY"}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISK_NOISE_KEY", SECRET)


def manifest(folder: Path, tiers: dict[str, tuple[dict[str, Any], list[Any]]], url: str | None = None) -> Path:
    """The demo's risk score with other tiers: name -> (grade of the probabilities, defences)."""
    body = yaml.safe_load((DEMO / "risk_score.yaml").read_text(encoding="utf-8"))
    body["tiers"] = [
        {
            "id": name,
            "who": "customers",
            "limits": {"per_day": 500, "per_30d": 600},
            "signals": {"label": {}, "probabilities": grade},
            "defences": defences,
        }
        for name, (grade, defences) in tiers.items()
    ]
    if url is not None:
        del body["target"]["python"]
        headers = {name: {"env": f"UNDERSTUDY_TEST_{name.upper()}"} for name in ("customer", "owner")}
        http = {"url": url, "protocol": "kserve-v1", "retries": 0}
        http |= {"headers": {"x-as": headers["customer"]}, "owner_headers": {"x-as": headers["owner"]}}
        body["target"] |= {"http": http, "batch": 50}
    (folder / "models.py").write_text((DEMO / "models.py").read_text(encoding="utf-8"), encoding="utf-8")
    path = folder / "risk.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """The demo's risk score over HTTP, and (who asked, rows) of each request."""
    monkeypatch.syspath_prepend(str(DEMO))
    monkeypatch.setenv("UNDERSTUDY_TEST_OWNER", "owner")
    monkeypatch.setenv("UNDERSTUDY_TEST_CUSTOMER", "customer")
    from models import risk_score

    asked: list[tuple[str, int]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            rows = np.asarray(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"])
            asked.append((self.headers["x-as"], len(rows)))
            body = json.dumps({"predictions": risk_score(rows).tolist()}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}/v1/models/m:predict", asked
    http.shutdown()
    thread.join()
    http.server_close()


def test_the_gateway_asks_the_owners_data_once_and_serves_what_an_audit_meets(
    server: tuple[str, list[tuple[str, int]]], tmp_path: Path
) -> None:
    url, asked = server
    path = manifest(tmp_path, {"plain": ({}, []), "binned": ({}, [BINS]), "both": ({"decimals": 2}, [NOISE])}, url)
    service = compile_service(path).fitted()
    assert asked == [("owner", 50), ("owner", 50), ("owner", 43)]
    kept = service.folder / fitting.FILE
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert SECRET not in kept.read_text(encoding="utf-8")
    assert kept.stat().st_size < 10_000
    assert sorted(p.name for p in kept.parent.iterdir()) == [fitting.FILE]

    again = compile_service(path).fitted()
    assert len(asked) == 3
    endpoint = open_endpoint(path)
    bought = [endpoint.owner.query(endpoint.evaluation[i : i + 50]) for i in (0, 50, 100)]
    audited = fitting.fit(endpoint, Answers.concat(bought))
    for tier in endpoint.manifest.tiers:
        meets = audited.tier(tier, "k").grant
        assert service.tiers[tier.id].grant == again.tiers[tier.id].grant == meets


def test_other_defences_or_a_damaged_file_are_fitted_anew(
    server: tuple[str, list[tuple[str, int]]], tmp_path: Path
) -> None:
    url, asked = server
    folder = tmp_path / "guard"
    fitting.kept(manifest(tmp_path, {"binned": ({}, [BINS])}, url), folder)
    finer = fitting.kept(manifest(tmp_path, {"binned": ({}, [{**BINS, "bins": 12}])}, url), folder)
    assert len(asked) == 6
    (folder / fitting.FILE).write_text("{", encoding="utf-8")
    assert fitting.kept(tmp_path / "risk.yaml", folder) == finer
    assert len(asked) == 9


def test_where_nothing_learns_nothing_is_asked_or_kept(
    server: tuple[str, list[tuple[str, int]]], tmp_path: Path
) -> None:
    path = manifest(tmp_path, {"plain": ({"top_k": 1, "decimals": 2}, [])}, server[0])
    service = compile_service(path)
    assert service.fitted().tiers == service.tiers
    assert server[1] == []
    assert not service.folder.exists()


def test_an_owner_who_cannot_be_asked_is_said_and_nothing_is_kept(
    server: tuple[str, list[tuple[str, int]]], tmp_path: Path
) -> None:
    path = manifest(tmp_path, {"binned": ({}, [BINS])}, "http://127.0.0.1:9/v1/models/m:predict")
    with pytest.raises(TargetError):
        fitting.kept(path, tmp_path / "guard")
    assert not (tmp_path / "guard").exists()


def test_no_more_rows_are_asked_than_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "FIT_ROWS", 40)
    endpoint = open_endpoint(manifest(tmp_path, {"binned": ({}, [BINS])}))
    rows = fitting._rows(endpoint)
    assert len(rows) == 40
    assert (rows[0], rows[-1]) == (0, len(endpoint.evaluation) - 1)
    assert len(set(rows.tolist())) == 40


def test_unfitted_an_endpoint_refuses_to_answer(tmp_path: Path) -> None:
    endpoint = open_endpoint(manifest(tmp_path, {"binned": ({}, [BINS])}))
    with pytest.raises(UsageError, match="bins is not fitted"):
        endpoint.tier(endpoint.manifest.tiers[0], "k").query(endpoint.evaluation)


def test_granted_decimals_are_those_of_what_leaves(tmp_path: Path) -> None:
    endpoint = open_endpoint(manifest(tmp_path, {"both": ({"top_k": 1, "decimals": 2}, [NOISE])}))
    fitted = fitting.fit(endpoint, endpoint.owner.query(endpoint.evaluation))
    tier = endpoint.manifest.tiers[0]
    released = fitted.tier(tier, "k").query(endpoint.evaluation)["probabilities"]
    assert np.array_equal(released, np.round(released, 2))
    assert not np.array_equal(
        released.max(1), endpoint.owner.query(endpoint.evaluation)["probabilities"].max(1).round(2)
    )


def test_an_audit_of_bins_and_noise_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    path = manifest(tmp_path, {"binned": ({}, [BINS]), "noisy": ({}, [NOISE])})
    run = tmp_path / "run"
    done = cli("audit", path, "--seeds", 3, "--jobs", 2, "--out", run, "--json")
    assert done.returncode in (0, 3), done.stderr
    report = json.loads(done.stdout)
    by_tier = {f["tier"]: f for f in report["findings"]}
    assert by_tier["binned"]["threat_model"]["access"] == (
        "label + probabilities (top-1, 8 levels, 3 decimals); behind bins (bins 8)"
    )
    assert by_tier["noisy"]["threat_model"]["access"] == "label + probabilities; behind noise (scale 0.3)"
    for finding in by_tier.values():
        assert not finding["threat_model"]["adaptive"]
        assert all(s["verdict"] != "exact" and s["error"] is None for s in finding["seeds"])
        assert finding["best"]["value"] > 0.9
    assert any("not adapted to a defence" in line for line in report["not_tested"])
    for file in run.rglob("*"):
        assert SECRET.encode() not in file.read_bytes()
    env = {"RISK_NOISE_KEY": ""}
    refused = cli("audit", path, "--seeds", 3, "--out", tmp_path / "other", env=env)
    assert refused.returncode == 2
    assert "environment variable RISK_NOISE_KEY, which is not set" in refused.stderr
    assert not (tmp_path / "other").exists()
    finished = cli("audit", path, "--seeds", 3, "--jobs", 1, "--resume", run, "--json")
    assert json.loads(finished.stdout)["integrity"]["asked_again"] == 0
