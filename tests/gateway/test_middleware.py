"""The gateway around an application, in one process under uvicorn: for those who serve with Starlette or FastAPI."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import urllib3
from model_server import model

from running import ROUTES, add_key, free_port, listens, manifest, wait_for
from understudy.history import History

X = np.random.default_rng(0).uniform(0, 1, (3, 64))


@contextlib.contextmanager
def uvicorn(path: Path) -> Iterator[str]:
    port, log = free_port(), path.with_suffix(".log")
    command = [sys.executable, "-m", "uvicorn", "wrapped:guarded", "--app-dir", str(Path(__file__).parent)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--port", str(port)], env={**os.environ, "MANIFEST": str(path)}, stdout=file, stderr=file
        )
    try:
        wait_for(lambda: listens(port) or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        assert process.wait(30) in (0, -15)
        assert "the application has ended" in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_an_application_is_guarded_in_its_own_process(tmp_path: Path) -> None:
    path = manifest(tmp_path, 1, "kserve-v1")  # nobody listens at the manifest's port: the application is asked
    keys = {tier: add_key(path, tier) for tier in ("public", "standard", "partner")}
    p, http = model().predict_proba(X), urllib3.PoolManager(retries=False)
    label = p.argmax(1)
    with uvicorn(path) as url:

        def ask(key: str | None, route: str = ROUTES["kserve-v1"]) -> urllib3.BaseHTTPResponse:
            headers = {"content-type": "application/json", **({"x-api-key": key} if key else {})}
            body = json.dumps({"instances": X.tolist(), "signature_name": "everything"}).encode()
            return http.request("POST", url + route, body=body, headers=headers, timeout=20)

        public = ask(keys["public"])
        assert (public.status, json.loads(public.data)) == (200, {"predictions": label.tolist()})
        for row, i, scores in zip(json.loads(ask(keys["standard"]).data)["predictions"], label, p, strict=True):
            assert row["label"] == i
            np.testing.assert_allclose(row["probabilities"], np.where(np.arange(10) == i, np.round(scores, 2), 0))
        partner = json.loads(ask(keys["partner"]).data)
        assert partner.keys() == {"predictions"}
        np.testing.assert_allclose(partner["predictions"], p)
        assert ask(None).status == 401
        for hidden in ("/docs", "/v1/models/broken:predict", "/openapi.json"):
            assert ask(keys["partner"], hidden).status == 404
            assert http.request("GET", url + hidden).status == 404
        assert http.request("GET", url + "/readyz").status == 200
    history = History(tmp_path / "guard" / "digits" / "history")
    history.verify()
    assert [kept.row.tier for kept in history.rows()] == ["public", "standard", "partner"]


def test_an_application_that_fails_tells_nothing(tmp_path: Path) -> None:
    http = {"url": "http://127.0.0.1:1/v1/models/broken:predict", "protocol": "kserve-v1"}
    path = manifest(tmp_path, 1, "kserve-v1", target={"http": http, "signals": {"probabilities": {}}, "outputs": 10})
    key = add_key(path, "public")
    with uvicorn(path) as url:
        body = json.dumps({"instances": X.tolist()}).encode()
        answer = urllib3.PoolManager(retries=False).request(
            "POST", url + "/v1/models/broken:predict", body=body, headers={"x-api-key": key}, timeout=20
        )
        assert answer.status == 502
        assert b"secret" not in answer.data
