"""Fewer decimals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from understudy.types import Answers, Exposure, Floats, Signal

_NUMBERS = (Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE)


@dataclass(frozen=True)
class Round:
    """Rounds probabilities, logits and values to `decimals` places, half to even; negative places round to tens.

    A label that the endpoint answers stays what it was, so it may name either of two scores that are equal after
    rounding. Rounded probabilities need not sum to one.

    Hides:
        The digits beyond `decimals`, and every probability below half of the last place.
    Costs the honest user:
        Little at 2 or 3 decimals: ties near the decision boundary, and small probabilities read as zero.
    Broken by:
        `equation-solving` with weights that know the rounding: 4 or 5 decimals cost it nothing, 2 a few times the
        queries.
    Reference:
        Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016, section 7.
    """

    decimals: int = 2

    keeps_label: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True

    def reveals(self, exposure: Exposure) -> Exposure:
        """At most `decimals` places of each number."""
        grains = {
            signal: replace(
                grain, decimals=self.decimals if grain.decimals is None else min(self.decimals, grain.decimals)
            )
            if signal in _NUMBERS
            else grain
            for signal, grain in exposure.grains.items()
        }
        return replace(exposure, grains=grains)

    def fit(self, inputs: Floats, answers: Answers) -> Self:
        """Itself: nothing is learnt."""
        return self

    def apply(self, inputs: Floats, answers: Answers, principal: str) -> Answers:
        """The answers with their numbers rounded."""
        for signal in _NUMBERS:
            if signal in answers:
                # Adding zero turns -0.0 into 0.0: the sign of what was rounded away is not to be told.
                rounded = answers[signal].round(self.decimals)
                rounded += 0.0
                answers = answers.replace(signal, rounded, answers.present.get(signal))
        return answers
