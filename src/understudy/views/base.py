"""What all forms of input have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.errors import InputError
from understudy.types import Answers, Array, Floats, Signal

if TYPE_CHECKING:
    from understudy.views.text import Tokens

Floats32 = NDArray[np.float32]
Bools = NDArray[np.bool_]
Kind = Literal["tabular", "text", "image", "traffic"]
WINDOW = 512  # own earlier queries that a query is held against
CUT = 8.0
UNKNOWN = np.int16(30_000)  # changes to a query outside the window


class Form(Protocol):
    """One kind of input, learnt from a reference sample. A frozen dataclass of arrays."""

    kind: ClassVar[Kind]
    singly: ClassVar[bool]  # whether a query looks the same whatever its account has asked before

    @property
    def columns(self) -> int:
        """Numbers that are kept of a query."""

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether inputs of this shape (of one of them) are of this form: () is a text; numbers may come flat."""

    def view(self, inputs: Array, labels: NDArray[np.int64], margin: Floats, ring: Floats32 | None = None) -> View:
        """Inputs (n, ...) as detectors see them. `ring` (m, width): the account's latest queries, oldest first.

        Raises InputError where the inputs are of another form.
        """

    def compare(self, ring: Floats32, rows: Floats32) -> Own:
        """Hold kept `rows` (n, width) against `ring`, the account's latest, oldest first, and against each other."""

    def outside(self, view: View) -> Bools:
        """(n,) True where an input is a matter of data quality: missing, or beyond the reference's range."""

    def arrays(self) -> dict[str, Array]:
        """The form as arrays by name."""

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Self:
        """The inverse of `arrays`."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """A dataclass of arrays that goes to a file and comes back."""

    def arrays(self) -> dict[str, Array]:
        """The form as arrays by name."""
        return {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Self:
        """The inverse of `arrays`."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """Queries beside the same account's earlier ones, `WINDOW` at most.

    `rows` (n, width): the queries; `earlier` (m, width): what they are held against, oldest first; `nearest` (n,):
    index into `earlier` of the nearest in z, -1 where there is none; `distance` (n,) to it, inf where there is none;
    `place` (n,): where each row itself stands in `earlier`; `repeat` (n,): in its window already,
    so that nothing bets on it; `fresh` (n,): no edit of an own earlier one either; `changed` (n, m): fields that
    differ, or words put in and taken out, a large number outside a query's window; None for images.
    """

    rows: Floats32
    earlier: Floats32
    nearest: NDArray[np.int64]
    distance: Floats
    place: NDArray[np.int64]
    repeat: Bools
    fresh: Bools
    changed: NDArray[np.int16] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Consecutive queries of one account (or several, where nothing looks back), as detectors see them.

    `inputs` (n, ...) as asked; `own` (n, width) float32, what is kept; `z` (n, k) float32, for distances; `labels`
    (n,) answered classes, 0 where there are none; `margin` (n,) gap of the two largest scores, NaN where unknown;
    `tokens`: the words of texts; `past`: beside the own earlier queries, where that was worked out.
    """

    form: Form
    inputs: Array
    own: Floats32
    z: Floats32
    labels: NDArray[np.int64]
    margin: Floats
    tokens: Tokens | None = None
    past: Own | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def beside(self, ring: Floats32) -> Self:
        """The view with the queries held against the account's earlier ones and each other."""
        return replace(self, past=self.form.compare(ring, self.own))


def view_of(form: Form, inputs: Array, answers: Answers, margin: Floats | None = None) -> View:
    """The view of inputs and what was answered to them."""
    return form.view(inputs, labels(answers), gap(answers) if margin is None else margin)


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


def flat(inputs: Array, d: int) -> Floats:
    """(n, d) float64. Raises InputError where rows are not of `d` numbers."""
    if inputs.dtype.kind not in "fiub":
        raise InputError(f"the calibration was made on inputs of {d} numbers; these are no numbers")
    x = np.asarray(inputs, np.float64).reshape(len(inputs), -1) if len(inputs) else np.zeros((0, d))
    if x.shape[1] != d:
        raise InputError(f"inputs have {x.shape[1]} columns; the calibration was made on {d}")
    return x


def unseen(start: int, n: int) -> Bools:
    """(n, start + n) True where an earlier query lies outside a query's window, or is not earlier."""
    place, mine = np.arange(start + n), (start + np.arange(n))[:, None]
    found: Bools = (place >= mine) | (place < mine - WINDOW)
    return found


def neighbours(z: Floats32, start: int, hidden: Bools) -> tuple[NDArray[np.int64], Floats]:
    """(n,) index of the nearest of z (m, k) to each of its rows from `start` on, and (n,) the distance to it.

    `hidden` (n, m): not to be looked at. -1 and inf where there is none.
    """
    if not hidden.size:
        return np.full(len(z) - start, -1), np.full(len(z) - start, np.inf)
    apart: Any = np.einsum("ij,ij->i", z, z) - 2 * (z[start:] @ z.T)
    apart[hidden] = np.inf
    nearest = apart.argmin(1)
    alone = hidden.all(1)
    distance = np.where(alone, np.inf, np.linalg.norm(z[start:] - z[nearest], axis=1)).astype(np.float64)
    return np.where(alone, -1, nearest), distance


def positive(spread: Floats) -> Floats:
    """Spreads with 1 where there is none."""
    return np.where(spread > 1e-12, spread, 1.0)


def sample(rows: Array, n: int, rng: Generator) -> Array:
    """Up to `n` rows, without replacement."""
    return rows if len(rows) <= n else rows[rng.choice(len(rows), n, replace=False)]
