"""Substitutes by a small neural network."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.random import Generator

from understudy.learners._common import Filled, Fitted, anywhere, beliefs, constant, flat, seed, soft_logits, training
from understudy.protocols import Target
from understudy.types import Answers, Array, Floats, Signal

_PHASES = ((1.0, 0.5), (0.3, 0.25), (0.075, 0.25))  # factor on the rate, share of the passes: coarse, then fine


@dataclass(frozen=True)
class Mlp:
    """A ReLU network: a classifier on labels, a regression on centred log-probabilities where they are given.

    Trained by Adam in three phases of falling rate, from Glorot's initialisation as scikit-learn draws it.
    `hidden`: widths; `rate`: the first phase's step; `batch`: rows a step; `passes`: epochs over the answers, fewer
    where they would take more than `steps`; `penalty`: L2 on the weights.
    """

    hidden: tuple[int, ...] = (128,)
    rate: float = 2e-2
    batch: int = 128
    passes: int = 40
    steps: int = 2500
    penalty: float = 0.1

    def fit(self, inputs: Floats, answers: Answers, rng: Generator) -> Target:
        """A neural substitute. Inputs are standardised, gaps filled and marked, targets scaled to unit spread."""
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.preprocessing import StandardScaler

        space, filled, outputs = anywhere(inputs), Filled.of(flat(inputs)), answers.outputs
        scaler, state = StandardScaler(), seed(rng)
        x = scaler.fit_transform(filled(flat(inputs)))
        if Signal.VALUE in answers:
            wanted, signal = np.asarray(answers[Signal.VALUE], np.float64), Signal.VALUE
        else:
            soft = soft_logits(answers)
            if soft is None:
                only = constant(answers, space)
                if only is not None:
                    return only
                believed = beliefs(self._train(MLPClassifier, x, answers.labels(), state), outputs)
                return Fitted(lambda u: believed(scaler.transform(filled(u))), outputs, space)
            wanted, signal = soft, Signal.LOGITS
        middle = wanted.mean(0)
        # classes share one scale; values have one each
        spread = np.asarray(wanted.std(0) if signal is Signal.VALUE else wanted.std())
        spread = np.where(spread > 0, spread, 1.0)
        scaled = (wanted - middle) / spread
        model = self._train(MLPRegressor, x, scaled if outputs > 1 else scaled[:, 0], state)
        return Fitted(
            lambda u: model.predict(scaler.transform(filled(u))).reshape(len(u), -1) * spread + middle,
            outputs,
            space,
            signal,
        )

    def _train(self, kind: Any, x: Floats, y: Array, state: int) -> Any:
        batch = min(self.batch, len(x))
        passes = min(self.passes, ceil(self.steps * batch / len(x)))
        network = kind(
            hidden_layer_sizes=self.hidden,
            batch_size=batch,
            alpha=self.penalty,
            n_iter_no_change=self.passes,
            warm_start=True,
            random_state=state,
        )
        with training():
            for factor, share in _PHASES:
                network.set_params(learning_rate_init=self.rate * factor, max_iter=max(1, round(passes * share)))
                network.fit(x, y)
        return network
