"""A few words changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import changes, words
from understudy.types import Floats
from understudy.views import Kind, View
from understudy.views.base import UNKNOWN


@dataclass(frozen=True)
class WordEdit:
    """How few words were put in and taken out since the nearest own query, as a share of the text, its sign turned.

    Sees:
        Word-by-word searches: word swaps, deletions one at a time, bisection by splicing two texts.
    Blind to:
        New texts; edits spread over accounts, or more than 512 queries apart; changes within a word count as two.
    Calibration:
        Bets on every query that is no repeat. Customers who correct their texts live in this tail: they must be among
        the benign accounts. Words are counted in 48 buckets: of long texts some changes go unnoticed.
    Reference:
        The text form of `line-depth`; ours.
    """

    forms: ClassVar[tuple[Kind, ...]] = ("text",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) -2 (no word in common with any) to 0."""
        sizes = words(view, "word-edit").sizes
        fewest = changes(view, "word-edit").min(1, initial=UNKNOWN)
        found: Floats = -np.minimum(fewest / np.maximum(sizes, 1), 2.0)
        return found
