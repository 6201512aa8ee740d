"""The laws of defences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from understudy import registry
from understudy.errors import UsageError
from understudy.protocols import Defence, Target
from understudy.testing.contract import check_answers, demand, same, says, stores_only_parameters
from understudy.testing.models import victim
from understudy.types import Answers, Array, Exposure, Floats, Signal, digest
from understudy.wrappers import Defended


@dataclass(frozen=True)
class Reduced:
    """Answers before and behind a defence, and what is said of each."""

    given: str  # digest of inputs and answers, before anything was done
    defence: Defence  # fitted to other answers of the same target
    owned: tuple[Floats, Answers]  # what it was fitted to
    inputs: Floats
    exposure: Exposure
    answers: Answers
    declared: Exposure
    released: Answers


@dataclass(frozen=True)
class DefenceBench:
    """A defence, fitted and applied to the answers of each target that it does not refuse."""

    subject: Defence
    targets: Sequence[Target] = ()
    seed: int = 0
    principal: str = "contract"

    @cached_property
    def cases(self) -> list[Reduced]:
        return [case for target in self.targets or self._default() for case in self._case(target)]

    def _default(self) -> list[Target]:
        mixes: list[list[str]] = [["label"], ["probabilities"], ["logits"], ["label", "probabilities", "logits"]]
        plain = [victim(mix, self.seed) for mix in [*mixes, ["value"]]]
        before: list[Defence] = [
            registry.create("defences", "top-k", k=2),
            registry.create("defences", "round", decimals=3),
        ]
        reduced = [Defended(t, before, "contract", _behind(before, t.exposure)) for t in plain[1:]]
        return [*plain, *reduced]

    def _case(self, target: Target) -> Iterator[Reduced]:
        rng = np.random.default_rng(self.seed)
        owner, inputs = target.space.sample(64, rng), target.space.sample(41, rng)
        try:
            declared = self.subject.reveals(target.exposure)
        except UsageError:
            return  # a defence may refuse what it cannot defend
        owned, answers = target.query(owner), target.query(inputs)
        given = _digest(inputs, answers) + _digest(owner, owned)
        defence = self.subject.fit(owner, owned)
        released = defence.apply(inputs, answers, self.principal)
        yield Reduced(given, defence, (owner, owned), inputs, target.exposure, answers, declared, released)

    def apply(self, case: Reduced, rows: Array | None = None) -> Answers:
        """The defence, fitted as for `case`, on some of its rows."""
        x, answers = (case.inputs, case.answers) if rows is None else (case.inputs[rows], case.answers.take(rows))
        return case.defence.apply(x, answers, self.principal)


def _digest(inputs: Floats, answers: Answers) -> str:
    return digest(inputs, answers.digest())


def _behind(defences: Sequence[Defence], exposure: Exposure) -> Exposure:
    for defence in defences:
        exposure = defence.reveals(exposure)
    return exposure


def documented_defence(bench: DefenceBench) -> None:
    """The docstring says what is hidden, what it costs the honest user, what breaks it, and whose it is."""
    says(bench, ("Hides", "Costs the honest user", "Broken by", "Reference"))


def defends_something(bench: DefenceBench) -> None:
    """At least one exposure is not refused."""
    demand(bench.cases, "every exposure is refused")


def reveals_what_it_says(bench: DefenceBench) -> None:
    """What comes out is what `reveals` declares: not a signal, entry or decimal more."""
    for case in bench.cases:
        try:
            check_answers(case.released, case.declared, len(case.inputs))
        except AssertionError as error:
            raise AssertionError(f"of {case.exposure}, {case.declared} is declared: {error}") from None


def reveals_no_more(bench: DefenceBench) -> None:
    """What is declared could be worked out from what was there before."""
    for case in bench.cases:
        demand(case.declared.reveals_at_most(case.exposure), f"{case.exposure} becomes {case.declared}")


def leaves_answers_alone(bench: DefenceBench) -> None:
    """The answers and inputs that are given are not changed: the owner's log keeps them."""
    for case in bench.cases:
        now = _digest(case.inputs, case.answers) + _digest(*case.owned)
        demand(now == case.given, f"{case.exposure}: what was given was changed")


def fitting_is_repeatable(bench: DefenceBench) -> None:
    """The same data, the same defence, also when it was fitted before; what it learns is in `fitted` and fits JSON."""
    for case in bench.cases:
        where, learnt = f"{case.exposure}", getattr(case.defence, "fitted", None)
        demand(bench.subject.fit(*case.owned) == case.defence, f"{where}: fitted twice, two defences")
        demand(case.defence.fit(*case.owned) == case.defence, f"{where}: fitted again, another defence")
        if learnt is None:
            demand(case.defence == bench.subject, f"{where}: what is learnt is not in `fitted`")
            continue
        demand(case.defence is not bench.subject, f"{where}: fitting changes the defence itself")
        kept = tuple(map(tuple, json.loads(json.dumps(learnt))))
        again: Defence = replace(bench.subject, fitted=kept)  # type: ignore[type-var]
        same_answers = same(again.apply(case.inputs, case.answers, bench.principal), case.released)
        demand(kept == learnt and same_answers, f"{where}: what is learnt does not survive a file")


def refuses_before_it_is_fitted(bench: DefenceBench) -> None:
    """A defence that learns raises UsageError when it is asked to defend before."""
    for case in bench.cases:
        if case.defence == bench.subject:
            continue
        try:
            bench.subject.apply(case.inputs, case.answers, bench.principal)
        except UsageError:
            continue
        raise AssertionError(f"{case.exposure}: it answers before it is fitted")


def repeats_are_answered_alike(bench: DefenceBench) -> None:
    """The same input and answer give the same again: asking once more and averaging gains nothing."""
    for case in bench.cases:
        twice = bench.apply(case, np.repeat(np.arange(len(case.inputs)), 2))
        for half in (twice.take(slice(0, None, 2)), twice.take(slice(1, None, 2)), bench.apply(case)):
            demand(same(half, case.released), f"{case.exposure}: a repeat is answered otherwise")


def rows_are_independent(bench: DefenceBench) -> None:
    """An answer does not depend on the batch it travels in, nor on its place there."""
    rng = np.random.default_rng(bench.seed)
    for case in bench.cases:
        order = rng.permutation(len(case.inputs))
        parts = Answers.concat([bench.apply(case, rows) for rows in np.array_split(order, 3)])
        demand(same(parts, case.released.take(order)), f"{case.exposure}: other batches, other answers")


def defends_an_empty_batch(bench: DefenceBench) -> None:
    """No answers in, no answers out, every declared signal there."""
    for case in bench.cases:
        check_answers(bench.apply(case, np.arange(0)), case.declared, 0)


def twice_is_once(bench: DefenceBench) -> None:
    """Applying it to its own answers changes nothing, where `idempotent` is stated."""
    if getattr(type(bench.subject), "idempotent", False):
        for case in bench.cases:
            again = case.defence.apply(case.inputs, case.released, bench.principal)
            demand(same(again, case.released), f"{case.exposure}: a second time, other answers")


def keeps_the_label(bench: DefenceBench) -> None:
    """A label that is answered is the one the target meant, where `keeps_label` is stated."""
    if getattr(type(bench.subject), "keeps_label", False):
        for case in bench.cases:
            if Signal.LABEL in case.released:
                kept = np.array_equal(case.released[Signal.LABEL], case.answers.labels())
                demand(kept, f"{case.exposure}: labels change")


LAWS = (
    stores_only_parameters,
    documented_defence,
    defends_something,
    reveals_what_it_says,
    reveals_no_more,
    leaves_answers_alone,
    fitting_is_repeatable,
    refuses_before_it_is_fitted,
    repeats_are_answered_alike,
    rows_are_independent,
    defends_an_empty_batch,
    twice_is_once,
    keeps_the_label,
)
