"""Following a history while it is written: every row once, in time order as far as it is known, and how far behind."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from understudy.errors import HistoryError
from understudy.history import segments as files
from understudy.history.reader import SELECT
from understudy.history.rows import Kept, read_row


class Place(NamedTuple):
    """Where a worker's chain has been read to: its segment's number, and the sequence number of the last row."""

    number: int = 0
    seq: int = 0


class Read(NamedTuple):
    """Rows that were new, in time order. `places`: where reading goes on; `lost`: rows that retention removed before
    they were read; `behind`: rows that are there and not yet read, at least; `damaged`: rows that could not be read.
    """

    rows: list[Kept]
    places: dict[str, Place]
    lost: int = 0
    behind: int = 0
    damaged: int = 0


def read_on(folder: Path, places: Mapping[str, Place], limit: int) -> Read:
    """Up to `limit` new rows of each worker. Nothing stays open, so writers are never held up.

    Where a worker has more, no other worker's rows are handed out that are later than its own: they wait for the next
    call. Erased rows are passed over. Raises HistoryError where the folder or a segment cannot be read.
    """
    paths: dict[str, list[tuple[int, Path]]] = {}
    for worker, number, path in files.names(folder):
        if number >= places.get(worker, Place()).number:
            paths.setdefault(worker, []).append((number, path))
    found = {worker: _of_worker(worker, there, places.get(worker, Place()), limit) for worker, there in paths.items()}
    frontier = min((max(line.at for line in f.lines) for f in found.values() if f.behind and f.lines), default=inf)
    ready, after = list[_Line](), dict(places)
    for worker, one in found.items():
        cut = next((i for i, line in enumerate(one.lines) if line.at > frontier), len(one.lines))
        ready += one.lines[:cut]
        if cut == len(one.lines):
            after[worker] = one.place
        elif cut:
            after[worker] = one.lines[cut - 1].place
    rows = sorted((line.kept for line in ready if line.kept), key=lambda k: (k.row.at, k.worker, k.seq))
    lost, behind = sum(f.lost for f in found.values()), sum(f.behind + len(f.lines) for f in found.values())
    return Read(rows, after, lost, behind - len(ready), sum(line.damaged for line in ready))


class _Line(NamedTuple):
    at: float
    place: Place
    kept: Kept | None  # None: erased, or damaged
    damaged: bool = False


class _Found(NamedTuple):
    lines: list[_Line]
    place: Place
    behind: int  # rows beyond these, at least
    lost: int


def _of_worker(worker: str, paths: list[tuple[int, Path]], place: Place, limit: int) -> _Found:
    lines, lost = list[_Line](), 0
    for number, path in sorted(paths):
        try:
            with files.reading(path) as db:
                before = db.execute("SELECT seq FROM segment").fetchone()[0]
                if place.number:
                    lost += max(before - place.seq, 0)  # the segments between were removed
                place = Place(number, max(place.seq, before))
                query = f"{SELECT} WHERE rows.seq > ? ORDER BY rows.seq LIMIT ?"
                some = db.execute(query, (place.seq, limit - len(lines))).fetchall()
                last = db.execute("SELECT max(seq) FROM rows").fetchone()[0] or before
        except HistoryError:
            if path.exists():
                raise
            continue  # removed just now: what was lost shows at the next segment
        lines += [_line(worker, number, tuple(values), erased) for *values, erased in some]
        place = lines[-1].place if some else place
        if last > place.seq:
            return _Found(lines, place, last - place.seq, lost)
    return _Found(lines, place, 0, lost)


def _line(worker: str, number: int, values: tuple[Any, ...], erased: float | None) -> _Line:
    seq, at = values[:2]
    try:
        return _Line(at, Place(number, seq), None if erased is not None else read_row(worker, values, None))
    except HistoryError:
        return _Line(at, Place(number, seq), None, True)
