"""Name -> plug-in, lazily: listing imports nothing, creating imports one module.

Each plug-in folder holds `CATALOG = {"name": "module:Object"}`. Outsiders use the entry point group
`understudy.<kind>`; a built-in wins over an entry point of the same name.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import sys
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from understudy.errors import MissingExtra, UnknownName, UsageError

KINDS = ("attacks", "defences", "detectors", "learners", "metrics", "targets", "protocols")
_FOLDER = {"protocols": "wire"}  # where the command line's word and the room's name differ


def names(kind: str) -> dict[str, str]:
    """Every name of a kind and where it lives, sorted. Imports no plug-in."""
    if kind not in KINDS:
        raise UnknownName(f"unknown kind of plug-in {kind!r}; there are: {', '.join(KINDS)}")
    outside = _outside(kind, tuple((place, _changed(place)) for place in sys.path))
    built_in: dict[str, str] = importlib.import_module(f"understudy.{_FOLDER.get(kind, kind)}").CATALOG
    return dict(sorted({**outside, **built_in}.items()))


@lru_cache(maxsize=64)
def _outside(kind: str, places: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """The entry points of a kind. A file per package is read, so only when a place that is searched has changed."""
    return {point.name: point.value for point in entry_points(group=f"understudy.{kind}")}


def _changed(place: str) -> int:
    try:
        return os.stat(place or os.curdir).st_mtime_ns
    except OSError:
        return 0


def load(kind: str, name: str) -> Any:
    """The class (or module) behind a name. Raises UnknownName with the nearest valid name, or MissingExtra."""
    known = names(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" - did you mean {near[0]!r}?" if near else ""
        raise UnknownName(f"no {kind[:-1]} is called {name!r}{hint} (known: {', '.join(known) or 'none'})")
    return load_object(known[name])


def create(kind: str, name: str, **options: Any) -> Any:
    """A configured plug-in. Raises UsageError when an option is not one of its fields."""
    factory = load(kind, name)
    try:
        return factory(**options)
    except TypeError as error:
        fields = ", ".join(options_of(factory)) or "none"
        raise UsageError(f"{kind[:-1]} {name!r} cannot be made with {options}: {error} (options: {fields})") from None


def options_of(factory: Any) -> list[str]:
    """The names of a plug-in's options."""
    if not dataclasses.is_dataclass(factory):
        return []
    return [f.name for f in dataclasses.fields(factory) if f.init and f.name != "fitted"]  # that is learnt, not given


def load_object(path: str) -> Any:
    """The object named `module:object`. Raises UsageError (or MissingExtra) saying what is missing."""
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name:
        raise UsageError(f"{path!r} is not of the form 'module:object'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise MissingExtra(f"{path} needs the library {error.name!r}: pip install {error.name}") from error
        raise UsageError(f"{path}: no module named {error.name!r}; is it installed, or beside the manifest?") from None
    except Exception as error:  # the module is the user's: whatever it does at import, one line says so
        raise UsageError(f"{path}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    found: Any = module
    for part in attribute.split(".") if attribute else ():
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{path}: {module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    return found
