"""One word at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import words
from understudy.types import Floats
from understudy.views import Kind, View


@dataclass(frozen=True)
class SingleWord:
    """1 where a text is at most one word, beside the account's template, else 0.

    Sees:
        Basis vectors of a bag of words or of averaged embeddings: a dictionary, asked word by word.
    Blind to:
        Two words at a time.
    Calibration:
        Bets on every query that is no repeat. Customers who look single words up must be among the benign accounts.
    Reference:
        The text form of `probe`: Lowd and Meek, KDD 2005, probe a spam filter by single words.
    """

    forms: ClassVar[tuple[Kind, ...]] = ("text",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) 0 or 1."""
        return (words(view, "single-word").sizes <= 1).astype(np.float64)
