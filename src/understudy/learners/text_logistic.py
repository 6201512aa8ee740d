"""Linear substitutes of models of texts, by training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from understudy.learners._common import Fitted, anywhere, beliefs, constant, seed, soft_logits, training
from understudy.protocols import Target
from understudy.texts import WORD_OR_MARK, plain
from understudy.types import Answers, Array, Floats, Signal


@dataclass(frozen=True)
class TextLogistic:
    """Logistic regression on the words of texts; least squares on log-probabilities where they are given.

    Words, and runs of up to `words` of them, are weighed by how rare they are in what was bought (TF-IDF). `strength`:
    inverse regularisation (C) on labels; `ridge`: penalty on log-probabilities and values.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"text"})
    words: int = 1
    strength: float = 10.0
    ridge: float = 0.03

    def fit(self, inputs: Array, answers: Answers, rng: Generator) -> Target:
        """A linear substitute."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression, Ridge

        space, outputs = anywhere(inputs), answers.outputs
        vector = TfidfVectorizer(token_pattern=WORD_OR_MARK, ngram_range=(1, self.words), sublinear_tf=True)
        x = vector.fit_transform(plain(inputs))
        wanted = answers[Signal.VALUE] if Signal.VALUE in answers else soft_logits(answers)
        if wanted is not None:
            linear = Ridge(self.ridge)
            with training():
                linear.fit(x, wanted)
            signal = Signal.VALUE if Signal.VALUE in answers else Signal.LOGITS
            return Fitted(
                lambda texts: _scores(linear.predict(vector.transform(texts.ravel()))), outputs, space, signal
            )
        only = constant(answers, space)
        if only is not None:
            return only
        classifier = LogisticRegression(C=self.strength, max_iter=300, random_state=seed(rng))
        with training():
            classifier.fit(x, answers.labels())
        believed = beliefs(classifier, outputs)
        return Fitted(lambda texts: believed(vector.transform(texts.ravel())), outputs, space)


def _scores(made: Array) -> Floats:
    return np.asarray(made, np.float64)
