"""API keys of the gateway's customers: `keys.sqlite` in the guard folder, mode 0600.

A key is `us_<8 hex: its id>_<43 base64url: 256 random bits>`. It is shown once and only its SHA-256 is kept: a value
with 256 random bits needs no slow hash. Rotating gives a key a new secret under the same id.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from understudy.errors import KeysError, Unauthenticated, UsageError
from understudy.manifest import GuardPart, Manifest

FORMAT = 1
LONGEST_NAME = 128  # characters
_TOKEN = re.compile(rb"us_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_SCHEMA = """
CREATE TABLE keys(
  id TEXT PRIMARY KEY, principal TEXT NOT NULL, party TEXT NOT NULL, tier TEXT NOT NULL, audit INTEGER NOT NULL,
  created REAL NOT NULL, expires REAL, revoked REAL, rotated REAL, note TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX by_principal ON keys(principal);
CREATE TABLE secrets(
  hash BLOB PRIMARY KEY, id TEXT NOT NULL REFERENCES keys(id), until REAL) WITHOUT ROWID;
CREATE INDEX by_key ON secrets(id);
"""
_COLUMNS = "k.id, k.principal, k.party, k.tier, k.audit, k.created, k.expires, k.revoked, k.rotated, k.note"


class Key(NamedTuple):
    """What is known of a key; never its secret. Times are seconds since 1970, None = not, or never."""

    id: str
    principal: str
    party: str
    tier: str
    audit: bool
    created: float
    expires: float | None
    revoked: float | None
    rotated: float | None
    note: str
    overlap: float | None = None  # until when a secret from before the last rotation works

    def state(self, now: float) -> str:
        """live, revoked or expired."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "live"


class Found(NamedTuple):
    """A key that works, and until when (infinite: until it is revoked)."""

    key: Key
    until: float


def name_fits(text: str) -> bool:
    """Whether a principal or party may be called so: 1 to 128 printable characters, no space at either end."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable() and text[0] != " " != text[-1]


def path_of(manifest: Manifest, file: Path) -> Path:
    """Where the keys of a manifest are that was read from `file`: in its endpoint's part of the guard folder."""
    return file.resolve().parent / (manifest.guard or GuardPart()).folder / manifest.metadata.id / "keys.sqlite"


class Keys:
    """The key database, made where there is none. One per process: open it after a fork.

    `wait_s`: how long to wait for another process's write. Raises KeysError where the file is no use.
    """

    def __init__(self, path: Path, wait_s: float = 5.0) -> None:
        self.path, self._wait_s = path, wait_s
        self._checked, self._replaced = time.monotonic(), False
        with self._damage():
            self._open()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):  # SQLite gives -wal and -shm the same mode
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        # An existing file is never opened and closed here: that would drop SQLite's own locks on it in this process.
        found = os.stat(self.path)
        if found.st_mode & 0o077:
            os.chmod(self.path, 0o600)
        self._db = sqlite3.connect(self.path, timeout=self._wait_s, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise
        self._file = _identity(found)

    def _prepare(self) -> None:
        if self._pragma("user_version") == 0:
            self._db.execute("PRAGMA journal_mode=WAL")
            with self._write():
                if self._pragma("user_version") == 0:  # nobody else was first
                    for statement in _SCHEMA.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version={FORMAT}")
        if self._pragma("user_version") != FORMAT:
            raise KeysError(f"{self.path}: written by another version of Understudy; upgrade this one")
        self._version = self._pragma("data_version")

    def __enter__(self) -> Keys:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def add(
        self,
        tier: str,
        party: str | None = None,
        principal: str | None = None,
        expires: float | None = None,
        audit: bool = False,
        note: str = "",
        now: float | None = None,
    ) -> str:
        """Make a key and return it; it cannot be read again. Its id is characters 3 to 10.

        Without a principal, a party's next free `party-1`, `party-2`, ...; without either, the key's id is both. Raises
        UsageError where the principal has a live key of another party, tier or purpose.
        """
        now = time.time() if now is None else now
        for what, text in (("principal", principal), ("party", party)):
            if text is not None and not name_fits(text):
                raise UsageError(f"a {what} is 1 to {LONGEST_NAME} printable characters without a space at either end")
        if len(note) > 500 or not note.isprintable():
            raise UsageError("a note is at most 500 printable characters on one line")
        if expires is not None and expires <= now:
            raise UsageError("the key would have expired already; give a later --expires")
        with self._damage(), self._write():
            id_ = self._free_id()
            held = [key for key in self._select("WHERE k.principal = ?", principal) if key.state(now) == "live"]
            party = party or (held[0].party if held else principal) or id_
            principal = principal or (id_ if party == id_ else self._free_principal(party))
            for key in held:
                if (key.party, key.tier, key.audit) != (party, tier, audit):
                    kind = "an audit" if key.audit else "a customer"
                    raise UsageError(
                        f"{principal!r} is {kind} principal of party {key.party!r} in tier {key.tier!r} (key {key.id});"
                        " revoke that key first, or choose another --principal"
                    )
            self._db.execute(
                "INSERT INTO keys VALUES(?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?)",
                (id_, principal, party, tier, audit, now, expires, note),
            )
            return self._new_secret(id_)

    def list(self) -> tuple[Key, ...]:
        """Every key, the oldest first."""
        with self._damage():
            return self._select("ORDER BY k.created, k.id")

    def get(self, id_: str) -> Key:
        """One key. Raises UsageError for an unknown id."""
        with self._damage():
            return self._get(id_)

    def revoke(self, id_: str, now: float | None = None) -> Key:
        """End a key and every secret of it. Revoking twice keeps the first time. Raises UsageError for no such id."""
        with self._damage(), self._write():
            self._get(id_)
            self._db.execute(
                "UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL",
                (time.time() if now is None else now, id_),
            )
            return self._get(id_)

    def rotate(self, id_: str, overlap_s: float = 86_400.0, now: float | None = None) -> str:
        """Give a key a new secret and return it; those before it work for `overlap_s` seconds more, at most.

        Raises UsageError for a key that is unknown, revoked or expired.
        """
        now = time.time() if now is None else now
        with self._damage(), self._write():
            state = self._get(id_).state(now)
            if state != "live":
                raise UsageError(f"key {id_} is {state}; make a new one with `understudy keys add`")
            self._db.execute("DELETE FROM secrets WHERE id = ? AND until <= ?", (id_, now))
            self._db.execute(
                "UPDATE secrets SET until = min(coalesce(until, ?1), ?1) WHERE id = ?2", (now + overlap_s, id_)
            )
            self._db.execute("UPDATE keys SET rotated = ? WHERE id = ?", (now, id_))
            return self._new_secret(id_)

    def lookup(self, token: bytes, now: float) -> Found:
        """The key behind a token, by its digest. Raises Unauthenticated (with the reason for the log) or KeysError."""
        form = _TOKEN.fullmatch(token)
        if form is None:
            raise Unauthenticated("malformed key")
        with self._damage():
            row = self._db.execute(
                f"SELECT s.until, {_COLUMNS} FROM secrets s JOIN keys k ON k.id = s.id WHERE s.hash = ?",
                (hashlib.sha256(token).digest(),),
            ).fetchone()
        if row is None:
            raise Unauthenticated("unknown key", form[1].decode())
        key = _key(row[1:])
        state = key.state(now)
        if state != "live":
            raise Unauthenticated(f"{state} key", key.id)
        until = min((t for t in (row[0], key.expires) if t is not None), default=float("inf"))
        if now >= until:
            raise Unauthenticated("rotated key", key.id)
        return Found(key, until)

    def changed(self) -> bool:
        """Whether anybody else wrote since the last call, looked up at most once a second: some microseconds.

        Raises KeysError, as every `lookup` then does, where another file is in the place of this one, or none: its
        write-ahead log would not fit, so it is not opened.
        """
        now = time.monotonic()
        if now - self._checked < 1.0:
            return False
        try:
            self._replaced = _identity(os.stat(self.path)) != self._file
        except FileNotFoundError:
            self._replaced = True
        with self._damage():
            version = self._pragma("data_version")
        before, self._version, self._checked = self._version, version, now
        return version != before

    def _select(self, where: str, *values: object) -> tuple[Key, ...]:
        overlap = "(SELECT max(until) FROM secrets s WHERE s.id = k.id)"
        rows = self._db.execute(f"SELECT {_COLUMNS}, {overlap} FROM keys k {where}", values)
        return tuple(_key(row) for row in rows)

    def _get(self, id_: str) -> Key:
        found = self._select("WHERE k.id = ?", id_)
        if not found:
            near = difflib.get_close_matches(id_, (key.id for key in self._select("")), 1)
            hint = f" - did you mean {near[0]}?" if near else ""
            raise UsageError(f"no key has this id{hint} (`understudy keys list` shows them)")
        return found[0]

    def _free_id(self) -> str:
        while True:
            id_ = secrets.token_hex(4)
            if not self._select("WHERE k.id = ?", id_):
                return id_

    def _free_principal(self, party: str) -> str:
        taken = {name for (name,) in self._db.execute("SELECT DISTINCT principal FROM keys")}
        return next(
            name for name in (f"{party[: LONGEST_NAME - 8]}-{i}" for i in range(1, len(taken) + 2)) if name not in taken
        )

    def _new_secret(self, id_: str) -> str:
        token = f"us_{id_}_{secrets.token_urlsafe(32)}"
        self._db.execute("INSERT INTO secrets VALUES(?, ?, NULL)", (hashlib.sha256(token.encode()).digest(), id_))
        return token

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _write(self) -> Iterator[None]:
        """All of it or nothing, and nobody else in between."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _damage(self) -> Iterator[None]:
        if self._replaced:
            raise KeysError(f"{self.path}: was removed or replaced while in use; put it back, or start again")
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise KeysError(f"{self.path}: the key database cannot be used: {reason}") from None


def _key(row: Iterable[Any]) -> Key:
    id_, principal, party, tier, audit, *rest = row
    return Key(id_, principal, party, tier, bool(audit), *rest)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
