"""What an attack on scores has bought so far, what the answers say of themselves, and which points to ask for next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.attacks._frame import Frame
from understudy.protocols import Metered
from understudy.types import Bools, Box, Floats, Signal

Ints = NDArray[np.int64]

_SATURATED = 1e-9  # closer than this to 1, a largest probability says nothing


class Spent(Exception):
    """The budget does not hold the next batch; nothing of it was asked."""


@dataclass(frozen=True)
class Precision:
    """How fine answers are: rounded to `decimals`, or floats of a relative precision."""

    decimals: int | None
    relative: float

    @classmethod
    def of(cls, values: Floats) -> Precision:
        """The coarsest grid that holds every value that is not 0 or 1; no such value: no decimals."""
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
    """Points in frame coordinates and their answers. Asking adds to both; check answers are kept apart.

    Nothing is ever asked beyond what remains of the budget: of a longer list the first points are asked.
    """

    def __init__(self, target: Metered, frame: Frame) -> None:
        given = target.exposure.signals
        self.target, self.frame, self.outputs = target, frame, target.exposure.outputs
        order = (Signal.VALUE, Signal.LOGITS, Signal.PROBABILITIES)
        self.signal = next(s for s in order if s in given)
        self.u = np.zeros((0, frame.d))
        self.y = np.zeros((0, self.outputs))
        self.mask = np.zeros((0, self.outputs), np.bool_)
        self.checks = 0  # queries that no equation was made of
        self.deterministic, self.noise, self.mislabelled = True, 0.0, False
        low, high = np.full(frame.d, -np.inf), np.full(frame.d, np.inf)
        if isinstance(frame.space, Box):
            low, high = frame.space.low.reshape(frame.d), frame.space.high.reshape(frame.d)
        self._low, self._high = (low - frame.middle) / frame.half, (high - frame.middle) / frame.half

    # asking

    def ask(self, u: Floats) -> int:
        """Buy equations; returns how many."""
        u, y, mask = self._query(u)
        self._keep(u, y, mask)
        return len(u)

    def check(self, u: Floats) -> tuple[Floats, Floats, Bools]:
        """Buy answers that nothing is fitted to: (points, answers, given)."""
        u, y, mask = self._query(u)
        self.checks += len(u)
        return u, y, mask

    def repeat(self, u: Floats) -> None:
        """Ask each point twice: are answers deterministic, and if not, how noisy? The first answer is an equation."""
        n = min(len(u), self.target.remaining // 2)
        asked, y, mask = self._query(np.concatenate([u[:n], u[:n]]))
        if len(asked) < 2 * n or not n:
            return
        self.checks += n
        if not (np.array_equal(y[:n], y[n:]) and np.array_equal(mask[:n], mask[n:])):
            self.deterministic = False
            both = mask[:n] & mask[n:]
            self.noise = float(np.sqrt(((y[:n] - y[n:])[both] ** 2).mean() / 2)) if both.any() else 0.0
        self._keep(asked[:n], y[:n], mask[:n])

    def _keep(self, u: Floats, y: Floats, mask: Bools) -> None:
        self.u, self.y = np.concatenate([self.u, u]), np.concatenate([self.y, y])
        self.mask = np.concatenate([self.mask, mask])

    def _query(self, u: Floats) -> tuple[Floats, Floats, Bools]:
        u = u[: max(self.target.remaining, 0)]
        if not len(u):
            return u, np.zeros((0, self.outputs)), np.zeros((0, self.outputs), np.bool_)
        x = self.frame.inputs(u)
        answers = self.target.query(x)
        y, mask = np.asarray(answers[self.signal], np.float64), answers.mask(self.signal)
        if self.signal is Signal.PROBABILITIES and ((y < 0) | (y > 1))[mask].any():
            self.mislabelled = True
        if self.outputs == 2 and self.signal is Signal.PROBABILITIES and not self.mislabelled:
            y, mask = np.where(mask, y, 1 - y[:, ::-1]), mask | mask[:, ::-1]  # one of two tells the other
        return (x.reshape(len(x), -1) - self.frame.middle) / self.frame.half, y, mask  # u as it was after rounding

    # what is known

    def rows(self) -> tuple[Floats, Floats, Bools]:
        """X (n, d + 1) with a trailing one, answers, given."""
        return widen(self.u), self.y, self.mask

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
    def quantum(self) -> float:
        """Step of the grid that answers lie on; 0 for floats and for noisy answers."""
        return self.precision.quantum if self.deterministic else 0.0

    @property
    def shown(self) -> int:
        """Entries per answer."""
        return int(self.mask.sum(1).max())

    @property
    def full(self) -> bool:
        """Whether every class is given, as floats or too few to tell, the same each time."""
        few = len(np.unique(self.y[self.mask & (self.y != 0) & (np.abs(self.y) != 1)])) < 2
        return bool(self.mask.all()) and self.deterministic and (few or self.precision.is_float)

    def top(self) -> Floats:
        """The largest given entry of each row."""
        return np.asarray(np.where(self.mask, self.y, 0).max(1))

    def labels(self) -> Ints:
        """The class of each row."""
        return np.asarray(np.where(self.mask, self.y, -np.inf).argmax(1))

    def usable(self) -> Bools:
        """Rows whose log-ratios keep enough digits. Of two classes one is often computed as 1 - p, and loses them."""
        least = 1e-5 if self.outputs == 2 else 1e-250
        return np.asarray(((self.y > least) & self.mask).all(1))

    # where to ask next

    def inside(self, u: Floats) -> Floats:
        """Points moved into the space where a coordinate is bounded."""
        return np.clip(u, self._low, self._high)

    def spread(self, n: int, rng: Generator) -> Floats:
        """Points all over the space, half of them the attacker's rows, some drawn in towards the middle."""
        radius = rng.choice([1.0, 0.5, 0.25], (n, 1))
        return self.inside(self.frame.sample(n, rng) * radius)

    def near(self, base: Floats, n: int, rng: Generator, least: float = 0.2) -> Floats:
        """Points around the base, `least` to all of the way to a uniform point of the box."""
        uniform = rng.uniform(-1, 1, (n, self.frame.d))
        radius = rng.uniform(least, 1.0, (n, 1))
        return self.inside(base + radius * (uniform - base * self.frame.bounded))

    def contested(self, theta: Floats, n: int, widths: tuple[float, float], shift: bool, rng: Generator) -> Floats:
        """Points all over the space where a model expects unsaturated answers, every class in turn among the largest.

        A model's c scores fix only c of d directions. So a point is drawn anywhere and moved, as little as possible,
        to where its scores are normal draws of a width from `widths`: it stays far out, where an answer says most
        about the weights, and its answer is still in play. `shift`: a common constant of the scores means nothing.
        """
        weights, bias = theta[:, :-1], theta[:, -1]
        width = np.exp(rng.uniform(np.log(widths[0]), np.log(widths[1]), (n, 1)))
        goal = width * rng.standard_normal((n, len(theta)))
        if shift:
            weights, bias, goal = weights - weights.mean(0), bias - bias.mean(), goal - goal.mean(1, keepdims=True)
        else:
            goal = goal - 1
        if not np.abs(weights).max() > 0:
            return self.spread(n, rng)
        back = np.linalg.pinv(weights, rcond=1e-2)
        u = self.frame.sample(n, rng)
        for _ in range(4):
            u = self.inside(u + (goal - u @ weights.T - bias) @ back.T)
        return u


def widen(u: Floats) -> Floats:
    """Points with a trailing one for the bias."""
    return np.hstack([u, np.ones((len(u), 1))])


def find_base(bought: Bought, limit: float, rng: Generator) -> Floats:
    """A point (1, d) where full float answers are not saturated; every query on the way is kept as an equation.

    The centre, if its largest entry is at most `limit`; else the least saturated of a few points and corners, more of
    them while all are one class; else bisection between two that are answered differently, which ends where two classes
    are about as likely.
    """
    if bought.top()[0] <= min(limit, 1 - _SATURATED):
        return bought.u[:1]
    for _ in range(4):
        few = min(5, bought.target.remaining // 16)
        bought.ask(bought.frame.sample(few, rng))
        bought.ask(bought.frame.corners(few, rng))  # rare classes lie far out
        if bought.top().min() <= limit or len(np.unique(bought.labels())) > 1:
            break
    for _ in range(60):
        best = int(bought.top().argmin())
        if bought.top()[best] <= min(limit, 0.99):
            break
        labels = bought.labels()
        others = np.flatnonzero(labels != labels[-1])
        if not len(others) or bought.target.remaining < 4:
            break
        gap = np.linalg.norm(bought.u[others] - bought.u[-1], axis=1)
        bought.ask((bought.u[-1:] + bought.u[others[int(gap.argmin())]][None]) / 2)
    return np.asarray(bought.u[int(bought.top().argmin())][None])
