"""The gateway's own record: its segments as they are, and the Parquet files it exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy import texts
from understudy.errors import UnderstudyError
from understudy.history import History, Kept
from understudy.logs._columns import records
from understudy.logs._layout import Layout, Who
from understudy.logs._places import Segment
from understudy.logs._rows import AUDIT, UNANSWERED, seconds
from understudy.logs._spill import Spill
from understudy.logs._tally import Tally
from understudy.types import Answers, Array, Signal

_EXPORTED = {"erased", "principal", "audit", "party", "at", "rows", "inputs", "margin"}
_GROUP = 512  # exported exchanges as Python objects at once
ERASED = "erased"
_SHAPE = "inputs or answers have another shape than the endpoint's"


class Own:
    """Spills exchanges as the gateway kept them."""

    def __init__(self, spill: Spill, tally: Tally, segment: Segment) -> None:
        self._spill, self._tally, self._segment = spill, tally, segment

    def folder(self, folder: Path) -> None:
        """Every exchange of a history."""
        for number, kept in enumerate(History(folder).rows(), 1):
            self._kept(str(folder), number, kept)

    def _kept(self, file: str, number: int, kept: Kept) -> None:
        row = kept.row
        if kept.erased is not None:
            self._aside(ERASED)
        elif row.audit:
            self._aside(AUDIT)
        elif row.answers is None:
            self._aside(UNANSWERED)
        else:
            who = Who(row.principal, row.party, self._segment(row.principal, row.party))
            self._add(file, number, who, row.at, row.rows, row.inputs, row.answers, row.margin)

    def exported(self, parquet: Any, file: str) -> None:
        """Every exchange of a Parquet export."""
        lacking = sorted(_EXPORTED - set(parquet.schema_arrow.names))
        if lacking:
            self._tally.reject(file, 0, f"the file is no whole export: it lacks {', '.join(lacking)}")
            return
        for number, record in records(parquet, file, self._tally, _GROUP):
            try:
                self._exported(file, number, record)
            except (ValueError, TypeError, UnderstudyError):
                self._tally.reject(file, number, _SHAPE)

    def _exported(self, file: str, number: int, record: Mapping[str, Any]) -> None:
        found = answers_of(record, self._spill.layout)
        if record["erased"] is not None or record["principal"] is None:
            self._aside(ERASED)
        elif record["audit"]:
            self._aside(AUDIT)
        elif found is None:
            self._aside(UNANSWERED)
        else:
            inputs, margin = record["inputs"], record["margin"]
            x: Array | None = None if inputs is None else np.array(inputs, np.float64).reshape(len(inputs), -1)
            if (asked := record.get("texts")) is not None:
                x = texts.array(asked)
            m = None if margin is None else np.array(margin, np.float64)
            party = record["party"] or record["principal"]
            who = Who(record["principal"], party, self._segment(record["principal"], party))
            at = seconds(record["at"])
            if at is None:
                raise ValueError
            self._add(file, number, who, at, record["rows"], x, found, m)

    def _add(
        self, file: str, number: int, who: Who, at: float, n: int, inputs: Any, answers: Answers, margin: Any
    ) -> None:
        try:
            packed = self._spill.layout.pack(n, at, inputs, answers, margin)
        except ValueError:
            self._tally.reject(file, number, _SHAPE)
            return
        self._spill.add(who, packed)
        self._tally.queries += n

    def _aside(self, why: str) -> None:
        self._tally.aside[why] += 1


def contexts(folder: Path, principal: str, most: int = 5) -> tuple[list[str], list[str]]:
    """The addresses an account asked from and its clients, as the gateway saw them, the most frequent first."""
    networks, clients = Counter[str](), Counter[str]()
    for kept in History(folder).rows(principal=principal):
        for names, key in ((networks, "network"), (clients, "client")):
            if found := kept.row.context.get(key):
                names[found] += 1
    return [name for name, _ in networks.most_common(most)], [name for name, _ in clients.most_common(most)]


def is_export(metadata: Mapping[bytes, bytes] | None) -> bool:
    """Whether a Parquet file's metadata says it is the gateway's export."""
    return bool(metadata) and metadata.get(b"understudy.kind") == b"history"  # type: ignore[union-attr]


def answers_of(record: Mapping[str, Any], layout: Layout) -> Answers | None:
    """An exported exchange's answers; null entries are withheld."""
    values: dict[Signal, Array] = {}
    present: dict[Signal, Array] = {}
    for signal in layout.exposure.grains:
        found = record.get(signal.value)
        if found is None:
            continue
        if signal is Signal.LABEL:
            values[signal] = np.array(found, np.int64)
            continue
        table = np.array(found, np.float64)  # None is NaN
        values[signal], present[signal] = np.nan_to_num(table), ~np.isnan(table)
    return Answers(values, layout.exposure.outputs, present) if values else None
