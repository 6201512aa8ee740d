"""What the watcher remembers of every account: `states.sqlite` in the guard folder. States, and how far the history
has been read, are written together: after a crash both are those of one moment.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from understudy.errors import RecordError
from understudy.gateway._database import Database
from understudy.gateway.tally import Tally
from understudy.gateway.together import name_of
from understudy.history import Place
from understudy.watch import State, Watch

FILE = "states.sqlite"
ALONE = "states-alone.sqlite"  # a copy that goes on by itself while other machines are out of reach
_AT_HAND = 64 * 2**20  # bytes of accounts that are kept in memory, unpacked
_ACCOUNT = 2**14  # bytes that an account takes beside what is saved of it
_SCHEMA = """
CREATE TABLE states(
  principal TEXT PRIMARY KEY, party TEXT NOT NULL, last REAL NOT NULL, tally TEXT NOT NULL, state BLOB NOT NULL)
  WITHOUT ROWID;
CREATE INDEX by_party ON states(party);
CREATE TABLE places(worker TEXT PRIMARY KEY, number INTEGER NOT NULL, seq INTEGER NOT NULL);
CREATE TABLE settled(id TEXT PRIMARY KEY);
CREATE TABLE facts(name TEXT PRIMARY KEY, value TEXT NOT NULL)
"""


class Account(NamedTuple):
    """One account, followed."""

    state: State
    tally: Tally


class States:
    """One process at a time: the watcher. `made`: the calibration; another one begins anew. Raises MonitorError."""

    def __init__(self, path: Path, watch: Watch, made: str) -> None:
        self._file, self._watch = Database(path, _SCHEMA, 2), watch
        self._held: OrderedDict[str, Account] = OrderedDict()
        self._bytes: dict[str, int] = {}  # of those held, as they were when they were read or saved
        self._dirty: dict[str, Account] = {}
        self._dirty_of: dict[str, set[str]] = {}  # by party
        self._version = -1
        if self._fact("calibration") != made:
            with self._file.write() as db:
                for table in ("states", "places"):
                    db.execute(f"DELETE FROM {table}")
                db.execute("INSERT OR REPLACE INTO facts VALUES('calibration', ?)", (made,))
        self.machine = self._machine()
        with self._file.damage():
            self.places = {
                w: Place(n, s) for w, n, s in self._file.db.execute("SELECT worker, number, seq FROM places")
            }
            self.settled = {id_ for (id_,) in self._file.db.execute("SELECT id FROM settled")}
        self._settling = set[str]()

    def close(self) -> None:
        """Let go of the file; what was not saved is read from the history again."""
        self._file.close()

    def get(self, principal: str) -> Account | None:
        """An account, where it has been seen before."""
        found = self._held.get(principal)
        if found is not None:
            self._held.move_to_end(principal)
            return found
        with self._file.damage():
            row = self._file.db.execute("SELECT tally, state FROM states WHERE principal = ?", (principal,)).fetchone()
        if row is None:
            return None
        try:
            state = State.from_bytes(row[1], self._watch.calibration.leak)
        except (RecordError, KeyError, ValueError, TypeError):
            return None  # damaged, or of another version: the account begins anew
        self._bytes[principal] = len(row[1])
        return self._keep(principal, Account(state, Tally.from_text(row[0])))

    def put(self, account: Account) -> None:
        """Remember an account as it is now; on disk with the next `save`."""
        self._dirty[account.state.principal] = self._keep(account.state.principal, account)
        self._dirty_of.setdefault(account.tally.party, set()).add(account.state.principal)

    def settle(self, response: str) -> None:
        """Remember that the end of a response has been dealt with."""
        self.settled.add(response)
        self._settling.add(response)

    def party(self, party: str) -> list[str]:
        """The accounts of a party that have been seen."""
        with self._file.damage():
            rows = self._file.db.execute("SELECT principal FROM states WHERE party = ?", (party,)).fetchall()
        return sorted({who for (who,) in rows} | self._dirty_of.get(party, set()))

    def accounts(self) -> int:
        """How many accounts are on disk."""
        with self._file.damage():
            return int(self._file.db.execute("SELECT COUNT(*) FROM states").fetchone()[0])

    @property
    def unsaved(self) -> int:
        """How many accounts have changed since the last `save`."""
        return len(self._dirty)

    def save(self, places: Mapping[str, Place]) -> None:
        """Write what has changed and how far the history has been read, all or nothing."""
        with self._file.write() as db:
            db.executemany(
                "INSERT OR REPLACE INTO states VALUES(?, ?, ?, ?, ?)",
                (
                    (who, a.tally.party, a.tally.last, a.tally.to_text(), sqlite3.Binary(self._packed(who, a.state)))
                    for who, a in self._dirty.items()
                ),
            )
            db.executemany("INSERT OR REPLACE INTO places VALUES(?, ?, ?)", [(w, *p) for w, p in places.items()])
            db.executemany("INSERT OR IGNORE INTO settled VALUES(?)", [(id_,) for id_ in self._settling])
        self.places, self._dirty, self._dirty_of, self._settling = dict(places), {}, {}, set()
        self._bytes = {who: self._bytes.get(who, 0) for who in self._held}
        size = sum(_ACCOUNT + saved for saved in self._bytes.values())
        while size > _AT_HAND:
            who, _ = self._held.popitem(last=False)
            size -= _ACCOUNT + self._bytes.pop(who)

    def _packed(self, principal: str, state: State) -> bytes:
        packed = state.to_bytes()
        self._bytes[principal] = len(packed)
        return packed

    def expire(self, before: float) -> int:
        """Remove the accounts that have asked nothing since, as retention removes their exchanges; returns how many."""
        with self._file.write() as db:
            gone = db.execute("DELETE FROM states WHERE last < ?", (before,)).rowcount
        if gone:
            self._held = OrderedDict(self._dirty)
        return gone

    def look(self) -> None:
        """Where somebody else wrote (an erasure), what was read before counts no more."""
        with self._file.damage():
            before, self._version = self._version, self._file.pragma("data_version")
        if before != self._version:
            self._held = OrderedDict(self._dirty)

    def copy(self, path: Path) -> None:
        """Write everything that is saved to a file of its own."""
        other = Database(path, _SCHEMA, 2)
        try:
            with self._file.damage():
                self._file.db.backup(other.db)
        finally:
            other.close()

    def _machine(self) -> str:
        """The name of this machine. Where it is another one now, what the old one told others stays known as its."""
        with self._file.write() as db:
            db.execute("INSERT OR IGNORE INTO facts VALUES('folder', ?)", (secrets.token_hex(8),))
            name = name_of(db.execute("SELECT value FROM facts WHERE name = 'folder'").fetchone()[0])
            before = db.execute("SELECT value FROM facts WHERE name = 'machine'").fetchone()
            if before is not None and before[0] != name:
                db.execute(
                    "INSERT OR IGNORE INTO places SELECT ? || '/' || worker, number, seq FROM places"
                    " WHERE worker NOT GLOB '*[/:]*'", before,
                )  # fmt: skip
            db.execute("INSERT OR REPLACE INTO facts VALUES('machine', ?)", (name,))
        return name

    def _fact(self, name: str) -> str | None:
        with self._file.damage():
            row = self._file.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _keep(self, principal: str, account: Account) -> Account:
        self._held[principal] = account
        self._held.move_to_end(principal)
        return account


def remove(path: Path) -> None:
    """Remove a file that `States.copy` wrote."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def forget(folder: Path, principal: str) -> None:
    """Remove what the watcher keeps of one account, its latest queries among it; a running one notices."""
    for path in (folder / FILE, folder / ALONE):
        if not path.exists():
            continue
        file = Database(path, _SCHEMA, 2)
        try:
            file.db.execute("PRAGMA secure_delete = ON")
            with file.write() as db:
                db.execute("DELETE FROM states WHERE principal = ?", (principal,))
            with file.damage():
                file.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            file.close()
