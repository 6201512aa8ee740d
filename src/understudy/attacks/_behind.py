"""What lies behind a first hidden layer, asked as a target of its own, and the one layer that is solved there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from understudy.attacks._kinks import Line, match
from understudy.attacks._one_layer import Limits, OneLayer
from understudy.attacks._peel import First
from understudy.attacks._relu_net import Net, Units, misfit
from understudy.attacks._scores import Scores
from understudy.types import Answers, Ask, Box, Exposure, Floats

_NARROW = 1e-5  # smallest size of hidden values on a line, as a share of the largest
_OFF = 1e-6  # the size that stands for a hidden value of nothing: a unit just on
_HELD = 0.25  # share of the lines that a unit should bend on which it must
_COMPLETE, _WORTH = 3e-7, 1e-3  # relative errors on bought answers: of a complete network, and of one worth a fit
_ENOUGH = 4  # equations per unknown of a fit
_ROUNDS = 3  # of Gauss-Newton


@dataclass(frozen=True, eq=False)
class Behind:
    """What lies behind a first layer, as a target: asked for hidden values, it asks for an input that has them."""

    scores: Scores
    first: First
    space: Box
    _back: Floats = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_back", self.first.inverse())

    @property
    def exposure(self) -> Exposure:
        return self.scores.target.exposure

    @property
    def spent(self) -> int:
        return self.scores.target.spent

    @property
    def remaining(self) -> int:
        return self.scores.target.remaining

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Answers to hidden values (n, h)."""
        u = (self.space.check(inputs) - self.first.offsets) @ self._back.T
        return self.scores.target.query(self.scores.frame.inputs(u), ask)


class Inner(OneLayer):
    """The layer behind, on lines that cross its box at every scale; `through`: hidden values that a line shall pass."""

    def __init__(self, scores: Scores, limits: Limits) -> None:
        super().__init__(scores, limits)
        self.through: list[Floats] = []

    def complete(self) -> bool:
        """Put the network together; whether it explains every answer, once it has been fitted to all of them."""
        super().complete()
        if self.net is None:
            return False
        u, y = self.scores.u, self.scores.y
        noise = self.scores.noise_at(u, y)
        worst = misfit(self.net, u, y, noise).max()
        if _COMPLETE < worst < _WORTH:
            self.net = polished(self.net, u, y, noise)
            worst = misfit(self.net, u, y, noise).max()
        return bool(worst <= _COMPLETE)

    def scan(self, rng: Generator) -> None:
        """Scan one more line, and drop units that too many lines do not show where they say."""
        super().scan(rng)
        shown, due = np.zeros(len(self.units)), np.zeros(len(self.units))
        for trace in self.traces:
            t, jumps = self.units.crossings(trace.line)
            within = (t > trace.line.low) & (t < trace.line.high) & trace.resolved
            due += within
            shown += within & (match(trace, t, jumps) >= 0)
        self.units = self.units.take(shown >= _HELD * due)

    def _line(self, rng: Generator) -> Line:
        low, high = self.scores.low, self.scores.high
        narrow = _NARROW ** rng.uniform(0, 1, (2, len(low)))
        if self.net is not None and rng.uniform() < 0.5:  # to where scores are far apart: units that are on go off
            ahead = rng.standard_normal(self.scores.k) @ self._slopes(self.net)
            narrow = narrow.max(1, keepdims=True) * np.where(np.stack([ahead, -ahead]) > 0, 1.0, _OFF)
        else:
            on = rng.uniform(size=narrow.shape) < rng.choice([0.3, 0.6, 1.0], (2, 1))
            narrow = np.where(on, narrow, _OFF)
        p, q = low + (high - low) * narrow * (1 + 1e-3 * rng.uniform(size=narrow.shape)) / 1.001
        if self.through:
            p = np.clip(self.through.pop(), low + 1e-6 * (high - low), high)
        v = q - p
        t = np.stack([(low - p) / v, (high - p) / v])
        return Line(p, v, float(t.min(0).max()), float(t.max(0).min()))

    def _slopes(self, net: Net) -> Floats:
        """(k, h) slopes in the middle; every other time, the linear rest alone, made of units never silent so far."""
        known = net.units.slopes(np.zeros(self.scores.frame.d))
        if net.skip is None:
            return known
        return net.skip if len(self.traces) // 3 % 2 else known + net.skip


def polished(net: Net, u: Floats, y: Floats, noise: Floats) -> Net:
    """Gauss-Newton on every parameter of a network at some of the answers y (n, k) to u (n, d), none near a kink."""
    unknowns = len(net.units) * (u.shape[1] + 1 + y.shape[1]) + y.shape[1]
    some = np.linspace(0, len(u) - 1, min(len(u), _ENOUGH * (1 + unknowns // y.shape[1]))).astype(int)
    u, y, weight = u[some], y[some], 1 / np.maximum(noise[some], np.finfo(float).tiny)
    for _ in range(_ROUNDS):
        units = net.units
        sums = u @ units.rows.T + units.offsets
        size = np.abs(u) @ np.abs(units.rows).T + np.abs(units.offsets)
        clear = (np.abs(sums) > 1e-4 * size).all(1) & np.isfinite(y).all(1)
        on, x, h = (sums[clear] > 0) * 1.0, u[clear], np.maximum(sums[clear], 0)
        n, k, m = len(x), y.shape[1], len(units)
        inner = np.concatenate([on[:, :, None] * x[:, None], on[:, :, None]], 2)  # (n, m, d + 1)
        rows = np.einsum("nmd,mk->nkmd", inner, units.directions).reshape(n * k, -1)
        outer = np.concatenate([h, np.ones((n, 1))] + ([] if net.skip is None else [x]), 1)
        columns = np.einsum("no,kl->nkol", outer, np.eye(k)).reshape(n * k, -1)
        w = np.repeat(weight[clear], k)[:, None]
        jacobian = np.hstack([rows, columns]) * w
        scale = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-300)
        if len(jacobian) < jacobian.shape[1]:
            break
        step = (
            np.linalg.lstsq(jacobian / scale, ((y[clear] - net.predict(x)).ravel() * w[:, 0]), rcond=1e-13)[0] / scale
        )
        first, last = step[: rows.shape[1]].reshape(m, -1), step[rows.shape[1] :].reshape(-1, k)
        moved = Units(units.directions + last[:m], units.rows + first[:, :-1], units.offsets + first[:, -1])
        skip = None if net.skip is None else net.skip + last[m + 1 :].T
        tried = replace(net, units=moved, constant=net.constant + last[m], skip=skip)
        before, after = (np.abs(y[clear] - one.predict(x)).max(1) * weight[clear] for one in (net, tried))
        if not np.median(after) < np.median(before) or not after.max() < before.max():
            break
        net = tried
    return net
