"""From exchanges as they are on record to queries as the watch reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from understudy.history import Row
from understudy.types import Answers, Floats
from understudy.watch import Queries
from understudy.watch.queries import joins


def runs(accounts: Sequence[Sequence[Row]]) -> list[Queries]:
    """Each principal's exchanges as queries, joined as long as the same signals and inputs are there.

    What is alike is put together once for all principals, and cut up again: a query is little beside a call.
    """
    cut = [run for rows in accounts for run in _cut(rows)]
    alike = dict[tuple[object, ...], list[int]]()
    for i, run in enumerate(cut):
        alike.setdefault(_kind(run[0]), []).append(i)
    found = dict[int, Queries]()
    for members in alike.values():
        whole, start = _joined([row for i in members for row in cut[i]]), 0
        for i in members:
            end = start + sum(row.rows for row in cut[i])
            found[i] = _part(whole, slice(start, end), cut[i][0])
            start = end
    return [found[i] for i in range(len(cut))]


def _part(whole: Queries, rows: slice, of: Row) -> Queries:
    return Queries(
        *(of.principal, of.party, whole.at[rows]),
        None if whole.inputs is None else whole.inputs[rows],
        whole.answers.take(rows),
        None if whole.margin is None else whole.margin[rows],
    )


def _cut(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start, kinds = 0, [(row.party, _kind(row)) for row in rows]
    for end in range(1, len(rows) + 1):
        if end == len(rows) or kinds[end] != kinds[start]:
            yield rows[start:end]
            start = end


def _kind(row: Row) -> tuple[object, ...]:
    assert row.answers is not None
    return (
        *joins(row.answers), row.inputs is None, row.margin is None,
        None if row.inputs is None else (row.inputs.dtype == object, row.inputs.shape[1:]),
    )  # fmt: skip


def _joined(rows: Sequence[Row]) -> Queries:
    kept = [r.inputs for r in rows if r.inputs is not None]
    inputs = [x if x.dtype == object else x.reshape(len(x), -1) for x in kept]  # texts, or rows of numbers
    margins = [r.margin for r in rows if r.margin is not None]
    return Queries(
        *("", "", np.repeat([r.at for r in rows], [r.rows for r in rows])),
        np.concatenate(inputs) if inputs else None,
        Answers.concat([r.answers for r in rows if r.answers is not None]),
        np.concatenate(margins) if margins else None,
    )


def before(at: Floats, made: float) -> int:
    """How many queries come before the first of that time or later."""
    if at[0] >= made:
        return 0
    late = at >= made
    return int(late.argmax()) if late.any() else len(at)
