"""What an attack on scores has bought so far, and what the answers say of themselves: precision, determinism, kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from understudy.attacks._frame import Frame
from understudy.attacks._solvers import Link, probabilities
from understudy.protocols import Metered
from understudy.types import Bools, Floats, Signal

_SATURATED = 1e-9  # closer than this to 1, a largest probability says nothing


@dataclass(frozen=True)
class Precision:
    """How fine answers are: rounded to `decimals`, or floats of a relative precision."""

    decimals: int | None
    relative: float

    @classmethod
    def of(cls, values: Floats) -> Precision:
        """The coarsest grid that holds every value that is not 0 or 1."""
        telling = values[(values != 0) & (np.abs(values) != 1)]
        if not len(telling):
            return cls(0, 1.0)
        for decimals in range(11):
            if (np.abs(telling - np.round(telling, decimals)) <= 1e-14 * np.maximum(np.abs(telling), 1)).all():
                return cls(decimals, 10.0**-decimals)
        if (telling == telling.astype(np.float32)).all():
            return cls(None, 2.0**-24)
        return cls(None, 2.0**-53)

    @property
    def is_float(self) -> bool:
        return self.decimals is None

    @property
    def quantum(self) -> float:
        """Width of one step of the grid; 0 for floats."""
        return 0.0 if self.decimals is None else 10.0**-self.decimals

    def __str__(self) -> str:
        if self.decimals is not None:
            return f"{self.decimals} decimals"
        return "float32" if self.relative > 1e-10 else "float64"


class Bought:
    """Points in frame coordinates and their answers. Asking adds to both; check answers are kept apart."""

    def __init__(self, target: Metered, frame: Frame) -> None:
        given = target.exposure.signals
        self.target, self.frame, self.outputs = target, frame, target.exposure.outputs
        order = (Signal.VALUE, Signal.LOGITS, Signal.PROBABILITIES)
        self.signal = next(s for s in order if s in given)
        self.u = np.zeros((0, frame.d))
        self.y = np.zeros((0, self.outputs))
        self.mask = np.zeros((0, self.outputs), np.bool_)
        self.deterministic, self.noise, self.mislabelled = True, 0.0, False

    def ask(self, u: Floats) -> None:
        """Buy answers. The first call asks one point twice: that is the test for determinism."""
        if not len(u):
            return
        first = not len(self.u)
        y, mask = self._query(u)
        if first and len(u) > 1:
            self.deterministic = bool(np.array_equal(y[0], y[1]) and np.array_equal(mask[0], mask[1]))
            self.noise = float(np.abs(y[0] - y[1]).max())
            u, y, mask = u[1:], y[1:], mask[1:]
        self.u, self.y = np.concatenate([self.u, u]), np.concatenate([self.y, y])
        self.mask = np.concatenate([self.mask, mask])

    def check(self, u: Floats) -> tuple[Floats, Bools]:
        """Buy answers that nothing is fitted to: (answers, given)."""
        if not len(u):
            return np.zeros((0, self.outputs)), np.zeros((0, self.outputs), np.bool_)
        return self._query(u)

    def _query(self, u: Floats) -> tuple[Floats, Bools]:
        answers = self.target.query(self.frame.inputs(u))
        y, mask = np.asarray(answers[self.signal], np.float64), answers.mask(self.signal)
        if self.signal is Signal.PROBABILITIES and ((y < 0) | (y > 1))[mask].any():
            self.mislabelled = True
        if self.outputs == 2 and self.signal is Signal.PROBABILITIES and not self.mislabelled:
            y, mask = np.where(mask, y, 1 - y[:, ::-1]), mask | mask[:, ::-1]  # one of two tells the other
        return y, mask

    def rows(self) -> tuple[Floats, Floats, Bools]:
        """X (n, d + 1) with a trailing one, answers, given."""
        return np.hstack([self.u, np.ones((len(self.u), 1))]), self.y, self.mask

    @property
    def value(self) -> bool:
        return self.signal is Signal.VALUE

    @property
    def linear(self) -> bool:
        """Whether the scores are linear as they stand: values, logits, or logits that are called probabilities."""
        return self.signal is not Signal.PROBABILITIES or self.mislabelled

    @property
    def precision(self) -> Precision:
        return Precision.of(self.y[self.mask])

    @property
    def shown(self) -> int:
        """Entries per answer."""
        return int(self.mask.sum(1).max())

    @property
    def full(self) -> bool:
        """Whether every class is given, as floats, the same each time."""
        return bool(self.mask.all()) and self.deterministic and (self.precision.is_float or self.unknown_precision)

    @property
    def unknown_precision(self) -> bool:
        """Too few answers that are not 0 or 1 to know."""
        inside = self.y[self.mask & (self.y > 0) & (self.y < 1)]
        return len(np.unique(inside)) < 2

    def top(self) -> Floats:
        """The largest given entry of each row."""
        return np.asarray(np.where(self.mask, self.y, 0).max(1))

    def unsaturated(self) -> Bools:
        """Rows whose given entries say something of the logits."""
        step = max(self.precision.quantum, _SATURATED)
        top = self.top()
        return np.asarray((top <= 1 - step) & (top > 0))

    def usable(self) -> Bools:
        """Rows whose log-ratios keep enough digits. Of two classes one is often computed as 1 - p, and loses them."""
        least = 1e-5 if self.outputs == 2 else 1e-250
        return np.asarray(((self.y > least) & self.mask).all(1))

    def informative(self, theta: Floats, link: Link, n: int, rng: Generator) -> Floats:
        """Points where a fitted model expects unsaturated answers, as many for each largest class.

        With k of c entries per answer a class is learned only where it is among them, and only where it is contested.
        """
        u = rng.uniform(-1, 1, (20 * n + 200, self.frame.d)) * rng.choice([1.0, 0.8, 0.6], (20 * n + 200, 1))
        p = probabilities(theta, np.hstack([u, np.ones((len(u), 1))]), link)
        top, label = p.max(1), p.argmax(1)
        order = np.lexsort((rng.random(len(u)), top > 0.95))
        rank = np.empty(len(u), np.intp)
        for k in range(self.outputs):
            mine = order[label[order] == k]
            rank[mine] = np.arange(len(mine))
        return np.asarray(u[np.argsort(rank, kind="stable")[:n]])

    def sample(self, n: int, rng: Generator) -> Floats:
        """Points spread over the frame, half of them the attacker's rows."""
        return self.frame.sample(n, rng)

    def near(self, base: Floats, n: int, radius: float, rng: Generator) -> Floats:
        """Points around the base, `radius` of the way to a uniform point of the box: always inside."""
        uniform = rng.uniform(-1, 1, (n, self.frame.d))
        return np.asarray(base + radius * (uniform - base * self.frame.bounded))

    def pilot(self, base: Floats, n: int, rng: Generator) -> float:
        """The radius at which a few answers say most. The answers are kept."""
        radii, values = (1.0, 0.4, 0.15), []
        for radius in radii:
            before = len(self.u)
            self.ask(self.near(base, min(n, self.target.remaining), radius, rng))
            values.append(radius * _sensitivity(self.y[before:], self.mask[before:]))
        return _smallest_good(radii, values)

    def best_radius(self, base: Floats, theta: Floats, link: Link, rng: Generator) -> float:
        """As `pilot`, from a fitted model instead of queries."""
        radii = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02)
        values = []
        for radius in radii:
            u = self.near(base, 200, radius, rng)
            p = probabilities(theta, np.hstack([u, np.ones((200, 1))]), link)
            k = self.shown
            shown = p >= np.partition(p, -k, axis=1)[:, -k, None] if k < self.outputs else np.ones_like(p, np.bool_)
            values.append(radius * _sensitivity(p, shown))
        return _smallest_good(radii, values)


def _sensitivity(p: Floats, mask: Bools) -> float:
    """How far given entries move with their logits, on average: p (1 - p)."""
    return float(np.where(mask, p * (1 - p), 0).sum(1).mean()) if len(p) else 0.0


def _smallest_good(radii: Sequence[float], values: Sequence[float]) -> float:
    """The smallest radius whose signal is near the best: few equations want even information, not a few sharp rows."""
    return min(r for r, v in zip(radii, values, strict=True) if v >= 0.85 * max(values))


def find_base(bought: Bought, limit: float, rng: Generator) -> Floats:
    """A point (1, d) where the answers are not saturated; every query on the way is kept as an equation.

    The centre, if its largest entry is at most `limit`; else the least saturated of a few spread points; else
    bisection between two that are answered differently, which ends where two classes are about as likely.
    """
    if bought.unsaturated()[0] and bought.top()[0] <= limit:
        return bought.u[:1]
    n = min(10, bought.target.remaining // 8)
    if n < 1:
        return bought.u[:1]
    bought.ask(bought.sample(n, rng))
    for _ in range(60):
        best = int(bought.top().argmin())
        if bought.unsaturated()[best] and bought.top()[best] <= min(limit, 0.99):
            break
        labels = np.where(bought.mask, bought.y, -np.inf).argmax(1)
        others = np.flatnonzero(labels != labels[-1])
        if not len(others) or bought.target.remaining < 4:
            break
        gap = np.linalg.norm(bought.u[others] - bought.u[-1], axis=1)
        bought.ask((bought.u[-1:] + bought.u[others[int(gap.argmin())]][None]) / 2)
    return np.asarray(bought.u[int(bought.top().argmin())][None])
