"""How fast an account asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import times
from understudy.types import Floats
from understudy.views import Kind, View
from understudy.views.traffic import seconds

_BLINK = 0.01  # seconds: faster than this is as fast


@dataclass(frozen=True)
class Volume:
    """The logarithm of the rate (per second) of the latest `latest` queries, from `least` on.

    Sees:
        Accounts that ask faster, over a stretch, than benign ones of their cohort ever do: scripts at full speed.
    Blind to:
        Whoever keeps to the pace of others; the content. Whether an account asks more than its customer declared is
        said apart (`monitor.declared`), as a fact and not as a rank.
    Calibration:
        Bets on every query. Batch customers are fast too: declare them as a segment, or they set the pace for all.
    Reference:
        Per-session rates learnt from traffic are what API gateways sell as volumetric abuse detection; the score and
        its ranking among accounts are ours.
    """

    latest: int = 64
    least: int = 16

    forms: ClassVar[tuple[Kind, ...]] = ("traffic",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) log queries per second; NaN before `least` queries and where times are not known."""
        own = times(view, "volume")
        at, place = seconds(own.earlier), own.place
        first = np.maximum(place - self.latest, 0)
        with np.errstate(invalid="ignore"):
            rate = np.log((place - first) / np.maximum(at[place] - at[first], _BLINK), where=place > 0, out=0.0 * place)
        return np.where(place >= self.least, rate, np.nan) + 0 * at[place]
