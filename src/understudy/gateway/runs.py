"""From exchanges as they are on record to queries as the watch reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from understudy.history import Row
from understudy.types import Answers, Floats
from understudy.watch import Queries


def runs(rows: Sequence[Row], segment: str | None) -> Iterator[Queries]:
    """One principal's exchanges as queries, joined as long as the same signals and inputs are there."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or _kind(rows[end]) != _kind(rows[start]):
            yield _joined(rows[start:end], segment)
            start = end


def _kind(row: Row) -> tuple[object, ...]:
    assert row.answers is not None
    return (
        frozenset(row.answers.values), row.answers.outputs, row.inputs is None, row.margin is None, row.party,
        None if row.inputs is None else (row.inputs.dtype == object, row.inputs.shape[1:]),
    )  # fmt: skip


def _joined(rows: Sequence[Row], segment: str | None) -> Queries:
    kept = [r.inputs for r in rows if r.inputs is not None]
    inputs = [x if x.dtype == object else x.reshape(len(x), -1) for x in kept]  # texts, or rows of numbers
    margins = [r.margin for r in rows if r.margin is not None]
    return Queries(
        *(rows[0].principal, rows[0].party, np.repeat([r.at for r in rows], [r.rows for r in rows])),
        np.concatenate(inputs) if inputs else None,
        Answers.concat([r.answers for r in rows if r.answers is not None]),
        np.concatenate(margins) if margins else None,
        segment=segment,
    )


def before(at: Floats, made: float) -> int:
    """How many queries come before the first of that time or later."""
    late = at >= made
    return 0 if late[0] else int(late.argmax()) if late.any() else len(at)
