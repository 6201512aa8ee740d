"""A YAML file held against a pydantic model: complaints say file, line, path, what is allowed, the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from understudy.errors import ManifestError

Model = TypeVar("Model", bound=BaseModel)
_UNIONS = (UnionType, Union)


def read(path: Path, model: type[Model], what: str) -> Model:
    """Read and check a file. Raises ManifestError listing every fault with its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines = dict(_lines((), node)) if node else {}
        body = loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ManifestError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{path}: not valid YAML: {error}") from None
    except _Twice as error:
        raise ManifestError(f"{path}:{error.line}: {error}") from None
    if not isinstance(body, dict):
        raise ManifestError(f"{path}:1: {what} is a mapping ({', '.join(_fields(model, ())[:3])}, ...)")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        faults = sorted(_fault(dict(e), lines, model) for e in error.errors())
        raise ManifestError("\n".join(f"{path}:{line}: {message}" for line, message in faults)) from None


def locate(path: Path, *field: str | int) -> str:
    """`file:line: field` of a file that `read` accepts: for faults that show only when it is put to use."""
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    lines: dict[tuple[Any, ...], int] = dict(_lines((), node)) if node else {(): 1}
    known: tuple[Any, ...] = field
    while known not in lines:
        known = known[:-1]
    return f"{path}:{lines[known]}: {'.'.join(map(str, field))}"


class _Twice(Exception):
    line = 0


def _lines(path: tuple[Any, ...], node: yaml.Node) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Every path in a YAML document with its line; a key given twice is refused."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: dict[Any, int] = {}
        for key, value in node.value:
            if key.value in seen:
                twice = _Twice(
                    f"{'.'.join(map(str, (*path, key.value)))} is given twice (first on line {seen[key.value]})"
                )
                twice.line = key.start_mark.line + 1
                raise twice
            seen[key.value] = key.start_mark.line + 1
            for deeper, line in _lines((*path, key.value), value):
                yield deeper, (key.start_mark.line + 1 if deeper == (*path, key.value) else line)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _lines((*path, i), item)


def _fault(error: dict[str, Any], lines: Mapping[tuple[Any, ...], int], model: type[BaseModel]) -> tuple[int, str]:
    """One pydantic error as (line, message)."""
    where = tuple(x for x in error["loc"] if not str(x).startswith("["))  # a key, or which of several parts
    message, context = str(error["msg"]).removeprefix("Value error, "), error.get("ctx", {})
    moved = re.match(r"^((?:\w+\.)+\w+): ", message)
    if error["type"] == "value_error" and moved:
        where, message = tuple(int(p) if p.isdigit() else p for p in moved[1].split(".")), message[moved.end() :]
    found = error.get("input")
    known = where
    while known and known not in lines:
        known = known[:-1]
    shown = (
        f", found {found!r}"
        if isinstance(found, str | int | float | bool | None) and error["type"] != "missing"
        else ""
    )
    if error["type"] == "extra_forbidden":
        allowed = _fields(model, where[:-1])
        message = "unknown field" + _nearest(str(where[-1]), allowed)
        shown = ""
    elif error["type"] in {"enum", "literal_error"}:
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        message = "not allowed" + _nearest(str(found), allowed)
    elif error["type"] == "missing":
        message = "is required and missing"
    return lines.get(known, 1), f"{'.'.join(map(str, where)) or 'the file'}: {message}{shown}"


def _nearest(word: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(word, allowed, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f" (allowed: {', '.join(allowed)}){hint}" if allowed else hint


def _fields(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The fields allowed at a path of the model."""
    part: Any = model
    for step in path:
        models = _models(part)
        if models:
            named = {(f.alias or name): f.annotation for m in models for name, f in m.model_fields.items()}
            part = named.get(step)
        else:
            part = next((a for a in reversed(get_args(part)) if a is not type(None)), None)
        while part is not None and not isinstance(part, type) and type(None) in get_args(part):
            part = next(a for a in get_args(part) if a is not type(None))
    return [f.alias or name for m in _models(part) for name, f in m.model_fields.items()]


def _models(part: Any) -> list[type[BaseModel]]:
    """The models that stand at a place: one, or those of a union."""
    some = [get_args(a)[0] if get_args(a) else a for a in get_args(part)] if get_origin(part) in _UNIONS else [part]
    return [m for m in some if isinstance(m, type) and issubclass(m, BaseModel)]
