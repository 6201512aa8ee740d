"""What machines tell each other of what was asked: entries of a stream that others may write to. Numbers, texts
and JSON, no code; what is not as it should be is no entry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from understudy.errors import RecordError
from understudy.guard import DAY
from understudy.history import Kept, Place, Row
from understudy.store import frame, join_answers, split_answers, unframe
from understudy.types import Answers, Array, Signal

_TEXTS = ("principal", "party", "tier", "route", "version", "rule")
_NAMED = 4096  # characters that a name may have


class Aside(NamedTuple):
    """A response has ended and nothing else is in force: the evidence against these accounts is set aside, here among
    their queries. `known`: the human who knows them, and when that was said.
    """

    response: str
    principals: tuple[str, ...]
    known: tuple[str, float] | None = None


class Entry(NamedTuple):
    """One exchange as the stream holds it. `machine`, `worker`, `place`: where it is on record."""

    machine: str
    worker: str
    place: Place
    row: Row


def pack_exchange(machine: str, number: int, kept: Kept) -> bytes:
    """An exchange of this machine's record; of the inputs, what the record keeps as they were asked."""
    row = kept.row
    assert row.answers is not None
    arrays: dict[str, Array] = dict(split_answers(row.answers))
    arrays |= {name: a for name, a in (("inputs", row.inputs), ("margin", row.margin)) if a is not None}
    return frame(
        arrays, kind="row", machine=machine, worker=kept.worker, number=number, seq=kept.seq, at=row.at,
        texts=[getattr(row, name) for name in _TEXTS], status=row.status, rows=row.rows, outputs=row.answers.outputs,
        context={key: value[:_NAMED] for key, value in row.context.items()},
    )  # fmt: skip


def pack_aside(aside: Aside) -> bytes:
    """Evidence set aside."""
    return frame({}, kind="aside", response=aside.response, principals=aside.principals, known=aside.known)


def unpack(blob: bytes, now: float) -> Entry | Aside | None:
    """The inverse of both; None where it is neither."""
    try:
        arrays, head = unframe(blob)
        if head["kind"] == "aside":
            known = head["known"]
            principals = tuple(map(_text, head["principals"]))
            return Aside(_text(head["response"]), principals, known and (_text(known[0]), float(known[1])))
        place = Place(_count(head["number"]), _count(head["seq"]))
        return Entry(_text(head["machine"]), _text(head["worker"]), place, _row(arrays, head, now))
    except (RecordError, ValueError, LookupError, TypeError, OverflowError, AttributeError):
        return None


def _row(arrays: Mapping[str, Array], head: Mapping[str, Any], now: float) -> Row:
    at, n, outputs = float(head["at"]), _count(head["rows"]), _count(head["outputs"])
    answers, inputs, margin = join_answers(arrays, outputs), arrays.get("inputs"), arrays.get("margin")
    lengths = {len(a) for a in (*answers.values.values(), inputs, margin) if a is not None}
    if not 0 <= at <= now + DAY or lengths != {n} or not n or not _sound(answers):
        raise ValueError("no exchange")
    if inputs is not None and inputs.dtype != object:  # no texts
        inputs = np.asarray(inputs, np.float64).reshape(n, math.prod(inputs.shape[1:]))
    texts = [_text(text) for text in head["texts"]]
    context = {_text(key): _text(value) for key, value in head["context"].items()}
    margin = None if margin is None else np.asarray(margin, np.float64).reshape(n)
    who, party, tier, route, version, rule = texts
    return Row(
        at, who, party, tier, route, version, rule, _count(head["status"]), n, inputs, answers, margin, False, context
    )


def _sound(answers: Answers) -> bool:
    for signal, values in answers.values.items():
        if signal is Signal.LABEL:
            right = values.ndim == 1 and values.dtype.kind in "iu" and 0 <= values.min() <= values.max()
            right = right and values.max() < max(answers.outputs, 2)
        elif signal in (Signal.PROBABILITIES, Signal.LOGITS):
            right = values.ndim == 2 and values.shape[1] == answers.outputs and values.dtype.kind == "f"
        else:
            right = values.dtype.kind in "fiub"
        mask = answers.present.get(signal)
        if not right or (mask is not None and (mask.shape != values.shape or mask.dtype.kind != "b")):
            return False
    return all(signal in answers.values for signal in answers.present)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _NAMED:
        raise ValueError("no name")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError("no count")
    return value
