"""Answers together with the gradients that come with them, as scores and their slopes in frame coordinates."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg

from understudy.attacks._bought import Precision, Spent
from understudy.attacks._frame import Frame
from understudy.protocols import Metered
from understudy.targets.linear import softmax
from understudy.types import Exposure, Floats, Signal

#: What the attributions are the gradients of. `odds`: of the log-odds of the second of two classes.
Kind = Literal["scores", "odds", "probabilities"]

_ROUNDING = 8 * 2.0**-53


def beside(exposure: Exposure) -> Signal | None:
    """The scores that come beside attributions, every class of them; None where either is withheld."""
    given, order = exposure.grains, (Signal.VALUE, Signal.LOGITS, Signal.PROBABILITIES)
    if Signal.ATTRIBUTION not in given:
        return None
    return next((s for s in order if s in given and given[s].top_k is None), None)


class Seen(NamedTuple):
    """Points (n, d) as they were asked, scores (n, m), slopes (n, m, d), and how far scores may be off (n,).

    Rows of which nothing can be made, saturated ones say, are NaN in the last.
    """

    u: Floats
    y: Floats
    slopes: Floats
    noise: Floats


class Raw(NamedTuple):
    """As bought: points (n, d), scores or probabilities (n, c), attributions (n, c, d) per frame coordinate."""

    u: Floats
    answers: Floats
    attributions: Floats


class Slopes:
    """Asks in frame coordinates. Of c classes m = c - 1 scores: their differences, in an orthonormal basis (m, c)."""

    def __init__(self, target: Metered, frame: Frame, signal: Signal) -> None:
        outputs = target.exposure.outputs
        self.target, self.frame, self.signal = target, frame, signal
        differences = scipy.linalg.null_space(np.ones((1, outputs))).T
        self.basis: Floats = np.eye(outputs) if signal is Signal.VALUE else differences
        self.relative = 2.0**-53  # precision of the coarser of answers and attributions; 1 where either is rounded

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What the attributions could be the gradients of."""
        if self.signal is Signal.VALUE:
            return ("scores",)
        return ("scores", "odds", "probabilities") if self.target.exposure.outputs == 2 else ("scores", "probabilities")

    def buy(self, u: Floats) -> Raw:
        """Raises Spent."""
        if len(u) > self.target.remaining:
            raise Spent
        x = self.frame.inputs(u)
        answers = self.target.query(x)
        u = (x.reshape(len(x), -1) - self.frame.middle) / self.frame.half  # as it was after rounding
        y = np.where(answers.mask(self.signal), np.asarray(answers[self.signal], np.float64), np.nan)
        given = np.asarray(answers[Signal.ATTRIBUTION], np.float64)
        for numbers in (y[np.isfinite(y)], given):
            found = Precision.of(numbers)
            telling = ((numbers != 0) & (np.abs(numbers) != 1)).sum() > 3
            self.relative = max(self.relative, found.relative if found.is_float else float(telling))
        return Raw(u, y, given.reshape(len(u), y.shape[1], -1) * self.frame.half)

    def read(self, raw: Raw, kind: Kind) -> Seen:
        """Scores and slopes, where the attributions are of that kind."""
        y, slopes, noise = raw.answers, raw.attributions, np.full(len(raw.u), max(_ROUNDING, 8 * self.relative))
        if kind == "odds":
            slopes = slopes / 2  # a row of the second class was answered, and the first one's made its negative
        p = y if self.signal is Signal.PROBABILITIES else softmax(y)
        if self.signal is not Signal.VALUE and (kind == "probabilities" or self.signal is Signal.PROBABILITIES):
            least = p.min(1)
            known = (least > (1e-6 if p.shape[1] == 2 else 1e-200)) & (p.max(1) < 1)
            p = np.where(known[:, None], p, np.nan)
            noise = np.where(known, noise / (least if p.shape[1] == 2 else 1.0), np.nan)
            slopes = slopes / p[:, :, None] if kind == "probabilities" else slopes
            y = np.log(p) if self.signal is Signal.PROBABILITIES else y
        y, slopes = y @ self.basis.T, np.einsum("mc,ncd->nmd", self.basis, slopes)
        size = np.maximum(np.abs(y).max(1), np.abs(slopes).sum(2).max(1))
        return Seen(raw.u, y, slopes, np.where(np.isfinite(y).all(1), noise * np.maximum(size, 1e-300), np.nan))

    def kind(self, base: Raw, beside: Raw) -> Kind:
        """Whose gradients lead from one point to the other, close by."""
        gaps = []
        for kind in self.kinds:
            a, b = self.read(base, kind), self.read(beside, kind)
            expected = np.einsum("nmd,nd->nm", (a.slopes + b.slopes) / 2, b.u - a.u)
            gaps.append(float(np.nan_to_num(np.abs(b.y - a.y - expected).max(), nan=np.inf)))
        return self.kinds[int(np.argmin(gaps))]
