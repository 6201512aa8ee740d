"""Which lines to scan for kinks: long ones where nothing bounds the inputs, from wall to wall where something does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from understudy.attacks._kinks import Line
from understudy.attacks._scores import Scores
from understudy.types import Floats

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


def wall_lines(scores: Scores, slopes: Callable[[], Floats], rng: Generator) -> Callable[[Generator], Line]:
    """A source of lines from wall to wall, in turn: between corners that the slopes (k, d) now known of the model say
    are far apart in scores; from a row of the attacker's to the corner opposite to it, or to another row, where there
    are any, and between random corners where there are none.
    """
    low = np.where(np.isfinite(scores.low), scores.low, -1.0)
    high = np.where(np.isfinite(scores.high), scores.high, 1.0)
    rows = np.clip(scores.frame.data, low, high)
    order, turn = rng.permutation(len(rows)), 0

    def next_line(rng: Generator) -> Line:
        nonlocal turn
        turn += 1
        if len(rows) > 1 and turn % 3:
            start = rows[order[turn % len(rows)]]
            opposite = np.where(start > (low + high) / 2, low, high)
            end = opposite if turn % 3 == 1 else rows[order[(turn + 1) % len(rows)]]
            if np.array_equal(start, end):
                end = opposite
        else:
            ahead = rng.standard_normal(scores.k) @ slopes() if turn > 1 else rng.standard_normal(scores.frame.d)
            blank = (ahead == 0) | (turn % 3 == 2)
            ahead = np.where(blank, rng.standard_normal(scores.frame.d), ahead)
            start, end = np.where(ahead > 0, low, high), np.where(ahead > 0, high, low)
        return Line((start + end) / 2, (end - start) / 2, -1.0, 1.0)

    return next_line
