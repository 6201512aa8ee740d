"""One exchange as the gateway keeps it: a row, its bytes, and its link of the chain. Nothing here touches a file.

A link covers the previous link, what stays of a row for good (when, under which rule, how many) and a salted digest of
what can be erased (who, what was asked and answered). An erased row keeps that digest, so its link still holds; without
its salt the digest says nothing about what was erased.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from understudy.errors import HistoryError, RecordError
from understudy.store import frame, join_answers, split_answers, unframe
from understudy.types import Answers, Array, Exchange, Floats

NOTHING: Mapping[str, Any] = MappingProxyType({})
START = bytes(32)  # the link before a worker's first row
SALT = 16
COLUMNS = (
    *("seq", "at", "principal", "party", "tier", "route", "version", "rule", "status", "rows", "audit"),
    *("low", "high", "total", "context", "salt", "body", "content", "link"),
)
_NUMBERS = struct.Struct("<qdddqqqB")
_SIZES = struct.Struct("<II")


class Row(NamedTuple):
    """Who asked what, by which rule, and what they received. `at`: Unix seconds; `rows`: queries in this request.

    `version`: digest of the manifest; `answers`: as released, None where nothing was; `margin` (owner's side, never
    released): gap of the two largest upstream scores; `audit`: asked by the owner's own audit, not for billing.
    """

    at: float
    principal: str
    party: str
    tier: str
    route: str
    version: str
    rule: str
    status: int
    rows: int
    inputs: Array | None = None
    answers: Answers | None = None
    margin: Floats | None = None
    audit: bool = False
    context: Mapping[str, str] = NOTHING


class Kept(NamedTuple):
    """A row as it was read back. `prints`: what stands for the inputs where they were not kept whole, by name.

    "signs" (n,) uint64 and "norms" (n,) float64 of a sketch; "hashes" (n, 16) uint8. `erased`: when, else None.
    """

    worker: str
    seq: int
    row: Row
    prints: Mapping[str, Array] = NOTHING
    erased: float | None = None

    def exchange(self) -> Exchange | None:
        """What detectors and replay read; None where inputs or answers are not there."""
        row = self.row
        if row.inputs is None or row.answers is None:
            return None
        return Exchange(row.principal, row.party, row.at, row.inputs, None, row.answers)


class Head(NamedTuple):
    """Where a worker's chain ends. Kept elsewhere (a log, a ticket), it makes a cut-off end visible to `verify`."""

    seq: int = 0
    link: bytes = START


class Running(NamedTuple):
    """What the rows of a segment add up to: earliest and latest time, and queries. Each row carries it so far."""

    low: float
    high: float
    total: int

    def plus(self, at: float, rows: int) -> Running:
        return Running(min(self.low, at), max(self.high, at), self.total + rows)


EMPTY = Running(float("inf"), float("-inf"), 0)

#: (inputs) -> arrays by name that are kept of them
Take = Callable[[Array], Mapping[str, Array]]


def pack_row(row: Row, take: Take) -> bytes:
    """The arrays of a row as bytes; `take` says what is kept of its inputs."""
    arrays = {} if row.inputs is None else dict(take(row.inputs))
    if row.margin is not None:
        arrays["margin"] = row.margin
    if row.answers is None:
        return frame(arrays)
    return frame(arrays | split_answers(row.answers), outputs=row.answers.outputs)


def seal(
    worker: str, head: Head, so_far: Running, row: Row, body: bytes, salt: bytes
) -> tuple[tuple[Any, ...], Head, Running]:
    """The values of a row in the order of COLUMNS, and the chain and sums after it."""
    at, principal, party, tier, route, version, rule, status, rows, _, _, _, audit, context = row
    "".join((principal, party, *row[3:7]))  # texts, or TypeError: a batch is one statement, and fails as one
    at, status, rows = float(at), int(status), int(rows)
    if not isfinite(at):
        raise ValueError(f"its time is {at}")
    notes = orjson.dumps(dict(context)) if context else b"{}"
    after, seq = so_far.plus(at, rows), head.seq + 1
    content = content_digest(principal, party, notes, salt, body)
    link = link_of(head.link, content, worker, (seq, at, *after[:2], rows, after.total, status, audit), row[3:7])
    values = (
        *(seq, at, principal, party, tier, route, version, rule, status, rows, int(audit)),
        *(*after, notes, salt, body, content, link),
    )
    return values, Head(seq, link), after


def content_digest(principal: str, party: str, notes: bytes, salt: bytes, body: bytes) -> bytes:
    """SHA-256 over everything of a row that `erase` blanks."""
    names = orjson.dumps([principal, party])
    return hashlib.sha256(b"".join((salt, _SIZES.pack(len(names), len(notes)), names, notes, body))).digest()


def link_of(
    previous: bytes, content: bytes, worker: str, numbers: tuple[Any, ...], texts: tuple[str, str, str, str]
) -> bytes:
    """SHA-256 over the previous link, the content and everything that stays of a row."""
    return hashlib.sha256(
        b"".join((previous, content, _NUMBERS.pack(*numbers), orjson.dumps([worker, *texts])))
    ).digest()


def relink(worker: str, previous: bytes, values: tuple[Any, ...], erased: bool) -> bytes:
    """What the link of a row that was read ought to be; an erased row is taken at its content digest."""
    seq, at, principal, party, *_, status, rows, audit, low, high, total, notes, salt, body, content, _ = values
    if not erased and content_digest(principal, party, notes, salt, body) != content:
        return b""
    return link_of(previous, content, worker, (seq, at, low, high, rows, total, status, audit), values[4:8])


def read_row(worker: str, values: tuple[Any, ...], erased: float | None) -> Kept:
    """A row from the values of COLUMNS. Raises HistoryError when its bytes are damaged."""
    seq, at, principal, party, tier, route, version, rule, status, rows, audit, _, _, _, notes, _, body, _, _ = values
    if erased is not None:
        row = Row(at, "", "", tier, route, version, rule, status, rows, audit=bool(audit))
        return Kept(worker, seq, row, NOTHING, erased)
    try:
        arrays, head = unframe(body)
        context = orjson.loads(notes)
    except (RecordError, ValueError, TypeError) as error:
        raise HistoryError(f"worker {worker}, row {seq}: {error}") from None
    answers = join_answers(arrays, head["outputs"]) if "outputs" in head else None
    row = Row(
        *(at, principal, party, tier, route, version, rule, status, rows),
        arrays.get("inputs"),
        answers,
        arrays.get("margin"),
        bool(audit),
        context,
    )
    return Kept(worker, seq, row, {n: arrays[n] for n in ("signs", "norms", "hashes") if n in arrays})
