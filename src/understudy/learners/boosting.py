"""Substitutes by histogram gradient boosting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from understudy.learners._common import Fitted, anywhere, beliefs, constant, flat, seed, soft_logits, training
from understudy.protocols import Target
from understudy.types import Answers, Floats, Signal

_SOFT_CLASSES = 3  # one regression per class: beyond this, labels are nearly as good and far cheaper
_TALLEST = 10.0  # log-probabilities beyond this are cut: trees would spend their leaves on telling never from hardly


@dataclass(frozen=True)
class Boosting:
    """Histogram gradient boosting: a classifier on labels, one regression per class on the log-probabilities of few.

    `iterations`: boosting rounds, fewer where many classes make each round dear; `rate`: learning rate.
    """

    iterations: int = 70
    rate: float = 0.2

    def fit(self, inputs: Floats, answers: Answers, rng: Generator) -> Target:
        """A substitute made of trees."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        space, x, outputs = anywhere(inputs), flat(inputs), answers.outputs
        few = outputs <= _SOFT_CLASSES
        # a classifier grows one tree per class and round
        rounds = self.iterations if few or Signal.VALUE in answers else max(20, 3 * self.iterations // outputs)
        options = {"max_iter": rounds, "learning_rate": self.rate, "early_stopping": False, "random_state": seed(rng)}
        if Signal.VALUE in answers:
            wanted, signal = np.asarray(answers[Signal.VALUE], np.float64), Signal.VALUE
        else:
            soft = soft_logits(answers) if few else None
            if soft is None:
                only = constant(answers, space)
                if only is not None:
                    return only
                with training():
                    made = HistGradientBoostingClassifier(**options).fit(x, answers.labels())
                return Fitted(beliefs(made, outputs), outputs, space)
            wanted, signal = np.clip(soft, -_TALLEST, _TALLEST), Signal.LOGITS
        mirrored = signal is Signal.LOGITS and outputs == 2  # centred logits of two classes: one tells the other
        with training():
            models = [
                HistGradientBoostingRegressor(**options).fit(x, wanted[:, k]) for k in range(1 if mirrored else outputs)
            ]

        def predict(u: Floats) -> Floats:
            columns = [model.predict(u) for model in models]
            return np.column_stack([*columns, -columns[0]] if mirrored else columns)

        return Fitted(predict, outputs, space, signal)
