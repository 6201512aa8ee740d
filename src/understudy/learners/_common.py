"""What every learner shares: soft targets out of answers, and a fitted model as a Target."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from understudy.targets.linear import softmax
from understudy.types import Answers, Array, Ask, Box, Exposure, Floats, Mixed, Signal, Space, Text

_LONGEST = 2**31 - 1  # characters
_LEAST = 1e-30  # probabilities below this are taken for this; the logarithm of what is left still tells classes apart


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained substitute. `predict` maps flat inputs (n, d), or texts (n, 1), to logits or values (n, outputs)."""

    predict: Callable[[Array], Array]
    outputs: int
    space: Space
    signal: Signal = Signal.LOGITS

    @property
    def exposure(self) -> Exposure:
        scores = [Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS]
        return Exposure.of([Signal.VALUE] if self.signal is Signal.VALUE else scores, self.outputs)

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Values of a regression; else labels, probabilities and logits, or those that `ask` names."""
        x = self.space.check(inputs)
        if not len(x):
            return self.exposure.nothing(0, self.space.shape)
        with training():
            raw = np.asarray(self.predict(flat(x)), np.float64).reshape(len(x), self.outputs)
        if self.signal is Signal.VALUE:
            return Answers({Signal.VALUE: raw}, self.outputs)
        values = {Signal.LABEL: raw.argmax(1), Signal.PROBABILITIES: softmax(raw), Signal.LOGITS: raw}
        answers = Answers(values, self.outputs)
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)


def anywhere(inputs: Array) -> Space:
    """A space that holds every input of the shape that was trained on, and gaps anywhere if there were any."""
    if inputs.dtype == object:
        return Text(_LONGEST, empty=True)
    shape = inputs.shape[1:]
    if np.isnan(inputs).any():
        return Mixed(-np.inf, np.inf, shape, missing=range(int(np.prod(shape))))
    return Box(-np.inf, np.inf, shape)


@dataclass(frozen=True, eq=False)
class Filled:
    """Rows without gaps, for models that take none: gaps become the column's mean, and a column says where they were.

    `mean` (d,): of the rows that were trained on; `gaps`: the columns of them that had any.
    """

    mean: Floats
    gaps: Array

    @classmethod
    def of(cls, x: Floats) -> Self:
        """From rows (n, d); a column that is all gaps is taken for zeros."""
        missing = np.isnan(x)
        held = np.maximum((~missing).sum(0), 1)
        return cls(np.where(missing, 0.0, x).sum(0) / held, np.flatnonzero(missing.any(0)))

    def __call__(self, x: Floats) -> Floats:
        """(n, d) and one more for every column that had gaps."""
        missing = np.isnan(x)
        if not len(self.gaps) and not missing.any():
            return x
        return np.column_stack([np.where(missing, self.mean, x), missing[:, self.gaps]])


def flat(inputs: Array) -> Array:
    """Inputs as (n, d); texts as (n, 1)."""
    return inputs.reshape(len(inputs), int(np.prod(inputs.shape[1:])))


def soft_logits(answers: Answers) -> Floats | None:
    """(n, c) centred log-probabilities, or None where the answers tell less than that of every class.

    Scores outside [0, 1] are taken for the logits they are. Probabilities are clipped at half of the smallest one where
    some are zero (rounding, votes, 1 - p that ran out of digits), else at 1e-30.
    """
    signal = next((s for s in (Signal.LOGITS, Signal.PROBABILITIES) if s in answers), None)
    if signal is None:
        return None
    scores, given = np.asarray(answers[signal], np.float64), answers.mask(signal)
    if signal is Signal.PROBABILITIES and not ((scores < 0) | (scores > 1))[given].any():
        if (given.sum(1) >= answers.outputs - 1).all():  # the others tell the last one
            left = 1 - np.where(given, scores, 0).sum(1, keepdims=True)
            scores, given = np.where(given, scores, np.maximum(left, 0)), np.ones_like(given)
        positive = scores[scores > 0]
        floor = 0.5 * positive.min(initial=1.0) if (scores == 0).any() else 0.0
        scores = np.log(np.maximum(scores, max(floor, _LEAST)))
    return np.asarray(scores - scores.mean(1, keepdims=True)) if given.all() else None


def constant(answers: Answers, space: Space) -> Fitted | None:
    """The one class that was ever answered, where there was only one: nothing else can be learned from that."""
    labels = answers.labels()
    if len(labels) and (labels != labels[0]).any():
        return None
    logits = np.zeros(answers.outputs)
    if len(labels):
        logits[labels[0]] = np.log1p(len(labels))  # another class may still follow (Laplace's rule)
    return Fitted(lambda x: np.tile(logits, (len(x), 1)), answers.outputs, space)


def beliefs(classifier: Any, outputs: int) -> Callable[[Any], Floats]:
    """Log-probabilities (n, outputs) of a fitted scikit-learn classifier; classes it never saw are least likely."""

    def predict(x: Any) -> Floats:
        log_p = np.full((x.shape[0], outputs), np.log(1e-12))
        log_p[:, classifier.classes_] = np.log(np.maximum(classifier.predict_proba(x), 1e-10))
        return log_p

    return predict


@contextmanager
def training() -> Iterator[None]:
    """Around calls of scikit-learn, after its import: one thread, since tables this small are slower with several and
    audits run side by side; and no warnings, since training stops where it is told to and that it could go on is no
    news.
    """
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def seed(rng: np.random.Generator) -> int:
    """A random state for a library that wants an integer."""
    return int(rng.integers(2**31 - 1))
