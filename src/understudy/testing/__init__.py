"""Public contracts: what every plug-in must keep, written as laws that run.

    from understudy.testing import check_attack
    check_attack(MyAttack, np.random.default_rng(0))

`check_attack`, `check_defence`, `check_detector`, `check_learner`, `check_metric` and `check_target` run every law of
their kind and raise an AssertionError that names each law that is broken. For one test per law, give `laws(kind)` to
pytest:

    @pytest.mark.parametrize("law", laws("defences"), ids=str)
    def test_contract(law): law.holds(DefenceBench(MyDefence()))

A law that a plug-in cannot keep is declared, `expected_failures={"law": "reason"}`, and must then be broken: when it
holds again, the declaration has to go.

One file per kind of plug-in: the bench (the plug-in at work on small real models, observed once) and the laws, one
short function each, whose name is the law's name and whose docstring says it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.random import Generator

from understudy.errors import UnknownName
from understudy.protocols import Attack, Defence, Detector, Learner, Metric, Target
from understudy.testing import attacks, defences, detectors, learners, metrics, targets
from understudy.testing.attacks import AttackBench, Trial
from understudy.testing.contract import Law, check_answers
from understudy.testing.defences import DefenceBench
from understudy.testing.detectors import DetectorBench
from understudy.testing.learners import LearnerBench
from understudy.testing.metrics import MetricBench
from understudy.testing.models import SpacePool, explained, linear, network, steps, tree, victim
from understudy.testing.targets import TargetBench
from understudy.types import Floats

__all__ = [
    "AttackBench",
    "DefenceBench",
    "DetectorBench",
    "Law",
    "LearnerBench",
    "MetricBench",
    "SpacePool",
    "TargetBench",
    "Trial",
    "check_answers",
    "check_attack",
    "check_defence",
    "check_detector",
    "check_learner",
    "check_metric",
    "check_target",
    "explained",
    "laws",
    "linear",
    "network",
    "steps",
    "tree",
    "victim",
]

_LAWS = {
    "attacks": attacks.LAWS,
    "defences": defences.LAWS,
    "detectors": detectors.LAWS,
    "learners": learners.LAWS,
    "metrics": metrics.LAWS,
    "targets": targets.LAWS,
}
Expected = Mapping[str, str]


def laws(kind: str) -> tuple[Law, ...]:
    """The laws of "attacks", "defences", "detectors", "learners", "metrics" or "targets", in order."""
    if kind not in _LAWS:
        raise UnknownName(f"there are no laws for {kind!r}; there are for: {', '.join(_LAWS)}")
    return tuple(Law(law.__name__.replace("_", "-"), law) for law in _LAWS[kind])


def check_target(
    target: Target,
    inputs: Floats,
    rng: Generator,
    *,
    deterministic: bool = True,
    expected_failures: Expected | None = None,
) -> None:
    """Every law of targets, on `inputs` of shape (n, *target.space.shape), n >= 4. Asks some 6 n queries."""
    _check("targets", TargetBench(target, inputs, _seed(rng), deterministic), expected_failures)


def check_attack(
    factory: Callable[[], Attack],
    rng: Generator,
    *,
    targets: Sequence[Target] = (),
    budget: int = 300,
    expected_failures: Expected | None = None,
) -> None:
    """Every law of attacks, against `targets` with budgets from 0 to `budget`.

    `factory` makes the attack (its class will do). By default the targets are small linear models, one per signal that
    the attack needs; name your own where the attack copies another family.
    """
    _check("attacks", AttackBench(factory, targets, budget, _seed(rng)), expected_failures)


def check_defence(
    defence: Defence, rng: Generator, *, targets: Sequence[Target] = (), expected_failures: Expected | None = None
) -> None:
    """Every law of defences, on the answers of `targets`: by default small linear models with every mix of signals."""
    _check("defences", DefenceBench(defence, targets, _seed(rng)), expected_failures)


def check_detector(detector: Detector, rng: Generator, *, expected_failures: Expected | None = None) -> None:
    """Every law of detectors, on 60 queries of one account in each form of input that it reads."""
    seed = _seed(rng)
    for form in detector.forms:
        _check("detectors", DetectorBench(detector, seed, form), expected_failures)


def check_learner(learner: Learner, rng: Generator, *, expected_failures: Expected | None = None) -> None:
    """Every law of learners, on 120 answers of a linear model with 4 inputs and 3 classes."""
    _check("learners", LearnerBench(learner, _seed(rng)), expected_failures)


def check_metric(metric: Metric, rng: Generator, *, expected_failures: Expected | None = None) -> None:
    """Every law of metrics, on linear models that answer each signal the metric does not refuse."""
    _check("metrics", MetricBench(metric, _seed(rng)), expected_failures)


def _seed(rng: Generator) -> int:
    return int(rng.integers(2**32))


def _check(kind: str, bench: Any, expected_failures: Expected | None) -> None:
    expected, broken = dict(expected_failures or {}), []
    unknown = expected.keys() - {law.name for law in laws(kind)}
    if unknown:
        raise AssertionError(f"expected_failures names no law of {kind}: {', '.join(sorted(unknown))}")
    for law in laws(kind):
        fault = law.fault(bench)
        if fault is not None and law.name not in expected:
            broken.append(f"{law.name}: {fault}")
        if fault is None and law.name in expected:
            broken.append(f"{law.name}: holds, though it is expected to fail ({expected[law.name]})")
    if broken:
        raise AssertionError(f"{bench.subject!r} breaks {len(broken)} law(s)\n" + "\n".join(broken))
