"""How regularly an account asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import times
from understudy.types import Floats
from understudy.views import WINDOW, Kind, View
from understudy.views.traffic import seconds

_BLINK = 0.01  # seconds: added to every pause, so that hair-fine differences count little


@dataclass(frozen=True)
class Cadence:
    """How evenly spaced the latest requests are: minus the spread of the logarithms of the last `pauses` pauses.

    Sees:
        Timers and loops: a request every so many seconds, or as soon as the last one is answered.
    Blind to:
        Pauses drawn at random; schedulers of honest customers look the same and are ranked with them. Rows of one
        request have one time: pauses are between requests.
    Calibration:
        Bets on every query once there were `pauses` pauses among the latest 512 queries.
    Reference:
        Regular timing as a mark of automation: Gianvecchio and Wang, CCS 2007 (there by entropy, on covert channels).
    """

    pauses: int = 24

    forms: ClassVar[tuple[Kind, ...]] = ("traffic",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) 0 at most, at a perfect beat; NaN before enough pauses and where times are not known."""
        own = times(view, "cadence")
        at, place = seconds(own.earlier), own.place
        pause = np.diff(at, prepend=at[:1])
        between = np.flatnonzero(pause > 0)  # the first of a request's rows
        log = np.log(pause[between] + _BLINK)
        upto = between.searchsorted(place, "right")
        known = upto - between.searchsorted(place - WINDOW, "right")  # of the latest queries, however they came
        found = np.full(len(view), np.nan)
        if len(log) >= self.pauses:
            spread = np.lib.stride_tricks.sliding_window_view(log, self.pauses).std(1)
            enough = known >= self.pauses
            found[enough] = -spread[upto[enough] - self.pauses]
        return found
