"""From sources to parts: which reader a file needs, and what is made of it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson

from understudy import registry
from understudy.errors import ManifestError, UsageError
from understudy.logs import _columns, _files, _table
from understudy.logs._bodies import Bodies, KServe, SageMaker
from understudy.logs._history import Own, is_export
from understudy.logs._layout import Layout, body_exposure
from understudy.logs._places import Aside, Bad, Places, Segment, format_of
from understudy.logs._rows import UNANSWERED, Rows
from understudy.logs._spill import Part, Spill
from understudy.logs._table import Table
from understudy.logs._tally import Tally
from understudy.manifest import Manifest
from understudy.manifest_logs import LogsPart
from understudy.types import Signal
from understudy.watch import Queries

Source = str | Path | Sequence[str | Path]
PARTS = 64
_AROUND = 2**16  # bytes of a CSV record beside its text


class _Reader(Protocol):
    def add(self, file: str, line: int, record: dict[str, Any]) -> None:
        """One record. Raises Bad or Aside."""

    def close(self) -> None:
        """Whatever waits is dealt with."""


def read(
    source: Source, manifest: Manifest, tally: Tally | None = None, scratch: Path | None = None
) -> Iterator[Queries]:
    """Every account's queries, account by account, each in time order.

    Raises UsageError or ManifestError where a source or the mapping is wrong; a malformed record goes to `tally`. What
    is read lies in a folder of its own below `scratch`, by default the system's temporary folder, until the last query
    was taken.
    """
    with tempfile.TemporaryDirectory(prefix="understudy-logs-", dir=scratch) as folder:
        for part in partition(source, manifest, Path(folder), tally):
            yield from part.queries()


def partition(
    source: Source, manifest: Manifest, folder: Path, tally: Tally | None = None, parts: int = PARTS
) -> list[Part]:
    """Spill every query of a source into `parts` parts below `folder`, one principal's all in one of them.

    Raises UsageError where nothing of a source can be used.
    """
    counted = Tally() if tally is None else tally
    with Spill(folder / "parts", Layout.of(manifest), parts) as spill:
        feed = _Feed(manifest, spill, counted, folder)
        for found in _files.expand(source):
            if isinstance(found, Path):
                feed.history(found)
            else:
                feed.file(found)
        return feed.close()


class _Feed:
    """Gives each file to the reader of its format; a reader lives on from file to file."""

    def __init__(self, manifest: Manifest, spill: Spill, tally: Tally, folder: Path) -> None:
        self._manifest, self._spill, self._tally, self._folder = manifest, spill, tally, folder
        monitor = manifest.monitor
        self._part = (monitor.logs if monitor else None) or LogsPart()
        self._segment: Segment = monitor.segment if monitor else _none
        self._encode = registry.load_object(self._part.encode) if self._part.encode else None
        self._readers: dict[tuple[str, bool], _Reader] = {}
        self._tables: list[Rows] = []

    def history(self, folder: Path) -> None:
        """Read the gateway's own record."""
        Own(self._spill, self._tally, self._segment).folder(folder)

    def file(self, file: _files.File) -> None:
        """Read one file."""
        if file.kind == ".parquet":
            with file.seekable(self._folder, self._tally) as whole:
                if whole is not None:
                    self._parquet(file.name, whole)
            return
        with file.open() as stream:
            text, space = file.kind == ".csv", self._spill.layout.text
            lines = _files.lines(stream, file.name, self._tally, blank=text and space is not None)
            found: Iterable[tuple[int, dict[str, Any]]]
            if text and space is not None:
                lines = _table.joined(lines, file.name, self._tally, _AROUND + 8 * space.longest)
            if text:
                found = _table.csv_records(lines, file.name, self._tally)
            else:
                found = _whole(file) or self._json(file.name, lines)
            self._all(file.name, found, text)

    def close(self) -> list[Part]:
        """Whatever waits is joined, checked and spilled. Raises UsageError where nothing was fit for use."""
        for reader in self._readers.values():
            reader.close()
        self._tally.close()
        parts = self._spill.parts()
        useless = self._tally.rejected + Counter({UNANSWERED: self._tally.aside[UNANSWERED]})
        if not self._spill.rows and useless:
            reason, count = useless.most_common(1)[0]
            hint = ": is monitor.logs.answers right?" if reason == UNANSWERED else ""
            raise UsageError(f"none of {useless.total():,} records can be used; {count:,} of them: {reason}{hint}")
        tables = self._tables
        if self._part.inputs is not None and tables and self._spill.rows and not any(rows.kept for rows in tables):
            raise UsageError(
                f"no record has anything where monitor.logs.inputs says ({self._part.inputs}); leave it out where "
                "inputs are not kept"
            )
        return parts

    def _all(self, name: str, records: Iterable[tuple[int, dict[str, Any]]], text: bool) -> None:
        met: set[str] = set()
        for line, record in records:
            kind = self._part.format or format_of(record)
            met.add(kind)
            try:
                self._reader(kind, text).add(name, line, record)
            except Bad as why:
                self._tally.reject(name, line, str(why))
            except Aside as why:
                self._tally.aside[str(why)] += 1
        for kind in met:
            if isinstance(reader := self._readers[kind, text], Table):
                reader.close()  # rejects name the file

    def _json(self, name: str, lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line, record); a line that holds a list of records gives each of them."""
        for number, line in lines:
            try:
                found = orjson.loads(line)
            except orjson.JSONDecodeError:
                self._tally.reject(name, number, "the line is not JSON (NaN and Infinity are none)")
                continue
            for record in found if isinstance(found, list) else (found,):
                if isinstance(record, dict):
                    yield number, record
                else:
                    self._tally.reject(name, number, "the line holds no record")

    def _parquet(self, name: str, stream: Any) -> None:
        file = _columns.opened(stream, name, self._tally)
        if file is None:
            return
        if is_export(file.schema_arrow.metadata):
            Own(self._spill, self._tally, self._segment).exported(file, name)
            return
        columns = _columns.Columns(file, self._places("table", False), self._spill, self._rows(False))
        if self._part.format in (None, "table") and self._encode is None and columns.fit():
            columns.read(name, self._tally)
        else:
            self._all(name, _columns.records(file, name, self._tally, self._spill.layout.some), False)

    def _reader(self, kind: str, text: bool) -> _Reader:
        found = self._readers.get((kind, text))
        if found is None:
            places = self._places(kind, text)
            if kind in ("kserve", "sagemaker"):
                bodies = self._bodies(kind, places)
                join = self._folder / "join"
                found = KServe(bodies, places, join) if kind == "kserve" else SageMaker(bodies, places)
            else:
                rows = self._rows(text)
                if kind == "litellm" and not rows.classes and Signal.LABEL not in self._part.answers:
                    raise ManifestError(
                        "LiteLLM logs need monitor.logs.classes: the texts that the model answers, in order"
                    )
                found = Table(rows, places, kind == "litellm", tuple(self._manifest.space.shape))
            self._readers[kind, text] = found
        return found

    def _places(self, kind: str, text: bool) -> Places:
        return Places(kind, self._part, self._segment, text, self._spill.layout.text is not None)

    def _rows(self, text: bool) -> Rows:
        options = self._manifest.target.http.options if self._manifest.target.http else {}
        classes = self._part.classes or options.get("classes", ())
        self._tables.append(Rows(self._spill, self._tally, classes, self._encode, text))
        return self._tables[-1]

    def _bodies(self, kind: str, places: Places) -> Bodies:
        part, http = self._part, self._manifest.target.http
        if part.protocol is not None:
            protocol, options = part.protocol, part.options
        elif http is not None:
            protocol, options = http.protocol, http.options
        else:
            protocol, options = {"kserve": "open-inference"}.get(kind, kind), {}
        codec = registry.create("protocols", protocol, **options)
        shown = body_exposure(self._manifest, part.signals)
        return Bodies(self._spill, self._tally, places, codec, tuple(self._manifest.space.shape), shown)


def _whole(file: _files.File) -> list[tuple[int, dict[str, Any]]]:
    """The records of a `.json` file that is one document, of bounded size; none where it is lines."""
    if file.kind != ".json":
        return []
    try:
        with file.open() as stream:
            text = stream.read(_files.LONGEST + 1)
        found = orjson.loads(text) if len(text) <= _files.LONGEST else None
    except UsageError:
        raise
    except Exception:  # whatever is wrong with it shows again when it is read by lines
        return []
    records = found if isinstance(found, list) else [found]
    return [(i, r) for i, r in enumerate(records, 1)] if all(isinstance(r, dict) for r in records) else []


def _none(principal: str, party: str) -> str | None:
    return None
