"""Where a piecewise linear function of one real variable bends: scan a line, clean the bends, match them between lines.

A kink of a ReLU network's first layer has the same direction of slope change, its fingerprint, on every line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from understudy.types import Bools, Floats

_DEPTH = 44  # halvings of an interval after which it is left alone
_SLACK = 4.0  # times the propagated noise that counts as equal
_PATIENCE = 40  # queries per kink found after which a line is given up
_BESIDE, _BLUR = 1e-5, 30.0  # how near to a kink the pieces beside it are checked: as a share of the way to the nearer
# end of the interval, and at least so many times as far as its place is uncertain
_MERGE = 10.0  # the same, for two kinks that may be one
_TWICE = 1e-9  # kinks so close to each other are one that was found from both sides
_LONGEST = 0.2  # longest probe, as a share of its interval, where answers are too coarse for shorter ones
_STALE = 50.0  # times as long as intended a probe may be before it is asked again, shorter: kinks may lie in it

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


class _Look(NamedTuple):
    """What two ends say of an interval: "straight", bent once ("kink", or "meet" if that is to be checked), or "halve".

    `where` it bends, and how near to there a check makes sense.
    """

    state: str
    where: float = np.nan
    near: float = 0.0


@dataclass
class _Nodes:
    """Points of a scan in order, with the slope beside each from a probe of length `step`."""

    s: Floats
    t: Floats
    y: Floats
    slope: Floats
    slope_noise: Floats
    noise: Floats
    step: Floats


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
        room[-1] *= -1  # the last probe points backward
        nodes = self._nodes(s, self._probe * room)
        pending = [(_at(nodes, i), _at(nodes, i + 1)) for i in range(len(s) - 1)]
        kinks: list[float] = []
        resolved, halved = True, False
        for _ in range(_DEPTH):
            looks = [self._meet(a, b) for a, b in pending]
            for i in range(0, len(looks) * halved, 2):
                if looks[i].state == looks[i + 1].state == "straight":  # too short to tell; together they may bend
                    whole = self._meet(pending[i][0], pending[i + 1][1])
                    if whole.state != "straight":
                        kinks.append(whole.where)
            wanted = [i for i, look in enumerate(looks) if look.state == "meet"]
            held = dict(zip(wanted, self._values(pending, looks, wanted), strict=True))
            split = []
            for i, look in enumerate(looks):
                if look.state == "kink" or held.get(i, False):
                    kinks.append(look.where)
                elif look.state != "straight":
                    split.append(pending[i])
            if not split:
                break
            if self._asked + 2 * len(split) > min(self._most, _PATIENCE * (len(kinks) + 50)):
                resolved = False
                break
            pending, halved = self._halve(split), True
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

    def _nodes(self, s: Floats, step: Floats) -> _Nodes:
        """Values and slopes at `s`, from probes of length `step`."""
        t = np.clip(self._line.place(s), self._line.low, self._line.high)
        step = (t + step) - t
        y = self._get(np.concatenate([t, t + step]))
        y, beside = y[: len(t)], y[len(t) :]
        noise = np.maximum(self._noise(t, y), self._noise(t, beside))
        return _Nodes(s, t, y, (beside - y) / step[:, None], 2 * noise / np.abs(step), noise, step)

    def _halve(self, split: list[tuple[_Nodes, _Nodes]]) -> list[tuple[_Nodes, _Nodes]]:
        s = np.array([(a.s + b.s).item() / 2 for a, b in split])
        t = self._line.place(s)
        room = np.array([min(m - a.t.item(), b.t.item() - m) for m, (a, b) in zip(t, split, strict=True)])
        share = np.array([self._share(a, b) for a, b in split])
        new = self._nodes(s, share * room)
        ends = self._shorter([end for pair in split for end in pair], t, share)
        return [pair for i in range(len(s)) for pair in ((ends[2 * i], _at(new, i)), (_at(new, i), ends[2 * i + 1]))]

    def _share(self, a: _Nodes, b: _Nodes) -> float:
        """How long a probe must be, as a share of its interval, to place the bend that this interval shows."""
        length = (b.t - a.t).item()
        bend = np.maximum(np.abs(b.slope - a.slope), np.abs(b.y - a.y - a.slope * length) / length).max()
        needed = 2 * (a.noise + b.noise).item() / max(self._vague * float(np.nan_to_num(bend)) * length, 1e-300)
        return float(np.clip(np.nan_to_num(needed), self._probe, _LONGEST))  # not a number: answers that vanish

    def _shorter(self, ends: list[_Nodes], middle: Floats, share: Floats) -> list[_Nodes]:
        """The ends, left and right in turn, with a new probe into the interval where the old one has become long."""
        for side in (0, 1):
            step, start = (np.array([getattr(end, name).item() for end in ends[side::2]]) for name in ("step", "t"))
            pick = np.flatnonzero(np.abs(step) > np.minimum(_STALE * share, 1.0) * np.abs(middle - start))
            if not len(pick):
                continue
            t = start[pick]
            step = (t + share[pick] * (middle[pick] - t)) - t
            beside = self._get(t + step)
            for i, far, y in zip(pick, step, beside, strict=True):
                end = ends[2 * i + side]
                slope, uncertain = (y - end.y) / far, 2 * end.noise / abs(far)
                clear = (np.abs(slope - end.slope) <= _SLACK * (uncertain + end.slope_noise)).all()
                new = {"step": np.zeros(1)} if clear else {"slope": slope, "slope_noise": uncertain, "step": far[None]}
                ends[2 * i + side] = replace(end, **new)
        return ends

    def _meet(self, a: _Nodes, b: _Nodes) -> _Look:
        """Whether an interval is straight, bends once, or is to be halved; and where it bends."""
        start, length = a.t.item(), (b.t - a.t).item()
        ends, across = (a.noise + b.noise).item(), (a.slope_noise + b.slope_noise).item()
        gap, jump = b.y[0] - a.y[0] - b.slope[0] * length, b.slope[0] - a.slope[0]
        if not np.isfinite([gap, jump]).all():
            return _Look("halve")
        if np.abs(jump).max() <= _SLACK * across:
            bent = np.abs(gap).max() > _SLACK * (ends + across * length)
            return _Look("halve" if bent else "straight", start + length / 2)
        size = float(np.linalg.norm(jump))
        offset = -float(jump @ gap) / size**2
        where, room = start + min(max(offset, 0.0), length), min(offset, length - offset)
        allowed = ends + a.slope_noise.item() * offset + b.slope_noise.item() * (length - offset)
        near = max(_BESIDE * room, _BLUR * allowed / size)
        if room <= 0 or allowed > self._vague * length * size or (self._check and near > 0.1 * room):
            return _Look("halve", where)
        if np.abs(gap + jump * offset).max() > _SLACK * allowed:
            return _Look("halve", where)
        return _Look("meet" if self._check else "kink", where, near)

    def _values(self, pending: list[tuple[_Nodes, _Nodes]], looks: list[_Look], wanted: list[int]) -> Bools:
        """Whether each of two pieces really reaches to just before the place where they should meet.

        A value at the place itself would prove nothing: kinks of opposite signs can lie all on one side of it.
        """
        if not wanted or self._asked + 2 * len(wanted) > self._most:
            return np.zeros(len(wanted), np.bool_)
        t, near = (np.array([getattr(looks[i], name) for i in wanted]) for name in ("where", "near"))
        y = self._get(np.concatenate([t - near, t + near])).reshape(2, len(t), -1)
        right = np.ones(len(t), np.bool_)
        for side, at, values in ((0, t - near, y[0]), (1, t + near, y[1])):
            ends = [pending[i][side] for i in wanted]
            away = at - np.array([end.t.item() for end in ends])
            line = np.array([end.y[0] + end.slope[0] * far for end, far in zip(ends, away, strict=True)])
            noise, slope_noise = np.array([(end.noise.item(), end.slope_noise.item()) for end in ends]).T
            reach = noise + slope_noise * np.abs(away)
            right &= np.abs(line - values).max(1) <= _SLACK * (self._noise(at, values) + reach)
        return right

    def _fitted(self, kinks: Floats, resolved: bool) -> Trace:
        t, y = np.concatenate(self._t), np.concatenate(self._y)
        order = np.argsort(t, kind="stable")
        t, y = t[order], y[order]
        known = np.isfinite(y).all(1)
        t, y = t[known], y[known]
        kinks = kinks[np.diff(kinks, prepend=-np.inf) > _TWICE * (self._line.scale + np.abs(kinks))]
        return fit_pieces(self._line, t, y, _without_false_pairs(t, y, kinks, self._noise), self._noise, resolved)


def _at(nodes: _Nodes, i: int) -> _Nodes:
    return _Nodes(*(getattr(nodes, f.name)[i : i + 1] for f in fields(nodes)))


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
    error = np.where(held, spread[:-1] + spread[1:], np.inf) / np.sqrt(np.where(size > 0, size, 1))
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
            known = np.isfinite(spread[i] + spread[i + 2])  # an outer piece without points proves nothing
            reach = (
                spread[i] * abs(where - centres[i]) + spread[i + 2] * abs(where - centres[i + 2]) if known else np.inf
            )
            one = known and pair[0] <= where <= pair[1]
            one = one and np.abs(gap + jump * where).max() <= _MERGE * (noise + reach)
            # nothing is proved by outer pieces known so badly that they would always fit
            one = one and 10 * _MERGE * (noise + reach) <= np.abs(jump).max() * (pair[1] - pair[0])
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
