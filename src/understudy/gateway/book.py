"""Responses and what humans did about them: `responses.sqlite` in the guard folder, shared by watcher, workers and
operators. Alerts wait here until every sink has them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from understudy import response as ladder
from understudy.alerts import Alert
from understudy.errors import UsageError
from understudy.gateway._database import Database
from understudy.response import Act, Response

FILE = "responses.sqlite"
_SCHEMA = """
CREATE TABLE responses(id TEXT PRIMARY KEY, name TEXT NOT NULL, again REAL NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX by_name ON responses(name);
CREATE TABLE acts(
  n INTEGER PRIMARY KEY, at REAL NOT NULL, id TEXT NOT NULL, act TEXT NOT NULL, by TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE outbox(n INTEGER PRIMARY KEY, sink TEXT NOT NULL, alert TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
  due REAL NOT NULL DEFAULT 0)
"""


class Waiting(NamedTuple):
    """An alert that a sink has not got yet."""

    n: int
    sink: str
    alert: str
    tries: int


class Book:
    """Opened by each process for itself. Raises MonitorError where the file is no use."""

    def __init__(self, path: Path, wait_s: float = 5.0) -> None:
        self._file = Database(path, _SCHEMA, 1, wait_s)
        self._version, self._acts = -1, None

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def changed(self) -> bool:
        """Whether anybody else put, confirmed or ended a response since the last call; some microseconds."""
        with self._file.damage():
            before, self._version = self._version, self._file.pragma("data_version")
            if before == self._version:
                return False
            acts, self._acts = self._acts, self._file.db.execute("SELECT max(n) FROM acts").fetchone()[0]
        return before == -1 or acts != self._acts

    def all(self) -> list[Response]:
        """Every response, the oldest first."""
        return self._select("", ())

    def open(self, now: float) -> list[Response]:
        """Those that are in force, proposed or cooling down."""
        return self._select("WHERE again > ?", (now,))

    def get(self, id_: str) -> Response:
        """One response. Raises UsageError where there is none of this id."""
        found = self._select("WHERE id = ?", (id_,))
        if not found:
            raise UsageError(f"no response has the id {id_!r} (`understudy responses MANIFEST list` shows them)")
        return found[0]

    def add(self, made: Iterable[tuple[Response, Alert | None]], sinks: Sequence[str] = ()) -> None:
        """Keep new responses and queue their alerts for `sinks`, all or none; what is there already is left alone."""
        with self._file.write() as db:
            for response, alert in made:
                if db.execute("SELECT 1 FROM responses WHERE id = ?", (response.id,)).fetchone():
                    continue
                self._put(response)
                self._note(response.since, response.id, "proposed" if response.do == "suspend" else "began")
                if alert is not None:
                    text = alert.model_dump_json()
                    db.executemany("INSERT INTO outbox(sink, alert) VALUES(?, ?)", [(sink, text) for sink in sinks])

    def confirm(self, id_: str, by: str, reason: str, now: float | None = None) -> Response:
        """Put a proposed suspension in force. Raises UsageError where there is nothing to confirm."""
        now = time.time() if now is None else now
        with self._file.write():
            after = ladder.confirm(self.get(id_), by, reason, now)
            self._put(after)
            self._note(now, id_, "confirmed", by, reason)
        return after

    def revoke(
        self,
        id_: str,
        by: str,
        reason: str,
        quiet: float | None = None,
        known: bool = False,
        now: float | None = None,
    ) -> Response:
        """End a response. Raises UsageError where it has ended already."""
        now = time.time() if now is None else now
        with self._file.write():
            after = ladder.revoke(self.get(id_), by, reason, now, quiet, known)
            self._put(after)
            self._note(now, id_, "revoked: a known customer" if known else "revoked", by, reason)
        return after

    def last(self, step: str, whom: str, name: str) -> str | None:
        """The id of the latest response of a step to a holder."""
        found = self._select("WHERE name = ?", (name,))
        return next((r.id for r in reversed(found) if (r.step, r.whom) == (step, whom)), None)

    def queue(self, alert: str, sinks: Sequence[str]) -> None:
        """Have an alert delivered that is in no response of this machine's own."""
        with self._file.write() as db:
            db.executemany("INSERT INTO outbox(sink, alert) VALUES(?, ?)", [(sink, alert) for sink in sinks])

    def merge(self, others: Iterable[Response]) -> list[Response]:
        """Take in what other machines hold; returns the responses that have changed here."""
        changed = []
        with self._file.write():
            for other in others:
                mine = next(iter(self._select("WHERE id = ?", (other.id,))), None)
                after = other if mine is None else ladder.merge(mine, other)
                if after == mine:
                    continue
                changed.append(after)
                self._put(after)
                if mine is None:
                    self._note(after.since, after.id, "began elsewhere")
                for word, act in (("confirmed", after.confirmed), ("revoked", after.revoked)):
                    if act is not None and (mine is None or getattr(mine, word) != act):
                        self._note(act.at, after.id, f"{word} elsewhere", act.by, act.reason)
        return changed

    def acts(self, id_: str | None = None) -> list[dict[str, Any]]:
        """What was done, in order: began, proposed, confirmed, revoked; by whom and why."""
        where, values = ("", ()) if id_ is None else (" WHERE id = ?", (id_,))
        with self._file.damage():
            rows = self._file.db.execute(f"SELECT at, id, act, by, reason FROM acts{where} ORDER BY n", values)
            return [dict(zip(("at", "id", "act", "by", "reason"), row, strict=True)) for row in rows]

    # alerts on their way

    def waiting(self, now: float, limit: int = 100) -> list[Waiting]:
        """Alerts that are due for a sink, the oldest first; those for the webhook after all that go into files."""
        with self._file.damage():
            rows = self._file.db.execute(
                "SELECT n, sink, alert, tries FROM outbox WHERE due <= ? ORDER BY sink = 'webhook', n LIMIT ?",
                (now, limit),
            )
            return [Waiting(*row) for row in rows]

    def unsent(self) -> int:
        """How many wait in all."""
        with self._file.damage():
            return int(self._file.db.execute("SELECT COUNT(*) FROM outbox").fetchone()[0])

    def sent(self, n: int) -> None:
        """A sink has it, or will never."""
        with self._file.write() as db:
            db.execute("DELETE FROM outbox WHERE n = ?", (n,))

    def put_off(self, n: int, due: float) -> None:
        """It did not work: try again then."""
        with self._file.write() as db:
            db.execute("UPDATE outbox SET tries = tries + 1, due = ? WHERE n = ?", (due, n))

    def _put(self, response: Response) -> None:
        values = (response.id, response.name, response.again, pack(response))
        self._file.db.execute("INSERT OR REPLACE INTO responses VALUES(?, ?, ?, ?)", values)

    def _note(self, at: float, id_: str, act: str, by: str = "", reason: str = "") -> None:
        self._file.db.execute(
            "INSERT INTO acts(at, id, act, by, reason) VALUES(?, ?, ?, ?, ?)", (at, id_, act, by, reason)
        )

    def _select(self, where: str, values: tuple[Any, ...]) -> list[Response]:
        with self._file.damage():
            rows = self._file.db.execute(f"SELECT body FROM responses {where}", values).fetchall()
        return sorted((unpack(body) for (body,) in rows), key=lambda r: r.since)


def pack(response: Response) -> str:
    """A response as text, for files and other machines."""
    return json.dumps(asdict(response))


def unpack(text: str) -> Response:
    """The inverse of `pack`."""
    body = json.loads(text)
    for word in ("confirmed", "revoked"):
        body[word] = Act(*body[word]) if body[word] else None
    return Response(**body)
