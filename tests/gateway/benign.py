"""A calibration of the model server's digits: benign accounts ask for digits, and receive what the gateway answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from model_server import model

from understudy.leak import LeakMeter
from understudy.types import Answers, Floats, Signal
from understudy.watch import Queries, calibrate

ACCOUNTS, LIFE, LEVEL = 260, 48, 0.01


@cache
def digits() -> Floats:
    """Real digits that the model was not trained on, (n, 64) on 0 to 1."""
    from sklearn.datasets import load_digits

    found: Floats = load_digits(return_X_y=True)[0][600:] / 16
    return found


def answers(x: Floats) -> tuple[Answers, Floats]:
    """What the standard tier receives, and the owner's margin."""
    p = model().predict_proba(x)
    two = np.sort(p, 1)[:, -2:]
    top = np.where(p == p.max(1, keepdims=True), np.round(p, 2), 0.0)
    released = Answers({Signal.LABEL: p.argmax(1), Signal.PROBABILITIES: top}, 10, {Signal.PROBABILITIES: top > 0})
    return released, two[:, 1] - two[:, 0]


def account(i: int, rng: Any, n: int = LIFE) -> Queries:
    """A customer: digits, some of them twice."""
    rows = rng.choice(len(digits()), n)
    rows[rng.random(n) < 0.05] = rows[0]
    x = digits()[rows]
    released, margin = answers(x)
    return Queries(f"b{i}", f"b{i}", np.arange(n, dtype=float), x, released, margin)


@cache
def calibration(level: float = LEVEL, made: float = 0.0) -> bytes:
    """Learned from benign accounts; a leak meter is part of it."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(0)
    reference = load_digits(return_X_y=True)[0][:600] / 16
    told = answers(reference)[0]
    accounts = [[account(i, rng)] for i in range(ACCOUNTS)]
    meter = LeakMeter.fit(reference, told, rng, features=128)
    found = calibrate(reference, told, accounts, rng, level=level, horizon=LIFE, made=made, model="1", leak=meter)
    assert found.threshold is not None
    return found.to_bytes()


def write(manifest: Path) -> None:
    """Put the calibration beside a manifest."""
    (manifest.parent / "calibration.bin").write_bytes(calibration())
