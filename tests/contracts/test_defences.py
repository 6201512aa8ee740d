"""What each defence hides, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy import registry
from understudy.defences.label_only import LabelOnly
from understudy.defences.rounding import Round
from understudy.defences.top_k import TopK
from understudy.errors import UsageError
from understudy.guard import Grant, closed, release
from understudy.protocols import Defence
from understudy.testing import victim
from understudy.types import Answers, Exposure, Grain, Signal

NOBODY = np.zeros((0, 4))


def soft(rows: object, signal: Signal = Signal.PROBABILITIES) -> Answers:
    scores = np.array(rows, np.float64)
    return Answers({signal: scores}, scores.shape[1])


def test_label_only_names_the_largest_score_and_the_first_of_equals() -> None:
    released = LabelOnly().apply(NOBODY, soft([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), "k")
    assert released["label"].tolist() == [1, 0]
    assert released.values.keys() == {Signal.LABEL}


def test_label_only_keeps_the_endpoints_own_label() -> None:
    answers = soft([[0.1, 0.7, 0.2]]).replace(Signal.LABEL, np.array([2]))
    assert LabelOnly().apply(NOBODY, answers, "k")["label"].tolist() == [2]


def test_label_only_refuses_a_regression() -> None:
    with pytest.raises(UsageError, match="needs answers that hold a class; this endpoint answers value"):
        LabelOnly().reveals(Exposure.of("value", 1))


def test_top_k_keeps_the_largest_and_the_first_of_equals() -> None:
    released = TopK(2).apply(NOBODY, soft([[0.1, 0.6, 0.3], [0.2, 0.4, 0.4], [0.4, 0.4, 0.2]]), "k")
    assert released["probabilities"].tolist() == [[0, 0.6, 0.3], [0, 0.4, 0.4], [0.4, 0.4, 0]]
    assert TopK(1).apply(NOBODY, soft([[0.3, 0.35, 0.35]]), "k").mask("probabilities").tolist() == [
        [False, True, False]
    ]


def test_among_many_equals_the_first_are_shown() -> None:
    released = TopK(3).apply(NOBODY, soft([[0.1, 0.2] * 100]), "k")
    assert np.flatnonzero(released.mask("probabilities")[0]).tolist() == [1, 3, 5]


def test_a_shown_zero_differs_from_a_withheld_one() -> None:
    released = TopK(2).apply(NOBODY, soft([[1.0, 0.0, 0.0]]), "k")
    assert released.mask("probabilities").tolist() == [[True, True, False]]


def test_top_k_ranks_negative_logits() -> None:
    released = TopK(1).apply(NOBODY, soft([[-5.0, -1.0, -3.0]], Signal.LOGITS), "k")
    assert released["logits"].tolist() == [[0, -1, 0]]
    assert released.labels().tolist() == [1]


@given(hnp.arrays(np.float64, (5, 4), elements=st.floats(-9, 9)), hnp.arrays(np.bool_, (5, 4)), st.integers(1, 6))
def test_top_k_shows_the_largest_of_what_was_shown(scores: np.ndarray, shown: np.ndarray, k: int) -> None:
    answers = Answers({Signal.LOGITS: np.where(shown, scores, 0.0)}, 4, {Signal.LOGITS: shown})
    released = TopK(k).apply(NOBODY, answers, "k")
    left = released.mask("logits")
    assert not (left & ~shown).any()
    assert np.array_equal(left.sum(1), np.minimum(shown.sum(1), k))
    for row in range(5):
        kept, dropped = scores[row][left[row]], scores[row][shown[row] & ~left[row]]
        assert not len(kept) or not len(dropped) or kept.min() >= dropped.max()
        assert np.array_equal(released["logits"][row][left[row]], kept)


def test_top_k_leaves_values_and_labels() -> None:
    exposure = Exposure.of(["label", "value"], 3)
    assert TopK(1).reveals(exposure) == exposure


@pytest.mark.parametrize("k", [0, -1])
def test_top_nothing_is_refused(k: int) -> None:
    with pytest.raises(UsageError, match="use label-only"):
        TopK(k).reveals(Exposure.of("probabilities", 3))


@pytest.mark.parametrize(
    ("k", "before", "after"), [(5, Grain(), Grain(3)), (2, Grain(1, 4), Grain(1, 4)), (1, Grain(2), Grain(1))]
)
def test_top_k_never_claims_more_than_there_is(k: int, before: Grain, after: Grain) -> None:
    assert TopK(k).reveals(Exposure({Signal.LOGITS: before}, 3)).grains == {Signal.LOGITS: after}


def test_round_goes_half_to_even_and_tells_no_sign_of_zero() -> None:
    released = Round(2).apply(NOBODY, soft([[0.125, 0.135, -0.001]], Signal.LOGITS), "k")
    assert released["logits"].tolist() == [[0.12, 0.14, 0.0]]
    assert not np.signbit(released["logits"]).any()


def test_round_to_tens() -> None:
    released = Round(-1).apply(NOBODY, soft([[123.0]], Signal.VALUE), "k")
    assert released["value"].tolist() == [[120.0]]


@pytest.mark.parametrize(
    ("decimals", "before", "after"), [(2, None, 2), (2, 4, 2), (4, 2, 2)], ids=["all", "finer", "coarser"]
)
def test_round_says_the_coarser_of_two(decimals: int, before: int | None, after: int) -> None:
    exposure = Exposure({Signal.VALUE: Grain(None, before), Signal.LABEL: Grain()}, 3)
    assert Round(decimals).reveals(exposure).grains == {Signal.VALUE: Grain(None, after), Signal.LABEL: Grain()}


def test_round_leaves_the_label_even_where_scores_tie_after_it() -> None:
    answers = soft([[0.4996, 0.5004]]).replace(Signal.LABEL, np.array([1]))
    released = Round(2).apply(NOBODY, answers, "k")
    assert released["probabilities"].tolist() == [[0.5, 0.5]]
    assert released["label"].tolist() == [1]


def test_withheld_entries_stay_withheld_behind_rounding() -> None:
    x = victim("probabilities").space.sample(20, np.random.default_rng(0))
    answers = TopK(1).apply(x, victim("probabilities").query(x), "k")
    released = Round(2).apply(x, answers, "k")
    assert np.array_equal(released.mask("probabilities"), answers.mask("probabilities"))
    assert released.mask("probabilities").sum() == 20


def test_a_servers_nan_stays_nan() -> None:
    answers = soft([[np.nan, 1.0]], Signal.VALUE)
    assert np.isnan(Round(1).apply(NOBODY, answers, "k")["value"][0, 0])
    assert TopK(2).apply(NOBODY, soft([[np.nan, 1.0]]), "k").mask("probabilities").all()


class Broken:
    """A defence of the catalogue, fitted or not, whose `apply` raises."""

    def __init__(self, defence: Defence, fault: Exception) -> None:
        self.reveals, self.fit, self.fault = defence.reveals, defence.fit, fault

    def apply(self, inputs: object, answers: Answers, principal: str) -> Answers:
        raise self.fault


@pytest.mark.parametrize("name", registry.names("defences"))
@pytest.mark.parametrize("fault", [ValueError("x"), UsageError("x"), KeyError("x"), MemoryError(), RecursionError()])
@pytest.mark.parametrize("place", [0, 1])
def test_a_defence_that_fails_closes_the_answer_to_the_label(name: str, fault: Exception, place: int) -> None:
    target = victim(["label", "probabilities"])
    x = target.space.sample(9, np.random.default_rng(0))
    chain: list[Defence] = [LabelOnly()] if name == "label-only" else []
    chain.insert(place, Broken(registry.create("defences", name), fault))
    left = target.exposure
    for defence in chain:
        left = defence.reveals(left)
    grant, answers = Grant.of(target.exposure, chain, left), target.query(x)
    with pytest.raises(type(fault)):
        release(grant, x, answers, "k")
    left_over = closed(grant, answers)
    if Signal.LABEL not in grant.exposure.grains:
        assert left_over is None
        return
    assert left_over is not None
    assert left_over.values.keys() == {Signal.LABEL}
    assert np.array_equal(left_over["label"], answers.labels())


@pytest.mark.parametrize("name", ["bins", "noise"])
def test_a_defence_that_was_never_fitted_closes_the_answer_too(name: str) -> None:
    target = victim(["probabilities"])
    x = target.space.sample(9, np.random.default_rng(0))
    chain = [registry.create("defences", name)]
    grant = Grant.of(target.exposure, chain, Exposure.of("probabilities", 3))
    with pytest.raises(UsageError, match=f"{name} is not fitted"):
        release(grant, x, target.query(x), "k")
    assert closed(grant, target.query(x)) is None
