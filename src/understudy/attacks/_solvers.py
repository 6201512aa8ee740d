"""Fits of generalised linear models to bought answers: least squares, soft cross-entropy, Gauss-Newton.

Shapes: x (n, d + 1) inputs with a trailing one, y (n, c) answers, mask (n, c) which entries were given,
theta (c, d + 1) weights and biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
import scipy.optimize

from understudy.targets.linear import normalised_sigmoid, softmax
from understudy.types import Bools, Floats

Link = Literal["softmax", "one-vs-rest"]

_DENSE = 2500  # unknowns up to which normal equations are formed


def probabilities(theta: Floats, x: Floats, link: Link) -> Floats:
    """(n, c) probabilities of a model."""
    z = x @ theta.T
    return softmax(z) if link == "softmax" else normalised_sigmoid(z)


def log_ratios(x: Floats, y: Floats, absolute: bool) -> Floats:
    """Softmax from full probabilities, in closed form: log p_k - log p_r is linear in the inputs.

    `absolute`: whether a small probability has lost digits, as 1 - p has; each equation is then weighted by the
    precision of its ratio, 1 / (1 / p_k^2 + 1 / p_r^2). Zero entries carry no equation. r is the class whose smallest
    probability is largest.
    """
    reference = int(np.where(y > 0, y, 0).min(0).argmax())
    theta = np.zeros((y.shape[1], x.shape[1]))
    for k in range(y.shape[1]):
        usable = (y[:, k] > 0) & (y[:, reference] > 0)
        if k == reference or not usable.any():
            continue
        p, r = y[usable, k], y[usable, reference]
        weight = 1 / np.hypot(1 / p, 1 / r) if absolute else np.ones(len(p))
        rows, ratio = x[usable], np.log(p) - np.log(r)
        theta[k] = scipy.linalg.lstsq(rows * weight[:, None], ratio * weight)[0]
    return theta


def logit_start(x: Floats, y: Floats) -> Floats:
    """One-vs-rest as if the normalising sum were one: least squares on the logit of each probability."""
    p = np.clip(y, 1e-12, 1 - 1e-12)
    return np.asarray(scipy.linalg.lstsq(x, np.log(p) - np.log1p(-p))[0].T)


def cross_entropy(x: Floats, y: Floats, mask: Bools, ridge: float = 1e-4) -> Floats:
    """Softmax by soft cross-entropy (convex), withheld mass spread over the withheld classes. The start for others."""
    n, c = y.shape
    rest = np.clip(1 - np.where(mask, y, 0).sum(1, keepdims=True), 0, None)
    soft = np.where(mask, y, rest / np.maximum((~mask).sum(1, keepdims=True), 1))
    soft = soft / soft.sum(1, keepdims=True)

    def loss(flat: Floats) -> tuple[float, Floats]:
        theta = flat.reshape(c, -1)
        z = x @ theta.T
        z = z - z.max(1, keepdims=True)
        total = np.log(np.exp(z).sum(1))
        p = np.exp(z - total[:, None])
        value = float((total - (soft * z).sum(1)).mean() + ridge * (flat @ flat) / 2)
        return value, ((p - soft).T @ x / n + ridge * theta).ravel()

    start = np.zeros(c * x.shape[1])
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200, "maxcor": 20})
    return np.asarray(found.x).reshape(c, -1)


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model, the root mean square of its residuals over given entries, and the entries per unknown."""

    theta: Floats
    link: Link
    rms: float
    surplus: float  # (entries that carry information - unknowns) / entries; <= 0: nothing left to judge the fit by


def gauss_newton(
    theta: Floats,
    x: Floats,
    y: Floats,
    mask: Bools,
    link: Link,
    quantum: float,
    steps: int = 40,
    logs: bool = False,
) -> Fit:
    """Least squares on the given probabilities (Levenberg-Marquardt), starting at `theta`.

    Rounding noise is the same for every entry, so residuals are unweighted; an entry rounded to 0 or 1 says only that
    it lies within half a step of it. `logs`: residuals of logarithms, for answers whose relative precision is what is
    constant. With many unknowns the first objective is minimised by L-BFGS instead.
    """
    c, width = theta.shape
    free = slice(1, None) if link == "softmax" else slice(None)  # softmax: the first class is the gauge
    theta = theta - theta[0] if link == "softmax" else theta.copy()
    unknowns = (c - 1 if link == "softmax" else c) * width
    end = ((y <= 0) | (y >= 1)) & mask if quantum > 1e-12 else np.zeros_like(mask)

    target = np.log(np.where(mask & (y > 0), y, 1)) if logs else y
    mask = mask & (y > 0) if logs else mask

    def residual(t: Floats) -> Floats:
        if logs:
            return np.where(mask, _log_probabilities(t, x, link) - target, 0.0)
        r = np.where(mask, probabilities(t, x, link) - y, 0.0)
        return np.where(end, np.sign(r) * np.maximum(np.abs(r) - quantum / 2, 0), r)

    if unknowns > _DENSE:
        return _large(theta, x, link, residual, mask, unknowns)
    r = residual(theta)
    cost, damping = float((r * r).sum()), 1e-3
    for _ in range(steps):
        gradient, hessian = _normal(theta, x, r, mask & ~(end & (r == 0)), link, free, logs)
        scale = np.maximum(np.diag(hessian), 1e-12 * np.diag(hessian).max() + 1e-300)
        while damping < 1e12:
            try:
                step = scipy.linalg.solve(hessian + damping * np.diag(scale), gradient, assume_a="pos")
            except scipy.linalg.LinAlgError:
                damping *= 10
                continue
            trial = theta.copy()
            trial[free] -= step.reshape(-1, width)
            new = residual(trial)
            value = float((new * new).sum())
            if value < cost:
                break
            damping *= 10
        else:
            break
        gain = (cost - value) / max(cost, 1e-300)
        theta, r, cost, damping = trial, new, value, max(damping / 10, 1e-15)
        if gain < (1e-3 if quantum > 1e-12 else 1e-12) or cost < 1e-28 * r.size:
            break
    return _fit(theta, link, r, mask, end, unknowns)


def _log_probabilities(theta: Floats, x: Floats, link: Link) -> Floats:
    z = x @ theta.T
    z = z if link == "softmax" else -np.logaddexp(0, -z)
    z = z - z.max(1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(1, keepdims=True)))


def _normal(
    theta: Floats, x: Floats, r: Floats, mask: Bools, link: Link, free: slice, logs: bool
) -> tuple[Floats, Floats]:
    """Gradient and Gauss-Newton matrix over the free classes, assembled block by block."""
    z = x @ theta.T
    p = softmax(z) if link == "softmax" else normalised_sigmoid(z)
    # dp_i/dz_k = p_i (delta_ik - p_k) g_k, with g = 1 for softmax and 1 - sigma(z_k) for one-vs-rest; for
    # logarithms the leading p_i falls away
    g = np.ones_like(z) if link == "softmax" else np.exp(-np.logaddexp(0, z))
    lead = np.where(mask, 1.0 if logs else p, 0.0)
    pull = r * lead
    gradient = (((pull - p * pull.sum(1, keepdims=True)) * g).T @ x)[free].ravel()
    squares = lead * lead
    total = squares.sum(1)
    classes = range(theta.shape[0])[free]
    width = x.shape[1]
    hessian = np.empty((len(classes) * width, len(classes) * width))
    for a, k in enumerate(classes):
        for b, m in enumerate(classes[: a + 1]):
            weight = p[:, k] * p[:, m] * total - squares[:, k] * p[:, m] - squares[:, m] * p[:, k]
            weight = (weight + (squares[:, k] if k == m else 0.0)) * g[:, k] * g[:, m]
            block = x.T @ (x * weight[:, None])
            hessian[a * width : (a + 1) * width, b * width : (b + 1) * width] = block
            hessian[b * width : (b + 1) * width, a * width : (a + 1) * width] = block.T
    return gradient, hessian


def _large(theta: Floats, x: Floats, link: Link, residual: object, mask: Bools, unknowns: int) -> Fit:
    """The same objective by L-BFGS, for models whose normal equations would not fit."""
    assert callable(residual)
    shape = theta.shape

    def loss(flat: Floats) -> tuple[float, Floats]:
        t = flat.reshape(shape)
        r = residual(t)
        z = x @ t.T
        p = softmax(z) if link == "softmax" else normalised_sigmoid(z)
        g = np.ones_like(z) if link == "softmax" else np.exp(-np.logaddexp(0, z))
        pull = r * p
        return float((r * r).sum()) / 2, (((pull - p * pull.sum(1, keepdims=True)) * g).T @ x).ravel()

    start = np.asarray(theta.ravel())
    found = scipy.optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300, "maxcor": 20, "ftol": 1e-16, "gtol": 1e-14}
    )
    best = np.asarray(found.x).reshape(shape)
    r = residual(best)
    return _fit(best, link, r, mask, np.zeros_like(mask), unknowns)


def _fit(theta: Floats, link: Link, r: Floats, mask: Bools, end: Bools, unknowns: int) -> Fit:
    informative = mask & ~(end & (r == 0))
    entries = int(informative.sum())
    entries -= int((informative.all(1) & mask.all(1)).sum())  # a full row sums to one: one entry says nothing new
    rms = float(np.sqrt((r[informative] ** 2).mean())) if informative.any() else 0.0
    return Fit(theta, link, rms, (entries - unknowns) / max(entries, 1))
