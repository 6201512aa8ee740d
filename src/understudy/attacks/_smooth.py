"""One hidden layer of tanh units, z(y) = B' tanh(C y + a) + b: its units' directions from Hessians, and least squares.

A layer of logistic units is the same family: logistic(z) = (1 + tanh(z / 2)) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.linalg import solve_triangular

from understudy.types import Floats

_PAIRS = 200  # random pairs of combined Hessians that are tried
_STEPS, _TRIES = 200, 12  # of Levenberg-Marquardt


@dataclass(frozen=True, eq=False)
class Layer:
    """h tanh units over k coordinates, m outputs: inner (h, k), shift (h,), outer (h, m), bias (m,)."""

    inner: Floats
    shift: Floats
    outer: Floats
    bias: Floats

    def __call__(self, y: Floats) -> Floats:
        """(n, m) scores."""
        return np.asarray(np.tanh(y @ self.inner.T + self.shift) @ self.outer + self.bias)

    def moved(self, step: Floats) -> Layer:
        """The layer with a flat step added to its parameters, in the order of `Layer`'s fields."""
        parts = (self.inner, self.shift, self.outer, self.bias)
        ends = np.cumsum([part.size for part in parts])[:-1]
        return Layer(*(part + s.reshape(part.shape) for part, s in zip(parts, np.split(step, ends), strict=True)))

    def jacobian(self, y: Floats) -> Floats:
        """Derivatives of the scores by the parameters: (n, m, parameters)."""
        n, m, t = len(y), len(self.bias), np.tanh(y @ self.inner.T + self.shift)
        shift = (1 - t**2)[:, None] * self.outer.T
        inner = (shift[..., None] * y[:, None, None]).reshape(n, m, -1)
        outer = np.einsum("nh,om->nohm", t, np.eye(m)).reshape(n, m, -1)
        return np.concatenate([inner, shift, outer, np.broadcast_to(np.eye(m), (n, m, m))], 2)


def directions(hessians: Floats, rng: Generator) -> Floats:
    """The rows of W, up to their lengths, for which every Hessian (q, h, h) is W' D W with a diagonal D.

    Of two combinations A and B of the Hessians, A B^-1 has the rows of W as eigenvectors (Jennrich). Of many random
    pairs the one is taken that leaves least off the diagonals; the unit matrix where none has real eigenvectors.
    """
    scale = np.linalg.norm(hessians, axis=(1, 2), keepdims=True)
    m = hessians / np.where(scale > 0, scale, 1.0)
    best, least = np.eye(m.shape[1]), 1.0
    for pair in rng.standard_normal((_PAIRS, 2, len(m))):
        a, b = np.tensordot(pair, m, 1)
        try:
            found = np.linalg.eig(np.linalg.solve(b, a).T)[1]
            back = np.linalg.inv(found)
        except np.linalg.LinAlgError:
            continue
        if np.iscomplexobj(found):
            continue
        inside = back @ m @ back.T
        whole = (inside**2).sum()
        left = float(1 - (np.diagonal(inside, axis1=1, axis2=2) ** 2).sum() / whole) if whole > 0 else 1.0
        if left < least:
            best, least = found.T, left
    return best


def unit_on_a_line(t: Floats, g: Floats) -> tuple[float, float, Floats]:
    """Scale s, shift z and outer weights (m,) with which one unit, tanh(s t + z), explains scores g (n, m) best.

    A constant is left out of both. The best of a grid: least squares takes it from there.
    """
    reach = np.abs(t).max()
    scales, shifts = np.geomspace(0.02, 30, 60) / reach, np.linspace(-4, 4, 81)
    s, z = (grid.ravel() for grid in np.meshgrid(scales, shifts))
    shape = np.tanh(s[:, None] * t + z[:, None])
    shape -= shape.mean(1, keepdims=True)
    size, along = (shape**2).sum(1), shape @ (g - g.mean(0))
    best = int(np.argmax((along**2).sum(1) / np.maximum(size, 1e-300)))
    return float(s[best]), float(z[best]), along[best] / max(float(size[best]), 1e-300)


def refine(layer: Layer, y: Floats, g: Floats, floor: float) -> tuple[Layer, float]:
    """Levenberg-Marquardt from `layer` on scores g (n, m) at y (n, k): the layer, and its residual (rms).

    Steps come from a QR decomposition, so that nearly straight units are told apart to all digits. Ends at a residual
    of `floor`, or where no step makes it smaller.
    """
    residual, damping = layer(y) - g, 3e-2
    for _ in range(_STEPS):
        before = float((residual**2).mean())
        if np.sqrt(before) <= floor:
            break
        rows = layer.jacobian(y).reshape(g.size, -1)
        scale = np.maximum(np.sqrt((rows**2).sum(0)), 1e-12)
        rows /= scale
        wanted = np.concatenate([-residual.ravel(), np.zeros(rows.shape[1])])
        for _ in range(_TRIES):
            q, r = np.linalg.qr(np.vstack([rows, damping * np.eye(rows.shape[1])]))
            tried = layer.moved(solve_triangular(r, q.T @ wanted, check_finite=False) / scale)
            now = tried(y) - g
            if (now**2).mean() < before:
                layer, residual, damping = tried, now, max(damping / 5, 1e-14)
                break
            damping *= 10
        else:
            break
        if before < 1e-20 and (residual**2).mean() > 0.25 * before:
            break  # rounding is all that is left
    return layer, float(np.sqrt((residual**2).mean()))
