"""Coordinates in which a box looks like [-1, 1]^d, whatever its shape, scales and infinities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.protocols import Metered, Pool, Target
from understudy.types import Box, Floats, Space

_POOL_ROWS = 1000  # enough to learn scales from


@dataclass(frozen=True, eq=False)
class Frame:
    """x = middle + half * u, flat: u has shape (n, d). Bounded coordinates have |u| <= 1, unbounded ones any u."""

    space: Space
    middle: Floats
    half: Floats
    bounded: NDArray[np.bool_]
    data: Floats  # the attacker's rows in frame coordinates, (m, d)
    reach: float = 1.0  # how far unbounded coordinates are sampled

    @classmethod
    def of(cls, target: Target, pool: Pool, rng: Generator) -> Frame:
        """The frame of a target's space; unbounded coordinates are scaled by the attacker's rows, if any."""
        space = target.space
        d = int(np.prod(space.shape))
        rows = pool.draw(_POOL_ROWS, rng).reshape(-1, d)
        low, high = np.full(d, -np.inf), np.full(d, np.inf)
        if isinstance(space, Box):
            low, high = space.low.reshape(d), space.high.reshape(d)
        bounded = np.isfinite(low) & np.isfinite(high)
        spread = rows.std(0) if len(rows) > 1 else np.zeros(d)
        centre = rows.mean(0) if len(rows) else np.zeros(d)
        spread = np.where(spread > 0, 2 * spread, 1.0)
        half = np.where(bounded, (np.where(bounded, high, 1) - np.where(bounded, low, -1)) / 2, spread)
        # a half-bounded coordinate is centred far enough inside that |u| <= 1 stays inside
        inside = np.clip(
            centre, np.where(np.isfinite(low), low + half, -np.inf), np.where(np.isfinite(high), high - half, np.inf)
        )
        middle = np.where(bounded, (np.where(bounded, high, 1) + np.where(bounded, low, -1)) / 2, inside)
        return cls(space, middle, half, bounded, (rows - middle) / half)

    @property
    def d(self) -> int:
        return len(self.middle)

    def wider(self) -> Frame:
        """The same frame, sampled four times as far where there is no bound."""
        return replace(self, reach=4 * self.reach)

    def sample(self, n: int, rng: Generator) -> Floats:
        """`n` points: half of them the attacker's rows where there are any, the others uniform."""
        uniform = rng.uniform(-1, 1, (n, self.d)) * np.where(self.bounded, 1.0, self.reach)
        take = min(n // 2, len(self.data))
        uniform[:take] = self.data[rng.permutation(len(self.data))[:take]]
        return uniform

    def corners(self, n: int, rng: Generator) -> Floats:
        """`n` random corners of the box; where there is no bound, of the sampled part."""
        return rng.choice([-1.0, 1.0], (n, self.d)) * np.where(self.bounded, 1.0, self.reach)

    def inputs(self, u: Floats) -> Floats:
        """Frame points as inputs, the nearest that the space holds: (n, *shape)."""
        x = (self.middle + self.half * u).reshape(len(u), *self.space.shape)
        return self.space.nearest(x) if isinstance(self.space, Box) else x

    def labels(self, target: Metered, u: Floats) -> NDArray[np.int64]:
        """The answered classes at frame points."""
        return target.query(self.inputs(u)).labels()

    def weights(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """A linear model of frame coordinates as one of inputs."""
        scaled = weights / self.half
        return scaled, bias - scaled @ self.middle
