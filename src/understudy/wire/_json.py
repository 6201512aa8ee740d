"""JSON as prediction servers speak it: read by orjson, and by the standard library where a server writes NaN.

Of a key given twice the last counts, here and in what is sent on: bodies are always written anew from what was read.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from understudy import texts
from understudy.errors import AnswerError, UsageError
from understudy.types import Array, Floats, Signal
from understudy.wire._codec import Message, RequestError

_NOT_NUMBERS = "not a rectangular array of numbers (ragged rows, or text?)"


def write(body: Any) -> bytes:
    """Compact JSON; float64 keeps every digit; NaN and infinities become null. Raises UsageError."""
    try:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, RecursionError) as error:
        raise UsageError(f"this cannot be written as JSON: {error}") from None


def read(message: Message) -> Any:
    """The JSON value of an answer, bare NaN and Infinity understood.

    Raises AnswerError that shows at most the first 60 characters.
    """
    body = message.body
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        start = body[:60].decode("utf-8", "replace")
        seen = "".join(c if c.isprintable() else " " for c in start).strip()
        what = "HTML" if seen.lower().startswith(("<!doctype", "<html")) else "no JSON"
        told = f"the server answered {what}, or half an answer"
        raise AnswerError(f"{told} ({seen!r})", body, told) from None


def asked(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object of a request. Raises RequestError."""
    request = value(body, headers)
    if type(request) is not dict:
        raise RequestError(400, "the body is not a JSON object")
    return request


def value(body: bytes, headers: Mapping[str, str]) -> Any:
    """The JSON value of a request; NaN, Infinity and numbers beyond float64 are refused. Raises RequestError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        kind = headers.get("content-type", "json").lower()
        if "json" not in kind and "octet-stream" not in kind:
            raise RequestError(415, "send JSON, as application/json") from None
        raise RequestError(400, "the body is not JSON (NaN and Infinity are none)") from None


def rows(data: Any, shape: tuple[int, ...]) -> Array:
    """A request's rows, shape (n, *shape): lists of numbers, nothing else; texts where `shape` is ().

    Text is never read as a number, nor a number as text, and memory is taken only for what is there. Raises
    RequestError.
    """
    if not isinstance(data, list | tuple) or not data:
        raise RequestError(400, "the inputs are not a list of rows")
    if not shape:
        return _texts(data)
    level: Any = data
    try:
        for size in shape:
            if set(map(len, level)) != {size}:
                raise RequestError(400, f"each input must have shape {list(shape)}")
            level = list(chain.from_iterable(level))
        return np.frombuffer(array("d", level)).reshape(len(data), *shape)
    except (TypeError, OverflowError):
        raise RequestError(400, f"each input must be numbers in shape {list(shape)}") from None


def _texts(data: Sequence[Any]) -> Array:
    """Texts, each as it is or alone in a list: a table of one column."""
    if type(data[0]) is not str:
        if not all(isinstance(row, list | tuple) and len(row) == 1 for row in data):
            raise RequestError(400, "each input must be a text")
        data = [row[0] for row in data]
    if not all(type(text) is str for text in data):
        raise RequestError(400, "each input must be a text")
    return texts.array(data)


def numbers(value: Any, raw: bytes, what: str = "the answer") -> Floats:
    """An answer's array of any shape; null is NaN. Raises AnswerError."""
    try:
        if type(value) is list and value and type(value[0]) is list:
            size = len(value[0])
            if set(map(len, value)) == {size}:
                return np.frombuffer(array("d", list(chain.from_iterable(value)))).reshape(len(value), size)
        elif type(value) is list:
            return np.frombuffer(array("d", value))
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise AnswerError(f"{what}: {_NOT_NUMBERS}", raw) from None


def member(value: Any, name: str, raw: bytes, where: str = "the answer") -> Any:
    """`value[name]`, or an AnswerError that lists what is there."""
    if not isinstance(value, dict) or name not in value:
        there = ", ".join(key[:30] for key in list(value)[:6]) if isinstance(value, dict) else type(value).__name__
        raise AnswerError(f"{where} has no {name!r} (it has: {there})", raw)
    return value[name]


def by_signal(
    found: Any, signals: frozenset[Signal], fields: Mapping[str, str], classes: Sequence[str], raw: bytes
) -> dict[str, Array]:
    """Predictions as raw arrays: a list of rows, a list of objects, or an object of columns, picked by field name."""
    if isinstance(found, Mapping) or (isinstance(found, list) and found and isinstance(found[0], Mapping)):
        columns = {}
        for signal in signals:
            name = fields.get(signal.value, signal.value)
            if isinstance(found, Mapping):
                column = member(found, name, raw)
            else:
                column = [member(row, name, raw, f"answer {i}") for i, row in enumerate(found)]
            columns[signal.value] = column_of(signal, column, classes, raw)
        return columns
    if len(signals) != 1:
        wanted = ", ".join(sorted(signals))
        raise AnswerError(f"{wanted} were asked for, and the server answered one unnamed array", raw)
    signal = next(iter(signals))
    return {signal.value: column_of(signal, found, classes, raw)}


def column_of(signal: Signal, column: Any, classes: Sequence[str], raw: bytes) -> Array:
    """One signal's raw array: numbers, or class names as indices where the codec was given the names."""
    if signal is not Signal.LABEL or not classes or not isinstance(column, list):
        return numbers(column, raw, signal.value)
    place = {str(name): i for i, name in enumerate(classes)}
    flat = [label[0] if isinstance(label, list) and len(label) == 1 else label for label in column]
    if not all(isinstance(label, str | int | float) for label in flat):
        raise AnswerError("label: not a list of class names", raw)
    unknown = next((label for label in flat if str(label) not in place), None)
    if unknown is not None:
        told = f"is not one of the {len(classes)} classes (classes changed?)"
        raise AnswerError(f"label {str(unknown)[:40]!r} {told}", raw, f"a label {told}")
    return np.array([place[str(label)] for label in flat], np.int64)
