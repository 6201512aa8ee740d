"""Every law can be broken: for each there is a plug-in with that fault planted, and the law finds it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from planted_attacks import ATTACKS, INPUTS, TARGETS, Faulty, Guess, shift
from planted_plugins import DEFENCES, LEARNERS, METRICS, Centroid, Halves, SignsItsZeros

from understudy.defences.rounding import Round
from understudy.defences.top_k import TopK
from understudy.errors import UnknownName
from understudy.metrics.total_variation import TotalVariation
from understudy.testing import (
    AttackBench,
    DefenceBench,
    LearnerBench,
    MetricBench,
    TargetBench,
    check_defence,
    check_metric,
    check_target,
    laws,
)

PLANTED: dict[str, dict[str, Any]] = {
    "attacks": {law: AttackBench(attack, budget=60) for law, attack in ATTACKS.items()},
    "defences": {law: DefenceBench(defence) for law, defence in DEFENCES.items()},
    "learners": {law: LearnerBench(learner) for law, learner in LEARNERS.items()},
    "metrics": {law: MetricBench(metric) for law, metric in METRICS.items()},
    "targets": {law: TargetBench(target, INPUTS) for law, target in TARGETS.items()},
}


@pytest.mark.parametrize(
    ("kind", "law"), [pytest.param(kind, law, id=f"{kind}-{law}") for kind in PLANTED for law in laws(kind)]
)
def test_the_law_finds_its_planted_fault(kind: str, law: Any) -> None:
    assert law.name in PLANTED[kind], "a new law needs a plug-in that breaks it"
    assert law.fault(PLANTED[kind][law.name]) is not None


@pytest.mark.parametrize("kind", PLANTED)
def test_the_plug_ins_without_a_fault_keep_every_law(kind: str) -> None:
    sound = {
        "attacks": AttackBench(Guess, budget=60),
        "defences": DefenceBench(TopK(2)),
        "learners": LearnerBench(Centroid()),
        "metrics": MetricBench(TotalVariation()),
        "targets": TargetBench(Faulty(deaf=False), INPUTS),
    }
    assert {law.name: law.fault(sound[kind]) for law in laws(kind) if law.fault(sound[kind])} == {}


def test_a_signed_zero_is_noticed() -> None:
    by_name = {law.name: law for law in laws("defences")}
    assert "sign" in str(by_name["reveals-what-it-says"].fault(DefenceBench(SignsItsZeros())))


def test_every_broken_law_is_named() -> None:
    with pytest.raises(AssertionError, match=r"breaks 1 law\(s\)\nhalves-make-the-whole: two halves"):
        check_target(Faulty(shift), INPUTS, np.random.default_rng(0))


def test_an_expected_failure_is_accepted_while_it_lasts() -> None:
    expected = {"one-value-per-query": "one for all", "measures-an-empty-batch": "one for all"}
    rng = np.random.default_rng(0)
    with pytest.raises(AssertionError, match="one-value-per-query: holds, though it is expected to fail"):
        check_metric(TotalVariation(), rng, expected_failures=expected)
    with pytest.raises(AssertionError, match="names no law"):
        check_defence(Round(), rng, expected_failures={"kindness": "none"})
    check_defence(Halves(), rng, expected_failures={"twice-is-once": "it halves"})


def test_a_kind_without_laws_is_named() -> None:
    with pytest.raises(UnknownName, match="attacks, defences"):
        laws("judges")


def test_no_summary_of_nothing() -> None:
    assert math.isnan(TotalVariation().summary(np.zeros(0)))
