"""The guard in front of real servers, and in front of it clients that know nothing of it; an audit through it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml

from conftest import DEMO, Cli
from running import Guard, add_key, start_guard
from test_audit import findings
from understudy.history import History

sys.path.insert(0, str(Path(__file__).parent))
import servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROTOCOLS = {"mlserver": "open-inference", "mlflow": "mlflow"}
CLIENTS = Path(__file__).parent
X = np.random.default_rng(0).integers(0, 17, (5, 64)).astype(float)


class Place(NamedTuple):
    """A real server, the guard in front of it, a key per tier, and what the server itself says of X."""

    server: str
    upstream: str
    manifest: Path
    guard: Guard
    route: str
    keys: dict[str, str]
    truth: Any

    @property
    def url(self) -> str:
        return self.guard.url + self.route

    def client(self, *arguments: Any) -> Any:
        """What a client in the server's own environment prints."""
        inputs = self.manifest.with_name("inputs.json")
        inputs.write_text(json.dumps(X.tolist()))
        program = CLIENTS / f"client_{self.server}.py"
        command = [servers.environment(self.server) / "python", program, self.url, inputs, *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


def write_manifest(path: Path, url: str, protocol: str, **changes: Any) -> dict[str, Any]:
    """The demo's digit reader, served over HTTP; `changes` replace sections."""
    body = yaml.safe_load((DEMO / "digit_reader.yaml").read_text(encoding="utf-8"))
    (path.parent / "models.py").write_bytes((DEMO / "models.py").read_bytes())
    http = {"url": url, "protocol": protocol}
    body["target"] = {"http": http, "signals": {"probabilities": {}}, "outputs": 10, "batch": 100, "concurrency": 2}
    body["model"] = {"version": "1"}  # a recipe would have to answer as each tier does
    body["audit"] = {"attacks": ["auto"], "seeds": 1, "seed": 1}
    body.update(changes)
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return body


def post(url: str, body: Any, key: str | None = None) -> tuple[int, Any]:
    """Plain curl: status and answer."""
    command = ["curl", "-sS", "-m", "30", "-X", "POST", url, "-H", "Content-Type: application/json", "-d", "@-"]
    command += ["-w", "\n%{http_code}", *(["-H", f"Authorization: Bearer {key}"] if key else [])]
    done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, check=True)
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)


def request(server: str, *outputs: str) -> dict[str, Any]:
    if server == "mlflow":
        return {"inputs": X.tolist()}
    tensor = {"name": "x", "shape": list(X.shape), "datatype": "FP64", "data": X.ravel().tolist()}
    return {"inputs": [tensor], **({"outputs": [{"name": name} for name in outputs]} if outputs else {})}


@pytest.fixture(scope="module", params=PROTOCOLS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    server = request.param
    folder, work = tmp_path_factory.mktemp("guard"), tmp_path_factory.mktemp("server")
    with getattr(servers, server)(work, "digits") as url:
        path = folder / "endpoint.yaml"
        tiers = write_manifest(path, url, PROTOCOLS[server])["tiers"]
        tiers[0]["unauthenticated"] = True
        write_manifest(path, url, PROTOCOLS[server], tiers=tiers, guard={})
        keys = {tier["id"]: add_key(path, tier["id"]) for tier in tiers}
        keys |= {f"{tier['id']} audit": add_key(path, tier["id"], "--audit") for tier in tiers}
        guard = start_guard(folder, path, "--workers", 2)
        truth = scores(post(url, asking(server, "predict_proba"))[1])["predict_proba"]
        yield Place(server, url, path, guard, urlsplit(url).path, keys, truth)
        assert guard.stop() == 0
        History(folder / "guard" / "digit-reader" / "history").verify()


asking = request


def scores(answer: Any) -> dict[str, Any]:
    """An answer's arrays by the upstream's name of the output, read without our codecs."""
    if "outputs" in answer:
        return {o["name"]: np.reshape(o["data"], o["shape"]) for o in answer["outputs"]}
    rows = answer["predictions"]
    if isinstance(rows[0], dict):
        names = {"label": "predict", "probabilities": "predict_proba"}
        return {names[name]: np.array([row[name] for row in rows]) for name in rows[0]}
    found = np.array(rows)
    return {"predict" if found.ndim == 1 else "predict_proba": found}


def granted(tier: str, truth: Any) -> dict[str, Any]:
    """What a tier of the demo may see."""
    label = truth.argmax(1)
    if tier == "public":
        return {"predict": label}
    if tier == "standard":
        return {"predict": label, "predict_proba": np.where(np.arange(10) == label[:, None], np.round(truth, 2), 0)}
    return {"predict": label, "predict_proba": truth}


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(np.ravel(found[name]), np.ravel(values), atol=1e-12)


@pytest.mark.parametrize("tier", ["public", "standard", "partner"])
def test_curl_gets_what_its_tier_may_see(place: Place, tier: str) -> None:
    expected = granted(tier, place.truth)
    status, answer = post(place.url, request(place.server), place.keys[tier])
    assert status == 200, answer
    same(scores(answer), expected)
    if place.server == "mlserver":
        for wanted in (("predict_proba",), ("predict",), ("predict", "predict_proba"), ("predict_proba", "hidden")):
            status, answer = post(place.url, request(place.server, *wanted), place.keys[tier])
            assert status == 200, answer
            kept = expected.keys() & set(wanted) or expected.keys()  # the rest is clamped
            same(scores(answer), {name: expected[name] for name in kept})
    assert post(place.url, request(place.server), "us_00000000_" + "A" * 43)[0] == 401
    if tier == "public":
        same(scores(post(place.url, request(place.server))[1]), expected)  # by address


@pytest.mark.parametrize("tier", ["public", "standard", "partner"])
def test_the_servers_own_clients_work_unmodified(place: Place, tier: str) -> None:
    expected = granted(tier, place.truth)
    told = place.client(place.keys[tier])
    card = told.pop("card", None)
    assert card == ({"predict_proba": [-1, 10]} if place.server == "mlserver" else None)
    assert len(told) >= 3
    for way, answer in told.items():
        if place.server == "mlflow":
            same(scores({"predictions": answer}), expected)
        else:
            kept = {"predict_proba"} & expected.keys() if way == "types, scores" else expected.keys()
            same(answer, {name: expected[name] for name in kept or expected.keys()})


def test_mlflows_scoring_client_needs_no_key_where_a_tier_asks_for_none(place: Place) -> None:
    if place.server != "mlflow":
        pytest.skip("MLflow's client")
    for answer in place.client().values():
        same(scores({"predictions": answer}), granted("public", place.truth))


@pytest.mark.parametrize("tier", ["public", "standard", "partner"])
def test_an_audit_through_the_gateway_finds_what_the_audit_in_process_finds(
    place: Place, tier: str, cli: Cli, tmp_path: Path
) -> None:
    found, protocol = [], PROTOCOLS[place.server]
    for where in ("in-process", "through-the-gateway"):
        folder = tmp_path / where
        folder.mkdir()
        path, env = folder / "endpoint.yaml", {}
        body = write_manifest(path, place.upstream, protocol)
        if where != "in-process":
            (part,) = [t for t in body["tiers"] if t["id"] == tier]
            headers = {"authorization": {"env": "AUDIT_KEY", "prefix": "Bearer "}}
            http = {"url": place.url, "protocol": protocol, "headers": headers}
            target = {**body["target"], "http": http, "signals": part["signals"]}
            write_manifest(path, place.url, protocol, target=target, tiers=[part])
            env = {"AUDIT_KEY": place.keys[f"{tier} audit"]}
        done = cli("audit", path, "--tier", tier, "--out", folder / "run", env=env)
        assert done.returncode in (0, 3), done.stderr
        (finding,) = findings(folder / "run")
        # what else was measured is held against what the owner sees: here the model, there what the tier sees
        for holder in (finding, *finding["seeds"]):
            holder["measures"] = {name: holder["measures"][name] for name in ("fidelity", "accuracy")}
        found.append(finding)
    assert found[0] == found[1]
    assert {"verdict", "reached_at"} <= found[0]["seeds"][0].keys()
    assert found[0]["curve"]
    record = History(place.manifest.parent / "guard" / "digit-reader" / "history")
    asked = sum(used.rows for used in record.usage() if used.audit and used.tier == tier)
    assert asked >= found[0]["curve"][-1]["queries"]
    assert not [used for used in record.usage() if not used.audit and used.rows > 100]
