"""How many ways an account has of beginning a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import past, words
from understudy.types import Floats
from understudy.views import Kind, View
from understudy.views.text import openings


@dataclass(frozen=True)
class TemplateEntropy:
    """How few different openings the latest `latest` texts have: minus the entropy of their first three words, -1 to 0.

    Sees:
        Scripts that fill one template: nearly every text begins alike.
    Blind to:
        Templates that vary their beginning, or have none. Honest software fills templates too, which is why this score
        is not in the alarm set: name it in `monitor.also` where customers write by hand.
    Calibration:
        Bets on every text that is no repeat, from `least` on; the entropy is a share of the largest for so many.
    Reference:
        Template entropy of prompts, from reports on distillation campaigns; the score is ours.
    """

    latest: int = 64
    least: int = 32

    forms: ClassVar[tuple[Kind, ...]] = ("text",)
    bets_on: ClassVar[Literal["fresh", "new"]] = "new"
    by_label: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def fit(self, reference: View, rng: Generator) -> Self:
        """Nothing is learnt."""
        return self

    def score(self, view: View) -> Floats:
        """(n,) -1 where every opening is different, 0 where all are one; NaN before `least` texts."""
        words(view, "template-entropy")
        own = past(view, "template-entropy")
        kinds, place = openings(own.earlier), own.place
        at = place[:, None] - np.arange(self.latest)
        there = at >= 0
        size = there.sum(1)
        held = np.sort(np.where(there, kinds[np.maximum(at, 0)], -1 - np.arange(self.latest)), axis=1)
        # each of c alike adds log2(c) / size: by the place in its run, the entropy is a sum over texts
        first = np.concatenate([np.ones((len(held), 1), np.bool_), held[:, 1:] != held[:, :-1]], 1)
        run = np.cumsum(first, 1)
        row = np.arange(len(held))[:, None] * (self.latest + 1)
        count = np.bincount((row + run).ravel(), minlength=len(held) * (self.latest + 1))[row + run]
        alike = np.where(held >= 0, np.log2(count), 0.0).sum(1) / size
        return np.where(size >= self.least, alike / np.log2(np.maximum(size, 2)) - 1, np.nan)
