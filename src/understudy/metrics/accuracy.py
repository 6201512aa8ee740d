"""Agreement with the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from understudy.metrics.fidelity import CLASS_SIGNALS, agreement, mean
from understudy.protocols import Target
from understudy.types import Floats, Signal


@dataclass(frozen=True)
class Accuracy:
    """Share of inputs on which the substitute answers the true class; the reference is a target that answers the truth.

    Not fidelity: a substitute may be more accurate than the model it copies.

    Reference:
        Jagielski et al., USENIX Security 2020, section 3 (accuracy, fidelity and functional equivalence).
    """

    against: ClassVar[str] = "truth"
    higher_is_closer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Signal]] = CLASS_SIGNALS
    symmetric: ClassVar[bool] = True

    def measure(self, substitute: Target, reference: Target, inputs: Floats) -> Floats:
        """1.0 or 0.0 per query, shape (n,). Raises UsageError where one of them answers no class."""
        return agreement(substitute, reference, inputs)

    def summary(self, values: Floats) -> float:
        """The share that is right."""
        return mean(values)
