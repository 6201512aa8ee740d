"""One hidden ReLU layer inside a box: rays from one point to places where the network found so far is wrong.

Everything inside a box is seen from any point of it: a unit that is silent at one place and active at another bends one
of the two rays that lead there. So one Jacobian at the base of all rays serves every window that begins there, and what
a wrong answer costs to explain is one more Jacobian, for as many unknown units as there are scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from understudy.attacks._ends import Ends, wrong
from understudy.attacks._jacobians import Jacobian, Windows, jacobian, plan, solve_windows
from understudy.attacks._kinks import Line
from understudy.attacks._one_layer import Limits, OneLayer
from understudy.attacks._relu_net import Net, Units, assemble
from understudy.attacks._scores import Scores
from understudy.types import Bools, Floats

_INSIDE = 0.5  # how far from the middle, of the way to the walls, the base may lie
_ON_THE_WAY = (0.25, 0.5, 0.75, 0.9)  # places where it is looked whether the network is still right
_CONDITION = 150.0  # of one window
_TRIES, _IDLE = 3, 8  # of one ray, to one end; and rounds in a row without a new unit that end it all
_MOSTLY = 0.5  # of the ends unexplained when nothing more is found: no such network
_QUIET = 400  # ends in a row, and one for every input at least, that show nothing new when all is thought found
_STALE = 3  # batches of leaning corners in a row that are no better
_ALIKE = 1e-5  # distance of fingerprints that are one unit's
_NEARLY = 1e-4  # of a change of slopes may be left by units that are rough
_SHOWS = 1e-6  # share of an answer that an unknown unit must have to count


@dataclass(frozen=True, eq=False)
class Shares:
    """What wrong answers are made of: `parts` (n, m) of m unknown units with these fingerprints (m, k).

    `explained` (n,): these are all of it, or nothing is wrong.
    """

    fingerprints: Floats
    parts: Floats
    explained: Bools

    @property
    def load(self) -> np.ndarray:
        """(n,) unknown units that show at each end."""
        return np.asarray((self.parts > 0).sum(1))


class Star(OneLayer):
    """Rays from a base, the Jacobian there, and the ends that the network is tested at.

    `failed`: most answers at the ends are not explained, and nothing more could be found.
    """

    ends: Ends
    failed = False
    _base: Jacobian
    _start: Floats  # scores at the base

    def __init__(self, scores: Scores) -> None:
        super().__init__(scores, Limits())
        self._held: list[dict[int, Jacobian]] = []  # by ray and piece
        self._tried: list[int] = []
        self._visits: dict[int, int] = {}  # rays to each end

    def run(self, rng: Generator) -> Net | None:
        """Solve until many ends in a row show nothing new; raises Spent."""
        d = self.scores.frame.d
        if not self._settle(rng):
            return None
        idle, enough = 0, max(_QUIET, d)
        while idle < _IDLE:
            net = self._assembled()
            if not self._open_ends(net).any() and self.quiet() >= enough:
                break
            if self.quiet() < enough:
                self.ends.ask(self.ends.fresh(net, self._base.u, max(20, d // 20), rng))
            if not self._open_ends(net).any():
                continue
            before = len(self.units)
            self._search(net, d // 4, rng)
            self._solve_best(rng)
            idle = 0 if len(self.units) > before else idle + 1
        self.failed = bool(self.unexplained().mean() > _MOSTLY)
        return self.net

    def _settle(self, rng: Generator) -> bool:
        """Scan a line through the middle, and take the Jacobian in its widest piece there: the base of all rays."""
        self.ends = Ends(self.scores, rng)
        line = Line(np.zeros(self.scores.frame.d), self.ends.first(rng), -1.0, 1.0)
        trace = self.scanned(line)
        middle, room = trace.regions()
        for piece in np.argsort(np.where(np.abs(middle) < _INSIDE, -room, 0.0), kind="stable")[:_TRIES].tolist():
            at, length = line.at(middle[[piece]])[0], float(np.linalg.norm(line.direction))
            base = jacobian(self.scores, at, 0.4 * length * room[piece], rng, line.direction, trace.slopes[piece])
            if base.sound:
                self.traces.append(trace)
                self._held.append({piece: base})
                self._tried.append(0)
                self.jacobians.append(base)
                self._base, self._start = base, self.scores.ask(at[None])
                return True
        return False

    def quiet(self) -> int:
        """How many ends have been asked since one was the first to show a unit."""
        changed = np.argwhere(self.changed().T)  # by unit
        first = np.unique(changed[:, 0], return_index=True)[1]
        return len(self.ends) - 1 - int(changed[first, 1].max(initial=-1))

    def changed(self) -> Bools:
        """(n, m) which units are at each end not as they are at the base."""
        return np.asarray(self.units.on(self.ends.u) != self.units.on(self._base.u[None]))

    def unexplained(self) -> Bools:
        """(n,) ends at which the network is wrong."""
        return self.ends.wrong(self._assembled())

    def _open_ends(self, net: Net) -> Bools:
        """(n,) ends at which the network is wrong, but for those given up."""
        return self.ends.wrong(net) & ~self.ends.given_up

    def _assembled(self) -> Net:
        """The network of the units found: right at the base, whatever is still missing."""
        at = self._base.u[None]
        self.net = assemble(self.units, self._base, at, self._start, self.scores.noise_at(at, self._start))
        return self.net

    def _ray(self, end: Floats, start: float) -> None:
        """Scan from a share of the way on; up to there the network is right, so the base's Jacobian holds there."""
        base = self._base.u
        self.traces.append(self.scanned(Line(base, end - base, start, 1.0)))
        self._held.append({0: self._base})
        self._tried.append(0)

    def _visit(self, net: Net, end: int) -> None:
        """Scan towards an end, from where the network stops being right."""
        self._visits[end] = self._visits.get(end, 0) + 1
        self.ends.given_up[end] = self._visits[end] >= _TRIES
        t = np.array(_ON_THE_WAY)
        u = self._base.u + t[:, None] * (self.ends.u[end] - self._base.u)
        bad = wrong(self.scores, net, u, self.scores.ask(u))
        self._ray(self.ends.u[end], float(np.append(0.0, t)[bad.argmax() if bad.any() else len(t)]))

    def _search(self, net: Net, budget: int, rng: Generator) -> None:
        """Look for one ray that many unknown units bend, for less than a Jacobian costs.

        First rays to ends that unknown units seen so far do not explain; then corners that lean to where several of
        those show.
        """
        spent, stale = self.scores.target.spent, 0
        while (shares := self._shares(net)) is not None and stale < _STALE:
            odd = np.flatnonzero(~shares.explained & ~self.ends.given_up)
            best = int(shares.load.max(initial=0))
            if len(odd):
                visits = [self._visits.get(end, 0) for end in odd.tolist()]
                self._visit(net, int(odd[np.lexsort((-np.linalg.norm(self.ends.left(net)[odd], axis=1), visits))[0]]))
            elif best == len(shares.fingerprints):
                break
            else:
                self._lean(shares, rng)
                again = self._shares(net)
                stale = 0 if again is not None and again.load.max() > best else stale + 1
            if self.scores.target.spent - spent >= budget:
                break
        shares = self._shares(net)
        most = max(int(unknown.sum()) for unknown in self._unknown())
        if shares is not None and shares.load.max(initial=0) > most:
            self._visit(net, int(shares.load.argmax()))

    def _lean(self, shares: Shares, rng: Generator) -> None:
        """Ask at corners in directions that ends have in common at which an unknown unit shows, several units mixed."""
        shown = shares.parts > 0
        means = shown.T @ self.ends.u / np.maximum(shown.sum(0), 1)[:, None] - self.ends.u.mean(0)
        towards = means[shown.any(0)] / np.linalg.norm(means[shown.any(0)], axis=1)[:, None]
        weights = rng.exponential(size=(max(4, self.scores.frame.d // 40), len(towards)))
        self.ends.ask(self.ends.corners(weights @ towards, rng))

    def _unknown(self) -> list[Bools]:
        """For each ray the kinks that no unit explains; none where it was tried too often."""
        return [
            ~self.explained(trace) & (tried < _TRIES) for trace, tried in zip(self.traces, self._tried, strict=True)
        ]

    def _shares(self, net: Net) -> Shares | None:
        """What wrong answers are made of; None where rays show as many unknown units as there are scores, or more."""
        unknown, k = self._unknown(), self.scores.k
        prints = np.concatenate([self._directions(i)[u] for i, u in enumerate(unknown)])
        error = np.concatenate([trace.error[u] for trace, u in zip(self.traces, unknown, strict=True)])
        distinct: list[int] = []
        for i in np.argsort(error, kind="stable").tolist():
            if all(np.linalg.norm(prints[i] - prints[j]) > _ALIKE + 30 * error[i] for j in distinct):
                distinct.append(i)
        if len(distinct) >= k:
            return None
        prints, left = prints[distinct], self.ends.left(net)
        size, bad = np.abs(self.ends.y).max(1)[:, None], self._open_ends(net)
        if not len(prints):
            return Shares(prints, np.zeros((len(left), 0)), ~bad)
        back = np.linalg.pinv(prints)
        parts, least = left @ back, _SHOWS * np.linalg.norm(back, 2) * size
        fits = (np.abs(left - parts @ prints) <= _SHOWS * size).all(1) & (parts >= -least).all(1) & bad
        return Shares(prints, np.where(fits[:, None] & (parts > least), parts, 0.0), fits | ~bad)

    def _solve_best(self, rng: Generator) -> None:
        """Solve the ray that gives most units per Jacobian; the next one where that gave none."""
        before = len(self.units)
        while len(self.units) == before and (jobs := self._jobs()):
            _, i, unknown, windows = min(jobs, key=lambda job: job[0])
            self._tried[i] += 1
            directions, held = self._directions(i), self._held[i]
            got = solve_windows(self.scores, self.traces[i], windows, unknown, directions, rng, self.units.slopes, held)
            self.jacobians += got.taken.values()
            held |= {piece: bought for piece, bought in got.taken.items() if bought.sound}
            self._keep(i, directions, got)
            self._refine()

    def _refine(self) -> None:
        """All rows at once from all Jacobians that the units explain: solved one ray after another, errors add up."""
        known, base = self.units, self._base
        sound = [j for j in self.jacobians if j.sound and j is not base]
        if not sound or not len(known):
            return
        change = known.on(np.stack([j.u for j in sound])) - 1.0 * known.on(base.u[None])  # (n, m)
        moved = np.stack([j.matrix for j in sound]) - base.matrix  # (n, k, d)
        terms = change[:, None] * known.directions.T  # (n, k, m)
        left = moved - terms @ known.rows
        good = np.linalg.norm(left, axis=(1, 2)) <= _NEARLY * np.linalg.norm(moved, axis=(1, 2))
        weight = np.array([[[1 / (j.error + base.error)]] for j in sound])[good]
        if good.any():
            terms, left = (weight * terms[good]).reshape(-1, len(known)), (weight * left[good]).reshape(-1, len(base.u))
            better = known.rows + np.linalg.lstsq(terms, left, rcond=1e-9)[0]
            self.units = self._centred(Units(known.directions, better, known.offsets))

    def _jobs(self) -> list[tuple[float, int, Bools, Windows]]:
        """Price per unit, ray, its unknown kinks, and the windows."""
        jobs = []
        for i, unknown in enumerate(self._unknown()):
            if unknown.any():
                windows = plan(
                    self.traces[i],
                    unknown,
                    self._directions(i),
                    most=self.scores.k,
                    condition=_CONDITION,
                    held=self._held[i],
                    partly=True,
                )
                inside = sum(int(unknown[left:right].sum()) for left, right in windows.ends)
                jobs.append(((1 + self._tried[i]) * windows.cost / inside, i, unknown, windows))
        return jobs
