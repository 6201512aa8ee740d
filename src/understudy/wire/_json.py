"""JSON as prediction servers speak it, read strictly: duplicate keys refused, bare NaN and Infinity understood."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.errors import AnswerError
from understudy.types import Signal


def write(body: Any) -> bytes:
    """Compact JSON; floats keep every digit."""
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def read(body: bytes) -> Any:
    """The JSON value of a body. Raises AnswerError that shows at most its first 60 characters."""
    try:
        return json.loads(body, object_pairs_hook=_once)
    except (UnicodeDecodeError, ValueError) as error:
        start = body[:60].decode("utf-8", "replace")
        shown = "".join(c if c.isprintable() else " " for c in start).strip()
        what = "HTML" if shown.lower().startswith(("<!doctype", "<html")) else "no JSON"
        why = f": {error}" if isinstance(error, _Twice) else ""
        raise AnswerError(f"the server answered {what}, or half an answer ({shown!r}){why}", body) from None


class _Twice(ValueError):
    """A key is given twice: which one counts is anybody's guess."""


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Twice("a key is given twice")
    return made


def member(value: Any, name: str, body: bytes, where: str = "the answer") -> Any:
    """`value[name]`, or an AnswerError that lists what is there."""
    if not isinstance(value, Mapping) or name not in value:
        there = ", ".join(list(value)[:8]) if isinstance(value, Mapping) else type(value).__name__
        raise AnswerError(f"{where} has no {name!r} (it has: {there})", body)
    return value[name]


def by_signal(
    rows: Any, signals: frozenset[Signal], fields: Mapping[str, str], classes: Sequence[str], body: bytes
) -> dict[str, Any]:
    """Predictions as raw arrays: a list of rows, a list of objects, or an object of columns, picked by field name."""
    if isinstance(rows, Mapping) or (isinstance(rows, list) and rows and isinstance(rows[0], Mapping)):
        found = {}
        for signal in signals:
            name = fields.get(signal.value, signal.value)
            if isinstance(rows, Mapping):
                column = member(rows, name, body)
            else:
                column = [member(row, name, body, f"answer {i}") for i, row in enumerate(rows)]
            found[signal.value] = indexed(column, classes, body) if signal is Signal.LABEL else column
        return found
    if len(signals) != 1:
        wanted = ", ".join(sorted(signals))
        raise AnswerError(f"{wanted} were asked for, and the server answered one unnamed array", body)
    signal = next(iter(signals))
    return {signal.value: indexed(rows, classes, body) if signal is Signal.LABEL else rows}


def indexed(labels: Any, classes: Sequence[str], body: bytes) -> Any:
    """Class names as indices, where the codec was given the names."""
    if not classes or not isinstance(labels, list):
        return labels
    place = {str(name): i for i, name in enumerate(classes)}
    flat = [label[0] if isinstance(label, list) and len(label) == 1 else label for label in labels]
    unknown = next((label for label in flat if str(label) not in place), None)
    if unknown is not None:
        raise AnswerError(
            f"label {str(unknown)[:40]!r} is not one of the {len(classes)} classes (classes changed?)", body
        )
    return [place[str(label)] for label in flat]
