"""The laws of attacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from understudy.protocols import Attack, Extraction, Pool, Target, Verdict
from understudy.testing.contract import check_answers, demand, names_signals, random_state, says, stores_only_parameters
from understudy.testing.models import EmptyPool, SpacePool, victim
from understudy.types import IMPLIES, Answers, Ask, Exposure, Floats, Signal, Space
from understudy.wrappers import Metered


@dataclass
class _Counting:
    """Counts what really reaches the model, whatever the meter above it says."""

    target: Target
    asked: int = 0

    @property
    def space(self) -> Space:
        return self.target.space

    @property
    def exposure(self) -> Exposure:
        return self.target.exposure

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        x = self.space.check(inputs)
        self.asked += len(x)
        return self.target.query(x, ask)


@dataclass
class Trial:
    """One run of an attack: what it yielded, what the meter stood at then, and what really reached the model."""

    target: Target
    budget: int
    yielded: list[tuple[Extraction, int, int]] = field(default_factory=list)  # extraction, meter, asked
    asked: int = 0
    error: Exception | None = None
    shared_randomness: bool = False


@dataclass(frozen=True)
class AttackBench:
    """An attack, run against each target with budgets 0, 1, a drawn one, and all of `budget`.

    By default the targets are small linear models, one per signal from which the attack can work.
    """

    factory: Callable[[], Attack]
    targets: Sequence[Target] = ()
    budget: int = 300
    seed: int = 0

    @cached_property
    def subject(self) -> Attack:
        return self.factory()

    @cached_property
    def trials(self) -> list[Trial]:
        rng = np.random.default_rng(self.seed)
        budgets = [0, 1, int(rng.integers(2, max(self.budget, 3))), self.budget]
        return [self.run(target, budget) for target in self._targets for budget in budgets]

    @property
    def full(self) -> list[Trial]:
        """The trials with the whole budget, one per target."""
        return [trial for trial in self.trials if trial.budget == self.budget]

    @property
    def _targets(self) -> Sequence[Target]:
        return self.targets or [victim(s, self.seed) for s in Signal if IMPLIES[s] & self.subject.needs]

    def run(
        self,
        target: Target,
        budget: int,
        *,
        pool: Pool | None = None,
        stop_after: int | None = None,
        rivals: bool = False,
    ) -> Trial:
        """One run by a fresh attack.

        `stop_after` that many extractions the caller loses interest. `rivals`: others spend a third of what is left
        whenever there is an extraction.
        """
        trial, counting, before = Trial(target, budget), _Counting(target), random_state()
        meter = Metered(counting, budget)
        try:
            extractions = iter(self.factory().run(meter, pool or SpacePool(target.space), self._rng()))
            for extraction in extractions:
                trial.yielded.append((extraction, meter.spent, counting.asked))
                if len(trial.yielded) == stop_after:
                    _close(extractions)
                    break
                if rivals:
                    meter.query(target.space.sample(-(-meter.remaining // 3), self._rng()))
        except Exception as error:  # judged by a law
            trial.error = error
        trial.asked, trial.shared_randomness = counting.asked, random_state() != before
        return trial

    def _rng(self) -> Generator:
        return np.random.default_rng(self.seed)


def _close(extractions: Iterator[Extraction]) -> None:
    close = getattr(extractions, "close", None)
    if close is not None:
        close()


def documented_attack(bench: AttackBench) -> None:
    """The docstring says what the attack extracts, needs and costs, whose it is, and how it differs from the paper."""
    says(bench, ("Extracts", "Needs", "Cost", "Reference", "Differs from the paper"))


def declares_needs(bench: AttackBench) -> None:
    """`needs` is a frozenset of signals, `adapts_to` a frozenset of names of defences."""
    names_signals(bench.subject)
    adapts = getattr(type(bench.subject), "adapts_to", None)
    named = isinstance(adapts, frozenset) and all(isinstance(name, str) for name in adapts)
    demand(named, f"`adapts_to` is {adapts!r}, not a frozenset of names")


def never_overspends(bench: AttackBench) -> None:
    """What reaches the model is never more than the budget."""
    for trial in bench.trials:
        demand(trial.asked <= trial.budget, f"budget {trial.budget}: {trial.asked} queries reached the model")


def ends_quietly(bench: AttackBench) -> None:
    """The run ends when the budget does; no error escapes, BudgetExceeded least of all."""
    for trial in bench.trials:
        where = f"budget {trial.budget}, {trial.target.exposure}"
        demand(trial.error is None, f"{where}: {type(trial.error).__name__} escaped ({trial.error})")


def finds_a_copy(bench: AttackBench) -> None:
    """The whole budget buys at least one substitute from each target."""
    for trial in bench.full:
        found = any(extraction.substitute is not None for extraction, *_ in trial.yielded)
        demand(found, f"no substitute from {trial.target.exposure} with {trial.budget} queries")


def spent_is_the_meter(bench: AttackBench) -> None:
    """Each substitute says what the meter stood at when it was yielded, which is what was really asked."""
    for trial in bench.trials:
        for extraction, meter, asked in trial.yielded:
            said = extraction.spent
            demand(said == meter == asked, f"says {said} spent; the meter says {meter}, and {asked} were asked")


def stopping_early_is_free(bench: AttackBench) -> None:
    """A caller who stops listening is asked for nothing more."""
    target = bench.full[0].target
    trial = bench.run(target, bench.budget, stop_after=1)
    demand(trial.error is None, f"stopping raises {trial.error!r}")
    if trial.yielded:
        asked = trial.yielded[0][2]
        demand(trial.asked == asked, f"{trial.asked - asked} queries were asked after the caller stopped")


def shares_its_meter(bench: AttackBench) -> None:
    """What is left may have been spent by another attack between two substitutes; that is no error either."""
    target = bench.full[0].target
    trial = bench.run(target, bench.budget, rivals=True)
    demand(trial.error is None, f"when others spend too, {type(trial.error).__name__} escapes ({trial.error})")
    demand(trial.asked <= trial.budget, f"budget {trial.budget}: {trial.asked} queries reached the model")


def needs_no_pool(bench: AttackBench) -> None:
    """An attacker without any inputs is no error, and never more expensive."""
    target = bench.full[0].target
    trial = bench.run(target, bench.budget // 3, pool=EmptyPool(target.space))
    demand(trial.error is None, f"an empty pool raises {trial.error!r}")
    demand(trial.asked <= trial.budget, f"budget {trial.budget}: {trial.asked} queries reached the model")


def same_seed_same_copy(bench: AttackBench) -> None:
    """The same generator and target give the same substitutes at the same cost."""
    first = bench.full[0]
    again = bench.run(first.target, first.budget)
    probes = first.target.space.sample(50, np.random.default_rng(bench.seed))
    one, two = ([_seen(extraction, probes) for extraction, *_ in trial.yielded] for trial in (first, again))
    demand(one == two, "a second run with the same seed yields other substitutes")


def _seen(extraction: Extraction, probes: Floats) -> tuple[int, Verdict, str]:
    copy = extraction.substitute
    return extraction.spent, extraction.verdict, "" if copy is None else copy.query(probes).digest()


def verdicts_are_honest(bench: AttackBench) -> None:
    """No substitute if and only if the target is not of the family; never exact from labels alone."""
    for trial in bench.trials:
        for extraction, *_ in trial.yielded:
            none, verdict = extraction.substitute is None, extraction.verdict
            demand(none == (verdict is Verdict.NOT_OF_FAMILY), f"{verdict.value}, with substitute {none and 'None'}")
            labels = trial.target.exposure.signals == {Signal.LABEL}
            demand(not (labels and verdict is Verdict.EXACT), "calls a copy exact that was made from labels alone")


def substitutes_are_targets(bench: AttackBench) -> None:
    """A substitute answers the target's inputs, over the target's outputs, as its own exposure says."""
    for trial in bench.full:
        probes = trial.target.space.sample(7, np.random.default_rng(bench.seed))
        for extraction, *_ in trial.yielded:
            copy = extraction.substitute
            if copy is not None:
                check_answers(copy.query(probes), copy.exposure, len(probes), slack=1e-6)
                outputs = trial.target.exposure.outputs
                demand(copy.exposure.outputs == outputs, f"{copy.exposure.outputs} outputs, the target has {outputs}")


def notes_are_plain(bench: AttackBench) -> None:
    """Notes can be written down: numbers, texts, and lists or mappings of them."""
    for trial in bench.trials:
        for extraction, *_ in trial.yielded:
            json.dumps(dict(extraction.notes))


def leaves_shared_randomness_alone(bench: AttackBench) -> None:
    """The generators that everybody shares are not drawn from."""
    suspects = [trial for trial in bench.trials if trial.shared_randomness]
    # Importing a library may draw once; only what draws again is the attack's doing.
    drawn = any(bench.run(trial.target, trial.budget).shared_randomness for trial in suspects)
    demand(not drawn, "numpy's or Python's shared generator was used; draw from the generator that is given")


LAWS = (
    stores_only_parameters,
    documented_attack,
    declares_needs,
    never_overspends,
    ends_quietly,
    finds_a_copy,
    spent_is_the_meter,
    stopping_early_is_free,
    shares_its_meter,
    needs_no_pool,
    same_seed_same_copy,
    verdicts_are_honest,
    substitutes_are_targets,
    notes_are_plain,
    leaves_shared_randomness_alone,
)
