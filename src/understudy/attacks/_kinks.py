"""Where a piecewise linear function of one real variable bends: scan a line, clean the bends, match them between lines.

A kink of a ReLU network's first layer has the same direction of slope change, its fingerprint, on every line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from understudy.types import Bools, Floats

_DEPTH = 44  # halvings of an interval after which it is left alone
_SLACK = 4.0  # times the propagated noise that counts as equal
_PATIENCE = 40  # queries per kink found after which a line is given up
_BESIDE = 1e-3  # how near to a kink the pieces beside it are checked, as a share of the interval
_MERGE = 10.0  # the same, for two kinks that may be one

Ask = Callable[[Floats], Floats]
NoiseAt = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True, eq=False)
class Line:
    """Points origin + t direction, low <= t <= high; t = scale tan(s) where the line is long, t = s if `scale` is 0."""

    origin: Floats
    direction: Floats
    low: float
    high: float
    scale: float = 0.0

    def at(self, t: Floats) -> Floats:
        """(n, d) points."""
        return np.asarray(self.origin + np.multiply.outer(t, self.direction))

    def place(self, s: Floats) -> Floats:
        """T of a scan coordinate."""
        return np.asarray(self.scale * np.tan(s) if self.scale else s)

    def coordinate(self, t: Floats) -> Floats:
        """Scan coordinate of t: kinks are about evenly spread in it."""
        return np.asarray(np.arctan(t / self.scale) if self.scale else t)


@dataclass(frozen=True, eq=False)
class Trace:
    """A scanned line: points t (m,) in order and scores y (m, k); n kinks at `kinks` with slope changes `jumps` (n, k).

    Piece i of n + 1 lies left of kink i; `slopes` (n + 1, k) are fitted to all points of each. `error` (n,): relative
    error expected of each jump; `spread` (n + 1,): error of each slope. `resolved`: whether every interval was settled.
    """

    line: Line
    t: Floats
    y: Floats
    kinks: Floats
    jumps: Floats
    slopes: Floats
    error: Floats
    spread: Floats
    resolved: bool

    @property
    def sizes(self) -> Floats:
        return np.asarray(np.linalg.norm(self.jumps, axis=1))

    @property
    def fingerprints(self) -> Floats:
        """(n, k) unit vectors."""
        return np.asarray(self.jumps / self.sizes[:, None])

    def best_spread(self, noise_at: NoiseAt) -> Floats:
        """The error of each slope if two points far apart were known on its piece."""
        middle, room = self.regions()
        value = self.y[np.searchsorted(self.t, middle).clip(0, len(self.t) - 1)]
        return np.asarray(noise_at(middle, value) / (1.13 * room))

    def regions(self) -> tuple[Floats, Floats]:
        """A point t inside each of the n + 1 pieces, and the distance from it to the nearest kink or end."""
        k, line = self.kinks, self.line
        if not len(k):
            middle = (line.low + line.high) / 2
            return np.array([middle]), np.array([(line.high - line.low) / 2])
        if line.scale:  # as far out as the outermost kink lies
            out = np.maximum(np.abs(k[[0, -1]]), line.scale)
            edges = np.concatenate([[max(k[0] - out[0], line.low)], k, [min(k[-1] + out[1], line.high)]])
        else:
            edges = np.concatenate([[line.low], k, [line.high]])
        return (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2


@dataclass
class _Nodes:
    """Points of a scan in order, with the slope beside each from a probe."""

    s: Floats
    t: Floats
    y: Floats
    slope: Floats
    slope_noise: Floats
    noise: Floats


class Scan:
    """One line, scanned by recursive halving: two affine pieces that meet inside an interval settle it.

    `probe`: length of the interval that a slope is measured on, as a share of the shorter neighbouring interval.
    `vague`: largest uncertainty of a kink's place, as a share of its interval. `sharp`: error of a jump above which two
    more points are bought on the pieces beside it.
    `check`: ask on both sides of each meeting point; needed where answers hold one number, which cannot contradict it.
    """

    def __init__(
        self,
        ask: Ask,
        noise_at: NoiseAt,
        line: Line,
        *,
        check: bool,
        most: int,
        probe: float = 1e-3,
        vague: float = 1e-6,
        sharp: float = 2.0**-36,
    ) -> None:
        self._ask, self._noise_at, self._line = ask, noise_at, line
        self._probe, self._check, self._most, self._vague = probe, check, most, vague
        self._sharp = sharp
        self._t: list[Floats] = []
        self._y: list[Floats] = []
        self._asked = 0

    def run(self) -> Trace:
        """Scan; stops unresolved after `most` queries."""
        first, last = self._line.coordinate(np.array([self._line.low, self._line.high])).tolist()
        s: Floats = np.linspace(first, last, 5)
        gaps = np.diff(self._line.place(s))
        room = np.minimum(np.append(gaps, gaps[-1]), np.append(gaps[0], gaps))
        nodes = self._nodes(s, room, backward=len(s) - 1)
        pending = [(_at(nodes, i), _at(nodes, i + 1)) for i in range(len(s) - 1)]
        kinks: list[float] = []
        resolved = True
        for _ in range(_DEPTH):
            settled = [self._meet(a, b) for a, b in pending]
            wanted = [i for i, (state, _) in enumerate(settled) if state == "meet"]
            held = dict(zip(wanted, self._values(pending, settled, wanted), strict=True))
            split = []
            for i, (state, where) in enumerate(settled):
                if state == "kink" or held.get(i, False):
                    kinks.append(where)
                elif state != "straight":
                    split.append(pending[i])
            if not split:
                break
            if self._asked + 2 * len(split) > min(self._most, _PATIENCE * (len(kinks) + 50)):
                resolved = False
                break
            pending = self._halve(split)
        else:
            resolved = False
        trace = self._fitted(np.sort(np.array(kinks)), resolved)
        return self._sharpened(trace) if resolved else trace

    def _sharpened(self, trace: Trace) -> Trace:
        """Buy two points far apart on each piece beside a kink of which too little is known."""
        blunt = np.flatnonzero(trace.error > self._sharp)
        pieces = np.unique(np.concatenate([blunt, blunt + 1]))
        middle, room = trace.regions()
        pieces = pieces[trace.spread[pieces] > 2 * trace.best_spread(self._noise)[pieces]]
        if not len(pieces) or self._asked + 2 * len(pieces) > self._most:
            return trace
        self._get(np.concatenate([middle[pieces] - 0.8 * room[pieces], middle[pieces] + 0.8 * room[pieces]]))
        return self._fitted(trace.kinks, True)

    def _noise(self, t: Floats, y: Floats) -> Floats:
        return self._noise_at(self._line.at(t), y)

    def _get(self, t: Floats) -> Floats:
        y = self._ask(self._line.at(t))
        self._t.append(t)
        self._y.append(y)
        self._asked += len(t)
        return y

    def _nodes(self, s: Floats, room: Floats, backward: int | None = None) -> _Nodes:
        """Values and slopes at `s`; probes point forward, except the last one's."""
        t, step = self._line.place(s), self._probe * room
        t = np.clip(t, self._line.low, self._line.high)
        if backward is not None:
            step[backward] *= -1
        step = (t + step) - t
        y = self._get(np.concatenate([t, t + step]))
        y, beside = y[: len(t)], y[len(t) :]
        noise = np.maximum(self._noise(t, y), self._noise(t, beside))
        return _Nodes(s, t, y, (beside - y) / step[:, None], 2 * noise / np.abs(step), noise)

    def _halve(self, split: list[tuple[_Nodes, _Nodes]]) -> list[tuple[_Nodes, _Nodes]]:
        s = np.array([(a.s + b.s).item() / 2 for a, b in split])
        t = self._line.place(s)
        room = np.array([min(m - a.t.item(), b.t.item() - m) for m, (a, b) in zip(t, split, strict=True)])
        new = self._nodes(s, room)
        return [pair for i, (a, b) in enumerate(split) for pair in ((a, _at(new, i)), (_at(new, i), b))]

    def _meet(self, a: _Nodes, b: _Nodes) -> tuple[str, float]:
        """Whether an interval is straight, bends once, or is to be halved; and where it bends."""
        length = (b.t - a.t).item()
        ends, across = (a.noise + b.noise).item(), (a.slope_noise + b.slope_noise).item()
        gap, jump = b.y[0] - a.y[0] - b.slope[0] * length, b.slope[0] - a.slope[0]
        if not np.isfinite(gap).all():
            return "halve", 0.0
        if np.abs(jump).max() <= _SLACK * across:
            bent = np.abs(gap).max() > _SLACK * (ends + across * length)
            return ("halve" if bent else "straight"), 0.0
        offset = -(jump @ gap) / (jump @ jump)
        margin = 2 * _BESIDE * length if self._check else 0.0
        if not margin < offset < length - margin:
            return "halve", 0.0
        allowed = ends + a.slope_noise.item() * offset + b.slope_noise.item() * (length - offset)
        vague = allowed > self._vague * length * np.linalg.norm(jump)
        if vague or np.abs(gap + jump * offset).max() > _SLACK * allowed:
            return "halve", 0.0
        return ("meet" if self._check else "kink"), a.t.item() + offset

    def _values(
        self, pending: list[tuple[_Nodes, _Nodes]], settled: list[tuple[str, float]], wanted: list[int]
    ) -> Bools:
        """Whether each of two pieces really reaches to just before the place where they should meet.

        A value at the place itself would prove nothing: kinks of opposite signs can lie all on one side of it.
        """
        if not wanted or self._asked + 2 * len(wanted) > self._most:
            return np.zeros(len(wanted), np.bool_)
        t = np.array([settled[i][1] for i in wanted])
        start, end = np.array([[e.t.item() for e in pending[i]] for i in wanted]).T
        beside = _BESIDE * (end - start)
        y = self._get(np.concatenate([t - beside, t + beside])).reshape(2, len(t), -1)
        right = np.ones(len(t), np.bool_)
        for side, at, values in ((0, t - beside, y[0]), (1, t + beside, y[1])):
            ends = [pending[i][side] for i in wanted]
            away = at - (start, end)[side]
            line = np.array([e.y[0] + e.slope[0] * far for e, far in zip(ends, away, strict=True)])
            reach = np.array([e.noise.item() for e in ends]) + np.array([e.slope_noise.item() for e in ends]) * abs(
                away
            )
            right &= np.abs(line - values).max(1) <= _SLACK * (self._noise(at, values) + reach)
        return right

    def _fitted(self, kinks: Floats, resolved: bool) -> Trace:
        t, y = np.concatenate(self._t), np.concatenate(self._y)
        order = np.argsort(t, kind="stable")
        t, y = t[order], y[order]
        known = np.isfinite(y).all(1)
        t, y = t[known], y[known]
        return fit_pieces(self._line, t, y, _without_false_pairs(t, y, kinks, self._noise), self._noise, resolved)


def _at(nodes: _Nodes, i: int) -> _Nodes:
    return _Nodes(*(getattr(nodes, name)[i : i + 1] for name in ("s", "t", "y", "slope", "slope_noise", "noise")))


def fit_pieces(line: Line, t: Floats, y: Floats, kinks: Floats, noise_at: NoiseAt, resolved: bool = True) -> Trace:
    """Fit each piece to all its points and move the kinks to where the fitted pieces meet."""
    slopes, levels, centres, spread = _pieces(t, y, kinks, noise_at)
    jumps = np.diff(slopes, axis=0)
    here, there = centres[:-1], centres[1:]
    # left: levels[i] + slopes[i] (t - here); right: levels[i + 1] + slopes[i + 1] (t - there)
    gap = levels[1:] - slopes[1:] * there[:, None] - levels[:-1] + slopes[:-1] * here[:, None]
    size = (jumps**2).sum(1)
    held = np.isfinite(spread[:-1] + spread[1:]) & (size > 0)
    moved = np.where(held, -(jumps * gap).sum(1) / np.where(size > 0, size, 1), kinks)
    error = (spread[:-1] + spread[1:]) / np.sqrt(np.where(size > 0, size, np.inf))
    return Trace(line, t, y, moved, jumps, slopes, error, spread, resolved)


def _pieces(t: Floats, y: Floats, kinks: Floats, noise_at: NoiseAt) -> tuple[Floats, Floats, Floats, Floats]:
    """Weighted straight lines through the points of each piece: slopes, levels at the centres, errors of slopes."""
    piece, n = np.searchsorted(kinks, t), len(kinks) + 1
    # a point on a kink belongs to both pieces as well as its own place is known: keep it out of both
    if len(kinks):
        nearest = (
            np.abs(t[:, None] - kinks[None]).min(1) if len(kinks) * len(t) < 4_000_000 else np.full(len(t), np.inf)
        )
        piece = np.where(nearest <= 1e-9 * (np.abs(t) + 1e-300), n, piece)
    noise = noise_at(t, y)
    weight = 1 / np.maximum(noise, np.finfo(float).tiny) ** 2
    total = np.bincount(piece, weight, n + 1)[:n]
    safe = np.where(total > 0, total, 1)
    centres = np.bincount(piece, weight * t, n + 1)[:n] / safe
    away = t - np.append(centres, 0.0)[piece]
    square = np.bincount(piece, weight * away**2, n + 1)[:n]
    levels = np.stack([np.bincount(piece, weight * c, n + 1)[:n] / safe for c in y.T], 1)
    held = y - np.vstack([levels, np.zeros(y.shape[1])])[piece]
    rise = np.stack([np.bincount(piece, weight * away * c, n + 1)[:n] for c in held.T], 1)
    bad = square <= 0
    slopes = rise / np.where(bad, 1, square)[:, None]
    return slopes, levels, centres, np.where(bad, np.inf, 1 / np.sqrt(np.where(bad, 1, square)))


def _without_false_pairs(t: Floats, y: Floats, kinks: Floats, noise_at: NoiseAt) -> Floats:
    """Where a kink fell into a probe, two false ones stand at the probe's ends: put the true one back.

    For each adjacent pair: if the pieces outside it meet between them, the short piece was never there.
    """
    slopes, levels, centres, spread = _pieces(t, y, kinks, noise_at)
    true: list[float] = []
    i = 0
    while i < len(kinks):
        pair = kinks[i : i + 2]
        if len(pair) == 2:
            jump = slopes[i + 2] - slopes[i]
            gap = levels[i + 2] - slopes[i + 2] * centres[i + 2] - levels[i] + slopes[i] * centres[i]
            where = -(jump @ gap) / max(jump @ jump, 1e-300)
            noise = noise_at(pair, y[np.searchsorted(t, pair).clip(0, len(t) - 1)]).max()
            reach = spread[i] * abs(where - centres[i]) + spread[i + 2] * abs(where - centres[i + 2])
            one = pair[0] <= where <= pair[1] and np.isfinite(reach)  # an outer piece without points proves nothing
            one = one and np.abs(gap + jump * where).max() <= _MERGE * (noise + reach)
            if one and len(jump) == 1:  # one number always fits: nothing else was asked within the short piece
                edge = 1e-6 * (pair[1] - pair[0])
                one = not ((t > pair[0] + edge) & (t < pair[1] - edge)).any()
            if one:
                true.append(where)
                i += 2
                continue
        true.append(kinks[i])
        i += 1
    return np.array(true)


def match(ours: Trace, at: Floats, jumps: Floats, near: float = 1e-5, alike: float = 1e-5) -> np.ndarray:
    """For predicted kinks (m,) at t with `jumps` (m, k): the index of the kink of a trace that is each one, or -1.

    `near`: distance in the scan coordinate, of the whole line; `alike`: relative difference of the jumps.
    """
    if not len(ours.kinks) or not len(at):
        return np.full(len(at), -1)
    s, mine = ours.line.coordinate(at), ours.line.coordinate(ours.kinks)
    near *= np.ptp(ours.line.coordinate(np.array([ours.line.low, ours.line.high]))) / np.pi
    apart = np.abs(s[:, None] - mine[None])
    size = np.linalg.norm(jumps, axis=1)
    unlike = np.linalg.norm(jumps[:, None] - ours.jumps[None], axis=2) / np.maximum(size, 1e-300)[:, None]
    allowed = np.maximum(alike, 30 * ours.error)
    fits = (apart <= near) & (unlike <= allowed[None])
    cost = np.where(fits, apart / near + unlike, np.inf)
    best = cost.argmin(1)
    return np.where(np.isfinite(cost.min(1)), best, -1)
