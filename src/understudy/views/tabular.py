"""Tabular inputs: rows on the scale of the reference.

Columns are compared in *own units*, (x - mean) / sd of the reference, float32; distances are taken in *z*, where
values beyond the reference's range count as its ends (a sentinel is a matter of data quality), heavy-tailed columns go
through signed log1p, and everything is cut at +-8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.errors import InputError
from understudy.types import Array, Floats
from understudy.views.base import (
    CUT,
    UNKNOWN,
    WINDOW,
    Arrays,
    Bools,
    Floats32,
    Kind,
    Own,
    View,
    flat,
    neighbours,
    positive,
    sample,
    unseen,
)

_FAR = 6e4
_FINEST = 6  # decimals; a column with more has no grid


@dataclass(frozen=True, slots=True, eq=False)
class Scale(Arrays):
    """The columns of a reference sample: where they lie, how they spread, and on which grid.

    All (d,). `heavy`: columns that get signed log1p; `middle` and `width`: mean and sd after it; `span`: range in own
    units; `decimals`: -1 where the column lies on no grid of up to six decimals.
    """

    centre: Floats
    spread: Floats
    heavy: NDArray[np.bool_]
    middle: Floats
    width: Floats
    low: Floats
    high: Floats
    decimals: NDArray[np.int64]

    kind: ClassVar[Kind] = "tabular"
    singly: ClassVar[bool] = True

    @classmethod
    def fit(cls, reference: Floats) -> Self:
        """The scale of `reference` (n, d), n >= 20. Raises InputError where it is too small."""
        x = np.asarray(reference, np.float64).reshape(len(reference), -1)
        if len(x) < 20:
            raise InputError(f"{len(x)} reference rows are too few to learn a scale from; give 20 or more")
        x = np.where(np.isfinite(x), x, np.nan)
        centre = np.nan_to_num(np.nanmean(x, 0))
        x = np.where(np.isnan(x), centre, x)
        spread = positive(x.std(0))
        skew = (((x - centre) / spread) ** 3).mean(0)
        heavy = np.abs(skew) > 2
        tamed = np.where(heavy, np.sign(x) * np.log1p(np.abs(x)), x)
        return cls(
            *(centre, spread, heavy, tamed.mean(0), positive(tamed.std(0)), x.min(0), x.max(0)),
            decimals=_decimals(x),
        )

    @property
    def span(self) -> Floats:
        """(d,) range of each column in own units; 1 where it does not vary."""
        wide: Floats = (self.high - self.low) / self.spread
        return np.where(wide > 0, wide, 1.0)

    def own(self, inputs: Floats) -> Floats32:
        """(n, d) in own units; a missing value lies at the mean."""
        with np.errstate(over="ignore", invalid="ignore"):
            units = (inputs - self.centre) / self.spread
        if not np.isfinite(units).all():
            units = np.nan_to_num(units, posinf=_FAR, neginf=-_FAR)
        found: Floats32 = np.minimum(np.maximum(units, -_FAR), _FAR).astype(np.float32)
        return found

    def z(self, own: Floats32) -> Floats32:
        """(n, d) for distances."""
        raw = np.clip(own * self.spread + self.centre, self.low, self.high)
        tamed = np.where(self.heavy, np.sign(raw) * np.log1p(np.abs(raw)), raw) if self.heavy.any() else raw
        return np.clip((tamed - self.middle) / self.width, -CUT, CUT).astype(np.float32)

    def __str__(self) -> str:
        return f"{len(self.centre)} columns"

    @property
    def columns(self) -> int:
        """Columns."""
        return len(self.centre)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an input of this shape has as many numbers as there are columns."""
        return shape != () and math.prod(shape) == len(self.centre)

    def view(self, inputs: Array, labels: NDArray[np.int64], margin: Floats, ring: Floats32 | None = None) -> View:
        """Rows (n, d) as detectors see them. Raises InputError where there are other columns."""
        x = flat(inputs, len(self.centre))
        own = self.own(x)
        return View(self, x, own, self.z(own), labels, margin)

    def compare(self, ring: Floats32, rows: Floats32) -> Own:
        """Hold `rows` against `ring` and each other: an edit changes max(3, d / 12) fields at most, or half of few."""
        earlier, start = np.concatenate([ring, rows]), len(ring)
        hidden = unseen(start, len(rows))
        changed = np.zeros(hidden.shape, np.int16)
        for a, b in zip(np.ascontiguousarray(rows.T), np.ascontiguousarray(earlier.T), strict=True):
            changed += a[:, None] != b
        changed[hidden] = UNKNOWN
        nearest, distance = neighbours(self.z(earlier), start, hidden)
        return self._own(rows, earlier, nearest, distance, start + np.arange(len(rows)), changed)

    def compare_each(self, rings: Sequence[Floats32], rows: Sequence[Floats32]) -> Own:
        """`compare` of several accounts, as one: their rows one after another, each held against its own account's.

        Each account's queries take up as much of `earlier` as the longest's; what lies between is in nobody's window.
        """
        lives = [len(ring) + len(mine) for ring, mine in zip(rings, rows, strict=True)]
        count, most, longest, d = len(rows), max(map(len, rows)), max(lives), len(self.centre)
        earlier = np.zeros((count, longest, d), np.float32)
        asked, place = np.zeros((count, most, d), np.float32), np.zeros((count, most), np.int64)
        there = np.zeros((count, most), np.bool_)
        for a, (ring, mine) in enumerate(zip(rings, rows, strict=True)):
            earlier[a, : len(ring)], earlier[a, len(ring) : lives[a]], asked[a, : len(mine)] = ring, mine, mine
            place[a], there[a, : len(mine)] = len(ring) + np.arange(most), True
        at = np.arange(longest)
        hidden = (at >= place[:, :, None]) | (at < place[:, :, None] - WINDOW)
        differ = (asked[:, :, None] != earlier[:, None]).view(np.uint8)
        changed = np.add.reduce(differ, 3, np.uint8 if d < 256 else np.int16).astype(np.int16)
        changed[hidden] = UNKNOWN
        z, mine_z = self.z(earlier), self.z(asked)
        apart = np.einsum("amd,amd->am", z, z)[:, None] - 2 * (mine_z @ z.transpose(0, 2, 1))
        apart[hidden] = np.inf
        nearest, alone = apart.argmin(2), hidden.all(2)
        near = z[np.arange(count)[:, None], nearest]
        distance = np.where(alone, np.inf, np.linalg.norm(mine_z - near, axis=2)).astype(np.float64)
        first = longest * np.arange(count)[:, None]
        whole = np.full((count, most, count, longest), UNKNOWN, np.int16)
        whole[np.arange(count), :, np.arange(count)] = changed
        return self._own(
            *(asked[there], earlier.reshape(-1, d), np.where(alone, -1, nearest + first)[there], distance[there]),
            *((place + first)[there], whole.reshape(count, most, -1)[there]),
        )

    def _own(
        self,
        rows: Floats32,
        earlier: Floats32,
        nearest: NDArray[np.int64],
        distance: Floats,
        place: NDArray[np.int64],
        changed: NDArray[np.int16],
    ) -> Own:
        d = len(self.centre)
        edit = min(max(3, d // 12), max(1, d // 2))  # of few columns, two in common do not make an edit
        fewest = changed.min(1, initial=UNKNOWN)
        return Own(rows, earlier, nearest, distance, place, fewest == 0, fewest > edit, changed)

    def outside(self, view: View) -> Bools:
        """(n,) True where a value is missing or lies outside the reference's range: a matter of data quality."""
        inside: Bools = (view.inputs >= self.low) & (view.inputs <= self.high)
        found: Bools = inside.sum(1) < view.inputs.shape[1]
        return found

    def finer(self, view: View) -> Floats:
        """(n,) how many values have more decimals than their column ever has."""
        gridded = self.decimals >= 0
        found: Floats = beyond(view.inputs[:, gridded], self.decimals[gridded]).sum(1).astype(np.float64)
        return found

    def made_up(self, view: View, rows: Array, rng: Generator) -> list[Floats32]:
        """Rows in own units that nobody has, made of those `rows` of the view."""
        return made_up(view.own[rows], self, rng)


def made_up(real: Floats32, scale: Scale, rng: Generator) -> list[Floats32]:
    """Four kinds of made-up rows, half as many of each as there are real ones, all in own units.

    Every column shuffled, 35 % of the columns shuffled, uniform on the columns' grids, and between two neighbours on
    the grids.
    """
    n, d = len(real), real.shape[1]
    half = max(n // 2, 1)
    shuffled = rng.permuted(real, axis=0)[:half]
    base = sample(real, half, rng)
    partly = np.where(rng.random(base.shape) < 0.35, rng.permuted(base, axis=0), base)
    uniform = rng.uniform(real.min(0), real.max(0), (half, d)).astype(np.float32)
    one, other = real[rng.integers(n, size=half)], real[rng.integers(n, size=(half, 20))]
    squares = ((other - one[:, None]) ** 2).sum(2)
    mate = other[np.arange(half), np.where(squares > 0, squares, np.inf).argmin(1)]
    between = one + rng.random((half, 1), np.float32) * (mate - one)
    return [shuffled, partly, _on_grid(uniform, scale), _on_grid(between, scale)]


def _on_grid(own: Floats32, scale: Scale) -> Floats32:
    """Rows rounded to the decimals that their columns have."""
    raw, step = own * scale.spread + scale.centre, 10.0 ** -np.maximum(scale.decimals, 0).astype(np.float64)
    return scale.own(np.where(scale.decimals >= 0, np.round(raw / step) * step, raw))


def _decimals(x: Floats) -> NDArray[np.int64]:
    found = np.full(x.shape[1], -1)
    for places in range(_FINEST, -1, -1):
        found[beyond(x, places).mean(0) <= 0.005] = places
    return found


def beyond(x: Floats, decimals: Any) -> NDArray[np.bool_]:
    """(n, d) True where a value has more decimals than `decimals` (a number, or one per column)."""
    scaled = x * 10.0 ** np.asarray(decimals)
    found: NDArray[np.bool_] = np.abs(scaled - np.round(scaled)) > 1e-6 * np.maximum(1.0, np.abs(scaled))
    return found
