"""When queries were asked, whatever they held: what is left to watch where inputs are not kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from understudy.types import Array, Floats
from understudy.views.base import Arrays, Bools, Floats32, Kind, Own, View

_DAY = 86_400


@dataclass(frozen=True, slots=True, eq=False)
class Clock(Arrays):
    """Times as a form of input, Unix seconds (n,). Kept of each: the day, and the second of it to about 8 ms."""

    kind: ClassVar[Kind] = "traffic"
    singly: ClassVar[bool] = False

    @property
    def columns(self) -> int:
        """Day and second."""
        return 2

    def takes(self, shape: tuple[int, ...]) -> bool:
        """One number."""
        return shape == ()

    def view(self, inputs: Array, labels: NDArray[np.int64], margin: Floats, ring: Floats32 | None = None) -> View:
        """Times (n,) as detectors see them; a time that is not known is NaN."""
        at = np.asarray(inputs, np.float64)
        own = np.stack([at // _DAY, at % _DAY], 1).astype(np.float32)
        return View(self, at, own, own, labels, margin)

    def compare(self, ring: Floats32, rows: Floats32) -> Own:
        """Beside earlier times; nothing here is a repeat."""
        n = len(rows)
        nowhere, far = np.full(n, -1), np.full(n, np.inf)
        return Own(
            *(rows, np.concatenate([ring, rows]), nowhere, far, len(ring) + np.arange(n)),
            repeat=np.zeros(n, np.bool_),
            fresh=np.ones(n, np.bool_),
        )

    def outside(self, view: View) -> Bools:
        """Nothing is."""
        return np.zeros(len(view), np.bool_)


def seconds(kept: Floats32) -> Floats:
    """Unix seconds (m,) of kept rows, never running backwards."""
    at = kept[:, 0].astype(np.float64) * _DAY + kept[:, 1]
    return np.maximum.accumulate(at) if np.isfinite(at).all() else np.full(len(at), np.nan)


def hours(kept: Floats32) -> NDArray[np.int64]:
    """(m,) hours of the day, UTC; -1 where the time is not known."""
    return np.where(np.isfinite(kept[:, 1]), kept[:, 1] // 3600, -1).astype(np.int64)
