"""Unlike anything the owner has."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import Fitted, learnt, sample
from understudy.types import Floats
from understudy.views import View


@dataclass(frozen=True)
class Novelty:
    """Mean distance to the `neighbours` nearest of up to `kept` reference rows, on the reference's scale.

    Sees:
        Inputs from elsewhere: uniform noise, another domain's rows, columns put together at random, probes far out.
    Blind to:
        Rows like the owner's own, whatever is done with the answers: an in-distribution knockoff is invisible.
    Calibration:
        Bets on fresh queries only, within the answered class: customers who edit a rare record would pay otherwise. A
        customer with other units or another population looks novel too, and is ranked with benign accounts that do.
    Reference:
        Nearest-neighbour novelty (Angiulli and Pizzuti, PKDD 2002); as a bet on single queries, ours.
    """

    neighbours: int = 5
    kept: int = 1500
    fitted: Fitted | None = field(default=None, repr=False, compare=False)

    bets_on: ClassVar[Literal["fresh", "new"]] = "fresh"
    by_label: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Keep a sample of the reference."""
        rows = np.ascontiguousarray(sample(reference.z, self.kept, rng), np.float32)
        return replace(self, fitted={"rows": rows, "squares": np.einsum("ij,ij->i", rows, rows)})

    def score(self, view: View) -> Floats:
        """(n,) distance in standard deviations."""
        kept = learnt(self.fitted, "novelty")
        rows, near = kept["rows"], min(self.neighbours, len(kept["rows"]))
        found = np.empty(len(view))
        for i in range(0, len(view), 256):  # what fits the cache
            z = view.z[i : i + 256]
            apart = z @ rows.T
            apart *= -2
            apart += kept["squares"]
            apart.partition(near - 1, axis=1)
            apart = apart[:, :near] + np.einsum("ij,ij->i", z, z)[:, None]
            found[i : i + 256] = np.sqrt(np.maximum(apart, 0)).mean(1)
        return found
