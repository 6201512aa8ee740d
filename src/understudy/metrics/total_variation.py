"""How far apart two predicted distributions are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from understudy.errors import UsageError
from understudy.metrics.fidelity import mean
from understudy.protocols import Target
from understudy.targets.linear import softmax
from understudy.types import Floats, Signal


def distributions(target: Target, inputs: Floats, whose: str) -> Floats:
    """(n, outputs) probabilities: as answered, or the softmax of logits.

    "Probabilities" of which any lies outside [0, 1] are logits that are called probabilities, and get the softmax too.
    Raises UsageError where `whose` model answers neither, or withholds some of them.
    """
    answers = target.query(inputs)
    for signal in (Signal.PROBABILITIES, Signal.LOGITS):
        if signal in answers:
            if not answers.mask(signal).all():
                raise UsageError(f"total variation needs all of the {whose}'s {signal.value}; some are withheld")
            p = np.asarray(answers[signal], np.float64)
            is_logits = signal is Signal.LOGITS or bool(((p < 0) | (p > 1)).any())
            return softmax(p) if is_logits and len(p) else p
    raise UsageError(f"total variation needs probabilities or logits; the {whose} answers {target.exposure}")


def _per_query(substitute: Target, reference: Target, inputs: Floats) -> Floats:
    p, q = distributions(substitute, inputs, "substitute"), distributions(reference, inputs, "reference")
    width = max(p.shape[1], q.shape[1])
    p, q = (np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (p, q))
    return np.asarray(0.5 * np.abs(p - q).sum(1))


@dataclass(frozen=True)
class TotalVariation:
    """Mean total variation distance of the predicted distributions: half the summed absolute difference, 0 to 1.

    A class that one of the two does not know has probability 0 there.

    Reference:
        Tramer et al., USENIX Security 2016, section 2 (R^TV).
    """

    against: ClassVar[str] = "target"
    higher_is_closer: ClassVar[bool] = False
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS})
    symmetric: ClassVar[bool] = True

    def measure(self, substitute: Target, reference: Target, inputs: Floats) -> Floats:
        """The distance per query, shape (n,). Raises UsageError where either has no, or not all, probabilities."""
        return _per_query(substitute, reference, inputs)

    def summary(self, values: Floats) -> float:
        """The mean."""
        return mean(values)


@dataclass(frozen=True)
class MaxTotalVariation:
    """The largest total variation distance over the queries: how wrong the copy is at its worst, 0 to 1.

    Reference:
        Tramer et al., USENIX Security 2016, section 2 (R^TV); the maximum is the test of functional equivalence.
    """

    against: ClassVar[str] = "target"
    higher_is_closer: ClassVar[bool] = False
    needs: ClassVar[frozenset[Signal]] = TotalVariation.needs
    symmetric: ClassVar[bool] = True

    def measure(self, substitute: Target, reference: Target, inputs: Floats) -> Floats:
        """The distance per query, shape (n,). Raises UsageError where either has no, or not all, probabilities."""
        return _per_query(substitute, reference, inputs)

    def summary(self, values: Floats) -> float:
        """The maximum."""
        return float(values.max()) if len(values) else math.nan
