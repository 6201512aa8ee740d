"""Allowances across machines, with a real server: never over, at most a lease under, whoever is killed or away."""

from __future__ import annotations

import asyncio
import random
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_server import BINARY, Server

from understudy.errors import LedgerError
from understudy.gateway.leases import LeasedLedger
from understudy.guard import DAY, MONTH, Allowance, Usage, admit, refund

pytestmark = pytest.mark.skipif(BINARY is None, reason="neither valkey-server nor redis-server is installed")
NOW = 1.76e9
LEASER = Path(__file__).with_name("leaser.py")
ANY = Allowance()
Names = list[tuple[str, str, Allowance]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.begin()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("redis"), "--appendfsync", "no")
    made.begin()
    yield made
    made.kill()


def three(cap: int | None = None, key: str = "p:x") -> Names:
    return [(key, "your key", ANY), ("o:x", "your party", ANY), ("g", "everybody", Allowance(None, cap))]


async def spend(ledger: LeasedLedger, names: Names, times: int) -> int:
    return sum([(await ledger.admit(names, 1)).admitted for _ in range(times)])


async def until_admitted(ledger: LeasedLedger, names: Names, seconds: float = 10) -> float:
    began = time.monotonic()
    while not (await ledger.admit(names, 1)).admitted:
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.02)
    return time.monotonic() - began


counter = iter(range(10**9))
steps = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 20.0, 61.0, DAY - 1, DAY, MONTH]),
        st.sampled_from(["ask", "ask", "refund"]),
        st.integers(0, 1),
        st.integers(1, 30),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.builds(Allowance, *[st.none() | st.integers(1, 60)] * 3)] * 3), steps)
def test_the_script_decides_as_the_plain_functions_do(
    shared: Server, limits: tuple[Allowance, Allowance, Allowance], steps: list[tuple[float, str, int, int]]
) -> None:
    async def play(folder: str) -> None:
        now, model, charges = NOW, dict[str, Usage](), list[tuple[Names, int, float]]()
        ledger = LeasedLedger(shared.url, folder, prefix=f"law{next(counter)}", lease=0, timeout=20, clock=lambda: now)
        for pause, verb, who, rows in steps:
            now += pause
            names = list(zip([f"p:{who}", "o:x", "g"], ["you", "party", "all"], limits, strict=True))
            if verb == "ask":
                decision, after = admit([(w, a, model.get(k, Usage())) for k, w, a in names], rows, now)
                found = await ledger.admit(names, rows)
                assert found == decision
                if decision.admitted:
                    charges.append((names, rows, decision.at))
                    model.update({k: u for (k, _, _), u in zip(names, after, strict=True)})
            elif charges:
                names, rows, since = charges.pop()
                await ledger.refund(names, rows, since)
                for key, _, (_, day, month) in names:
                    model[key] = refund(Allowance(None, day, month), model[key], rows, since, now)
        for key, usage in model.items():
            assert ledger.usage(key) == usage
        await ledger.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(folder))


@settings(max_examples=40, deadline=None)
@given(
    st.builds(Allowance, *[st.none() | st.integers(1, 400)] * 3),
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 3.0, 61.0, DAY]), st.integers(0, 2), st.integers(1, 9)), max_size=60),
)
def test_leases_never_let_more_through_than_was_deducted(
    shared: Server, limits: Allowance, asked: list[tuple[float, int, int]]
) -> None:
    """Three processes on one key: what is admitted stays within what the server counts, and that within the caps."""

    async def play(folder: str) -> None:
        now, prefix, admitted, first = NOW, f"law{next(counter)}", 0, None
        ledgers = [
            LeasedLedger(shared.url, folder, prefix=prefix, lease=50, timeout=20, clock=lambda: now) for _ in range(3)
        ]
        for pause, who, rows in asked:
            if pause > 1:  # leases end: of real time hardly any passes here
                for ledger in ledgers:
                    await ledger._give_back(inf)
            now += pause
            before = admitted
            admitted += rows * (await ledgers[who].admit([("k", "you", limits)], rows)).admitted
            if first is None and admitted > before:
                first = now
            if limits.per_minute is not None and first is not None:
                assert admitted <= limits.per_minute * (1 + (now - first) / 60) * (1 + 1e-9)
            if limits.per_day is not None and pause < DAY and admitted > before:
                used = ledgers[0].usage("k")
                left = sum(lease.left for ledger in ledgers for lease in ledger._leases.values())
                assert used.day_used - left <= limits.per_day
                assert used.month_used - left == admitted
        for ledger in ledgers:
            await ledger.close()
        if asked:
            last = LeasedLedger(shared.url, folder, prefix=prefix)
            assert last.usage("k").month_used == admitted, "every lease went back"
            await last.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(folder))


def leasers(server: Server, folder: Path, cap: int, stubborn: int) -> list[subprocess.Popen[bytes]]:
    for i in range(4):
        (folder / f"machine{i}").mkdir()
    return [
        subprocess.Popen(
            [
                sys.executable,
                str(LEASER),
                server.url,
                str(folder / f"machine{i}"),
                str(folder / f"notes{i}"),
                str(cap),
                str(stubborn),
            ]
        )
        for i in range(4)
    ]


def answered(folder: Path) -> int:
    return sum(notes.stat().st_size for notes in folder.glob("notes*"))


def test_four_processes_admit_exactly_the_cap(server: Server, tmp_path: Path) -> None:
    """Each goes on until it is refused for good: leases shrink to what is asked, so nothing is left over."""
    workers = leasers(server, tmp_path, 20_000, stubborn=3)
    assert [worker.wait(120) for worker in workers] == [0] * 4
    assert answered(tmp_path) == 20_000


def test_a_killed_process_takes_its_lease_with_it_and_no_more(server: Server, tmp_path: Path) -> None:
    workers = leasers(server, tmp_path, 30_000, stubborn=3)
    while answered(tmp_path) < 10_000:
        time.sleep(0.01)
    workers[0].send_signal(signal.SIGKILL)
    assert [worker.wait(120) for worker in workers[1:]] == [0] * 3
    workers[0].wait(30)
    assert 30_000 - 64 - 1 <= answered(tmp_path) <= 30_000


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_server_never_lets_more_through(server: Server, tmp_path: Path, kills: int) -> None:
    """Killed while four processes ask: each loses at most a lease and the call under way, each time."""
    cap = 9_000 * (kills + 1)
    workers, rng = leasers(server, tmp_path, cap, stubborn=3), random.Random(3)
    for kill in range(1, kills + 1):
        while answered(tmp_path) < 9_000 * kill:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.02))
        server.kill()
        server.begin()
    assert [worker.wait(120) for worker in workers] == [0] * 4
    assert cap - kills * 4 * (64 + 1) <= answered(tmp_path) <= cap
    print(f"{cap - answered(tmp_path)} rows of {cap:,} lost to {kills} kills")


def test_a_server_that_is_away_is_refused_and_comes_back_alone(server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        ledger = LeasedLedger(server.url, tmp_path, timeout=10)
        names = three(1000)
        assert await spend(ledger, names, 50) == 50
        server.kill()
        await spend(ledger, names, 400)
        decision = await ledger.admit(names, 1)
        assert not decision.admitted
        assert decision.rule.startswith("shared allowances: out of reach (")
        assert 0 < decision.retry_after <= 2
        assert (ledger.trouble() or "").startswith(decision.rule)
        await asyncio.sleep(0.5)
        server.begin()
        assert await until_admitted(ledger, names) < 3
        assert ledger.trouble() is None
        await ledger.close()

    asyncio.run(main())


def test_the_last_lease_may_be_spent_where_the_manifest_says_so(server: Server, tmp_path: Path) -> None:
    async def main() -> tuple[int, int]:
        spent = []
        for away in ("refuse", "lease"):
            ledger = LeasedLedger(server.url, tmp_path, away, away, timeout=10)  # type: ignore[arg-type]
            assert await spend(ledger, three(10_000), 300) == 300
            left = min(lease.left for lease in ledger._leases.values())
            assert left > 0
            server.kill()
            await ledger.refund([("other", "x", ANY)], 1, 0.0)  # notices
            spent.append(await spend(ledger, three(10_000), 1000))
            assert spent[-1] == (left if away == "lease" else 0)
            server.begin()
            await until_admitted(ledger, three(10_000))
            await ledger.close()
        return spent[0], spent[1]

    assert asyncio.run(main())[0] == 0


def test_a_server_that_hangs_holds_nobody_longer_than_the_timeout(server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        ledger = LeasedLedger(server.url, tmp_path, timeout=0.3)
        await until_admitted(ledger, three())
        assert server.process
        server.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        decisions = await asyncio.gather(*(ledger.admit(three(None, f"p:{i}"), 1) for i in range(50)))
        assert not any(decision.admitted for decision in decisions)
        assert not (await ledger.admit(three(), 1)).admitted or ledger._leases["p:x"].left >= 0
        assert time.monotonic() - began < 3
        server.process.send_signal(signal.SIGCONT)
        assert await until_admitted(ledger, three()) < 3
        await ledger.close()

    asyncio.run(main())


def test_an_emptied_server_is_refused_until_the_operator_confirms(server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        machines = [tmp_path / "a", tmp_path / "b"]
        for folder in machines:
            folder.mkdir()
        one, two = (LeasedLedger(server.url, folder, timeout=10) for folder in machines)
        assert await spend(one, three(100), 100) + await spend(two, three(100), 10) == 100
        server.kill()
        server.empty()
        server.begin()
        for ledger in (one, two):
            for _ in range(20):
                decision = await ledger.admit(three(100), 1)
                assert not decision.admitted
                await asyncio.sleep(0.02)
            assert "shared state was lost" in (await ledger.admit(three(100), 1)).rule
        fresh = LeasedLedger(server.url, machines[0], timeout=10)
        assert "shared state was lost" in (await fresh.admit(three(100), 1)).rule, "nor does a restart forget it"
        await fresh.reset()
        assert await spend(fresh, three(100), 1) == 1
        await until_admitted(one, three(100))  # the other workers of that machine
        assert "shared state was lost" in (await two.admit(three(100), 1)).rule, "each machine confirms for itself"
        await two.reset()
        assert await spend(two, three(100), 1) == 1
        for ledger in (one, two, fresh):
            await ledger.close()
        assert {stat.S_IMODE(p.stat().st_mode) for p in machines[0].iterdir()} == {0o600}

    asyncio.run(main())


def test_a_server_that_evicts_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    server.begin()

    async def main() -> None:
        ledger = LeasedLedger(server.url, tmp_path)
        assert "set maxmemory-policy noeviction" in (await ledger.admit(three(), 1)).rule
        await ledger.close()

    try:
        asyncio.run(main())
    finally:
        server.kill()


def test_the_password_is_never_shown(tmp_path: Path) -> None:
    server = Server(tmp_path, "--requirepass", "open-sesame")
    server.begin()

    async def main() -> None:
        good = LeasedLedger(server.url.replace("//", "//:open-sesame@"), tmp_path)
        assert (await good.admit(three(), 1)).admitted
        bad = LeasedLedger(server.url.replace("//", "//admin:wrong-secret@"), tmp_path)
        decision = await bad.admit(three(), 1)
        assert not decision.admitted
        said = [repr(good), repr(bad), decision.rule]
        with pytest.raises(LedgerError) as error:
            bad.usage("g")
        with pytest.raises(LedgerError) as other:
            await bad.reset()
        said += [str(error.value), str(other.value)]
        with pytest.raises(LedgerError) as url:
            LeasedLedger("http://:open-sesame@127.0.0.1:1/0", tmp_path)
        said.append(str(url.value))
        assert not any(secret in text for text in said for secret in ("sesame", "secret"))
        assert "127.0.0.1" in said[0]
        await good.close()
        await bad.close()

    try:
        asyncio.run(main())
    finally:
        server.kill()


def test_a_caller_who_goes_away_costs_nothing(shared: Server, tmp_path: Path) -> None:
    async def main() -> None:
        ledger = LeasedLedger(shared.url, tmp_path, prefix="cancelled", timeout=20, lease=0)
        names = three(100)
        await ledger.admit(names, 1)
        tasks = [asyncio.create_task(ledger.admit(names, 1)) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.3)
        assert ledger.usage("g").day_used == 1
        await ledger.close()

    asyncio.run(main())


def test_what_is_not_spent_goes_back(shared: Server, tmp_path: Path) -> None:
    """Idle leases return by themselves within their life; many at once ask for one lease, not for one each."""

    async def main() -> None:
        ledger = LeasedLedger(shared.url, tmp_path, prefix="idle", timeout=20, life=0.6)
        assert await spend(ledger, three(100_000), 40) == 40
        burst = await asyncio.gather(*(ledger.admit(three(100_000), 1) for _ in range(300)))
        assert all(decision.admitted for decision in burst)
        assert ledger.usage("g").day_used - 340 <= 256, "at most one lease is under way"
        await asyncio.sleep(1.2)
        assert ledger.usage("g").day_used == 340
        assert not ledger._leases, "and is forgotten here"
        assert {key: usage.day_used for key, usage in ledger.entries()} == {"p:x": 340, "o:x": 340, "g": 340}
        await ledger.close()

    asyncio.run(main())


def test_busy_keys_cost_few_calls(shared: Server, tmp_path: Path) -> None:
    async def main() -> float:
        ledger = LeasedLedger(shared.url, tmp_path, prefix="busy", timeout=20)
        calls, call = 0, ledger._call

        async def counted(asked: list[tuple[str, Allowance, int, float, int, int]]) -> object:
            nonlocal calls
            calls += 1
            return await call(asked)

        ledger._call = counted  # type: ignore[method-assign, assignment]
        assert await spend(ledger, three(10**9), 10_000) == 10_000
        await ledger.close()
        return calls

    assert asyncio.run(main()) < 100
