"""The watcher beside a running guard: an attack is noticed and answered, customers are left alone. Real processes."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import signal
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import benign
import numpy as np
import pytest
import urllib3
import yaml
from redis_server import BINARY, Server

from running import ROUTES, Guard, add_key, free_port, manifest, start_guard, wait_for
from understudy.alerts import Alert
from understudy.gateway.book import FILE, Book
from understudy.watch import Calibration, State

ROUTE = ROUTES["open-inference"]
SECRET, ADMIN = "0123456789abcdef-webhook", "0123456789abcdef-admin"
RNG = np.random.default_rng(3)


def body(x: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}]}


def customers_rows(n: int) -> Any:
    return benign.digits()[RNG.choice(len(benign.digits()), n)]


def thiefs_rows(n: int) -> Any:
    return RNG.uniform(0, 1, (n, 64))


class Receiver:
    """A webhook's other end; it refuses the first alerts."""

    def __init__(self, refuse: int) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.tries = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.tries += 1
                data = self.rfile.read(int(self.headers["content-length"]))
                if outer.tries > refuse:
                    outer.got.append(({k.lower(): v for k, v in self.headers.items()}, data))
                self.send_response(204 if outer.tries > refuse else 503)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class House:
    """A guarded, watched endpoint."""

    def __init__(self, folder: Path, port: int, *options: Any, **monitor: Any) -> None:
        self.root, self.options = folder, options
        self.path = manifest(folder, port, monitor=monitor)
        benign.write(self.path)
        self.folder, self.keys = folder / "guard" / "digits", dict[str, str]()
        self.admin = free_port()
        self.start()

    def start(self) -> None:
        env = {"UNDERSTUDY_ADMIN_KEY": ADMIN, "HOOK_SECRET": SECRET}
        admin = f"127.0.0.1:{self.admin}"
        self.guard: Guard = start_guard(self.root, self.path, "--admin", admin, *self.options, env=env)

    def ask(self, who: str, x: Any) -> list[str]:
        """The names of what is answered. `who` is PARTY-NUMBER."""
        if who not in self.keys:
            self.keys[who] = add_key(self.path, "standard", "--party", who.split("-")[0], "--principal", who)
        found = self.guard.post(ROUTE, body(x), self.keys[who])
        assert found.status == 200, found.data
        return sorted(o["name"] for o in json.loads(found.data)["outputs"])

    def asked_admin(self, path: str, said: Any = None) -> tuple[int, Any]:
        head = {"authorization": f"Bearer {ADMIN}"}
        found = urllib3.request(
            "GET" if said is None else "POST", f"http://127.0.0.1:{self.admin}{path}", headers=head,
            body=None if said is None else json.dumps(said), retries=False,
        )  # fmt: skip
        return found.status, found.data.decode() if path == "/metrics" else json.loads(found.data)

    def metric(self, name: str) -> float:
        found = re.findall(rf"^understudy_watch_{name}(?:\{{[^}}]*\}})? (\S+)$", self.asked_admin("/metrics")[1], re.M)
        return sum(map(float, found))

    def responses(self, who: str | None = None) -> list[Any]:
        if not (self.folder / FILE).exists():
            return []
        with Book(self.folder / FILE) as book:
            return [r for r in book.all() if who is None or r.name == f"key:{who}"]

    def states(self) -> dict[str, State]:
        """Accounts as they are on disk."""
        calibration = Calibration.from_bytes(benign.calibration())
        with contextlib.closing(sqlite3.connect(self.folder / "states.sqlite")) as db:
            made = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'states'").fetchone()
            blobs = db.execute("SELECT state FROM states").fetchall() if made else []
        found = [State.from_bytes(blob, calibration.leak) for (blob,) in blobs]
        return {state.principal.removeprefix("key:"): state for state in found}

    def followed(self) -> int:
        """Queries in the states on disk."""
        return sum(state.n for state in self.states().values())

    def kill_watcher(self) -> None:
        """SIGKILL; it is the supervisor's youngest child."""
        supervisor = self.guard.process.pid
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        os.kill(max(map(int, children)), signal.SIGKILL)


LADDER = [
    {"when": {"p_value": 0.05}, "do": "note"},
    {"when": {"p_value": 0.01}, "do": "alert"},
    {"when": {"p_value": 0.01}, "do": "reduce", "to_tier": "public", "expires": "6s", "cool_down": "1s"},
    {"when": {"p_value": 0.01}, "do": "suspend", "whom": "party"},
]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver(refuse=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, model_server: int, receiver: Receiver) -> Iterator[House]:
    hook = {"url": f"http://127.0.0.1:{receiver.server.server_port}/hook", "secret": {"env": "HOOK_SECRET"}}
    made = House(
        tmp_path_factory.mktemp("live"), model_server, "--workers", 2,
        response=LADDER, sinks={"ocsf": "ocsf.jsonl", "webhook": hook},
    )  # fmt: skip
    yield made
    assert made.guard.stop() == 0


BOTH = ["predict", "predict_proba"]


def test_an_attack_is_alarmed_and_reduced_and_customers_are_not(house: House) -> None:
    for i in range(8):
        for _ in range(4):
            assert house.ask(f"shop-{i}", customers_rows(8)) == BOTH
    for _ in range(5):
        house.ask("thief-1", thiefs_rows(4))
    wait_for(lambda: house.ask("thief-1", thiefs_rows(1)) == ["predict"], 30)
    wait_for(lambda: house.metric("exchanges_total") >= 37, 10)
    assert not [r for i in range(8) for r in house.responses(f"shop-{i}") if r.do != "note"]
    assert house.ask("shop-0", customers_rows(1)) == BOTH
    assert sorted(r.do for r in house.responses("thief-1")) == ["alert", "note", "reduce"]
    assert [r.do for r in house.responses("thief")] == ["suspend"]
    assert house.metric("alarms_total") == 1
    assert house.metric("shed_total") == 0
    assert house.metric("lag_seconds") < 30


def test_the_alert_reaches_every_sink_and_says_what_to_rule_out(house: House, receiver: Receiver) -> None:
    wait_for(lambda: len(receiver.got) == 3, 20)  # alert, reduce, suspend; a note goes nowhere
    path = house.folder / "alerts.jsonl"
    alerts = [Alert.read(line, path) for line in path.read_text().splitlines()]
    assert [a.action.do for a in alerts if a.action] == ["alert", "reduce", "suspend"]
    alert = alerts[0]
    assert (alert.principal, alert.party, alert.endpoint, alert.tier) == (
        "key:thief-1",
        "key:thief",
        "digits",
        "standard",
    )
    assert alert.kind == "extraction"
    assert alert.p_value is not None
    assert alert.p_value <= 0.01
    assert alert.calibration is not None
    assert alert.calibration.accounts == Calibration.from_bytes(benign.calibration()).accounts
    assert alert.networks == ["127.0.0.1"]
    assert alert.clients[0].startswith("python-urllib3")
    assert alert.exposure == "label + probabilities (top-1, 2 decimals)"
    assert alert.inputs.mean is not None
    assert 0.3 < np.mean(alert.inputs.mean) < 0.7
    assert alert.leak is not None
    assert alert.benign
    assert alerts[2].action is not None
    assert alerts[2].action.proposed
    events = [json.loads(line) for line in (house.folder / "ocsf.jsonl").read_text().splitlines()]
    assert [e["metadata"]["uid"] for e in events] == [a.id for a in alerts]
    assert {e["class_uid"] for e in events} == {2004}
    for name in ("alerts.jsonl", "ocsf.jsonl", "states.sqlite", FILE):
        assert stat.S_IMODE((house.folder / name).stat().st_mode) == 0o600
    assert receiver.tries == 4  # the first one was refused, and came again
    for headers, data in receiver.got:
        wanted = hmac.new(SECRET.encode(), headers["x-understudy-time"].encode() + b"." + data, hashlib.sha256)
        assert headers["x-understudy-signature"] == "v1=" + wanted.hexdigest()
    assert {json.loads(data)["id"] for _, data in receiver.got} == {a.id for a in alerts}
    told = path.read_text() + house.guard.log.read_text()
    assert house.keys["thief-1"] not in told
    assert SECRET not in told


def test_it_ends_by_itself_and_the_same_behaviour_meets_it_again(house: House) -> None:
    wait_for(lambda: house.ask("thief-1", customers_rows(1)) == BOTH, 20)
    first = len([r for r in house.responses("thief-1") if r.do == "reduce"])

    def reduced_again() -> bool:
        return house.ask("thief-1", thiefs_rows(2)) == ["predict"]

    wait_for(reduced_again, 30)
    assert len([r for r in house.responses("thief-1") if r.do == "reduce"]) == first + 1


def test_a_suspension_is_confirmed_by_a_named_human_at_the_operators_address(house: House) -> None:
    status, listed = house.asked_admin("/responses")
    assert status == 200
    proposed = [r for r in listed["digits"] if r["state"] == "proposed"]
    assert [(r["do"], r["whom"], r["name"]) for r in proposed] == [("suspend", "party", "key:thief")]
    place = f"/responses/{proposed[0]['id']}"
    assert house.asked_admin(f"{place}/confirm", {"reason": "r"})[0] == 400
    assert house.asked_admin(f"{place}/confirm", {"by": "", "reason": "r"})[0] == 409
    assert house.asked_admin("/responses/nobody/confirm", {"by": "Dana", "reason": "r"})[0] == 404
    status, after = house.asked_admin(f"{place}/confirm", {"by": "Dana", "reason": "no answer to our letter"})
    assert (status, after["state"]) == (200, "active")
    refused = wait_for(
        lambda: found if (found := house.guard.post(ROUTE, body(thiefs_rows(1)), house.keys["thief-1"])).status == 403
        else None, 10,
    )  # fmt: skip
    assert json.loads(refused.data) == {"error": "not permitted"}
    status, after = house.asked_admin(f"{place}/revoke", {"by": "Eli", "reason": "settled", "quiet": "30d"})
    assert (status, after["state"]) == (200, "revoked")
    acts = [
        (a["act"], a["by"])
        for a in house.asked_admin("/responses?all=1")[1]["digits"]
        if a["id"] == proposed[0]["id"]
        for a in a["acts"]
    ]
    assert acts == [("proposed", ""), ("confirmed", "Dana"), ("revoked", "Eli")]


@pytest.mark.slow
def test_a_restart_or_a_crash_in_the_middle_counts_every_query_once(tmp_path: Path, model_server: int) -> None:
    house = House(tmp_path, model_server, "--workers", 2, response=LADDER[:2])
    try:
        for _ in range(5):
            house.ask("shop-1", customers_rows(4))
        wait_for(lambda: (house.folder / "states.sqlite").exists() and house.followed() == 20, 30)
        assert house.guard.stop() == 0
        house.start()
        for _ in range(5):
            house.ask("shop-1", customers_rows(4))
            house.ask("shop-2", customers_rows(4))
        time.sleep(1)
        house.guard.kill()  # nothing is saved
        house.start()
        for _ in range(5):
            house.ask("shop-2", customers_rows(4))
        wait_for(lambda: house.followed() == 80, 30)
        house.ask("thief-1", thiefs_rows(1))
        assert house.guard.stop() == 0  # what is in the history at the end is followed to the end
        assert house.followed() == 81
        house.start()
        house.ask("thief-1", thiefs_rows(4))
        wait_for(lambda: sorted(r.do for r in house.responses("thief-1")) == ["alert", "note"], 30)
    finally:
        house.guard.stop()
    assert [r.do for r in house.responses("shop-1") + house.responses("shop-2") if r.do == "alert"] == []


@pytest.mark.slow
def test_a_leak_budget_caps_what_a_party_receives_and_accuses_nobody(tmp_path: Path, model_server: int) -> None:
    step = {"when": {"leak_budget": True}, "do": "reduce", "to_tier": "public", "whom": "party"}
    house = House(tmp_path, model_server, leak_budget={"standard": 0.6}, response=[step])
    try:
        for i in (1, 2):
            house.ask(f"busy-{i}", customers_rows(60))
        house.ask("small-1", customers_rows(3))

        def reduced() -> bool:
            time.sleep(0.25)  # what is asked meanwhile stays within the allowance of 600 a minute
            return [house.ask(f"busy-{i}", customers_rows(4)) for i in (1, 2)] == [["predict"], ["predict"]]

        wait_for(reduced, 30)
        assert house.ask("small-1", customers_rows(1)) == BOTH
        path = house.folder / "alerts.jsonl"
        wait_for(path.exists, 10)
        alerts = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(a["kind"], a["party"]) for a in alerts] == [("leak", "key:busy")]
        assert alerts[0]["leak"]["budget"] == 0.6
        assert alerts[0]["alarmed_at"] is None
    finally:
        assert house.guard.stop() == 0


@pytest.mark.slow
def test_a_killed_watcher_comes_back_and_a_changed_ladder_is_taken_up(tmp_path: Path, model_server: int) -> None:
    house = House(tmp_path, model_server, response=[])
    try:
        house.ask("shop-1", customers_rows(4))
        wait_for(lambda: (house.folder / "states.sqlite").exists() and house.followed() == 4, 30)
        supervisor = house.guard.process.pid
        house.kill_watcher()
        house.ask("thief-1", thiefs_rows(8))  # nobody's answer waits for the watcher
        wait_for(lambda: house.metric("alarms_total") == 1, 40)
        assert [line for line in house.guard.lines() if line["event"] == "the watcher died and is started again"]
        assert house.responses() == []
        body = yaml.safe_load(house.path.read_text())
        body["monitor"]["response"] = [{"when": {"p_value": 0.01}, "do": "reduce", "to_tier": "public"}]
        house.path.write_text(yaml.safe_dump(body))
        os.kill(supervisor, signal.SIGHUP)
        wait_for(lambda: house.ask("thief-1", thiefs_rows(1)) == ["predict"], 30)
        assert house.ask("shop-1", customers_rows(1)) == BOTH
    finally:
        assert house.guard.stop() == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if BINARY is None:
        pytest.skip("neither valkey-server nor redis-server is installed")
    (tmp_path / "redis").mkdir()
    made = Server(tmp_path / "redis")
    made.begin()
    yield made
    made.kill()


@pytest.fixture
def two(tmp_path: Path, model_server: int, server: Server) -> Iterator[list[House]]:
    """Two machines that share a server."""
    step = {"when": {"p_value": 0.01}, "do": "reduce", "to_tier": "public"}
    made = list[House]()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(House(tmp_path / name, model_server, "--state", server.url, response=[step]))
    for house in made:
        wait_for(lambda house=house: house.metric("machines") == 2, 30)
    yield made
    for house in made:
        house.guard.stop()


def alerted(houses: list[House]) -> list[str]:
    """Who, in the alerts that either machine sent."""
    files = [house.folder / "alerts.jsonl" for house in houses]
    return [json.loads(line)["principal"] for f in files if f.exists() for line in f.read_text().splitlines()]


@pytest.mark.slow
def test_a_thief_between_two_machines_is_caught_once_and_held_at_both(two: list[House]) -> None:
    for i in range(3):
        two[i % 2].ask("shop-1", customers_rows(8))
    for i in range(8):
        two[i % 2].ask("thief-1", thiefs_rows(1))
    wait_for(lambda: all(house.ask("thief-1", thiefs_rows(1)) == ["predict"] for house in two), 30)
    assert [house.ask("shop-1", customers_rows(1)) for house in two] == [BOTH, BOTH]
    wait_for(lambda: alerted(two) == ["key:thief-1"], 20)
    assert [[r.do for r in house.responses()] for house in two] == [["reduce"]] * 2
    assert sum(house.metric("alarms_total") for house in two) == 1
    wait_for(lambda: two[0].followed() == two[1].followed() > 32, 30)
    one, other = (house.states()["thief-1"] for house in two)
    assert one.alarmed_at == other.alarmed_at is not None
    assert np.array_equal(one.ring, other.ring)
    with Book(two[1].folder / FILE) as book:
        book.revoke(book.all()[0].id, "Eli", "their test")
    wait_for(lambda: two[0].ask("thief-1", customers_rows(1)) == BOTH, 30)


@pytest.mark.slow
def test_a_killed_watcher_leaves_it_to_the_other_machine(two: list[House]) -> None:
    two[0].ask("thief-1", thiefs_rows(1))
    two[1].ask("thief-1", thiefs_rows(1))
    wait_for(lambda: all((h.folder / "states.sqlite").exists() and h.followed() == 2 for h in two), 30)
    two[0].kill_watcher()
    for _ in range(6):
        two[1].ask("thief-1", thiefs_rows(1))
    wait_for(lambda: two[1].responses("thief-1"), 10)
    two[0].ask("shop-1", customers_rows(4))  # nobody's answer waits for the watcher
    wait_for(lambda: [h.followed() for h in two] == [12, 12], 40)
    time.sleep(2)
    assert alerted(two) == ["key:thief-1"]
    assert [[r.id for r in house.responses()] for house in two] == [[two[1].responses()[0].id]] * 2


@pytest.mark.slow
def test_while_the_server_is_away_each_machine_watches_alone_and_says_so(two: list[House], server: Server) -> None:
    for house in two:
        house.ask("thief-1", customers_rows(1))
    server.kill()
    time.sleep(6)  # what was leased is too old by now
    for house in two:
        wait_for(lambda house=house: house.metric("machines") == 0, 20)
        assert [line for line in house.guard.lines() if "this one watches alone" in line["event"]]
        assert house.guard.post(ROUTE, body(thiefs_rows(1)), house.keys["thief-1"]).status == 503
        assert house.guard.get("/readyz").status == 503
    server.begin()
    for house in two:
        wait_for(lambda house=house: house.metric("machines") == 2, 30)
        wait_for(lambda house=house: house.guard.get("/readyz").status == 200, 30)
    for i in range(8):
        two[i % 2].ask("thief-1", thiefs_rows(1))
    wait_for(lambda: [h.followed() for h in two] == [10, 10], 30)
    wait_for(lambda: alerted(two) == ["key:thief-1"], 20)
