"""Agreement with the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from understudy.errors import InputError, UsageError
from understudy.protocols import Target
from understudy.types import Answers, Floats, Signal

CLASS_SIGNALS = frozenset({Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS})


def agreement(substitute: Target, reference: Target, inputs: Floats) -> Floats:
    """1.0 where both answer the same class and 0.0 where they do not, shape (n,).

    Raises UsageError where one of them answers no class.
    """
    return np.asarray(_classes(substitute, inputs) == _classes(reference, inputs), np.float64)


def _classes(target: Target, inputs: Floats) -> Floats:
    answers: Answers = target.query(inputs)
    try:
        return np.asarray(answers.labels(), np.float64)
    except InputError:
        raise UsageError(
            f"agreement needs a class from both models; one answers {target.exposure} - use regression-error for values"
        ) from None


def mean(values: Floats) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if len(values) else math.nan


@dataclass(frozen=True)
class Fidelity:
    """Share of inputs on which the substitute answers the target's class: 1 - R_test, or 1 - R_unif on uniform inputs.

    Works from whatever holds a class: the label, else the largest score given. A substitute that knows fewer classes
    is wrong on the others.

    Reference:
        Tramer et al., USENIX Security 2016, section 2; Jagielski et al., USENIX Security 2020, section 3.
    """

    against: ClassVar[str] = "target"
    higher_is_closer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Signal]] = CLASS_SIGNALS
    symmetric: ClassVar[bool] = True

    def measure(self, substitute: Target, reference: Target, inputs: Floats) -> Floats:
        """1.0 or 0.0 per query, shape (n,). Raises UsageError where one of them answers no class."""
        return agreement(substitute, reference, inputs)

    def summary(self, values: Floats) -> float:
        """The share that agrees."""
        return mean(values)
