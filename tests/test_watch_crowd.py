"""Following many accounts at once is following each by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import test_watch_forms as forms
from test_watch import account, answer, benign, calibration, noise
from understudy.leak import LeakSketch, Received
from understudy.types import Answers, Array, Signal
from understudy.watch import Queries, State, Watch
from understudy.watch.crowd import FEW, kind, takes


def queries_of(name: str, asks: str, n: int, seed: int) -> Queries:
    """What an account asks: as a customer, as a thief, small steps from one row, for labels alone, or with no inputs on
    record.
    """
    rng = np.random.default_rng(seed)
    if asks == "steps":
        x = np.repeat(benign(seed % 50, 1), n, 0)
        x[np.arange(n), rng.integers(0, 64, n)] += rng.choice([0.0, 0.5, 1.0], n)
    else:
        x = noise(n, seed) if asks == "noise" else benign(seed % 500, max(n, 2))[:n]
    made = account(name, x, "batch" if seed % 3 == 0 else None)
    if asks == "labels":
        told = Answers({Signal.LABEL: made.answers.labels()}, 10)
        return Queries(name, made.party, made.at, made.inputs, told, np.full(n, 0.5))
    return Queries(name, made.party, made.at, None, made.answers) if asks == "blind" else made


def same(one: State, other: State) -> None:
    assert np.array_equal(one.ring, other.ring)
    assert np.array_equal(one.tails, other.tails)
    assert (one.n, one.alarmed_at, one.counts, one.since, one.until) == (
        *(other.n, other.alarmed_at, other.counts, other.since, other.until),
    )
    for name in ("peak", "best", "first"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), 1e-6, 1e-6)
    for name in ("betting", "cash", "log"):
        np.testing.assert_allclose(getattr(one.purse, name), getattr(other.purse, name), 1e-9, 1e-12)
    assert (one.sketch is None) == (other.sketch is None)
    if one.sketch is not None and other.sketch is not None:
        assert one.sketch.to_bytes() == other.sketch.to_bytes()


ACCOUNTS = st.lists(
    st.tuples(
        st.sampled_from(["benign", "noise", "steps", "blind", "labels"]),
        st.sampled_from([0, 1, 7, 60, 520]),  # asked before
        st.lists(st.sampled_from([1, 2, 3, 8, FEW, FEW + 1]), min_size=1, max_size=2),
        st.booleans(),  # approved by a human
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(ACCOUNTS)
def test_many_at_once_are_each_by_itself(accounts: list[tuple[str, int, list[int], bool]]) -> None:
    watch = Watch(calibration())
    together, apart = list[State](), list[State]()
    for i, (_, before, _, approved) in enumerate(accounts):
        state = watch.fresh(f"a{i}", "p", "batch" if i % 3 == 0 else None)
        if before:
            watch.advance(state, queries_of(f"a{i}", "benign", before, i))
        if approved and before >= 150:
            watch.rebaseline(state, "Eli", 1.0)
        together.append(State.from_bytes(state.to_bytes(), watch.calibration.leak))
        apart.append(State.from_bytes(state.to_bytes(), watch.calibration.leak))
    for turn in range(2):
        of = [(i, asks, more[turn]) for i, (asks, _, more, _) in enumerate(accounts) if turn < len(more)]
        batch = [queries_of(f"a{i}", asks, n, 1000 * turn + i) for i, asks, n in of]
        few = [k for k in range(len(of)) if takes(watch.calibration, together[of[k][0]], batch[k])]
        left = watch.advance_each([together[i] for i, *_ in of], batch)
        assert sorted([*few, *left]) == list(range(len(of)))
        for k in left:
            watch.advance(together[of[k][0]], batch[k])
            watch.advance(apart[of[k][0]], batch[k])
        for alike in {kind(batch[k]) for k in few}:
            mine, start = [k for k in few if kind(batch[k]) == alike], 0
            features = watch.features([batch[k] for k in mine])  # of all: a product of matrices rounds by its size
            for k in mine:
                watch.advance(apart[of[k][0]], batch[k], features[start : start + len(batch[k])])
                start += len(batch[k])
    for one, other in zip(together, apart, strict=True):
        same(one, other)


class Refusing(LeakSketch):
    """A sketch that cannot take what was answered."""

    def take(self, received: Received) -> None:
        raise ValueError("refused")


def test_it_leaves_as_it_was_whom_it_cannot_follow() -> None:
    watch = Watch(calibration())
    states = [watch.fresh(f"a{i}", "p") for i in range(5)]
    x = benign(1, 3)
    states[2].sketch = Refusing(watch.calibration.leak)  # type: ignore[arg-type]
    batch = [
        account("a0", x),
        account("somebody else", x),
        account("a2", x),
        Queries("a3", "p", np.arange(3.0), x[:, :5], answer(x)),
        account("a4", x),
    ]
    assert watch.advance_each(states, batch) == [1, 3, 2]
    assert [state.n for state in states] == [3, 0, 0, 0, 3]
    with pytest.raises(ValueError, match="refused"):
        watch.advance(states[2], batch[2])
    states[2].sketch, fresh = None, watch.fresh("a2", "p")
    fresh.sketch = None
    assert states[2].to_bytes() == fresh.to_bytes()
    assert watch.advance_each([], []) == []


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["benign", "template", "words", "odd"]),
            st.sampled_from([0, 1, 7, 40, 530]),  # asked before
            st.lists(st.sampled_from([1, 2, 5, FEW]), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=7,
    )
)
def test_many_accounts_of_texts_are_each_by_itself(accounts: list[tuple[str, int, list[int]]]) -> None:
    watch = Watch(forms.calibration("text"))
    together, apart = list[State](), list[State]()
    for i, (_, before, _) in enumerate(accounts):
        state = watch.fresh(f"a{i}", "p")
        if before:
            watch.advance(state, forms.account("text", f"a{i}", texts_of("benign", before, i)))
        together.append(State.from_bytes(state.to_bytes()))
        apart.append(State.from_bytes(state.to_bytes()))
    for turn in range(3):
        of = [(i, asks, more[turn]) for i, (asks, _, more) in enumerate(accounts) if turn < len(more)]
        batch = [forms.account("text", f"a{i}", texts_of(asks, n, 10 * turn + i)) for i, asks, n in of]
        assert watch.advance_each([together[i] for i, *_ in of], batch) == []
        for (i, *_), queries in zip(of, batch, strict=True):
            watch.advance(apart[i], queries)
    for one, other in zip(together, apart, strict=True):
        assert (one.n, one.counts, one.since, one.until) == (other.n, other.counts, other.since, other.until)
        assert np.array_equal(one.ring[:, :64], other.ring[:, :64])  # hashes, ends and counts of words
        np.testing.assert_allclose(one.ring, other.ring, 0, 1e-5)
        np.testing.assert_allclose(one.first, other.first, 0, 2e-3)  # a distance of nearly nothing rounds
        np.testing.assert_allclose(one.peak, other.peak, 0.01, 0.05)  # and a rank with it


def texts_of(asks: str, n: int, seed: int) -> Array:
    if asks == "words":
        return np.resize(np.random.default_rng(seed).permutation(forms.single_words()), n)
    if asks == "odd":
        return np.array([["", "\ud800", "a", "  "][k % 4] for k in range(n)], object)
    x = forms.benign("text", seed, max(n, 2))[:n]
    return forms.within_template(x) if asks == "template" else x
