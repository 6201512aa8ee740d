"""Words that the owner's texts do not have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import words
from understudy.types import Floats
from understudy.views import Kind, View


@dataclass(frozen=True)
class UnknownWords:
    """Share of a text's words that are not among the reference's.

    Sees:
        Other languages, other domains, dictionaries, made-up words.
    Blind to:
        Whatever is put together of the owner's words.
    Calibration:
        Bets on every query that is no repeat. A customer with another language or trade is unknown too: it must be
        among the benign accounts, or be approved of by a human.
    Reference:
        The text form of `grid`; ours.
    """

    forms: ClassVar[tuple[Kind, ...]] = ("text",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt beyond the form's words."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) 0 to 1; NaN where a text has no word."""
        tokens = words(view, "unknown-words")
        return tokens.mean((tokens.at < 0).astype(np.float64))
