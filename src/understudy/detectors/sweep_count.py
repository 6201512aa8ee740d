"""One field, again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import changes, past, table
from understudy.types import Floats
from understudy.views import Kind, View


@dataclass(frozen=True)
class SweepCount:
    """How many of the account's last `within` queries differ from this one in exactly one field.

    Sees:
        Sweeps: one record held still while one field runs through its values.
    Blind to:
        Sweeps interleaved with more than `within` other queries, or spread over accounts.
    Calibration:
        Bets on every query that is no repeat. Interactive what-if tools do this for a living: declare them a segment.
    Reference:
        As of `line-depth`.
    """

    within: int = 64

    forms: ClassVar[tuple[Kind, ...]] = ("tabular",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) count, 0 to `within`."""
        table(view, "sweep-count")
        own = past(view, "sweep-count")
        row, at = np.nonzero(changes(view, "sweep-count") == 1)
        recent = own.place[row] - at <= self.within
        return np.bincount(row[recent], minlength=len(view)).astype(np.float64)
