"""Jacobians from differences, and what the jumps between them tell: one rank-one term per kink in between."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator

from understudy.attacks._kinks import Trace
from understudy.attacks._scores import Scores
from understudy.types import Bools, Floats

_TESTS = 3  # random directions in which a step must meet no kink
_SHRINK, _RETRIES = 0.4, 24
_SLACK = 6.0  # times the propagated noise that counts as equal


@dataclass(frozen=True, eq=False)
class Jacobian:
    """Slopes (k, d) at a point u (d,), from one step per axis; `error` is the noise of one entry.

    `sound`: along the line it was taken on, it has the slope that is known of that piece.
    """

    u: Floats
    matrix: Floats
    error: float
    sound: bool


def jacobian(scores: Scores, u: Floats, step: float, rng: Generator, along: Floats, slope: Floats) -> Jacobian:
    """D + 1 queries and a few that find a step which crosses no kink, starting from `step`.

    `along` (d,) is a direction in which the slope (k,) is known: entries that cross a kink all the same show there, and
    all are asked again with a quarter of the step. Steps turn back at the walls of the space.
    """
    y = scores.ask(u[None])
    step = _clear_step(scores, u, y, step, rng)
    for _ in range(3):
        steps = _axis_steps(scores, u, step)
        beside = scores.ask(u + np.diag(steps))
        matrix = ((beside - y) / steps[:, None]).T
        noise = scores.noise_at(u[None], y).item() + scores.noise_at(u[None], beside)
        allowed = _SLACK * np.linalg.norm(noise / np.abs(steps) * along)
        off = float(np.linalg.norm(matrix @ along - slope))
        sound = bool(off <= allowed + 1e-7 * float(np.linalg.norm(slope)))
        error = float(np.median(noise / np.abs(steps)))
        if sound:
            break
        step /= 4
    return Jacobian(u, matrix, error, sound)


def _axis_steps(scores: Scores, u: Floats, step: float) -> Floats:
    up, down = scores.high - u, u - scores.low
    forward = (up >= step) | (up >= down)
    return np.where(forward, np.minimum(step, up), -np.minimum(step, down))


def _clear_step(scores: Scores, u: Floats, y: Floats, step: float, rng: Generator) -> float:
    """The largest step of a geometric series at which no random direction shows a kink."""
    passed = 0
    for _ in range(_RETRIES + _TESTS):
        size = step / 2.5
        signs = rng.choice([-1.0, 1.0], len(u))
        if np.isfinite(scores.low).any() or np.isfinite(scores.high).any():
            v = np.clip(u + size * signs, scores.low, scores.high) - u
            v = np.where(np.abs(v) < size / 2, np.clip(u - size * signs, scores.low, scores.high) - u, v)
            points, weights = np.stack([u + v / 2, u + v]), np.array([[-2.0], [1.0]])
        else:
            points, weights = np.stack([u - size * signs, u + size * signs]), np.array([[-0.5], [-0.5]])
        f = scores.ask(points)
        bend = np.abs((weights * f).sum(0) + y[0]).max()
        if bend <= _SLACK * (scores.noise_at(u[None], y).item() + scores.noise_at(points, f).sum()):
            passed += 1
            if passed == _TESTS:
                break
        else:
            step, passed = step * _SHRINK, 0
    return step


@dataclass(frozen=True, eq=False)
class Windows:
    """Where to take Jacobians on a line, so that between two of them lie few kinks that are not yet known.

    `ends`: pairs of pieces (left, right); `cost`: Jacobians that this takes, narrow pieces counted as more.
    """

    ends: list[tuple[int, int]]
    cost: float


def plan(
    trace: Trace,
    unknown: Bools,
    directions: Floats,
    *,
    most: int,
    condition: float = 60.0,
    held: Collection[int] = (),
    partly: bool = False,
) -> Windows:
    """The cheapest windows that hold every unknown kink, `most` and one condition number at most in each.

    `directions` (n, k): what is known best of each kink's fingerprint. `held`: pieces whose Jacobian is at hand.
    `partly`: only as many kinks, from the left, as make a Jacobian solve most of them.
    """
    n = len(unknown)
    _, room = trace.regions()
    typical = float(np.median(room))
    price = 1 + 0.12 * np.maximum(0, np.log2(typical / np.maximum(room, 1e-300)))
    price[list(held)] = 0.0
    missing = np.flatnonzero(unknown)
    rank = np.concatenate([[0], np.cumsum(unknown)])  # unknown kinks left of piece r

    @cache
    def solvable(first: int, last: int) -> bool:
        return last - first == 1 or bool(np.linalg.cond(directions[missing[first:last]]) <= condition)

    on, off = np.full(n + 1, np.inf), np.full(n + 1, np.inf)  # a Jacobian at piece r, or none needed there
    came, fresh = np.full(n + 1, -1), np.zeros(n + 1, np.bool_)
    for r in range(n + 1):
        if r == 0:
            off[0] = 0.0
        elif not unknown[r - 1]:
            off[r] = off[r - 1]
        best, source, new = off[r], -1, True
        for left in range(r - 1, -1, -1):
            if rank[r] - rank[left] > most:
                break
            if on[left] < best and rank[r] > rank[left] and solvable(int(rank[left]), int(rank[r])):
                best, source, new = on[left], left, False
        on[r], came[r], fresh[r] = best + price[r], source, new
        if not new and on[r] < off[r]:
            off[r] = on[r]
    last = n
    if partly:
        worth = rank / np.maximum(off, 1e-9)
        last = int(np.flatnonzero(worth >= worth.max() * (1 - 1e-9))[-1])
    return Windows(_walk_back(unknown[:last], on, off, came, fresh), float(off[last]))


def _walk_back(unknown: Bools, on: Floats, off: Floats, came: Floats, fresh: Bools) -> list[tuple[int, int]]:
    ends: list[tuple[int, int]] = []
    r, inside = len(unknown), False
    while r > 0 or inside:
        if inside:
            if fresh[r]:
                inside = False
                continue
            ends.append((int(came[r]), r))
            r = int(came[r])
        elif off[r] == on[r] and not fresh[r]:
            inside = True
        else:
            r -= 1
    return ends[::-1]


@dataclass(frozen=True, eq=False)
class Rows:
    """What windows gave: for kink `index` (m,) of the line, its row (m, d), so that slopes change by direction x row.

    `error` (m,): relative error expected of each row. `taken`: the Jacobians bought, by piece.
    """

    index: np.ndarray
    rows: Floats
    error: Floats
    taken: dict[int, Jacobian]


def solve_windows(
    scores: Scores,
    trace: Trace,
    windows: Windows,
    unknown: Bools,
    directions: Floats,
    rng: Generator,
    slopes_of_known: Callable[[Floats], Floats] | None = None,
    held: Mapping[int, Jacobian] | None = None,
) -> Rows:
    """Take the Jacobians of a plan, but for those held, and solve each window for the rows of its unknown kinks.

    `slopes_of_known(u)`: the part (k, d) of the slopes at u that is known already.
    """
    middle, room = trace.regions()
    line, taken, held = trace.line, dict[int, Jacobian](), held or {}
    scale = np.sqrt(len(line.direction)) * float(np.sqrt((line.direction**2).mean()))
    for r in sorted({r for pair in windows.ends for r in pair} - set(held)):
        u = line.at(middle[[r]])[0]
        taken[r] = jacobian(scores, u, 0.4 * scale * room[r], rng, line.direction, trace.slopes[r])
    index, rows, errors = [], [], []
    at_hand = taken | dict(held)
    for left, right in windows.ends:
        a, b = at_hand[left], at_hand[right]
        inside = np.arange(left, right)[unknown[left:right]]
        change = b.matrix - a.matrix
        if slopes_of_known is not None:
            change = change - (slopes_of_known(b.u) - slopes_of_known(a.u))
        back = np.linalg.pinv(directions[inside].T)
        found = back @ change
        noise = np.linalg.norm(back, axis=1) * (a.error + b.error) * np.sqrt(len(a.u))
        size = np.maximum(np.linalg.norm(found, axis=1), 1e-300)
        sound = a.sound and b.sound
        index.append(inside)
        rows.append(found)
        errors.append(noise / size if sound else np.full(len(inside), np.inf))
    if not index:
        return Rows(np.zeros(0, np.int64), np.zeros((0, scores.frame.d)), np.zeros(0), taken)
    return Rows(np.concatenate(index), np.concatenate(rows), np.concatenate(errors), taken)
