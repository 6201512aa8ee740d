"""Unlike anything the owner has."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import EVERY, Fitted, learnt
from understudy.types import Floats
from understudy.views import Kind, View, sample


@dataclass(frozen=True)
class Novelty:
    """Mean distance to the `neighbours` nearest of up to `kept` reference rows, on the reference's scale.

    Texts: in an embedding where they have length 1, so that the distance ranks them as one minus the cosine does.
    Images: in random projections of a thumbnail and traits of how it is drawn.

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

    forms: ClassVar[tuple[Kind, ...]] = EVERY
    bets_on: ClassVar[Literal["fresh", "new"]] = "fresh"
    by_label: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Keep a sample of the reference."""
        rows = np.ascontiguousarray(sample(reference.z, self.kept, rng), np.float32)
        return replace(self, fitted={"rows": rows, "squares": np.einsum("ij,ij->i", rows, rows)})

    def score(self, view: View) -> Floats:
        """(n,) distance, in standard deviations; of texts, 0 to 2."""
        kept = learnt(self.fitted, "novelty")
        rows, near = kept["rows"], min(self.neighbours, len(kept["rows"]))
        found = np.empty(len(view))
        for i in range(0, len(view), 256):  # what fits the cache
            z = view.z[i : i + 256]
            apart = z @ rows.T
            apart *= -2
            apart += kept["squares"]
            apart.partition(near - 1, axis=1)
            squares = np.einsum("ij,ij->i", z, z)[:, None]
            apart = apart[:, :near] + squares
            found[i : i + 256] = np.sqrt(np.where(apart > 1e-6 * squares, apart, 0)).mean(1)  # less is rounding
        return found
