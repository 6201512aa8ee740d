"""One hidden ReLU layer from coarse answers, rounded or float32: grown until nothing but their grid is left over.

Differences of such answers say little, so nothing is read off single kinks: all answers are fitted at once.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from understudy.attacks._jacobians import Jacobian
from understudy.attacks._lines import walled
from understudy.attacks._refit import Fit, Sample, dispensable, grown, refit
from understudy.attacks._relu_net import Net, Units, orient
from understudy.attacks._scores import Scores
from understudy.types import Floats

_FIRST, _WIDER = 8, 1.25  # units at first, and how many times as many next
_MOST = 4500  # entries of the first layer, above which a step takes minutes
_EQUATIONS = 4.0  # numbers bought per unknown, of the answer's k each
_FEWEST = 1.5  # the same, below which nothing is fitted
_FLOOR = 1.0  # rms residual, in units of the noise, of a layer that explains the answers: 0.58 if all is rounding
_LOSES, _EACH = 1.03, 1.01  # times the rms may rise when units are dropped that were not needed: at all, and by each
_GIVE_UP = 8  # steps after which a unit that is missed is known to be needed
_TEST, _HOLDS = 250, 30.0  # answers that test a layer which explains all others; rms of its errors, if it is the one
_FAILS = 8  # layers that failed the test, after which the last one is all there is
_FAR = 100.0  # where to ask for the last digits: a decimal step is the same far out, where rows of the layer weigh more
_CLOSED = 1.15  # the same, when the linear rest is dropped
_RADII = (0.3, 1.0, 3.0)  # spread of points where nothing bounds them


def unfit(scores: Scores) -> str | None:
    """Why coarse answers are not solved, by what is said of them or, once there are some, by themselves; or None."""
    decimals, d = scores.target.exposure.grains[scores.signal].decimals, scores.frame.d
    if decimals is None and len(scores.u):
        decimals = scores.precision.decimals
    if scores.logs and decimals is not None:
        return f"probabilities of {decimals} decimals: too few digits in their logarithms"
    if _FIRST * (d + 1) > _MOST and (decimals is not None or (len(scores.u) and scores.coarse)):
        return f"answers are too coarse to show single kinks, and {d} inputs too many to fit all units at once"
    return None


def quanta(net: Net, u: Floats, y: Floats, scores: Scores) -> Floats:
    """(n,) errors of answers in units of their grid: one decimal step, or of float32 scores 16 units in the last place
    of the largest term, which is what its own sums cost a network.
    """
    known = np.isfinite(y).all(1)
    step = scores.noise_at(u, y) * (4.0 if scores.precision.is_float else 2.0)
    return np.where(known, np.abs(net.predict(u) - y).max(1) / step, 0.0)


class Growing:
    """The attack's state: answers bought, the layer so far, and at the end the network.

    `residual`: what the network leaves of the answers it was fitted to, in units of their noise.
    """

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.net: Net | None = None
        self.residual = np.inf

    def run(self, rng: Generator) -> Net | None:
        """Buy and fit until the residuals are the grid's; None where the budget does not hold a first layer's."""
        scores, rows, width, failed = self.scores, np.zeros((0, self.scores.frame.d + 1)), _FIRST, 0
        while failed < _FAILS and width * rows.shape[1] <= _MOST and self._buy(width, rng):
            sample = self._sample().levelled()
            fit = refit(grown(rows, sample, width, rng), sample, skip=True, enough=_FLOOR)
            holds = False
            if fit.rms <= _FLOOR:
                fit = _pruned(fit, self._sample())
                before = len(scores.u)
                self._more(spread(scores, _TEST, rng))
                holds = _off(fit, self._sample(before)) <= _HOLDS
                failed = failed + 1 if len(scores.u) > before else _FAILS
                if holds and not (scores.precision.is_float or walled(scores)):
                    self._more(_FAR * rng.standard_normal((_TEST, scores.frame.d)))
                fit = _without_rest(refit(fit.rows, self._sample(), skip=True), self._sample())
            self.net, self.residual = _network(fit), fit.rms
            if holds:
                break
            rows, width = fit.rows, int(np.ceil(_WIDER * len(fit)))
        return self.net

    def _buy(self, width: int, rng: Generator) -> bool:
        """Have enough answers for a layer of this width; whether there are."""
        scores, d = self.scores, self.scores.frame.d
        unknown = width * (d + 1) / scores.k + width + d + 1
        had = len(scores.u)
        left = scores.target.remaining - scores.reserve
        n = min(int(np.ceil(_EQUATIONS * unknown)) - had, left)
        if n > 0:
            scores.ask(spread(scores, n, rng))
        return had + max(n, 0) >= _FEWEST * unknown

    def _more(self, u: Floats) -> None:
        """Buy as many of these points as the budget holds."""
        self.scores.ask(u[: max(self.scores.target.remaining - self.scores.reserve, 0)])

    def _sample(self, since: int = 0) -> Sample:
        u, y = self.scores.u[since:], self.scores.y[since:]
        return Sample.of(u, y, self.scores.noise_at(u, y))


def spread(scores: Scores, n: int, rng: Generator) -> Floats:
    """Points (n, d) all over the space, a third of them between two of the attacker's rows, where there are any, or
    between a row and another point.

    Where nothing bounds them they are normal, of several widths, half of them as wide in every column as in a usual
    one, because a column that hardly varies in the attacker's rows may elsewhere; between walls uniform, or corners.
    """
    frame = scores.frame
    wide = rng.standard_normal((n, frame.d)) * rng.choice(_RADII, (n, 1))
    alike = np.maximum(np.sqrt(np.mean(frame.half**2)) / frame.half, 1)
    wide[(n + n // 3) // 2 :] *= alike
    corners = rng.choice([-1.0, 1.0], (n, frame.d)) * rng.choice([1.0, 0.5], (n, 1))
    inside = np.where(rng.random((n, 1)) < 0.5, corners, rng.uniform(-1, 1, (n, frame.d)))
    u = np.where(frame.bounded, inside, wide)
    if len(frame.data):
        start, end = frame.data[rng.integers(len(frame.data), size=(2, n // 3))]
        end = np.where(rng.random((n // 3, 1)) < 0.5, end, u[: n // 3])
        u[: n // 3] = start + rng.choice([0.0, 0.3, 0.6], (n // 3, 1)) * (end - start)
    return _held(scores, u)


def fresh(scores: Scores, n: int, rng: Generator) -> Floats:
    """Points (n, d) to check a network on: of the space and the attacker's rows, and half of them spread wider."""
    return _held(scores, np.vstack([scores.frame.sample(n - n // 2, rng), spread(scores, n // 2, rng)]))


def _held(scores: Scores, u: Floats) -> Floats:
    """To a model of float32 only numbers are sent that it can hold, or it would answer another question."""
    frame = scores.frame
    if scores.precision.is_float:
        x = frame.inputs(u).reshape(len(u), -1).astype(np.float32).astype(np.float64)
        u = (x - frame.middle) / frame.half
    return np.clip(u, scores.low, scores.high)


def _off(fit: Fit, sample: Sample) -> float:
    """Rms of a fit's errors on other answers, in units of their noise."""
    features = np.hstack([np.maximum(sample.x @ fit.rows.T, 0), sample.x if fit.skip else sample.x[:, -1:]])
    errors = (features @ fit.outer - sample.y) / sample.noise[:, None]
    return float(np.sqrt((errors**2).mean())) if errors.size else np.inf


def _pruned(fit: Fit, sample: Sample) -> Fit:
    """Without the units that were only needed on the way."""
    fit = refit(fit.rows, sample, skip=True)
    most = _LOSES * fit.rms
    while len(fit) > 1:
        less = refit(np.delete(fit.rows, dispensable(fit, sample), 0), sample, skip=True, steps=_GIVE_UP, enough=most)
        if less.rms > most:
            break
        fit, most = less, _EACH * most
    return fit


def _without_rest(fit: Fit, sample: Sample) -> Fit:
    """The layer with its units turned so that nothing linear is left beside it, where that explains the answers."""
    units, d = _units(fit), sample.x.shape[1] - 1
    origin, linear = np.zeros(d), fit.outer[len(fit) : -1].T
    seen = Jacobian(origin, linear + units.slopes(origin), 0.0, True)
    turned, *_ = orient(units, seen)
    rows = np.hstack([turned.rows, turned.offsets[:, None]])
    bare = refit(rows, sample, skip=False)
    return bare if bare.rms <= _CLOSED * max(fit.rms, _FLOOR / 2) else fit


def _units(fit: Fit) -> Units:
    outer = fit.outer[: len(fit)]
    size = np.maximum(np.linalg.norm(outer, axis=1), 1e-300)
    return Units(outer / size[:, None], fit.rows[:, :-1] * size[:, None], fit.rows[:, -1] * size)


def _network(fit: Fit) -> Net:
    rest = fit.outer[len(fit) :]
    return Net(_units(fit), rest[:-1].T if fit.skip else None, rest[-1], not fit.skip, 0.0)
