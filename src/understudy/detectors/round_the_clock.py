"""At which hours an account asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import times
from understudy.types import Floats
from understudy.views import Kind, View
from understudy.views.traffic import hours


@dataclass(frozen=True)
class RoundTheClock:
    """How evenly the latest `latest` queries lie over the hours of the day: the entropy of the hour, in bits.

    Sees:
        Accounts that work day and night beside customers who sleep.
    Blind to:
        A theft that is over within a few hours: so many queries of it lie in one; and one that keeps office hours.
        Customers who serve all time zones are flat as well: declare them as a segment.
    Calibration:
        Bets on every query from `least` on.
    Reference:
        The flat daily profile as a mark of automation is operators' practice; the score is ours.
    """

    latest: int = 256
    least: int = 48

    forms: ClassVar[tuple[Kind, ...]] = ("traffic",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) bits, 0 to 4.58; NaN before `least` queries and where times are not known."""
        own = times(view, "round-the-clock")
        hour, place = hours(own.earlier), own.place
        counted = np.concatenate([np.zeros((1, 24)), np.cumsum(hour[:, None] == np.arange(24), 0)])
        share = counted[place + 1] - counted[np.maximum(place + 1 - self.latest, 0)]
        share = share / np.maximum(share.sum(1, keepdims=True), 1)
        bits = -(share * np.log2(share, where=share > 0, out=np.zeros_like(share))).sum(1)
        return np.where((place + 1 >= self.least) & (hour[place] >= 0), bits, np.nan)
