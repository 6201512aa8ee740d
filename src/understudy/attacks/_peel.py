"""The first of several hidden ReLU layers: its units are the kinks that lie on one hyperplane everywhere; peel it off.

Behind the first layer lies a network of its outputs h >= 0. Where there are no more units than inputs, any h can be
brought about by an input, so that network can be asked like a target of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.random import Generator

from understudy.attacks._jacobians import plan, solve_windows
from understudy.attacks._kinks import Line, Scan, Trace
from understudy.attacks._lines import long_line
from understudy.attacks._scores import Scores
from understudy.types import Array, Bools, Floats

_NEAR = 1e-5  # how near to the predicted place a kink is the predicted one, as a share of the whole line
_AT_FIRST = 3  # lines scanned before any Jacobian is bought
_HITS, _EVERYWHERE = 3, 0.6  # lines on which a hyperplane of the first layer must show, and their share
_SCALE = 1e-3  # a row whose slope along its own line differs so much from the measured jump is wrong
_PROBES = 12  # places at which a step beside all known units is tried
_STILL, _SLACK = 1e-8, 100.0  # movement, relative to any other's and to rounding, that counts as none there
_SILENT = 1e-5  # movement of a score, relative to that on the active side, that counts as none
_MOST = 20_000  # queries after which a scan is given up


@dataclass(frozen=True, eq=False)
class First:
    """A first layer in frame coordinates: rows (h, d) of unit length, offsets (h,), and the error of each row (h,)."""

    rows: Floats
    offsets: Floats
    error: Floats

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, which: Array) -> First:
        return First(self.rows[which], self.offsets[which], self.error[which])

    def join(self, other: First) -> First:
        both = (np.concatenate([getattr(self, f), getattr(other, f)]) for f in ("rows", "offsets", "error"))
        return First(*both)

    def crossings(self, line: Line) -> Floats:
        """Where each unit bends a line: t (h,)."""
        rate = self.rows @ line.direction
        return np.asarray(-(self.rows @ line.origin + self.offsets) / np.where(rate == 0, 1e-300, rate))

    def inverse(self) -> Floats:
        """(d, h): an input at which the units' sums are z is inverse @ (z - offsets)."""
        return np.asarray(np.linalg.pinv(self.rows))


class Peel:
    """Finds the first layer; every method that asks raises Spent. `traces`: the lines scanned so far."""

    def __init__(self, scores: Scores, rng: Generator) -> None:
        self.scores, self._rng = scores, rng
        self.traces: list[Trace] = []
        self.first = self._seen = First(np.zeros((0, scores.frame.d)), np.zeros(0), np.zeros(0))

    def run(self, lines: int) -> bool:
        """Scan and solve until nothing changes where no unit found does; whether it came to that within `lines`."""
        for _ in range(_AT_FIRST):
            self.scan()
        i = 0
        while not self.complete():
            if i == len(self.traces):
                if i >= lines:
                    return False
                self.scan()
            self.solve(i)
            i += 1
        return self.orient()

    def scan(self) -> None:
        """Scan one more line: along directions in which no known unit changes, once there are some."""
        line = long_line(self.scores, self._rng)
        if len(self.first):
            away = line.direction - self.first.inverse() @ (self.first.rows @ line.direction)
            line = replace(line, origin=(1 + self._rng.exponential()) * line.origin, direction=away)
        self.traces.append(
            Scan(self.scores.ask, self.scores.noise_at, line, check=self.scores.k == 1, most=_MOST).run()
        )

    def solve(self, i: int) -> None:
        """Jacobians along line i, around the kinks that no known unit explains; keep what other lines confirm."""
        trace = self.traces[i]
        known = {int(k): unit for unit, k in enumerate(_place(trace, self.first.crossings(trace.line))) if k >= 0}
        unknown = np.array([k not in known for k in range(len(trace.kinks))], np.bool_)
        if unknown.any():
            windows = plan(trace, unknown, trace.fingerprints, most=max(self.scores.k - 1, 1))
            explained = partial(self._explained, trace, known)
            got = solve_windows(self.scores, trace, windows, unknown, trace.fingerprints, self._rng, explained)
            rate, size = got.rows @ trace.line.direction, trace.sizes[got.index]
            good = np.isfinite(got.error) & (np.abs(rate - size) <= _SCALE * size)
            rows, at = got.rows[good], trace.line.at(trace.kinks[got.index[good]])
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            self._seen = self._seen.join(First(rows, -(rows * at).sum(1), got.error[good]))
            self._seen = self._seen.take(np.argsort(self._seen.error, kind="stable"))
        self.first = self._centred(self._seen.take(self._everywhere(self._seen)))

    def _centred(self, found: First) -> First:
        """Offsets from the kink nearest to the middle of the space, where an error of the row counts least."""
        offsets, least = found.offsets.copy(), np.full(len(found), np.inf)
        for trace in self.traces:
            at = _place(trace, found.crossings(trace.line))
            for m in np.flatnonzero(at >= 0):
                u = trace.line.at(trace.kinks[[at[m]]])[0]
                if (far := float(u @ u)) < least[m]:
                    least[m], offsets[m] = far, -float(found.rows[m] @ u)
        return replace(found, offsets=offsets)

    def _explained(self, trace: Trace, known: dict[int, int], u: Floats) -> Floats:
        """The part (k, d) of the slopes at a point of a line that known units have added since its start."""
        direction = trace.line.direction
        t = (u - trace.line.origin) @ direction / (direction @ direction)
        kinks = [k for k in known if trace.kinks[k] < t]
        rows = self.first.rows[[known[k] for k in kinks]]
        return np.asarray(trace.jumps[kinks].T @ (rows / (rows @ direction)[:, None]))

    def _everywhere(self, seen: First) -> Bools:
        """Which hyperplanes bend most lines that they cross, each counted once.

        A piece of a later layer's boundary lies on another hyperplane in every region of the first.
        """
        resolved = [trace.line for trace in self.traces if trace.resolved]
        crossed = np.array(
            [np.abs(seen.rows @ line.direction) > 1e-6 * np.linalg.norm(line.direction) for line in resolved]
        )
        places = np.array([_place(trace, seen.crossings(trace.line)) for trace in self.traces if trace.resolved])
        places = np.where(crossed, places, -1)
        good = ((places >= 0).sum(0) >= _HITS) & ((places >= 0).sum(0) >= _EVERYWHERE * crossed.sum(0))
        same = ((places[:, :, None] == places[:, None]) & (places >= 0)[:, None]).sum(0) >= _HITS
        good &= ~np.tril(same & good, -1).any(1)
        return np.asarray(good)

    def complete(self) -> bool:
        """Whether answers do not change where no known unit does: a few queries."""
        rows = self.first.rows
        if not len(rows) or len(rows) > rows.shape[1]:
            return False
        back = self.first.inverse()
        far = np.geomspace(1, 1000, _PROBES)[:, None]
        u, v = far * self._rng.standard_normal((2, _PROBES, rows.shape[1]))
        beside = v - v @ rows.T @ back.T
        y = self.scores.ask(np.concatenate([u, u + beside, u + v]), keep=False).reshape(3, _PROBES, -1)
        seen = np.isfinite(y).all((0, 2))
        moved, beside_moved = (np.abs(y[i, seen] - y[0, seen]).max(1) for i in (2, 1))
        noise = self.scores.noise_at(u[seen], y[0, seen])
        return bool(seen.any() and (beside_moved <= np.maximum(_STILL * moved, _SLACK * noise)).all())

    def orient(self) -> bool:
        """Turn each unit to its active side: on the other one its sum changes nothing. Whether all were told apart."""
        n, back = len(self.first), self.first.inverse()
        spread = 1 + float(np.median(np.abs(self.first.offsets)))
        sign = np.zeros(n)
        for _ in range(6):
            open_units = np.flatnonzero(sign == 0)
            if not len(open_units):
                break
            z = np.repeat(spread * self._rng.standard_normal((len(open_units), 1, n)), 4, 1)
            z[np.arange(len(open_units)), :, open_units] = spread * np.array([-2.0, -1.0, 1.0, 2.0])
            u = (z.reshape(-1, n) - self.first.offsets) @ back.T
            y = self.scores.ask(u, keep=False).reshape(len(open_units), 4, -1)
            below, above = (np.abs(y[:, i + 1] - y[:, i]).max(1) for i in (0, 2))
            sign[open_units] = np.where(below <= _SILENT * above, 1.0, np.where(above <= _SILENT * below, -1.0, 0.0))
        sign_or = np.where(sign == 0, 1.0, sign)
        self.first = replace(self.first, rows=self.first.rows * sign_or[:, None], offsets=self.first.offsets * sign_or)
        return bool((sign != 0).all())


def _place(trace: Trace, t: Floats) -> np.ndarray:
    """For predicted kinks at t: the index of the kink of a trace at that place, or -1."""
    if not len(trace.kinks):
        return np.full(len(t), -1)
    s, kinks = trace.line.coordinate(t), trace.line.coordinate(trace.kinks)
    near = _NEAR * np.ptp(trace.line.coordinate(np.array([trace.line.low, trace.line.high])))
    apart = np.abs(s[:, None] - kinks)
    return np.where(apart.min(1) <= near, apart.argmin(1), -1)
