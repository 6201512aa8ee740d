"""Linear substitutes by training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from understudy.learners._common import Fitted, anywhere, constant, flat, quiet, seed, soft_logits
from understudy.protocols import Target
from understudy.types import Answers, Floats, Signal


@dataclass(frozen=True)
class Logistic:
    """Logistic regression on labels; least squares on log-probabilities where they are given; ridge for values.

    Inputs are standardised. `strength`: inverse regularisation (C) on labels; `ridge`: penalty on soft answers.
    """

    strength: float = 10.0
    ridge: float = 1e-6
    iterations: int = 300

    def fit(self, inputs: Floats, answers: Answers, rng: Generator) -> Target:
        """A linear substitute."""
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        space, x = anywhere(inputs), flat(inputs)
        if Signal.VALUE in answers:
            model = make_pipeline(StandardScaler(), Ridge(self.ridge)).fit(x, answers[Signal.VALUE])
            return Fitted(lambda u: model.predict(u).reshape(len(u), -1), Signal.VALUE, answers.outputs, space)
        logits = soft_logits(answers)
        if logits is not None:
            # saturated rows carry little: weigh each by the spread its probabilities leave
            weight = 1 / (1 + (logits.max(1) - logits.min(1)) ** 2)
            model = make_pipeline(StandardScaler(), Ridge(self.ridge))
            model.fit(x, logits, ridge__sample_weight=weight)
            return Fitted(lambda u: model.predict(u).reshape(len(u), -1), Signal.LOGITS, answers.outputs, space)
        only = constant(answers, space)
        if only is not None:
            return only
        made = make_pipeline(
            StandardScaler(), LogisticRegression(C=self.strength, max_iter=self.iterations, random_state=seed(rng))
        )
        with quiet():
            made.fit(x, answers.labels())
        return Fitted(lambda u: np.asarray(made.predict(u)), Signal.LABEL, answers.outputs, space)
