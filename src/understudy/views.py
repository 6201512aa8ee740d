"""What a detector sees: one account's queries on the scale of the reference, and each beside the account's own earlier.

Columns are compared in *own units*, (x - mean) / sd of the reference, float32; distances are taken in *z*, where
values beyond the reference's range count as its ends (a sentinel is a matter of data quality), heavy-tailed columns go
through signed log1p, and everything is cut at +-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from understudy.errors import InputError
from understudy.types import Answers, Array, Floats, Signal

Floats32 = NDArray[np.float32]
WINDOW = 512  # own earlier queries that a query is held against
CUT = 8.0
_FAR = 6e4
_FINEST = 6  # decimals; a column with more has no grid
_UNKNOWN = np.int16(30_000)  # changed fields to a row outside the window


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
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

    @classmethod
    def fit(cls, reference: Floats) -> Self:
        """The scale of `reference` (n, d), n >= 20. Raises InputError where it is too small."""
        x = np.asarray(reference, np.float64).reshape(len(reference), -1)
        if len(x) < 20:
            raise InputError(f"{len(x)} reference rows are too few to learn a scale from; give 20 or more")
        x = np.where(np.isfinite(x), x, np.nan)
        centre = np.nan_to_num(np.nanmean(x, 0))
        x = np.where(np.isnan(x), centre, x)
        spread = _positive(x.std(0))
        skew = (((x - centre) / spread) ** 3).mean(0)
        heavy = np.abs(skew) > 2
        tamed = np.where(heavy, np.sign(x) * np.log1p(np.abs(x)), x)
        return cls(
            *(centre, spread, heavy, tamed.mean(0), _positive(tamed.std(0)), x.min(0), x.max(0)),
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
        found: Floats32 = np.clip(np.nan_to_num(units, posinf=_FAR, neginf=-_FAR), -_FAR, _FAR).astype(np.float32)
        return found

    def z(self, own: Floats32) -> Floats32:
        """(n, d) for distances."""
        raw = np.clip(own * self.spread + self.centre, self.low, self.high)
        tamed = np.where(self.heavy, np.sign(raw) * np.log1p(np.abs(raw)), raw) if self.heavy.any() else raw
        return np.clip((tamed - self.middle) / self.width, -CUT, CUT).astype(np.float32)

    def outside(self, inputs: Floats) -> NDArray[np.bool_]:
        """(n,) True where a value is missing or lies outside the reference's range: a matter of data quality."""
        inside: NDArray[np.bool_] = (inputs >= self.low) & (inputs <= self.high)
        found: NDArray[np.bool_] = inside.sum(1) < inputs.shape[1]
        return found

    def arrays(self) -> dict[str, Array]:
        """The scale as arrays by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Self:
        """The inverse of `arrays`."""
        return cls(**{name: arrays[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """Queries beside the same account's earlier ones, `WINDOW` at most.

    `rows` (n, d): the queries; `earlier` (m, d): what they are held against, oldest first, own units;
    `changed` (n, m): how many fields differ, a large number outside a query's window; `nearest` (n,): index into
    `earlier` of the nearest in z, -1 where there is none; `distance` (n,) to it, inf where there is none; `start`:
    where row 0 itself stands in `earlier` (row i stands at start + i).
    """

    rows: Floats32
    earlier: Floats32
    changed: NDArray[np.int16]
    nearest: NDArray[np.int64]
    distance: Floats
    start: int

    @property
    def repeat(self) -> NDArray[np.bool_]:
        """(n,) True where the query is in its window already: nothing bets on it."""
        found: NDArray[np.bool_] = self.changed.min(1, initial=_UNKNOWN) == 0
        return found

    @property
    def fresh(self) -> NDArray[np.bool_]:
        """(n,) True where the query is no edit of an own earlier one: more than max(3, d / 12) fields changed."""
        d = self.rows.shape[1]
        edit = min(max(3, d // 12), max(1, d // 2))  # of few columns, two in common do not make an edit
        found: NDArray[np.bool_] = self.changed.min(1, initial=_UNKNOWN) > edit
        return found


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Consecutive queries of one account (or several, where nothing looks back), as detectors see them.

    `inputs` (n, d) as asked; `own`, `z` (n, d) float32 as of `Scale`; `labels` (n,) answered classes, 0 where there
    are none; `margin` (n,) gap of the two largest scores, NaN where unknown; `past`: beside the own earlier
    queries, where that was worked out.
    """

    scale: Scale
    inputs: Floats
    own: Floats32
    z: Floats32
    labels: NDArray[np.int64]
    margin: Floats
    past: Own | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @classmethod
    def of(cls, scale: Scale, inputs: Floats, answers: Answers, margin: Floats | None = None) -> Self:
        """The view of inputs (n, d) and what was answered to them."""
        x = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
        if x.shape[1] != len(scale.centre):
            raise InputError(f"inputs have {x.shape[1]} columns; the calibration was made on {len(scale.centre)}")
        own = scale.own(x)
        return cls(scale, x, own, scale.z(own), labels(answers), gap(answers) if margin is None else margin)


def labels(answers: Answers) -> NDArray[np.int64]:
    """(n,) answered classes; 0 where no class is answered."""
    if any(s in answers for s in (Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS)):
        return answers.labels()
    return np.zeros(len(answers), np.int64)


def gap(answers: Answers) -> Floats:
    """(n,) gap of the two largest probabilities that were given; NaN where there are no two."""
    if Signal.PROBABILITIES not in answers or answers.outputs < 2:
        return np.full(len(answers), np.nan)
    scores = np.where(answers.mask(Signal.PROBABILITIES), answers[Signal.PROBABILITIES], np.nan)
    top = np.sort(scores, 1)  # NaN goes last
    given = np.isfinite(scores).sum(1)
    rows = np.arange(len(scores))
    best, second = top[rows, np.maximum(given - 1, 0)], top[rows, np.maximum(given - 2, 0)]
    return np.where(given >= 2, best - second, np.nan)


def compare(ring: Floats32, rows: Floats32, scale: Scale, window: int = WINDOW) -> Own:
    """Hold `rows` against `ring` (the account's latest queries, oldest first) and against each other."""
    earlier = np.concatenate([ring, rows])
    start, n, m = len(ring), len(rows), len(ring) + len(rows)
    place, mine = np.arange(m), start + np.arange(n)
    unseen = (place >= mine[:, None]) | (place < mine[:, None] - window)
    changed = np.zeros((n, m), np.int16)
    by_column, mine_by_column = np.ascontiguousarray(earlier.T), np.ascontiguousarray(rows.T)
    for a, b in zip(mine_by_column, by_column, strict=True):
        changed += a[:, None] != b
    changed[unseen] = _UNKNOWN
    z = scale.z(earlier)
    squares = np.einsum("ij,ij->i", z, z)
    apart = squares - 2 * (z[start:] @ z.T)
    apart[unseen] = np.inf
    nearest = apart.argmin(1) if m else np.zeros(n, np.int64)
    alone = mine <= np.maximum(mine - window, 0)
    distance = np.where(alone, np.inf, np.linalg.norm(z[start:] - z[nearest], axis=1)).astype(np.float64)
    return Own(rows, earlier, changed, np.where(alone, -1, nearest), distance, start)


def _positive(spread: Floats) -> Floats:
    return np.where(spread > 1e-12, spread, 1.0)


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
