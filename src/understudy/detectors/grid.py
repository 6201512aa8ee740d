"""Finer numbers than the data ever has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from numpy.random import Generator

from understudy.types import Floats
from understudy.views import View, beyond


@dataclass(frozen=True)
class Grid:
    """How many fields have more decimals than their column ever has in the reference.

    Sees:
        Tools off the shelf, which ask in floating point where the data are whole numbers or cents.
    Blind to:
        Anyone who rounds, at no cost; columns without a grid. A tripwire, not a defence.
    Calibration:
        Bets on every query that is no repeat. A column's decimals: the fewest that 99.5 % of its values keep to.
    Reference:
        Ours.
    """

    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt beyond the scale."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) count of fields."""
        gridded = view.scale.decimals >= 0
        found: Floats = beyond(view.inputs[:, gridded], view.scale.decimals[gridded]).sum(1).astype(float)
        return found
