"""All fields empty but one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import table
from understudy.types import Floats
from understudy.views import Kind, View


@dataclass(frozen=True)
class Probe:
    """1 where at most one field is not zero, else 0.

    Sees:
        The origin and basis vectors, which hand over a linear model's bias and weights one by one.
    Blind to:
        The same probes moved off the origin.
    Calibration:
        Bets on every query that is no repeat. Integration tests send zeros: they must be among the benign accounts.
    Reference:
        Tramer et al., USENIX Security 2016, section 4.1; Lowd and Meek, KDD 2005.
    """

    forms: ClassVar[tuple[Kind, ...]] = ("tabular",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) 0 or 1."""
        table(view, "probe")
        found: Floats = ((view.inputs != 0).sum(1) <= 1).astype(np.float64)
        return found
