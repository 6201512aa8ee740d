"""What a leak meter's readings are worth, from trained copies that they were held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from understudy.types import Array, Estimate, Floats

PARTS = ("sizes", "lift", "squares")


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What meter readings turned out to be worth: how far trained copies of so many queries (`sizes`) lie above it, the
    `lift`, and the mean `squares` of the errors left on families that it was not learned from; `error`: of all.
    """

    sizes: Floats
    lift: Floats
    squares: Floats
    error: float

    @classmethod
    def learn(cls, short: Floats, n: Floats, family: Array) -> Self:
        """Of `short` (sets,), what the meter fell short by; with the number of queries `n` the lift never falls, and
        the error never grows.
        """
        wrong = np.zeros(len(short))
        for name in set(family):
            out = family == name
            sizes, lift = _steady(n[~out], short[~out], True)
            wrong[out] = np.interp(np.log(n[out]), np.log(sizes), lift) - short[out]
        _, squares = _steady(n, wrong**2, False)
        return cls(*_steady(n, short, True), squares, float(np.sqrt((wrong**2).mean())))

    def told(self) -> str:
        """The error at each size, in words."""
        pairs = zip(self.sizes, np.sqrt(self.squares), strict=True)
        return ", ".join(f"{error:.3f} at {size:,.0f} queries" for size, error in pairs)

    def read(self, value: float, n: int, held: int) -> Estimate:
        """With a 90 % interval, for what is left of the error and for the hold-out's size; under the sizes that were
        tried nothing bounds it on either side, beyond them nothing from above.
        """
        at, sizes = np.log(max(n, 1)), np.log(self.sizes)
        real = float(np.clip(value + np.interp(at, sizes, self.lift), 0, 1))
        near = (real * held + 1) / (held + 2)
        off = 1.645 * float(np.sqrt(np.interp(at, sizes, self.squares) + near * (1 - near) / held))
        low = max(0.0, real - off) if n >= self.sizes[0] else 0.0
        return Estimate(real, low, min(1.0, real + off) if self.sizes[0] <= n <= self.sizes[-1] else 1.0, n)


def _steady(n: Floats, values: Floats, rises: bool) -> tuple[Floats, Floats]:
    """The sizes, and at each the mean of `values`, made never to fall, or never to rise."""
    from sklearn.isotonic import IsotonicRegression

    sizes = np.unique(n)
    return sizes, IsotonicRegression(increasing=rises).fit(n, values).predict(sizes)
