"""Rows of a log by principal: hashed into parts on disk, each small enough to be put in time order and judged alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self
from zlib import crc32

import numpy as np

from understudy.logs._layout import INPUTS, Layout, Who
from understudy.texts import coded
from understudy.types import Array
from understudy.watch import Queries

_ROWS = 16_384  # of texts, buffered before they are written, and read back at once
_BYTES = 2**24  # of their texts at most, and one text more


@dataclass(frozen=True)
class Part:
    """All queries of some principals, in a folder of its own: whoever has it needs nothing else.

    Memory to read one is that of its keys (13 bytes a query, 25 of texts) and of `layout.some` rows, or `_BYTES` of
    texts.
    """

    path: Path
    layout: Layout

    def queries(self, only: frozenset[str] | None = None) -> Iterator[Queries]:
        """Principal by principal, each in time order; of one principal all come one after another.

        Queries of the same time stay in the log's order. `only`: of these principals.
        """
        names = [Who(*entry) for entry in json.loads((self.path / "names.json").read_text(encoding="utf-8"))]
        size = (self.path / "rows").stat().st_size // self.layout.stored.itemsize
        if not size:
            return
        rows = np.memmap(self.path / "rows", self.layout.stored, "r", shape=(size,))
        first: dict[str, int] = {}
        place = np.array([first.setdefault(name.principal, len(first)) for name in names], np.int32)
        who = np.array(rows["who"])
        order = np.lexsort((rows["at"], place[who]))
        if only is not None:
            order = order[np.array([name.principal in only for name in names])[who[order]]]
        if self.layout.text is None:
            for start in range(0, len(order), self.layout.some):
                yield from self.layout.queries(rows[order[start : start + self.layout.some]], names)
            return
        sizes = np.array(rows["size"])[order]
        with (self.path / "texts").open("rb") as file:
            for some in _portions(sizes):
                yield from self.layout.queries(self._whole(rows[order[some]], file), names)

    def _whole(self, stored: Array, file: IO[bytes]) -> Array:
        """Records with the texts that belong to them. They are looked up in the order in which they lie."""
        made = _moved(stored, self.layout.dtype)
        for i in np.argsort(stored["start"], kind="stable").tolist():
            file.seek(stored["start"][i])
            made["inputs"][i] = file.read(stored["size"][i]).decode()
        return made


def _portions(sizes: Array) -> Iterator[slice]:
    """Rows to be held at once: `_ROWS` at most, and of texts `_BYTES`."""
    start, held = 0, 0
    for i, size in enumerate(sizes.tolist()):
        if i > start and (i - start == _ROWS or held + size > _BYTES):
            yield slice(start, i)
            start, held = i, 0
        held += size
    yield slice(start, len(sizes))


def _moved(rows: Array, dtype: np.dtype[np.void]) -> Array:
    """Records of another form of the same layout: what both have."""
    made = np.zeros(len(rows), dtype)
    for name in set(rows.dtype.names or ()) & set(dtype.names or ()):
        made[name] = rows[name]
    return made


class Spill:
    """Writes rows into `parts` parts below a folder. What it holds is what a thief wants: 0700, and remove it."""

    def __init__(self, folder: Path, layout: Layout, parts: int) -> None:
        self.layout, self.rows = layout, 0
        self._paths = [folder / f"{i:04d}" for i in range(parts)]
        self._files, self._texts = list[IO[bytes]](), list[IO[bytes]]()
        for path in self._paths:
            path.mkdir(mode=0o700, parents=True)
            self._files.append(_created(path / "rows"))
            if layout.text is not None:
                self._texts.append(_created(path / "texts"))
        self._ends = np.zeros(parts, np.int64)  # of each part's texts
        self._codes: dict[Who, tuple[int, int]] = {}
        self._names: list[list[Who]] = [[] for _ in self._paths]
        self._waiting: list[tuple[Any, Array]] = []
        self._held = self._bytes = 0

    def code(self, who: Who) -> tuple[int, int]:
        """(part, number within the part) of somebody: the same principal is always in the same part."""
        found = self._codes.get(who)
        if found is None:
            part = crc32(who.principal.encode("utf-8", "surrogatepass")) % len(self._paths)
            found = self._codes[who] = part, len(self._names[part])
            self._names[part].append(who)
        return found

    def add(self, who: Who, rows: Array) -> None:
        """Queries of one principal."""
        part, rows["who"] = self.code(who)
        self._hold(np.full(len(rows), part, np.int32), rows)

    def add_many(self, codes: Array, rows: Array) -> None:
        """Queries of many: `codes` (n, 2) of each row's, as `code` gives them."""
        rows["who"] = codes[:, 1]
        self._hold(codes[:, 0], rows)

    def _hold(self, parts: Array, rows: Array) -> None:
        self._waiting.append((parts, rows))
        self._held += len(rows)
        self.rows += len(rows)
        if self.layout.text is not None:
            self._bytes += sum(len(text) for text in rows["inputs"].tolist() if text)
        if self._held >= (self.layout.some if self.layout.text is None else _ROWS) or self._bytes >= _BYTES:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        parts = np.concatenate([p for p, _ in self._waiting])
        rows = np.concatenate([r for _, r in self._waiting])
        self._waiting, self._held, self._bytes = [], 0, 0
        order = np.argsort(parts, kind="stable")
        bounds = np.searchsorted(parts[order], np.arange(len(self._files) + 1))
        laid = rows[order]
        for i in np.flatnonzero(np.diff(bounds)).tolist():
            some = laid[bounds[i] : bounds[i + 1]]
            self._files[i].write((some if self.layout.text is None else self._apart(i, some)).view(np.uint8).data)

    def _apart(self, part: int, rows: Array) -> Array:
        """Records as they are stored, once their texts are written."""
        made = _moved(rows, self.layout.stored)
        made["size"], body = coded(np.where(rows["kind"] & INPUTS, rows["inputs"], ""))
        made["start"] = self._ends[part] + np.cumsum(made["size"], dtype=np.int64) - made["size"]
        self._texts[part].write(body)
        self._ends[part] += len(body)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        for file in (*self._files, *self._texts):
            file.close()

    def parts(self) -> list[Part]:
        """Write what is left; the parts that hold anything."""
        self._write()
        for path, names in zip(self._paths, self._names, strict=True):
            (path / "names.json").write_text(json.dumps(names), encoding="utf-8")
        return [Part(path, self.layout) for path, names in zip(self._paths, self._names, strict=True) if names]


def _created(path: Path) -> IO[bytes]:
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    return open(handle, "wb", buffering=0)
