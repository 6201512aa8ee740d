"""Substitutes by a small neural network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from understudy.learners._common import Fitted, anywhere, constant, flat, quiet, seed, soft_logits
from understudy.protocols import Target
from understudy.types import Answers, Floats, Signal


@dataclass(frozen=True)
class Mlp:
    """A ReLU network: a classifier on labels, a regression on centred log-probabilities where they are given.

    `hidden`: widths; `rate`: Adam's step; `batch`: rows a step; `passes`: epochs over the answers at most;
    `penalty`: weight decay.
    """

    hidden: tuple[int, ...] = (64,)
    rate: float = 5e-3
    batch: int = 32
    passes: int = 40
    penalty: float = 1e-4

    def fit(self, inputs: Floats, answers: Answers, rng: Generator) -> Target:
        """A neural substitute. Inputs are standardised, targets scaled to unit spread."""
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        space, x = anywhere(inputs), flat(inputs)
        options = {
            "hidden_layer_sizes": self.hidden,
            "learning_rate_init": self.rate,
            "batch_size": min(self.batch, len(x)),
            "max_iter": self.passes,
            "alpha": self.penalty,
            "random_state": seed(rng),
        }
        if Signal.VALUE in answers:
            signal, wanted = Signal.VALUE, np.asarray(answers[Signal.VALUE], np.float64)
        else:
            soft = soft_logits(answers)
            if soft is None:
                only = constant(answers, space)
                if only is not None:
                    return only
                made = make_pipeline(StandardScaler(), MLPClassifier(**options))
                with quiet():
                    made.fit(x, answers.labels())
                return Fitted(lambda u: np.asarray(made.predict(u)), Signal.LABEL, answers.outputs, space)
            signal, wanted = Signal.LOGITS, soft
        middle, spread = wanted.mean(0), float(wanted.std()) or 1.0
        scaled = (wanted - middle) / spread
        model = make_pipeline(StandardScaler(), MLPRegressor(**options))
        with quiet():
            model.fit(x, scaled if scaled.shape[1] > 1 else scaled[:, 0])
        return Fitted(lambda u: model.predict(u).reshape(len(u), -1) * spread + middle, signal, answers.outputs, space)
