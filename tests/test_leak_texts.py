"""The leak meter on texts: it rises with what was received, merges exactly, and is held against trained copies."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from test_watch_forms import sentences
from understudy.calibrating import families, far_texts, hold
from understudy.errors import UsageError
from understudy.leak import LeakMeter, LeakSketch
from understudy.types import Answers, Array, Signal


@cache
def world() -> tuple[Any, Array, Array]:
    """A model of topics of sentences, texts of the owner, and texts of others."""
    texts, kinds = sentences()
    order = np.random.default_rng(0).permutation(len(texts))
    texts, kinds = texts[order], np.asarray(kinds)[order]
    half = len(texts) // 2
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=300)).fit(texts[:half], kinds[:half])
    return model, texts[:half], texts[half:]


def answer(x: Array, soft: bool = False) -> Answers:
    model = world()[0]
    p = model.predict_proba(x.tolist())
    label = Answers({Signal.LABEL: p.argmax(1)}, p.shape[1])
    return Answers({Signal.PROBABILITIES: p}, p.shape[1]) if soft else label


@cache
def meter() -> LeakMeter:
    return LeakMeter.fit(world()[1], answer(world()[1], True), np.random.default_rng(1))


def received(x: Array, soft: bool = False) -> LeakSketch:
    sketch = meter().sketch()
    sketch.add(x, answer(x, soft))
    return sketch


def test_it_rises_with_what_was_received() -> None:
    asked = world()[2]
    readings = [meter().raw(received(asked[:n]))["label"] for n in (20, 400)]
    assert readings[0] + 0.1 < readings[-1]  # measured 0.35 and 0.56
    same = np.repeat(asked[:1], 300)
    assert meter().raw(received(same))["label"] < readings[-1]


def test_a_party_is_judged_by_all_its_accounts_and_a_sketch_survives_a_file() -> None:
    asked = world()[2][:300]
    whole, parts = received(asked, True), [received(asked[i::3], True) for i in range(3)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    kept = LeakSketch.from_bytes(merged.to_bytes(), LeakMeter.of(*meter().parts()))
    for name, value in meter().raw(whole).items():
        assert meter().raw(merged)[name] == pytest.approx(value, abs=0.02)
        assert kept.meter.raw(kept)[name] == pytest.approx(value, abs=0.02)


def test_texts_stay_out_of_the_file() -> None:
    arrays, head = meter().parts()
    assert all(a.dtype.kind in "fiub" for a in arrays.values())
    with pytest.raises(UsageError, match="not kept"):
        _ = LeakMeter.of(arrays, head).held


def test_it_is_held_against_copies_trained_on_words() -> None:
    _, owned, _ = world()
    rng = np.random.default_rng(2)
    asked = families(owned, answer(owned, True), [], rng, lambda x: answer(x, True))
    assert set(asked) == {"owner's rows", "shuffled words", "drawn words", "single words", "spliced"}
    held = hold(meter(), {name: (x[:200], a.take(slice(0, 200))) for name, (x, a) in asked.items()}, rng)
    assert set(held.truths) == {"label", "probability"}
    assert held.truths["label"].error < 0.15


def test_made_up_texts_fit_the_space_of_the_owners() -> None:
    owned = world()[1]
    longest = max(map(len, owned.tolist()))
    for texts in far_texts(owned, np.random.default_rng(3)).values():
        assert texts.dtype == object
        assert all(0 < len(t) <= longest for t in texts.tolist())
