"""The gateway as its operator runs it: on record, reloaded, watched, drained; with an upstream that comes and goes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from test_gateway import X, body, truth

from running import (
    MODEL_SERVER,
    ROUTES,
    Guard,
    add_key,
    free_port,
    listens,
    manifest,
    wait_for,
)
from understudy.history import History


def test_an_upstream_that_is_gone_comes_back(tmp_path: Path, guarding: Callable[..., Guard]) -> None:

    port = free_port()
    path = manifest(tmp_path, port)
    key = add_key(path, "public")
    guard = guarding(path)
    assert guard.post(ROUTES["open-inference"], body("open-inference"), key).status == 502
    with subprocess.Popen([sys.executable, str(MODEL_SERVER), str(port)]) as process:
        wait_for(lambda: listens(port), 60)
        assert guard.post(ROUTES["open-inference"], body("open-inference"), key).status == 200
        process.terminate()


def test_every_answer_is_on_record(tmp_path: Path, model_server: int, guarding: Callable[..., Guard]) -> None:
    path = manifest(tmp_path, model_server)
    key = add_key(path, "standard", "--party", "acme", "--principal", "ann")
    guard = guarding(path, "--workers", 2)
    for i in range(1, 21):
        assert guard.post(ROUTES["open-inference"], body("open-inference", X[: 1 + i % 3]), key).status == 200
    history = History(tmp_path / "guard" / "digits" / "history")
    history.verify()
    rows = [kept.row for kept in history.rows()]
    assert len(rows) == 20
    assert sum(row.rows for row in rows) == sum(1 + i % 3 for i in range(1, 21))
    row = next(row for row in rows if row.rows == 3)
    assert row.inputs is not None
    assert row.answers is not None
    assert row.margin is not None
    assert row.party.endswith("acme")
    np.testing.assert_array_equal(row.inputs, X)
    assert (row.answers["probabilities"] > 0).sum() == 3  # what left, not what the upstream said
    two = np.sort(truth(), axis=1)[:, -2:]
    np.testing.assert_allclose(row.margin, two[:, 1] - two[:, 0])


def test_sighup_takes_a_good_manifest_and_refuses_a_bad_one(
    tmp_path: Path, model_server: int, guarding: Callable[..., Guard]
) -> None:
    path = manifest(tmp_path, model_server)
    key = add_key(path, "partner")
    guard = guarding(path, "--workers", 2)

    def names() -> list[str]:
        answers = [guard.post(ROUTES["open-inference"], body("open-inference"), key) for _ in range(6)]
        return sorted({o["name"] for a in answers for o in json.loads(a.data)["outputs"]})

    assert names() == ["predict_proba"]
    good = yaml.safe_load(path.read_text())
    path.write_text("nonsense: [")
    guard.process.send_signal(signal.SIGHUP)
    wait_for(lambda: [line for line in guard.lines() if "manifest refused" in line["event"]])
    assert names() == ["predict_proba"]
    good["tiers"][2]["signals"] = {"label": {}}
    path.write_text(yaml.safe_dump(good))
    guard.process.send_signal(signal.SIGHUP)
    wait_for(lambda: names() == ["predict"])
    versions = {kept.row.version for kept in History(tmp_path / "guard" / "digits" / "history").rows()}
    assert len(versions) == 2


def test_observing_changes_nothing_and_says_what_would(
    tmp_path: Path, model_server: int, guarding: Callable[..., Guard]
) -> None:
    path = manifest(tmp_path, model_server)
    key = add_key(path, "public")
    guard = guarding(path, "--observe")
    wanted = body("open-inference", outputs=[{"name": "predict_proba"}])
    for sent, used in ((wanted, key), (wanted, None), ({"inputs": 3}, key)):
        through = guard.post(ROUTES["open-inference"], sent, used)
        direct = guard.http.request(
            "POST", f"http://127.0.0.1:{model_server}{ROUTES['open-inference']}", body=json.dumps(sent).encode()
        )
        assert (through.status, through.data) == (direct.status, direct.data)
        assert through.headers["x-model-secret"] == "gradient-42"
    assert guard.post("/fail/418", b"x").status == 418
    assert guard.post(ROUTES["open-inference"], b" " * (2**20 + 1), key).status == 413  # too large to be held
    told = [line["would"] for line in guard.lines() if line["event"] == "observed"]
    assert "release label of probabilities" in told[0][0]
    assert any("refuse 401" in would for would in told[1])
    assert any("refuse 400" in would for would in told[2])


def test_a_record_that_cannot_be_kept_closes_the_answer(
    tmp_path: Path, model_server: int, guarding: Callable[..., Guard]
) -> None:

    path = manifest(tmp_path, model_server)
    key = add_key(path, "public")
    guard = guarding(path)
    ask = lambda: guard.post(ROUTES["open-inference"], body("open-inference"), key)  # noqa: E731
    assert ask().status == 200
    folder = tmp_path / "guard" / "digits" / "history"
    moved = folder.with_name("moved")
    folder.rename(moved)
    folder.write_text("a file where the folder was")
    statuses = {ask().status for _ in range(3)}
    folder.unlink()
    moved.rename(folder)
    wait_for(lambda: ask().status == 200, 30)
    assert statuses <= {200, 503}
    History(folder).verify()
    shutil.rmtree(folder)


def test_the_operators_address(tmp_path: Path, model_server: int, guarding: Callable[..., Guard]) -> None:

    path = manifest(tmp_path, model_server)
    key = add_key(path, "standard", "--principal", "ann", "--party", "acme")
    port = free_port()
    guard = guarding(path, "--admin", f"127.0.0.1:{port}", env={"UNDERSTUDY_ADMIN_KEY": "k" * 20})
    for _ in range(3):
        guard.post(ROUTES["open-inference"], body("open-inference"), key)

    def read(where: str, bearer: str = "k" * 20) -> Any:
        return guard.http.request(
            "GET", f"http://127.0.0.1:{port}{where}", headers={"authorization": f"Bearer {bearer}"}, timeout=10
        )

    assert read("/tiers", "wrong").status == 401
    assert read("/healthz", "").status == read("/readyz", "").status == 200
    wait_for(lambda: b'understudy_rows_total{endpoint="digits",tier="standard"} 9.0' in read("/metrics").data, 5)
    tiers = json.loads(read("/tiers").data)["digits"]
    assert "top-1, 2 decimals" in tiers["tiers"]["standard"]["exposure"]
    spend = json.loads(read("/spend").data)["digits"]
    assert (spend[0]["rows"], spend[0]["money"]) == (9, 0.018)
    decisions = json.loads(read("/decisions?limit=2").data)["digits"]
    assert [d["rows"] for d in decisions] == [3, 3]
    principals = json.loads(read("/principals").data)["digits"]
    assert any(used["day_used"] == 9 for used in principals["used"].values())
    everything = read("/principals").data + read("/decisions").data + guard.log.read_bytes()
    assert key.encode() not in everything
    assert key.split("_")[2].encode() not in everything


def test_sigterm_drains(tmp_path: Path, model_server: int, guarding: Callable[..., Guard]) -> None:
    path = manifest(tmp_path, model_server)
    key = add_key(path, "partner")
    guard = guarding(path, "--workers", 2)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(guard.post, ROUTES["open-inference"], body("open-inference"), key) for _ in range(40)]
        time.sleep(0.05)
        assert guard.stop() == 0
        answered = [f.result().status for f in asked if not f.exception()]
    assert set(answered) <= {200}
    History(tmp_path / "guard" / "digits" / "history").verify()


def test_a_span_per_request_joins_the_customers_trace(
    tmp_path: Path, model_server: int, guarding: Callable[..., Guard]
) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        Thread(target=collector.serve_forever, daemon=True).start()
        path = manifest(tmp_path, model_server)
        key = add_key(path, "public")
        address = f"http://127.0.0.1:{collector.server_port}"
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        }
        guard = guarding(path, env=env)
        trace = "0af7651916cd43dd8448eb211c80319c"
        parent = f"00-{trace}-b7ad6b7169203331-01"
        assert guard.post(ROUTES["open-inference"], body("open-inference"), key, traceparent=parent).status == 200
        wait_for(lambda: received, 30)
        collector.shutdown()
    told = b"".join(received)
    assert bytes.fromhex(trace) in told
    assert b"understudy.tier" in told
    assert b"public" in told
    assert key.encode() not in told
