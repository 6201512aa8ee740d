"""How far apart two predicted values are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from understudy.errors import UsageError
from understudy.metrics.fidelity import mean
from understudy.protocols import Target
from understudy.types import Floats, Signal

_CONSTANT = 1e-12  # relative: a spread below this is rounding


@dataclass(frozen=True)
class RegressionError:
    """Mean absolute error in standard deviations of the reference.

    Per query and output: |substitute - reference| / s, where s is the standard deviation (dividing by n) of that output
    of the reference over these same inputs; several outputs are averaged. So 0 is a perfect copy, and always answering
    the reference's mean gets about 0.8 where its values are normally distributed. An output of the reference that does
    not vary over the inputs (one input, or a constant) has s = 1: its error is in the value's own unit.

    Reference:
        Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd edition, section 2.4 (absolute
        loss); the scale makes endpoints comparable.
    """

    against: ClassVar[str] = "target"
    higher_is_closer: ClassVar[bool] = False
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.VALUE})

    def measure(self, substitute: Target, reference: Target, inputs: Floats) -> Floats:
        """The scaled error per query, shape (n,). Raises UsageError where either answers no value."""
        mine, theirs = _values(substitute, inputs, "substitute"), _values(reference, inputs, "reference")
        if mine.shape != theirs.shape:
            raise UsageError(f"the substitute answers {mine.shape[1]} values and the reference {theirs.shape[1]}")
        if not len(theirs):
            return np.zeros(0)
        spread = theirs.std(0)
        varies = spread > _CONSTANT * np.abs(theirs).max(0)
        return np.asarray((np.abs(mine - theirs) / np.where(varies, spread, 1.0)).mean(1))

    def summary(self, values: Floats) -> float:
        """The mean."""
        return mean(values)


def _values(target: Target, inputs: Floats, whose: str) -> Floats:
    answers = target.query(inputs)
    if Signal.VALUE not in answers:
        raise UsageError(f"regression-error needs values; the {whose} answers {target.exposure}")
    return np.asarray(answers[Signal.VALUE], np.float64)
