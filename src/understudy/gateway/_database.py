"""SQLite files of the guard folder: made with mode 0600, opened by every process for itself, written to as a whole."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from understudy.errors import MonitorError


class Database:
    """One open file. `schema`: statements that make it; `form`: its version. Raises MonitorError where it is no use."""

    def __init__(self, path: Path, schema: str, form: int, wait_s: float = 5.0) -> None:
        self.path = path
        with self.damage():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileExistsError):  # SQLite gives -wal and -shm the same mode
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            self.db = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(schema, form)
            except BaseException:
                self.db.close()
                raise

    def _prepare(self, schema: str, form: int) -> None:
        if self.pragma("user_version") == 0:
            self.db.execute("PRAGMA journal_mode=WAL")
            with self.write():
                if self.pragma("user_version") == 0:  # nobody else was first
                    for statement in schema.split(";"):
                        self.db.execute(statement)
                    self.db.execute(f"PRAGMA user_version={form}")
        if self.pragma("user_version") != form:
            raise MonitorError(f"{self.path}: written by another version of Understudy; upgrade this one")

    def pragma(self, name: str) -> int:
        """A number that SQLite keeps; `data_version` changes when another connection writes."""
        return int(self.db.execute(f"PRAGMA {name}").fetchone()[0])

    def close(self) -> None:
        """Let go of the file."""
        self.db.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, and nobody else in between."""
        with self.damage():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")

    @contextmanager
    def damage(self) -> Iterator[None]:
        """What SQLite or the disk says, as a MonitorError that names the file."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise MonitorError(f"{self.path}: cannot be used: {getattr(error, 'strerror', None) or error}") from None
