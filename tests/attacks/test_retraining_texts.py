"""Models of texts, copied by retraining: real sentences, a real classifier, and what cannot be attacked."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import understudy as us
from documentation import sentences
from understudy.attacks._source import _spliced
from understudy.errors import UsageError
from understudy.store import Store
from understudy.texts import array

TEXTS, TOPICS = sentences()
THIRD = len(TEXTS) // 3
POOL, HELD = TEXTS[THIRD : 2 * THIRD], TEXTS[2 * THIRD :]
MODEL = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=500)).fit(TEXTS[:THIRD], TOPICS[:THIRD])


def victim(signal: str) -> Any:
    def call(texts: list[str]) -> Any:
        p = MODEL.predict_proba(texts)
        return p.argmax(1) if signal == "label" else p

    return us.target(call, signal, 4, us.Text(300))


@pytest.mark.parametrize(("signal", "least"), [("probabilities", 0.83), ("label", 0.74)])
@pytest.mark.parametrize("attack", ["auto", "retraining"])
def test_a_text_classifier_is_copied(attack: str, signal: str, least: float) -> None:
    """On sentences that the copy never saw; the commonest class alone would agree far less."""
    target = victim(signal)
    got = us.extract(target, attack, budget=1000, seed=0, pool=POOL)
    commonest = np.bincount(target.query(HELD).labels()).max() / len(HELD)
    found = us.fidelity(got.substitute, target, HELD)
    assert found.value > least > commonest + 0.1
    assert got.notes["learner"] == "text-logistic"
    assert got.verdict is us.Verdict.APPROXIMATE


def test_a_small_pool_is_stretched_by_splicing_its_texts() -> None:
    got = us.extract(victim("probabilities"), "retraining", budget=400, seed=0, pool=POOL[:60])
    assert "pool rows crossed" in got.notes["source"]
    assert us.fidelity(got.substitute, victim("probabilities"), HELD).value > 0.5


@given(st.lists(st.sampled_from(TEXTS[:50]), min_size=1, max_size=4), st.integers(1, 300))
def test_what_is_spliced_is_a_text_of_the_space(texts: list[str], longest: int) -> None:
    asked = [text[:longest] for text in texts]
    made = _spliced(array(asked), array(asked[::-1]), longest, np.random.default_rng(0))
    us.Text(longest).check(made)
    known = {word for text in asked for word in text.split()}
    assert all(word in known or len(" ".join(text.split())) == longest for text in made for word in text.split()[:-1])


def test_what_cannot_be_attacked_says_why() -> None:
    with pytest.raises(UsageError, match="texts cannot be made up"):
        us.extract(victim("label"), "retraining")
    with pytest.raises(UsageError, match="equation-solving asks numbers, and this target takes texts"):
        us.extract(victim("probabilities"), "equation-solving", pool=POOL)
    got = us.extract(victim("probabilities"), "auto", budget=60, pool=POOL)
    assert got.notes["set_aside"]["tree-labels"] == "asks numbers, and this model takes texts"


AUDITED = """\
apiVersion: understudy/v1
kind: Endpoint
metadata: {id: topics, owner: o, contact: c@example.org}
model: {version: "1"}
target:
  python: test_retraining_texts:answer
  signals: {probabilities: {}}
  outputs: 4
space: {text: {longest: 300}}
pool: {data: pool.jsonl, provenance: public documentation, column: text, truth_column: topic, labelled: true}
evaluation: {data: held.csv, column: text, truth_column: topic}
goals: [{id: copy, threshold: 0.7, basis: test}]
tiers:
  - {id: public, who: anybody, limits: {per_day: 100}, signals: {label: {}}}
  - {id: paid, who: customers, limits: {per_day: 1000}, signals: {probabilities: {decimals: 3}}}
audit: {budget: 400, seeds: 1, attacks: [auto]}
"""


def answer(texts: list[str]) -> Any:
    return MODEL.predict_proba(texts)


def manifest(folder: Path, text: str = AUDITED) -> Path:
    rows = [{"text": text, "topic": topic} for text, topic in zip(TEXTS, TOPICS, strict=True)]
    pool = "".join(json.dumps(row) + "\n" for row in rows[THIRD : 2 * THIRD])
    (folder / "pool.jsonl").write_text(pool, encoding="utf-8")
    with (folder / "held.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["text", "topic"])
        table.writeheader()
        table.writerows(rows[-300:])
    (folder / "topics.yaml").write_text(text, encoding="utf-8")
    return folder / "topics.yaml"


def test_a_text_model_is_audited_from_its_manifest(tmp_path: Path) -> None:
    report = us.run_audit(manifest(tmp_path), tmp_path / "run")
    by_tier = {f.tier: f for f in report.findings}
    assert by_tier["paid"].outcome == "reached"
    assert by_tier["paid"].best is not None
    assert by_tier["paid"].best.value > 0.7
    assert "text-logistic trained on the attacker's labelled data" in by_tier["paid"].floor.how
    kept = list(Store.open(tmp_path / "run").exchanges("paid/auto/0"))
    assert isinstance(kept[0].inputs[0], str)
    Store.open(tmp_path / "run").verify()


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("attacks: [auto]", "attacks: [auto, path-finding]", "audit.attacks: path-finding asks numbers"),
        ("pool: ", "knowledge: {family: linear}\n# pool: ", "pool: texts cannot be made up"),
    ],
)
def test_what_cannot_be_audited_is_said_before_anything_is_asked(
    tmp_path: Path, old: str, new: str, wanted: str
) -> None:
    with pytest.raises(UsageError, match=wanted):
        us.run_audit(manifest(tmp_path, AUDITED.replace(old, new)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
