"""The suite on one meter: a cheap attack is not made to wait for a dear one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import understudy as us
from understudy import registry
from understudy.endpoint import ArrayPool
from understudy.protocols import Target
from understudy.wrappers import Defended, Metered


def digits() -> tuple[Target, ArrayPool, np.ndarray]:
    inputs, truth = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=2000).fit(inputs[:600] / 16, truth[:600])
    target = us.target(model.predict_proba, "probabilities", 10, us.Box(0, 1, (64,)))
    label_only = Defended(target, [registry.create("defences", "label-only")], "", us.Exposure.of("label", 10))
    return label_only, ArrayPool(inputs[600:1200] / 16), inputs[1200:] / 16


def spent_until(attack: str, seed: int, threshold: float) -> int:
    target, pool, rows = digits()
    meter = Metered(target, 20_000)
    for found in registry.create("attacks", attack).run(meter, pool, np.random.default_rng(seed)):
        if found.substitute is not None and us.fidelity(found.substitute, target, rows).value >= threshold:
            return found.spent
    raise AssertionError(f"{attack} did not reach {threshold}")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_suite_costs_little_more_than_its_cheapest_attack(seed: int) -> None:
    alone, suite = spent_until("retraining", seed, 0.9), spent_until("auto", seed, 0.9)
    assert suite <= 2 * alone + 100  # the other attack's turns, and the common check set


def test_the_dearer_attack_still_gets_its_turns() -> None:
    target, pool, _ = digits()
    meter = Metered(target, 12_000)
    made = {e.notes["attack"] for e in registry.create("attacks", "auto").run(meter, pool, np.random.default_rng(0))}
    assert {"retraining", "boundary-nullspace"} <= made
