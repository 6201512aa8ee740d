"""Several machines, one watch: each tells the others what it recorded, and all follow everything in the same order.

So each holds a copy of every state, and none of them needs another one's. Whatever was forwarded twice counts once: an
exchange is known by where it is on record.
"""

from __future__ import annotations

import hashlib
import math
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from understudy.gateway.entries import Aside, pack_aside, pack_exchange, unpack
from understudy.gateway.shared import Facts, Server, Stream
from understudy.history import Kept, Place, Read, Row, read_on

AT, PARTIAL = ":stream", ":partial"  # beside workers among the places: how far in the stream; that something is missing
_EVERY = 1.0  # seconds between reports
_BACK = 4096  # exchanges of each worker that are told again where the stream began anew; what is known is passed over

Places = Mapping[str, Place]


def watched(row: Row) -> bool:
    """Whether an exchange is anybody's behaviour: it was answered, and not to the owner's audit."""
    return row.answers is not None and row.status < 400 and not row.audit


def name_of(stored: str) -> str:
    """This machine's name: of what its guard folder keeps and of its host, since folders are copied."""
    return hashlib.sha256(f"{stored} {socket.gethostname()}".encode()).hexdigest()[:16]


@dataclass(slots=True)
class News:
    """What is new, in order. `exchanges`: read in all; `lost`, `behind`, `damaged` as of `history.Read`."""

    places: dict[str, Place]
    entries: list[Row | Aside] = field(default_factory=list)
    exchanges: int = 0
    lost: int = 0
    behind: int = 0
    damaged: int = 0

    @property
    def rows(self) -> list[Row]:
        """Without what was set aside."""
        return [entry for entry in self.entries if isinstance(entry, Row)]


def read_alone(history: Path, places: Places, limit: int) -> News:
    """What is new in this machine's own record."""
    read = read_on(history, places, limit)
    rows = [kept.row for kept in read.rows if watched(kept.row)]
    return News(dict(read.places), [*rows], len(read.rows), read.lost, read.behind, read.damaged)


class Together:
    """This machine's end. Its own workers' places are under their names, others' under MACHINE/WORKER."""

    def __init__(self, server: Server, made: str, machine: str) -> None:
        self._stream, self._machine = Stream(server, made), machine
        self._facts: Facts | None = None
        self._due = -math.inf
        self._told: dict[str, Place] | None = None  # how far the own record was forwarded
        self._asides = list[bytes]()

    @property
    def machines(self) -> int:
        """Machines that were heard of lately, this one among them."""
        return 0 if self._facts is None else self._facts.heard

    def decides(self, places: Places) -> bool:
        """Whether this machine may: a copy with gaps decides nothing where anybody's is whole."""
        return PARTIAL not in places or self._facts is None or not self._facts.whole

    def again(self) -> None:
        """The server was away: find out anew where everything stands."""
        self._facts, self._told, self._due, self._asides = None, None, -math.inf, []

    def say(self, aside: Aside) -> None:
        """Have evidence set aside by everybody, this machine included, with the next `read`."""
        self._asides.append(pack_aside(aside))

    def read(self, history: Path, places: Places, saved: Places, limit: int, now: float) -> News:
        """Forward what is new here, and read what is new everywhere. Raises Away."""
        news = News(dict(places))
        facts = self._report(news, saved, now)
        own = self._forward(history, news, limit)
        at = news.places[AT]
        found, last = self._stream.read(at.seq, limit)
        for n, blob in found:
            self._gap(news, n - 1)
            news.places[AT] = Place(facts.epoch, n)
            entry = unpack(blob, now)
            if entry is None:
                news.damaged += 1
            elif isinstance(entry, Aside):
                news.entries.append(entry)
            else:
                who = entry.worker if entry.machine == self._machine else f"{entry.machine}/{entry.worker}"
                if entry.place.seq > news.places.get(who, Place()).seq:
                    news.places[who] = entry.place
                    news.entries.append(entry.row)
                    news.exchanges += 1
        news.behind = own + max(last - news.places[AT].seq, 0)
        return news

    def _report(self, news: News, saved: Places, now: float) -> Facts:
        """Once a second; finds where to begin, and whether the stream began anew or something is missing."""
        if self._facts is not None and now < self._due:
            return self._facts
        at = news.places.get(AT)
        facts = self._stream.report(self._machine, saved.get(AT, Place()).seq, PARTIAL in news.places)
        before = facts.first - 1 if facts.first else facts.last
        if at is None:
            news.places[AT] = Place(facts.epoch, before)
            if before:  # others were here first
                news.places[PARTIAL] = Place(1, before)
        elif (at.number, at.seq) != (facts.epoch, min(at.seq, facts.last)):
            # it was emptied, or its end is lost: what was on its way then is told again
            news.places[AT] = Place(facts.epoch, 0 if at.number != facts.epoch else facts.last)
            self._gap(news, before)
            self._told = {w: Place(0, max(p.seq - _BACK, 0)) for w, p in _own(news.places).items()}
        else:
            self._gap(news, before)
        self._facts, self._due = facts, now + _EVERY
        return facts

    @staticmethod
    def _gap(news: News, before: int) -> None:
        missing = before - news.places[AT].seq
        if missing > 0:
            news.lost += missing
            news.places[PARTIAL], news.places[AT] = Place(1, before), Place(news.places[AT].number, before)

    def _forward(self, history: Path, news: News, limit: int) -> int:
        """Put the own record's news into the stream; returns how many stay behind, at least."""
        asides, self._asides = self._asides, []
        if self._told is None:
            self._told = _own(news.places)
        read = read_on(history, self._told, limit) if history.is_dir() else Read([], dict(self._told))
        rows = ordered(kept for kept in read.rows if watched(kept.row))
        blobs = [pack_exchange(self._machine, read.places[kept.worker].number, kept) for kept in rows]
        if (asides or blobs) and not self._stream.append([*asides, *blobs]):
            self._asides, self._due = asides, -math.inf
            return len(read.rows) + read.behind
        news.lost, news.damaged, self._told = news.lost + read.lost, news.damaged + read.damaged, read.places
        return read.behind


def _own(places: Places) -> dict[str, Place]:
    return {worker: place for worker, place in places.items() if worker[0] != ":" and "/" not in worker}


def ordered(rows: Iterable[Kept]) -> Sequence[Kept]:
    """In time order as far as each worker's own order allows: a later row of a worker never comes first."""
    latest, timed = dict[str, float](), list[tuple[float, str, int, Kept]]()
    for kept in sorted(rows, key=lambda k: (k.worker, k.seq)):
        at = latest[kept.worker] = max(latest.get(kept.worker, -math.inf), kept.row.at)
        timed.append((at, kept.worker, kept.seq, kept))
    return [kept for *_, kept in sorted(timed, key=lambda line: line[:3])]
