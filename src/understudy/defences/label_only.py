"""Nothing but the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from understudy.errors import UsageError
from understudy.types import Answers, Exposure, Floats, Grain, Signal

_CLASSES = frozenset({Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS})


@dataclass(frozen=True)
class LabelOnly:
    """Answers the class and withholds every score.

    Where the endpoint answers no label, the class with the largest score that was given is the label; ties go to the
    class that comes first.

    Hides:
        Every score: probabilities, logits, values.
    Costs the honest user:
        Confidence: no threshold of one's own, no ranking, no second choice, no calibration.
    Broken by:
        Attacks on the decision boundary (`boundary-nullspace`) and `retraining` on labels: more queries, the same copy.
    Reference:
        Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016, section 6.
    """

    keeps_label: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True

    def reveals(self, exposure: Exposure) -> Exposure:
        """The label alone. Raises UsageError where the answers hold no class."""
        if not _CLASSES & exposure.signals:
            given = str(exposure) or "nothing"
            raise UsageError(f"label-only needs answers that hold a class; this endpoint answers {given}")
        return Exposure({Signal.LABEL: Grain()}, exposure.outputs)

    def fit(self, inputs: Floats, answers: Answers) -> Self:
        """Itself: nothing is learnt."""
        return self

    def apply(self, inputs: Floats, answers: Answers, principal: str) -> Answers:
        """The label of each answer, shape (n,), and nothing else. Raises InputError where there is no class."""
        return Answers({Signal.LABEL: answers.labels()}, answers.outputs)
