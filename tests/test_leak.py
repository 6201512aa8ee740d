"""The leak meter on real digits: what it reads, what adds up exactly, what is not known."""

from __future__ import annotations

from functools import cache, reduce

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from understudy.balanced import Balanced, new_key
from understudy.errors import UsageError
from understudy.leak import LeakMeter, LeakSketch
from understudy.types import Answers, Floats, Signal

DIGITS, TRUTH = load_digits(return_X_y=True)
OWNED = DIGITS[:700]


@cache
def model() -> LogisticRegression:
    return LogisticRegression(max_iter=300).fit(OWNED / 16, TRUTH[:700])


def answer(x: Floats) -> Answers:
    return Answers({Signal.PROBABILITIES: model().predict_proba(x / 16)}, 10)


def told(x: Floats) -> Answers:
    return Answers({Signal.LABEL: answer(x).labels()}, 10)


@cache
def fitted() -> LeakMeter:
    return LeakMeter.fit(OWNED, answer(OWNED), np.random.default_rng(5), features=64)


def test_the_meter_rises_with_what_was_received_and_merges_exactly() -> None:
    meter = fitted()
    few, many, whole = meter.sketch(), meter.sketch(), meter.sketch()
    x = DIGITS[700:1500]
    few.add(x[:30], answer(x[:30]))
    for part in np.array_split(np.arange(30, 800), 9):
        many.add(x[part], answer(x[part]))
    whole.add(x, answer(x))
    merged = few.merge(many)
    low, high = meter.raw(few), meter.raw(whole)
    assert low["label"] < high["label"]
    assert high["probability"] > 0.9
    assert meter.raw(merged) == pytest.approx(high, abs=0.02)
    sample, sums = whole.sums()
    same, others = merged.sums()
    for name, pair in others.items():
        for mine, theirs in zip(pair, sums[name], strict=True):
            assert np.allclose(mine, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
    assert len(sample) == len(same) == 10 * (512 // 10)
    for part in ("rows", "labels", "ranks"):
        assert np.array_equal(getattr(same, part), getattr(sample, part))
    assert few.n == 30


def test_a_balanced_sample_is_the_same_whoever_saw_what_and_when() -> None:
    rng = np.random.default_rng(0)
    x, told = rng.normal(size=(900, 3)).astype(np.float32), (rng.random(900) < 0.05).astype(int)
    key = new_key(3, rng)
    whole = Balanced.of(x, told, key, 20)
    assert np.bincount(whole.labels).tolist() == [20, 20]
    order = rng.permutation(1200) % 900  # some twice
    parts = [Balanced.of(x[rows], told[rows], key, 20) for rows in np.array_split(order, 7)]
    merged = reduce(lambda a, b: b.plus(a, 20), parts)
    assert np.array_equal(merged.rows, whole.rows)
    assert np.array_equal(merged.ranks, whole.ranks)
    picked = np.concatenate([Balanced.of(x, told, new_key(3, rng), 20).rows[:20, 0] for _ in range(100)])
    assert abs(picked.astype(float).mean()) < 0.08  # uniform within the class: 2,000 draws, sd 1
    assert not np.array_equal(Balanced.of(x, told, new_key(3, rng), 20).ranks, whole.ranks)


def test_far_queries_with_few_answers_of_most_classes_are_not_underrated() -> None:
    """8,000 labels of noise: a few hundredths are of the rarer digits, and copies agree on three quarters."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 16, (8000, 64))
    meter = LeakMeter.fit(OWNED, told(OWNED), rng, held_out=(DIGITS[1200:], told(DIGITS[1200:])))
    sketch = meter.sketch()
    sketch.add(noise, told(noise))
    thief = LogisticRegression(max_iter=200).fit(noise / 16, told(noise).labels())
    real = (thief.predict(DIGITS[1200:] / 16) == told(DIGITS[1200:]).labels()).mean()
    assert real > 0.7
    assert abs(meter.raw(sketch)["label"] - real) < 0.12


def test_probabilities_do_not_colour_what_labels_teach() -> None:
    meter = fitted()
    x = DIGITS[700:900]
    soft, hard = meter.sketch(), meter.sketch()
    soft.add(x, answer(x))
    hard.add(x, told(x))
    assert meter.raw(soft)["label"] == meter.raw(hard)["label"] < meter.raw(soft)["probability"]


def test_equations_solved_from_far_queries_are_seen() -> None:
    """Probabilities of 1e-30 are equations as good as any; the meter takes them as they are."""
    from understudy.testing import linear

    steep, rng = linear(features=8), np.random.default_rng(1)
    x = rng.uniform(-1, 1, (400, 8))
    meter = LeakMeter.fit(x, steep.query(x), rng)
    sketch = meter.sketch()
    far = 8 * rng.standard_normal((60, 8))
    logits = far @ steep.weights.T + steep.bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    sketch.add(far, Answers({Signal.PROBABILITIES: p / p.sum(1, keepdims=True)}, 3))
    assert meter.raw(sketch)["probability"] > 0.97


def test_a_sketch_survives_a_file_and_small_accounts_keep_rows() -> None:
    meter = fitted()
    small = meter.sketch()
    small.add(DIGITS[:20], answer(DIGITS[:20]))
    assert len(small.to_bytes()) < 9000
    again = LeakSketch.from_bytes(small.to_bytes(), meter)
    small.add(DIGITS[20:90], answer(DIGITS[20:90]))
    again.add(DIGITS[20:90], answer(DIGITS[20:90]))
    assert meter.raw(small) == meter.raw(again)


def test_answers_of_another_models_classes_are_refused_and_leave_no_trace() -> None:
    x, meter = load_digits().data[:60], fitted()
    sketch = meter.sketch()
    sketch.add(x, answer(x))
    before = sketch.to_bytes()
    with pytest.raises(UsageError, match="made for 10 classes"):
        sketch.add(x, Answers({Signal.LABEL: np.full(60, 10)}, 11))
    with pytest.raises(UsageError, match="made for 10 classes"):
        sketch.add(x, Answers({Signal.PROBABILITIES: np.full((60, 3), 1 / 3)}, 3))
    assert sketch.to_bytes() == before


def test_labels_alone_give_one_bracket_and_the_wording_names_its_interval() -> None:
    meter = fitted()
    sketch = meter.sketch()
    x = DIGITS[700:1000]
    sketch.add(x, told(x))
    leak = meter.read(sketch)
    assert leak.probability is None
    assert (leak.label.low, leak.label.high, leak.label.n) == (0.0, 1.0, 300)  # not held against substitutes yet
    assert f"could have learned an estimated {leak.label.value:.2f} of the model" in str(leak)


def test_readings_are_lifted_by_what_trained_copies_of_that_size_have_above_them() -> None:
    meter = fitted()
    readings = [{"label": 0.05 * i} for i in range(12)]
    real = [{"label": r["label"] + more} for r, more in zip(readings, [0.0, 0.02, 0.1] * 4, strict=True)]
    told = meter.calibrated(readings, real, [50, 200, 800] * 4, ["a"] * 6 + ["b"] * 6)
    truth = told.truths["label"]
    assert [truth.read(0.4, n, 10**6).value for n in (1, 50, 200, 800)] == pytest.approx([0.4, 0.4, 0.42, 0.5])
    assert 0.42 < truth.read(0.4, 400, 10**6).value < 0.5
    assert truth.error == pytest.approx(0, abs=1e-9)
    assert truth.read(0.4, 800, 10**6).high < 0.51
    assert truth.read(0.4, 49, 10**6).low == 0  # nothing so small was tried
    assert truth.read(0.4, 49, 10**6).high == 1
    assert truth.read(0.4, 801, 10**6).high == 1  # nothing of that size was tried
    assert "probability" not in told.truths


def test_what_few_queries_taught_is_known_less_well() -> None:
    rng, meter = np.random.default_rng(1), fitted()
    sizes = [50, 200, 800] * 40
    real = [{"label": 0.5 + rng.normal(0, {50: 0.2, 200: 0.05, 800: 0.01}[n])} for n in sizes]
    told = meter.calibrated([{"label": 0.5}] * 120, real, sizes, ["a", "b", "c", "d"] * 30)
    truth = told.truths["label"]
    assert truth.read(0.5, 800, 100).high - truth.read(0.5, 800, 100).low > 0.16  # 100 rows cannot tell it closer
    widths = [(e := truth.read(0.5, n, 10**6)).high - e.low for n in (50, 100, 200, 800)]
    assert widths == sorted(widths, reverse=True)
    assert widths == pytest.approx([2 * 1.645 * s for s in (0.2, 0.146, 0.05, 0.01)], rel=0.25)
    again = LeakMeter.of(*told.parts()).truths["label"]
    assert again.read(0.3, 300, 10**6) == truth.read(0.3, 300, 10**6)
