"""Answers of a sum of trees as sums: which link makes them additive, how precise they are, and what was paid for."""

from __future__ import annotations

import numpy as np

from understudy.attacks._frame import Frame
from understudy.protocols import Metered
from understudy.targets.additive_steps import Ints, StepLink
from understudy.types import Answers, Box, Floats, Mixed, Signal

_NOISE = {True: 30 * 2.0**-24, False: 1e4 * 2.0**-53}  # of float32 and float64 sums, relative to the largest
_FAR = 64.0  # half-widths beyond which an unbounded coordinate is not asked


class Scores:
    """Asks each point once, and gives sums (n, k) with the size (n,) under which a difference is rounding.

    One column for two classes: the log-odds, or the second class's probability.
    """

    def __init__(self, target: Metered, frame: Frame) -> None:
        self.target, self.outputs, self.d = target, target.exposure.outputs, frame.d
        order = (Signal.VALUE, Signal.LOGITS, Signal.PROBABILITIES)
        self.signal = self._given = next(s for s in order if s in target.exposure.signals)
        self.link: StepLink = "identity" if self.signal is Signal.VALUE else "softmax"
        self.single = True  # whether every answer so far is a float32
        self.zeros = False  # whether a probability was 0 or 1: no log-ratio of a finite sum
        self.low, self.high = _bounds(frame)
        space = frame.space
        self.whole, self.missing = np.zeros((2, frame.d), np.bool_)
        if isinstance(space, Mixed):
            self.whole, self.missing = space.whole.ravel(), space.missing.ravel()
        self._scale = 0.0
        self._place: dict[bytes, int] = {}
        self._points, self._raw = list[Floats](), np.zeros((256, self.outputs))

    def ask(self, x: Floats) -> tuple[Floats, Floats]:
        """Sums and their rounding at `x` (n, d). Raises BudgetExceeded."""
        rows = [row.tobytes() for row in np.ascontiguousarray(x, np.float64) + 0.0]
        new = {row: i for i, row in enumerate(rows) if row not in self._place}
        if new:
            self._buy(x[list(new.values())], list(new))
        raw = self._raw[[self._place[row] for row in rows]]
        return self.sums(raw), self.rounding(raw)

    def bought(self) -> tuple[Floats, Floats, Floats]:
        """Every point, its sums and their rounding."""
        return np.concatenate(self._points), self.sums(self.raw), self.rounding(self.raw)

    @property
    def raw(self) -> Floats:
        """Every point's answer as it came."""
        return self._raw[: len(self._place)]

    def held(self, x: Floats) -> Floats:
        """Points as float32 and whole numbers, kept inside the space."""
        near = np.where(self.whole, np.round(x), x.astype(np.float32))
        return np.clip(near, self.low, self.high)

    def between(self, feature: Ints, a: Floats, b: Floats) -> Floats:
        """A number that a feature can have between each a < b, and `a` where there is none."""
        halved = between32(a, b, (self.high - self.low)[feature] * 2.0**-30)
        return np.where(self.whole[feature], np.floor((a + b) / 2), halved)

    def answers(self) -> tuple[Floats, Answers]:
        """Every point, shaped as the space's, and its answer as it came."""
        x = np.concatenate(self._points).reshape(-1, *self.target.space.shape)
        return x, Answers({self.signal: self._raw[: len(self._place)]}, self.outputs)

    def linked(self, link: StepLink) -> None:
        """Read the answers through another link from now on."""
        self.link = link
        self._scale = _largest(self.sums(self._raw[: len(self._place)]))

    def _buy(self, x: Floats, rows: list[bytes]) -> None:
        raw = np.asarray(self.target.query(x.reshape(len(x), *self.target.space.shape))[self._given], np.float64)
        start, end = len(self._place), len(self._place) + len(x)
        if end > len(self._raw):
            self._raw = np.concatenate([self._raw, np.zeros((end, self.outputs))])
        self._raw[start:end] = raw
        self._points.append(x)
        self._place |= {row: start + i for i, row in enumerate(rows)}
        single = (raw == raw.astype(np.float32)).all(0)
        # of two probabilities one is often made of the other, in float64
        self.single &= bool(single.any() if self.signal is Signal.PROBABILITIES and self.outputs == 2 else single.all())
        if self.signal is Signal.PROBABILITIES and ((raw < 0) | (raw > 1)).any():
            self.signal, self.link = Signal.LOGITS, "softmax"  # logits that are called probabilities
        if self.signal is Signal.PROBABILITIES:
            self.zeros |= bool(((raw == 0) | (raw == 1)).any())
        self._scale = max(self._scale, _largest(self.sums(raw)))

    def sums(self, raw: Floats) -> Floats:
        """(n, k) numbers that are sums over the trees, if the link is right."""
        if self.signal is Signal.VALUE:
            return raw
        if self.link == "probabilities":
            return raw[:, 1:] if self.outputs == 2 else raw
        with np.errstate(divide="ignore"):
            z = raw if self.signal is Signal.LOGITS else np.log(np.maximum(raw, 1e-300))
        return z[:, 1:] - z[:, :1] if self.outputs == 2 else z - z.mean(1, keepdims=True)

    def rounding(self, raw: Floats) -> Floats:
        """(n,) sizes under which a difference of sums may be rounding; infinite where an answer is saturated."""
        size = np.full(len(raw), _NOISE[self.single] * max(self._scale, 1e-300))
        if self.signal is Signal.PROBABILITIES and self.link == "softmax":
            least = raw.min(1)
            with np.errstate(divide="ignore"):
                lost = 2.0 ** (-21 if self.single else -50) / least if self.outputs == 2 else np.zeros(len(raw))
            size = np.where(least > 0, size + _NOISE[self.single] + lost, np.inf)
        return size


def _largest(sums: Floats) -> float:
    return float(np.abs(sums[np.isfinite(sums)]).max(initial=0.0))


def _bounds(frame: Frame) -> tuple[Floats, Floats]:
    """The corners between which the attack asks."""
    low, high = np.full(frame.d, -np.inf), np.full(frame.d, np.inf)
    if isinstance(frame.space, Box):
        low, high = frame.space.low.ravel(), frame.space.high.ravel()
    far = _FAR * frame.half
    return (
        np.where(np.isfinite(low), low, np.minimum(frame.middle - far, high)),
        np.where(np.isfinite(high), high, np.maximum(frame.middle + far, low)),
    )


def between32(a: Floats, b: Floats, narrow: Floats) -> Floats:
    """A float32 number between each a < b: the middle, or where b - a < narrow the middle one of those there are.

    `a` where there is none. Halving their number is what ends near zero.
    """
    middle = (a + (b - a) / 2).astype(np.float32).astype(np.float64)
    one, two = _ordinal(a.astype(np.float32)), _ordinal(b.astype(np.float32))
    one, two = one - (_number(one) > a), two + (_number(two) < b)
    counted = np.where(two - one > 1, _number(one + (two - one) // 2), a)
    return np.where((b - a < narrow) | (middle <= a) | (middle >= b), counted, middle)


def _ordinal(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _number(ordinal: np.ndarray) -> np.ndarray:
    bits = np.where(ordinal < 0, -ordinal | 0x80000000, ordinal).astype(np.uint32)
    return bits.view(np.float32).astype(np.float64)
