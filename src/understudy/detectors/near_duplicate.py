"""Close to an own earlier query, and not the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import past
from understudy.types import Floats
from understudy.views import View


@dataclass(frozen=True)
class NearDuplicate:
    """Distance to the nearest different own query of the last 512, with its sign turned.

    Sees:
        Small steps: bisection, finite differences, Jacobian-based augmentation.
    Blind to:
        Steps spread over several accounts, or more than 512 queries apart.
    Calibration:
        Bets on every query that is no repeat. Customers who correct records and what-if tools live in this tail: they
        must be among the benign accounts.
    Reference:
        Chen, Carlini and Wagner, Stateful detection of black-box adversarial attacks, SPAI 2020; with ranks in the
        place of a fixed threshold.
    """

    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) in standard deviations, 0 or less; NaN for the first query."""
        apart = past(view, "near-duplicate").distance
        return np.where(np.isfinite(apart), -apart, np.nan)
