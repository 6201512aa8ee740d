"""The files of a history: segments, the acts done to them, the key, and the lock of a worker's name."""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from understudy.errors import HistoryError
from understudy.history.rows import EMPTY, Head, Running

FORMAT = 1
APPLICATION = 0x55485354  # "UHST", in the file's header
PATIENCE = 2.0  # seconds to wait for another process's lock
ACTS = "acts.sqlite"
_TRIES = 10  # to get hold of a worker's name
_NAME = re.compile(r"(\d{4,})-(.+)-(\d{8}T\d{6}Z)\.sqlite")
_WORKER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SCHEMA = """
CREATE TABLE segment(worker TEXT NOT NULL, number INTEGER NOT NULL, seq INTEGER NOT NULL, prev BLOB NOT NULL,
  start REAL NOT NULL, closed REAL);
CREATE TABLE rows(
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, principal TEXT NOT NULL, party TEXT NOT NULL, tier TEXT NOT NULL,
  route TEXT NOT NULL, version TEXT NOT NULL, rule TEXT NOT NULL, status INTEGER NOT NULL, rows INTEGER NOT NULL,
  audit INTEGER NOT NULL, low REAL NOT NULL, high REAL NOT NULL, total INTEGER NOT NULL, context BLOB NOT NULL,
  salt BLOB NOT NULL, body BLOB NOT NULL, content BLOB NOT NULL, link BLOB NOT NULL);
CREATE TABLE erased(seq INTEGER PRIMARY KEY, at REAL NOT NULL);
"""
_ACTS = "CREATE TABLE acts(n INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL)"


class Segment(NamedTuple):
    """One file. `first`, `last`: earliest and latest time of its rows; `rows`: exchanges, `queries`: what they asked.

    `before`: the head of the chain where it begins, `head`: where it ends. `closed`: nothing more will be added.
    """

    path: Path
    worker: str
    number: int
    first: float
    last: float
    rows: int
    queries: int
    before: Head
    head: Head
    closed: bool


class Tombstone(NamedTuple):
    """What is left of a segment that retention removed. `removed`: when."""

    name: str
    worker: str
    number: int
    first: float
    last: float
    rows: int
    queries: int
    before: Head
    head: Head
    removed: float


def names(folder: Path, worker: str | None = None) -> list[tuple[str, int, Path]]:
    """(worker, number, path) of every segment there, in order. Raises HistoryError when the folder is away."""
    try:
        matches = [(_NAME.fullmatch(name), name) for name in os.listdir(folder)]
    except OSError as error:
        raise HistoryError(f"the history {folder} cannot be read: {error.strerror}") from None
    found = [(m[2], int(m[1]), folder / name) for m, name in matches if m]
    return sorted(entry for entry in found if worker in (None, entry[0]))


def worker_name(name: str) -> str:
    """A worker's name as it goes into file names."""
    if not _WORKER.fullmatch(name):
        raise HistoryError(f"a worker's name holds letters, digits, '.', '_', '-' and starts with one, not {name!r}")
    return name


def create(folder: Path, worker: str, number: int, before: Head, now: float) -> tuple[Path, sqlite3.Connection]:
    """A new segment, there whole or not at all."""
    for left in folder.glob(".*.part*"):  # of a process that was killed here
        match = _NAME.fullmatch(left.name[1:].partition(".part")[0] + ".sqlite")
        if match and match[2] == worker:
            left.unlink()
    stem = f"{number:04d}-{worker}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    path, part = folder / f"{stem}.sqlite", folder / f".{stem}.part"
    values = (worker, number, before.seq, before.link, now)
    _make(path, part, _SCHEMA, ("INSERT INTO segment VALUES(?, ?, ?, ?, ?, NULL)", values))
    return path, connect(path)


def _make(path: Path, part: Path, schema: str, first: tuple[str, tuple[Any, ...]] | None = None) -> None:
    os.close(os.open(part, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600))
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(
            f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; {schema}; COMMIT;"
        )
        if first:
            db.execute(*first)
    part.rename(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def connect(path: Path, patience: float = PATIENCE) -> sqlite3.Connection:
    """Open a file of the history; the caller closes it. Raises HistoryError when it is foreign, newer or damaged."""
    db: sqlite3.Connection | None = None
    try:
        db = sqlite3.connect(
            f"file:{_quoted(path)}?mode=rw",
            uri=True,
            timeout=patience,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=128,
        )
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        db.execute("PRAGMA synchronous = FULL")
    except (sqlite3.Error, UnicodeDecodeError) as error:  # a message may quote what is damaged
        if db is not None:
            db.close()
        raise HistoryError(f"{path} cannot be opened: {error}") from error
    if application != APPLICATION or version != FORMAT:
        db.close()
        if application != APPLICATION:
            raise HistoryError(f"{path} was not written by understudy's gateway")
        raise HistoryError(f"{path} has format {version}; this version of understudy reads {FORMAT}")
    return db


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A segment open for reading; what SQLite finds wrong with it is a HistoryError that names it."""
    with closing(connect(path, 10.0)) as db:
        try:
            yield db
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise HistoryError(f"{path} is damaged: {error}") from None


def describe(path: Path, db: sqlite3.Connection) -> Segment:
    """What a segment holds, without reading it through. Raises sqlite3.Error on damage."""
    found = db.execute("SELECT worker, number, seq, prev, closed FROM segment").fetchone()
    if found is None:
        raise HistoryError(f"{path} is damaged: it does not say whose it is")
    worker, number, seq, prev, closed = found
    last = db.execute("SELECT seq, link, low, high, total FROM rows ORDER BY seq DESC LIMIT 1").fetchone()
    head, so_far = (Head(*last[:2]), Running(*last[2:])) if last else (Head(seq, prev), EMPTY)
    return Segment(path, worker, number, *so_far[:2], head.seq - seq, so_far.total, Head(seq, prev), head, bool(closed))


# acts


def act(folder: Path, at: float, kind: str, bodies: Iterable[dict[str, Any]]) -> None:
    """Note durably that something is about to be done to the record."""
    path = folder / ACTS
    if not path.exists():
        part = folder / f".{ACTS}.{os.getpid()}.{secrets.token_hex(4)}.part"
        made = part.with_suffix(".new")
        _make(made, part, _ACTS)
        with suppress(FileExistsError):
            os.link(made, path)  # the first one wins
        made.unlink()
        sync(folder)
    with closing(connect(path, 30.0)) as db:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO acts(at, kind, body) VALUES(?, ?, ?)", [(at, kind, json.dumps(b)) for b in bodies])
        db.execute("COMMIT")


def acts(folder: Path, kind: str) -> list[tuple[float, dict[str, Any]]]:
    """(when, what) of everything of a kind that was done to the record."""
    if not (folder / ACTS).exists():
        return []
    with reading(folder / ACTS) as db:
        found = db.execute("SELECT at, body FROM acts WHERE kind = ? ORDER BY n", (kind,)).fetchall()
    return [(at, json.loads(body)) for at, body in found]


def tombstones(folder: Path) -> list[Tombstone]:
    """The segments that retention removed, by worker and number; a removal that was cut short comes once."""
    found = {}
    for at, body in acts(folder, "expired"):
        before, head = (Head(body[f"{end}_seq"], bytes.fromhex(body[f"{end}_link"])) for end in ("before", "head"))
        sums = (body["first"], body["last"], body["rows"], body["queries"])
        found[body["name"]] = Tombstone(body["name"], body["worker"], body["number"], *sums, before, head, at)
    return sorted(found.values(), key=lambda t: (t.worker, t.number))


def bury(folder: Path, segments: Iterable[Segment], now: float) -> None:
    """Leave tombstones, then remove the files."""
    segments = list(segments)
    bodies = []
    for s in segments:
        ends = {"before_seq": s.before.seq, "before_link": s.before.link.hex()}
        ends |= {"head_seq": s.head.seq, "head_link": s.head.link.hex()}
        sums = {"first": s.first, "last": s.last, "rows": s.rows, "queries": s.queries}
        bodies.append({"name": s.path.name, "worker": s.worker, "number": s.number, **sums, **ends})
    if bodies:
        act(folder, now, "expired", bodies)
    remove(s.path for s in segments)


def remove(paths: Iterable[Path]) -> None:
    """Remove segments' files, the database last."""
    for path in paths:
        for suffix in ("-wal", "-shm", "-journal", ""):
            Path(f"{path}{suffix}").unlink(missing_ok=True)


# the key and the locks


def key(folder: Path) -> bytes:
    """The folder's key: 32 random bytes, made by whoever comes first."""
    path = folder / "key"
    if not path.exists():
        part = folder / f".key.{os.getpid()}.{secrets.token_hex(4)}"
        with open(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(part, path)
        part.unlink()
        sync(folder)
    found = path.read_bytes()
    if len(found) != 32:
        raise HistoryError(f"{path} is damaged: it holds {len(found)} bytes instead of 32")
    return found


def lock(folder: Path, worker: str) -> IO[bytes]:
    """Hold a worker's name until the file is closed or the process ends. Raises HistoryError when another holds it."""
    import fcntl

    path = folder / f"{worker}.lock"
    file = open(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+b", buffering=0)  # noqa: SIM115
    for left in reversed(range(_TRIES)):  # `expire` holds a name for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if left:
                time.sleep(0.05)
                continue
            holder = file.read().decode("ascii", "replace").strip() or "unknown"
            file.close()
            raise HistoryError(
                f"another process (id {holder}) writes to {folder} as worker {worker}; give each worker its own name"
            ) from None
    with suppress(OSError):  # a full disk: the name is held all the same
        file.truncate(0)
        file.write(str(os.getpid()).encode())
    return file
