"""What is appended is what is read; a change of anything kept shows; what must be forgotten is gone from the bytes."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.errors import HistoryError, RecordError, UsageError
from understudy.history import Head, History, Kept, Row, Writer, warnings
from understudy.history.chain import Limits
from understudy.history.rows import COLUMNS
from understudy.store import frame, unframe
from understudy.types import Answers, Signal

DAY = 86_400.0
T0 = 20_000 * DAY


def answers(n: int, seed: int = 0) -> Answers:
    rng = np.random.default_rng([seed, 1])
    scores = rng.random((n, 3))
    return Answers(
        {Signal.LABEL: scores.argmax(1), Signal.PROBABILITIES: scores}, 3, {Signal.PROBABILITIES: scores > 0.5}
    )


def row(i: int = 0, at: float | None = None, principal: str = "acme-1", n: int = 2, **change: Any) -> Row:
    rng = np.random.default_rng(i)
    made = Row(
        at=T0 + i if at is None else at,
        principal=principal,
        party=principal.partition("-")[0],
        tier="free",
        route="/v2/models/m/infer",
        version="0123456789abcdef",
        rule="within every allowance",
        status=200,
        rows=n,
        inputs=rng.random((n, 4)),
        answers=answers(n, i),
        margin=rng.random(n),
        context={"request": f"r{i}", "agent": "curl/8"},
    )
    return made._replace(**change)


def keep(folder: Path, rows: Sequence[Row], worker: str = "w1", together: bool = True, **options: Any) -> Head:
    """Append rows in a writer of its own; returns where its chain ends."""

    async def work() -> Head:
        writer = Writer(folder, worker, **options)
        try:
            if together:
                await asyncio.gather(*(writer.append(r) for r in rows))
            else:
                for r in rows:
                    await writer.append(r)
            return writer.head
        finally:
            writer.close()

    return asyncio.run(work())


def same(kept: Kept, row: Row) -> None:
    back = kept.row
    assert back[:9] == row[:9]
    assert (back.audit, dict(back.context)) == (row.audit, dict(row.context))
    for one, other in ((back.inputs, row.inputs), (back.margin, row.margin)):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
    assert (back.answers is None) == (row.answers is None)
    if back.answers and row.answers:
        assert back.answers.digest() == row.answers.digest()


def edit(folder: Path, sql: str, *values: Any, pattern: str = "0001-w1-*.sqlite") -> None:
    """Change a segment behind the history's back."""
    with closing(sqlite3.connect(next(iter(folder.glob(pattern))), isolation_level=None)) as db:
        db.execute(sql, values)


# what is appended is what is read

shapes = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=4)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def any_row(draw: st.DrawFn) -> Row:
    inputs = draw(st.none() | hnp.arrays(np.float64, shapes))
    n = 1 if inputs is None else len(inputs)
    signal = draw(st.sampled_from([None, *Signal]))
    given = None
    if signal:
        kind = np.int64 if signal is Signal.LABEL else np.float64
        shape = (n,) if signal is Signal.LABEL else (n, 3)
        masks = {signal: draw(hnp.arrays(np.bool_, shape))} if draw(st.booleans()) else {}
        given = Answers({signal: draw(hnp.arrays(kind, shape))}, 3, masks)
    return Row(
        draw(st.floats(0, 4e9)),
        *(draw(texts) for _ in range(6)),
        draw(st.sampled_from([200, 403, 429, 502])),
        n,
        inputs,
        given,
        draw(st.none() | hnp.arrays(np.float64, n)),
        draw(st.booleans()),
        draw(st.dictionaries(texts, texts, max_size=2)),
    )


@given(st.lists(any_row(), min_size=1, max_size=12), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_what_is_appended_is_read_back_in_time_order(rows: list[Row], cap: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        head = keep(Path(folder), rows, limits=Limits(rows=cap))
        history = History(folder)
        assert history.verify() == {"w1": head}
        assert head.seq == len(rows)
        back = list(history.rows())
        for kept, sent in zip(back, sorted(rows, key=lambda r: r.at), strict=True):
            same(kept, sent)  # sorted() is stable, and so is the history
        assert sum(s.rows for s in history.segments()) == len(rows)


numbers = hnp.arrays(
    st.sampled_from([np.float64, np.int64, np.bool_, np.float32]), hnp.array_shapes(min_dims=0, min_side=0)
)


@given(st.dictionaries(texts, numbers, max_size=3), st.binary(max_size=40))
def test_framed_arrays_come_back_and_noise_is_refused(arrays: dict[str, np.ndarray], noise: bytes) -> None:
    back, head = unframe(frame(arrays, k=1))
    assert head == {"k": 1}
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype
    with pytest.raises(RecordError):
        unframe(noise)


def test_workers_are_merged_by_time_and_filtered(tmp_path: Path) -> None:
    rng = random.Random(0)
    times = [T0 + rng.uniform(0, 100) for _ in range(300)]
    for w in range(3):
        some = [row(i, at, f"p{i % 4}") for i, at in enumerate(times) if i % 3 == w]
        keep(tmp_path, some, f"w{w}", limits=Limits(rows=17))
    history = History(tmp_path)
    assert [k.row.at for k in history.rows()] == sorted(times)
    assert [k.row.at for k in history.rows(since=T0 + 50)] == sorted(t for t in times if t >= T0 + 50)
    assert [e.at for e in history.exchanges(principal="p1")] == sorted(times[1::4])
    assert sum(1 for _ in history.rows(party="p2")) == 75
    assert {e.principal for e in history.exchanges(since=T0 + 90)} <= {"p0", "p1", "p2", "p3"}


def test_rows_are_read_while_writers_write(tmp_path: Path) -> None:
    stop = threading.Event()

    async def write(worker: str) -> int:
        writer, n = Writer(tmp_path, worker, limits=Limits(rows=40)), 0
        try:
            while not stop.is_set():
                await asyncio.gather(*(writer.append(row(n + i)) for i in range(5)))
                n += 5
        finally:
            writer.close()
        return n

    done: list[int] = []
    threads = [threading.Thread(target=lambda w=w: done.append(asyncio.run(write(w)))) for w in ("a", "b")]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    try:
        history, seen = History(tmp_path), 0
        end = time.monotonic() + 2
        while time.monotonic() < end:
            history.verify()
            count = sum(1 for _ in history.rows())
            assert count >= seen
            seen = count
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen > 0
    assert sum(1 for _ in history.rows()) == sum(done)


# the chain

CHANGED = {
    "text": ("principal", "party", "tier", "route", "version", "rule"),
    "number": ("at", "status", "rows", "audit", "low", "high", "total"),
    "bytes": ("context", "salt", "body", "content", "link"),
}


@pytest.mark.parametrize("column", [c for c in COLUMNS if c != "seq"])
def test_a_change_of_any_field_of_any_row_shows(tmp_path: Path, column: str) -> None:
    keep(tmp_path, [row(i) for i in range(5)])
    kind = next(k for k, names in CHANGED.items() if column in names)
    change = {
        "text": f"{column} || 'x'",
        "number": f"{column} + 1",
        "bytes": f"CAST(substr({column}, 2) || x'00' AS BLOB)",
    }
    edit(tmp_path, f"UPDATE rows SET {column} = {change[kind]} WHERE seq = 3")
    with pytest.raises(HistoryError, match=r"worker w1, row [34] "):
        History(tmp_path).verify()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_changes_nothing_or_shows(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(FLIPPED, folder, dirs_exist_ok=True)
        path = next(iter(folder.glob("0001-*.sqlite")))
        blob = bytearray(path.read_bytes())
        where = data.draw(st.integers(0, len(blob) - 1))
        blob[where] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(blob)
        try:
            History(folder).verify()
            back = list(History(folder).rows())
        except HistoryError:
            return
        assert len(back) == 6
        for i, kept in enumerate(back):
            same(kept, row(i))


def test_damage_that_sqlite_quotes_is_told(tmp_path: Path) -> None:
    keep(tmp_path, [row(0)])
    path = next(iter(tmp_path.glob("0001-*.sqlite")))
    blob = path.read_bytes()
    place = blob.index(b"rowsrows") + 3
    path.write_bytes(blob[:place] + b"\xc5" + blob[place + 1 :])
    with pytest.raises(HistoryError, match="cannot be"):
        History(tmp_path).verify()


FLIPPED = Path(tempfile.mkdtemp())


def setup_module() -> None:
    keep(FLIPPED, [row(i) for i in range(6)])


def teardown_module() -> None:
    shutil.rmtree(FLIPPED)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("DELETE FROM rows WHERE seq = 2", "row 2 .*is not there"),
        ("DELETE FROM rows WHERE seq = 1", "row 1 .*is not there"),
        ("INSERT INTO erased VALUES(2, 5.0)", "row 2 .*by hand"),
        ("UPDATE segment SET prev = x'00'", "row 1 "),
        ("UPDATE segment SET number = 7", "is not there"),
    ],
)
def test_rows_taken_out_and_marks_made_up_show(tmp_path: Path, sql: str, says: str) -> None:
    keep(tmp_path, [row(i) for i in range(5)])
    edit(tmp_path, sql)
    with pytest.raises(HistoryError, match=says):
        History(tmp_path).verify()


def test_a_segment_taken_out_shows_and_a_cut_off_end_shows_against_a_known_head(tmp_path: Path) -> None:
    head = keep(tmp_path, [row(i) for i in range(9)], together=False, limits=Limits(rows=3))
    assert [s.rows for s in History(tmp_path).segments()] == [3, 3, 3]
    assert History(tmp_path).verify({"w1": head}) == {"w1": head}
    next(iter(tmp_path.glob("0003-*"))).unlink()
    assert History(tmp_path).verify()["w1"].seq == 6
    with pytest.raises(HistoryError, match="row 7: rows up to 9 were kept"):
        History(tmp_path).verify({"w1": head})
    next(iter(tmp_path.glob("0001-*"))).unlink()
    with pytest.raises(HistoryError, match="segment 1 is not there"):
        History(tmp_path).verify()


def test_a_chain_written_anew_shows_against_a_known_head(tmp_path: Path) -> None:
    head = keep(tmp_path, [row(i) for i in range(3)])
    for path in tmp_path.glob("0001-*"):
        path.unlink()
    keep(tmp_path, [row(i + 100) for i in range(5)])
    History(tmp_path).verify()
    with pytest.raises(HistoryError, match=r"row 3 .*written anew"):
        History(tmp_path).verify({"w1": head})


def test_a_new_writer_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    for start in range(0, 20, 4):
        head = keep(tmp_path, [row(start + i) for i in range(4)], limits=Limits(rows=6))
    assert head.seq == 20
    assert History(tmp_path).verify() == {"w1": head}
    assert [k.row.at - T0 for k in History(tmp_path).rows()] == list(range(20))


def test_segments_roll_by_rows_bytes_and_age(tmp_path: Path) -> None:
    for name, limits in (("r", Limits(rows=2)), ("b", Limits(bytes=20_000)), ("a", Limits(age=0.0))):
        keep(tmp_path, [row(i, n=400) for i in range(6)], name, together=False, limits=limits)
    numbers = {s.worker: s.number for s in History(tmp_path).segments()}
    assert numbers["r"] == 3
    assert numbers["b"] >= 3
    assert numbers["a"] == 6
    assert len(History(tmp_path).verify()) == 3


@pytest.mark.parametrize(("pragma", "says"), [("user_version = 2", "format 2"), ("application_id = 5", "not written")])
def test_newer_and_foreign_files_are_refused(tmp_path: Path, pragma: str, says: str) -> None:
    keep(tmp_path, [row()])
    edit(tmp_path, f"PRAGMA {pragma}")
    for use in (History(tmp_path).verify, lambda: list(History(tmp_path).rows()), lambda: Writer(tmp_path, "w1")):
        with pytest.raises(HistoryError, match=says):
            use()


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    async def look() -> None:
        writer = Writer(tmp_path / "h", "w1")
        await writer.append(row())
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "h").iterdir()}
        assert stat.S_IMODE((tmp_path / "h").stat().st_mode) == 0o700
        assert set(modes.values()) == {0o600}, modes
        assert any(name.endswith("-wal") for name in modes)
        writer.close()

    old = os.umask(0)
    try:
        asyncio.run(look())
        History(tmp_path / "h").erase("acme-1")
        History(tmp_path / "h").export(tmp_path / "h" / "x.parquet")
        assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "h").iterdir()} == {0o600}
    finally:
        os.umask(old)


# what is kept of inputs


def test_inputs_are_kept_as_the_mode_says(tmp_path: Path) -> None:
    sent = row()
    for mode in ("whole", "sketch", "hash", "none"):
        keep(tmp_path, [sent], mode, inputs=mode)
    back = {k.worker: k for k in History(tmp_path).rows()}
    same(back["whole"], sent)
    assert sent.inputs is not None
    for mode in ("sketch", "hash", "none"):
        same(back[mode], sent._replace(inputs=None))
    assert {n: a.shape for n, a in back["sketch"].prints.items()} == {"signs": (2,), "norms": (2,)}
    np.testing.assert_allclose(back["sketch"].prints["norms"], np.linalg.norm(sent.inputs, axis=1))
    assert back["hash"].prints["hashes"].shape == (2, 16)
    assert not back["whole"].prints
    assert not back["none"].prints
    raw = b"".join(p.read_bytes() for p in tmp_path.glob("*-sketch-*"))
    assert sent.inputs[0].tobytes() not in raw
    assert [e.at for e in History(tmp_path).exchanges()] == [sent.at]


def kept_prints(folder: Path, inputs: np.ndarray, mode: str, **options: Any) -> dict[str, np.ndarray]:
    keep(folder, [row(inputs=inputs, answers=None)], mode, inputs=mode, **options)
    return dict(list(History(folder).rows())[-1].prints)


def test_near_inputs_have_near_sketches_and_only_under_one_key(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 50))
    stacked = np.concatenate([x, x, x + 1e-3 * rng.standard_normal(x.shape), rng.standard_normal(x.shape)])
    first, again, near, far = kept_prints(tmp_path / "a", stacked, "sketch")["signs"].reshape(4, -1)
    bits = [np.unpackbits((first ^ other).view(np.uint8)).reshape(200, 64).sum(1) for other in (again, near, far)]
    assert bits[0].max() == 0
    assert bits[1].max() <= 3
    assert bits[2].min() >= 10  # 64 nearly fair coins, 200 times: fewer has a chance of under 1e-5
    other = kept_prints(tmp_path / "b", x, "sketch")["signs"]
    assert (other != first).all()


def test_a_scale_lets_every_coordinate_count(tmp_path: Path) -> None:
    x = np.array([[1e6, 0.0], [1e6, 1.0]])
    centre, spread = np.array([1e6, 0.5]), np.array([1e3, 0.5])
    own = kept_prints(tmp_path / "own", x, "sketch")["signs"]
    scaled = kept_prints(tmp_path / "scaled", x, "sketch", scale=(centre, spread))["signs"]
    assert own[0] == own[1]
    assert scaled[0] != scaled[1]


def test_hashes_show_repeats_only(tmp_path: Path) -> None:
    hashes = kept_prints(tmp_path, np.array([[0.0, 1.0], [-0.0, 1.0], [1e-300, 1.0]]), "hash")["hashes"]
    assert hashes[0].tobytes() == hashes[1].tobytes()
    assert hashes[0].tobytes() != hashes[2].tobytes()


def test_each_mode_says_what_it_disables() -> None:
    assert warnings("whole") == warnings("whole", monitored=True) == []
    for mode in ("sketch", "hash", "none"):
        replay, content = warnings(mode)
        assert "replay" in replay
        assert "detectors" in content
        assert warnings(mode, monitored=True)[0] == replay
        assert "nor does the leak meter" in warnings(mode, monitored=True)[1]
    with pytest.raises(UsageError, match="whole, sketch, hash, none"):
        warnings("some")
