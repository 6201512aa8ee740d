"""The writing end of one worker's chain: opens where it ended, rolls segments, keeps batches. One thread at a time."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

from understudy.errors import HistoryError
from understudy.history.inputs import taker
from understudy.history.rows import COLUMNS, EMPTY, SALT, Head, Row, pack_row, seal
from understudy.history.segments import Segment, connect, create, describe, key, lock, names, tombstones, worker_name
from understudy.types import Floats

#: Rows of one commit. Beside a busy loop, each time this thread lets go of the interpreter's lock may cost it a switch
#: interval (5 ms): a commit is one statement, and a batch calls the system as rarely as it can.
BATCH = 64
_LOOK = 0.1  # seconds between looks whether the files are still there
_OVERHEAD = 384  # bytes of a row beside its body, roughly
_LOG = 64 * 2**20  # bytes that a write-ahead log keeps once a reader that held it up has gone


class Limits(NamedTuple):
    """When a segment is full: exchanges, bytes (roughly), seconds since it began."""

    rows: int = 1_000_000
    bytes: int = 512 * 2**20
    age: float = 86_400.0


DEFAULT = Limits()


class Chain:
    """Holds a worker's name in a folder. `keep` raises what went wrong; after `drop` the next call starts afresh."""

    def __init__(self, folder: Path, worker: str, inputs: str, scale: tuple[Floats, Floats] | None, limits: Limits):
        self.folder, self.worker, self.limits = folder, worker_name(worker), limits
        self.head = Head()
        self._number, self._start, self._before, self._size, self._inode, self._sums = 0, 0.0, 0, 0, 0, EMPTY
        self._path, self._wal, self._salts, self._look_at = folder, "", b"", 0.0
        self._lock: IO[bytes] | None = None
        self._db: sqlite3.Connection | None = None
        self._begin(inputs, scale)

    def _begin(self, inputs: str, scale: tuple[Floats, Floats] | None) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
            self._take = taker(inputs, key(self.folder), scale)
            self._open()
        except (OSError, sqlite3.Error) as error:
            self.drop()
            raise HistoryError(f"the history {self.folder} cannot be written: {error}") from error
        except HistoryError:
            self.drop()
            raise

    def keep(self, rows: Sequence[Row]) -> list[HistoryError | None]:
        """Make up to BATCH rows durable, in order; per row None, or why it is not a row that can be kept."""
        now = time.time()
        db = self._ready(now)
        results: list[HistoryError | None] = []
        values: list[object] = []
        head, sums, size = self.head, self._sums, 0
        if len(self._salts) < SALT * len(rows):
            self._salts = os.urandom(64 * SALT * BATCH)
        salts, self._salts = self._salts, self._salts[SALT * len(rows) :]
        for i, row in enumerate(rows):
            try:
                body = pack_row(row, self._take)
                sealed, head, sums = seal(self.worker, head, sums, row, body, salts[i * SALT : (i + 1) * SALT])
            except Exception as error:
                results.append(HistoryError(f"this exchange cannot be kept: {error}"))
                continue
            results.append(None)
            values += sealed
            size += len(body) + _OVERHEAD
        if values:
            db.executemany(_insert(len(values) // len(COLUMNS)), (values,))
            if now >= self._look_at or now < self._look_at - _LOOK:
                self._look_at = now + _LOOK
                self._there()
            self.head, self._sums, self._size = head, sums, self._size + size
        else:
            self.touch()
        return results

    def touch(self) -> None:
        """Write something of no consequence, to see whether writing works."""
        self._ready(time.time()).execute("UPDATE segment SET start = start")
        self._there()

    def tick(self) -> None:
        """Close a segment that has come of age, so that retention can remove it although nothing more arrives."""
        if self._db is not None and self._full(time.time()):
            self._finish()

    def due(self) -> float:
        """Seconds until `tick` may have something to do."""
        return 60.0 if self._db is None else max(self._start + self.limits.age - time.time(), 0.0) + 0.01

    def close(self) -> None:
        """Let go of everything, leaving plain files that can be read from a read-only disk too."""
        if self._db is not None:
            _plain(self._db)
        self.drop()

    def drop(self) -> None:
        """Let go of everything that is open; what was acknowledged stays known."""
        db, held, self._db, self._lock = self._db, self._lock, None, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()
        if held is not None:
            held.close()

    def _ready(self, now: float) -> sqlite3.Connection:
        if self._lock is None:
            self._open()
        if self._db is not None and self._full(now):
            self._finish()
        if self._db is None:
            path, db = create(self.folder, self.worker, self._number + 1, self.head, now)
            self._use(
                db, Segment(path, self.worker, self._number + 1, *EMPTY[:2], 0, 0, self.head, self.head, False), now
            )
        assert self._db is not None
        return self._db

    def _full(self, now: float) -> bool:
        kept, limits = self.head.seq - self._before, self.limits
        return kept > 0 and (kept >= limits.rows or self._size >= limits.bytes or now - self._start >= limits.age)

    def _open(self) -> None:
        self._lock = lock(self.folder, self.worker)
        files = names(self.folder, self.worker)
        stones = [stone for stone in tombstones(self.folder) if stone.worker == self.worker]
        number, head = (stones[-1].number, stones[-1].head) if stones else (0, Head())
        if files and files[-1][1] > number:
            db = connect(files[-1][2])
            try:
                found = describe(files[-1][2], db)
                start = db.execute("SELECT start FROM segment").fetchone()[0]
            except BaseException:
                db.close()
                raise
            number, head = found.number, found.head
            if found.closed or not self._follows(head):
                db.close()
            else:
                self._use(db, found, start)
        self._number = max(number, self._number)
        if self._follows(head):
            self.head = head  # else rows that were acknowledged are gone: go on from them, and `verify` tells

    def _follows(self, head: Head) -> bool:
        return head == self.head or head.seq > self.head.seq

    def _use(self, db: sqlite3.Connection, segment: Segment, start: float) -> None:
        if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            db.close()
            raise HistoryError(f"{segment.path} is being read just now")
        db.execute(f"PRAGMA journal_size_limit = {_LOG}")
        self._db, self._path, self._number, self._start = db, segment.path, segment.number, start
        self._before, self._sums = (
            segment.before.seq,
            EMPTY._replace(low=segment.first, high=segment.last, total=segment.queries),
        )
        self._wal = f"{segment.path}-wal"
        self._size = sum(os.stat(p).st_size for p in (segment.path, self._wal) if os.path.exists(p))
        self._inode = os.stat(segment.path).st_ino

    def _there(self) -> None:
        """A commit to files that were removed or replaced meanwhile keeps nothing."""
        try:
            same = os.stat(self._path).st_ino == self._inode and os.path.exists(self._wal)
        except OSError:
            same = False
        if not same:
            raise HistoryError(f"{self._path} was removed while it was being written")

    def _finish(self) -> None:
        db = self._db
        assert db is not None
        db.execute("UPDATE segment SET closed = ?", (time.time(),))
        _plain(db)
        self._db = None
        db.close()


def _plain(db: sqlite3.Connection) -> None:
    """Make a database one plain file, unless somebody reads it now."""
    with suppress(sqlite3.Error):
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("PRAGMA journal_mode = DELETE")


@lru_cache(BATCH)
def _insert(rows: int) -> str:
    one = f"({', '.join('?' * len(COLUMNS))})"
    return f"INSERT INTO rows VALUES {', '.join([one] * rows)}"
