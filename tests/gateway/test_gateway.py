"""The gateway as a customer meets it: a real process in front of a real model server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from model_server import model

from running import (
    MODEL_SERVER,
    ROUTES,
    UNDERSTUDY,
    Guard,
    add_key,
    free_port,
    listens,
    manifest,
    start_guard,
    wait_for,
)
from understudy.history import History

X = np.random.default_rng(0).uniform(0, 1, (3, 64))
SECRETS = (
    b"hidden",
    b"debug",
    b"gradient-42",
    b"secret-path",
    b"0.731",
    b"model_version",
    b"Traceback",
    b"calibration",
)


def truth() -> Any:
    return model().predict_proba(X)


def body(protocol: str, x: Any = X, **more: Any) -> dict[str, Any]:
    """A request as clients write it."""
    if protocol == "open-inference":
        tensor = {"name": "input-0", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}
        return {"id": "mine", "inputs": [tensor], **more}
    return {("inputs" if protocol == "mlflow" else "instances"): x.tolist(), **more}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, model_server: int
) -> Iterator[tuple[Guard, dict[str, dict[str, str]]]]:
    """One gateway over three protocols, and a key for each tier of each."""
    folder = tmp_path_factory.mktemp("served")
    paths = [manifest(folder, model_server, protocol, f"digits-{protocol}") for protocol in ROUTES]
    keys = {
        protocol: {tier: add_key(path, tier) for tier in ("public", "standard", "partner")}
        for protocol, path in zip(ROUTES, paths, strict=True)
    }
    guard = start_guard(folder, *paths)
    yield guard, keys
    assert guard.stop() == 0


def arrays(protocol: str, answer: Any) -> dict[str, Any]:
    """An answer's arrays by name, read without our codecs."""
    if protocol == "open-inference":
        return {o["name"]: np.reshape(o["data"], o["shape"]) for o in answer["outputs"]}
    rows = answer["predictions"]
    if isinstance(rows[0], dict):
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {"rows": np.array(rows)}


@pytest.mark.parametrize("protocol", ROUTES)
def test_each_tier_gets_its_signals_and_no_more(served: Any, protocol: str) -> None:
    guard, keys = served
    p, label = truth(), truth().argmax(1)
    for tier in ("public", "standard", "partner"):
        answer = guard.post(ROUTES[protocol], body(protocol), keys[protocol][tier])
        assert answer.status == 200, answer.data
        raw = answer.data + b"".join(f"{k}:{v}".encode() for k, v in answer.headers.items())
        assert not [secret for secret in SECRETS if secret in raw]
        found = list(arrays(protocol, json.loads(answer.data)).values())
        if tier == "public":
            assert len(found) == 1
            np.testing.assert_array_equal(np.ravel(found[0]), label)
        elif tier == "standard":
            scores = next(a for a in found if a.ndim == 2)
            top = np.where(np.arange(10) == label[:, None], np.round(p, 2), 0)
            np.testing.assert_allclose(scores, top, atol=1e-12)
            assert len(found) == 2
        else:
            np.testing.assert_allclose(found[0], p, atol=1e-12)
    assert answer.headers["x-request-id"]


def test_asking_for_more_is_clamped(served: Any) -> None:
    guard, keys = served
    for extra in (
        {"outputs": [{"name": "predict_proba"}, {"name": "hidden"}]},
        {"outputs": [{"name": "predict", "parameters": {"classification": 10}}]},
        {"parameters": {"binary_data_output": False, "debug": True}},
    ):
        answer = guard.post(ROUTES["open-inference"], body("open-inference", **extra), keys["open-inference"]["public"])
        assert answer.status in (200, 400), answer.data
        if answer.status == 200:
            assert [o["name"] for o in json.loads(answer.data)["outputs"]] == ["predict"]
        assert b"hidden" not in answer.data


def test_asking_for_more_is_refused_where_the_manifest_says_so(
    tmp_path: Path, model_server: int, guarding: Callable[..., Guard]
) -> None:
    path = manifest(tmp_path, model_server, guard={"asks": "refuse"})
    key = add_key(path, "public")
    guard = guarding(path)
    wanted = {"outputs": [{"name": "predict_proba"}]}
    answer = guard.post(ROUTES["open-inference"], body("open-inference", **wanted), key)
    assert (answer.status, b"does not grant probabilities" in answer.data) == (403, True)
    assert guard.post(ROUTES["open-inference"], body("open-inference"), key).status == 200


def test_only_declared_routes_exist(served: Any) -> None:
    guard, keys = served
    key = keys["open-inference"]["partner"]
    for path in ("/", "/metrics", "/v2/models/digits/infer/", "/v2/models/other/infer", "/v1/models/digits:explain"):
        assert guard.post(path, b"{}", key).status == 404
        assert guard.get(path).status == 404
    assert guard.get("/healthz").status == guard.get("/readyz").status == 200
    assert guard.get(ROUTES["open-inference"]).status == 405
    card = json.loads(guard.get("/v2/models/digits").data)
    assert card["name"] == "digits-open-inference"
    assert "7" not in json.dumps(card.get("versions", ""))


def test_no_credential_no_answer(served: Any) -> None:
    guard, keys = served
    for key in (None, "us_00000000_" + "A" * 43, keys["mlflow"]["partner"]):
        answer = guard.post(ROUTES["open-inference"], body("open-inference"), key)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    "bad",
    [b"", b"{", b"[]", b"null", b'{"inputs": 3}', b"\xff\xfe", b'{"inputs":[]}', b"[" * 100_000, b'{"inputs":[{}]}'],
    ids=["empty", "half", "list", "null", "number", "bytes", "none", "deep", "hollow"],
)
def test_malformed_requests_are_the_customers_mistake(served: Any, bad: bytes) -> None:
    guard, keys = served
    for protocol, path in ROUTES.items():
        answer = guard.post(path, bad, keys[protocol]["public"])
        assert 400 <= answer.status < 500, (protocol, answer.status)


def test_inputs_outside_the_space_cost_nothing(served: Any) -> None:
    guard, keys = served
    key = keys["kserve-v1"]["public"]
    before = guard.post(ROUTES["kserve-v1"], body("kserve-v1", X[:1]), key).headers["ratelimit-remaining"]
    answer = guard.post(ROUTES["kserve-v1"], body("kserve-v1", X + 1), key)
    assert (answer.status, b"outside the space" in answer.data) == (400, True)
    after = guard.post(ROUTES["kserve-v1"], body("kserve-v1", X[:1]), key).headers["ratelimit-remaining"]
    assert int(before) - int(after) == 1


def test_allowances_hold_exactly_over_workers_and_a_party(
    tmp_path: Path, model_server: int, guarding: Callable[..., Guard]
) -> None:
    tiers = [{"id": "t", "who": "w", "signals": {"label": {}}, "limits": {"per_day": 60, "accounts_per_party": 2}}]
    path = manifest(tmp_path, model_server, tiers=tiers)
    keys = [add_key(path, "t", "--party", "acme", "--principal", f"a{i}") for i in range(3)]
    guard = guarding(path, "--workers", 4)

    def ask(i: int) -> int:
        return guard.post(ROUTES["open-inference"], body("open-inference", X[:1]), keys[i % 3]).status

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(ask, range(300)))
    assert set(statuses) == {200, 429}
    assert statuses.count(200) == 120  # two accounts' worth for the party, 60 at most for each
    answer = guard.post(ROUTES["open-inference"], body("open-inference", X[:1]), keys[0])
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) > 80_000
    too_many = np.tile(X[:1], (61, 1))
    assert guard.post(ROUTES["open-inference"], body("open-inference", too_many), keys[0]).status == 413


@pytest.mark.parametrize(("upstream", "status"), [(500, 502), (503, 503), (400, 400), (302, 502)])
def test_upstream_errors_say_nothing_and_cost_nothing(
    tmp_path: Path, model_server: int, guarding: Callable[..., Guard], upstream: int, status: int
) -> None:
    http = {"url": f"http://127.0.0.1:{model_server}/fail/{upstream}", "protocol": "open-inference"}
    path = manifest(
        tmp_path,
        model_server,
        target={"http": http, "signals": {"probabilities": {}}, "outputs": 10},
        guard={"path": "/infer"},
        tiers=[{"id": "t", "who": "w", "signals": {"label": {}}, "limits": {"per_day": 3}}],
    )
    key = add_key(path, "t")
    guard = guarding(path)
    for _ in range(5):
        answer = guard.post("/infer", body("open-inference"), key)
        assert answer.status == status
        assert not [secret for secret in SECRETS if secret in answer.data]


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


def test_a_failing_defence_leaves_the_label(tmp_path: Path, model_server: int, guarding: Callable[..., Guard]) -> None:
    (tmp_path / "faulty.py").write_text(
        "from understudy.defences.rounding import Round\n"
        "class Faulty(Round):\n    def apply(self, inputs, answers, principal):\n        raise RuntimeError('secret')\n"
    )
    signals = {"label": {}, "probabilities": {}}
    tiers = [{"id": "t", "who": "w", "signals": signals, "defences": [{"name": "faulty"}], "limits": {"per_day": 9}}]
    package = tmp_path / "faulty-1.dist-info"
    package.mkdir()
    (package / "entry_points.txt").write_text("[understudy.defences]\nfaulty = faulty:Faulty\n")
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1\n")
    path = manifest(tmp_path, model_server, tiers=tiers)
    env = {"PYTHONPATH": str(tmp_path)}

    done = subprocess.run(
        [UNDERSTUDY, "keys", "add", path, "--tier", "t"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **env},
    )
    key = next(word for word in done.stdout.split() if word.startswith("us_"))
    guard = guarding(path, env=env)
    answer = guard.post(ROUTES["open-inference"], body("open-inference"), key)
    assert answer.status == 200
    assert [o["name"] for o in json.loads(answer.data)["outputs"]] == ["predict"]
    assert "secret" not in guard.log.read_text()


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


def test_broad_access_needs_a_review_in_force(tmp_path: Path) -> None:
    import datetime as dt

    from understudy.gateway.service import compile_service

    def cap(review: dict[str, str] | None) -> tuple[int | None, tuple[str, ...]]:
        tier = {"id": "t", "who": "w", "signals": {"label": {}}, "limits": {"per_day": 50_000}}
        tiers = [{**tier, **({"review": review} if review else {})}]
        service = compile_service(manifest(tmp_path, 1, tiers=tiers), dt.date(2026, 6, 1))
        return service.tiers["t"].allowance.per_30d, service.warnings

    review = {"by": "ann", "on": "2026-01-01", "until": "2026-07-01", "reason": "batch scoring"}
    assert cap(review) == (None, ())
    for missing in (None, {**review, "until": "2026-05-31"}, {**review, "on": "2026-06-02"}):
        most, warnings = cap(missing)
        assert most == 100_000
        assert "capped to 100,000 rows" in warnings[0]
