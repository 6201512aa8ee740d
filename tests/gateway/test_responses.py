"""What the ladder puts in force, as the customer meets it, and what operators do about it: real processes."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from running import ROUTES, UNDERSTUDY, Guard, add_key, manifest, start_guard, wait_for
from understudy.errors import MonitorError
from understudy.gateway.book import FILE, Book
from understudy.gateway.identity import Caller
from understudy.gateway.orders import Orders
from understudy.gateway.service import compile_service
from understudy.history import History
from understudy.response import Response

ROUTE = ROUTES["open-inference"]
X = np.random.default_rng(0).uniform(0, 1, (1, 64))
DAY = 86_400.0


def body(rows: int = 1) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [rows, 64], "datatype": "FP64", "data": X[0].tolist() * rows}]}


class House:
    """A guard of two workers, and keys of several customers."""

    def __init__(self, folder: Path, port: int) -> None:
        self.path = manifest(folder, port, monitor={"leak_budget": {"standard": 0.5}})
        self.folder = folder / "guard" / "digits"
        self.keys = {
            f"{party}-{i}": add_key(self.path, "standard", "--party", party, "--principal", f"{party}-{i}")
            for party in ("acme", "globex", "hooli", "initech", "soylent", "umbrella")
            for i in (1, 2)
        }
        self.guard: Guard = start_guard(folder, self.path, "--workers", 2)

    def ask(self, who: str, rows: int = 1) -> tuple[int, dict[str, str], Any]:
        found = self.guard.post(ROUTE, body(rows), self.keys[who])
        return found.status, {k.lower(): v for k, v in found.headers.items()}, json.loads(found.data)

    def put(self, do: str, name: str, whom: str = "principal", expires: float = DAY, **more: Any) -> Response:
        made = Response(f"1-{do}", do, whom, f"key:{name}", time.time(), expires, DAY, **more)
        with Book(self.folder / FILE) as book:
            book.add([(made, None)])
        return made

    def until(self, who: str, status: int) -> None:
        """Both workers have noticed: twenty answers in a row."""
        wait_for(lambda: all(self.ask(who)[0] == status for _ in range(20)), 10)

    def command(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [UNDERSTUDY, "responses", self.path, *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, model_server: int) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("responses"), model_server)
    yield made
    assert made.guard.stop() == 0


def scores(answer: Any) -> dict[str, list[float]]:
    return {output["name"]: output["data"] for output in answer["outputs"]}


def test_reduced_is_the_lower_tiers_exposure_on_the_same_account_only(house: House) -> None:
    status, before, answer = house.ask("acme-1")
    assert status == 200
    assert sorted(scores(answer)) == ["predict", "predict_proba"]
    house.put("reduce", "acme-1", to_tier="public")
    wait_for(lambda: all(list(scores(house.ask("acme-1")[2])) == ["predict"] for _ in range(20)), 10)
    _, after, reduced = house.ask("acme-1")
    assert scores(reduced)["predict"] == scores(answer)["predict"]
    assert before.keys() == after.keys()
    assert before["ratelimit-limit"] == after["ratelimit-limit"]
    assert sorted(scores(house.ask("acme-2")[2])) == ["predict", "predict_proba"]
    row = History(house.folder / "history").recent(1, "key:acme-1")[0]
    assert row.tier == "standard"  # it is billed as what it is
    kept = list(History(house.folder / "history").rows(principal="key:acme-1"))[-1]
    assert "predict_proba" not in str(kept.row.answers)
    assert kept.row.answers is not None
    assert [s.value for s in kept.row.answers.values] == ["label"]
    assert kept.row.context["order"]
    assert kept.row.context["network"] == "127.0.0.1"
    assert kept.row.context["client"].startswith("python-urllib3")


def test_on_record_is_what_left_and_no_more(house: House) -> None:
    asked = body() | {"outputs": [{"name": "predict"}]}
    found = house.guard.post(ROUTE, asked, house.keys["acme-2"])
    assert list(scores(json.loads(found.data))) == ["predict"]
    kept = list(History(house.folder / "history").rows(principal="key:acme-2"))[-1]
    assert kept.row.answers is not None
    assert [s.value for s in kept.row.answers.values] == ["label"]  # what it could have learned is read from this


def test_throttled_is_the_ordinary_429_in_numbers_of_the_whole_allowance(house: House) -> None:
    assert house.ask("globex-1")[1]["ratelimit-limit"] == "600"
    house.put("throttle", "globex-1", factor=0.05)  # 30 of 600 a minute, 250 of 5,000 a day
    time.sleep(2.5)
    asked = [house.ask("globex-1", 10) for _ in range(4)]
    assert [status for status, _, _ in asked] == [200, 200, 200, 429]
    _, headers, answer = asked[-1]
    assert answer == {"error": "over the allowance (this account: 600 per minute)"}
    assert headers["ratelimit-limit"] == "600"
    assert 1 <= int(headers["retry-after"]) <= 60
    assert house.ask("globex-1", 50)[0] == 429  # not 413, which would name another allowance
    assert house.ask("globex-2", 50)[0] == 200
    wait_for(lambda: house.ask("globex-1")[0] == 200, 20)
    shown = [(h["ratelimit-limit"], int(h["ratelimit-remaining"])) for _, h, _ in asked]
    assert [limit for limit, _ in shown] == ["600"] * 4
    assert 600 > shown[0][1] > shown[1][1] > shown[2][1] >= 0


def test_to_be_verified_again_is_the_ordinary_401(house: House) -> None:
    house.put("reverify", "hooli", whom="party")
    house.until("hooli-1", 401)
    house.until("hooli-2", 401)
    unknown = house.guard.post(ROUTE, body(), "us_00000000_" + "x" * 43)
    _, headers, answer = house.ask("hooli-1")
    assert answer == json.loads(unknown.data)
    assert headers.keys() == {k.lower() for k in unknown.headers}
    assert house.ask("initech-1")[0] == 200


def test_a_suspension_waits_for_a_named_human_and_every_act_is_on_record(house: House) -> None:
    made = house.put("suspend", "initech-1")
    time.sleep(1.5)
    assert all(house.ask("initech-1")[0] == 200 for _ in range(10))
    listed = json.loads(house.command("list", "--json"))
    assert [r["state"] for r in listed if r["id"] == made.id] == ["proposed"]
    assert "Missing option '--by'" in house.command("confirm", made.id, "--reason", "r", status=2)
    assert "a name is 1 to 500" in house.command("confirm", made.id, "--by", " ", "--reason", "r", status=2)
    house.command("confirm", made.id, "--by", "Dana", "--reason", "they said so")
    house.until("initech-1", 403)
    status, headers, answer = house.ask("initech-1")
    assert (status, answer) == (403, {"error": "not permitted"})
    assert headers.keys() <= {"content-type", "content-length", "x-request-id", "date"}
    assert house.ask("initech-2")[0] == 200
    assert "nothing to confirm" in house.command("confirm", made.id, "--by", "Dana", "--reason", "r", status=2)
    house.command("revoke", made.id, "--by", "Eli", "--reason", "it was their test", "--quiet", "30d")
    house.until("initech-1", 200)
    with Book(house.folder / FILE) as book:
        acts = [(act["act"], act["by"], act["reason"]) for act in book.acts(made.id)]
    assert acts == [
        ("proposed", "", ""),
        ("confirmed", "Dana", "they said so"),
        ("revoked", "Eli", "it was their test"),
    ]
    assert made.id not in house.command("list")
    assert made.id in house.command("list", "--all")
    assert "is revoked already" in house.command("revoke", made.id, "--by", "E", "--reason", "r", status=2)
    assert "no response has the id 'nobody'" in house.command(
        "revoke", "nobody", "--by", "E", "--reason", "r", status=2
    )


def test_it_ends_by_itself(house: House) -> None:
    house.put("reverify", "soylent-1", expires=3.0)
    house.until("soylent-1", 401)
    house.until("soylent-1", 200)


def test_an_order_for_a_tier_that_gives_more_changes_nothing_and_for_one_that_is_gone_the_least(house: House) -> None:
    house.put("reduce", "umbrella-1", to_tier="partner")
    time.sleep(1.5)
    assert sorted(scores(house.ask("umbrella-1")[2])) == ["predict", "predict_proba"]
    house.put("reduce", "umbrella-1", expires=DAY + 1, to_tier="gold")  # as it was called until the last reload
    wait_for(lambda: all(list(scores(house.ask("umbrella-1")[2])) == ["predict"] for _ in range(20)), 10)


def test_what_could_not_be_read_is_read_as_soon_as_it_can(house: House, tmp_path: Path) -> None:
    orders = Orders(tmp_path, compile_service(house.path).tiers)
    soylent = Caller("key:soylent-2", "key:soylent", "standard")
    with Book(tmp_path / FILE) as book:
        orders.look()
        book.add([(Response("1-reverify", "reverify", "party", "key:soylent", time.time(), DAY, DAY), None)])
        with sqlite3.connect(tmp_path / FILE) as db:
            db.execute("ALTER TABLE responses RENAME TO away")
            orders.look()
            assert orders.of(soylent) is None
            db.execute("ALTER TABLE away RENAME TO responses")
        orders.look()
    order = orders.of(soylent)
    assert order is not None
    assert order.terms.refuse == "reverify"
    orders.close()


def test_nobody_is_served_where_what_is_in_force_cannot_be_read(house: House, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(MonitorError, match="put it back, or remove it"):
        Orders(tmp_path, compile_service(house.path).tiers)


def test_no_answer_and_no_header_says_why(house: House) -> None:
    told = " ".join(
        json.dumps([headers, answer]).lower()
        for _, headers, answer in (house.ask(who) for who in sorted(house.keys) for _ in range(3))
    )
    for word in ("suspen", "reduc", "throttl", "verif", "extract", "monitor", "alarm", "alert", "order", "copy"):
        assert word not in told
    assert stat.S_IMODE((house.folder / FILE).stat().st_mode) == 0o600
