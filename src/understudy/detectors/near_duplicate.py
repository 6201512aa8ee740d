"""Close to an own earlier query, and not the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import EVERY, past
from understudy.types import Floats
from understudy.views import Kind, View


@dataclass(frozen=True)
class NearDuplicate:
    """Distance to the nearest different own query of the last 512, with its sign turned.

    Rows lie apart on the reference's scale, texts in an embedding without their template, images in random projections.

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

    forms: ClassVar[tuple[Kind, ...]] = EVERY
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) 0 or less, in standard deviations, of texts in lengths of an embedding; NaN for the first query."""
        apart = past(view, "near-duplicate").distance
        return np.where(np.isfinite(apart), -apart, np.nan)
