"""One hidden ReLU layer from its kinks: scan lines, solve between Jacobians, keep what another line confirms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from understudy.attacks._jacobians import Jacobian, Rows, Windows, plan, solve_windows
from understudy.attacks._kinks import Line, Scan, Trace, match
from understudy.attacks._lines import long_line
from understudy.attacks._relu_net import Net, Units, assemble, misfit
from understudy.attacks._scores import Scores
from understudy.types import Bools, Floats

_SCALE = 1e-3  # a row whose slope along its own line differs so much from the measured jump is wrong
_MOST = 40  # queries per kink at which a scan is given up, for the most kinks there may be
_IDLE = 2  # rounds in a row that confirm nothing new, after which another line is scanned
_EARNED = 2.0  # fruitless rounds that a new line makes up for
_TRIES = 3  # times that one line is solved at most
_COMPLETE = 1e-5  # relative error on answers already bought that a complete network leaves at most


@dataclass(frozen=True)
class Limits:
    """How long to go on: lines at first and at most, how many in a row without a new unit end it, and kinks on one."""

    first: int = 2
    lines: int = 8
    quiet: int = 0
    kinks: int = 2000


class OneLayer:
    """The attack's state: traces of scanned lines, confirmed units, Jacobians taken."""

    def __init__(self, scores: Scores, limits: Limits) -> None:
        self.scores, self._limits = scores, limits
        self.traces: list[Trace] = []
        self.jacobians: list[Jacobian] = []
        self.units = Units.none(scores.k, scores.frame.d)
        self.net: Net | None = None

    def run(self, rng: Generator) -> Net | None:
        """Scan and solve until the network explains every answer bought, or the lines are used up; raises Spent."""
        idle, quiet, tried = 0.0, 0, np.zeros(self._limits.lines)
        while len(self.traces) < self._limits.first:
            self.scan(rng)
        while not (complete := self.complete()) or quiet < self._limits.quiet:
            before = len(self.units)
            todo = [] if complete else [job for job in self._open() if tried[job[0]] < _TRIES]
            if todo and idle < _IDLE:
                i, unknown, windows = min(todo, key=lambda job: (1 + tried[job[0]]) * job[2].cost / job[1].sum())
                tried[i] += 1
                self._solve(i, unknown, windows, rng)
                idle, quiet = (0, 0) if len(self.units) > before else (idle + 1, quiet)
            elif len(self.traces) < self._limits.lines and quiet < (self._limits.quiet or self._limits.lines):
                self.scan(rng)
                idle, quiet = max(0.0, idle - _EARNED), quiet + 1
            else:
                break
        return self.net

    def scan(self, rng: Generator) -> None:
        """Scan one more line."""
        self.traces.append(self.scanned(self._line(rng)))

    def scanned(self, line: Line) -> Trace:
        """The kinks of a line."""
        most = _MOST * self._limits.kinks
        return Scan(self.scores.ask, self.scores.noise_at, line, check=self.scores.k == 1, most=most).run()

    def _line(self, rng: Generator) -> Line:
        return long_line(self.scores, rng)

    def complete(self) -> bool:
        """Put the network together; whether it explains every answer bought so far."""
        if not self.jacobians:
            return False
        u, y = self.scores.u, self.scores.y
        noise = self.scores.noise_at(u, y)
        seen = min(self.jacobians, key=lambda j: j.error if j.sound else np.inf)
        self.net = assemble(self.units, seen, u, y, noise)
        return bool(misfit(self.net, u, y, noise).max() <= _COMPLETE)

    def explained(self, trace: Trace) -> Bools:
        """(n,) which kinks of a line belong to confirmed units."""
        found = np.zeros(len(trace.kinks), np.bool_)
        at = match(trace, *self.units.crossings(trace.line))
        found[at[at >= 0]] = True
        return found

    def _open(self) -> list[tuple[int, Bools, Windows]]:
        """Lines with kinks that no unit explains, and what it would take to solve those."""
        jobs = []
        for i, trace in enumerate(self.traces):
            unknown = ~self.explained(trace)
            if unknown.any():
                windows = plan(trace, unknown, self._directions(i), most=self.scores.k)
                jobs.append((i, unknown, windows))
        return jobs

    def _directions(self, i: int) -> Floats:
        """(n, k) fingerprints of a line's kinks, each in the most precise copy that any line holds."""
        trace = self.traces[i]
        best, error = trace.fingerprints.copy(), trace.error.copy()
        if self.scores.k < 3:
            return best
        for j, other in enumerate(self.traces):
            if j == i or not len(other.kinks):
                continue
            apart = np.linalg.norm(best[:, None] - other.fingerprints[None], axis=2)
            close = apart.argmin(1)
            same = apart.min(1) <= np.maximum(1e-6, 30 * (error + other.error[close]))
            better = same & (other.error[close] < error)
            best[better], error[better] = other.fingerprints[close[better]], other.error[close[better]]
        return best

    def _solve(self, i: int, unknown: Bools, windows: Windows, rng: Generator) -> None:
        """Solve a line's windows and keep the units that are confirmed."""
        directions = self._directions(i)
        got = solve_windows(self.scores, self.traces[i], windows, unknown, directions, rng, self.units.slopes)
        self.jacobians += got.taken.values()
        self._keep(i, directions, got)

    def _keep(self, i: int, directions: Floats, got: Rows) -> None:
        """Keep the units of a line that are confirmed by another, or alone and of the size that the line shows."""
        trace = self.traces[i]
        at = trace.line.at(trace.kinks[got.index])
        units = Units(directions[got.index], got.rows, -(got.rows * at).sum(1))
        rate, size = got.rows @ trace.line.direction, trace.sizes[got.index]
        good = np.isfinite(got.error) & (np.abs(rate - size) <= _SCALE * size)
        units = units.take(good)
        confirmed, refuted = self._judge(i, units)
        alone = ~confirmed & ~refuted & (np.abs(rate - size)[good] <= 1e-6 * size[good])
        self.units = self.units.join(self._centred(units.take(confirmed | alone)))

    def _judge(self, i: int, units: Units) -> tuple[Bools, Bools]:
        """Units that another line confirms, and units that one refutes: it has no kink where they say."""
        confirmed, refuted = np.zeros(len(units), np.bool_), np.zeros(len(units), np.bool_)
        for j, other in enumerate(self.traces):
            if j == i or not other.resolved:
                continue
            t, jumps = units.crossings(other.line)
            within = (t > other.line.low) & (t < other.line.high)
            hit = match(other, t, jumps) >= 0
            confirmed |= within & hit
            refuted |= within & ~hit
        return confirmed, refuted

    def _centred(self, units: Units) -> Units:
        """Offsets from the kink nearest to the middle of the space, where an error of the row counts least."""
        offsets, least = units.offsets.copy(), np.full(len(units), np.inf)
        for trace in self.traces:
            at = match(trace, *units.crossings(trace.line))
            for m in np.flatnonzero(at >= 0):
                u = trace.line.at(trace.kinks[[at[m]]])[0]
                if (far := float(u @ u)) < least[m]:
                    least[m], offsets[m] = far, -(units.rows[m] @ u)
        return Units(units.directions, units.rows, offsets)
