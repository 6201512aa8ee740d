"""Many fields moved by the same step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import past, table
from understudy.types import Floats
from understudy.views import Kind, View


@dataclass(frozen=True)
class ConstantPair:
    """c^2 / m against the nearest own query: of its m changed fields, c moved by the same step in standard deviations.

    Steps within 2 % are the same; m and c of 3 or more count, else 0.

    Sees:
        Sign-gradient steps: Jacobian-based augmentation and its descendants.
    Blind to:
        Random step sizes per field; pairs split over accounts.
    Calibration:
        Bets on every query that is no repeat.
    Reference:
        Against Papernot et al., Practical black-box attacks, ASIA CCS 2017; the score is ours.
    """

    same: float = 0.02

    forms: ClassVar[tuple[Kind, ...]] = ("tabular",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) 0, or 3 and more where every change is the same."""
        table(view, "constant-pair")
        own = past(view, "constant-pair")
        found = np.zeros(len(view))
        step = np.abs(own.rows - own.earlier[own.nearest])
        moved = (step > 0).sum(1)
        rows = np.flatnonzero((moved >= 3) & (own.nearest >= 0))
        for part in np.array_split(rows, -(-len(rows) // 64)) if len(rows) else ():
            rising = np.sort(step[part], 1)
            close = (rising[:, None, :] <= rising[:, :, None] * (1 + self.same)) & (rising[:, :, None] > 0)
            close &= rising[:, None, :] >= rising[:, :, None]
            group = close.sum(2).max(1)
            found[part] = np.where(group >= 3, group**2 / moved[part], 0.0)
        return found
