"""What is kept comes back as it was, a change to it is noticed, and only its owner may read it."""

from __future__ import annotations

import multiprocessing
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.errors import RecordError
from understudy.store import FORMAT, Store, forget, pack, pack_answers, unpack, unpack_answers
from understudy.testing import victim
from understudy.types import Answers, Ask, Signal

MIXED = victim(["label", "probabilities", "logits"])


def some_inputs(n: int, seed: int = 0) -> np.ndarray:
    return MIXED.space.sample(n, np.random.default_rng(seed))


def fill(store: Store, cell: str, batches: int = 3) -> None:
    log = store.cell(cell)
    for batch in range(batches):
        inputs = some_inputs(4, batch)
        ask = Ask(frozenset({Signal.LABEL}), 2) if batch % 2 else None
        log.asked(batch, inputs, ask)
        log.answered(batch, MIXED.query(inputs))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = Store.create(tmp_path / "run")
    yield made
    made.close()


# bytes

arrays = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.bool_]),
    hnp.array_shapes(min_dims=0, min_side=0),
)
plain = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans(), max_size=3)


@given(st.dictionaries(st.text(max_size=8), arrays, max_size=3), plain)
def test_packed_arrays_come_back(held: dict[str, np.ndarray], head: dict[str, Any]) -> None:
    back, back_head = unpack(pack(held, body=head))
    assert back_head == {"body": head}
    assert list(back) == list(held)
    for name, array in held.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


def test_arrays_of_any_layout_come_back() -> None:
    array = np.arange(12.0).reshape(3, 4)
    for other in (array.T, array[::2], array[:, ::-1], np.asfortranarray(array)):
        assert np.array_equal(unpack(pack({"x": other}))[0]["x"], other)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.sets(st.sampled_from(["label", "probabilities", "logits"])))
def test_packed_answers_come_back(seed: int, n: int, signals: set[str]) -> None:
    rng = np.random.default_rng(seed)
    answers = MIXED.query(some_inputs(n, seed)).only(Signal(s) for s in signals)
    if "logits" in signals:
        given = rng.random((n, 3)) < 0.5
        answers = answers.replace(Signal.LOGITS, np.where(given, answers["logits"], 0.0), given)
    back = unpack_answers(pack_answers(answers))
    assert back.digest() == answers.digest()
    assert back.outputs == answers.outputs
    assert back.present.keys() == answers.present.keys()


def test_a_servers_nan_stays_nan() -> None:
    answers = Answers({Signal.VALUE: np.array([[np.nan], [1.0]])}, 1)
    assert np.isnan(unpack_answers(pack_answers(answers))["value"][0, 0])


def test_nothing_but_numbers_and_texts_is_kept() -> None:
    with pytest.raises(RecordError, match="only numbers and texts can be kept, not object"):
        pack({"x": np.array([object()])})


BLOB = pack_answers(MIXED.query(some_inputs(5)))


@given(st.integers(0, len(BLOB) - 1), st.integers(1, 255))
def test_a_damaged_record_is_an_error_or_the_record(place: int, change: int) -> None:
    """A byte of the zlib header may differ without a change of meaning; anything else is noticed."""
    damaged = bytearray(BLOB)
    damaged[place] ^= change
    with suppress(RecordError):
        assert unpack_answers(bytes(damaged)).digest() == unpack_answers(BLOB).digest()


@given(st.integers(0, len(BLOB) - 1))
def test_half_a_record_is_an_error(length: int) -> None:
    with pytest.raises(RecordError):
        unpack(BLOB[:length])


# the log of a cell


def test_what_was_asked_and_answered_is_recalled(store: Store) -> None:
    fill(store, "a")
    log = store.cell("a")
    query, answers = log.recall(1) or ("", None)
    assert answers is not None
    assert answers.digest() == MIXED.query(some_inputs(4, 1)).digest()
    assert len(query) == 64
    assert log.recall(3) is None
    assert store.counts() == {"a": {"asked": 12, "answered": 12, "batches": 3, "asked_again": 0}}
    store.verify()


def test_exchanges_come_in_the_order_of_their_answers(store: Store) -> None:
    log = store.cell("a")
    for batch in range(3):
        log.asked(batch, some_inputs(2, batch), Ask(top_k=1))
    for batch in (2, 0):
        log.answered(batch, MIXED.query(some_inputs(2, batch)))
    kept = list(store.exchanges("a"))
    assert [np.array_equal(e.inputs, some_inputs(2, b)) for e, b in zip(kept, (2, 0), strict=True)] == [True, True]
    assert all(exchange.ask == Ask(top_k=1) and exchange.principal == "a" for exchange in kept)
    assert store.counts()["a"] == {"asked": 6, "answered": 4, "batches": 3, "asked_again": 0}
    store.verify()


def test_a_batch_asked_twice_is_counted_apart(store: Store) -> None:
    log = store.cell("a")
    for _ in range(3):
        log.asked(0, some_inputs(5), None)
    log.answered(0, MIXED.query(some_inputs(5)))
    assert store.counts()["a"] == {"asked": 5, "answered": 5, "batches": 1, "asked_again": 10}


def test_a_chain_goes_on_after_reopening(store: Store) -> None:
    fill(store, "a", 2)
    store.close()
    again = Store.open(store.folder)
    log = again.cell("a")
    log.asked(2, some_inputs(4, 2), None)
    log.answered(2, MIXED.query(some_inputs(4, 2)))
    again.verify()
    assert len(list(again.exchanges("a"))) == 3
    again.close()


def test_failures_marks_and_results_are_kept(store: Store) -> None:
    log = store.cell("a")
    log.failed(3, "half an answer", b"<html>")
    log.diverged(4)
    store.put_result("a", b"one")
    store.put_result("a", b"two")
    assert store.failures() == [("a", 3, "half an answer")]
    assert store.marks() == [("a", 4, "diverged")]
    assert store.get_result("a") == b"two"
    assert store.get_result("b") is None


# tampering

OTHER = pack({"x": some_inputs(4, 99)})
EDITS = {
    "answers": ("UPDATE exchanges SET answers = ? WHERE cell = 'a' AND batch = 1", (BLOB,)),
    "inputs": ("UPDATE exchanges SET inputs = ? WHERE cell = 'a' AND batch = 1", (OTHER,)),
    "ask": ("UPDATE exchanges SET ask = '' WHERE cell = 'a' AND batch = 1", ()),
    "query digest": ("UPDATE exchanges SET query = 'x' WHERE cell = 'a' AND batch = 1", ()),
    "row count": ("UPDATE exchanges SET rows = 3 WHERE cell = 'a' AND batch = 1", ()),
    "time": ("UPDATE exchanges SET answered_at = answered_at - 60 WHERE cell = 'a' AND batch = 1", ()),
    "batch number": ("UPDATE exchanges SET batch = 9 WHERE cell = 'a' AND batch = 1", ()),
    "cell": ("UPDATE exchanges SET cell = 'c' WHERE cell = 'a'", ()),
    "link": ("UPDATE exchanges SET prev = 'x' WHERE cell = 'a' AND batch = 1", ()),
    "hash": ("UPDATE exchanges SET hash = 'x' WHERE cell = 'a' AND batch = 1", ()),
    "order": ("UPDATE exchanges SET seq = 1 - seq WHERE cell = 'a' AND batch < 2", ()),
    "gap": ("UPDATE exchanges SET seq = 9 WHERE cell = 'a' AND batch = 2", ()),
    "first row gone": ("DELETE FROM exchanges WHERE cell = 'a' AND batch = 0", ()),
    "middle row gone": ("DELETE FROM exchanges WHERE cell = 'a' AND batch = 1", ()),
    "middle answer gone": ("UPDATE exchanges SET seq = NULL WHERE cell = 'a' AND batch = 1", ()),
    "row added": (
        "INSERT INTO exchanges SELECT cell, 7, rows, asked_at, query, inputs, ask, tries, 3, answered_at, answers,"
        " hash, hash FROM exchanges WHERE cell = 'a' AND batch = 2",
        (),
    ),
    "garbage": ("UPDATE exchanges SET inputs = x'00' WHERE cell = 'a' AND batch = 1", ()),
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_kind_of_edit_breaks_the_chain(store: Store, edit: str) -> None:
    fill(store, "a")
    fill(store, "b")
    store.verify()
    with sqlite3.connect(store.folder / "exchanges.sqlite") as db:
        assert db.execute(*EDITS[edit]).rowcount > 0
    db.close()
    with pytest.raises(RecordError):
        store.verify()


def test_the_first_bad_row_is_named(store: Store) -> None:
    fill(store, "a")
    with sqlite3.connect(store.folder / "exchanges.sqlite") as db:
        db.execute(*EDITS["answers"])
    db.close()
    with pytest.raises(RecordError, match="cell a, batch 1"):
        store.verify()


# several processes


def _write(folder: Path, cell: str, batches: int) -> None:
    store = Store.open(folder)
    fill(store, cell, batches)
    store.put_result(cell, cell.encode())
    store.close()


def test_two_processes_write_to_one_store(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(store.folder, cell, 20)) for cell in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert {cell: counts["answered"] for cell, counts in store.counts().items()} == {"a": 80, "b": 80}
    assert [store.get_result(cell) for cell in ("a", "b")] == [b"a", b"b"]
    store.verify()


# files


def test_only_the_owner_may_read(store: Store) -> None:
    fill(store, "a", 1)
    store.write("run.json", "{}")
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    files = list(store.folder.iterdir())
    assert {path.name for path in files} >= {"run.json", "exchanges.sqlite", "exchanges.sqlite-wal"}
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {p.name: "0o600" for p in files}


def test_an_open_folder_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    Store.create(tmp_path / "run").close()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_files_are_written_whole_and_read_back(store: Store) -> None:
    store.write("report.json", "first")
    path = store.write("report.json", "zweite Fassung: ü")
    assert store.read("report.json") == "zweite Fassung: ü"
    assert path.name == "report.json"
    assert not list(store.folder.glob(".*.part"))
    with pytest.raises(RecordError, match=r"nothing\.json cannot be read: No such file"):
        store.read("nothing.json")


def test_a_folder_in_use_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RecordError, match="not empty"):
        Store.create(tmp_path)
    with pytest.raises(RecordError, match="not a run folder"):
        Store.open(tmp_path)
    with pytest.raises(RecordError, match="not a run folder"):
        forget(tmp_path)
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("found", ["99", "next", ""])
def test_another_format_is_refused_by_number(store: Store, found: str) -> None:
    store.close()
    with sqlite3.connect(store.folder / "exchanges.sqlite") as db:
        db.execute("UPDATE meta SET value = ?", (found,))
    db.close()
    with pytest.raises(RecordError, match=f"format {found}; this version of understudy reads {FORMAT}"):
        Store.open(store.folder)


@pytest.mark.parametrize("damage", ["no database", "nothing in it", "the first page"])
def test_a_damaged_file_is_refused(store: Store, damage: str) -> None:
    fill(store, "a")
    store.close()
    path = store.folder / "exchanges.sqlite"
    body = path.read_bytes()
    path.write_bytes(
        {"no database": b"not a database" * 100, "nothing in it": b"", "the first page": bytes(100) + body[100:]}[
            damage
        ]
    )
    with pytest.raises(RecordError, match=r"exchanges\.sqlite is damaged"):
        Store.open(store.folder)


def test_damage_further_down_is_noticed(store: Store) -> None:
    fill(store, "a", 20)
    store.close()
    path = store.folder / "exchanges.sqlite"
    body = bytearray(path.read_bytes())
    body[len(body) // 2 :] = bytes(len(body) - len(body) // 2)
    path.write_bytes(body)
    with pytest.raises(RecordError):
        Store.open(store.folder).verify()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_forgotten_run_is_gone(store: Store, damaged: bool) -> None:
    fill(store, "a", 1)
    store.close()
    if damaged:
        (store.folder / "exchanges.sqlite").write_bytes(b"not a database" * 100)
    forget(store.folder)
    assert not store.folder.exists()
