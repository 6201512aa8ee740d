"""Where a record says what: columns, dotted paths, JMESPath expressions; and each format's own places."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jmespath
import orjson
from jmespath.exceptions import JMESPathError

from understudy.logs._layout import Who
from understudy.logs._rows import AUDIT, name, seconds
from understudy.manifest_logs import LogsPart
from understudy.types import Signal

Record = Mapping[str, Any]
Get = Callable[[Record], Any]
Segment = Callable[[str, str], str | None]

_PLAIN = re.compile(r"[\w-]+(\.[\w-]+)*")
_FORMATS = {
    "kserve": LogsPart(principal='metadata."x-principal"', time="time", id="id"),
    "sagemaker": LogsPart(
        principal="eventMetadata.customAttributes[0]", time="eventMetadata.inferenceTime", id="eventMetadata.eventId"
    ),
    "litellm": LogsPart(
        principal="metadata.user_api_key_hash || end_user",
        party="metadata.user_api_key_team_id || metadata.user_api_key_org_id",
        time="startTime",
        id="id",
        inputs="messages[-1].content",
        answers={Signal.LABEL: "response.choices[0].message.content"},
    ),
    "table": LogsPart(principal="principal", party="party", time="at", inputs="inputs"),
}


def format_of(record: Record) -> str:
    """Which format a record is of, by its own marks."""
    if "captureData" in record:
        return "sagemaker"
    if "specversion" in record and str(record.get("type", "")).startswith("org.kubeflow.serving.inference."):
        return "kserve"
    if "call_type" in record and "startTime" in record and "metadata" in record:
        return "litellm"
    return "table"


AGAIN = "the same id again"


class Bad(Exception):
    """A record that cannot be used, and why; the reason repeats nothing of it."""


class Aside(Exception):
    """A sound record that is left out, and why."""


class Places:
    """A format's own places, the manifest's in their stead where it gives any."""

    def __init__(self, kind: str, part: LogsPart, segment: Segment, text: bool = False, texts: bool = False) -> None:
        """`text`: all cells are text, as in CSV; `texts`: inputs are."""
        own, self._segment_of, self._audits = _FORMATS[kind], segment, frozenset(part.audits)

        def place(field: str) -> str | None:
            found: str | None = getattr(part, field) or getattr(own, field)
            return found

        self.paths = {f: place(f) for f in ("principal", "party", "time", "segment", "id", "margin")}
        self._get = {f: getter(path) for f, path in self.paths.items() if path}
        self.nobody, self.never = (_lacking(f, getattr(part, f), self.paths[f]) for f in ("principal", "time"))
        self.inputs_at = part.inputs or ("messages" if texts and kind == "litellm" else own.inputs)
        self.answers_at = part.answers or own.answers
        self.inputs = values(self.inputs_at, text and not texts) if self.inputs_at else _nothing
        if texts:
            found = self.inputs
            self.inputs = lambda record: said(found(record))
        self.answers = {s: values(path, text) for s, path in self.answers_at.items()}

    def who(self, record: Record) -> Who:
        """Whose record it is. Raises Bad, or Aside where it is the owner's."""
        principal = name(self._get["principal"](record))
        if principal is None:
            raise Bad(self.nobody)
        if principal in self._audits:
            raise Aside(AUDIT)
        party = name(self._get["party"](record)) if "party" in self._get else None
        segment = name(self._get["segment"](record)) if "segment" in self._get else None
        return Who(principal, party or principal, segment or self._segment_of(principal, party or principal))

    def at(self, record: Record) -> float:
        """When. Raises Bad."""
        found = seconds(self._get["time"](record))
        if found is None:
            raise Bad(self.never)
        return found

    def id(self, record: Record) -> Any:
        """The record's id, where it has one."""
        found = self._get["id"](record) if "id" in self._get else None
        return found if isinstance(found, str | int) else None

    def margin(self, record: Record) -> Any:
        """The owner-side margin, where it is logged."""
        return self._get["margin"](record) if "margin" in self._get else None


def _lacking(field: str, named: str | None, place: str | None) -> str:
    """Why a record cannot be used that has nothing at a place, the manifest's or the format's own."""
    if named is not None and _expression(named) is None and not _PLAIN.fullmatch(named):
        return f"no {field}: there is no column {named!r}, and it is no JMESPath expression"
    if named is not None:
        return f"no {field} where monitor.logs.{field} says"
    return f"no {field} at {place}: name its place in monitor.logs.{field}"


def getter(path: str) -> Get:
    """What looks up a place: a column of that name, else what the path or the expression finds."""
    if _PLAIN.fullmatch(path):
        steps = path.split(".")
        if len(steps) == 1:
            return lambda record: record.get(path)

        def walk(record: Record) -> Any:
            if path in record:
                return record[path]
            found: Any = record
            for step in steps:
                found = found.get(step) if isinstance(found, Mapping) else None
            return found

        return walk
    expression = _expression(path)
    if expression is None:
        return lambda record: record.get(path)  # "od280/od315", "mean radius (cm)"

    def search(record: Record) -> Any:
        if path in record:
            return record[path]
        try:
            return expression.search(record)
        except JMESPathError:  # a function met a value of another type
            return None

    return search


def _expression(path: str) -> Any:
    """The JMESPath expression; None where it is none."""
    try:
        return jmespath.compile(path)
    except JMESPathError:
        return None


def values(place: str | list[str], text: bool) -> Get:
    """What looks up a list of numbers: at one place (JSON text where everything is text), or a column for each."""
    if isinstance(place, str):
        get = getter(place)
        return (lambda record: _json(get(record))) if text else get
    columns = [getter(path) for path in place]
    if all(_PLAIN.fullmatch(path) and "." not in path for path in place):

        def pick(record: Record) -> Any:
            found = [record.get(path) for path in place]
            return None if all(x is None or x == "" for x in found) else found

        return pick

    def look(record: Record) -> Any:
        found = [get(record) for get in columns]
        return None if all(x is None or x == "" for x in found) else found

    return look


def said(value: Any) -> Any:
    """A chat's text: what its user said, or the text parts of one message, line by line. Anything else as it is."""
    messages = [value] if isinstance(value, Mapping) else value
    if not (isinstance(messages, list) and messages and all(isinstance(m, Mapping) for m in messages)):
        return value
    if not any("content" in m or "text" in m for m in messages):
        return value
    users = [m for m in messages if m.get("role", "user") == "user"] or messages
    parts = [part for m in users for part in _parts(m)]
    return "\n".join(parts) if parts else None


def _parts(message: Record) -> list[str]:
    content = message.get("content", message.get("text"))
    listed = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in listed]
    return [text for text in texts if isinstance(text, str)]


def _json(value: Any) -> Any:
    """A list out of a cell; what is no list is left as it is."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.startswith("["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _nothing(record: Record) -> Any:
    return None
