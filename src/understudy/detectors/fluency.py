"""Words in an order that nobody writes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.detectors._common import Fitted, learnt, words
from understudy.types import Floats
from understudy.views import Kind, TextScale, Tokens, View


@dataclass(frozen=True)
class Fluency:
    """Minus the mean log-probability of a text's words: `pairs` given the word before, the rest alone, as in the
    reference.

    Sees:
        Foreign texts and languages, lists of words, words drawn by their frequency.
    Blind to:
        Fluent text: a language model's, texts cut in halves and joined. Shuffled words where the reference is small:
        few of a real text's pairs are in it either.
    Calibration:
        Bets on fresh queries only, within the answered class, on texts without their template.
    Reference:
        Jelinek and Mercer's interpolation, Pattern Recognition in Practice 1980; against substitute data in words as in
        Krishna et al., Thieves on Sesame Street, ICLR 2020; as a bet, ours.
    """

    pairs: float = 0.7
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
        keys, counts = np.unique(_pairs(tokens, v), return_counts=True)
        alone = np.bincount(tokens.at + 1, minlength=v + 1).astype(np.float64)  # what is not known comes first
        before = np.bincount(_before(tokens, v) + 1, minlength=v + 2).astype(np.float64)
        return replace(self, fitted={"keys": keys, "counts": counts, "alone": alone, "before": before})

    def score(self, view: View) -> Floats:
        """(n,) nats a word; NaN where a text has none."""
        tokens, kept = words(view, "fluency"), learnt(self.fitted, "fluency")
        keys, v = kept["keys"], len(kept["alone"]) - 1
        asked = _pairs(tokens, v)
        at = np.minimum(keys.searchsorted(asked), len(keys) - 1)
        together = np.where(keys[at] == asked, kept["counts"][at], 0)
        given = together / np.maximum(kept["before"][_before(tokens, v) + 1], 1)
        alone = (kept["alone"][tokens.at + 1] + 0.5) / (kept["alone"].sum() + 0.5 * (v + 1))
        return tokens.mean(-np.log(self.pairs * given + (1 - self.pairs) * alone))


def _before(tokens: Tokens, v: int) -> NDArray[np.int64]:
    """(t,) index of the word before each; `v` at the start of a text, -1 where it is not known."""
    found = np.concatenate([[v], tokens.at[:-1]]) if len(tokens.at) else tokens.at
    found[tokens.starts[:-1][tokens.sizes > 0]] = v
    return found


def _pairs(tokens: Tokens, v: int) -> NDArray[np.int64]:
    """(t,) one number for each word and the one before it."""
    return (_before(tokens, v) + 1) * (v + 2) + tokens.at + 1
