"""Linear substitutes by training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from understudy.learners._common import Filled, Fitted, anywhere, beliefs, constant, flat, seed, soft_logits, training
from understudy.protocols import Target
from understudy.types import Answers, Floats, Signal


@dataclass(frozen=True)
class Logistic:
    """Logistic regression on labels; least squares on log-probabilities where they are given; ridge for values.

    Inputs are standardised, gaps filled and marked. `strength`: inverse regularisation (C) on labels; `ridge`: penalty
    on soft answers; `iterations`: of the solver on labels, at most.
    """

    strength: float = 10.0
    ridge: float = 1e-6
    iterations: int = 300

    def fit(self, inputs: Floats, answers: Answers, rng: Generator) -> Target:
        """A linear substitute."""
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        space, filled, outputs = anywhere(inputs), Filled.of(flat(inputs)), answers.outputs
        x = filled(flat(inputs))
        linear = make_pipeline(StandardScaler(), Ridge(self.ridge))
        if Signal.VALUE in answers:
            with training():
                linear.fit(x, answers[Signal.VALUE])
            return Fitted(lambda u: linear.predict(filled(u)), outputs, space, Signal.VALUE)
        logits = soft_logits(answers)
        if logits is not None:
            # saturated rows carry little: weigh each by the spread its probabilities leave
            weight = 1 / (1 + np.ptp(logits, axis=1) ** 2)
            with training():
                linear.fit(x, logits, ridge__sample_weight=weight)
            return Fitted(lambda u: linear.predict(filled(u)), outputs, space)
        only = constant(answers, space)
        if only is not None:
            return only
        classifier = LogisticRegression(C=self.strength, max_iter=self.iterations, random_state=seed(rng))
        made = make_pipeline(StandardScaler(), classifier)
        with training():
            made.fit(x, answers.labels())
        believed = beliefs(made, outputs)
        return Fitted(lambda u: believed(filled(u)), outputs, space)
