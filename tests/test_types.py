"""Exposures are ordered, boxes hold what they draw, answers survive being cut, joined and reduced."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.errors import InputError
from understudy.types import Answers, Box, Estimate, Exposure, Grain, Mixed, Signal, digest

grains = st.builds(Grain, st.none() | st.integers(1, 4), st.none() | st.integers(0, 4))
exposures = st.dictionaries(st.sampled_from(Signal), grains).map(lambda held: Exposure(held, 3))


# exposures


@given(exposures)
def test_an_exposure_reveals_at_most_itself(a: Exposure) -> None:
    assert a.reveals_at_most(a)


@given(exposures, exposures, exposures)
def test_revealing_at_most_is_transitive(a: Exposure, b: Exposure, c: Exposure) -> None:
    if a.reveals_at_most(b) and b.reveals_at_most(c):
        assert a.reveals_at_most(c)


@given(st.sampled_from([s for s in Signal if s is not Signal.LABEL]), grains, grains)
def test_two_grains_of_one_signal_that_reveal_each_other_are_one(signal: Signal, a: Grain, b: Grain) -> None:
    one, two = Exposure({signal: a}, 3), Exposure({signal: b}, 3)
    assert (one.reveals_at_most(two) and two.reveals_at_most(one)) == (a == b)


@given(exposures, exposures)
def test_more_signals_reveal_more(a: Exposure, b: Exposure) -> None:
    assert a.reveals_at_most(Exposure({**b.grains, **a.grains}, 3))


@given(exposures)
def test_nothing_is_the_least(a: Exposure) -> None:
    nothing = Exposure({}, 3)
    assert nothing.reveals_at_most(a)
    assert a.reveals_at_most(nothing) == (not a.grains)


@pytest.mark.parametrize(
    ("less", "more", "kept"),
    [
        ({"label": Grain()}, {"probabilities": Grain(1, 2)}, True),
        ({"probabilities": Grain()}, {"logits": Grain()}, True),
        ({"probabilities": Grain(1, 2)}, {"logits": Grain()}, True),
        ({"probabilities": Grain(1, 2)}, {"logits": Grain(1, 2)}, False),  # a softmax needs every logit
        ({"probabilities": Grain(None, 2)}, {"logits": Grain(None, 2)}, False),  # and needs them unrounded
        ({"logits": Grain()}, {"probabilities": Grain()}, False),
        ({"value": Grain()}, {"logits": Grain()}, False),
        ({"label": Grain()}, {"value": Grain()}, False),
        ({"probabilities": Grain(1)}, {"probabilities": Grain(2)}, True),
        ({"probabilities": Grain(2)}, {"probabilities": Grain(1)}, False),
        ({"probabilities": Grain(1, 4)}, {"probabilities": Grain(2, 2)}, False),
        ({"value": Grain(None, 2)}, {"value": Grain()}, True),
        ({"probabilities": Grain(1, 3, 8)}, {"probabilities": Grain()}, True),
        ({"probabilities": Grain(1, 3, 8)}, {"probabilities": Grain(1, 3)}, True),
        ({"probabilities": Grain(1, 3, 8)}, {"probabilities": Grain(1, 2)}, False),  # 8 numbers, but of 3 decimals
        ({"probabilities": Grain(1, 3)}, {"probabilities": Grain(1, 3, 8)}, False),
        ({"probabilities": Grain(1, None, 9)}, {"probabilities": Grain(1, None, 8)}, False),
        ({"label": Grain()}, {"probabilities": Grain(1, 3, 8)}, True),
    ],
)
def test_what_follows_from_what(less: dict[str, Grain], more: dict[str, Grain], kept: bool) -> None:
    a, b = (Exposure({Signal(s): g for s, g in held.items()}, 3) for held in (less, more))
    assert a.reveals_at_most(b) is kept


def test_an_unknown_signal_meets_the_allowed_ones() -> None:
    with pytest.raises(InputError, match="allowed: label, value"):
        Exposure.of("confidence", 3)


def test_an_exposure_reads_as_a_sentence() -> None:
    exposure = Exposure({Signal.PROBABILITIES: Grain(1, 2), Signal.LABEL: Grain()}, 3)
    assert str(exposure) == "label + probabilities (top-1, 2 decimals)"


# boxes

bounds = st.floats(-1e6, 1e6)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
    low = draw(hnp.arrays(np.float64, shape, elements=bounds | st.just(-math.inf)))
    width = draw(hnp.arrays(np.float64, shape, elements=st.floats(1e-3, 1e6) | st.just(math.inf)))
    with np.errstate(invalid="ignore"):
        high = np.where(np.isneginf(low), draw(bounds), low) + width
    return Box(low, high)


@given(boxes(), st.integers(0, 2**32 - 1), st.integers(0, 20))
def test_a_box_holds_what_it_draws(box: Box, seed: int, n: int) -> None:
    drawn = box.sample(n, np.random.default_rng(seed))
    assert drawn.shape == (n, *box.shape)
    assert np.array_equal(box.check(drawn), drawn)


@given(boxes(), st.data())
def test_a_box_refuses_what_it_does_not_hold(box: Box, data: st.DataObject) -> None:
    x = box.sample(4, np.random.default_rng(0)).reshape(4, -1)
    row, column = data.draw(st.integers(0, 3)), data.draw(st.integers(0, x.shape[1] - 1))
    low, high = box.low.ravel()[column], box.high.ravel()[column]
    outside = [math.nan, math.inf, -math.inf]
    outside += [low - abs(low) * 1e-9 - 1e-9] if np.isfinite(low) else []
    outside += [high + abs(high) * 1e-9 + 1e-9] if np.isfinite(high) else []
    x[row, column] = data.draw(st.sampled_from(outside))
    with pytest.raises(InputError, match=rf"row {row}, column {column} .* 1 row\(s\)"):
        box.check(x.reshape(4, *box.shape))


def test_the_corners_belong_to_the_box() -> None:
    assert len(Box(-1, 1, (2,)).check([[-1, -1], [1, 1]])) == 2


@pytest.mark.parametrize(
    "inputs",
    [[[0.0], [0.0, 1.0]], [["a", "b"]], [0.0, 0.0], 0.0, [[0.0]], [[[0.0, 0.0]]], [[None, 0.0]]],
    ids=["ragged", "text", "one axis", "no axis", "narrow", "three axes", "None"],
)
def test_other_shapes_and_kinds_are_refused(inputs: object) -> None:
    with pytest.raises(InputError):
        Box(-1, 1, (2,)).check(inputs)


def test_a_refusal_does_not_tell_the_input() -> None:
    with pytest.raises(InputError) as refusal:
        Box(-1, 1, (2,)).check([[0.0, 1234.5]])
    assert "1234" not in str(refusal.value)


@pytest.mark.parametrize(
    ("low", "high", "shape"),
    [(0, 0, (2,)), (1, -1, (2,)), (math.nan, 1, (2,)), ([0, 0], [1, 1, 1], (2,)), (0, 1, ()), (0, 1, (0,))],
)
def test_an_impossible_box_is_refused(low: object, high: object, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        Box(low, high, shape)  # type: ignore[arg-type]


def test_boxes_are_equal_when_their_bounds_are() -> None:
    assert Box(-1, 1, (2,)) == Box([-1, -1], [1, 1])
    assert Box(-1, 1, (2,)) != Box(-1, 2, (2,))
    assert Box(-1, 1, (2,)) != Box(-1, 1, (1, 2))


def test_unbounded_coordinates_are_drawn_around_their_bound() -> None:
    x = Box([0, -math.inf, -math.inf, -1], [math.inf, 0, math.inf, 1]).sample(4000, np.random.default_rng(0))
    # Means of 4,000 draws: standard errors below 0.016, so 0.1 is more than 6 of them (false failure < 1e-9).
    assert np.abs(x.mean(0) - [1, -1, 0, 0]).max() < 0.1


# tables


def table() -> Mixed:
    return Mixed([0.5, -math.inf, 0, 0], [3.5, math.inf, 1, 1], integer=[0], categories={2: 4, 3: 3}, missing=[0, 1, 3])


def test_a_table_holds_what_it_draws_and_every_value_is_drawn() -> None:
    space = table()
    x = space.check(space.sample(4000, np.random.default_rng(0)))
    assert [sorted(set(x[~np.isnan(x[:, c]), c])) for c in (0, 2, 3)] == [[1, 2, 3], [0, 1, 2, 3], [0, 1, 2]]
    # Shares of 4,000 draws: standard errors below 0.005, so 0.03 is 6 of them (false failure < 1e-8).
    assert np.abs(np.isnan(x).mean(0) - [0.1, 0.1, 0, 0.1]).max() < 0.03
    assert abs((x[:, 2] == 3).mean() - 0.25) < 0.05


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([1.5, 0, 0, 0], "column 0 is not a whole number"),
        ([4, 0, 0, 0], "column 0 lies outside"),
        ([1, 0, 4, 0], "column 2 lies outside"),
        ([1, 0, math.nan, 0], "column 2 is not finite"),
        ([1, math.inf, 0, 0], "column 1 is not finite"),
        ([1, 0, 0, 0.5], "column 3 is not a whole number"),
    ],
)
def test_a_table_refuses_what_is_in_no_row(row: list[float], why: str) -> None:
    assert len(table().check([[1, 0, 0, 0], [math.nan, math.nan, 3, math.nan]])) == 2
    with pytest.raises(InputError, match=why):
        table().check([row])


def test_the_nearest_row_of_a_table() -> None:
    near = table().nearest(np.array([[9.0, -7.5, 1.6, math.nan]]))
    assert np.array_equal(near, [[3, -7.5, 2, math.nan]], equal_nan=True)


def test_tables_are_equal_when_their_columns_are() -> None:
    assert table() == table()
    assert Mixed(0, 3, (2,)) != Box(0, 3, (2,))
    assert Box(0, 3, (2,)) != Mixed(0, 3, (2,))
    assert Mixed(0, 3, (2,), integer=[0]) != Mixed(0, 3, (2,), integer=[1])
    assert Mixed(0, 1, (2,), categories={0: 2}) != Mixed(0, 1, (2,), integer=[0])


@pytest.mark.parametrize("kinds", [{"integer": [2]}, {"missing": [-1]}, {"categories": {0: 1}}])
def test_an_impossible_table_is_refused(kinds: Any) -> None:
    with pytest.raises(InputError):
        Mixed(0, 9, (2,), **kinds)
    with pytest.raises(InputError):
        Mixed(0.2, 0.9, (1,), integer=[0])


# answers


@st.composite
def some_answers(draw: st.DrawFn, rows: int | None = None) -> Answers:
    n, outputs = draw(st.integers(0, 6)) if rows is None else rows, draw(st.integers(2, 4))
    values: dict[Signal, np.ndarray] = {}
    present: dict[Signal, np.ndarray] = {}
    for signal in draw(st.sets(st.sampled_from(Signal), min_size=1)):
        if signal is Signal.LABEL:
            values[signal] = draw(hnp.arrays(np.int64, n, elements=st.integers(0, outputs - 1)))
            continue
        values[signal] = draw(hnp.arrays(np.float64, (n, outputs), elements=st.floats(-5, 5)))
        if draw(st.booleans()):
            present[signal] = draw(hnp.arrays(np.bool_, (n, outputs)))
            values[signal] = np.where(present[signal], values[signal], 0.0)
    return Answers(values, outputs, present)


@given(some_answers(), st.data())
def test_cut_and_joined_answers_are_the_same(answers: Answers, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answers)), max_size=3)))
    edges = [0, *cuts, len(answers)]
    parts = [answers.take(slice(a, b)) for a, b in pairwise(edges)]
    joined = Answers.concat(parts)
    assert joined.digest() == answers.digest()
    assert joined.outputs == answers.outputs
    assert len(joined) == len(answers)


@given(some_answers(), st.sets(st.sampled_from(Signal)))
def test_only_keeps_what_it_names(answers: Answers, keep: set[Signal]) -> None:
    left = answers.only(keep)
    assert left.values.keys() == answers.values.keys() & keep
    assert left.present.keys() == answers.present.keys() & keep
    assert all(left[s] is answers[s] for s in left.values)


@given(some_answers(rows=3))
def test_taking_rows_takes_their_masks(answers: Answers) -> None:
    taken = answers.take(np.array([2, 0]))
    for signal in answers.values:
        assert np.array_equal(taken[signal], answers[signal][[2, 0]])
        assert np.array_equal(taken.mask(signal), answers.mask(signal)[[2, 0]])


@given(some_answers(rows=3), st.data())
def test_a_digest_notices_any_change(answers: Answers, data: st.DataObject) -> None:
    signal = data.draw(st.sampled_from(sorted(answers.values)))
    changed = answers[signal].copy()
    changed.ravel()[data.draw(st.integers(0, changed.size - 1))] += 1
    assert answers.replace(signal, changed, answers.mask(signal)).digest() != answers.digest()
    mask = answers.mask(signal).copy()
    mask.ravel()[0] ^= True
    assert answers.replace(signal, answers[signal], mask).digest() != answers.digest()


def test_labels_come_from_the_best_there_is() -> None:
    p = np.array([[0.2, 0.8, 0.0], [0.0, 0.0, 0.0]])
    shown = np.array([[True, False, False], [False, False, True]])
    soft = Answers({Signal.PROBABILITIES: p, Signal.LOGITS: -p}, 3)
    assert soft.labels().tolist() == [1, 0]
    assert Answers({Signal.PROBABILITIES: p}, 3, {Signal.PROBABILITIES: shown}).labels().tolist() == [0, 2]
    assert soft.replace(Signal.LABEL, np.array([2, 2])).labels().tolist() == [2, 2]
    assert soft.take(slice(0)).labels().tolist() == []


def test_values_name_no_class() -> None:
    with pytest.raises(InputError, match="no class"):
        Answers({Signal.VALUE: np.zeros((2, 1))}, 1).labels()


def test_answers_of_different_kinds_are_not_joined() -> None:
    one, two = Answers({Signal.VALUE: np.zeros((2, 1))}, 1), Answers({Signal.LABEL: np.zeros(2, np.int64)}, 1)
    with pytest.raises(InputError, match="cannot be joined"):
        Answers.concat([one, two])
    with pytest.raises(InputError, match="no answers"):
        Answers.concat([])


@pytest.mark.parametrize("shape", [(0, 3), (0,), (2, 0)])
def test_empty_arrays_have_a_digest_of_their_shape(shape: tuple[int, ...]) -> None:
    assert digest(np.zeros(shape)) != digest(np.zeros((*shape, 1)))


def test_a_digest_depends_on_type_shape_and_order_but_not_on_layout() -> None:
    a = np.arange(6.0).reshape(2, 3)
    assert len({digest(a), digest(a.astype(np.float32)), digest(a.reshape(3, 2)), digest(a[::-1])}) == 4
    assert digest(np.asfortranarray(a)) == digest(a)
    assert digest("ab", "c") != digest("a", "bc")


def test_an_estimate_reads_as_a_sentence() -> None:
    assert str(Estimate(0.98765, 0.97, 0.99, 500)) == "0.9877 (0.97 to 0.99, n = 500)"
