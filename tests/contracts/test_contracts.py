"""Every plug-in in every catalogue keeps every law of its kind. A new plug-in is here without touching this file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from targets_to_check import ATTACKED, TARGETS

from understudy import registry
from understudy.attacks._clamped import Clamped
from understudy.attacks.counterfactual_training import CounterfactualTraining
from understudy.targets.network import NetworkTarget
from understudy.testing import (
    AttackBench,
    DefenceBench,
    DetectorBench,
    Law,
    LearnerBench,
    MetricBench,
    TargetBench,
    check_target,
    laws,
    linear,
    network,
    steps,
    tree,
    victim,
)
from understudy.types import IMPLIES, Box, Signal
from understudy.views import Kind

SEED = 7

#: Laws that a plug-in cannot keep, and why. Strict: when one holds again, its line has to go.
EXPECTED_FAILURES: dict[str, dict[str, str]] = {
    "importance-agreement": {
        "a-model-is-closest-to-itself": "another model may rank the columns alike, four of them easily",
        "one-value-per-query": "one value per column",
    },
    "parameter-error": {
        "one-value-per-query": "one value per parameter: it compares what the models are, not what they answer",
        "measures-an-empty-batch": "one value per parameter, whatever is asked",
    },
}


def cases(kind: str) -> list[Any]:
    """`name-law` for every name in the catalogue of a kind."""
    return [
        pytest.param(
            name,
            law,
            id=f"{name}-{law}",
            marks=[pytest.mark.xfail(raises=AssertionError, reason=EXPECTED_FAILURES[name][law.name])]
            if law.name in EXPECTED_FAILURES.get(name, {})
            else [],
        )
        for name in registry.names(kind)
        for law in laws(kind)
    ]


@cache
def bench(kind: str, name: str) -> Any:
    """One bench per plug-in, shared by its laws: each attack and learner is put to work once."""
    makers: dict[str, Callable[[], Any]] = {
        "attacks": lambda: AttackBench(made(name), *ATTACKED.get(name, ((), 300)), seed=SEED),
        "defences": lambda: DefenceBench(registry.create("defences", name), seed=SEED),
        "learners": lambda: LearnerBench(registry.create("learners", name), seed=SEED),
        "metrics": lambda: MetricBench(registry.create("metrics", name), seed=SEED),
    }
    return makers[kind]()


def made(name: str) -> Callable[[], Any]:
    """The attack, its own network trained briefly: no law is about how good a copy is."""
    attack = registry.load("attacks", name)
    return partial(attack, network=Clamped(steps=100)) if attack is CounterfactualTraining else attack


@pytest.mark.parametrize(("name", "law"), cases("attacks"))
def test_attack(name: str, law: Law) -> None:
    law.holds(bench("attacks", name))


#: Attacks that train models are tried with fewer budgets here; their laws above try four with each signal.
BUDGETS_TRIED = {"auto": 3, "retraining": 5}


@pytest.mark.parametrize("name", registry.names("attacks"))
def test_no_budget_is_overspent(name: str) -> None:
    attack = registry.load("attacks", name)

    @settings(
        max_examples=BUDGETS_TRIED.get(name, 40),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
    )
    @given(st.integers(0, 300), st.sampled_from([s for s in Signal if IMPLIES[s] & attack.needs]))
    def holds(budget: int, signal: Signal) -> None:
        trial = AttackBench(attack, seed=SEED).run(victim(signal), budget)
        assert trial.error is None
        assert trial.asked <= budget
        assert all(extraction.spent == meter == asked for extraction, meter, asked in trial.yielded)

    holds()


@pytest.mark.parametrize(("name", "law"), cases("defences"))
def test_defence(name: str, law: Law) -> None:
    law.holds(bench("defences", name))


@cache
def detector_bench(name: str, form: Kind) -> DetectorBench:
    return DetectorBench(registry.create("detectors", name), SEED, form)


@pytest.mark.parametrize(
    ("name", "form", "law"),
    [
        pytest.param(name, form, law, id=f"{name}-{form}-{law}")
        for name in registry.names("detectors")
        for form in registry.load("detectors", name).forms
        for law in laws("detectors")
    ],
)
def test_detector(name: str, form: Kind, law: Law) -> None:
    law.holds(detector_bench(name, form))


@pytest.mark.parametrize(("name", "law"), cases("learners"))
def test_learner(name: str, law: Law) -> None:
    law.holds(bench("learners", name))


@pytest.mark.parametrize(("name", "law"), cases("metrics"))
def test_metric(name: str, law: Law) -> None:
    law.holds(bench("metrics", name))


@pytest.mark.parametrize(("name", "law"), cases("targets"))
def test_target(name: str, law: Law, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert name in TARGETS, f"tests/contracts/targets_to_check.py does not say how to make the target {name!r}"
    with TARGETS[name](tmp_path_factory) as target:
        assert isinstance(target, registry.load("targets", name))
        law.holds(TargetBench(target, target.space.sample(16, np.random.default_rng(SEED)), SEED))


@pytest.mark.parametrize("link", ["softmax", "one-vs-rest", "identity"])
@pytest.mark.parametrize("scored", [True, False])
def test_every_linear_model_is_a_target(link: Any, scored: bool) -> None:
    model = replace(linear(link=link), scored=scored)
    check_target(model, model.space.sample(16, np.random.default_rng(SEED)), np.random.default_rng(SEED))


@pytest.mark.parametrize("signal", ["label", "probabilities", "value"])
def test_every_tree_is_a_target(signal: str) -> None:
    model = tree(signal=signal)
    check_target(model, model.space.sample(16, np.random.default_rng(SEED)), np.random.default_rng(SEED))


@pytest.mark.parametrize(("link", "outputs"), [("softmax", 2), ("softmax", 3), ("probabilities", 2), ("identity", 1)])
def test_every_sum_of_steps_is_a_target(link: Any, outputs: int) -> None:
    model = steps(link=link, outputs=outputs)
    check_target(model, model.space.sample(16, np.random.default_rng(SEED)), np.random.default_rng(SEED))


@pytest.mark.parametrize("link", ["softmax", "identity"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_every_network_is_a_target(link: Any, activation: Any) -> None:
    model = replace(network(activation=activation), link=link)
    check_target(model, model.space.sample(16, np.random.default_rng(SEED)), np.random.default_rng(SEED))


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_a_network_answers_as_scikit_learn_does(activation: Any) -> None:
    rng = np.random.default_rng(SEED)
    inputs, truth = rng.uniform(-1, 1, (200, 4)), rng.integers(0, 3, 200)
    with pytest.warns(ConvergenceWarning):
        fitted = MLPClassifier((6, 5), activation=activation, max_iter=5, random_state=0).fit(inputs, truth)
    layers = tuple((w.T, b) for w, b in zip(fitted.coefs_, fitted.intercepts_, strict=True))
    ours = NetworkTarget(layers, Box(-1, 1, (4,)), activation).query(inputs)["probabilities"]
    np.testing.assert_allclose(ours, fitted.predict_proba(inputs), rtol=1e-12)
