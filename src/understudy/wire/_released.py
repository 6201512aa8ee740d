"""Released answers as columns to be written: nothing withheld is in them, whatever the arrays hold underneath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from understudy.errors import UsageError
from understudy.types import EXPLANATIONS, Answers, Array, Floats, Signal

Single = Literal["flat", "column"] | None


def columns(answers: Answers, classes: Sequence[str], single: Single) -> dict[Signal, Any]:
    """What is to be written, by signal.

    A label is its index, or its name where there are names: a list of text. A score is float64, shape (n, outputs),
    0 where it is withheld, an explanation as it is; with `single`, one number per row where there are two classes
    or one value. Raises UsageError where the codec's classes are not as many as the endpoint's.
    """
    made: dict[Signal, Any] = {}
    for signal in answers.values:
        value = answers.values[signal]
        if signal is Signal.LABEL:
            made[signal] = _named(value, classes, answers.outputs) if classes else np.ascontiguousarray(value, np.int64)
            continue
        given = answers.present.get(signal)
        explains = signal in EXPLANATIONS
        if signal is Signal.VALUE or explains:  # one NaN for all: the bits that tell them apart can hold anything
            value = np.where(np.isnan(value), np.nan, value)
        if single is not None and not explains and answers.outputs == (1 if signal is Signal.VALUE else 2):
            value = _one(signal, value, answers.mask(signal))
            made[signal] = value if single == "flat" else value[:, None]
        else:
            made[signal] = np.ascontiguousarray(value if given is None else np.where(given, value, 0.0), np.float64)
    return made


def rows(made: Mapping[Signal, Any], fields: Mapping[str, str]) -> Any:
    """Columns as one list with an entry per row: plain where there is one signal without a field name, else objects."""
    if len(made) == 1:
        ((signal, column),) = made.items()
        if signal.value not in fields:
            return column
    names = [fields.get(signal.value, signal.value) for signal in made]
    listed = [column if isinstance(column, list) else column.tolist() for column in made.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*listed, strict=True)]


def named(made: Mapping[Signal, Any], fields: Mapping[str, str]) -> Any:
    """Columns as they are where there is one without a field name, else an object of them."""
    if len(made) == 1:
        ((signal, column),) = made.items()
        if signal.value not in fields:
            return column
    return {fields.get(signal.value, signal.value): column for signal, column in made.items()}


def _named(labels: Array, classes: Sequence[str], outputs: int) -> list[str]:
    if len(classes) != outputs:
        raise UsageError(f"the protocol names {len(classes)} classes; the endpoint has {outputs}")
    return [classes[label] for label in labels.tolist()]


def _one(signal: Signal, value: Floats, given: Any) -> Floats:
    """(n,) of (n, 2), the second class; or of (n, 1). Nothing is told that the two shown entries do not say."""
    if value.shape[1] == 1:
        return np.where(given[:, 0], value[:, 0], 0.0)
    first, second = np.where(given, value, 0.0).T
    if signal is Signal.LOGITS:
        return np.asarray(second - first)  # any constant may be added to a row of logits
    return np.where(given[:, 1], second, np.where(given[:, 0], 1.0 - first, 0.0))
