"""A target as a smooth function: values as they are, logits and log-probabilities up to what all classes share."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from understudy.attacks._bought import Precision, Spent
from understudy.attacks._frame import Frame
from understudy.protocols import Metered
from understudy.types import Floats, Signal

_ROUNDING = 4 * 2.0**-53  # relative error of a score


class Centred:
    """Asks in frame coordinates. Of c classes m = c - 1 scores: their differences, in an orthonormal basis (m, c)."""

    def __init__(self, target: Metered, frame: Frame) -> None:
        given, outputs = target.exposure.signals, target.exposure.outputs
        self.target, self.frame = target, frame
        self.signal = next(s for s in (Signal.VALUE, Signal.LOGITS, Signal.PROBABILITIES) if s in given)
        differences = scipy.linalg.null_space(np.ones((1, outputs))).T
        self.basis: Floats = np.eye(outputs) if self.signal is Signal.VALUE else differences
        self.precision = Precision.of(np.zeros(0))  # of raw answers, known from the first batch on

    @property
    def m(self) -> int:
        """Scores per answer."""
        return len(self.basis)

    def ask(self, u: Floats) -> Floats:
        """(n, m) scores; rows with an entry that is withheld or has vanished are NaN. Raises Spent."""
        if len(u) > self.target.remaining:
            raise Spent
        answers = self.target.query(self.frame.inputs(u))
        y = np.where(answers.mask(self.signal), np.asarray(answers[self.signal], np.float64), np.nan)
        if self.precision.decimals == 0:
            self.precision = Precision.of(y[np.isfinite(y)])
        if self.signal is Signal.PROBABILITIES:
            y = np.log(np.where((y > 1e-300) & (y <= 1), y, np.nan))
        return np.asarray(y @ self.basis.T)

    def noise(self, g: Floats) -> Floats:
        """(n,) how far rows of scores may be off. Of two probabilities one is often 1 - p and has lost digits."""
        largest = np.abs(g).max(-1)
        if self.signal is Signal.PROBABILITIES and self.m == 1:
            return np.asarray(_ROUNDING * np.exp(np.sqrt(2) * np.minimum(largest, 500)))
        return np.asarray(_ROUNDING * np.maximum(largest, 0.0 if self.signal is Signal.VALUE else 1.0))
