"""Known words that never stand together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import Fitted, learnt, words
from understudy.detectors._pairs import before, found_in, occurrences, pairs
from understudy.types import Floats
from understudy.views import Kind, TextScale, View


@dataclass(frozen=True)
class WordOrder:
    """Share of neighbouring words, each `common` times or more in the reference, that never follow each other there.

    Rare words say nothing here: a real text has pairs of them too that nobody has written yet.

    Sees:
        Shuffled words, words drawn by their frequency, word lists.
    Blind to:
        Text in order: a language model's, even one of word triples; texts cut in halves and joined, which have one odd
        pair each.
    Calibration:
        Bets on fresh queries only, within the answered class, on texts without their template.
    Reference:
        Against the random word sequences of Krishna et al., Thieves on Sesame Street, ICLR 2020; the score is ours.
    """

    common: int = 5
    fitted: Fitted | None = field(default=None, repr=False, compare=False)

    forms: ClassVar[tuple[Kind, ...]] = ("text",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "fresh"
    by_label: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Keep the reference's pairs of words."""
        tokens, form = words(reference, "word-order"), reference.form
        assert isinstance(form, TextScale)
        v = len(form.words)
        return replace(self, fitted={"keys": np.unique(pairs(tokens, v)), "alone": occurrences(tokens, v)})

    def score(self, view: View) -> Floats:
        """(n,) 0 to 1; NaN where a text has no two common words side by side."""
        tokens, kept = words(view, "word-order"), learnt(self.fitted, "word-order")
        v, often = len(kept["alone"]) - 1, kept["alone"] >= self.common
        often[0] = False  # a word that is not known
        previous = before(tokens, v)
        rows = np.flatnonzero(often[tokens.at + 1] & (previous < v) & often[np.minimum(previous, v - 1) + 1])
        odd = found_in(kept["keys"], pairs(tokens, v)[rows]) < 0
        total, unheard = (np.bincount(tokens.rows[r], minlength=len(view)) for r in (rows, rows[odd]))
        return np.where(total > 0, unheard / np.maximum(total, 1), np.nan)
