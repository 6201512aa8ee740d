"""The suite on one meter: a cheap attack is not made to wait for a dear one."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPRegressor
from sklearn.tree import DecisionTreeClassifier

import understudy as us
from understudy import registry
from understudy.endpoint import ArrayPool
from understudy.protocols import Target
from understudy.testing import network
from understudy.wrappers import Defended, Metered


@cache
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
    missed = {"retraining", "boundary-nullspace"}
    for found in registry.create("attacks", "auto").run(meter, pool, np.random.default_rng(0)):
        missed.discard(found.notes["attack"])
        if not missed:
            break
    assert not missed


def cancer() -> tuple[np.ndarray, np.ndarray, us.Box]:
    x, y = load_breast_cancer(return_X_y=True)
    low, high = x.min(0), x.max(0)
    return x, y, us.Box(low - (high - low) / 10, high + (high - low) / 10)


def ran(target: Target, rows: np.ndarray, budget: int) -> list[us.Extraction]:
    pool, rng = ArrayPool(rows), np.random.default_rng(0)
    return list(registry.create("attacks", "auto").run(Metered(target, budget), pool, rng))


def test_boosted_stumps_are_recognised_and_solved() -> None:
    x, y, box = cancer()
    model = GradientBoostingClassifier(n_estimators=20, max_depth=1, random_state=0).fit(x, y)
    found = ran(us.target(model.predict_proba, "probabilities", 2, box), x[:100], 6_000)[-1]
    assert (found.verdict, found.notes["attack"]) == ("exact", "additive-steps")
    assert found.spent < 3_000
    aside = found.notes["set_aside"]
    assert "steps" in aside["critical-points"], "each says why it was set aside"
    assert aside["retraining"] == "additive-steps was exact first"


def test_a_tree_is_copied_from_its_scores_and_from_its_labels() -> None:
    x, y, box = cancer()
    model = DecisionTreeClassifier(max_leaf_nodes=8, random_state=0).fit(x, y)
    for fn, signal, attacks in (
        (model.predict_proba, "probabilities", {"path-finding", "additive-steps"}),
        (model.predict, "label", {"tree-labels"}),
    ):
        target = us.target(fn, signal, 2, box)
        mine = [e for e in ran(target, x[:100], 5_000) if e.notes["attack"] in attacks and e.substitute is not None]
        assert max(us.fidelity(e.substitute, target, x[100:]).value for e in mine if e.substitute) >= 0.99, signal


def test_a_network_is_recognised_and_solved() -> None:
    x, y, _ = cancer()
    x = (x - x.mean(0)) / x.std(0)
    with warnings.catch_warnings(action="ignore"):  # any network will do: it need not be trained to the end
        model = MLPRegressor(hidden_layer_sizes=(6,), max_iter=50, random_state=0).fit(x, y)
    box = us.Box(-np.inf, np.inf, (30,))
    found = ran(us.target(lambda a: model.predict(a).reshape(-1, 1), "value", 1, box), x[:100], 5_000)[-1]
    assert (found.verdict, found.notes["attack"]) == ("exact", "critical-points")


def test_scores_that_a_tier_reduces_are_not_given_to_attacks_that_need_them_whole() -> None:
    x, y, box = cancer()
    target = us.target(LogisticRegression(max_iter=5_000).fit(x / 100, y).predict_proba, "probabilities", 2, box)
    granted = us.Exposure({us.Signal.PROBABILITIES: us.Grain(decimals=2)}, 2)
    rounded = Defended(target, [registry.create("defences", "round", decimals=2)], "", granted)
    aside = ran(rounded, x[:100], 300)[-1].notes["set_aside"]
    for name in ("additive-steps", "hessian-diagonalisation"):
        assert aside[name].startswith("needs whole scores")
    assert "probabilities of 2 decimals" in aside["critical-points"]


def test_a_network_behind_rounded_logits_is_solved_all_the_same() -> None:
    model = replace(network(1, widths=(6, 5, 4)), space=us.Box(-np.inf, np.inf, (6,)))
    granted = us.Exposure({us.Signal.LOGITS: us.Grain(decimals=5)}, 4)
    rounded = Defended(model, [registry.create("defences", "round", decimals=5)], "", granted)
    found = ran(rounded, np.zeros((0, 6)), 4_000)[-1]
    assert (found.verdict, found.notes["attack"]) == ("exact", "critical-points")
    assert found.notes["precision"] == "5 decimals"
    assert found.notes["set_aside"]["critical-points-deep"].startswith("needs whole scores")


@pytest.mark.parametrize("signal", ["label", "probabilities"])
def test_a_model_of_one_class_stops_nobody(signal: str) -> None:
    box = us.Box(0, 1, (4,))
    answer = {"label": lambda x: np.zeros(len(x), int), "probabilities": lambda x: np.ones((len(x), 1))}[signal]
    found = ran(us.target(answer, signal, 1, box), np.zeros((0, 4)), 600)
    assert all(
        e.substitute is None
        or us.fidelity(e.substitute, us.target(answer, signal, 1, box), box.sample(50, np.random.default_rng(0))).value
        == 1
        for e in found
    )
