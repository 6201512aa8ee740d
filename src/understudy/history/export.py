"""A history as Parquet: one row per exchange, inputs and answers as lists, nobody by name."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import HistoryError, MissingExtra
from understudy.history.inputs import derive, flat_rows
from understudy.history.rows import Kept
from understudy.types import Array, Signal

SCHEMA = "1"
_GROUP = 4096  # exchanges of one row group, at most
_VALUES = 2**21  # numbers of one row group, roughly
_TABLES = (Signal.VALUE, Signal.PROBABILITIES, Signal.LOGITS)


def export(rows: Iterable[Kept], key: bytes, path: Path) -> int:
    """Write `path` whole or not at all, for its owner only; returns the number of exchanges.

    Request context (addresses, agents, request ids) stays behind. Withheld entries are null; so is who was erased.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("export needs pyarrow: pip install 'understudy[parquet]'") from None
    secret, part, written = derive(key, "export"), path.with_name(f".{path.name}.part"), 0

    @lru_cache(65_536)
    def pseudonym(name: str) -> str | None:
        return hmac.digest(secret, name.encode(), "sha256")[:16].hex() if name else None

    schema = _schema(pa)
    try:
        with open(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                for group in _groups(rows):
                    writer.write_table(_table(pa, schema, group, pseudonym))
                    written += len(group)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as error:
        raise HistoryError(f"{path} cannot be written: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return written


def _schema(pa: Any) -> Any:
    text, when, numbers = pa.string(), pa.timestamp("us", "UTC"), pa.list_(pa.float64())
    fields = [("at", when), ("worker", text), ("seq", pa.int64()), ("principal", text), ("party", text)]
    fields += [(name, text) for name in ("tier", "route", "version", "rule")]
    fields += [("status", pa.int32()), ("rows", pa.int64()), ("audit", pa.bool_()), ("erased", when)]
    fields += [("shape", pa.list_(pa.int64())), ("inputs", pa.list_(numbers)), ("texts", pa.list_(text))]
    fields += [("signs", pa.list_(pa.uint64())), ("norms", numbers), ("hashes", pa.list_(pa.binary(16)))]
    fields += [("label", pa.list_(pa.int64())), *((signal.value, pa.list_(numbers)) for signal in _TABLES)]
    fields += [("margin", numbers)]
    return pa.schema(fields, metadata={"understudy.kind": "history", "understudy.schema": SCHEMA})


def _groups(rows: Iterable[Kept]) -> Iterable[list[Kept]]:
    group: list[Kept] = []
    size = 0
    for kept in rows:
        group.append(kept)
        x = kept.row.inputs
        size += 0 if x is None else sum(map(len, x.tolist())) // 8 if x.dtype == object else x.size
        size += sum(v.size for v in kept.row.answers.values.values()) if kept.row.answers else 0
        if len(group) == _GROUP or size >= _VALUES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(pa: Any, schema: Any, group: list[Kept], pseudonym: Any) -> Any:
    rows = [kept.row for kept in group]
    texts = [None if row.inputs is None or row.inputs.dtype != object else row.inputs.tolist() for row in rows]
    inputs = [row.inputs if text is None else None for row, text in zip(rows, texts, strict=True)]
    given = [{} if row.answers is None else row.answers.values for row in rows]
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in rows] for name in ("tier", "route", "version", "rule")
    }
    columns |= {name: [getattr(row, name) for row in rows] for name in ("status", "rows", "audit")}
    columns |= {"worker": [kept.worker for kept in group], "seq": [kept.seq for kept in group]}
    columns |= {"at": [round(row.at * 1e6) for row in rows], "principal": [pseudonym(row.principal) for row in rows]}
    columns |= {"party": [pseudonym(row.party) for row in rows]}
    columns |= {"erased": [None if kept.erased is None else round(kept.erased * 1e6) for kept in group]}
    columns |= {"shape": [None if x is None else list(x.shape[1:]) for x in inputs]}
    columns |= {"inputs": _nested(pa, inputs), "texts": texts}
    for name, kind in (("signs", np.uint64), ("norms", np.float64)):
        columns[name] = _flat(pa, [kept.prints.get(name) for kept in group], kind)
    columns["hashes"] = [
        None if (h := kept.prints.get("hashes")) is None else [r.tobytes() for r in h] for kept in group
    ]
    columns["label"] = _flat(pa, [values.get(Signal.LABEL) for values in given], np.int64)
    for signal in _TABLES:
        masks = [row.answers.mask(signal) if row.answers and signal in row.answers else None for row in rows]
        columns[signal.value] = _nested(pa, [values.get(signal) for values in given], masks)
    columns["margin"] = _flat(pa, [row.margin for row in rows], np.float64)
    built = [c if isinstance(c := columns[f.name], pa.Array) else pa.array(c, f.type) for f in schema]
    return pa.Table.from_arrays(built, schema=schema)


def _flat(pa: Any, arrays: list[Array | None], kind: Any) -> Any:
    """One list of numbers per exchange; null where there is none."""
    parts = [np.zeros(0, kind) if a is None else np.asarray(a, kind).ravel() for a in arrays]
    return _lists(pa, [None if a is None else a.size for a in arrays], pa.array(_joined(parts, kind)))


def _nested(pa: Any, arrays: list[Array | None], masks: list[Array | None] | None = None) -> Any:
    """One list of rows per exchange, each a list of numbers; null where there is none, or an entry was withheld."""
    there = [flat_rows(a) for a in arrays if a is not None]
    values = _joined([a.ravel() for a in there], np.float64)
    hidden = None if masks is None else ~_joined([m.ravel() for m in masks if m is not None], np.bool_)
    inner = _lists(pa, np.repeat([a.shape[1] for a in there], [len(a) for a in there]), pa.array(values, mask=hidden))
    return _lists(pa, [None if a is None else len(a) for a in arrays], inner)


def _joined(parts: list[Array], kind: Any) -> Array:
    return np.concatenate([np.zeros(0, kind), *parts]).astype(kind, copy=False)


def _lists(pa: Any, lengths: Any, values: Any) -> Any:
    ends = np.concatenate([[0], np.cumsum([n or 0 for n in lengths])]).astype(np.int32)
    missing = pa.array([n is None for n in lengths], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends), values, mask=missing)
