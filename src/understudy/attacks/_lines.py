"""Which lines to scan for kinks where nothing bounds the inputs: long ones."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from understudy.attacks._kinks import Line
from understudy.attacks._scores import Scores

_FAR = 1e4  # how far lines go where there is no wall, in units of the data's spread


def walled(scores: Scores) -> bool:
    """Whether any coordinate is bounded."""
    return bool(np.isfinite(scores.low).any() or np.isfinite(scores.high).any())


def long_line(scores: Scores, rng: Generator) -> Line:
    """A random line through the middle of a space without walls, as far out as answers stay finite and precise."""
    d = scores.frame.d
    origin, direction = 0.3 * rng.standard_normal(d), rng.standard_normal(d)
    if not scores.logs:
        return Line(origin, direction, -_FAR, _FAR, 1.0)
    out = np.geomspace(1, _FAR, 9)
    t = np.concatenate([-out[::-1], out])
    line = Line(origin, direction, -_FAR, _FAR, 1.0)
    y = scores.ask(line.at(t), keep=False)
    fine = np.isfinite(y).all(1) & ~(scores.noise_at(line.at(t), y) > 1e-9 * np.abs(y).max(1))
    left = len(out) - int(np.argmin(np.append(fine[: len(out)][::-1], False)))
    right = len(out) + int(np.argmin(np.append(fine[len(out) :], False))) - 1
    return Line(origin, direction, t[min(left, len(out) - 1)], t[max(right, len(out))], 1.0)
