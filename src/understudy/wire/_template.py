"""JSON templates: what stands where, read in both directions.

In a template the text "$name" stands for a value, and {"$rows": part} for a list with one `part` per row, in which the
names stand for that row's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from understudy.errors import UsageError
from understudy.wire._codec import shown

Path = tuple[str | int | None, ...]
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


def place(part: Any, name: str) -> Path | None:
    """Where `name` stands in a template: keys and indices, None for every row; or None where it does not."""
    if isinstance(part, str):
        return () if part == name else None
    if isinstance(part, Mapping):
        steps: list[tuple[Any, Any]] = [(None if key == "$rows" else key, value) for key, value in part.items()]
    else:
        steps = list(enumerate(part)) if isinstance(part, list | tuple) else []
    for step, value in steps:
        inner = place(value, name)
        if inner is not None:
            return (step, *inner)
    return None


def follow(path: Path, value: Any) -> Any:
    """What is at a place, of every row where the place is in rows. Raises ValueError where there is nothing."""
    for i, step in enumerate(path):
        if step is None:
            if not isinstance(value, list):
                raise ValueError("not a list of rows")
            return [follow(path[i + 1 :], row) for row in value]
        try:
            value = value[step]
        except (LookupError, TypeError):
            raise ValueError(f"no {step!r}") from None
    return value


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
