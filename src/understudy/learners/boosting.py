"""Substitutes by histogram gradient boosting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from understudy.learners._common import Fitted, anywhere, constant, flat, quiet, seed, soft_logits
from understudy.protocols import Target
from understudy.types import Answers, Floats, Signal

_SOFT_CLASSES = 3  # one regression per class: beyond this, labels are nearly as good and far cheaper


@dataclass(frozen=True)
class Boosting:
    """Histogram gradient boosting: a classifier on labels, one regression per class on the log-probabilities of few.

    `iterations`: boosting rounds, fewer where many classes make each round dear; `rate`: learning rate.
    """

    iterations: int = 100
    rate: float = 0.1

    def fit(self, inputs: Floats, answers: Answers, rng: Generator) -> Target:
        """A substitute made of trees."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        space, x = anywhere(inputs), flat(inputs)
        # a classifier grows one tree per class and round
        rounds = (
            self.iterations if answers.outputs <= _SOFT_CLASSES else max(20, 3 * self.iterations // answers.outputs)
        )
        options = {"max_iter": rounds, "learning_rate": self.rate, "early_stopping": False}
        if Signal.VALUE in answers:
            signal, wanted = Signal.VALUE, np.asarray(answers[Signal.VALUE], np.float64)
        else:
            soft = soft_logits(answers) if answers.outputs <= _SOFT_CLASSES else None
            if soft is None:
                only = constant(answers, space)
                if only is not None:
                    return only
                made = HistGradientBoostingClassifier(**options, random_state=seed(rng))
                with quiet():
                    made.fit(x, answers.labels())
                return Fitted(lambda u: np.asarray(made.predict(u)), Signal.LABEL, answers.outputs, space)
            signal, wanted = Signal.LOGITS, np.clip(soft, -10, 10)
        state = seed(rng)
        models = [
            HistGradientBoostingRegressor(**options, random_state=state).fit(x, wanted[:, k])
            for k in range(wanted.shape[1])
        ]
        return Fitted(lambda u: np.column_stack([m.predict(u) for m in models]), signal, answers.outputs, space)
