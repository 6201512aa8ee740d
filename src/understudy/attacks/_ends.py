"""Places inside a box that a network may be wrong at: asked once each, and held against every network found later."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from understudy.attacks._relu_net import Net, misfit
from understudy.attacks._scores import Scores
from understudy.types import Bools, Floats

_RIGHT = 1e-7  # relative error of an answer up to which a network is right there
_NOISY = 30.0  # times the noise of an answer, the same
_COARSE = 3e-13  # relative noise of an answer from which on no ray runs to that end
_OWN = 300  # of the attacker's rows so many are asked


class Ends:
    """Points `u` (n, d) and their scores `y` (n, k): rows of the attacker's first, `own` of them, then corners.

    A network that is right at the base and at an end has no unit unseen that switches in between, but for cancelling.
    """

    def __init__(self, scores: Scores, rng: Generator) -> None:
        self._scores = scores
        self.low = np.where(np.isfinite(scores.low), scores.low, -1.0)
        self.high = np.where(np.isfinite(scores.high), scores.high, 1.0)
        rows = np.clip(scores.frame.data, self.low, self.high)
        self._rows: Floats = rows[rng.permutation(len(rows))]
        self.u, self.y = np.zeros((0, scores.frame.d)), np.zeros((0, scores.k))
        self.given_up = np.zeros(0, np.bool_)
        self.own = min(_OWN, len(rows))
        self.ask(self._rows[: self.own])

    def __len__(self) -> int:
        return len(self.u)

    def first(self, rng: Generator) -> Floats:
        """(d,) an end for the first ray: a row of the attacker's or, where all are the middle, a random corner."""
        if not self.u.any():
            self.ask(self.corners(rng.standard_normal((1, len(self.low))), rng))
        away = self.u.any(1)
        good = away & ~self.given_up
        return np.asarray(self.u[good][0] if good.any() else self.u[away][-1])

    def ask(self, u: Floats, halvings: int = 4) -> None:
        """Ask at more ends, and half as far out too where answers are coarse (probabilities near 1); raises Spent."""
        y = self._scores.ask(u)
        coarse = ~(self._scores.noise_at(u, y) <= _COARSE * np.abs(y).max(1, initial=0))
        self.u, self.y = np.concatenate([self.u, u]), np.concatenate([self.y, y])
        self.given_up = np.append(self.given_up, coarse)
        if coarse.any() and halvings:
            self.ask(u[coarse] / 2, halvings - 1)

    def corners(self, ahead: Floats, rng: Generator) -> Floats:
        """The corners that lie farthest ahead in directions (..., d); at random in coordinates that do not matter."""
        ahead = np.where(ahead == 0, rng.standard_normal(ahead.shape), ahead)
        return np.where(ahead > 0, self.high, self.low)

    def fresh(self, net: Net, base: Floats, n: int, rng: Generator) -> Floats:
        """About n ends where units may switch that have not yet, of four kinds.

        Corners ahead in a random combination of scores, as the network has them at the base; from each of these the
        corner behind, by the slopes there; corners ahead in the linear rest alone, made of units that have never been
        silent; and what one row of the attacker's has more of than two others. Without rows, corners ahead in stretches
        of the inputs and on one side elsewhere.
        """
        quarter, k = -(-n // 4), self._scores.k
        v, w = rng.standard_normal((2, quarter, k))
        there = self.corners(_ahead(net, v, base[None]), rng)
        found = [there, self.corners(_ahead(net, -v, there), rng)]
        if net.skip is not None:
            found.append(self.corners(w @ net.skip, rng))
        else:
            found.append(self.corners(_ahead(net, -w, self.corners(_ahead(net, w, base[None]), rng)), rng))
        if len(self._rows) > 2:
            a, b, c = self._rows[np.argsort(rng.random((quarter, len(self._rows))), axis=1)[:, :3].T]
            found.append(np.where(a > np.maximum(b, c), self.high, self.low))
        else:
            ahead = self.corners(_ahead(net, rng.standard_normal((quarter, k)), base[None]), rng)
            side = np.where(rng.random((quarter, 1)) < 0.5, self.low, self.high)
            found.append(np.where(_stretches(ahead.shape, rng), ahead, side))
        return np.concatenate(found)

    def left(self, net: Net) -> Floats:
        """(n, k) what a network leaves unexplained of each answer."""
        return self.y - net.predict(self.u)

    def wrong(self, net: Net) -> Bools:
        """(n,) where a network is wrong."""
        return wrong(self._scores, net, self.u, self.y)


def wrong(scores: Scores, net: Net, u: Floats, y: Floats) -> Bools:
    """(n,) where a network does not explain the scores y (n, k) of points u (n, d)."""
    noise, size = scores.noise_at(u, y), np.maximum(np.abs(y).max(1), 1e-300)
    return np.asarray(misfit(net, u, y, noise) > np.maximum(_RIGHT, _NOISY * noise / size))


def _ahead(net: Net, v: Floats, u: Floats) -> Floats:
    """(n, d) the direction in which the scores, weighted by v (n, k), grow at points u (n, d) or (1, d)."""
    units = net.units
    ahead = ((v @ units.directions.T) * units.on(u)) @ units.rows
    return np.asarray(ahead if net.skip is None else ahead + v @ net.skip)


def _stretches(shape: tuple[int, ...], rng: Generator) -> Bools:
    """(n, d) stretches of neighbouring columns, 2 to 32 of them on average: neighbours often belong together."""
    turns = rng.random(shape) < 1 / rng.choice([2, 4, 8, 16, 32], (shape[0], 1))
    return np.asarray((np.cumsum(turns, axis=1) + rng.integers(2, size=(shape[0], 1))) % 2 == 0)
