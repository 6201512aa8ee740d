"""JSON templates: what stands where, read in both directions.

In a template the text "$name" stands for a value, and {"$rows": part} for a list with one `part` per row, in which the
names stand for that row's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from understudy.errors import UsageError
from understudy.wire._codec import shown

MISSING = object()  # a name that stands for nothing: what holds it is left out


def fill(part: Any, names: Mapping[str, Any], rows: Mapping[str, Sequence[Any]]) -> Any:
    """The template with its names replaced: by `names`, within "$rows" by the entries of `rows`, all of a length."""
    if isinstance(part, str):
        return names.get(part, part)
    if isinstance(part, Mapping):
        if "$rows" in part:
            each = (dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True))
            made: Any = [fill(part["$rows"], one, {}) for one in each]
            return MISSING if any(one is MISSING for one in made) else made
        return {key: made for key, value in part.items() if (made := fill(value, names, rows)) is not MISSING}
    if isinstance(part, list | tuple):
        return [made for value in part if (made := fill(value, names, rows)) is not MISSING]
    return part


def place(part: Any, name: str) -> str | None:
    """Where `name` stands in a template, as a JMESPath expression; None where it does not."""
    return next(_places(part, name), None)


def _places(part: Any, name: str) -> Iterator[str]:
    if isinstance(part, str):
        if part == name:
            yield "@"
    elif isinstance(part, Mapping):
        for key, value in part.items():
            for inner in _places(value, name):
                yield _join("[*]" if key == "$rows" else json.dumps(key), inner)
    elif isinstance(part, list | tuple):
        for i, value in enumerate(part):
            for inner in _places(value, name):
                yield _join(f"[{i}]", inner)


def _join(outer: str, inner: str) -> str:
    if inner == "@":
        return outer
    return outer + inner if inner.startswith("[") else f"{outer}.{inner}"


def beyond(part: Any, given: Any, where: str = "") -> Iterator[str]:
    """The fields of `given` that the template does not have, or has with another constant, by name for the log."""
    if isinstance(part, Mapping) and "$rows" in part:
        for row in given if isinstance(given, list) else ():
            yield from beyond(part["$rows"], row, where)
    elif isinstance(part, Mapping) and isinstance(given, dict):
        for key, value in given.items():
            if key in part:
                yield from beyond(part[key], value, f"{where}{shown(key)}.")
            else:
                yield where + shown(key)
    elif isinstance(part, list | tuple) and isinstance(given, list):
        for one, value in zip(part, given, strict=False):
            yield from beyond(one, value, where)
        if len(part) != len(given):
            yield where.removesuffix(".") or "the body"
    elif not (isinstance(part, str) and part.startswith("$")) and part != given:
        yield where.removesuffix(".") or "the body"


def find(expression: str, value: Any) -> Any:
    """What a JMESPath expression finds. Raises ValueError where its functions fail on what they are given."""
    compiled = _compiled(expression)
    try:
        return compiled.search(value)
    except Exception as error:  # whatever the functions in it make of data that they were not written for
        raise ValueError(str(error)[:120]) from None


def check(expression: str, what: str) -> None:
    """Raises UsageError for an expression that is none."""
    try:
        _compiled(expression)
    except JMESPathError as error:
        raise UsageError(f"{what}: {error}") from None


@lru_cache(256)
def _compiled(expression: str) -> Any:
    return jmespath.compile(expression)
