"""Bins and noise: what they let through, entry by entry, and what breaks them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.defences.bins import Bins
from understudy.defences.noise import Noise
from understudy.defences.rounding import Round
from understudy.defences.top_k import TopK
from understudy.errors import AnswerError, UsageError
from understudy.testing import linear
from understudy.types import Answers, Exposure, Grain, Signal

NOBODY = np.zeros((0, 4))
MODEL = linear(3, features=16)
OWNED = MODEL.space.sample(500, np.random.default_rng(0))
ASKED = MODEL.space.sample(60, np.random.default_rng(1))
FITTED = Noise(scale=0.3).fit(OWNED, MODEL.query(OWNED))
P, L = Signal.PROBABILITIES, Signal.LABEL


def soft(rows: object, signal: Signal = P) -> Answers:
    scores = np.array(rows, np.float64)
    return Answers({signal: scores}, scores.shape[1])


def binary(confidence: object) -> Answers:
    p = np.array(confidence, np.float64)
    return soft(np.stack([1 - p, p], 1))


# bins


def test_a_bin_shows_the_mean_score_of_the_owners_answers_in_it() -> None:
    fitted = Bins(bins=2, decimals=None).fit(NOBODY, binary([0.6, 0.7, 0.9, 0.98]))
    released = fitted.apply(NOBODY, binary([0.55, 0.75, 0.97, 1.0]), "k")
    assert released[P][:, 1] == pytest.approx([0.65, 0.65, 0.94, 0.94])
    assert (released[P][:, 0] == 0).all()
    assert released.mask(P).tolist() == [[False, True]] * 4


def test_fixed_edges_are_kept_and_an_empty_bin_shows_its_middle() -> None:
    fitted = Bins(bins=4, edges=(0.6, 0.8, 0.9), decimals=2).fit(NOBODY, binary([0.55, 0.57, 0.7, 0.7, 1.0, 1.0]))
    assert fitted.fitted == ((0.6, 0.8, 0.9), (0.56, 0.7, 0.85, 1.0))
    assert fitted.reveals(Exposure.of("probabilities", 2)).grains == {P: Grain(1, 2, 4)}


@given(hnp.arrays(np.float64, 40, elements=st.floats(0.5, 1)), st.integers(2, 12))
def test_bins_rise_with_the_score_and_are_no_more_than_was_said(scores: np.ndarray, bins: int) -> None:
    fitted = Bins(bins).fit(NOBODY, binary(scores))
    shown = fitted.apply(NOBODY, binary(np.linspace(0.5, 1, 200)), "k")[P].max(1)
    assert (np.diff(shown[1:]) >= 0).all()
    assert len(np.unique(shown)) <= bins


def test_the_class_that_is_shown_is_the_one_the_endpoint_answered() -> None:
    fitted = Bins(2).fit(NOBODY, binary([0.6, 0.7, 0.9, 0.98]))
    cautious = binary([0.3, 0.7]).replace(L, np.array([1, 1]))  # class 1 from a threshold of 0.25 on
    released = fitted.apply(NOBODY, cautious, "k")
    assert released.mask(P).tolist() == [[False, True]] * 2
    assert released.only([P]).labels().tolist() == [1, 1]
    withheld = TopK(1).apply(NOBODY, cautious, "k")
    assert fitted.apply(NOBODY, withheld, "k").mask(P).tolist() == [[False, False], [False, True]]


def test_bins_withhold_logits_values_and_other_classes() -> None:
    everything = Exposure.of(["label", "probabilities", "logits", "value"], 3)
    assert str(Bins(8).reveals(everything)) == "label + probabilities (top-1, 8 levels, 3 decimals)"


def test_equal_scores_make_fewer_bins() -> None:
    fitted = Bins(8).fit(NOBODY, binary([1.0] * 99 + [0.8]))
    assert fitted.fitted == ((1.0,), (0.8, 1.0))


@pytest.mark.parametrize(
    ("bins", "signals", "wanted"),
    [
        (Bins(), {L: Grain()}, "needs probabilities"),
        (Bins(1), {P: Grain()}, "at least 2 bins"),
        (Bins(edges=(0.9, 0.8)), {P: Grain()}, "rising"),
        (Bins(edges=(0.5, 1.5)), {P: Grain()}, "rising"),
        (Bins(edges=()), {P: Grain()}, "rising"),
        (Bins(), {P: Grain(None, 2)}, "set its decimals to 2 or less"),
        (Bins(decimals=None), {P: Grain(None, 2)}, "set its decimals to 2 or less"),
    ],
)
def test_bins_refuse_what_they_cannot_do(bins: Bins, signals: dict[Signal, Grain], wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted):
        bins.reveals(Exposure(signals, 3))


def test_too_few_answers_make_no_bins() -> None:
    with pytest.raises(UsageError, match="8 bins cannot be fitted to 3 answers"):
        Bins(8).fit(NOBODY, binary([0.6, 0.7, 0.8]))


def test_a_number_that_is_none_is_withheld() -> None:
    fitted = Bins(2).fit(NOBODY, binary([0.6, 0.7, 0.9, 0.98]))
    broken = soft([[np.nan, np.nan]]).replace(L, np.array([1]))
    assert not fitted.apply(NOBODY, broken, "k").mask(P).any()


# noise


def log_odds(answers: Answers) -> np.ndarray:
    logs = np.log(answers[P])
    return np.asarray(logs[:, 1:] - logs[:, :1])


def ask(x: np.ndarray, principal: str = "k", noise: Noise = FITTED) -> np.ndarray:
    """(n, 2) log-odds as `principal` receives them."""
    return log_odds(noise.apply(x, MODEL.query(x).only([P]), principal))


def error_of_the_mean(step: float, times: int = 100) -> float:
    """RMS error of log-odds averaged over `times` inputs around each of 60: pairs, in which a linear model cancels."""
    rng, free = np.random.default_rng(2), replace(MODEL.space, low=-np.inf, high=np.inf, shape=(16,))
    errors = []
    for x in ASKED:
        away = step * rng.standard_normal((times // 2, 16))
        around = np.concatenate([x + away, x - away])
        truth = replace(MODEL, space=free)
        got = log_odds(FITTED.apply(around, truth.query(around).only([P]), "k")).mean(0)
        errors.append(got - log_odds(MODEL.query(x[None]))[0])
    return float(np.sqrt(np.mean(np.square(errors))))


def test_repeats_gain_nothing_and_crossing_borders_does() -> None:
    """Measured: one answer 0.42; 100 repeats 0.42; 100 near-repeats 0.42; 100 inputs a deviation around 0.05."""
    one = float(np.sqrt(np.mean(np.square(ask(ASKED) - log_odds(MODEL.query(ASKED))))))
    assert 0.35 < one < 0.5  # a difference of two with standard deviation 0.3, less where the label was kept
    assert error_of_the_mean(0.0) == pytest.approx(one)
    assert error_of_the_mean(1e-5) == pytest.approx(one, rel=0.02)
    assert error_of_the_mean(0.6) < one / 4  # the inputs' own standard deviation is 0.58


def test_near_repeats_mostly_lie_in_one_cell() -> None:
    """One percent of a standard deviation, measured: the same noise for 92 %."""
    x = np.repeat(OWNED, 4, 0)
    moved = np.clip(x + 0.01 * x.std(0) * np.random.default_rng(4).standard_normal(x.shape), -1, 1)
    cells = FITTED._cells
    kept = (cells.noise(x, 3, b"") == cells.noise(moved, 3, b"")).all(1).mean()
    assert 0.91 < kept < 0.97


def test_local_slopes_are_exact_inside_a_cell_and_rounding_blunts_them() -> None:
    """The break that the docstring names: what both points share cancels, and the noise is shared."""
    x, step = ASKED[:20] * 0.9, 1e-6 * np.eye(16)[:1]
    true = (log_odds(MODEL.query(x + step)) - log_odds(MODEL.query(x))) / 1e-6
    found = (ask(x + step) - ask(x)) / 1e-6
    assert np.median(np.abs(found - true)) < 1e-4 * np.abs(true).mean()
    rounded = [Round(2).apply(y, FITTED.apply(y, MODEL.query(y), "k"), "k")[P] for y in (x, x + step)]
    assert np.array_equal(*rounded)


def test_one_noise_for_everyone_or_one_for_each() -> None:
    assert np.array_equal(ask(ASKED, "a"), ask(ASKED, "b"))
    own = replace(FITTED, per="principal")
    assert not np.isclose(ask(ASKED, "a", own), ask(ASKED, "b", own)).all(1).any()


def test_another_key_is_another_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ask(ASKED)
    monkeypatch.setenv("UNDERSTUDY_NOISE_KEY", "another key, of thirty-two characters or more")
    assert not np.isclose(ask(ASKED, "k", replace(FITTED)), before).all(1).any()


@given(
    hnp.arrays(np.float64, (6, 4), elements=st.floats(0, 1)),
    hnp.arrays(np.bool_, (6, 4)),
    st.sampled_from([0.01, 1.0, 30.0]),
    st.integers(2, 4),
)
def test_noise_keeps_the_label_the_simplex_and_what_was_withheld(
    raw: np.ndarray, shown: np.ndarray, scale: float, outputs: int
) -> None:
    raw, shown = raw[:, :outputs] + 1e-3, shown[:, :outputs]
    p = raw / raw.sum(1, keepdims=True)
    noise = Noise(scale).fit(OWNED, MODEL.query(OWNED))
    full = noise.apply(ASKED[:6], soft(p), "k")
    assert np.array_equal(full.labels(), p.argmax(1))
    assert full[P].sum(1) == pytest.approx(np.ones(6))
    assert (full[P] >= 0).all()
    part = Answers({P: np.where(shown, p, 0.0)}, outputs, {P: shown})
    less = noise.apply(ASKED[:6], part, "k")
    assert np.array_equal(less.mask(P), shown)
    assert np.array_equal(less[P] != 0, shown)
    assert (less[P].sum(1) <= 1 + 1e-9).all()
    assert np.array_equal(less.labels(), part.labels())
    logits = noise.apply(ASKED[:6], soft(np.log(p), Signal.LOGITS), "k")
    assert np.array_equal(logits.labels(), p.argmax(1))


def test_logits_and_probabilities_tell_the_same() -> None:
    released = FITTED.apply(ASKED, MODEL.query(ASKED), "k")
    logits = released[Signal.LOGITS]
    assert logits[:, 1:] - logits[:, :1] == pytest.approx(log_odds(released))


def test_values_move_by_the_scale_of_their_spread() -> None:
    model = linear(3, features=16, outputs=40, link="identity")
    noise = Noise(0.1).fit(OWNED, model.query(OWNED).only([Signal.VALUE]))
    moved = noise.apply(OWNED, model.query(OWNED), "k")["value"] - model.query(OWNED)["value"]
    assert moved.std(0) / model.query(OWNED)["value"].std(0) == pytest.approx(np.full(40, 0.1), rel=0.15)


def test_batches_of_any_size_receive_the_same_noise() -> None:
    wide = linear(5, features=64, outputs=10)
    x = wide.space.sample(300, np.random.default_rng(3))
    noise = Noise().fit(x, wide.query(x))
    whole = noise.apply(x, wide.query(x).only([P]), "k")[P]
    for size in (1, 7, 64):
        parts = [
            noise.apply(x[i : i + size], wide.query(x).take(slice(i, i + size)), "k")[P] for i in range(0, 300, size)
        ]
        assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("value", [None, "", "short"])
def test_a_missing_or_short_key_is_named_and_never_shown(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    noise = replace(FITTED, key_env="MY_KEY")
    for call in (lambda: noise.reveals(MODEL.exposure), lambda: noise.apply(ASKED, MODEL.query(ASKED), "k")):
        with pytest.raises(UsageError, match="MY_KEY") as caught:
            call()
        assert "short." not in str(caught.value)


def test_the_key_is_in_no_repr_pickle_or_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "do not show me, do not show me, please"
    monkeypatch.setenv("UNDERSTUDY_NOISE_KEY", secret)
    noise = replace(FITTED)
    before = ask(ASKED, "k", noise)
    assert secret not in repr(noise) + repr(noise._cells)
    assert secret.encode() not in pickle.dumps(noise)
    for again in (pickle.loads(pickle.dumps(noise)), copy.deepcopy(noise)):
        assert again == noise
        assert np.array_equal(ask(ASKED, "k", again), before)


@pytest.mark.parametrize(
    ("noise", "signals", "wanted"),
    [
        (Noise(), {L: Grain()}, "needs scores"),
        (Noise(), {P: Grain(None, 3)}, "before rounding and bins"),
        (Noise(), {P: Grain(1, None, 8)}, "before rounding and bins"),
        (Noise(per="party"), {P: Grain()}, "everyone, principal"),
        (Noise(scale=0.0), {P: Grain()}, "above 0"),
        (Noise(cell=float("inf")), {P: Grain()}, "above 0"),
    ],
)
def test_noise_refuses_what_it_cannot_do(noise: Noise, signals: dict[Signal, Grain], wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted):
        noise.reveals(Exposure(signals, 3))


def test_logits_that_are_called_probabilities_are_no_probabilities() -> None:
    with pytest.raises(AnswerError, match="declare the signal 'logits'"):
        FITTED.apply(ASKED[:1], soft([[-2.0, 1.0, 3.0]]), "k")
