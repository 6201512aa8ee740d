"""Responses over machines: a real server between several books, people who decide, a server that goes away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import BINARY, Server

from understudy.gateway.book import FILE, Book, pack
from understudy.gateway.pool import Pool
from understudy.response import Response

DAY = 86_400.0
pytestmark = pytest.mark.skipif(BINARY is None, reason="neither valkey-server nor redis-server is installed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "redis"
    folder.mkdir()
    made = Server(folder)
    made.begin()
    yield made
    made.kill()


class Machine:
    def __init__(self, folder: Path, url: str) -> None:
        self.book, self.pool = Book(folder / FILE), Pool(url, "digits")

    def share(self, now: float) -> list[str]:
        return sorted(response.id for response in self.pool.share(self.book, now))

    def known(self) -> dict[str, Response]:
        return {response.id: response for response in self.book.all()}


@pytest.fixture
def machines(tmp_path: Path, server: Server) -> Iterator[list[Machine]]:
    made = [Machine(tmp_path / name, server.url) for name in ("one", "two", "three")]
    yield made
    for machine in made:
        machine.book.close()


def response(do: str, at: float, **more: Any) -> Response:
    return Response(f"1-{do}", do, "principal", "key:thief-1", at, 7 * DAY, DAY, **more)


def test_what_one_machine_puts_in_force_and_people_end_holds_on_all(machines: list[Machine], tmp_path: Path) -> None:
    one, two, three = machines
    reduce, suspend = response("reduce", 100.0, to_tier="public"), response("suspend", 101.0)
    one.book.add([(reduce, None), (suspend, None)])
    assert one.share(200.0) == []
    watching = Book(tmp_path / "two" / FILE)  # as a worker does
    assert watching.changed()
    assert two.share(200.0) == sorted([reduce.id, suspend.id])
    assert watching.changed()
    assert not watching.changed()
    assert two.known() == one.known()
    two.book.confirm(suspend.id, "Dana", "r", 210.0)
    one.book.revoke(reduce.id, "Eli", "r", now=211.0)
    two.share(212.0)
    assert one.share(213.0) == [suspend.id]
    assert two.share(214.0) == [reduce.id]
    assert three.share(215.0) == sorted([reduce.id, suspend.id])
    assert one.known() == two.known() == three.known()
    assert one.known()[suspend.id].state(220.0) == "active"
    assert two.known()[reduce.id].state(220.0) == "revoked"
    acts = [(act["act"], act["by"]) for act in three.book.acts(suspend.id)]
    assert acts == [("began elsewhere", ""), ("confirmed elsewhere", "Dana")]
    assert watching.changed()
    watching.close()
    assert [m.share(230.0 + i) for i, m in enumerate(machines)] == [[], [], []]


def test_two_people_at_once_leave_one_truth(machines: list[Machine]) -> None:
    one, two, _ = machines
    suspend = response("suspend", 100.0)
    one.book.add([(suspend, None)])
    one.share(110.0)
    two.share(110.0)
    one.book.confirm(suspend.id, "Dana", "r", 120.0)
    two.book.revoke(suspend.id, "Eli", "r", now=121.0)
    for at in (130.0, 132.0, 134.0):
        one.share(at)
        two.share(at + 1)
    assert one.known() == two.known()
    assert one.known()[suspend.id].state(140.0) == "revoked"


def test_without_the_server_each_goes_on_and_catches_up(machines: list[Machine], server: Server) -> None:
    one, two, _ = machines
    server.kill()
    made = response("throttle", 100.0, factor=0.5)
    one.book.add([(made, None)])
    assert one.share(110.0) == []
    assert two.share(110.0) == []
    assert made.id in one.known()
    server.begin()
    assert one.share(120.0) == []
    assert two.share(120.0) == [made.id]


def test_what_others_wrote_there_is_passed_over(machines: list[Machine]) -> None:
    one, two, _ = machines
    for text in ("", "[]", '{"step": 1}', json.dumps(pack(response("reduce", 1.0)))):
        one.pool.server.redis.hset("{understudy:digits}:responses", text or "x", text)
        one.pool.server.redis.hset("{understudy:digits}:alerts", text or "x", text)
    made = response("throttle", 100.0, factor=0.5)
    one.book.add([(made, None)])
    one.share(110.0)
    assert two.share(110.0) == [made.id]
    assert two.pool.adopt(two.book, ["file"], 110.0) == 0
    assert two.pool.server.redis.hlen("{understudy:digits}:alerts") == 0


def test_of_two_machines_that_decide_the_same_one_does(machines: list[Machine]) -> None:
    one, two, _ = machines
    first, second = response("throttle", 100.0, factor=0.5), response("throttle", 100.1, factor=0.5)
    assert one.pool.claim([(first, None)], one.book, 100.0) == [True]
    assert two.pool.claim([(second, None), (response("alert", 100.1), None)], two.book, 100.1) == [False, True]
    assert two.share(101.0) == sorted([first.id, response("alert", 100.1).id])
    later = response("throttle", 2e6, factor=0.5)
    assert two.pool.claim([(later, None)], two.book, 2e6) == [True]  # it knows of the first, which is over


def test_what_is_long_over_leaves_the_pool(machines: list[Machine]) -> None:
    one, two, _ = machines
    made = response("reduce", 100.0, to_tier="public")
    one.book.add([(made, None)])
    one.share(110.0)
    late = made.again + 2 * DAY
    one.share(late)
    assert two.share(late + 1) == []
    assert two.known() == {}
