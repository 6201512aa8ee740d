"""Only the largest scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from understudy.errors import UsageError
from understudy.types import Answers, Bools, Exposure, Floats, Signal

_SCORES = (Signal.PROBABILITIES, Signal.LOGITS)


@dataclass(frozen=True)
class TopK:
    """Shows the `k` largest probabilities or logits of each answer and withholds the others.

    A withheld entry is 0 and False in the mask. Among equal scores the class that comes first is shown. Labels and
    regression values pass unchanged.

    Hides:
        The scores of all but `k` classes; with two classes, or `k` one less than the classes, a probability that is
        not shown is one minus the others, so nothing is hidden.
    Costs the honest user:
        Small for those who read the first choices; the whole distribution for those who calibrate or combine models.
    Broken by:
        `equation-solving`: each shown ratio is still an equation, so a copy takes more queries, not more skill.
    Reference:
        Orekondy, Schiele and Fritz, Knockoff Nets, CVPR 2019, whose black boxes also answer only the top k.
    """

    k: int = 1

    keeps_label: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True

    def reveals(self, exposure: Exposure) -> Exposure:
        """At most `k` entries of each score. Raises UsageError where `k` is less than 1."""
        if self.k < 1:
            raise UsageError(f"top-k needs k of at least 1, not {self.k}; to withhold every score use label-only")
        grains = {
            signal: replace(grain, top_k=min(self.k, exposure.outputs, grain.top_k or self.k))
            if signal in _SCORES
            else grain
            for signal, grain in exposure.grains.items()
        }
        return replace(exposure, grains=grains)

    def fit(self, inputs: Floats, answers: Answers) -> Self:
        """Itself: nothing is learnt."""
        return self

    def apply(self, inputs: Floats, answers: Answers, principal: str) -> Answers:
        """The answers with all but the `k` largest entries of each score withheld."""
        for signal in _SCORES:
            if signal in answers:
                scores, given = answers[signal], answers.present.get(signal)
                shown = _largest(-scores if given is None else np.where(given, -scores, np.inf), self.k)
                if given is not None:
                    shown &= given
                answers = answers.replace(signal, np.where(shown, scores, 0.0), shown)
        return answers


def _largest(rank: Floats, k: int) -> Bools:
    """True at the `k` least entries of each row; among equals at those that come first."""
    if k < rank.shape[1]:
        shown = rank <= np.partition(rank, k - 1, axis=1)[:, k - 1 : k]
        if np.count_nonzero(shown) == k * len(rank):
            return shown
    order = rank.argsort(axis=1, kind="stable")  # some are equal, or no numbers
    shown = np.zeros(rank.shape, np.bool_)
    shown[np.arange(len(rank))[:, None], order[:, :k]] = True
    return shown
