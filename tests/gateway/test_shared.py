"""Two gateways of two workers each, and one Redis or Valkey server: allowances of all machines together."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3
from redis_server import BINARY, Server

from running import ROUTES, Guard, add_key, manifest, start_guard, wait_for
from understudy.history import History

pytestmark = pytest.mark.slow

LEASE, PROCESSES = 256, 4
ROUTE = ROUTES["open-inference"]


def body(rows: int) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [rows, 64], "datatype": "FP64", "data": [0.5] * 64 * rows}]}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if BINARY is None:
        pytest.fail("neither valkey-server nor redis-server is installed; .ci/run installs it")
    folder = tmp_path / "redis"
    folder.mkdir()
    made = Server(folder)
    made.begin()
    yield made
    made.kill()


class Machines:
    """Two machines: a folder, a manifest, a key of the same account, and a running gateway each."""

    def __init__(self, root: Path, port: int, url: str, allowance: int, away: str = "refuse") -> None:
        limits = {"per_day": allowance}
        tiers = [{"id": "t", "who": "w", "signals": {"label": {}}, "limits": limits}]
        self.url, self.folders = url, [root / "one", root / "two"]
        self.paths, self.keys, self.guards = list[Path](), list[str](), list[Guard]()
        for folder in self.folders:
            folder.mkdir()
            self.paths.append(manifest(folder, port, tiers=tiers, guard={"state_away": away}))
            self.keys.append(add_key(self.paths[-1], "t", "--party", "acme", "--principal", "ann"))
        self.guards = [self.start(0), self.start(1)]

    def start(self, index: int) -> Guard:
        return start_guard(self.folders[index], self.paths[index], "--workers", 2, "--state", self.url)

    def ask(self, index: int, rows: int = 1) -> int:
        """The status of one request."""
        return self.guards[index].post(ROUTE, body(rows), self.keys[index]).status

    def until_refused(self, index: int, rows: int, most: int = 10_000) -> Counter[int]:
        """Rows by status, from many connections, until each of them was refused."""
        seen: Counter[int] = Counter()
        lock = threading.Lock()

        def one(_: int) -> None:
            for _ in range(most // rows):
                status = self.ask(index, rows)
                with lock:
                    seen[status] += rows
                if status != 200:
                    return

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, range(4)))
        return seen

    def recovered(self, index: int) -> bool:
        """Whether workers can lease again; asked at once, since the kernel hands one after another to one worker."""
        url = self.guards[index].url + "/readyz"

        def ready(_: int) -> bool:
            return urllib3.PoolManager(retries=False).request("GET", url, timeout=10).status == 200

        with ThreadPoolExecutor(16) as pool:
            return all(pool.map(ready, range(16)))

    def wait_until_recovered(self, index: int) -> None:
        """Every worker, also one that no question met: they try every two seconds."""
        wait_for(lambda: self.recovered(index), 20)
        time.sleep(3)

    def recorded(self) -> int:
        """Rows that were answered, on record, all machines together."""
        histories = [History(folder / "guard" / "digits" / "history") for folder in self.folders]
        for history in histories:
            history.verify()
        return sum(used.rows for history in histories for used in history.usage())

    def stop(self) -> None:
        for guard in self.guards:
            guard.kill()


@pytest.fixture
def machines(tmp_path: Path, model_server: int, server: Server) -> Iterator[Callable[..., Machines]]:
    made: list[Machines] = []

    def make(allowance: int, away: str = "refuse") -> Machines:
        made.append(Machines(tmp_path, model_server, server.url, allowance, away))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def spend_all(both: Machines, rows: int) -> None:
    """Ask on both machines at once until both say no."""
    with ThreadPoolExecutor(2) as pool:
        for seen in pool.map(lambda i: both.until_refused(i, rows), (0, 1)):
            assert set(seen) <= {200, 429}, seen


def test_four_processes_share_one_allowance(machines: Callable[..., Machines]) -> None:
    both = machines(1500)
    spend_all(both, 3)
    assert 1500 - PROCESSES * LEASE <= both.recorded() <= 1500
    refused = both.guards[0].post(ROUTE, body(1501), both.keys[0])
    assert refused.status in (413, 429)
    time.sleep(8)  # leases that are not spent go back, so that in the end nothing is lost
    spend_all(both, 1)
    assert both.recorded() == 1500


def test_a_machine_that_is_killed_takes_a_lease_per_process_with_it(machines: Callable[..., Machines]) -> None:
    both = machines(2400)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(both.until_refused, i, 3, 300) for i in (0, 1)]
        time.sleep(0.5)
        both.guards[0].kill()
        errors = [future.exception() for future in asked]
    assert errors[1] is None
    both.guards[0] = both.start(0)
    spend_all(both, 3)
    time.sleep(8)
    spend_all(both, 1)
    assert 2400 - 2 * LEASE <= both.recorded() <= 2400


@pytest.mark.parametrize("away", ["refuse", "lease"])
def test_a_server_that_goes_away_and_comes_back(machines: Callable[..., Machines], server: Server, away: str) -> None:
    both = machines(3000, away)
    for _ in range(40):  # leases grow while they are spent
        assert both.ask(0, 3) == both.ask(1, 3) == 200
    server.kill()
    gone = [both.until_refused(i, 1, 400) for i in (0, 1)]
    for seen in gone:
        assert set(seen) <= {200, 503}
        assert seen[503]
        if away == "refuse":
            assert seen[200] <= 2 * LEASE  # what was leased and fresh may be spent until the first failure
        assert seen[200] <= 2 * LEASE
    if away == "lease":
        assert sum(seen[200] for seen in gone)
    for guard in both.guards:
        assert guard.get("/readyz").status == 503
        answer = guard.post(ROUTE, body(1), both.keys[both.guards.index(guard)])
        assert (answer.status, int(answer.headers["retry-after"]) >= 1) == (503, True)
        assert b"redis" not in answer.data.lower()
    server.begin()
    for i in (0, 1):
        both.wait_until_recovered(i)
    spend_all(both, 3)
    time.sleep(8)
    spend_all(both, 1)
    assert 3000 - PROCESSES * LEASE <= both.recorded() <= 3000


def test_a_server_that_is_killed_under_load_forgets_nothing(machines: Callable[..., Machines], server: Server) -> None:
    both = machines(3000)
    over = threading.Event()
    statuses: Counter[int] = Counter()

    def load(index: int) -> None:
        while not over.is_set():
            statuses[both.ask(index, 2)] += 1

    threads = [threading.Thread(target=load, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        time.sleep(0.7)
        server.kill()
        time.sleep(0.3)
        server.begin()
    time.sleep(3)
    over.set()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 429, 503}
    for i in (0, 1):
        both.wait_until_recovered(i)
    spend_all(both, 1)
    assert both.recorded() <= 3000
    assert json.loads(both.guards[0].get("/readyz").data) == {"status": "ready"}


def test_a_server_that_comes_back_empty_is_not_believed(machines: Callable[..., Machines], server: Server) -> None:
    both = machines(500)
    assert both.ask(0) == both.ask(1) == 200
    server.kill()
    server.empty()
    server.begin()
    time.sleep(6)  # whatever was leased is too old by now

    def told() -> bool:
        assert both.ask(0) == both.ask(1) == 503
        return any("lost" in line.get("rule", "") for line in both.guards[0].lines())

    wait_for(told, 10)
    assert both.guards[0].get("/readyz").status == 503
