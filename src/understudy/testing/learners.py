"""The laws of learners."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from understudy import registry
from understudy.protocols import Learner, Target, takes
from understudy.testing.contract import check_answers, demand, random_state, stores_only_parameters
from understudy.testing.models import victim
from understudy.texts import array
from understudy.types import Answers, Array, Floats, Signal


@dataclass(frozen=True)
class LearnerBench:
    """A learner, and bought answers of three kinds: labels, whole distributions, the top class and its probability."""

    subject: Learner
    seed: int = 0
    rows: int = 120

    @cached_property
    def inputs(self) -> Array:
        return self.draw()

    @cached_property
    def answers(self) -> dict[str, Answers]:
        return self.buy()

    def draw(self) -> Array:
        """The inputs, drawn anew."""
        x = self._numbers()
        return x if takes(self.subject, victim("label").space) else _told(x)

    def _numbers(self) -> Floats:
        return victim("label", self.seed).space.sample(self.rows, np.random.default_rng(self.seed))

    def buy(self) -> dict[str, Answers]:
        """The answers, bought anew."""
        inputs = self._numbers()
        soft = victim("probabilities", self.seed).query(inputs)
        top = registry.create("defences", "top-k", k=1).apply(inputs, soft, "contract")
        return {"labels": victim("label", self.seed).query(inputs), "probabilities": soft, "top-1": top}

    @cached_property
    def fitted(self) -> dict[str, Target]:
        return {name: self.fit(answers) for name, answers in self.answers.items()}

    def fit(self, answers: Answers) -> Target:
        """A substitute, always from the same seed."""
        return self.subject.fit(self.inputs[: len(answers)], answers, np.random.default_rng(self.seed))


def _told(x: Floats) -> Array:
    """Rows of numbers in words, for learners of texts: a word for each coordinate says roughly where it lies."""
    places = np.argsort(np.argsort(x, axis=0), axis=0) * 8 // len(x)
    return array([" ".join(f"column{j}is{place}" for j, place in enumerate(row)) for row in places.tolist()])


def learns(bench: LearnerBench) -> None:
    """From labels, from whole distributions and from top-1 answers it learns more than the commonest class."""
    for name, copy in bench.fitted.items():
        labels = bench.answers[name].labels()
        right = float((copy.query(bench.inputs).labels() == labels).mean())
        constant = float(np.bincount(labels).max() / len(labels))
        demand(
            right > constant, f"from {name}: right on {right:.0%} of its own training inputs, a constant {constant:.0%}"
        )


def copies_are_targets(bench: LearnerBench) -> None:
    """A substitute answers over all the target's outputs, as its own exposure says."""
    for name, copy in bench.fitted.items():
        check_answers(copy.query(bench.inputs), copy.exposure, len(bench.inputs), slack=1e-6)
        wanted, got = bench.answers[name].outputs, copy.exposure.outputs
        demand(got == wanted, f"from {name}: {got} outputs, expected {wanted}")


def learns_one_class(bench: LearnerBench) -> None:
    """Answers that all name one class, or a single answer, give a substitute that answers it."""
    for rows in (20, 1):
        labels = np.full(rows, 1, np.int64)
        copy = bench.fit(Answers({Signal.LABEL: labels}, 3))
        answered = copy.query(bench.inputs).labels()
        demand((answered == 1).all(), f"from {rows} answers of class 1 it learns to answer {sorted(set(answered))}")


def same_seed_same_fit(bench: LearnerBench) -> None:
    """The same answers and generator give the same substitute."""
    for name, copy in bench.fitted.items():
        again = bench.fit(bench.answers[name])
        one, two = copy.query(bench.inputs).digest(), again.query(bench.inputs).digest()
        demand(one == two, f"from {name}: another substitute the second time")


def leaves_training_data_alone(bench: LearnerBench) -> None:
    """Inputs and answers are not changed."""
    for name, answers in bench.buy().items():
        demand(bench.fitted[name] is not None, f"from {name}: no substitute")
        demand(bench.answers[name].digest() == answers.digest(), f"from {name}: the answers were changed")
    demand(np.array_equal(bench.inputs, bench.draw()), "the inputs were changed")


def fits_without_shared_randomness(bench: LearnerBench) -> None:
    """The generators that everybody shares are not drawn from."""
    bench.fit(bench.answers["labels"])  # importing a library may draw once
    before = random_state()
    bench.fit(bench.answers["labels"])
    demand(random_state() == before, "numpy's or Python's shared generator was used; draw from the one that is given")


LAWS = (
    stores_only_parameters,
    learns,
    copies_are_targets,
    learns_one_class,
    same_seed_same_fit,
    leaves_training_data_alone,
    fits_without_shared_randomness,
)
