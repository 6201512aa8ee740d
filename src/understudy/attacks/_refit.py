"""One hidden ReLU layer by least squares: Gauss-Newton on its rows, with what is linear behind them eliminated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dsyrk

from understudy.types import Bools, Floats

_STUCK = 3  # steps in which the rms must fall by `_LEAST`, or the fit ends
_LEAST = 0.01
_DAMPED = 1e9  # damping at which no step is to be had
_RANK = 1e-11  # singular values below this, relative to the largest, are zero
_TRIES = 600  # hyperplanes among which new units are chosen


@dataclass(frozen=True, eq=False)
class Sample:
    """Points x (n, d + 1) with a trailing one, scores y (n, k), and how far off each row of scores may be (n,)."""

    x: Floats
    y: Floats
    noise: Floats

    @classmethod
    def of(cls, u: Floats, y: Floats, noise: Floats) -> Sample:
        """Rows (n, d) whose scores are known."""
        known = np.isfinite(y).all(1)
        return cls(np.hstack([u, np.ones((len(u), 1))])[known], y[known], noise[known])

    def __len__(self) -> int:
        return len(self.x)

    def levelled(self) -> Sample:
        """The same, with noise at least in proportion to the scores: far points do not outweigh the near ones."""
        size = np.abs(self.y).max(1)
        level = np.maximum(size / max(float(np.median(size)), 1e-300), 1)
        return Sample(self.x, self.y, np.maximum(self.noise, float(self.noise.min()) * level))


@dataclass(frozen=True, eq=False)
class Fit:
    """Scores are relu(x rows.T) outer[:h] + rest: rows (h, d + 1) of unit length, their offsets last.

    The rest is linear in the inputs, `outer[h:]` (d + 1, k), or a constant (1, k) without `skip`. `rms`: root mean
    square of the residuals, in units of the noise.
    """

    rows: Floats
    outer: Floats
    skip: bool
    rms: float

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class _Projected:
    """What the best linear weights behind given rows leave: residuals (n, k), orthogonal to `basis` (n, r)."""

    active: Bools
    basis: Floats
    outer: Floats
    left: Floats

    @property
    def cost(self) -> float:
        return float((self.left**2).sum())


def _project(rows: Floats, sample: Sample, skip: bool) -> _Projected:
    sums = sample.x @ rows.T
    features = np.hstack([np.maximum(sums, 0), sample.x if skip else sample.x[:, -1:]]) / sample.noise[:, None]
    size = np.linalg.norm(features, axis=0)
    size[size == 0] = 1
    left, s, right = np.linalg.svd(features / size, full_matrices=False)
    held = s > _RANK * s[0]
    basis, goal = left[:, held], sample.y / sample.noise[:, None]
    part = basis.T @ goal
    outer = right[held].T @ (part / s[held, None]) / size[:, None]
    return _Projected(sums > 0, basis, outer, goal - basis @ part)


def refit(rows: Floats, sample: Sample, *, skip: bool, steps: int = 60, enough: float = 0.0, only: int = 0) -> Fit:
    """Levenberg-Marquardt on the rows, from `rows` on, until the rms is at most `enough` or hardly falls any more.

    The weights behind the layer are the best ones at every step (variable projection: Golub and Pereyra 1973, with
    Kaufman's Jacobian), which is what lets it start from random rows. `only`: how many of the last columns may move,
    all if 0; 1 = the offsets.
    """
    columns = slice(-only, None) if only else slice(None)
    if not only:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    now, damping, costs = _project(rows, sample, skip), 1e-3, list[float]()
    for _ in range(steps):
        normal, gradient = _normal(now, sample, columns)
        diagonal = np.diag(normal).copy()
        diagonal = np.maximum(diagonal, 1e-8 * diagonal.max(initial=1e-300))
        while damping < _DAMPED:
            moved, tried = rows.copy(), normal.copy(order="F")
            tried[np.diag_indices_from(tried)] += damping * diagonal
            try:
                factor = cho_factor(tried, lower=True, overwrite_a=True, check_finite=False)
                moved[:, columns] += cho_solve(factor, gradient, check_finite=False).reshape(len(rows), -1)
                then = _project(moved, sample, skip)
            except np.linalg.LinAlgError:
                damping *= 10
                continue
            if then.cost < now.cost:
                break
            damping *= 10
        else:
            break
        rows, now, damping = moved, then, max(damping / 10, 1e-12)
        costs.append(now.cost)
        if np.sqrt(now.cost / now.left.size) <= enough:
            break
        if len(costs) > _STUCK and costs[-_STUCK] < costs[-1] * (1 + _LEAST) ** 2:
            break
    return Fit(rows, now.outer, skip, float(np.sqrt(now.cost / now.left.size)))


def _normal(now: _Projected, sample: Sample, columns: slice) -> tuple[Floats, Floats]:
    """Normal matrix (lower triangle) and gradient of the entries of the rows that may move."""
    x, weighted = sample.x[:, columns], now.active / sample.noise[:, None]
    (n, h), outer = weighted.shape, now.outer[: now.active.shape[1]]
    slopes = (weighted[:, :, None] * x[:, None, :]).reshape(n, -1)
    normal = dsyrk(1.0, slopes.T, lower=1)
    normal = dsyrk(-1.0, (now.basis.T @ slopes).T, beta=1.0, c=normal, lower=1, overwrite_c=1)
    blocks = normal.T.reshape(h, -1, h, x.shape[1])  # a view: transposed, rows lie one after the other
    blocks *= (outer @ outer.T)[:, None, :, None]
    return normal, ((weighted * (now.left @ outer.T)).T @ x).reshape(-1)


def grown(rows: Floats, sample: Sample, width: int, rng: Generator) -> Floats:
    """Rows and new ones, `width` in all: hyperplanes among random ones that explain most of what is left so far."""
    now = _project(rows, sample, True)
    width_of = np.std(sample.x[:, :-1], axis=0)
    normals = rng.standard_normal((_TRIES, len(width_of))) / np.where(width_of > 0, width_of, 1)
    through = sample.x[rng.integers(len(sample), size=_TRIES), :-1] * rng.uniform(0, 1, (_TRIES, 1))
    tried = np.hstack([normals, -(normals * through).sum(1, keepdims=True)])
    tried /= np.linalg.norm(tried, axis=1, keepdims=True)
    features = np.maximum(sample.x @ tried.T, 0) / sample.noise[:, None]
    features -= now.basis @ (now.basis.T @ features)
    left, chosen = now.left.copy(), list[int]()
    for _ in range(width - len(rows)):
        size = np.linalg.norm(features, axis=0)
        features /= np.where(size > 1e-9 * size.max(), size, np.inf)
        gain = np.linalg.norm(features.T @ left, axis=1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        best = features[:, chosen[-1]].copy()
        left -= np.outer(best, best @ left)
        features -= np.outer(best, best @ features)
    return np.vstack([rows, tried[chosen]])


def dispensable(fit: Fit, sample: Sample) -> int:
    """The unit whose loss the others make up for best: the least rise of the squares, all weights behind anew."""
    features = (
        np.hstack([np.maximum(sample.x @ fit.rows.T, 0), sample.x if fit.skip else sample.x[:, -1:]])
        / sample.noise[:, None]
    )
    size = np.linalg.norm(features, axis=0)
    size[size == 0] = 1
    _, s, right = np.linalg.svd(features / size, full_matrices=False)
    spread = ((right / np.maximum(s, _RANK * s[0])[:, None]) ** 2).sum(0)[: len(fit)]
    return int((((fit.outer[: len(fit)] * size[: len(fit), None]) ** 2).sum(1) / spread).argmin())
