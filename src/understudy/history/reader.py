"""Reading a history in any process, also while it is written; holding it to its chain; forgetting what must go."""

from __future__ import annotations

import sqlite3
import struct
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from heapq import heappop, heappush
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from understudy.errors import HistoryError
from understudy.history import segments as files
from understudy.history.rows import COLUMNS, EMPTY, Head, Kept, Row, Running, read_row, relink
from understudy.history.segments import Segment, Tombstone
from understudy.history.usage import Used, count, recent, total
from understudy.types import Exchange

T = TypeVar("T")
Marked = Callable[[str, float], bool]  # whether an act blanked rows of that segment at that time
_CHUNK = 64  # rows in memory at once, per open segment
_ERASE = 500  # rows blanked in one transaction: a writer waits no longer than that
SELECT = f"SELECT {', '.join(f'rows.{c}' for c in COLUMNS)}, erased.at FROM rows LEFT JOIN erased USING(seq)"
_LIVING = "SELECT seq FROM rows WHERE principal = ? AND seq > ? AND seq NOT IN (SELECT seq FROM erased)"
# Same lengths, so that pages are overwritten where they are and no copy stays behind.
_DASHES = "replace(hex(zeroblob(length(CAST({0} AS BLOB)))), '00', '-')"
_BLANK = f"""UPDATE rows SET principal = {_DASHES.format("principal")}, party = {_DASHES.format("party")},
 context = zeroblob(length(context)), salt = zeroblob(length(salt)), body = zeroblob(length(body)) WHERE seq IN """


class History:
    """The history in a folder. Every method raises HistoryError on what cannot be read."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise HistoryError(f"there is no history at {folder}")

    def segments(self) -> list[Segment]:
        """The segments there are, by worker and number."""
        return [
            found for _, _, path in files.names(self.folder) if (found := self._in(path, partial(files.describe, path)))
        ]

    def tombstones(self) -> list[Tombstone]:
        """The segments that retention removed."""
        return files.tombstones(self.folder)

    def rows(
        self, since: float | None = None, principal: str | None = None, party: str | None = None
    ) -> Iterator[Kept]:
        """Rows in time order over all workers, from `since` on, of one principal or party. Memory does not grow."""
        floor = float("-inf") if since is None else since
        ahead = sorted((s for s in self.segments() if s.rows and s.last >= floor), key=lambda s: -s.first)
        heap: list[tuple[float, str, int, Kept, Iterator[Kept]]] = []

        def push(source: Iterator[Kept]) -> None:
            if kept := next(source, None):
                heappush(heap, (kept.row.at, kept.worker, kept.seq, kept, source))

        while ahead or heap:
            while ahead and (not heap or ahead[-1].first <= heap[0][0]):  # a segment is opened when its time has come
                push(self._read(ahead.pop(), floor, principal, party))
            if heap:
                *_, kept, source = heappop(heap)
                yield kept
                push(source)

    def exchanges(
        self, since: float | None = None, principal: str | None = None, party: str | None = None
    ) -> Iterator[Exchange]:
        """What detectors and replay read: the rows whose inputs and answers are there, in time order."""
        return (found for kept in self.rows(since, principal, party) if (found := kept.exchange()) is not None)

    def usage(self, since: float | None = None) -> list[Used]:
        """Queries asked and answered, per day (UTC), party and principal. Audit principals stand apart."""
        floor = float("-inf") if since is None else since
        parts = [self._in(s.path, lambda db: count(db, floor)) for s in self.segments() if s.rows and s.last >= floor]
        return total([used for part in parts for used in part or ()])

    def recent(self, limit: int, principal: str | None = None) -> list[Row]:
        """The latest rows over all workers, newest first, without inputs and answers."""
        found: list[Row] = []
        for segment in sorted(self.segments(), key=lambda s: -s.last):
            if len(found) >= limit and segment.last < found[-1].at:
                break
            found += self._in(segment.path, lambda db: recent(db, limit, principal)) or []
            found = sorted(found, key=lambda row: -row.at)[:limit]
        return found

    def export(self, path: str | Path, since: float | None = None) -> int:
        """Write a Parquet file, principals and parties under pseudonyms; returns the number of exchanges in it."""
        from understudy.history.export import export

        return export(self.rows(since), files.key(self.folder), Path(path))

    # integrity

    def verify(self, known: Mapping[str, Head] | None = None) -> dict[str, Head]:
        """Recompute every chain; returns where each ends. Raises HistoryError naming the first bad row.

        `known`: heads written down earlier; rows cut off a chain's end show only against these.
        """
        parts = {name: list(group) for name, group in groupby(self.segments(), key=lambda s: s.worker)}
        stones = {name: list(group) for name, group in groupby(self.tombstones(), key=lambda t: t.worker)}
        marks: set[tuple[str, float]] = set()

        def marked(name: str, at: float) -> bool:
            if (name, at) not in marks:  # it may be going on right now
                marks.update((body["segment"], when) for when, body in files.acts(self.folder, "erased"))
            return (name, at) in marks

        heads = {}
        for worker in sorted({*stones, *parts, *(known or {})}):
            gone = stones.get(worker, [])
            there = {segment.number: segment for segment in parts.get(worker, [])}
            chain: list[Segment | Tombstone] = [
                *there.values(),
                *(stone for stone in gone if stone.number not in there),
            ]
            heads[worker] = self._verify(worker, chain, marked, (known or {}).get(worker, Head()))
        return heads

    def _verify(self, worker: str, chain: list[Segment | Tombstone], marked: Marked, known: Head) -> Head:
        head, number = Head(), 0
        for part in sorted(chain, key=lambda part: part.number):
            name = part.path.name if isinstance(part, Segment) else part.name
            if part.number != number + 1 or part.before != head:
                what = (
                    f"segment {number + 1} is not there" if part.number > number + 1 else "does not follow on the last"
                )
                raise HistoryError(f"worker {worker}, row {part.before.seq + 1} ({name}): {what}")
            head, number = part.head, part.number
            if isinstance(part, Segment):
                self._in(part.path, partial(_hold, part, marked, known))
        if head.seq < known.seq:
            raise HistoryError(
                f"worker {worker}, row {head.seq + 1}: rows up to {known.seq} were kept and are not there"
            )
        return head

    # forgetting

    def expire(self, now: float, days: float) -> list[Tombstone]:
        """Remove the segments whose rows are all older than `days`; returns their tombstones. Run it daily.

        A segment that a worker still writes to stays; its writer closes it when it comes of age.
        """
        cutoff, buried = now - days * 86_400, {stone.name for stone in self.tombstones()}
        with self._failing("expired"):
            found = self.segments()
            files.remove(s.path for s in found if s.path.name in buried)  # a removal was cut short
            old = [s for s in found if s.path.name not in buried and s.rows and s.last < cutoff]
            newest = {s.worker: s.number for s in found}
            finished = [s for s in old if s.closed or s.number < newest[s.worker]]
            files.bury(self.folder, finished, now)
            for segment in old:
                if segment not in finished:
                    self._bury_newest(segment, cutoff, now)
        return [stone for stone in self.tombstones() if stone.name not in buried]

    def _bury_newest(self, segment: Segment, cutoff: float, now: float) -> None:
        with suppress(HistoryError), files.lock(self.folder, segment.worker):  # its worker is not running
            again = self._in(segment.path, partial(files.describe, segment.path))
            if again and again.last < cutoff:
                files.bury(self.folder, [again], now)

    def erase(self, principal: str, now: float | None = None) -> int:
        """Blank what one principal asked and received, and who it was, for good; returns the number of exchanges.

        What stays: when, under which rule, how many queries. Exports made earlier are yours to find. Run it again when
        it was interrupted; revoke the principal's keys first.
        """
        at, done, wrong = time.time() if now is None else now, 0, None
        for _, _, path in files.names(self.folder):
            try:
                with self._failing("erased"):
                    done += self._in(path, partial(self._erase, path, principal, at)) or 0
            except HistoryError as error:  # one bad segment does not keep the others from being erased
                wrong = error
        if wrong is not None:
            raise wrong
        return done

    def _erase(self, path: Path, principal: str, at: float, db: sqlite3.Connection) -> int:
        last = done = 0
        db.execute("PRAGMA secure_delete = ON")
        while some := [seq for (seq,) in db.execute(f"{_LIVING} ORDER BY seq LIMIT {_ERASE}", (principal, last))]:
            if not done:
                files.act(self.folder, at, "erased", [{"segment": path.name}])
            db.execute("BEGIN IMMEDIATE")
            db.execute(f"{_BLANK} ({', '.join('?' * len(some))})", some)
            db.executemany("INSERT INTO erased VALUES(?, ?)", [(seq, at) for seq in some])
            db.execute("COMMIT")
            last, done = some[-1], done + len(some)
        if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:  # the log holds what was there before
            raise HistoryError(f"{path.name} is being read, so the erased rows are still in its log; erase once more")
        return done

    # files

    def _in(self, path: Path, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Work on a segment; None where it was removed meanwhile."""
        try:
            with files.reading(path) as db:
                return work(db)
        except HistoryError:
            if path.exists():
                raise
            return None

    def _read(self, segment: Segment, since: float, principal: str | None, party: str | None) -> Iterator[Kept]:
        wanted = [(f"{column} = ?", name) for column, name in (("principal", principal), ("party", party)) if name]
        where = " AND ".join(["at >= ?", *(test for test, _ in wanted)])
        if wanted:
            where += " AND seq NOT IN (SELECT seq FROM erased)"
        try:
            with files.reading(segment.path) as db:
                found = db.execute(
                    f"SELECT seq FROM rows WHERE {where} ORDER BY at, seq", (since, *(n for _, n in wanted))
                )
                order = array("q", (seq for (seq,) in found))
                for start in range(
                    0, len(order), _CHUNK
                ):  # no transaction stays open: logs do not grow behind a reader
                    part = order[start : start + _CHUNK]
                    some = db.execute(f"{SELECT} WHERE rows.seq IN ({', '.join('?' * len(part))})", part.tolist())
                    rows = {values[0]: values for values in some.fetchall()}
                    yield from (read_row(segment.worker, rows[seq][:-1], rows[seq][-1]) for seq in part)
        except HistoryError:
            if segment.path.exists():
                raise

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise HistoryError(f"the history {self.folder} cannot be {what}: {error}") from error


def _hold(segment: Segment, marked: Marked, known: Head, db: sqlite3.Connection) -> None:
    """Hold the rows of a segment to its chain."""
    head, sums = segment.before, EMPTY
    while head.seq < segment.head.seq:
        some = db.execute(f"{SELECT} WHERE rows.seq > ? ORDER BY rows.seq LIMIT {_CHUNK}", (head.seq,)).fetchall()
        for *values, erased in some:
            head, sums = _step(segment, head, sums, tuple(values), erased, marked)
            if head.seq == known.seq and head.link != known.link:
                raise _bad(segment, head.seq, "the chain was written anew")
        if not some:
            raise _bad(segment, head.seq + 1, "is not there")


def _step(
    segment: Segment,
    head: Head,
    sums: Running,
    values: tuple[Any, ...],
    erased: float | None,
    marked: Marked,
) -> tuple[Head, Running]:
    seq, at, rows, link = values[0], values[1], values[9], values[-1]
    if seq != head.seq + 1:
        raise _bad(segment, head.seq + 1, "is not there")
    if erased is not None and not marked(segment.path.name, erased):
        raise _bad(segment, seq, "was blanked by hand")
    try:
        sums = sums.plus(at, rows)
        held = relink(segment.worker, head.link, values, erased is not None) == link and values[11:14] == sums
    except (TypeError, ValueError, struct.error):  # a value of another type
        held = False
    if not held:
        raise _bad(segment, seq, "was changed after it was written")
    return Head(seq, link), sums


def _bad(segment: Segment, seq: int, what: str) -> HistoryError:
    return HistoryError(f"worker {segment.worker}, row {seq} ({segment.path.name}): {what}")
