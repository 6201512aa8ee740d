"""Several machines, one watch: a real server between feeds of their own folders. The clock is the test's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import benign
import numpy as np
import pytest
from desk import Desk
from hypothesis import given
from hypothesis import strategies as st
from redis_server import BINARY, Server

from understudy.gateway import shared
from understudy.gateway.entries import Aside, Entry, pack_aside, pack_exchange, unpack
from understudy.gateway.feed import Done, Feed
from understudy.gateway.metrics import Watched
from understudy.gateway.pool import Pool
from understudy.gateway.states import ALONE
from understudy.gateway.together import PARTIAL, ordered
from understudy.gateway.watcher import Lookout
from understudy.history import Kept, Place, Row
from understudy.types import Answers, Signal

pytestmark = pytest.mark.skipif(BINARY is None, reason="neither valkey-server nor redis-server is installed")

ALERT = [{"when": {"p_value": 0.01}, "do": "alert", "expires": "1h", "cool_down": "1h"}]
STREAM = "{understudy:digits}:watch:"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("redis"))
    made.begin()
    yield made
    made.kill()


class Machines:
    """Feeds of one endpoint over one server. Time is the same on all."""

    def __init__(self, folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.server, self.now = folder, server, 1000.0
        self.desks, self.feeds, self._hosts = list[Desk](), list[Feed](), monkeypatch
        self.rng = np.random.default_rng(7)
        self.redis.flushall()

    @property
    def redis(self) -> Any:
        import redis

        return redis.Redis.from_url(self.server.url)

    def join(self, **changes: Any) -> int:
        folder = self.folder / str(len(self.desks))
        folder.mkdir()
        monitor = {"response": ALERT, **changes.pop("monitor", {})}
        self.desks.append(Desk(folder, monitor=monitor, **changes))
        self.feeds.append(self.begin(len(self.desks) - 1))
        return len(self.feeds) - 1

    def begin(self, i: int) -> Feed:
        return self.desks[i].open(pool=Pool(self.server.url, "digits", timeout=0.3))

    def restart(self, i: int) -> None:
        """As after kill -9: nothing is saved."""
        self.feeds[i].states.close()
        self.feeds[i].book.close()
        self.feeds[i] = self.begin(i)

    def ask(self, i: int, who: str, x: Any) -> None:
        self.now += 1.0
        self.desks[i].now = self.now
        self.desks[i].write(self.desks[i].rows(who, x))

    def thief(self, n: int) -> Any:
        return self.rng.uniform(0, 1, (n, 64))

    def shop(self, n: int) -> Any:
        return benign.digits()[self.rng.choice(len(benign.digits()), n)]

    def step(self, *which: int) -> list[Done]:
        self.now += 1.1
        return [self.feeds[i].step(self.now) for i in which or range(len(self.feeds))]

    def state(self, i: int, who: str) -> Any:
        account = self.feeds[i].states.get(f"key:{who}")
        return None if account is None else account.state

    def alerts(self) -> int:
        return sum(feed.book.unsent() for feed in self.feeds)

    def close(self) -> None:
        for feed in self.feeds:
            feed.close(self.now)


@pytest.fixture
def machines(tmp_path: Path, running: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    if running.process is None:
        running.begin()
    made = Machines(tmp_path, running, monkeypatch)
    yield made
    made.close()


def alike(one: Any, other: Any) -> bool:
    """The same queries in the same order, though not in the same batches: equal but for rounding."""
    assert np.array_equal(one.ring, other.ring)
    assert (one.n, one.born, one.alarmed_at, one.counts) == (other.n, other.born, other.alarmed_at, other.counts)
    return bool(np.allclose(one.best, other.best, 1e-9) and np.allclose(one.purse.log, other.purse.log, 1e-9))


def same(one: Any, other: Any) -> bool:
    return bool(one.to_bytes() == other.to_bytes())


def test_a_thief_over_two_machines_is_one_account(machines: Machines, tmp_path: Path) -> None:
    for _ in range(2):
        machines.join()
    (tmp_path / "whole").mkdir()
    whole = Desk(tmp_path / "whole", monitor={"response": ALERT})
    feed = whole.open()
    machines.step()
    made, alone, said = list[Any](), list[Any](), list[str]()
    for turn in range(16):
        x = machines.thief(1)
        machines.ask(turn % 2, "thief-1", x)
        whole.now = machines.now
        whole.write(whole.rows("thief-1", x))
        found = [*machines.step(turn % 2), *machines.step()]
        made += [response for done in found for response in done.made]
        said += [who for done in found for who in done.alarmed]
        alone += feed.step(whole.now).made
    account = feed.states.get("key:thief-1")
    assert account is not None
    assert account.state.alarmed_at is not None
    assert [machines.state(i, "thief-1").alarmed_at for i in (0, 1)] == [account.state.alarmed_at] * 2
    assert same(machines.state(0, "thief-1"), account.state)
    assert same(machines.state(1, "thief-1"), account.state)
    assert len(made) == len(alone) == 1
    assert said == ["key:thief-1"]
    assert machines.alerts() == 1
    machines.step()
    assert [[r.id for r in f.book.all()] for f in machines.feeds] == [[made[0].id]] * 2
    assert machines.feeds[0].machines == 2
    feed.close(whole.now)


def test_half_of_it_would_not_have_been_alarmed(tmp_path: Path) -> None:
    """The first test would pass without sharing anything if one machine's half were enough."""
    desk, rng = Desk(tmp_path), np.random.default_rng(7)
    feed = desk.open()
    rows = [rng.uniform(0, 1, (1, 64)) for _ in range(16)]
    desk.write(*(desk.rows("thief-1", x) for x in rows))
    feed.step(desk.now)
    account = feed.states.get("key:thief-1")
    assert account is not None
    assert account.state.alarmed_at is not None
    desk.write(*(desk.rows("half-1", x) for x in rows[: account.state.alarmed_at : 2]))
    assert feed.step(desk.now).alarmed == []
    feed.close(desk.now)


def test_a_killed_watcher_is_not_missed_and_counts_nothing_twice(machines: Machines) -> None:
    machines.join(), machines.join()
    machines.step()
    machines.ask(0, "thief-1", machines.thief(1))
    machines.step()
    machines.feeds[0].states.save(machines.feeds[0]._places)
    machines.ask(0, "thief-1", machines.thief(1))
    machines.ask(0, "shop-1", machines.shop(4))
    machines.step(0)  # told to the other, and then it dies without a save
    machines.ask(1, "thief-1", machines.thief(6))
    assert [r.do for done in machines.step(1, 1) for r in done.made] == ["alert"]
    machines.restart(0)
    machines.ask(0, "thief-1", machines.thief(1))
    again = machines.step(0, 1, 0, 1)
    assert [done.made for done in again] == [[]] * 4
    assert [machines.state(i, "thief-1").n for i in (0, 1)] == [9, 9]
    assert [machines.state(i, "shop-1").n for i in (0, 1)] == [4, 4]
    assert alike(machines.state(0, "thief-1"), machines.state(1, "thief-1"))
    assert machines.alerts() == 1


def test_what_a_machine_decided_and_did_not_live_to_send_is_sent(machines: Machines) -> None:
    machines.join(), machines.join()
    machines.step()
    machines.feeds[0].book.add = lambda made, sinks=(): None  # type: ignore[method-assign]  # it dies here
    machines.feeds[0]._pool.queued = lambda responses: None  # type: ignore[union-attr,method-assign]
    machines.ask(0, "thief-1", machines.thief(8))
    assert len(machines.step(0)[0].made) == 1
    machines.step(1)
    assert machines.alerts() == 0
    machines.now += 30
    machines.step(1)
    assert machines.alerts() == 1
    assert [r.do for r in machines.feeds[1].book.all()] == ["alert"]
    machines.now += 30
    machines.step(1)
    assert machines.alerts() == 1


def test_without_the_server_each_goes_on_and_afterwards_all_counts_once(machines: Machines, running: Server) -> None:
    machines.join(), machines.join()
    machines.step()
    for i in (0, 1):
        machines.ask(i, "thief-1", machines.thief(1))
    machines.step(0, 1, 0)
    running.kill()
    for i in (0, 1):
        machines.ask(i, "shop-1", machines.shop(5))
        machines.step(i, i)
        assert machines.feeds[i].alone
        assert machines.feeds[i].machines == 0
        machines.step(i)
        assert (machines.state(i, "shop-1").n, machines.state(i, "thief-1").n) == (5, 2)
    machines.ask(0, "thief-1", machines.thief(8))
    assert [r.do for r in machines.step(0)[0].made] == ["alert"]  # alone, on what all had seen
    machines.restart(1)  # while it is away: the copy is there still
    machines.ask(1, "shop-1", machines.shop(5))
    machines.step(1, 1, 1)
    assert machines.state(1, "shop-1").n == 10
    assert (machines.desks[1].service.folder / ALONE).exists()
    running.begin()
    machines.now += 10
    done = machines.step(0, 1, 0, 1)
    assert [d.made for d in done] == [[]] * 4  # it is in force already
    assert not any(feed.alone for feed in machines.feeds)
    assert not list(machines.folder.glob(f"*/guard/digits/{ALONE}*"))
    assert [machines.state(i, "shop-1").n for i in (0, 1)] == [15, 15]
    assert [machines.state(i, "thief-1").n for i in (0, 1)] == [10, 10]
    assert alike(machines.state(0, "thief-1"), machines.state(1, "thief-1"))
    assert machines.alerts() == 1


def test_a_server_that_was_emptied_loses_nothing(machines: Machines) -> None:
    machines.join(), machines.join()
    machines.step()
    machines.ask(0, "shop-1", machines.shop(4))
    machines.step(0, 1)
    machines.ask(0, "shop-1", machines.shop(3))
    machines.step(0)  # told, and not read by the other
    machines.redis.flushall()
    machines.ask(1, "shop-1", machines.shop(2))
    lost = sum(done.lost + done.damaged for done in machines.step(0, 1, 0, 1, 0, 1))
    assert [machines.state(i, "shop-1").n for i in (0, 1)] == [9, 9]
    assert lost == 0


def decides(machines: Machines, i: int) -> tuple[bool, float]:
    """Whether a machine decides, and what its watcher tells Prometheus of it."""
    service = machines.desks[i].service
    assert service.manifest.monitor is not None
    lookout = Lookout(service, service.manifest.monitor, machines.server.url)
    lookout._feed = feed = machines.feeds[i]
    lookout._tell(Done())
    lookout._feed = None
    lookout.close(machines.now)
    return feed.decides, Watched.of()._decides.labels(service.id)._value.get()


def test_who_joins_late_leaves_it_to_those_who_know_more(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    machines.join()
    machines.step()
    machines.ask(0, "thief-1", machines.thief(1))
    machines.step()
    machines.feeds[0].states.save(machines.feeds[0]._places)
    monkeypatch.setattr(shared, "_KEEP", -1.0)  # as if ten minutes had passed
    machines.step()
    machines.join()
    machines.step(0, 1, 0, 1)
    assert PARTIAL in machines.feeds[1]._places
    assert machines.state(1, "thief-1") is None
    assert decides(machines, 0) == (True, 1.0)
    assert decides(machines, 1) == (False, 0.0)
    machines.ask(1, "thief-1", machines.thief(12))
    late, early = machines.step(1, 0)
    assert (late.made, late.alarmed) == ([], [])
    assert [r.do for r in early.made] == ["alert"]
    machines.ask(1, "other-1", machines.thief(12))
    assert machines.step(1)[0].made == []
    monkeypatch.setattr(shared, "SILENT", -1.0)  # as if the first had not been heard of for ten seconds
    assert [r.name for r in machines.step(1)[0].made] == ["key:other-1"]
    assert decides(machines, 1) == (True, 1.0)


def test_what_is_missing_is_counted(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    machines.join(), machines.join()
    machines.step()
    machines.step(1)
    for _ in range(3):
        machines.ask(0, "shop-1", machines.shop(2))
        machines.step(0)
    monkeypatch.setattr(shared, "_KEEP", -1.0)
    monkeypatch.setattr(shared, "_GONE", -1.0)  # as if the second had been away for an hour
    machines.feeds[0].states.save(machines.feeds[0]._places)
    machines.step(0)
    monkeypatch.undo()
    machines.ask(0, "shop-1", machines.shop(2))
    machines.step(0)
    done = machines.step(1)[0]
    assert (done.lost, done.exchanges) == (3, 1)
    assert PARTIAL in machines.feeds[1]._places
    assert machines.state(1, "shop-1").n == 2


def test_a_full_stream_waits_and_drops_nothing(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    machines.join(), machines.join()
    machines.step()
    monkeypatch.setattr(shared, "FULL", 5000)
    for _ in range(20):
        machines.ask(0, "shop-1", machines.shop(2))
        assert machines.step(0)[0].lost == 0
    assert machines.feeds[0].step(machines.now).behind > 0
    assert machines.redis.memory_usage(next(machines.redis.scan_iter(STREAM + "*:exchanges"))) < 20_000
    for _ in range(30):
        machines.step(0, 1)
        for feed in machines.feeds:
            feed.states.save(feed._places)
    assert [machines.state(i, "shop-1").n for i in (0, 1)] == [40, 40]


def test_evidence_is_set_aside_once_and_at_the_same_query(machines: Machines) -> None:
    for _ in range(2):
        machines.join()
    machines.step()
    machines.ask(0, "thief-1", machines.thief(8))
    machines.step()
    machines.step()
    machines.now += 1.5 * 3600
    machines.ask(1, "thief-1", machines.shop(2))
    machines.step(1, 0, 1, 0)
    states = [machines.state(i, "thief-1") for i in (0, 1)]
    assert [s.alarmed_at for s in states] == [None, None]
    assert states[0].born == states[1].born
    assert same(*states)


HOSTILE = [
    {b"d": b""},
    {b"x": b"1"},
    {b"d": b"\xff" * 100},
    {b"d": (1 << 62).to_bytes(8, "little") + b"[]"},
    {b"d": pack_aside(Aside("none", ("key:thief-1",), ("nobody", 1e308)))},
]


@pytest.mark.parametrize("number", ["next", "*"])
def test_hostile_entries_are_counted_and_passed_over(machines: Machines, number: str) -> None:
    machines.join(), machines.join()
    machines.step()
    machines.ask(0, "thief-1", machines.thief(2))
    machines.step()
    stream = next(machines.redis.scan_iter(STREAM + "*:exchanges"))
    facts = stream.replace(b"exchanges", b"facts")
    for fields in HOSTILE:
        if number == "next":
            machines.redis.xadd(stream, fields, f"{machines.redis.hincrby(facts, 'last', 1)}-1")
        else:
            machines.redis.xadd(stream, fields)
    machines.redis.hset(stream.replace(b"exchanges", b"members"), "evil", "nonsense")
    found = machines.step(0, 1)
    if number == "next":
        assert [done.damaged for done in found] == [4, 4]
    machines.ask(1, "thief-1", machines.thief(8))
    made = [r.do for done in machines.step(1, 0, 1, 0) for r in done.made]
    assert made == ["alert"]
    assert [machines.state(i, "thief-1").n for i in (0, 1)] == [10, 10]


def kept(at: float = 5.0, **changes: Any) -> Kept:
    p = np.full((2, 10), 0.1)
    row = Row(
        at, "key:a", "key:b", "standard", "/", "v", "within", 200, 2, np.ones((2, 64)),
        Answers({Signal.LABEL: np.array([1, 2]), Signal.PROBABILITIES: p}, 10, {Signal.PROBABILITIES: p > 0}),
        np.array([0.5, 0.25]), False, {"client": "x"},
    )  # fmt: skip
    return Kept("0", 7, row._replace(**changes))


def test_an_exchange_comes_back_as_it_went() -> None:
    entry = unpack(pack_exchange("m", 3, kept()), 10.0)
    assert isinstance(entry, Entry)
    assert entry[:3] == ("m", "0", Place(3, 7))
    row, before = entry.row, kept().row
    assert row.inputs is not None
    assert row.answers is not None
    assert before.answers is not None
    assert row.answers.digest() == before.answers.digest()
    np.testing.assert_array_equal(row.inputs, np.ones((2, 64)))
    assert row._replace(inputs=None, answers=None, margin=None) == before._replace(
        inputs=None, answers=None, margin=None
    )
    texts = np.array(["one", "zwei \u00e9"], object)
    entry = unpack(pack_exchange("m", 3, kept(inputs=texts)), 10.0)
    assert isinstance(entry, Entry)
    assert entry.row.inputs is not None
    assert entry.row.inputs.tolist() == texts.tolist()
    aside = Aside("r", ("a", "b"), ("Eli", 3.0))
    assert unpack(pack_aside(aside), 0.0) == aside


@pytest.mark.parametrize(
    "changes",
    [
        {"at": float("nan")}, {"at": 1e12}, {"at": -1.0}, {"rows": 3}, {"rows": -1}, {"principal": "x" * 5000},
        {"inputs": np.ones((3, 64))}, {"margin": np.ones((2, 2))}, {"status": True}, {"context": {"client": 3}},
        {"answers": Answers({Signal.LABEL: np.array([1, 10])}, 10)},
        {"answers": Answers({Signal.LABEL: np.array([1, -1])}, 10)},
        {"answers": Answers({Signal.LABEL: np.array([1.0, 2.0])}, 10)},
        {"answers": Answers({Signal.PROBABILITIES: np.ones((2, 9))}, 10)},
        {"answers": Answers({Signal.LABEL: np.array([1, 2])}, 10, {Signal.LABEL: np.ones((3,), bool)})},
    ],
)  # fmt: skip
def test_what_is_no_exchange_is_none(changes: dict[str, Any]) -> None:
    if "context" in changes:
        blob = pack_exchange("m", 3, kept()).replace(b'{"client":"x"}', b'{"client":333}'[:14])
    else:
        blob = pack_exchange("m", 3, kept(**changes))
    assert unpack(blob, 10.0) is None


@given(st.integers(0, 2**32 - 1))
def test_damage_anywhere_never_raises(seed: int) -> None:
    rng, blob = np.random.default_rng(seed), bytearray(pack_exchange("m", 3, kept()))
    for at in rng.integers(0, len(blob), rng.integers(1, 4)):
        blob[at] = rng.integers(0, 256)
    found = unpack(bytes(blob[: rng.integers(0, 2 * len(blob))]), 10.0)
    assert found is None or isinstance(found, Entry)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=30))
def test_a_worker_is_never_told_out_of_its_own_order(lines: list[tuple[str, int]]) -> None:
    rows = [Kept(worker, i, kept(float(at)).row) for i, (worker, at) in enumerate(lines)]
    found = ordered(rows)
    assert sorted(found, key=lambda k: k.seq) == rows
    for worker in "ab":
        mine = [k.seq for k in found if k.worker == worker]
        assert mine == sorted(mine)
