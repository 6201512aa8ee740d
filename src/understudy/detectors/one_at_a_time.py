"""One record, one field after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import changes, past, table
from understudy.types import Floats
from understudy.views import Kind, View


@dataclass(frozen=True)
class OneAtATime:
    """In how many different fields, each by itself, the record that this query edits has been edited so far.

    The record is the oldest own query that differs in one field only. NaN where there is none: that says nothing, so
    that other queries in between do not dilute it.

    Sees:
        A record held still while one field after another is moved: tree path-finding, finite differences, sensitivity
        analyses, whatever else is asked in between.
    Blind to:
        Records that were never asked as they are; steps that move several fields; records spread over accounts, or
        over more than the queries that are kept.
    Calibration:
        Bets on queries that change one field of an own earlier query, and on no others. Interactive what-if tools
        move a few fields of a record: declare them a segment.
    Reference:
        One-at-a-time designs (Morris, Technometrics 33, 1991); against Tramer et al., USENIX Security 2016, section
        4.2; the score is ours.
    """

    forms: ClassVar[tuple[Kind, ...]] = ("tabular",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) fields, 1 or more; NaN where no own earlier query differs in one field only."""
        table(view, "one-at-a-time")
        own, changed = past(view, "one-at-a-time"), changes(view, "one-at-a-time")
        found = np.full(len(view), np.nan)
        edits = np.flatnonzero((changed == 1).any(1))
        if not len(edits):
            return found
        d = own.rows.shape[1]
        record = own.earlier[(changed[edits] == 1).argmax(1)]  # the oldest
        mine = np.arange(len(edits)) * d + (own.rows[edits] != record).argmax(1)
        edit, at = np.nonzero(changed[edits] <= 2)  # whoever edits the same record is no further from this query
        differs = own.earlier[at] != record[edit]
        others = np.flatnonzero(differs.sum(1) == 1)
        fields = np.unique(np.concatenate([mine, edit[others] * d + differs[others].argmax(1)]))
        found[edits] = np.bincount(fields // d)
        return found
