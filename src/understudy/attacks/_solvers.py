"""Fits of linear models to bought answers: closed forms where there are any, Newton steps where there are none.

Shapes: x (n, d + 1) inputs with a trailing one, y (n, c) answers, mask (n, c) which entries were given,
theta (c, d + 1) weights and biases, z (n, c) = x @ theta.T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg

from understudy.targets.linear import Link, normalised_sigmoid, softmax
from understudy.types import Bools, Floats

#: What a model may be. "centred": logits to which each answer adds a constant of its own, log-probabilities for one.
Family = Literal["softmax", "one-vs-rest", "linear", "centred"]

_TINY = 1e-300
_DENSE = 2500  # unknowns up to which the matrix of the normal equations is formed


def predict(theta: Floats, x: Floats, family: Family) -> Floats:
    """(n, c) answers of a model: probabilities, or scores where the family is linear."""
    z = np.asarray(x @ theta.T)
    if family == "softmax":
        return softmax(z)
    return normalised_sigmoid(z) if family == "one-vs-rest" else z


def link_of(family: Family, value: bool) -> Link:
    """How a substitute of this family answers."""
    if value:
        return "identity"
    return "one-vs-rest" if family == "one-vs-rest" else "softmax"


# closed forms


def log_ratios(x: Floats, y: Floats, absolute: bool) -> Floats:
    """Softmax from full probabilities: log p_k - log p_r is linear in the inputs.

    `absolute`: whether a small probability has lost digits, as 1 - p has; each equation is then weighted by the
    precision of its ratio, 1 / (1 / p_k^2 + 1 / p_r^2). Zero entries carry no equation. r is the class whose smallest
    probability is largest.
    """
    reference = int(y.min(0).argmax())
    theta = np.zeros((y.shape[1], x.shape[1]))
    if not absolute and (y > 0).all():
        logs = np.log(y)
        return np.asarray(scipy.linalg.lstsq(x, logs - logs[:, [reference]])[0].T)
    for k in range(y.shape[1]):
        usable = (y[:, k] > 0) & (y[:, reference] > 0)
        if k == reference or not usable.any():
            continue
        p, r = y[usable, k], y[usable, reference]
        weight = 1 / np.hypot(1 / p, 1 / r) if absolute else np.ones(len(p))
        theta[k] = scipy.linalg.lstsq(x[usable] * weight[:, None], (np.log(p) - np.log(r)) * weight)[0]
    return theta


def least_squares(x: Floats, y: Floats, centred: bool) -> Floats:
    """Scores that are linear as they stand, or once each row's mean is taken off."""
    return np.asarray(scipy.linalg.lstsq(x, y - y.mean(1, keepdims=True) if centred else y)[0].T)


def normalised_sigmoids(x: Floats, y: Floats, steps: int = 200) -> Floats:
    """One-vs-rest from full probabilities f: z_k = logit(t f_k), with one unknown scale t per answer.

    Given the scales the model is linear, so it is projected out: Levenberg-Marquardt runs over the n scales alone,
    t = sigma(s) / max f, from t = 1. The Gauss-Newton matrix is the residual projector times G G', entry by entry.
    """
    q = scipy.linalg.qr(x, mode="economic")[0]
    rest = np.eye(len(x)) - q @ q.T
    largest = y.max(1, keepdims=True)
    share = np.clip(y / largest, _TINY, 1)

    def odds(s: Floats) -> tuple[Floats, Floats, Floats]:
        log_t = -np.logaddexp(0, -s)[:, None]  # log sigma(s)
        scaled = np.exp(log_t) * share
        room = np.where(share == 1, np.exp(-np.logaddexp(0, s))[:, None], np.maximum(1 - scaled, 1e-17))
        logit = log_t + np.log(share) - np.log(room)
        return logit, np.exp(-np.logaddexp(0, s))[:, None] / room, rest @ logit

    top = np.clip(largest[:, 0], 1e-6, 1 - 1e-12)
    s = np.log(top) - np.log1p(-top)
    _, slope, left = odds(s)
    cost, damping = float((left * left).sum()), 1e-3
    for _ in range(steps):
        gradient = (slope * left).sum(1)
        matrix = rest * (slope @ slope.T)
        diagonal = np.maximum(np.diag(matrix), 1e-12)
        while damping < 1e10:
            step = np.linalg.solve(matrix + np.diag(damping * diagonal), gradient)
            trial = np.clip(s - np.clip(step, -5, 5), -60, 60)  # beyond, a scale is 0 or its bound
            _, slope, left = odds(trial)
            value = float((left * left).sum())
            if value < cost:
                break
            damping *= 8
        else:
            break
        s, cost, damping = trial, value, max(damping / 8, 1e-15)
        if cost < 1e-26 * y.size:
            break
    return np.asarray(scipy.linalg.lstsq(x, odds(s)[0])[0].T)


# objectives: what a fit minimises, as a function of the scores z


@dataclass(frozen=True, eq=False)
class Local:
    """An objective at one z: its value, its gradient (n, c), and its Gauss-Newton matrix, which is one block per row.

    Residuals r_i depend on z by dr_i / dz_k = lead_i (delta_ik - share_k) slope_k. `force` is residual times lead,
    `heavy` is lead squared, both zero where an entry has nothing to say.
    """

    value: float
    force: Floats
    heavy: Floats
    share: Floats
    slope: Floats

    @property
    def gradient(self) -> Floats:
        return np.asarray(self.slope * (self.force - self.share * self.force.sum(1, keepdims=True)))

    @property
    def diagonal(self) -> Floats:
        total = self.heavy.sum(1, keepdims=True)
        return np.asarray(self.slope**2 * (self.heavy * (1 - 2 * self.share) + self.share**2 * total))

    def times(self, q: Floats) -> Floats:
        """The matrix times a direction in z."""
        q = q * self.slope
        u = self.heavy * (q - (self.share * q).sum(1, keepdims=True))
        return np.asarray(self.slope * (u - self.share * u.sum(1, keepdims=True)))


Objective = Callable[[Floats], Local]


def _log_softmax(z: Floats) -> Floats:
    z = z - z.max(1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(1, keepdims=True)))


def _log_probabilities(z: Floats, family: Family) -> tuple[Floats, Floats]:
    """Log p and the slope of each class's score within it."""
    if family == "softmax":
        return _log_softmax(z), np.ones_like(z)
    return _log_softmax(-np.logaddexp(0, -z)), np.exp(-np.logaddexp(0, z))


def soft_labels(y: Floats, mask: Bools, half: float) -> Objective:
    """Softmax by cross-entropy; finds its way from anywhere, so it starts the other fits.

    An entry within half a step of rounding pulls nothing. Withheld mass is spread as the model has it.
    """

    def at(z: Floats) -> Local:
        logs = _log_softmax(z)
        p = np.exp(logs)
        told = np.where(mask, np.clip(np.clip(p, y - half, y + half), 0, 1), 0)
        withheld = np.where(mask, 0, p)
        rest = np.clip(1 - told.sum(1, keepdims=True), 0, 1)
        told = told + withheld * rest / np.maximum(withheld.sum(1, keepdims=True), _TINY)
        told = told / told.sum(1, keepdims=True)
        value = float((told * (np.log(np.maximum(told, _TINY)) - logs)).sum())
        return Local(value, p - told, p, p, np.ones_like(p))

    return at


def soft_bits(y: Floats, mask: Bools, half: float) -> Objective:
    """One-vs-rest as if the normalising sum were one: a cross-entropy per class. Starts the fit of that family."""
    ceiling = np.where(mask, 1.0, np.where(mask, y, 1.0).min(1, keepdims=True))

    def at(z: Floats) -> Local:
        p = np.exp(-np.logaddexp(0, -z))
        told = np.clip(np.where(mask, np.clip(p, y - half, y + half), np.minimum(p, ceiling)), 0, 1)
        kept, lost = np.maximum(told, _TINY), np.maximum(1 - told, _TINY)
        entropy = told * np.log(kept) + (1 - told) * np.log(lost)
        value = float((entropy + told * np.logaddexp(0, -z) + (1 - told) * np.logaddexp(0, z)).sum())
        return Local(value, p - told, p * (1 - p), np.zeros_like(z), np.ones_like(z))

    return at


def squares(y: Floats, mask: Bools, quantum: float, family: Family) -> Objective:
    """Squared residuals of probabilities: rounding noise is the same for every entry.

    An entry that was rounded to 0 or 1 says only that it lies within half a step of it.
    """
    end = mask & ((y <= 0) | (y >= 1)) if quantum else np.zeros_like(mask)

    def at(z: Floats) -> Local:
        logs, slope = _log_probabilities(z, family)
        p = np.exp(logs)
        r = np.where(mask, p - y, 0.0)
        r = np.where(end, np.sign(r) * np.maximum(np.abs(r) - quantum / 2, 0), r)
        return Local(float((r * r).sum()) / 2, r * p, np.where(mask & ~(end & (r == 0)), p * p, 0.0), p, slope)

    return at


def odds(y: Floats, mask: Bools, precision: float, family: Family) -> Objective:
    """Squared residuals of log p / (1 - p), for float answers: nearly linear, so it converges from far.

    A float next to 1 says only that its odds are at least that; a zero says nothing here. Entries near 1 have lost
    digits of 1 - p and weigh less.
    """
    inner = mask & (y > 0)
    y = np.where(inner, y, 0.5)
    saturated = inner & (1 - y < 8 * precision)
    room = np.maximum(1 - y, 8 * precision)
    goal = np.log(y) - np.log(room)
    weight = np.where(inner, 1 / (1 + (1e3 * precision / room) ** 2), 0.0)

    def at(z: Floats) -> Local:
        logs, slope = _log_probabilities(z, family)
        p = np.exp(logs)
        other = np.maximum(-np.expm1(logs), 1e-17)
        r = logs - np.log(other) - goal
        live = weight * ~(saturated & (r > 0))
        lead = 1 / other
        return Local(float((live * r * r).sum()) / 2, live * r * lead, live * lead * lead, p, slope)

    return at


def scores(y: Floats, mask: Bools, centred: bool) -> Objective:
    """Squared residuals of scores that are linear as they stand, or but for a constant per row."""
    share = mask / np.maximum(mask.sum(1, keepdims=True), 1) if centred else np.zeros(mask.shape)

    def at(z: Floats) -> Local:
        r = np.where(mask, z - y, 0.0)
        r = np.where(mask, r - (share * r).sum(1, keepdims=True), 0.0)
        return Local(float((r * r).sum()) / 2, r, mask.astype(np.float64), share, np.ones_like(z))

    return at


# the fit


@dataclass(frozen=True)
class Effort:
    """When a fit stops: after `steps`, or when a step gains less than `gain`. `exact`: every digit counts."""

    steps: int = 25
    gain: float = 1e-3
    exact: bool = False


def minimise(theta: Floats, x: Floats, objective: Objective, ridge: float, effort: Effort) -> tuple[Floats, float]:
    """Levenberg-Marquardt: (theta, objective there without the ridge)."""
    here = objective(x @ theta.T)
    cost, damping = here.value + ridge * float((theta * theta).sum()) / 2, 1e-3
    solver = _dense if effort.exact and theta.size <= _DENSE else _gradients
    for _ in range(effort.steps):
        step_for = solver(here, x, here.gradient.T @ x + ridge * theta, ridge)
        while damping < 1e8:
            step = step_for(damping)
            trial = theta if step is None else theta - step
            there = objective(x @ trial.T)
            value = there.value + ridge * float((trial * trial).sum()) / 2
            if value < cost:
                break
            damping = max(8 * damping, 1e-8)
        else:
            break
        gained = (cost - value) / max(cost, _TINY)
        theta, here, cost, damping = trial, there, value, max(damping / 8, 1e-14)
        if gained < effort.gain or here.value < 1e-28 * there.force.size:
            break
    return theta, here.value


Stepper = Callable[[float], Floats | None]


def _dense(here: Local, x: Floats, gradient: Floats, ridge: float) -> Stepper:
    """Steps by Cholesky on the whole matrix: for answers so exact that ill-conditioned directions count too."""
    c, width = gradient.shape
    total = here.heavy.sum(1)
    matrix = np.empty((c, width, c, width))
    for k in range(c):
        for m in range(k + 1):
            row = here.share[:, k] * here.share[:, m] * total
            row = row - here.heavy[:, k] * here.share[:, m] - here.share[:, k] * here.heavy[:, m]
            row = (row + (here.heavy[:, k] if k == m else 0.0)) * here.slope[:, k] * here.slope[:, m]
            matrix[k, :, m] = x.T @ (x * row[:, None])
            matrix[m, :, k] = matrix[k, :, m].T
    flat = matrix.reshape(c * width, c * width)
    diagonal = np.diag(flat).copy()
    diagonal = np.maximum(diagonal, 1e-13 * diagonal.max() + _TINY)

    def step(damping: float) -> Floats | None:
        try:
            factor = scipy.linalg.cho_factor(flat + np.diag(ridge + damping * diagonal), check_finite=False)
        except scipy.linalg.LinAlgError:
            return None
        return np.asarray(scipy.linalg.cho_solve(factor, gradient.ravel(), check_finite=False)).reshape(c, width)

    return step


def _gradients(here: Local, x: Floats, gradient: Floats, ridge: float) -> Stepper:
    """Steps by conjugate gradients: the matrix is never formed, so 784 inputs x 10 classes fit in memory.

    The Gram matrix of the weighted inputs, shared by all classes, preconditions.
    """
    weights = here.diagonal
    shared = weights.mean(1)
    gram = (x * shared[:, None]).T @ x
    unit = float(np.trace(gram)) / x.shape[1] + _TINY
    lengths = (x * x).sum(1)
    scale = np.maximum(lengths @ weights / max(float(lengths @ shared), _TINY), 1e-3)[:, None]

    def step(damping: float) -> Floats:
        extra = ridge + (damping + 1e-14) * unit
        factor = scipy.linalg.cho_factor(gram + extra * np.eye(len(gram)), check_finite=False)
        inverse = scipy.linalg.cho_solve(factor, np.eye(len(gram)), check_finite=False)
        done, r = np.zeros_like(gradient), gradient
        z = (r / scale) @ inverse
        p, size = z, float((r * z).sum())
        enough = 0.01 * size
        for _ in range(100):
            a = here.times(x @ p.T).T @ x + extra * p
            bend = float((p * a).sum())
            if bend <= 0:
                break
            done = done + size / bend * p
            r = r - size / bend * a
            z = (r / scale) @ inverse
            new = float((r * z).sum())
            if new <= enough:
                break
            p, size = z + new / size * p, new
        return done

    return step


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model, and the root mean square of its residuals over the entries that are no bounds."""

    theta: Floats
    family: Family
    rms: float


def fit(
    theta: Floats, x: Floats, y: Floats, mask: Bools, family: Family, quantum: float, precision: float, noise: float
) -> Fit:
    """A model of one family from rounded (`quantum` > 0), float (`precision`) or noisy answers, from `theta` on.

    The ridge is the noise over the spread of the weights so far: what is not known yet stays near zero.
    """
    spread = max(float((theta * theta).mean()), 1.0)
    exact = Effort(100, 1e-3, True)
    if family in ("linear", "centred"):
        theta, _ = minimise(theta, x, scores(y, mask, family == "centred"), 1e-12 / spread, Effort(60, 1e-6, True))
    else:
        half = max(quantum / 2, noise)
        start = soft_labels if family == "softmax" else soft_bits
        theta, _ = minimise(theta, x, start(y, mask, half), 0.01 / spread, Effort(15, 1e-2))
        if quantum or noise:
            variance = quantum * quantum / 12 + noise * noise
            theta, _ = minimise(theta, x, squares(y, mask, quantum, family), variance / (4 * spread), Effort())
        else:
            theta, _ = minimise(theta, x, odds(y, mask, precision, family), 0.0, exact)
    found = [theta]
    if family == "softmax" and mask.all() and not (quantum or noise):  # every ratio is an equation
        found.append(log_ratios(x, y, True))
    return min((Fit(t, family, misfit(t, x, y, mask, family, quantum)) for t in found), key=lambda f: f.rms)


def misfit(theta: Floats, x: Floats, y: Floats, mask: Bools, family: Family, quantum: float) -> float:
    """Root mean square of the residuals of entries that are no bounds.

    A bound that is broken counts, and one that is kept does not: a model of the family breaks none, but for what the
    ridge of `fit` costs its weights, an eighth of a residual each.
    """
    if family in ("linear", "centred"):
        left, entries = scores(y, mask, family == "centred")(x @ theta.T).value, float(mask.sum())
    else:
        left, entries = squares(y, mask, quantum, family)(x @ theta.T).value, float(mask.sum())
        if quantum:
            entries += theta.size / 8 - float((mask & ((y <= 0) | (y >= 1))).sum())
    return float(np.sqrt(2 * left / max(entries, 1)))
