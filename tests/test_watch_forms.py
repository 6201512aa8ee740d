"""The watch on texts and on images: sentences of the standard library's own documentation, and real digits."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

import documentation
from understudy.errors import InputError, RecordError
from understudy.store import frame, unframe
from understudy.types import Answers, Array, Floats, Signal
from understudy.views import ImageScale, Scale, TextScale, form_of
from understudy.watch import Calibration, Queries, State, Watch, calibrate

LIFE = 64
Form = Literal["text", "image"]


@cache
def sentences() -> tuple[Array, Array]:
    """(n,) sentences, and the topic that each is of."""
    texts, topics = documentation.sentences()
    return np.array(texts, object), np.array(topics)


@cache
def digits() -> tuple[Floats, Array]:
    x, y = load_digits(return_X_y=True)
    return x.reshape(-1, 8, 8), y


@cache
def model(form: Form) -> LogisticRegression:
    x, y = sentences() if form == "text" else digits()
    return LogisticRegression(max_iter=300).fit(_numbers(x[: len(x) // 3]), y[: len(x) // 3])


def _numbers(x: Array) -> Array:
    return HashingVectorizer(n_features=4096).transform(x) if x.dtype == object else x.reshape(len(x), -1) / 16


def account(form: Form, name: str, x: Array, segment: str | None = None) -> Queries:
    answers = Answers({Signal.PROBABILITIES: model(form).predict_proba(_numbers(x))}, 4 if form == "text" else 10)
    return Queries(name, name, 1e9 + 60.0 * np.arange(len(x)), x, answers, segment=segment)


def benign(form: Form, i: int, n: int = LIFE) -> Array:
    """What two topics have to say; a tenth asked again; every tenth account writes within a template."""
    rng = np.random.default_rng([i, 1])
    x, y = sentences() if form == "text" else digits()
    rows = np.flatnonzero(np.isin(y, rng.choice(y.max() + 1, 2, replace=False)))
    asked = x[rng.choice(rows[rows >= len(x) // 3], n)]
    again = np.flatnonzero(rng.random(n - 1) < 0.1) + 1
    asked[again] = asked[again - 1]
    return within_template(asked) if form == "text" and i % 10 == 0 else asked


def within_template(texts: Array) -> Array:
    return np.array([f"Guten Tag zusammen: {text} -- viele liebe Gruesse" for text in texts], object)


@cache
def calibration(form: Form) -> Calibration:
    rng, (x, _) = np.random.default_rng(5), sentences() if form == "text" else digits()
    owned = x[: len(x) // 3]
    accounts = [[account(form, f"b{i}", benign(form, i))] for i in range(150)]
    return calibrate(owned, account(form, "owner", owned).answers, accounts, rng, level=0.02, horizon=LIFE, made=1e9)


def followed(form: Form, x: Array, parts: int = 1) -> State:
    watch = Watch(calibration(form))
    state, whole = watch.fresh("someone", "p"), account(form, "someone", x)
    for rows in np.array_split(np.arange(len(x)), parts):
        part = whole.take(rows)
        watch.advance(state, part, watch.features([part]))
    return state


def single_words(n: int = LIFE) -> Array:
    words = sorted({w.lower() for text in sentences()[0][:600] for w in re.findall(r"[a-z]+", text)})
    return np.random.default_rng(0).permutation(np.array(words, object))[:n]


def made_up_words(n: int = LIFE) -> Array:
    rng = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnoprstu"))
    return np.array([" ".join("".join(rng.choice(letters, 6)) for _ in range(12)) for _ in range(n)], object)


def noise(n: int = LIFE) -> Floats:
    return np.random.default_rng(0).integers(0, 17, (n, 8, 8)).astype(float)


def stepped(n: int = LIFE) -> Floats:
    rng = np.random.default_rng(2)
    x = digits()[0][rng.integers(len(digits()[0]), size=n)]
    return np.clip(x + 2 * rng.choice((-1, 1), x.shape), 0, 16)


@pytest.mark.parametrize(
    ("form", "asked", "loudest"),
    [
        ("text", single_words, {"single-word"}),
        # without a known word all texts lie in one place
        ("text", made_up_words, {"unknown-words", "novelty", "fluency", "near-duplicate"}),
        ("image", noise, {"novelty", "structure"}),
        ("image", stepped, {"structure", "novelty"}),
    ],
    ids=["single words", "made-up words", "noise", "sign steps"],
)
def test_blatant_probing_is_alarmed_within_twenty_queries(
    form: Form, asked: Callable[[], Array], loudest: set[str]
) -> None:
    standing = Watch(calibration(form)).standing(followed(form, asked()))
    assert standing.alarmed_at is not None
    assert standing.alarmed_at <= 20
    assert standing.scores[0][0] in loudest


@pytest.mark.parametrize("form", ["text", "image"])
def test_benign_accounts_are_mostly_not_alarmed(form: Form) -> None:
    watch = Watch(calibration(form))
    stands = [watch.standing(followed(form, benign(form, 1000 + i))) for i in range(60)]
    assert sum(s.alarmed_at is not None for s in stands) <= 6  # 2 % stated: more than 6 of 60 happens once in 1,400
    assert np.mean([s.p_value <= 0.5 for s in stands]) > 0.2


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(["text", "image"]), st.integers(1, 60), st.booleans())
def test_parts_do_not_matter(form: Form, parts: int, odd: bool) -> None:
    x = benign(form, 7, 150)
    if odd:
        x = within_template(x) if form == "text" else x + 0.25
    watch = Watch(calibration(form))
    whole, split = watch.standing(followed(form, x)), watch.standing(followed(form, x, parts))
    assert (whole.alarmed_at, whole.p_value, whole.n) == (split.alarmed_at, split.p_value, split.n)
    assert whole.z == pytest.approx(split.z, rel=1e-4)
    assert whole.quality == split.quality


@pytest.mark.parametrize("form", ["text", "image"])
def test_a_calibration_and_a_state_survive_a_file(form: Form) -> None:
    again = Watch(Calibration.from_bytes(calibration(form).to_bytes()))
    x = benign(form, 3, 2 * LIFE)
    half = State.from_bytes(followed(form, x[:LIFE]).to_bytes())
    again.advance(half, account(form, "someone", x).take(slice(LIFE, None)))
    straight = followed(form, x)
    assert half.best == pytest.approx(straight.best, rel=1e-5)
    np.testing.assert_allclose(half.ring, straight.ring, atol=1e-5)


def test_a_calibration_of_an_older_layout_is_refused() -> None:
    arrays, head = unframe(calibration("image").to_bytes())
    with pytest.raises(RecordError, match="format 2 cannot be read"):
        Calibration.from_bytes(frame(arrays, **{**head, "format": 2}))


def test_the_reference_decides_the_form() -> None:
    rng = np.random.default_rng(0)
    assert isinstance(calibration("text").scorer.form, TextScale)
    assert isinstance(calibration("image").scorer.form, ImageScale)
    assert isinstance(form_of(noise().reshape(LIFE, 64), rng), Scale)
    assert isinstance(form_of(noise()[:, :1], rng), Scale)  # one row of eight numbers is no picture
    for form, other in (("text", noise()), ("image", single_words()), ("image", noise()[:, :7])):
        answers = Answers({Signal.LABEL: np.zeros(len(other), int)}, 2)
        with pytest.raises(InputError, match="calibration was made on"):
            Watch(calibration(form)).advance(
                Watch(calibration(form)).fresh("x", "x"),
                Queries("x", "x", np.arange(len(other)) * 1.0, other, answers),
            )
    with pytest.raises(InputError, match="too few"):
        form_of(single_words(5), rng)
    with pytest.raises(InputError, match="too few"):
        form_of(noise(5), rng)


def test_flat_images_are_seen_like_those_with_sides() -> None:
    x = benign("image", 4)
    np.testing.assert_array_equal(followed("image", x).ring, followed("image", x.reshape(LIFE, 64)).ring)


def test_channels_may_come_first_or_last() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((60, 9, 10, 3))
    last, first = (form_of(a, np.random.default_rng(1)) for a in (x, np.moveaxis(x, -1, 1)))
    zeros = np.zeros(60, int), np.zeros(60)
    seen = last.view(x, *zeros).own, first.view(np.moveaxis(x, -1, 1), *zeros).own
    np.testing.assert_allclose(*seen, atol=1e-4)


def test_levels_are_found_where_pixels_are_bytes() -> None:
    rng = np.random.default_rng(0)
    for scale, levels in ((1, 1), (255, 255), (16, 16)):
        form = form_of(rng.integers(0, 256, (40, 8, 8)) / scale, rng)
        assert isinstance(form, ImageScale)
        assert int(form.levels) == levels
    plain = form_of(rng.random((40, 8, 8)), rng)
    assert isinstance(plain, ImageScale)
    assert int(plain.levels) == 0


def test_a_template_is_taken_off_after_five_texts_and_repeats_do_not_count() -> None:
    form = calibration("text").scorer.form
    texts = benign("text", 1, 30)
    zeros = np.zeros(30, int), np.zeros(30)
    bare, dressed = form.view(texts, *zeros), form.view(within_template(texts), *zeros)
    assert bare.tokens is not None
    assert dressed.tokens is not None
    new = np.cumsum(bare.own[:, 2]) - bare.own[:, 2]  # different texts before each
    np.testing.assert_array_equal((dressed.tokens.sizes - bare.tokens.sizes)[new < 5], 6)
    np.testing.assert_array_equal((dressed.tokens.sizes - bare.tokens.sizes)[new >= 5], 0)
    np.testing.assert_array_equal(dressed.own[:, 2], bare.own[:, 2])


def test_odd_texts_are_counted_not_fatal() -> None:
    x = np.array(["", None, "a", "\ud800", "word " * 50_000, 3.5, "日本語のテキスト", "ÀÉÎ õü"], object)
    form = calibration("text").scorer.form
    view = form.view(x, np.zeros(8, int), np.zeros(8))
    assert view.tokens is not None
    assert view.tokens.sizes.tolist() == [0, 0, 1, 0, 4000, 0, 8, 2]
    assert form.outside(view).tolist() == [True, True, False, True, True, True, False, False]
    watch = Watch(calibration("text"))
    answers = Answers({Signal.LABEL: np.zeros(8, int)}, 4)
    state = watch.advance(watch.fresh("x", "x"), Queries("x", "x", np.arange(8.0), x, answers))
    assert np.isfinite(state.ring).all()
    assert state.counts["out_of_range"] == 5
    assert state.counts["repeats"] == 2  # what is no text reads like an empty one
