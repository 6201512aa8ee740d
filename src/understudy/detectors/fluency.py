"""Words in an order that nobody writes."""

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
class Fluency:
    """Minus the mean log-probability of a text's words in the reference: `share` given the word before, the rest alone.

    Sees:
        Foreign texts and languages, lists of words, words drawn by their frequency.
    Blind to:
        Fluent text: a language model's, texts cut in halves and joined. Shuffled words, which `word-order` is for.
    Calibration:
        Bets on fresh queries only, within the answered class, on texts without their template.
    Reference:
        Jelinek and Mercer's interpolation, Pattern Recognition in Practice 1980; against substitute data in words as in
        Krishna et al., Thieves on Sesame Street, ICLR 2020; as a bet, ours.
    """

    share: float = 0.7
    fitted: Fitted | None = field(default=None, repr=False, compare=False)

    forms: ClassVar[tuple[Kind, ...]] = ("text",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "fresh"
    by_label: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Count the reference's words and pairs of words."""
        tokens, form = words(reference, "fluency"), reference.form
        assert isinstance(form, TextScale)
        v = len(form.words)
        keys, counts = np.unique(pairs(tokens, v), return_counts=True)
        ahead = np.bincount(before(tokens, v) + 1, minlength=v + 2).astype(np.float64)
        return replace(self, fitted={"keys": keys, "counts": counts, "alone": occurrences(tokens, v), "before": ahead})

    def score(self, view: View) -> Floats:
        """(n,) nats a word; NaN where a text has none."""
        tokens, kept = words(view, "fluency"), learnt(self.fitted, "fluency")
        v = len(kept["alone"]) - 1
        at = found_in(kept["keys"], pairs(tokens, v))
        together = np.where(at >= 0, kept["counts"][at], 0)
        given = together / np.maximum(kept["before"][before(tokens, v) + 1], 1)
        alone = (kept["alone"][tokens.at + 1] + 0.5) / (kept["alone"].sum() + 0.5 * (v + 1))
        return tokens.mean(-np.log(self.share * given + (1 - self.share) * alone))
