"""Smooth networks from scores: second differences tell the hidden units apart, least squares finds them exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator

from understudy.attacks._bought import Spent
from understudy.attacks._centred import Centred
from understudy.attacks._frame import Frame
from understudy.attacks._smooth import Layer, directions, refine, unit_on_a_line
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.network import NetworkTarget
from understudy.types import Array, Bools, Floats, Signal

_STEP = 1e-4  # of first and second differences, in frame coordinates: rounding and bending count about equally
_SPARE = 2  # gradients that must lie in the span of the others
_BEYOND = 1.0  # times the error of a Jacobian: singular values that are larger are units
_SAMPLED = 8  # axes on which that error is measured
_ON_A_LINE = 6  # queries along the line on which one unit moves alone
_SURPLUS = 1.5  # equations per unknown of the least squares
_QUIET = 1e-11  # noise of a score beyond which differences are lost
_ROUNDS = 8  # of Newton's method


@dataclass(frozen=True)
class HessianDiagonalisation:
    """The Hessian of a smooth network is W' D W with D diagonal: diagonalise several at once and read off the units.

    Extracts:
        Every weight and bias of a network with one hidden layer of tanh or logistic units, as a tanh network (logistic
        is the same family), up to the order and the sign of the units.

    Needs:
        Probabilities of every class, logits or values, as float64. No more hidden units than inputs, no two of them
        parallel. Units that stay in the flat of their tanh all over the input space leave nothing to be found.

    Cost:
        With d inputs, h units and m = c - 1 scores (m = c for values): 12 queries to see whether the target bends;
        ceil((h + 2) / m) Jacobians of d + 9 and a point each; 1 + h + h (h + 1) / 2 for the Hessians of all scores at
        one point (two points if m = 1); 6 h + 1.5 (h + 1) (h + m) / m to fit; `checks` to certify. Hessians and fit are
        bought anew, up to `attempts` times, where least squares does not come to an end. The width is found, not told.

    Reference:
        Janzamin, Sedghi and Anandkumar, 2015 (tensor decomposition of a network's derivatives); Fornasier, Vybiral
        and Daubechies, 2021 (from second differences of one hidden layer); the target is the network of Tramer et al.,
        USENIX Security 2016, table 4.

    Differs from the paper:
        Tramer et al. train a network on the answers to random queries. Here the units' span comes from one-sided
        Jacobians at points inside that span, their directions from the Hessians of several scores at once (Jennrich),
        and scale and shift of each from a line on which no other unit moves. Least squares on those and on spread
        points fixes the layer within the span to rounding, then a Newton step per input fixes the weights outside it,
        and so errors of the finite differences leave no trace. A cheap test at the start sets aside targets that are
        piecewise linear or constant. Whatever does not fit, or does not answer fresh points, is refused.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset()
    checks: int = 10
    attempts: int = 3
    tolerance: float = 1e-6

    def opening(self, space: Any, outputs: int) -> int:
        """Queries before the first substitute, at the least: those of one Jacobian."""
        return int(np.prod(space.shape)) + 30

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """One extraction, exact or refused; nothing where the budget ends before."""
        scores = Centred(target, Frame.of(target, pool, rng))
        try:
            found = self._solve(scores, rng)
        except Spent:
            return
        yield found

    def _solve(self, scores: Centred, rng: Generator) -> Extraction:
        start = _start(scores, rng)
        if isinstance(start, str):
            return _refused(scores, start)
        jacobians = _span(scores, start, rng)
        if not len(jacobians.basis):
            return _refused(scores, "no input moves the answers")
        fit = _Fit(scores, start, jacobians.basis)
        for _ in range(self.attempts):
            layer, residual = _fitted(fit, _started(fit, rng), rng)
            if residual <= fit.rounding:
                break
        else:
            return _refused(scores, "no layer of tanh units fits", residual=residual / fit.scale)
        layer = _outside(layer, fit, jacobians)
        points = scores.frame.sample(self.checks, rng)
        g = scores.ask(points)
        error = float(np.abs(layer(points) - g)[usable(g)].max(initial=0.0)) / fit.scale
        notes = {"units": len(layer.shift), "residual": error, "check_queries": len(points)}
        if not usable(g).any() or not error <= self.tolerance:
            return _refused(scores, "fresh answers differ", **notes)
        last = scores.basis.T @ layer.outer.T, scores.basis.T @ layer.bias
        link: Literal["softmax", "identity"] = "identity" if scores.signal is Signal.VALUE else "softmax"
        layers = (scores.frame.weights(layer.inner, layer.shift), last)
        copy = NetworkTarget(layers, scores.frame.space, "tanh", link)
        return Extraction(copy, scores.target.spent, Verdict.EXACT, copy.parameters, {"fidelity": 1.0, **notes})


def _refused(scores: Centred, reason: str, **notes: Any) -> Extraction:
    return Extraction(None, scores.target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason, **notes})


def _start(scores: Centred, rng: Generator) -> Floats | str:
    """A point (d,) to work from, or why the target is not worth the queries: a dozen of them tell."""
    at = np.vstack([np.zeros((1, scores.frame.d)), np.clip(scores.frame.sample(3, rng) / 2, -0.5, 0.5)])
    step = rng.choice([-1e-3, 1e-3], at.shape)
    points = np.concatenate([at, at + step, at - step])
    g = scores.ask(points).reshape(3, len(at), -1)
    if not scores.precision.is_float or scores.precision.relative > 1e-12:
        return f"answers come as {scores.precision}: second differences need float64"
    noise = scores.noise(g).max(0)
    whole = usable(g).all(0) & (noise < _QUIET)
    if not whole.any():
        return "answers are saturated"
    bent = np.abs(g[1] + g[2] - 2 * g[0]).max(1)
    if not (bent > 30 * noise)[whole].any():
        return "answers do not bend: linear, piecewise linear or constant"
    return np.asarray(at[0] if whole[0] else at[int(np.argmin(np.where(whole, noise, np.inf)))])


@dataclass(frozen=True, eq=False)
class _Jacobians:
    """Answers at points (p, d) and one step (p, d) along each axis from there; basis (k, d) of the units' span."""

    points: Floats
    steps: Floats
    here: Floats  # (p, m)
    there: Floats  # (p, d, m)
    basis: Floats


def _span(scores: Centred, start: Floats, rng: Generator) -> _Jacobians:
    """Jacobians at points in the span of the gradients found so far, until nothing moves beside that span."""
    points, steps, here, there = [start], list[Floats](), list[Floats](), list[Floats]()
    gradients, error = np.zeros((0, len(start))), 0.0
    while True:
        steps.append(np.where(points[-1] > 0, -_STEP, _STEP))
        axes = np.diag(steps[-1])
        some = rng.permutation(len(start))[:_SAMPLED]
        g = scores.ask(points[-1] + np.vstack([0 * start, axes, -axes[some]]))
        moved = g[1 : len(start) + 1] - g[0]
        bent = (moved[some] + g[len(start) + 1 :] - g[0]) / 2
        here.append(g[0])
        there.append(moved + g[0])
        gradients = np.vstack([gradients, moved.T / steps[-1]])
        noise = np.sqrt((bent**2).sum() / len(some)) + scores.noise(g[:1])[0]
        error = max(error, float(noise * np.sqrt(len(start)) / _STEP))
        size, rows = np.linalg.svd(gradients, full_matrices=False)[1:]
        k = int((size > _BEYOND * error).sum())
        if k <= len(gradients) - _SPARE or k == len(start):
            return _Jacobians(np.array(points), np.array(steps), np.array(here), np.array(there), rows[:k])
        points.append(_within(scores, start, rows[:k], rng))


def _within(scores: Centred, start: Floats, basis: Floats, rng: Generator) -> Floats:
    """A random point (d,) of the span that is not saturated: 1 to 8 queries."""
    for shrink in range(8):
        v = rng.standard_normal(len(basis)) @ basis
        point = start + v * reach(start, v) * rng.uniform(0.3, 0.95) / 2**shrink
        if usable(scores.ask(point[None])).all():
            break
    return np.asarray(point)


class _Fit:
    """Scores at points of the span, in its coordinates: what the layer is fitted to."""

    def __init__(self, scores: Centred, start: Floats, basis: Floats) -> None:
        self.scores, self.start, self.basis = scores, start, basis
        self.y, self.g = np.zeros((0, len(basis))), np.zeros((0, scores.m))

    def ask(self, y: Floats) -> Floats:
        """Scores at span coordinates."""
        return self.scores.ask(self.start + y @ self.basis)

    def add(self, points: Floats, g: Floats) -> None:
        """Keep answers to fit to, those that are whole."""
        whole = usable(g)
        self.y = np.concatenate([self.y, (points[whole] - self.start) @ self.basis.T])
        self.g = np.concatenate([self.g, g[whole]])

    def buy(self, y: Floats) -> Floats:
        """Ask and keep."""
        g = self.ask(y)
        self.add(self.start + y @ self.basis, g)
        return g

    def reach(self, y: Array) -> Floats:
        """How far one can go along each y and stay inside."""
        return reach(self.start, y @ self.basis)

    @property
    def scale(self) -> float:
        """The largest score."""
        return max(float(np.abs(self.g).max(initial=0.0)), 1e-300)

    @property
    def rounding(self) -> float:
        """The residual that the answers' own precision leaves."""
        noise = self.scores.noise(self.g)
        return max(1e-12 * self.scale, 10 * float(np.sqrt((noise**2).mean())))


def _hessians(fit: _Fit, rng: Generator) -> Floats:
    """One-sided second differences of every score within the span: (q, k, k), q = m, or two of one score."""
    k, found = len(fit.basis), []
    rows, columns = np.triu_indices(k)
    axes = _STEP * np.eye(k)
    for _ in range(1 if fit.scores.m > 1 else 2):
        at = (_within(fit.scores, fit.start, fit.basis, rng) - fit.start) @ fit.basis.T / 2
        g = fit.ask(at + np.vstack([np.zeros((1, k)), axes, axes[rows] + axes[columns]]))
        upper = (g[1 + k :] - g[1 + rows] - g[1 + columns] + g[0]) / _STEP**2
        whole = np.zeros((fit.scores.m, k, k))
        whole[:, rows, columns] = whole[:, columns, rows] = upper.T
        found.append(np.nan_to_num(whole))
    return np.concatenate(found)


def _started(fit: _Fit, rng: Generator) -> Layer:
    """Directions of the units from Hessians; scale and shift of each from the line on which it moves alone."""
    inner = directions(_hessians(fit, rng), rng)
    dual = np.linalg.inv(inner).T
    ends = 0.999 * fit.reach(dual)
    t = np.cos(np.pi * (np.arange(_ON_A_LINE) + 0.5) / _ON_A_LINE)
    points = (ends[:, None] * t)[..., None] * dual[:, None]
    g = fit.buy(points.reshape(-1, len(inner))).reshape(len(inner), _ON_A_LINE, -1)
    found = [unit_on_a_line(r * t[usable(part)], part[usable(part)]) for r, part in zip(ends, g, strict=True)]
    size, shift, outer = (np.array(values) for values in zip(*found, strict=True))
    return Layer(size[:, None] * inner, shift, outer, np.zeros(fit.scores.m))


def _fitted(fit: _Fit, layer: Layer, rng: Generator) -> tuple[Layer, float]:
    """The layer refitted to all scores in the span, after buying as many again at spread points; residual (rms)."""
    h, m = layer.outer.shape
    v = rng.standard_normal((int(np.ceil(_SURPLUS * (h * h + h + h * m + m) / m)), h))
    fit.buy(v * (fit.reach(v) * rng.uniform(0.3, 1, len(v)))[:, None])
    layer = replace(layer, bias=layer.bias + (fit.g - layer(fit.y)).mean(0))
    return refine(layer, fit.y, fit.g, 1e-15 * fit.scale)


def _outside(layer: Layer, fit: _Fit, jacobians: _Jacobians) -> Layer:
    """The layer over all d coordinates: its part within the span as it is, the rest from the Jacobians.

    Newton's method with one matrix for all inputs: the span is exact but for the finite steps, so it converges at once.
    """
    at, steps = (jacobians.points - fit.start), jacobians.steps
    slopes = 1 - np.tanh(at @ fit.basis.T @ layer.inner.T + layer.shift) ** 2
    back = np.linalg.pinv((slopes[:, None] * layer.outer.T).reshape(-1, len(layer.shift)))
    within = layer.inner @ fit.basis
    w = within
    for _ in range(_ROUNDS):
        z = at @ w.T + layer.shift
        moved = np.tanh(z[:, None] + steps[..., None] * w.T) - np.tanh(z)[:, None]
        residual = (jacobians.there - jacobians.here[:, None] - moved @ layer.outer) / steps[..., None]
        w = w + back @ residual.transpose(0, 2, 1).reshape(-1, w.shape[1])
        w = within + w - w @ fit.basis.T @ fit.basis
    return replace(layer, inner=w, shift=layer.shift - w @ fit.start)


def usable(g: Floats) -> Bools:
    """Which rows of scores are whole."""
    return np.asarray(np.isfinite(g).all(-1))


def reach(u: Floats, v: Floats) -> Floats:
    """How far one can go from u along v, either way, and stay in [-1, 1]^d: (n,) for v (n, d)."""
    return np.asarray(((1 - np.abs(u)) / np.maximum(np.abs(v), 1e-300)).min(-1))
