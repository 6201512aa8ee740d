"""Near the decision boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from numpy.random import Generator

from understudy.detectors._common import EVERY
from understudy.types import Floats
from understudy.views import Kind, View


@dataclass(frozen=True)
class Margin:
    """The gap between the two largest probabilities, with its sign turned: the owner's own, where answers hold none.

    Sees:
        Bisection, boundary search, uncertainty sampling: answers that come out close again and again.
    Blind to:
        Attacks that ask far from the boundary; regression; a gateway that keeps no margin where only labels go out.
    Calibration:
        Bets on every query that is no repeat, within the answered class.
    Reference:
        The margin of active learning (Scheffer, Decomain and Wrobel, IDA 2001), turned round.
    """

    forms: ClassVar[tuple[Kind, ...]] = EVERY
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) from -1 to 0."""
        return -view.margin
