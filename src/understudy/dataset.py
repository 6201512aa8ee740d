"""A manifest's data sections, read: rows of numbers or texts, and their truth where it is given."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from understudy import registry
from understudy.errors import InputError, ManifestError, MissingExtra, UnderstudyError
from understudy.manifest import Data
from understudy.types import Array, Space

_TABLES = (".csv", ".jsonl", ".ndjson", ".parquet")


def load(part: Data, folder: Path, space: Space, where: str, classes: Sequence[str] = ()) -> tuple[Array, Array | None]:
    """Inputs and truth of a data section, checked against the space. `classes`: names that a truth may be given by.

    Raises ManifestError.
    """
    truth: Any = None
    if ":" in part.data:
        found = registry.load_object(part.data)
        if callable(found):
            try:
                found = found()
            except Exception as error:  # the function is the user's
                raise ManifestError(f"{where}.data: {part.data} raised {type(error).__name__}: {error}") from error
        inputs, truth = found if isinstance(found, tuple) else (found, None)
    else:
        inputs, truth = _read(folder / part.data, part, bool(space.shape), where)
    try:
        x = space.check(inputs)
    except InputError as error:
        raise ManifestError(f"{where}.data ({part.data}): {error}") from None
    if truth is None:
        return x, None
    truth = _numbers(truth, classes, where)
    if len(truth) != len(x):
        raise ManifestError(f"{where}.data ({part.data}): {len(x)} inputs but {len(truth)} truths")
    return x, truth


def _numbers(truth: Any, classes: Sequence[str], where: str) -> Array:
    """The truth as numbers: as they are, or the place of a name among the classes."""
    found = np.asarray(truth)
    if found.dtype.kind in "fiub":
        return found
    place = {str(name): i for i, name in enumerate(classes)}
    try:
        return np.array([place[value] if value in place else float(value) for value in map(str, found.tolist())])
    except ValueError:
        named = f"one of {', '.join(classes)}" if classes else "a number (name classes in the protocol's options)"
        raise ManifestError(f"{where}: a truth is not {named}") from None


def _read(path: Path, part: Data, numbers: bool, where: str) -> tuple[Any, Any]:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False), None
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                if "inputs" not in held:
                    raise ManifestError(f"{where}: {path} holds {', '.join(held)}; needs 'inputs' (and 'truth')")
                return held["inputs"], held.get("truth")
        if numbers and path.suffix == ".csv":
            return _table_of_numbers(path, part.truth_column, where)
        if not numbers and path.suffix == ".txt":
            lines = path.read_text(encoding="utf-8").split("\n")
            return [line.removesuffix("\r") for line in lines if line.strip()], None
        if not numbers and path.suffix in _TABLES:
            return _table_of_texts(path, part, where)
    except UnderstudyError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise ManifestError(f"{where}: {path} cannot be read: {error}") from None
    known = ".csv" if numbers else f".txt, {', '.join(_TABLES)}"
    raise ManifestError(f"{where}: {path.name}: expected .npy, .npz, {known}, or module:object")


def _table_of_numbers(path: Path, truth_column: str | None, where: str) -> tuple[Any, Any]:
    with path.open(encoding="utf-8") as file:
        names = [n.strip().strip('"') for n in file.readline().split(",")]
        table = np.loadtxt(file, delimiter=",", ndmin=2)
    if truth_column is None:
        return table, None
    column = names.index(_known(truth_column, names, path, where))
    return np.delete(table, column, 1), table[:, column]


def _table_of_texts(path: Path, part: Data, where: str) -> tuple[Any, Any]:
    """The column that holds the texts (the only one beside the truth where none is named), and the truth's."""
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet as pq
        except ImportError:
            raise MissingExtra("Parquet needs pyarrow: pip install 'understudy[parquet]'") from None
        schema = pq.read_schema(path)
        names = [n for n in schema.names if part.column is None or n in (part.column, part.truth_column)]
        columns = pq.read_table(path, columns=names).to_pydict()
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns = _turned(csv.DictReader(file, strict=True))
    else:
        with path.open("rb") as file:
            columns = _turned(orjson.loads(line) for line in file if line.strip())
    left = [n for n in columns if n != part.truth_column]
    if part.column is None and len(left) != 1:
        raise ManifestError(f"{where}.column: name the column that holds the texts (columns: {', '.join(columns)})")
    texts = columns[_known(part.column or left[0], columns, path, where)]
    return texts, None if part.truth_column is None else columns[_known(part.truth_column, columns, path, where)]


def _turned(records: Iterable[Any]) -> dict[str, list[Any]]:
    """Records as columns. Raises ValueError where one lacks a field of the first."""
    columns: dict[str, list[Any]] = {}
    for i, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise ValueError(f"record {i} is no object")
        columns = columns or {name: [] for name in record}
        for name, column in columns.items():
            if name not in record:
                raise ValueError(f"record {i} has no {name!r}")
            column.append(record[name])
    return columns


def _known(name: str, names: Iterable[str], path: Path, where: str) -> str:
    if name not in names:
        raise ManifestError(f"{where}: {path} has no column {name!r} (columns: {', '.join(names)})")
    return name
