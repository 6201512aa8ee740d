"""A target's answers as a piecewise linear function: logits and values as they are, probabilities as log-ratios."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from understudy.attacks._bought import Precision, Spent
from understudy.attacks._frame import Frame
from understudy.protocols import Metered
from understudy.types import Answers, Box, Floats, Signal

_STILL, _TYPICAL = 12.0, 2.0  # noise that no bend explains, in units of what was expected; the bound, in units of rms
_ROUNDOFF = 4.0  # units in the last place that a network's sums cost


@dataclass(frozen=True)
class Noise:
    """How far an answer may be from the function: absolute, and relative to the largest score of its row."""

    absolute: float
    relative: float


class Scores:
    """Asks in frame coordinates and keeps every row: points `u` (n, d), scores `y` (n, k).

    Of probabilities only differences of scores are known: they are given in an orthonormal basis of the differences,
    k = outputs - 1. So they can be of logits to which each answer adds a constant of its own (`centre`).
    """

    precision: Precision  # of raw answers, known from the first batch on

    def __init__(self, target: Metered, frame: Frame) -> None:
        given = target.exposure.signals
        self.target, self.frame, self.outputs = target, frame, target.exposure.outputs
        self.signal = next(s for s in (Signal.VALUE, Signal.LOGITS, Signal.PROBABILITIES) if s in given)
        self.logs = self.signal is Signal.PROBABILITIES
        self.basis: Floats = (
            scipy.linalg.null_space(np.ones((1, self.outputs))).T if self.logs else np.eye(self.outputs)
        )
        self.noise, self.usual = Noise(0.0, _ROUNDOFF * 2.0**-53), 0.0
        self.reserve = 0  # queries that only checks may use
        self._u: list[Floats] = []
        self._y: list[Floats] = []
        low, high = np.full(frame.d, -np.inf), np.full(frame.d, np.inf)
        if isinstance(frame.space, Box):
            low, high = frame.space.low.reshape(frame.d), frame.space.high.reshape(frame.d)
        self.low, self.high = (low - frame.middle) / frame.half, (high - frame.middle) / frame.half

    @property
    def k(self) -> int:
        """Scores per answer."""
        return len(self.basis)

    @property
    def coarse(self) -> bool:
        """Whether answers are rounded, or float32: too few digits to tell a kink from the steps of the grid."""
        return not self.precision.is_float or self.precision.relative > 1e-10

    @property
    def u(self) -> Floats:
        return np.concatenate(self._u) if self._u else np.zeros((0, self.frame.d))

    @property
    def y(self) -> Floats:
        return np.concatenate(self._y) if self._y else np.zeros((0, self.k))

    def ask(self, u: Floats, keep: bool = True) -> Floats:
        """(n, k) scores; raises Spent. Rows with a withheld or vanished entry are NaN. `keep=False`: for checks."""
        if len(u) > self.target.remaining - self.reserve * keep:
            raise Spent
        answers = self.target.query(self.frame.inputs(u))
        if not self._u:
            self.precision = self._learn_precision(np.asarray(answers[self.signal])[answers.mask(self.signal)])
        y = self.read(answers)
        if not self._u and np.isfinite(y).any():
            self.usual = 0.3 * float(np.nanmax(np.abs(y).max(1) / (1 + np.sqrt((u**2).mean(1)))))
        if keep:
            self._u.append(u)
            self._y.append(y)
        return y

    def read(self, answers: Answers) -> Floats:
        """(n, k) scores of answers."""
        y = np.where(answers.mask(self.signal), np.asarray(answers[self.signal], np.float64), np.nan)
        if self.logs:
            y = np.log(np.where(y > 1e-300, y, np.nan))
        return np.asarray(y @ self.basis.T)

    def noise_at(self, u: Floats, y: Floats) -> Floats:
        """(n,) how far the scores `y` of points `u` may be off. Of two probabilities one is often 1 - p: digits lost.

        Terms inside the network that cancel in a score leave their rounding: nothing is finer than is usual so far out.
        """
        largest = np.maximum(np.abs(y).max(-1), self.usual * (1 + np.sqrt((u**2).mean(-1))))
        if self.logs and self.k == 1:
            return np.asarray(self.noise.absolute + self.noise.relative * np.exp(np.sqrt(2) * np.minimum(largest, 500)))
        return np.asarray(self.noise.absolute + self.noise.relative * np.maximum(largest, 1.0 if self.logs else 0.0))

    def learn_noise(self, u: Floats, y: Floats) -> None:
        """Raise the noise to what second differences `y` (3, n, k) around points `u` (n, d) show, most without a bend.

        Where large terms cancel in a score, rounding is many times what the score itself would suggest.
        """
        shown = np.abs(y[0] - 2 * y[1] + y[2]).max(1) / np.sqrt(6)
        noise = self.noise_at(u, y[1])
        still = shown <= _STILL * noise
        if still.any():
            rms = float(np.sqrt((shown[still] ** 2).mean()))
            out = 1 + np.sqrt((u[still] ** 2).mean(-1))
            self.usual = max(self.usual, _TYPICAL * rms / float((self.noise.relative * out).mean()))

    def centre(self) -> None:
        """From now on only differences of scores, in what was bought so far too."""
        old, self.basis = self.basis, scipy.linalg.null_space(np.ones((1, self.outputs))).T
        self._y = [y @ old @ self.basis.T for y in self._y]

    def _learn_precision(self, raw: Floats) -> Precision:
        """Set the noise by the grid that raw answers show."""
        precision = Precision.of(raw)
        if not precision.is_float:
            self.noise = Noise(precision.quantum / 2, _ROUNDOFF * 2.0**-53)
        elif precision.relative > 1e-10:
            self.noise = Noise(0.0, _ROUNDOFF * 2.0**-24)
        return precision
