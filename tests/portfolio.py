"""Customers of a digits model, as a monitor meets them: many benign accounts, and one that copies the model."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import understudy as us
from understudy.leak import LeakMeter
from understudy.types import Answers, Floats, Signal
from understudy.watch import Calibration, Queries, calibrate

LIFE = 64  # queries of a benign account
START = 1_790_000_000.0


class Asked(NamedTuple):
    """What one account asked, in order."""

    principal: str
    at: Floats
    inputs: Floats


@functools.cache
def digits() -> tuple[LogisticRegression, Floats, Floats]:
    """A model (64 inputs in [0, 1], 10 classes), the owner's reference rows, and rows that customers have."""
    x, y = load_digits(return_X_y=True)
    x = x / 16
    order = np.random.default_rng(0).permutation(len(x))
    owner, customers = x[order[:900]], x[order[900:]]
    return LogisticRegression(max_iter=2000).fit(owner, y[order[:900]]), owner, customers


def predict(inputs: Floats) -> Floats:
    """The model's probabilities."""
    found: Floats = digits()[0].predict_proba(inputs)
    return found


def benign(accounts: int, seed: int) -> Iterator[Asked]:
    """Customers who send rows of their own: some of all classes, some of two, with retries and corrected cells."""
    rng = np.random.default_rng(seed)
    rows = digits()[2]
    labels = predict(rows).argmax(1)
    for i in range(accounts):
        mine = rows if rng.random() < 0.7 else rows[np.isin(labels, rng.choice(10, 2, replace=False))]
        picked = mine[rng.integers(0, len(mine), LIFE)].copy()
        again = np.flatnonzero(rng.random(LIFE) < 0.1)
        picked[again] = picked[np.maximum(again - 1, 0)]  # a retry
        edited = np.flatnonzero(rng.random(LIFE) < 0.05)
        picked[edited, rng.integers(0, 64, len(edited))] = rng.integers(0, 17, len(edited)) / 16
        yield Asked(f"key:customer-{seed}-{i}", START + np.sort(rng.uniform(0, 9e5, LIFE)).round(3), picked)


def copying(budget: int = 200) -> Asked:
    """What our own equation-solving attack asks of the model."""
    asked: list[Floats] = []

    def recorded(inputs: Floats) -> Floats:
        asked.append(np.array(inputs))
        return predict(inputs)

    target = us.target(recorded, "probabilities", 10, us.Box(0, 1, (64,)))
    us.extract(target, "equation-solving", budget=budget, seed=0)
    x = np.concatenate(asked)
    return Asked("key:copier", START + np.arange(len(x)) * 2.0, x)


def queries(account: Asked) -> Queries:
    """An account as the watch reads it."""
    answers = Answers({Signal.PROBABILITIES: predict(account.inputs)}, 10)
    return Queries(account.principal, account.principal, account.at, account.inputs, answers)


@functools.cache
def calibration(accounts: int = 400) -> Calibration:
    """Learnt of benign accounts that no test looks at again."""
    _, owner, _ = digits()
    answers = Answers({Signal.PROBABILITIES: predict(owner)}, 10)
    known = [[queries(account)] for account in benign(accounts, 1)]
    meter = LeakMeter.fit(owner, answers, np.random.default_rng(2))
    rng = np.random.default_rng(3)
    return calibrate(owner, answers, known, rng, level=0.005, horizon=LIFE, made=START, model="1", leak=meter)


def manifest(folder: Path, **monitor: Any) -> Path:
    """The digits endpoint, and its calibration beside it."""
    body = {
        "apiVersion": "understudy/v1",
        "kind": "Endpoint",
        "metadata": {"id": "digits", "owner": "o@example.org", "contact": "c@example.org"},
        "model": {"version": "1"},
        "target": {"python": "portfolio:predict", "signals": {"probabilities": {}}, "outputs": 10},
        "space": {"low": 0, "high": 1, "shape": [64]},
        "evaluation": {"data": "digits.npy"},
        "goals": [{"id": "copy", "threshold": 0.95, "basis": "test"}],
        "tiers": [{"id": "paid", "who": "customers", "signals": {"probabilities": {}}}],
        "monitor": {"calibration": "calibration.bin", **monitor},
    }
    path = folder / "digits.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    (folder / "calibration.bin").write_bytes(calibration().to_bytes())
    return path
