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

from understudy.logs._layout import Layout, Who
from understudy.types import Array
from understudy.watch import Queries

_ROWS = 16_384  # buffered before they are written, and read back at once


@dataclass(frozen=True)
class Part:
    """All queries of some principals, in a folder of its own: whoever has it needs nothing else.

    `name` sorts parts; memory to read one is that of its keys (13 bytes a query) and `_ROWS` rows.
    """

    path: Path
    layout: Layout

    def queries(self, only: frozenset[str] | None = None) -> Iterator[Queries]:
        """Principal by principal, each in time order; of one principal all come one after another.

        Queries of the same time stay in the log's order. `only`: of these principals.
        """
        names = [Who(*entry) for entry in json.loads((self.path / "names.json").read_text(encoding="utf-8"))]
        size = (self.path / "rows").stat().st_size // self.layout.dtype.itemsize
        if not size:
            return
        rows = np.memmap(self.path / "rows", self.layout.dtype, "r", shape=(size,))
        first: dict[str, int] = {}
        place = np.array([first.setdefault(name.principal, len(first)) for name in names], np.int32)
        who = np.array(rows["who"])
        order = np.lexsort((rows["at"], place[who]))
        if only is not None:
            order = order[np.array([name.principal in only for name in names])[who[order]]]
        for start in range(0, len(order), _ROWS):
            yield from self.layout.queries(rows[order[start : start + _ROWS]], names)


class Spill:
    """Writes rows into `parts` parts below a folder. What it holds is what a thief wants: 0700, and remove it."""

    def __init__(self, folder: Path, layout: Layout, parts: int) -> None:
        self.layout, self.rows = layout, 0
        self._paths = [folder / f"{i:04d}" for i in range(parts)]
        self._files: list[IO[bytes]] = []
        for path in self._paths:
            path.mkdir(mode=0o700, parents=True)
            handle = os.open(path / "rows", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
            self._files.append(open(handle, "wb", buffering=0))  # noqa: SIM115  # until `__exit__`
        self._codes: dict[Who, tuple[int, int]] = {}
        self._names: list[list[Who]] = [[] for _ in self._paths]
        self._waiting: list[tuple[Any, Array]] = []
        self._held = 0

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
        if self._held >= _ROWS:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        parts = np.concatenate([p for p, _ in self._waiting])
        rows = np.concatenate([r for _, r in self._waiting])
        self._waiting, self._held = [], 0
        order = np.argsort(parts, kind="stable")
        bounds = np.searchsorted(parts[order], np.arange(len(self._files) + 1))
        laid = rows[order]
        for i in np.flatnonzero(np.diff(bounds)).tolist():
            self._files[i].write(laid[bounds[i] : bounds[i + 1]].view(np.uint8).data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        for file in self._files:
            file.close()

    def parts(self) -> list[Part]:
        """Write what is left; the parts that hold anything."""
        self._write()
        for path, names in zip(self._paths, self._names, strict=True):
            (path / "names.json").write_text(json.dumps(names), encoding="utf-8")
        return [Part(path, self.layout) for path, names in zip(self._paths, self._names, strict=True) if names]
