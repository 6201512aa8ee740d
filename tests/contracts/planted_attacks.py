"""Targets and attacks with one fault each: for every law one that breaks it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from understudy.protocols import Extraction, Verdict
from understudy.targets.linear import LinearTarget
from understudy.testing import (
    linear,
)
from understudy.types import Answers, Box, Exposure, Signal

INPUTS = linear().space.sample(8, np.random.default_rng(0))
LABELS = frozenset({Signal.LABEL})


# a target with one fault each


@dataclass
class Faulty:
    """A softmax that answers through `twist`."""

    twist: Callable[[np.ndarray, Answers], Answers] = lambda x, answers: answers
    exposure: Exposure = field(default_factory=lambda: Exposure.of(["label", "probabilities", "logits"], 3))
    model: LinearTarget = field(default_factory=linear)
    strict: bool = True
    empty: bool = True
    deaf: bool = True

    @property
    def space(self) -> Box:
        return self.model.space

    def query(self, inputs: Any, ask: Any = None) -> Answers:
        x = self.space.check(inputs) if self.strict else np.nan_to_num(np.asarray(inputs, np.float64)).reshape(-1, 4)
        if not len(x) and not self.empty:
            return Answers({}, 3)
        return self.twist(x, self.model.query(x, None if self.deaf else ask))


def double(answers: Answers) -> Answers:
    return answers.replace(Signal.PROBABILITIES, np.vstack([answers["probabilities"]] * 2))


def shift(x: np.ndarray, answers: Answers) -> Answers:
    return answers.replace(Signal.PROBABILITIES, answers["probabilities"] + len(x) / 100)


def scribble(x: np.ndarray, answers: Answers) -> Answers:
    x += 0.001
    return answers


def widen(x: np.ndarray, answers: Answers) -> Answers:
    return answers if Signal.LOGITS in answers else answers.replace(Signal.LOGITS, np.zeros((len(x), 3)))


class Elsewhere(Box):
    """A space that draws what it does not hold."""

    def sample(self, n: int, rng: Any) -> Any:
        return super().sample(n, rng) + 2


NARROW = Exposure.of(["label", "probabilities"], 3)
TARGETS = {
    "exposure-is-true": Faulty(exposure=NARROW),
    "halves-make-the-whole": Faulty(shift),
    "answers-an-empty-batch": Faulty(empty=False),
    "answers-its-space": Faulty(model=replace(linear(), space=Elsewhere(-1, 1, (4,)))),
    "leaves-inputs-alone": Faulty(scribble),
    "refuses-bad-inputs": Faulty(strict=False),
    "an-ask-never-widens": Faulty(widen, NARROW, deaf=False),
}


# an attack with one fault each


@dataclass(frozen=True)
class Guess:
    """Asks everything at once and hands back a random model.

    Extracts: nothing.
    Needs: a label.
    Cost: the budget.
    Reference: none.
    Differs from the paper: there is none.
    """

    needs: ClassVar[frozenset[Signal]] = LABELS
    adapts_to: ClassVar[frozenset[str]] = frozenset()

    def run(self, target: Any, pool: Any, rng: Any) -> Iterator[Extraction]:
        n = min(target.remaining, 50)
        if n:
            target.query(target.space.sample(n, rng))
            yield self.found(target, rng)

    def found(self, target: Any, rng: Any, **changed: Any) -> Extraction:
        copy = LinearTarget(rng.standard_normal((3, 4)), np.zeros(3), target.space, scored=False)
        return replace(Extraction(copy, target.spent, Verdict.APPROXIMATE), **changed)


@dataclass(frozen=True)
class Undocumented(Guess):
    """Extracts: nothing."""


@dataclass(frozen=True)
class Undeclared(Guess):
    __doc__ = Guess.__doc__
    adapts_to: ClassVar[Any] = ["round"]


class Unfrozen(Guess):
    __doc__ = Guess.__doc__

    def __init__(self) -> None:
        object.__setattr__(self, "extra", 1)


@dataclass(frozen=True)
class Cheat(Guess):
    def run(self, target: Any, pool: Any, rng: Any) -> Iterator[Extraction]:
        target.target.query(target.space.sample(target.budget + 1, rng))
        yield self.found(target, rng)


@dataclass(frozen=True)
class Careless(Guess):
    def run(self, target: Any, pool: Any, rng: Any) -> Iterator[Extraction]:
        while True:
            target.query(target.space.sample(7, rng))
            yield self.found(target, rng)


@dataclass(frozen=True)
class Idle(Guess):
    def run(self, target: Any, pool: Any, rng: Any) -> Iterator[Extraction]:
        yield self.found(target, rng, substitute=None, verdict=Verdict.NOT_OF_FAMILY)


@dataclass(frozen=True)
class Understates(Guess):
    def found(self, target: Any, rng: Any, **changed: Any) -> Extraction:
        return super().found(target, rng, spent=target.spent - 1)


@dataclass(frozen=True)
class Clings(Guess):
    def run(self, target: Any, pool: Any, rng: Any) -> Iterator[Extraction]:
        try:
            yield from super().run(target, pool, rng)
        finally:
            if target.remaining:
                target.query(target.space.sample(1, rng))


@dataclass(frozen=True)
class PlansAhead(Guess):
    def run(self, target: Any, pool: Any, rng: Any) -> Iterator[Extraction]:
        half = target.remaining // 2
        for _ in range(2):
            if half:
                target.query(target.space.sample(half, rng))
                yield self.found(target, rng)


@dataclass(frozen=True)
class Wants(Guess):
    def run(self, target: Any, pool: Any, rng: Any) -> Iterator[Extraction]:
        pool.draw(3, rng)[2]
        yield from super().run(target, pool, rng)


@dataclass(frozen=True)
class Fickle(Guess):
    def found(self, target: Any, rng: Any, **changed: Any) -> Extraction:
        return super().found(target, np.random.default_rng())


@dataclass(frozen=True)
class Boasts(Guess):
    def found(self, target: Any, rng: Any, **changed: Any) -> Extraction:
        return super().found(target, rng, verdict=Verdict.EXACT)


@dataclass(frozen=True)
class Narrow(Guess):
    def found(self, target: Any, rng: Any, **changed: Any) -> Extraction:
        return super().found(target, rng, substitute=linear(outputs=2))


@dataclass(frozen=True)
class Scrawls(Guess):
    def found(self, target: Any, rng: Any, **changed: Any) -> Extraction:
        return super().found(target, rng, notes={"array": np.zeros(3)})


@dataclass(frozen=True)
class Dips(Guess):
    def found(self, target: Any, rng: Any, **changed: Any) -> Extraction:
        random.random()
        return super().found(target, rng)


ATTACKS = {
    "stores-only-parameters": Unfrozen,
    "documented-attack": Undocumented,
    "declares-needs": Undeclared,
    "never-overspends": Cheat,
    "ends-quietly": Careless,
    "finds-a-copy": Idle,
    "spent-is-the-meter": Understates,
    "stopping-early-is-free": Clings,
    "shares-its-meter": PlansAhead,
    "needs-no-pool": Wants,
    "same-seed-same-copy": Fickle,
    "verdicts-are-honest": Boasts,
    "substitutes-are-targets": Narrow,
    "notes-are-plain": Scrawls,
    "leaves-shared-randomness-alone": Dips,
}
