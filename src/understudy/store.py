"""A run folder: what was asked and answered, kept before it is used; append, resume, read, verify, forget.

    run.json            manifest, versions, authorisation, data digests; written first
    exchanges.sqlite    WAL; a row per batch, one hash chain per audit cell, in the order answers arrived
    findings.jsonl      one finding per line
    report.json, .html  derived

The evidence is what a thief wants: the folder is 0700, its files 0600.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from understudy.errors import RecordError, UsageError
from understudy.texts import coded, uncoded
from understudy.types import Answers, Array, Ask, Exchange, Floats, Signal
from understudy.wrappers import query_digest

FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS exchanges(
  cell TEXT NOT NULL, batch INTEGER NOT NULL, rows INTEGER NOT NULL, asked_at REAL NOT NULL, query TEXT NOT NULL,
  inputs BLOB NOT NULL, ask TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 1,
  seq INTEGER, answered_at REAL, answers BLOB, prev TEXT, hash TEXT, PRIMARY KEY(cell, batch));
CREATE TABLE IF NOT EXISTS failures(cell TEXT, batch INTEGER, at REAL, reason TEXT, raw BLOB);
CREATE TABLE IF NOT EXISTS marks(cell TEXT, batch INTEGER, at REAL, what TEXT);
CREATE TABLE IF NOT EXISTS results(cell TEXT PRIMARY KEY, body BLOB NOT NULL);
"""


def pack(arrays: Mapping[str, Array], **head: Any) -> bytes:
    """Arrays of numbers or texts and a JSON-able header as bytes, compressed; `unpack` is the inverse. No pickle."""
    return zlib.compress(frame(arrays, text=json.dumps(head, sort_keys=True)), 1)


def unpack(blob: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and header of `pack`. Raises RecordError on damage."""
    try:
        arrays, head = unframe(zlib.decompress(blob))
        return {name: array.copy() for name, array in arrays.items()}, json.loads(head["text"])
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"a record cannot be read: {error}") from None


def frame(arrays: Mapping[str, Array], **head: Any) -> bytes:
    """Arrays of numbers or texts and a JSON-able header as bytes, in microseconds: uncompressed.

    Raises RecordError on arrays of anything else.
    """
    laid = [np.asarray(array, order="C") for array in arrays.values()]
    header = orjson.dumps([head, [(n, a.dtype.str, a.shape) for n, a in zip(arrays, laid, strict=True)]])
    header += b" " * (-len(header) % 8)
    if any(a.dtype.kind not in "fiub" for a in laid):
        return b"".join((len(header).to_bytes(8, "little"), header, *map(_written, laid)))
    return b"".join((len(header).to_bytes(8, "little"), header, *(a.data for a in laid)))


def _written(array: Array) -> bytes:
    """An array's bytes; of texts, the length of each before all of them."""
    if array.dtype.kind in "fiub":
        return array.tobytes()
    try:
        lengths, body = coded(array)
    except (AttributeError, UnicodeEncodeError):  # no texts, or texts that UTF-8 cannot write
        raise RecordError(f"only numbers and texts can be kept, not {array.dtype.name}") from None
    return lengths.tobytes() + body


def unframe(blob: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays (read-only views) and header of `frame`. Raises RecordError on damage."""
    try:
        at = 8 + int.from_bytes(blob[:8], "little")
        head, names = orjson.loads(blob[8:at])
        arrays = dict[str, Array]()
        for name, kind, shape in names:
            count = math.prod(shape)
            if kind == "|O":
                lengths = np.frombuffer(blob, "<i4", count, at)
                start, at = at + lengths.nbytes, at + lengths.nbytes + int(lengths.sum(dtype=np.int64))
                arrays[name] = uncoded(lengths, blob[start:at]).reshape(shape)
                continue
            if np.dtype(kind).kind not in "fiub":
                raise ValueError(f"it holds {kind}")
            arrays[name] = np.frombuffer(blob, np.dtype(kind), count, at).reshape(shape)
            at += arrays[name].nbytes
        if at != len(blob):
            raise ValueError("its length is wrong")
    except (ValueError, TypeError, OverflowError) as error:
        raise RecordError(f"a record cannot be read: {error}") from None
    return arrays, head


def split_answers(answers: Answers) -> dict[str, Array]:
    """Answers as named arrays, masks included."""
    arrays = {f"v:{s.value}": v for s, v in answers.values.items()}
    return arrays | {f"m:{s.value}": m for s, m in answers.present.items()}


def join_answers(arrays: Mapping[str, Array], outputs: int) -> Answers:
    """The inverse of `split_answers`; arrays of other names are left alone."""
    values, present = dict[Signal, Array](), dict[Signal, Array]()
    for name, array in arrays.items():
        kind, _, signal = name.partition(":")
        if kind == "v":
            values[Signal(signal)] = array
        elif kind == "m":
            present[Signal(signal)] = array
    return Answers(values, outputs, present)


def pack_answers(answers: Answers) -> bytes:
    """Answers as bytes, masks included."""
    return pack(split_answers(answers), outputs=answers.outputs)


def unpack_answers(blob: bytes) -> Answers:
    """The inverse of `pack_answers`."""
    arrays, head = unpack(blob)
    return join_answers(arrays, int(head["outputs"]))


class Store:
    """One run folder, opened by one process; several processes may hold the same folder open."""

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        self.folder, self._db, self._lock = folder, db, threading.Lock()

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Make a new, empty run folder; it must not exist yet, or be empty."""
        try:
            if folder.exists() and any(folder.iterdir()):
                raise RecordError(f"{folder} exists and is not empty; give another folder, or --resume {folder}")
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            store = cls(folder, _connect(folder / "exchanges.sqlite"))
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{folder} cannot be made a run folder: {reason}; give another with --out") from None
        with store._db as db:
            db.executescript(_SCHEMA)
            db.execute("INSERT OR IGNORE INTO meta VALUES('format', ?)", (str(FORMAT),))
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open an existing run folder. Raises RecordError when it is none, or of another format."""
        path = folder / "exchanges.sqlite"
        if not path.is_file():
            raise RecordError(f"{folder} is not a run folder (no exchanges.sqlite in it)")
        try:
            store = cls(folder, _connect(path))
            found = store._db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        except sqlite3.DatabaseError as error:
            raise RecordError(f"{path} is damaged: {error}") from None
        if found is None or found[0] != str(FORMAT):
            version = found[0] if found else "unknown"
            raise RecordError(f"{path} has format {version}; this version of understudy reads {FORMAT}")
        return store

    def close(self) -> None:
        """Close the database; everything in it is already durable."""
        self._db.close()

    # files

    def write(self, name: str, text: str) -> Path:
        """Write a file of the run whole or not at all, readable by its owner only."""
        path, part = self.folder / name, self.folder / f".{name}.part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        return path

    def read(self, name: str) -> str:
        """The text of a file of the run."""
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except OSError as error:
            raise RecordError(f"{self.folder / name} cannot be read: {error.strerror}") from None

    # exchanges

    def cell(self, name: str) -> CellLog:
        """The log of one audit cell."""
        return CellLog(self._db, self._lock, name)

    def counts(self) -> dict[str, dict[str, int]]:
        """Per cell: rows asked, rows answered, batches, and rows that had to be asked again after an interruption."""
        rows = self._db.execute(
            "SELECT cell, SUM(rows), SUM(CASE WHEN seq IS NULL THEN 0 ELSE rows END), COUNT(*),"
            " SUM(CASE WHEN tries > 1 THEN rows * (tries - 1) ELSE 0 END) FROM exchanges GROUP BY cell ORDER BY cell"
        )
        return {c: dict(zip(("asked", "answered", "batches", "asked_again"), r, strict=True)) for c, *r in rows}

    def marks(self) -> list[tuple[str, int, str]]:
        """(cell, batch, what) of everything that must be known about this run."""
        return list(self._db.execute("SELECT cell, batch, what FROM marks ORDER BY cell, batch"))

    def failures(self) -> list[tuple[str, int, str]]:
        """(cell, batch, reason) of answers that could not be used; what arrived is kept beside the reason."""
        return list(self._db.execute("SELECT cell, batch, reason FROM failures ORDER BY cell, batch, at"))

    def exchanges(self, cell: str) -> Iterator[Exchange]:
        """The answered exchanges of a cell, in the order they arrived."""
        for at, inputs, ask, answers in self._db.execute(
            "SELECT answered_at, inputs, ask, answers FROM exchanges WHERE cell = ? AND seq IS NOT NULL ORDER BY seq",
            (cell,),
        ):
            yield Exchange(cell, cell, at, unpack(inputs)[0]["x"], _ask_from(ask), unpack_answers(answers))

    def verify(self) -> None:
        """Recompute every hash chain. Raises RecordError naming the first bad row."""
        try:
            self._verify()
        except sqlite3.DatabaseError as error:
            raise RecordError(f"{self.folder / 'exchanges.sqlite'} is damaged: {error}") from None

    def _verify(self) -> None:
        previous: dict[str, str] = {}
        expected: dict[str, int] = {}
        for cell, batch, rows, query, inputs, ask, at, answers, seq, prev, kept in self._db.execute(
            "SELECT cell, batch, rows, query, inputs, ask, answered_at, answers, seq, prev, hash FROM exchanges"
            " WHERE seq IS NOT NULL ORDER BY cell, seq"
        ):
            want = _link(previous.get(cell, ""), cell, batch, rows, query, at, answers)
            query_kept = query_digest(unpack(inputs)[0]["x"], _ask_from(ask))
            if query != query_kept or seq != expected.get(cell, 0) or prev != previous.get(cell, "") or kept != want:
                raise RecordError(f"cell {cell}, batch {batch}: the record was changed after it was written")
            previous[cell], expected[cell] = kept, seq + 1

    # results of finished cells

    def put_result(self, cell: str, body: bytes) -> None:
        """Keep the result of a finished cell, so that a resumed run need not compute it again."""
        with self._lock, self._db as db:
            db.execute("INSERT OR REPLACE INTO results VALUES(?, ?)", (cell, body))

    def get_result(self, cell: str) -> bytes | None:
        """The kept result of a cell, or None."""
        row = self._db.execute("SELECT body FROM results WHERE cell = ?", (cell,)).fetchone()
        return row[0] if row else None


class CellLog:
    """The exchanges of one audit cell; a `wrappers.Log`. Safe to use from several threads."""

    def __init__(self, db: sqlite3.Connection, lock: threading.Lock, cell: str) -> None:
        self._db, self._lock, self.name = db, lock, cell
        row = db.execute(
            "SELECT seq, hash FROM exchanges WHERE cell = ? AND seq IS NOT NULL ORDER BY seq DESC LIMIT 1", (cell,)
        ).fetchone()
        self._seq: int = row[0] + 1 if row else 0
        self._head: str = row[1] if row else ""

    def asked(self, batch: int, inputs: Floats, ask: Ask | None) -> None:
        """Note durably that a batch is about to be asked; a second time, that it had to be asked again."""
        query, body = query_digest(inputs, ask), pack({"x": inputs})
        with self._lock, self._db as db:
            db.execute(
                "INSERT INTO exchanges(cell, batch, rows, asked_at, query, inputs, ask) VALUES(?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT(cell, batch) DO UPDATE SET tries = tries + 1,"
                " rows = excluded.rows, query = excluded.query, inputs = excluded.inputs, ask = excluded.ask",
                (self.name, batch, len(inputs), time.time(), query, body, _ask_text(ask)),
            )

    def answered(self, batch: int, answers: Answers) -> None:
        """Keep the answers of a batch durably and link them into the chain."""
        body, now = pack_answers(answers), time.time()
        with self._lock, self._db as db:
            rows, query = db.execute(
                "SELECT rows, query FROM exchanges WHERE cell = ? AND batch = ?", (self.name, batch)
            ).fetchone()
            link = _link(self._head, self.name, batch, rows, query, now, body)
            db.execute(
                "UPDATE exchanges SET seq = ?, answered_at = ?, answers = ?, prev = ?, hash = ?"
                " WHERE cell = ? AND batch = ?",
                (self._seq, now, body, self._head, link, self.name, batch),
            )
            self._seq, self._head = self._seq + 1, link

    def failed(self, batch: int, reason: str, raw: bytes) -> None:
        """Keep what arrived when an answer could not be used."""
        with self._lock, self._db as db:
            db.execute("INSERT INTO failures VALUES(?, ?, ?, ?, ?)", (self.name, batch, time.time(), reason, raw))

    def recall(self, batch: int) -> tuple[str, Answers] | None:
        """The query digest and answers of a recorded batch, or None."""
        with self._lock:
            row = self._db.execute(
                "SELECT query, answers FROM exchanges WHERE cell = ? AND batch = ? AND seq IS NOT NULL",
                (self.name, batch),
            ).fetchone()
        return (row[0], unpack_answers(row[1])) if row else None

    def diverged(self, batch: int) -> None:
        """Mark the run: the attack asked something other than what is on record."""
        with self._lock, self._db as db:
            db.execute("INSERT INTO marks VALUES(?, ?, ?, 'diverged')", (self.name, batch, time.time()))


def forget(folder: Path) -> None:
    """Remove a run folder and everything in it. Raises RecordError when it is not one."""
    if not (folder / "exchanges.sqlite").is_file():  # damaged evidence is evidence too: it is not opened
        raise RecordError(f"{folder} is not a run folder (no exchanges.sqlite in it)")
    shutil.rmtree(folder)


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = sqlite3.connect(path, timeout=60, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _link(previous: str, cell: str, batch: int, rows: int, query: str, at: float, answers: bytes) -> str:
    """SHA-256 link of the chain: the previous link, and all that the row claims."""
    head = json.dumps([previous, cell, batch, rows, query, at]).encode()
    return hashlib.sha256(head + hashlib.sha256(answers).digest()).hexdigest()


def _ask_text(ask: Ask | None) -> str:
    if ask is None:
        return ""
    signals = sorted(ask.signals) if ask.signals is not None else None
    within = {} if ask.within is None else {"within": ask.within}
    return json.dumps({"signals": signals, "top_k": ask.top_k, **within})


def _ask_from(text: str) -> Ask | None:
    if not text:
        return None
    body = json.loads(text)
    signals = frozenset(Signal(s) for s in body["signals"]) if body["signals"] is not None else None
    within = (tuple(body["within"][0]), tuple(body["within"][1])) if "within" in body else None
    return Ask(signals, body["top_k"], within)
