"""One field, in ever smaller steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import changes, past, table
from understudy.types import Floats
from understudy.views import Kind, View


@dataclass(frozen=True)
class LineDepth:
    """How fine the step is to an own earlier query that differs in one field only: -log2(step / range), the finest.

    Sees:
        Line searches along one field: tree path-finding, finite differences, threshold hunting.
    Blind to:
        Searches that move several fields at once; steps no finer than benign what-if tools take.
    Calibration:
        Bets on every query that is no repeat; -1 where no own query differs in one field only.
    Reference:
        The line searches of Tramer et al., USENIX Security 2016, section 4.2; the score is ours.
    """

    forms: ClassVar[tuple[Kind, ...]] = ("tabular",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) bits, -1 or more."""
        scale, own = table(view, "line-depth"), past(view, "line-depth")
        found = np.full(len(view), -1.0)
        row, at = np.nonzero(changes(view, "line-depth") == 1)
        if len(row):
            step = np.abs(own.rows[row] - own.earlier[at]) / scale.span
            np.maximum.at(found, row, -np.log2(step.max(1)))
        return found
