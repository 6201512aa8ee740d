"""Budgets are never overspent, answers are kept before they are used, and nothing leaves that is not granted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.defences.label_only import LabelOnly
from understudy.defences.rounding import Round
from understudy.defences.top_k import TopK
from understudy.errors import (
    AnswerError,
    BudgetExceeded,
    InputError,
    RecordError,
    ReplayDiverged,
    TargetError,
    UsageError,
)
from understudy.protocols import Defence, Target
from understudy.store import CellLog, Store
from understudy.testing import check_answers, check_target, linear, victim
from understudy.types import Answers, Ask, Exposure, Grain, Signal
from understudy.wrappers import Defended, Metered, Recorded, Replayed, in_flight


@dataclass
class Watched:
    """A target that notes what reaches it; `trouble` may raise, given the number of the call."""

    target: Target = field(default_factory=lambda: victim(["label", "probabilities"]))
    trouble: Callable[[int], None] = lambda call: None
    calls: list[np.ndarray] = field(default_factory=list)

    @property
    def space(self) -> Any:
        return self.target.space

    @property
    def exposure(self) -> Exposure:
        return self.target.exposure

    @property
    def rows(self) -> int:
        return sum(map(len, self.calls))

    def query(self, inputs: Any, ask: Ask | None = None) -> Answers:
        self.calls.append(np.asarray(inputs))
        self.trouble(len(self.calls))
        return self.target.query(inputs, ask)


def some(n: int, seed: int = 0) -> np.ndarray:
    return linear().space.sample(n, np.random.default_rng(seed))


# Metered


@given(st.integers(0, 60), st.lists(st.integers(0, 30)))
def test_no_sequence_of_queries_overspends(budget: int, sizes: list[int]) -> None:
    watched = Watched()
    meter = Metered(watched, budget)
    for size in sizes:
        before = meter.spent
        try:
            answers = meter.query(some(size))
        except BudgetExceeded:
            assert before + size > budget
            assert meter.spent == before
        else:
            assert len(answers) == size
            assert meter.spent == before + size
        assert watched.rows == meter.spent == budget - meter.remaining
        assert 0 <= meter.spent <= budget


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30))))
def test_a_batch_is_charged_once(budget: int, charges: list[tuple[int, int]]) -> None:
    meter, paid = Metered(Watched(), budget), {}
    for batch, n in charges:
        try:
            meter.charge(batch, n)
        except BudgetExceeded:
            assert batch not in paid
        else:
            paid.setdefault(batch, n)
        assert meter.spent == sum(paid.values()) <= budget


@pytest.mark.parametrize("inputs", [[[np.nan] * 4], [[2.0] * 4], [[0.0] * 3], [[0.0], [0.0, 1.0]]])
def test_bad_inputs_cost_nothing(inputs: Any) -> None:
    watched = Watched()
    meter = Metered(watched, 10)
    with pytest.raises(InputError):
        meter.query(inputs)
    assert meter.spent == 0
    assert not watched.calls


def test_a_query_that_fails_is_paid_for() -> None:
    def fail(call: int) -> None:
        raise TargetError("gone")

    meter = Metered(Watched(trouble=fail), 10)
    with pytest.raises(TargetError):
        meter.query(some(4))
    assert meter.spent == 4


def test_the_refusal_says_what_is_left() -> None:
    meter = Metered(Watched(), 10)
    meter.query(some(7))
    with pytest.raises(BudgetExceeded, match="batch 1 asks 4 queries; 3 of 10 are left"):
        meter.query(some(4))


# Recorded


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.create(tmp_path / "run")
    yield made
    made.close()


def test_answers_are_on_record_before_they_are_seen(store: Store) -> None:
    log = store.cell("a")
    answers = Recorded(Watched(), log).query(some(5))
    kept = log.recall(0)
    assert kept is not None
    assert kept[1].digest() == answers.digest()


def test_a_batch_is_on_record_before_it_is_asked(store: Store) -> None:
    seen = []
    watched = Watched(trouble=lambda call: seen.append(store.counts()["a"]["asked"]))
    Recorded(watched, store.cell("a"), batch=2).query(some(6))
    assert seen == [2, 4, 6]


@pytest.mark.parametrize("batch", [None, 1, 3, 100])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_cutting_into_batches_changes_no_answer(store: Store, batch: int | None, concurrency: int) -> None:
    watched = Watched()
    answers = Recorded(watched, store.cell("a"), batch, concurrency).query(some(10))
    assert np.allclose(answers["probabilities"], victim("probabilities").query(some(10))["probabilities"], atol=1e-12)
    assert max(map(len, watched.calls)) == min(batch or 10, 10)
    store.verify()


def test_only_what_is_not_on_record_is_asked(store: Store) -> None:
    first, second = Watched(), Watched()
    recorded = Recorded(first, store.cell("a"), batch=3)
    bought = [recorded.query(some(7, seed)).digest() for seed in range(3)]
    again = Recorded(second, store.cell("a"), batch=3)
    assert [again.query(some(7, seed)).digest() for seed in range(3)] == bought
    assert not second.calls
    again.query(some(2, 3))
    assert second.rows == 2
    assert store.counts()["a"]["asked_again"] == 0


@given(st.lists(st.integers(0, 9), max_size=5), st.integers(1, 4), st.integers(0, 20), st.data())
def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], batch: int, stop: int, data: st.DataObject
) -> None:
    """Whatever was answered before the interruption is not asked again, and the answers are the same ones."""

    def interrupt(call: int) -> None:
        if call > stop:
            raise TargetError("interrupted")

    store = Store.create(tmp_path_factory.mktemp("runs") / "run")
    concurrency = data.draw(st.integers(1, 3))
    broken, whole = Watched(trouble=interrupt), Watched()
    recorded = Recorded(broken, store.cell("a"), batch, concurrency)
    try:
        for seed, size in enumerate(sizes):
            recorded.query(some(size, seed))
    except TargetError:
        pass
    answered = store.counts().get("a", {}).get("answered", 0)
    resumed = Recorded(whole, store.cell("a"), batch, concurrency)
    for seed, size in enumerate(sizes):
        answers = resumed.query(some(size, seed))
        assert np.array_equal(answers["label"], victim("label").query(some(size, seed))["label"])
    assert whole.rows == sum(sizes) - answered
    assert store.counts().get("a", {"asked": 0})["asked"] == sum(sizes)
    assert store.counts().get("a", {"asked_again": 0})["asked_again"] <= batch * concurrency
    store.verify()
    store.close()


@pytest.mark.parametrize(
    ("inputs", "ask"), [(some(4, 1), None), (some(3), None), (some(4), Ask(top_k=1)), (some(4)[::-1], None)]
)
def test_a_divergence_is_marked_and_the_record_kept(store: Store, inputs: np.ndarray, ask: Ask | None) -> None:
    bought = Recorded(Watched(), store.cell("a")).query(some(4)).digest()
    watched = Watched()
    with pytest.raises(ReplayDiverged, match="batch 0"):
        Recorded(watched, store.cell("a")).query(inputs, ask)
    assert store.marks() == [("a", 0, "diverged")]
    assert not watched.calls
    kept = store.cell("a").recall(0)
    assert kept is not None
    assert kept[1].digest() == bought
    store.verify()


def test_an_answer_that_cannot_be_used_is_kept_and_named_by_its_batch(store: Store) -> None:
    def fail(call: int) -> None:
        if call == 2:
            raise AnswerError("not JSON", b"<html>bought</html>")

    with pytest.raises(AnswerError, match=r"batch 1 \(3 queries\): not JSON") as failure:
        Recorded(Watched(trouble=fail), store.cell("a"), batch=3).query(some(9))
    assert failure.value.raw == b"<html>bought</html>"
    assert store.failures() == [("a", 1, "not JSON")]
    assert store.counts()["a"]["answered"] == 3


def test_answers_come_in_the_order_of_the_questions_however_slow_they_are(store: Store) -> None:
    class Sluggish(Watched):
        def query(self, inputs: Any, ask: Ask | None = None) -> Answers:
            time.sleep(0.02 * float(np.asarray(inputs)[0, 0] < 0))
            return super().query(inputs, ask)

    x = some(24)
    answers = Recorded(Sluggish(), store.cell("a"), batch=2, concurrency=4).query(x)
    assert np.allclose(answers["probabilities"], victim("probabilities").query(x)["probabilities"], atol=1e-12)
    store.verify()


def test_no_more_than_the_limit_are_in_flight() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def job() -> Answers:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return Answers({}, 1)

    assert len(list(in_flight([job] * 12, 3))) == 12
    assert most == 3


def test_after_a_failure_no_further_batch_starts_and_those_in_flight_are_kept(store: Store) -> None:
    started, x = list[Any](), some(20)

    class Failing(Watched):
        def query(self, inputs: Any, ask: Ask | None = None) -> Answers:
            started.append(inputs)
            if np.array_equal(inputs, x[:1]):
                raise TargetError("gone")
            time.sleep(0.05)
            return super().query(inputs, ask)

    with pytest.raises(TargetError):
        Recorded(Failing(), store.cell("a"), batch=1, concurrency=3).query(x)
    assert len(started) == 3
    assert store.counts()["a"]["answered"] == 2


# Replayed


def test_a_replay_needs_no_target_and_changes_nothing(store: Store) -> None:
    bought = Recorded(Watched(), store.cell("a"), batch=3).query(some(7))
    counts = store.counts()
    replay = Replayed(store.cell("a"), linear().space, bought_exposure(), batch=3)
    assert replay.query(some(7)).digest() == bought.digest()
    with pytest.raises(RecordError, match="never answered"):
        replay.query(some(2, 9))
    with pytest.raises(ReplayDiverged):
        Replayed(store.cell("a"), linear().space, bought_exposure(), batch=3).query(some(7, 5))
    assert store.counts() == counts
    assert store.marks() == []
    store.verify()


def bought_exposure() -> Exposure:
    return Exposure.of(["label", "probabilities"], 3)


# Defended

SIGNALS = [Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS]
a_defence = st.builds(TopK, st.integers(1, 4)) | st.builds(Round, st.integers(0, 4)) | st.builds(LabelOnly)
a_grain = st.builds(Grain, st.none() | st.integers(1, 3), st.none() | st.integers(0, 4))


@given(
    st.sets(st.sampled_from(SIGNALS), min_size=1),
    st.lists(a_defence, max_size=3),
    st.dictionaries(st.sampled_from(Signal), a_grain, min_size=1),
    st.none() | st.builds(Ask, st.none() | st.frozensets(st.sampled_from(Signal)), st.none() | st.integers(1, 9)),
)
def test_nothing_leaves_that_is_not_granted(
    answered: set[Signal], defences: list[Defence], granted: dict[Signal, Grain], ask: Ask | None
) -> None:
    """Either the manifest's promise is kept to the entry and decimal, or the stack refuses to exist."""
    grant = Exposure(granted, 3)
    try:
        defended = Defended(victim(sorted(answered)), defences, "k", grant)
    except UsageError:
        return
    answers = defended.query(some(9), ask)
    assert answers.values.keys() <= granted.keys()
    assert defended.exposure.reveals_at_most(grant)
    check_answers(answers, defended.exposure, 9)


@pytest.mark.parametrize(
    ("defences", "granted"),
    [
        ([], {Signal.PROBABILITIES: Grain(1, 2)}),
        ([Round(3)], {Signal.PROBABILITIES: Grain(None, 2)}),
        ([TopK(2)], {Signal.PROBABILITIES: Grain(1)}),
        ([LabelOnly()], {Signal.PROBABILITIES: Grain()}),
        ([], {Signal.LOGITS: Grain()}),
    ],
)
def test_a_stack_that_would_show_more_or_less_is_refused(defences: list[Defence], granted: dict[Any, Grain]) -> None:
    with pytest.raises(UsageError, match="is granted, but"):
        Defended(victim("probabilities"), defences, "k", Exposure(granted, 3))


def test_a_granted_label_is_the_targets_own_before_rounding() -> None:
    grant = Exposure({Signal.LABEL: Grain(), Signal.PROBABILITIES: Grain(None, 0)}, 3)
    defended = Defended(victim("probabilities"), [Round(0)], "k", grant)
    x = some(300)
    assert np.array_equal(defended.query(x)["label"], victim("label").query(x)["label"])


def test_the_audited_stack_is_a_target_that_keeps_its_contract(store: Store) -> None:
    grant = Exposure({Signal.LABEL: Grain(), Signal.PROBABILITIES: Grain(1, 2)}, 3)
    defended = Defended(victim("probabilities"), [TopK(1), Round(2)], "k", grant)
    log: CellLog = store.cell("a")
    check_target(Metered(Recorded(defended, log, batch=5), 1000), some(12), np.random.default_rng(0))
