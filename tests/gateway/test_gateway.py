"""The gateway as a customer meets it: a real process in front of a real model server."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_server import model

from running import (
    ROUTES,
    UNDERSTUDY,
    Guard,
    add_key,
    manifest,
    start_guard,
)

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
