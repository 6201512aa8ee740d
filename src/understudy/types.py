"""Nouns in memory. Arrays are numpy with the query on axis 0; nothing here touches a file, a socket or a clock."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.errors import InputError
from understudy.texts import Text as Text
from understudy.texts import Texts as Texts
from understudy.texts import coded

Array = NDArray[Any]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Signal(StrEnum):
    """What an answer can contain. Class signals agree on the order of the classes."""

    LABEL = "label"  # (n,) int64, index of the answered class
    VALUE = "value"  # (n, outputs) float64, regression
    PROBABILITIES = "probabilities"  # (n, outputs) float64
    LOGITS = "logits"  # (n, outputs) float64, any per-row constant may be added
    ATTRIBUTION = "attribution"  # (n, outputs * d) float64: a number per input coordinate, output by output
    COUNTERFACTUAL = "counterfactual"  # (n, d) float64: an input near by of another class; a row of NaN where none is

    __hash__ = str.__hash__  # equal texts are found by it too; Enum's own is a call of Python in every look-up


#: What is said about an answer, not the answer. Whole or withheld: no grain makes them coarser.
EXPLANATIONS = frozenset({Signal.ATTRIBUTION, Signal.COUNTERFACTUAL})

#: What can be worked out from what: a customer who holds the key also holds the values.
IMPLIES: Mapping[Signal, frozenset[Signal]] = {
    Signal.LOGITS: frozenset({Signal.LOGITS, Signal.PROBABILITIES, Signal.LABEL}),
    Signal.PROBABILITIES: frozenset({Signal.PROBABILITIES, Signal.LABEL}),
    Signal.LABEL: frozenset({Signal.LABEL}),
    Signal.VALUE: frozenset({Signal.VALUE}),
    Signal.ATTRIBUTION: frozenset({Signal.ATTRIBUTION}),
    Signal.COUNTERFACTUAL: frozenset({Signal.COUNTERFACTUAL}),
}


@dataclass(frozen=True, slots=True)
class Grain:
    """How much of one signal is shown. None = everything.

    The `top_k` largest entries; rounded to `decimals`; as one of `levels` different numbers.
    """

    top_k: int | None = None
    decimals: int | None = None
    levels: int | None = None

    def at_most(self, other: Grain) -> bool:
        """Whether this grain shows no more than `other`."""
        pairs = ((self.top_k, other.top_k), (self.decimals, other.decimals), (self.levels, other.levels))
        return all(_le(a, b) for a, b in pairs)


def _le(a: int | None, b: int | None) -> bool:
    return b is None or (a is not None and a <= b)


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one tier receives: a grain per granted signal. A signal that is not listed is withheld."""

    grains: Mapping[Signal, Grain]
    outputs: int

    @classmethod
    def of(cls, signals: str | Iterable[str], outputs: int) -> Exposure:
        """Full-grain exposure of one or several signals, by name."""
        names = [signals] if isinstance(signals, str) else list(signals)
        try:
            return cls({Signal(name): Grain() for name in names}, outputs)
        except ValueError:
            allowed = ", ".join(Signal)
            raise InputError(f"unknown signal in {names}; allowed: {allowed}") from None

    @property
    def signals(self) -> frozenset[Signal]:
        return frozenset(self.grains)

    def nothing(self, rows: int, shape: Sequence[int]) -> Answers:
        """An answer of zeros to `rows` inputs of `shape`: every signal in its own shape and type."""
        d = prod(shape)
        widths = {Signal.ATTRIBUTION: self.outputs * d, Signal.COUNTERFACTUAL: d}
        values = {
            s: np.zeros(rows, np.int64) if s is Signal.LABEL else np.zeros((rows, widths.get(s, self.outputs)))
            for s in self.grains
        }
        return Answers(values, self.outputs)

    def reveals_at_most(self, other: Exposure) -> bool:
        """Whether everything this exposure shows could be worked out from `other`."""
        return all(
            any(_follows(signal, grain, o, g) for o, g in other.grains.items()) for signal, grain in self.grains.items()
        )

    def __str__(self) -> str:
        return " + ".join(_describe(signal, self.grains[signal]) for signal in Signal if signal in self.grains)


def _follows(signal: Signal, grain: Grain, source: Signal, given: Grain) -> bool:
    if signal is source or signal is Signal.LABEL:
        return signal in IMPLIES[source] and (signal is Signal.LABEL or grain.at_most(given))
    return signal in IMPLIES[source] and given == Grain()  # a softmax needs every logit, unrounded


def _describe(signal: Signal, grain: Grain) -> str:
    extra = [f"top-{grain.top_k}"] if grain.top_k is not None else []
    extra += [f"{grain.levels} levels"] if grain.levels is not None else []
    extra += [f"{grain.decimals} decimals"] if grain.decimals is not None else []
    return signal.value + (f" ({', '.join(extra)})" if extra else "")


class Space(Protocol):
    """What can be asked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    def check(self, inputs: ArrayLike) -> Array:
        """`inputs` as float64 or texts, shape (n, *shape); raises InputError when the space does not hold them."""

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` inputs spread over the space."""


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """A box of real numbers: `low <= x <= high` per coordinate, numbers or arrays; infinite where any number will do.

    Unbounded coordinates are sampled from a standard normal, half-bounded ones from an exponential off the bound.
    """

    low: Floats
    high: Floats
    shape: tuple[int, ...]
    _bounded: bool = field(init=False, repr=False)

    def __init__(self, low: ArrayLike, high: ArrayLike, shape: Sequence[int] | None = None) -> None:
        lo, hi = np.asarray(low, np.float64), np.asarray(high, np.float64)
        size = tuple(shape) if shape is not None else np.broadcast_shapes(lo.shape, hi.shape)
        if not size or min(size) < 1:
            raise InputError(f"a Box needs a shape with at least one coordinate, got {size}")
        try:
            lo, hi = np.broadcast_to(lo, size).copy(), np.broadcast_to(hi, size).copy()
        except ValueError:
            raise InputError(f"Box bounds of shape {lo.shape} and {hi.shape} do not fit shape {size}") from None
        if np.isnan(lo).any() or np.isnan(hi).any() or (lo >= hi).any():
            raise InputError("a Box needs low < high in every coordinate, and no NaN")
        bounded = bool(np.isfinite(lo).all() and np.isfinite(hi).all())
        for name, value in (("low", lo), ("high", hi), ("shape", size), ("_bounded", bounded)):
            object.__setattr__(self, name, value)

    def check(self, inputs: ArrayLike) -> Floats:
        try:
            x = np.asarray(inputs, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError("inputs are not a rectangular array of numbers (ragged rows, or text?)") from None
        if x.shape[1:] != self.shape or x.ndim != len(self.shape) + 1:
            raise InputError(f"inputs have shape {x.shape}; expected (n, {', '.join(map(str, self.shape))})")
        fits = self.holds(x)
        if np.count_nonzero(fits) != fits.size:
            bad = ~fits.reshape(len(x), -1)
            row, column = (int(i) for i in np.argwhere(bad)[0])
            value, low, high = x.reshape(len(x), -1)[row, column], self.low.flat[column], self.high.flat[column]
            within = "is not a whole number" if low <= value <= high else "lies outside the space"
            what = within if np.isfinite(value) else "is not finite"
            raise InputError(f"inputs row {row}, column {column} {what}; {int(bad.any(1).sum())} row(s) are affected")
        return x

    def holds(self, x: Floats) -> Bools:
        """Which numbers of inputs (n, *shape) the space holds."""
        inside = (x >= self.low) & (x <= self.high)  # NaN is neither
        return inside if self._bounded else inside & np.isfinite(x)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        lo, hi = np.isfinite(self.low), np.isfinite(self.high)
        if lo.all() and hi.all():
            return rng.uniform(self.low, self.high, (n, *self.shape))
        normal, tail = rng.standard_normal((n, *self.shape)), rng.exponential(size=(n, *self.shape))
        safe_low, safe_high = np.where(lo, self.low, 0.0), np.where(hi, self.high, 1.0)
        inside = rng.uniform(safe_low, np.where(lo & hi, safe_high, safe_low + 1.0), (n, *self.shape))
        half = np.where(lo, safe_low + tail, np.where(hi, safe_high - tail, normal))
        return np.where(lo & hi, inside, half)

    def nearest(self, x: Floats) -> Floats:
        """The inputs of this space that are nearest to `x`, shape (n, *shape)."""
        return np.clip(x, self.low, self.high)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Box) or type(other) is not type(self):
            return False
        return np.array_equal(self.low, other.low) and np.array_equal(self.high, other.high)


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Mixed(Box):
    """A table's row: a box some of whose columns hold whole numbers, category codes or gaps. Columns are flat indices.

    `integer`: columns of whole numbers. `categories`: {column: K}, codes 0 to K - 1, whatever `low` and `high` say.
    `missing`: columns that may be NaN; a tenth of what is drawn is. All three are kept as arrays of the row's shape.
    """

    integer: Bools
    categories: NDArray[np.int64]  # 0 where the column is no category
    missing: Bools

    def __init__(
        self,
        low: ArrayLike,
        high: ArrayLike,
        shape: Sequence[int] | None = None,
        *,
        integer: Iterable[int] = (),
        categories: Mapping[int, int] | None = None,
        missing: Iterable[int] = (),
    ) -> None:
        box, counts = Box(low, high, shape), dict(categories or {})
        d = box.low.size
        whole, codes, gaps = np.zeros(d, np.bool_), np.zeros(d, np.int64), np.zeros(d, np.bool_)
        strange = sorted({c for c in (*integer, *counts, *missing) if not 0 <= c < d})
        if strange:
            raise InputError(f"the space has columns 0 to {d - 1}; there is no column {strange[0]}")
        if min(counts.values(), default=2) < 2:
            raise InputError("a column of categories needs at least two of them")
        whole[list(integer)], gaps[list(missing)] = True, True
        codes[list(counts)] = list(counts.values())
        kinds = [part.reshape(box.shape) for part in (whole, codes, gaps)]
        lo, hi = np.where(kinds[1] > 0, 0.0, box.low), np.where(kinds[1] > 0, kinds[1] - 1.0, box.high)
        lo, hi = np.where(kinds[0], np.ceil(lo), lo), np.where(kinds[0], np.floor(hi), hi)
        if (lo >= hi).any():
            raise InputError("a column of whole numbers needs at least two between its bounds")
        names = ("low", "high", "shape", "_bounded", "integer", "categories", "missing")
        for name, value in zip(names, (lo, hi, box.shape, box._bounded, *kinds), strict=True):
            object.__setattr__(self, name, value)

    @property
    def whole(self) -> Bools:
        """Columns whose numbers are whole: integers and codes."""
        return self.integer | (self.categories > 0)

    def holds(self, x: Floats) -> Bools:
        fits = Box.holds(self, x) & (~self.whole | (x == np.round(x)))
        return np.asarray(fits | (np.isnan(x) & self.missing))

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        lo, hi = np.where(self.whole, self.low - 0.5, self.low), np.where(self.whole, self.high + 0.5, self.high)
        x = self.nearest(Box(lo, hi).sample(n, rng))
        return np.where(self.missing & (rng.random(x.shape) < 0.1), np.nan, x) if self.missing.any() else x

    def nearest(self, x: Floats) -> Floats:
        held = np.clip(x, self.low, self.high)  # NaN stays
        return np.where(self.whole, np.round(held), held)

    def __eq__(self, other: object) -> bool:
        return Box.__eq__(self, other) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in ("integer", "categories", "missing")
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request wants beyond its inputs. None everywhere = whatever the target gives by default."""

    signals: frozenset[Signal] | None = None
    top_k: int | None = None
    within: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # (low, high), flat: counterfactuals from inside


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """One array per signal, with a presence mask where something was withheld (withheld is not NaN)."""

    values: Mapping[Signal, Array]
    outputs: int
    present: Mapping[Signal, Bools] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.values.values()))) if self.values else 0

    def __contains__(self, signal: object) -> bool:
        return signal in self.values

    def __getitem__(self, signal: str) -> Array:
        """The array of one signal; withheld entries are 0 and False in `mask`."""
        return self.values[signal]  # type: ignore[index]  # a signal's name is found as the signal is

    def mask(self, signal: str) -> Bools:
        """True where an entry of `signal` was given."""
        given = self.present.get(signal)  # type: ignore[call-overload]
        return np.ones(self[signal].shape, np.bool_) if given is None else given

    def labels(self) -> NDArray[np.int64]:
        """(n,) answered classes: the label where there is one, else the largest score that was given."""
        if Signal.LABEL in self.values:
            return np.asarray(self.values[Signal.LABEL], np.int64)
        for signal in (Signal.PROBABILITIES, Signal.LOGITS):
            if signal in self.values:
                scores, given = self.values[signal], self.present.get(signal)
                if given is not None:
                    scores = np.where(given, scores, -np.inf)
                return np.asarray(scores.argmax(1), np.int64) if len(scores) else np.zeros(0, np.int64)
        raise InputError("these answers hold no class (signals: " + ", ".join(self.values) + ")")

    def take(self, rows: Array | slice) -> Answers:
        """The answers of some rows."""
        return Answers(
            {s: v[rows] for s, v in self.values.items()}, self.outputs, {s: m[rows] for s, m in self.present.items()}
        )

    def replace(self, signal: Signal, values: Array, present: Bools | None = None) -> Answers:
        """A copy with one signal changed."""
        if present is not None:
            masks = {**self.present, signal: present}
        else:
            masks = {s: m for s, m in self.present.items() if s is not signal}
        return Answers({**self.values, signal: values}, self.outputs, masks)

    def only(self, signals: Iterable[Signal]) -> Answers:
        """A copy that holds nothing but `signals`: unknown is withheld."""
        keep = frozenset(signals)
        if self.values.keys() <= keep:
            return self
        return Answers(
            {s: v for s, v in self.values.items() if s in keep},
            self.outputs,
            {s: m for s, m in self.present.items() if s in keep},
        )

    @staticmethod
    def concat(parts: Sequence[Answers]) -> Answers:
        """Answers of several batches as one; they must hold the same signals."""
        if not parts:
            raise InputError("nothing to join: no answers")
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        if any(p.values.keys() != first.values.keys() or p.outputs != first.outputs for p in parts):
            raise InputError("answers of different signals or class counts cannot be joined")
        values = {s: np.concatenate([p.values[s] for p in parts]) for s in first.values}
        masked = {s for p in parts for s in p.present}
        return Answers(values, first.outputs, {s: np.concatenate([p.mask(s) for p in parts]) for s in masked})

    def digest(self) -> str:
        """SHA-256 over every value and mask."""
        parts = [(s.value, self.values[s], self.mask(s)) for s in sorted(self.values)]
        return digest(*(piece for name, value, mask in parts for piece in (name, value, mask)))


@dataclass(frozen=True, slots=True)
class Exchange:
    """Who asked what, when, and what they received: the row that audits write and monitors read."""

    principal: str
    party: str
    at: float
    inputs: Array
    ask: Ask | None
    answers: Answers


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval (95 % unless said) and the count that it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g}, n = {self.n})"


def digest(*pieces: Array | str | bytes) -> str:
    """SHA-256 of arrays (shape, type and bytes) and texts, in order."""
    total = hashlib.sha256()
    for piece in pieces:
        if isinstance(piece, np.ndarray):
            total.update(f"{piece.dtype.str}{piece.shape}".encode())
            for part in coded(piece) if piece.dtype == object else (piece,):
                total.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
        else:
            body = piece.encode() if isinstance(piece, str) else piece
            total.update(f"{len(body)}:".encode() + body)
    return total.hexdigest()
