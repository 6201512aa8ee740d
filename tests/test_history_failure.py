"""A killed worker loses nothing it acknowledged; a history that cannot be written says so, and recovers alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from test_history import keep, row
from understudy.errors import HistoryError
from understudy.history import History, Writer
from understudy.history.chain import Limits

APPEND = """
    import asyncio, sys, time
    sys.path.insert(0, sys.argv[2])
    from test_history import row
    from understudy.history import Writer
    from understudy.history.chain import Limits

    async def main():
        writer = Writer(sys.argv[1], "w1", limits=Limits(rows=150, age=0.5))
        async def client(c):
            i = 0
            while True:
                sent = row(i, time.time(), f"c{c}", context={"n": f"{sys.argv[3]}.{c}.{i}"})
                await writer.append(sent)
                print(f"{sys.argv[3]}.{c}.{i}", flush=True)
                i += 1
        await asyncio.gather(*(client(c) for c in range(8)))
    asyncio.run(main())
"""


def kill_repeatedly(folder: Path, times: int) -> None:
    """Kill an appending process again and again; all that it acknowledged must be there, in one chain."""
    acknowledged: set[str] = set()
    rng = np.random.default_rng(0)
    for turn in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(APPEND), folder, str(Path(__file__).parent), str(turn)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, "the process ended before it kept a row"
        time.sleep(float(rng.uniform(0, 0.4)))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        acknowledged |= {line for line in (first + rest).split("\n")[:-1] if line}
    history = History(folder)
    heads = history.verify()
    kept = [k.row.context["n"] for k in history.rows()]
    assert len(kept) == len(set(kept)) == heads["w1"].seq
    assert not acknowledged - set(kept)
    assert len(acknowledged) >= times
    after = keep(folder, [row()])
    assert after.seq == heads["w1"].seq + 1
    assert history.verify() == {"w1": after}


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    kill_repeatedly(tmp_path, 10)


@pytest.mark.slow
def test_a_writer_killed_fifty_times_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    kill_repeatedly(tmp_path, 50)


# concurrency


def test_rows_wait_for_one_commit_together_and_room_is_bounded(tmp_path: Path) -> None:
    async def work() -> None:
        writer = Writer(tmp_path, "w1", room=20)
        tasks = [asyncio.create_task(writer.append(row(i, n=1))) for i in range(300)]
        most = 0
        while not all(t.done() for t in tasks):
            most = max(most, writer.waiting)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert 1 < most <= 20
        assert writer.waiting == 0
        writer.close()

    asyncio.run(work())
    assert [k.row.at for k in History(tmp_path).rows()] == [row(i).at for i in range(300)]


def test_a_caller_that_goes_away_leaves_its_row_and_nobody_waits_for_it(tmp_path: Path) -> None:
    async def work() -> None:
        writer = Writer(tmp_path, "w1", room=4)
        tasks = [asyncio.create_task(writer.append(row(i))) for i in range(40)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert done[1::2] == [None] * 20
        await writer.append(row(99))
        writer.close()
        assert History(tmp_path).verify() == {"w1": writer.head}

    asyncio.run(work())
    at = {k.row.at for k in History(tmp_path).rows()}
    assert at >= {row(i).at for i in range(1, 40, 2)} | {row(99).at}


def test_a_row_that_cannot_be_kept_fails_alone(tmp_path: Path) -> None:
    async def work() -> None:
        writer = Writer(tmp_path, "w1")
        bad = [
            row(1)._replace(principal=None),  # type: ignore[arg-type]
            row(2, margin=np.array([object()])),
            row(3, at=float("nan")),
            row(4, context={"agent": "\ud800"}),
            row(5, status=2**70),
        ]
        done = await asyncio.gather(*(writer.append(r) for r in [row(0), *bad, row(6)]), return_exceptions=True)
        assert [type(d) for d in done] == [type(None), *[HistoryError] * 5, type(None)]
        assert writer.healthy
        writer.close()
        with pytest.raises(HistoryError, match="was closed"):
            await writer.append(row(7))

    asyncio.run(work())
    assert History(tmp_path).verify()["w1"].seq == 2


def test_two_processes_cannot_write_under_one_name(tmp_path: Path) -> None:
    async def work() -> None:
        writer = Writer(tmp_path, "w1")
        await writer.append(row())
        program = f"from understudy.history import Writer; Writer({str(tmp_path)!r}, 'w1')"
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert f"HistoryError: another process (id {os.getpid()}) writes to" in other.stderr
        assert "give each worker its own name" in other.stderr
        writer.close()

    asyncio.run(work())
    keep(tmp_path, [row(1)])
    for name in ("", "a/b", "../x", ".w", "w 1"):
        with pytest.raises(HistoryError, match="name"):
            Writer(tmp_path, name)


# failure and recovery


async def fails(writer: Writer, says: str, n: int = 50, size: int = 4) -> None:
    """Every one of many waiting rows is told, soon; then the next one is told at once."""
    rows = [row(i, inputs=np.random.default_rng(i).random((2, size))) for i in range(n)]
    start = time.monotonic()
    done = await asyncio.wait_for(asyncio.gather(*map(writer.append, rows), return_exceptions=True), 20)
    refused = [d for d in done if d is not None]
    assert refused, "nothing failed"
    assert all(isinstance(d, HistoryError) for d in refused)
    assert says in str(refused[-1]), refused[-1]
    assert not writer.healthy
    assert says in writer.reason
    assert writer.waiting == 0
    took, start = time.monotonic() - start, time.monotonic()
    with pytest.raises(HistoryError):
        await writer.append(row())
    assert took < 10
    assert time.monotonic() - start < 1


async def recovers(writer: Writer) -> None:
    """Rows are kept again soon, without anybody's help."""
    end = time.monotonic() + 20
    while not await writer.probe():
        assert time.monotonic() < end, writer.reason
        await asyncio.sleep(0.05)
    await writer.append(row())
    assert writer.healthy
    assert writer.reason == ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "understudy-test", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip("mounting a small file system needs root: " + (done.stderr.strip() if done else "not root"))
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_told_and_got_over(small_disk: Path) -> None:
    async def work() -> None:
        writer = Writer(small_disk / "h", "w1")
        await writer.append(row())
        ballast = small_disk / "ballast"
        with open(ballast, "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert shutil.disk_usage(small_disk).free == 0
        await fails(writer, "full", size=2000)
        await fails(writer, "full", size=2000)
        kept = writer.head
        assert History(small_disk / "h").verify({"w1": kept})["w1"].seq >= kept.seq
        ballast.unlink()
        await recovers(writer)
        assert History(small_disk / "h").verify({"w1": kept}) == {"w1": writer.head}
        writer.close()

    asyncio.run(work())


def test_a_read_only_disk_is_told_and_got_over(small_disk: Path) -> None:
    async def work() -> None:
        writer = Writer(small_disk / "h", "w1", limits=Limits(rows=1))
        await writer.append(row())
        await asyncio.to_thread(writer._chain.drop)  # an open file would keep the disk from becoming read-only
        remount = ["mount", "-o", "remount,{}", str(small_disk)]
        subprocess.run([part.format("ro") for part in remount], check=True)
        await fails(writer, "ead-only")
        subprocess.run([part.format("rw") for part in remount], check=True)
        await recovers(writer)
        writer.close()
        subprocess.run([part.format("ro") for part in remount], check=True)
        assert History(small_disk / "h").verify() == {"w1": writer.head}
        assert len(list(History(small_disk / "h").rows())) == 2
        with pytest.raises(HistoryError, match="ead-only"):
            Writer(small_disk / "h", "w1")

    asyncio.run(work())


LIMITED = """
    import asyncio, resource, sys
    sys.path.insert(0, sys.argv[2])
    import test_history_failure as t
    from understudy.history import History, Writer

    async def main():
        writer = Writer(sys.argv[1], "w1")
        await writer.append(t.row())
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        await t.fails(writer, "", size=3000)
        await t.fails(writer, "", size=3000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await t.recovers(writer)
        assert History(sys.argv[1]).verify() == {"w1": writer.head}
        writer.close()
    asyncio.run(main())
"""


def test_files_that_cannot_grow_are_told_and_got_over(tmp_path: Path) -> None:
    program = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def gone(folder: Path) -> Callable[[], object]:
    away = folder.with_name("away")
    folder.rename(away)
    time.sleep(0.15)
    return lambda: away.rename(folder)


def locked(folder: Path) -> Callable[[], object]:
    db = sqlite3.connect(next(iter(folder.glob("0001-*.sqlite"))), isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    return db.close


@pytest.mark.parametrize(("harm", "says"), [(gone, "removed"), (locked, "locked")])
def test_harm_is_told_and_got_over(
    tmp_path: Path, harm: Callable[[Path], Callable[[], object]], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.history.segments.PATIENCE", 0.2)

    async def work() -> None:
        writer = Writer(tmp_path / "h", "w1")
        await asyncio.gather(*(writer.append(row(i)) for i in range(20)))
        kept, undo = writer.head, harm(tmp_path / "h")
        await fails(writer, says)
        await asyncio.sleep(0.3)
        with pytest.raises(HistoryError):
            await writer.append(row())
        undo()
        await recovers(writer)
        assert History(tmp_path / "h").verify({"w1": kept}) == {"w1": writer.head}
        writer.close()

    asyncio.run(work())


def test_a_damaged_segment_is_refused_until_it_is_moved_away_and_then_missed(tmp_path: Path) -> None:
    head = keep(tmp_path, [row(i) for i in range(300)], limits=Limits(rows=200))
    path = next(iter(tmp_path.glob("0002-*")))
    good = path.read_bytes()
    path.write_bytes(good[:100] + os.urandom(len(good) - 100))
    with pytest.raises(HistoryError, match=path.name):
        Writer(tmp_path, "w1")
    with pytest.raises(HistoryError, match=path.name):
        History(tmp_path).verify()
    path.write_bytes(good)
    assert History(tmp_path).verify() == {"w1": head}


def test_a_history_swept_away_under_a_writer_is_missed(tmp_path: Path) -> None:
    async def work() -> None:
        writer = Writer(tmp_path, "w1")
        await asyncio.gather(*(writer.append(row(i)) for i in range(20)))
        for path in tmp_path.iterdir():
            path.unlink()
        await asyncio.sleep(0.15)
        with pytest.raises(HistoryError, match="removed"):
            await writer.append(row())
        await recovers(writer)
        assert writer.head.seq >= 21  # it goes on from what it acknowledged
        writer.close()
        with pytest.raises(HistoryError, match="segment 1 is not there"):
            History(tmp_path).verify()

    asyncio.run(work())


def test_a_reader_that_stays_does_not_keep_a_segment_from_closing(tmp_path: Path) -> None:
    async def work() -> None:
        writer = Writer(tmp_path, "w1", limits=Limits(rows=5))
        for i in range(4):
            await writer.append(row(i))
        with closing(sqlite3.connect(next(iter(tmp_path.glob("0001-*.sqlite"))), isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT COUNT(*) FROM rows").fetchone()
            start = time.monotonic()
            for i in range(4, 12):
                await writer.append(row(i))
            assert time.monotonic() - start < 1.5
        assert History(tmp_path).verify() == {"w1": writer.head}
        writer.close()

    asyncio.run(work())
