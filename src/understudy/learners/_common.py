"""What every learner shares: soft targets out of answers, and a fitted model as a Target."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from understudy.targets.callable import nothing
from understudy.targets.linear import softmax
from understudy.types import Answers, Array, Ask, Box, Exposure, Floats, Signal, Space


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained substitute. `predict` maps flat inputs (n, d) to (n,) labels, (n, outputs) logits or values."""

    predict: Callable[[Floats], Array]
    signal: Signal
    outputs: int
    space: Space

    @property
    def exposure(self) -> Exposure:
        scores = [Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS]
        return Exposure.of(scores if self.signal is Signal.LOGITS else [self.signal], self.outputs)

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Labels; with logits also probabilities; values for regression."""
        x = self.space.check(inputs)
        flat = x.reshape(len(x), int(np.prod(self.space.shape)))
        if not len(x):
            return nothing(self.exposure)
        raw = np.asarray(self.predict(flat))
        if self.signal is not Signal.LOGITS:
            return Answers({self.signal: raw}, self.outputs)
        values = {Signal.LABEL: raw.argmax(1), Signal.PROBABILITIES: softmax(raw), Signal.LOGITS: raw}
        answers = Answers(values, self.outputs)
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)


def anywhere(inputs: Floats) -> Box:
    """A space that holds every input of the shape that was trained on."""
    return Box(-np.inf, np.inf, inputs.shape[1:])


def flat(inputs: Floats) -> Floats:
    """Inputs as (n, d)."""
    return inputs.reshape(len(inputs), -1)


def soft_logits(answers: Answers) -> Floats | None:
    """(n, c) centred log-probabilities, or None where the answers show labels only, or not every class.

    Rounded probabilities are clipped at half of their smallest step, floats at 1e-7. Scores outside [0, 1] are taken
    for the logits they are.
    """
    if Signal.LOGITS in answers and answers.mask(Signal.LOGITS).all():
        z = np.asarray(answers[Signal.LOGITS], np.float64)
        return np.asarray(z - z.mean(1, keepdims=True))
    if Signal.PROBABILITIES not in answers:
        return None
    p, mask = np.asarray(answers[Signal.PROBABILITIES], np.float64), answers.mask(Signal.PROBABILITIES)
    if ((p < 0) | (p > 1))[mask].any():
        return np.asarray(p - p.mean(1, keepdims=True)) if mask.all() else None
    if answers.outputs == 2:
        p, mask = np.where(mask, p, 1 - p[:, ::-1]), mask | mask[:, ::-1]  # one of two tells the other
    if not mask.all():
        return None
    z = np.log(np.clip(p, _floor(p), None))
    return np.asarray(z - z.mean(1, keepdims=True))


def _floor(p: Floats) -> float:
    for decimals in range(1, 7):
        if (np.abs(p - np.round(p, decimals)) < 1e-12).all():
            return float(0.5 * 10.0**-decimals)
    return 1e-7


def constant(answers: Answers, space: Space) -> Fitted | None:
    """The one answer that was ever given, where there was only one class; learners cannot be trained on that."""
    labels = answers.labels()
    if len(labels) and (labels != labels[0]).any():
        return None
    only = int(labels[0]) if len(labels) else 0
    return Fitted(lambda x: np.full(len(x), only, np.int64), Signal.LABEL, answers.outputs, space)


@contextmanager
def quiet() -> Iterator[None]:
    """Training stops where it is told to; that it could go on is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def seed(rng: np.random.Generator) -> int:
    """A random state for a library that wants an integer."""
    return int(rng.integers(2**31 - 1))
