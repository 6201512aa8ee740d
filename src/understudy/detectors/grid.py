"""Finer numbers than the data ever has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from numpy.random import Generator

from understudy.detectors._common import numbers
from understudy.types import Floats
from understudy.views import Kind, View


@dataclass(frozen=True)
class Grid:
    """How many fields have more decimals than their column ever has in the reference; pixels between its grey levels.

    Sees:
        Tools off the shelf, which ask in floating point where the data are whole numbers or cents, or pixels bytes.
    Blind to:
        Anyone who rounds, at no cost; columns or pixels without a grid. A tripwire, not a defence.
    Calibration:
        Bets on every query that is no repeat. A column's decimals, an image's levels: the fewest
        that 99.5 % of the values keep to.
    Reference:
        Ours.
    """

    forms: ClassVar[tuple[Kind, ...]] = ("tabular", "image")
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt beyond the scale."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) count of fields."""
        return numbers(view, "grid").finer(view)
