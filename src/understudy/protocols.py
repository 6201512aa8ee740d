"""Verbs: the house on one page. Everything that can be asked is a `Target`, the substitute too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from numpy.random import Generator
from numpy.typing import ArrayLike

from understudy.types import Answers, Array, Ask, Exposure, Floats, Signal, Space
from understudy.views import Kind, View


class Target(Protocol):
    """Something that can be asked."""

    @property
    def space(self) -> Space:
        """What may be asked."""

    @property
    def exposure(self) -> Exposure:
        """What comes back."""

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Answer `inputs` of shape (n, *space.shape), one row per answer.

        Raises InputError, BudgetExceeded, TargetError or AnswerError.
        """


class Metered(Target, Protocol):
    """What an attack is given: a target that counts before it asks."""

    @property
    def spent(self) -> int:
        """Queries charged so far."""

    @property
    def remaining(self) -> int:
        """Queries left in the budget."""


@runtime_checkable
class Pool(Protocol):
    """Inputs that the attacker has."""

    def draw(self, n: int, rng: Generator) -> Floats:
        """Up to `n` inputs; fewer when the pool holds fewer."""


@runtime_checkable
class LabelledPool(Pool, Protocol):
    """Inputs of which the attacker also knows the truth: the training set, say."""

    @property
    def inputs(self) -> Floats:
        """Every row, shape (n, *shape)."""

    @property
    def truth(self) -> Array | None:
        """(n,) classes from 0, or values (n,) or (n, outputs); None where it is not known after all."""


class Learner(Protocol):
    """How a substitute is trained. One that takes texts says so in `reads`; see `takes`."""

    def fit(self, inputs: Array, answers: Answers, rng: Generator) -> Target:
        """A substitute trained on bought answers (soft ones are used where they are present)."""


class Verdict(StrEnum):
    """What an attack may say of its substitute."""

    EXACT = "exact"  # parameters certified by fresh check queries to the answers' precision; never from labels alone
    APPROXIMATE = "approximate"  # a copy, with its fidelity measured on answers it was not fitted to
    NOT_OF_FAMILY = "not-of-family"  # the target is not of the family this attack solves; no substitute


@dataclass(frozen=True, slots=True)
class Extraction:
    """One substitute, what it had cost when it was made, and what may be said of it.

    `parameters` are the solved arrays, where the attack solves for any. `notes` hold plain facts
    (numbers, texts, lists of them) for the report; `notes["fidelity"]` is the attack's own held-out
    estimate, made from bought answers and never from the evaluation set.
    """

    substitute: Target | None
    spent: int
    verdict: Verdict
    parameters: Mapping[str, Array] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class Attack(Protocol):
    """A way to copy. A frozen dataclass: the constructor only stores parameters.

    One that takes texts says so in `reads`; see `takes`. One that buys much before its first substitute says so in
    `opening(space, outputs) -> queries`, so that a suite can let cheaper ones go first.
    """

    needs: ClassVar[frozenset[Signal]]  # any one of these must be exposed
    adapts_to: ClassVar[frozenset[str]]  # defences this attack knows about

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """Yield a substitute whenever there is a better one; stopping early is free.

        Ends when there is nothing to gain or the budget is spent. Never lets BudgetExceeded escape.
        """


def takes(plugin: Any, space: Space) -> bool:
    """Whether an attack or a learner takes a space's inputs: `reads` says "numbers", "text" or both; else numbers."""
    return ("numbers" if space.shape else "text") in getattr(plugin, "reads", ("numbers",))


class Defence(Protocol):
    """Changes answers on their way out."""

    def reveals(self, exposure: Exposure) -> Exposure:
        """What is left of `exposure` behind this defence."""

    def fit(self, inputs: Floats, answers: Answers) -> Self:
        """A copy fitted to the owner's data, where the defence needs any: what it learns goes into a field `fitted`.

        `fitted` holds tuples of tuples of numbers, and None before: the gateway keeps it in a file.
        """

    def apply(self, inputs: Floats, answers: Answers, principal: str) -> Answers:
        """The answers as `principal` receives them. Rows are independent of each other."""


class Metric(Protocol):
    """Compares two targets on the same inputs."""

    against: ClassVar[str]  # "target", or "truth" where agreement with the truth is measured
    higher_is_closer: ClassVar[bool]
    needs: ClassVar[frozenset[Signal]]  # any one of these must be answered by the reference

    def measure(self, substitute: Target, reference: Target, inputs: Floats) -> Floats:
        """One value per query, shape (n,)."""

    def summary(self, values: Floats) -> float:
        """The figure that stands for those values (mean, maximum, ...)."""


class Detector(Protocol):
    """Scores queries one by one: large is suspicious. It never alarms by itself; `watch` ranks accounts.

    A frozen dataclass; what it learns of the owner's benign data goes into a field `fitted`: arrays by name, so that a
    calibration is kept in a file of numbers.
    """

    forms: ClassVar[tuple[Kind, ...]]  # the forms of input that it reads: "tabular", "text", "image"
    bets_on: ClassVar[Literal["fresh", "new"]]  # queries that are no edit of an own earlier one, or no repeat of one
    by_label: ClassVar[bool]  # whether a score is compared among queries of the same answered class
    looks_back: ClassVar[bool]  # whether it needs the account's own earlier queries (`view.past`)

    def fit(self, reference: View, rng: Generator) -> Self:
        """A copy fitted to benign rows of the owner (those the model was trained on, say)."""

    def score(self, view: View) -> Floats:
        """(n,) one score per query, NaN where it has none. Rows are independent of each other given `view.past`."""
