"""Where a training attack takes its inputs from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator

from understudy.errors import UsageError
from understudy.protocols import Target
from understudy.texts import array
from understudy.types import Array, Bools, Floats, Signal, Space, Text


class Source:
    """Where inputs come from: the pool, then crossings of its rows, or the space where there is no pool."""

    def __init__(self, space: Space, rows: Floats) -> None:
        self._space, self._rows, self._left = space, rows, rows
        if isinstance(space, Text) and len(rows) < 2:
            raise UsageError("texts cannot be made up: give the attacker a pool of them")

    def draw(self, n: int, rng: Generator, substitute: Target | None) -> tuple[Floats, Bools]:
        """`n` inputs, and which of them are the pool's own rows.

        With a substitute, those it is least certain of: among the pool's rows, then among 5 n crossings.
        """
        chosen = _least_certain(self._left, n, substitute)
        own, self._left = self._left[chosen], np.delete(self._left, chosen, 0)
        more = n - len(own)
        crossed = self._crossings(more if substitute is None else 5 * more, rng)
        crossed = crossed[_least_certain(crossed, more, substitute)]
        return np.concatenate([own, crossed]), np.arange(n) < len(own)

    def _crossings(self, n: int, rng: Generator) -> Array:
        """Rows of the pool with some coordinates, up to half, taken from another row."""
        if len(self._rows) < 2:
            return self._space.sample(n, rng)
        a, b = self._rows[rng.integers(len(self._rows), size=(2, n))]
        if isinstance(self._space, Text):
            return _spliced(a, b, self._space.longest, rng)
        share = rng.uniform(0, 0.5, (n, *([1] * (a.ndim - 1))))
        return np.asarray(np.where(rng.random(a.shape) < share, b, a))

    def describe(self, own: Bools) -> str:
        """For the report."""
        if own.all():
            return "pool"
        rest = "pool rows crossed" if len(self._rows) > 1 else "space"
        return f"pool ({own.sum()}), then {rest}" if own.any() else rest


def _spliced(a: Array, b: Array, longest: int, rng: Generator) -> Array:
    """(n,) the first words of each text of `a` and the last of its partner in `b`, half of each more or less."""
    made = []
    for one, other, share in zip(a.tolist(), b.tolist(), rng.uniform(0.2, 0.8, len(a)), strict=True):
        first, last = one.split(), other.split()
        words = first[: round(share * len(first))] + last[round(share * len(last)) :]
        made.append(" ".join(words)[:longest] or one)
    return array(made)


def _least_certain(inputs: Floats, n: int, substitute: Target | None) -> Any:
    """Indices of up to `n` rows: the smallest gaps between the two largest probabilities, else the first."""
    if (
        substitute is None
        or len(inputs) <= n
        or substitute.exposure.outputs < 2
        or Signal.PROBABILITIES not in substitute.exposure.signals
    ):
        return np.arange(min(n, len(inputs)))
    two = np.sort(substitute.query(inputs)[Signal.PROBABILITIES], axis=1)[:, -2:]
    return np.argsort(two[:, 1] - two[:, 0], kind="stable")[:n]
