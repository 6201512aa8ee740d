"""Whether two models look at the same columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from understudy.errors import UsageError
from understudy.importance import importances, ranks, telling
from understudy.protocols import Target
from understudy.targets.linear import LinearTarget
from understudy.types import Floats, Signal

_MOST = 20_000  # questions to each model, at most


@dataclass(frozen=True)
class ImportanceAgreement:
    """Agreement of the two models on which columns matter most: Spearman's rank correlation of their importances.

    Importances are measured by shuffling one column at a time over up to `rows` of the inputs and seeing how far the
    answers move; shuffles are the same for both models and every time. 1: the same ranking; 0: none in common. Asking
    the reference anything but the inputs themselves may cost, so where it cannot be asked for free its own weights and
    bias stand for it; one that shows none is not measured.

    Reference:
        Fisher, Rudin and Dominici, JMLR 20 (2019), with the model's own answer in place of the truth; Spearman,
        American Journal of Psychology 15 (1904).
    """

    against: ClassVar[str] = "target"
    higher_is_closer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    rows: int = 200

    def measure(self, substitute: Target, reference: Target, inputs: Floats) -> Floats:
        """One value per column, shape (d,): 1 - 6 r^2 / (d^2 - 1) for ranks that differ by r; their mean is Spearman's.

        None where there are not two rows to shuffle. Raises UsageError where the reference can be asked about nothing
        else and shows no parameters, where the two have no signal in common, and for fewer than two columns.
        """
        d = int(np.prod(inputs.shape[1:]))
        reference = _free(reference)
        signal = telling(substitute, reference)
        if signal is None or d < 2:
            raise UsageError("importance-agreement needs two columns, and answers of one kind from both models")
        if len(inputs) < 2:
            return np.zeros(0)  # nothing to shuffle
        x = inputs[: max(min(self.rows, _MOST // d), 2)]
        found = [importances(m, x, np.random.default_rng(0), signal).values for m in (reference, substitute)]
        apart = ranks(found[0]) - ranks(found[1])
        return np.asarray(1 - 6 * apart**2 / (d * d - 1))

    def summary(self, values: Floats) -> float:
        """The mean."""
        return float(values.mean()) if len(values) else math.nan


def _free(reference: Target) -> Target:
    """The reference, or the linear model that its parameters make: that one answers anything for nothing."""
    given = getattr(reference, "parameters", None)
    if not given or not {"weights", "bias"} <= given.keys():
        return reference
    weights, bias = (np.asarray(given[name], np.float64) for name in ("weights", "bias"))
    if weights.shape[:1] != bias.shape or len(bias) != reference.exposure.outputs:
        return reference
    value = Signal.VALUE in reference.exposure.signals
    return LinearTarget(weights.reshape(len(bias), -1), bias, reference.space, "identity" if value else "softmax")
