"""Parquet: column by column where the places are plain columns of numbers, record by record where they are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from understudy import texts
from understudy.errors import MissingExtra
from understudy.logs._places import Aside, Bad, Places
from understudy.logs._rows import EARLIEST, LATEST, Rows
from understudy.logs._spill import Spill
from understudy.logs._tally import Tally
from understudy.types import Array, Floats, Signal


def opened(stream: IO[bytes], name: str, tally: Tally) -> Any:
    """A pyarrow ParquetFile; None where it is none. Raises MissingExtra."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("Parquet logs need pyarrow: pip install 'understudy[logs]'") from None
    try:
        return pq.ParquetFile(stream)
    except (pa.ArrowException, OSError) as error:
        tally.reject(name, 0, f"the file is no Parquet, or its end is missing ({type(error).__name__})")
        return None


def batches(
    file: Any, name: str, tally: Tally, size: int, columns: list[str] | None = None
) -> Iterator[tuple[int, Any]]:
    """(records before it, record batch). Of a damaged row group the rest is rejected as one; the next is read."""
    import pyarrow as pa

    before = 0
    for group in range(file.num_row_groups):
        try:
            at = before
            for batch in file.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
                yield at, batch
                at += len(batch)
        except (pa.ArrowException, OSError) as error:
            tally.reject(name, at + 1, f"a row group cannot be read any further ({type(error).__name__})")
        before += file.metadata.row_group(group).num_rows


def records(file: Any, name: str, tally: Tally, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, record). One with a value that Python has no word for is rejected."""
    for before, batch in batches(file, name, tally, size):
        try:
            yield from enumerate(batch.to_pylist(), before + 1)
            continue
        except (ValueError, OverflowError):
            pass
        for i in range(len(batch)):
            try:
                (record,) = batch.slice(i, 1).to_pylist()
            except (ValueError, OverflowError):
                tally.reject(name, before + i + 1, "a text that is not UTF-8, or a date beyond the year 9999")
                continue
            yield before + i + 1, record


class Columns:
    """Reads a Parquet file by its columns, without a Python object per cell."""

    def __init__(self, file: Any, places: Places, spill: Spill, rows: Rows) -> None:
        import pyarrow as pa

        self._pa, self._file, self._places, self._spill, self._rows = pa, file, places, spill, rows
        self._types = {field.name: field.type for field in file.schema_arrow}
        self._time, self._margin = places.paths["time"] or "", places.paths["margin"]
        named = ((f, places.paths[f]) for f in ("principal", "party", "segment"))
        self._who = {field: path for field, path in named if path is not None and path in self._types}
        self._text = spill.layout.text is not None
        scalars = [self._time, *self._who.values(), *([self._margin] if self._margin else [])]
        self._wanted = sorted({*scalars, *self._numeric()})

    def _numeric(self) -> list[str]:
        found = [self._places.inputs_at, *self._places.answers_at.values()]
        return [c for place in found if place for c in ([place] if isinstance(place, str) else place)]

    def fit(self) -> bool:
        """Whether every place is a column, of a type that needs no look at single cells."""
        types = self._pa.types
        optional = [self._places.paths[f] for f in ("party", "segment", "margin")]
        if self._places.paths["id"] or "principal" not in self._who or self._time not in self._types:
            return False
        if any(path and path not in self._types and path != "party" for path in optional):
            return False
        if not all(
            types.is_string(t) or types.is_large_string(t) or types.is_integer(t)
            for t in (self._types[c] for c in self._who.values())
        ):
            return False

        def number(t: Any) -> bool:
            return bool(types.is_integer(t) or types.is_floating(t))

        when = self._types[self._time]
        if not (number(when) or types.is_timestamp(when)):
            return False
        asked = self._places.inputs_at
        if self._text and asked is not None:
            t = self._types.get(asked) if isinstance(asked, str) else None
            if t is None or not (types.is_string(t) or types.is_large_string(t)):
                return False
            asked = None
        for place in (asked, *self._places.answers_at.values(), self._margin):
            if isinstance(place, str):
                t = self._types.get(place)
                if t is None or not (
                    number(t) or ((types.is_list(t) or types.is_large_list(t)) and number(t.value_type))
                ):
                    return False
            elif place and not all(c in self._types and number(self._types[c]) for c in place):
                return False
        return True

    def read(self, name: str, tally: Tally) -> None:
        """Spill everything."""
        self._rows.file = name
        for before, batch in batches(self._file, name, tally, self._spill.layout.some, self._wanted):
            self._batch(batch, before)

    def _batch(self, batch: Any, before: int) -> None:
        n, wrong = len(batch), dict[int, str]()
        codes = self._codes(batch, wrong)
        at = self._times(batch.column(self._time), wrong)
        there, asked = self._inputs(batch, wrong)
        answers: dict[Signal, tuple[Array, Floats]] = {}
        for signal, place in self._places.answers_at.items():
            outputs = 1 if signal is Signal.LABEL or self._single(batch, place) else self._spill.layout.exposure.outputs
            held, found = self._table(batch, place, outputs, wrong, f"{signal.value} is not what this endpoint answers")
            if held.any():
                answers[signal] = held, found[held][:, 0] if signal is Signal.LABEL else found[held]
        gaps = _floats(batch.column(self._margin)) if self._margin else np.full(n, np.nan)
        self._rows.take(range(before + 1, before + n + 1), codes, at, (there, asked), answers, gaps, wrong)

    def _inputs(self, batch: Any, wrong: dict[int, str]) -> tuple[Array, Array]:
        """(n,) whether inputs were kept, and (n, width) numbers, zero where they were not, or texts."""
        layout, place = self._spill.layout, self._places.inputs_at
        if self._text and isinstance(place, str):
            column = batch.column(place)
            there, found = column.is_valid().to_numpy(zero_copy_only=False), _values(column)
            for row in np.flatnonzero(there).tolist():
                if found[row] is None:
                    wrong.setdefault(row, "an input is not UTF-8")
            return there, texts.array(found)
        there, table = self._table(batch, place, layout.width, wrong, f"the inputs are not {layout.inputs}")
        if self._text:
            return there, texts.array([None] * len(batch))
        return there, np.where(there[:, None], table, 0.0)

    def _single(self, batch: Any, place: str | list[str]) -> bool:
        """Whether one number stands for two classes."""
        if self._spill.layout.exposure.outputs != 2:
            return False
        return len(place) == 1 if isinstance(place, list) else not self._pa.types.is_nested(batch.column(place).type)

    def _codes(self, batch: Any, wrong: dict[int, str]) -> Array:
        """(n, 2): whose each row is. Names are looked at once a batch."""
        mixed, names = np.zeros(len(batch), np.int64), []
        for path in self._who.values():
            column = batch.column(path).dictionary_encode()
            index = column.indices.fill_null(len(column.dictionary)).to_numpy(zero_copy_only=False)
            names.append([*_values(column.dictionary), None])
            mixed = mixed * len(names[-1]) + index
        kinds, back = np.unique(mixed, return_inverse=True)
        found = np.zeros((len(kinds), 2), np.int32)
        fields = list(self._who)
        for i, code in enumerate(kinds.tolist()):
            record = {}
            for field, known in zip(reversed(fields), reversed(names), strict=True):
                code, at = divmod(code, len(known))
                record[self._who[field]] = known[at]
            try:
                found[i] = self._spill.code(self._places.who(record))
            except (Bad, Aside) as why:
                wrong.update(dict.fromkeys(np.flatnonzero(back == i).tolist(), str(why)))
        return found[back]

    def _times(self, column: Any, wrong: dict[int, str]) -> Floats:
        if self._pa.types.is_timestamp(column.type):
            unit = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[column.type.unit]
            whole = column.cast(self._pa.int64())
            made = _floats(whole) / unit
        else:
            made = _floats(column)
            size = np.abs(made)
            for bound, unit in ((1e11, 1e3), (1e14, 1e3), (1e17, 1e3)):  # milli-, micro-, nanoseconds
                made = np.where(size > bound, made / unit, made)
        for row in np.flatnonzero(~((made >= EARLIEST) & (made <= LATEST))).tolist():
            wrong.setdefault(row, self._places.never)
        return made

    def _table(
        self, batch: Any, place: str | list[str] | None, width: int, wrong: dict[int, str], reason: str
    ) -> tuple[Array, Floats]:
        """(n,) whether a row has it, and (n, width); a row is without where all of it is null."""
        n = len(batch)
        if place is None:
            return np.zeros(n, np.bool_), np.zeros((n, width))
        if isinstance(place, list):
            made = np.column_stack([_floats(batch.column(c)) for c in place])
            there = np.zeros(n, np.bool_)
            for c in place:
                there |= batch.column(c).is_valid().to_numpy(zero_copy_only=False)
            if made.shape[1] != width:
                wrong.update(dict.fromkeys(range(n), reason))
                return there, np.zeros((n, width))
            return there, made
        column = batch.column(place)
        there = column.is_valid().to_numpy(zero_copy_only=False)
        if not self._pa.types.is_nested(column.type):
            return there, _floats(column)[:, None]
        lengths = _floats(column.value_lengths())
        for row in np.flatnonzero(there & (lengths != width)).tolist():
            wrong.setdefault(row, reason)
        fits = there & (lengths == width)
        made = np.zeros((n, width))
        made[fits] = _floats(column.filter(self._pa.array(fits)).flatten()).reshape(-1, width)
        return there, made


def _values(column: Any) -> list[Any]:
    """As Python objects; None where a text is not UTF-8."""
    try:
        return list(column.to_pylist())
    except ValueError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except ValueError:
        return None


def _floats(column: Any) -> Floats:
    """Float64; null is NaN."""
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
