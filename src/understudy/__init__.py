"""Understudy measures how easily a deployed model can be copied through its prediction interface.

The public names are those in `__all__`; they stay stable. Importing this package imports nothing heavier than numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from understudy.errors import UnderstudyError
from understudy.protocols import Extraction, Pool, Target, Verdict, takes
from understudy.types import Answers, Box, Estimate, Exposure, Grain, Mixed, Signal, Space, Text

if TYPE_CHECKING:
    from understudy.importance import Importances
    from understudy.records import Report
    from understudy.stationarity import Hyperparameters

__all__ = [
    "Answers",
    "Box",
    "Estimate",
    "Exposure",
    "Extraction",
    "Grain",
    "Mixed",
    "Signal",
    "Text",
    "UnderstudyError",
    "Verdict",
    "extract",
    "fidelity",
    "hyperparameters",
    "importances",
    "rank_agreement",
    "run_audit",
    "target",
]


def target(call: Callable[[Any], Any], signal: str | Iterable[str], outputs: int, space: Space) -> Target:
    """A Python function as a target.

    `call` takes inputs (n, *space.shape), or a list of texts, and returns one array: (n,) labels, or (n, outputs)
    probabilities, logits or values; where `signal` names several signals, a mapping {signal: array}. `outputs`: number
    of classes or values.
    """
    from understudy.targets.callable import CallableTarget

    return CallableTarget(call, Exposure.of(signal, outputs), space)


def extract(
    target: Target,
    attack: str = "auto",
    budget: int = 1000,
    seed: int = 0,
    pool: ArrayLike | Pool | None = None,
    truth: ArrayLike | None = None,
) -> Extraction:
    """Attack a target with a budget of queries and return the best extraction.

    `pool`: inputs the attacker has, an array (n, *shape) or a Pool; None = none. `truth`: what the attacker knows of an
    array's rows: classes from 0, or values. An attack that finds the target
    outside its family returns a verdict and no substitute; it never hands back a wrong model as a success.
    Raises UsageError where the attack needs a signal that the target does not give, or could do nothing with the
    budget; and what the target raises.
    """
    from understudy import registry
    from understudy.endpoint import ArrayPool
    from understudy.errors import UsageError
    from understudy.texts import blank
    from understudy.types import IMPLIES
    from understudy.wrappers import Metered

    made = registry.create("attacks", attack)
    given = target.exposure.signals
    if not made.needs & frozenset().union(*(IMPLIES[s] for s in given)):
        wanted = " or ".join(sorted(made.needs))
        raise UsageError(f"{attack} needs {wanted}; this target gives {', '.join(sorted(given))}")
    if not takes(made, target.space):
        raise UsageError(f"{attack} asks numbers, and this target takes texts; retraining takes them")
    if pool is None:
        pool = blank(0, target.space.shape)
    data = (
        pool
        if isinstance(pool, Pool)
        else ArrayPool(target.space.check(pool), None if truth is None else np.asarray(truth))
    )
    meter = Metered(target, budget)
    best: Extraction | None = None
    for found in made.run(meter, data, np.random.default_rng(seed)):
        if best is None or found.notes.get("best", True):
            best = found
    if best is None:
        raise UsageError(f"{attack} could make nothing of a budget of {budget} queries; give it more")
    return best


def fidelity(substitute: Target, target: Target, inputs: ArrayLike) -> Estimate:
    """Share of `inputs` on which two targets answer the same class, with its 95 % interval (Wilson)."""
    from understudy import registry
    from understudy.stats import mean_interval

    x = target.space.check(inputs)
    return mean_interval(registry.create("metrics", "fidelity").measure(substitute, target, x))


def hyperparameters(
    parameters: Mapping[str, ArrayLike],
    inputs: ArrayLike,
    truth: ArrayLike,
    objective: str = "auto",
    scaling: str = "auto",
    kernel: Callable[[Any, Any], Any] | None = None,
) -> Hyperparameters:
    """What a solved model was trained with, in scikit-learn's terms, from its parameters and its training data.

    `parameters` as `Extraction.parameters` holds them; `inputs` (n, d); `truth`: classes from 0, or values.
    `objective`: ridge, lasso, elastic-net, logistic-l2, logistic-l1, logistic-elastic-net, squared-hinge, hinge or
    kernel-ridge (which needs `dual` among the parameters, and the `kernel`), or "auto". `scaling` of the columns before
    training: none, standard, min-max or "auto". The answer holds values with intervals, condition numbers and, where
    something cannot be known, the reason. Raises UsageError or InputError where the arguments do not fit each other.
    """
    from understudy.stationarity import hyperparameters as solve

    return solve(parameters, inputs, truth, objective, scaling, kernel)


def importances(target: Target, inputs: ArrayLike, seed: int = 0) -> Importances:
    """What a model looks at: how far its answers over `inputs` (n, *shape) move when one column is shuffled.

    Asks n (d + 1) questions: nothing where the model is a substitute. `.values` (d,), `.ranking` and `.per_row` (n, d);
    the same seed shuffles alike for every model. Raises InputError for fewer than two rows.
    """
    from understudy.importance import importances as measure

    return measure(target, target.space.check(inputs), np.random.default_rng(seed))


def rank_agreement(one: Importances, other: Importances, seed: int = 0) -> Estimate:
    """Spearman's rank correlation of two models' importances over the same rows, with its 95 % interval (bootstrap)."""
    from understudy.importance import rank_agreement as compare

    return compare(one, other, np.random.default_rng(seed))


def run_audit(
    manifest: str | Path, folder: str | Path | None = None, jobs: int = 1, fail_if: Sequence[str] = ()
) -> Report:
    """Audit the endpoint of a manifest into a run folder (default: a new one under runs/) and return its report."""
    from understudy import audit, report

    path = Path(manifest)
    gates = tuple(audit.GateSpec.parse(text) for text in fail_if)
    where = Path(folder) if folder is not None else audit.new_folder(path)
    audit.run(path, where, audit.Options(jobs=jobs, gates=gates))
    return report.build(where, gates)
