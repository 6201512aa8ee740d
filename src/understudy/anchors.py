"""What every curve is read against: the floor (zero queries) and the ceiling (the owner's recipe trained anew)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from understudy import registry
from understudy.cell import Known
from understudy.endpoint import Endpoint
from understudy.errors import UsageError
from understudy.manifest import Goal
from understudy.protocols import Metric, Target, takes
from understudy.records import Measured
from understudy.stats import curve_interval
from understudy.targets.callable import CallableTarget
from understudy.texts import plain
from understudy.types import Answers, Ask, Exposure, Floats, Signal, Space


@dataclass(frozen=True, eq=False)
class Anchor:
    """A floor or ceiling: what to print, and its value per evaluation row where it was measured here."""

    shown: Measured
    rows: Floats | None = None


class Constant:
    """The substitute of an attacker who asks nothing: always the same answer."""

    def __init__(self, answers: Answers, space: Space, exposure: Exposure) -> None:
        self._one, self.space, self.exposure = answers, space, exposure

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """The one answer, as often as asked."""
        return self._one.take(np.zeros(len(np.asarray(inputs)), np.intp))


def floor(endpoint: Endpoint, goal: Goal, metric: Metric, against: Known, seed: int) -> Anchor:
    """The best an attacker reaches with zero queries: a constant answer, or a model of public labelled data."""
    candidates: list[tuple[str, Target]] = [("always the commonest answer", _commonest(endpoint, against))]
    if endpoint.pool_truth is not None:
        rng, outputs = np.random.default_rng(seed), endpoint.manifest.target.outputs
        if Signal.VALUE in endpoint.owner.exposure.grains:
            public = Answers({Signal.VALUE: endpoint.pool_truth.reshape(len(endpoint.pool_truth), -1)}, outputs)
        else:
            public = Answers({Signal.LABEL: endpoint.pool_truth.astype(np.int64)}, outputs)
        for name in registry.names("learners"):
            if not takes(registry.load("learners", name), endpoint.owner.space):
                continue
            made = registry.create("learners", name).fit(endpoint.pool.inputs, public, rng)
            candidates.append((f"{name} trained on the attacker's labelled data", made))
    measured = []
    for how, substitute in candidates:
        try:
            measured.append((how, metric.measure(substitute, against, endpoint.evaluation)))
        except UsageError:
            continue
    sign = 1 if metric.higher_is_closer else -1
    if not measured:
        raise UsageError(f"goal {goal.id}: metric {goal.metric} has no floor to compare with")
    how, rows = max(measured, key=lambda item: sign * metric.summary(item[1]))
    if goal.floor is not None:
        return Anchor(_declared(goal.floor.value, goal.floor.basis), None)
    return Anchor(_measured(rows[None], how, seed), rows)


def _commonest(endpoint: Endpoint, against: Known) -> Target:
    answers = against.query(endpoint.evaluation)
    if Signal.VALUE in answers:
        one = Answers({Signal.VALUE: answers[Signal.VALUE].mean(0, keepdims=True)}, answers.outputs)
    else:
        share = np.bincount(answers.labels(), minlength=answers.outputs) / len(answers)
        one = Answers({Signal.LABEL: np.array([share.argmax()]), Signal.PROBABILITIES: share[None]}, answers.outputs)
    return Constant(one, endpoint.owner.space, endpoint.owner.exposure)


def ceiling(endpoint: Endpoint, goal: Goal, metric: Metric, against: Known, seed: int, seeds: int) -> Anchor | None:
    """Agreement of the owner's recipe, trained with other seeds, with the target. None where there is no recipe."""
    if goal.ceiling is not None:
        return Anchor(_declared(goal.ceiling.value, goal.ceiling.basis))
    if endpoint.manifest.model.recipe is None:
        return None
    recipe = registry.load_object(endpoint.manifest.model.recipe)
    try:
        trained = [recipe(seed + 1 + i) for i in range(seeds)]
    except Exception as error:  # the recipe is the user's
        raise UsageError(f"{endpoint.manifest.model.recipe} raised {type(error).__name__}: {error}") from error
    rows = [metric.measure(_model(call, endpoint), against, endpoint.evaluation) for call in trained]
    return Anchor(_measured(np.stack(rows), f"the owner's recipe retrained with {seeds} other seeds", seed))


def _model(call: Callable[[Any], Any], endpoint: Endpoint) -> CallableTarget:
    """A retrained model as a target. It may say more than what is audited: scores, where a gateway lets out labels."""
    exposure, outputs = endpoint.owner.exposure, endpoint.manifest.target.outputs
    if exposure.signals == {Signal.LABEL} and np.shape(call(plain(endpoint.evaluation[:1]))) == (1, outputs):
        exposure = Exposure.of(Signal.PROBABILITIES, outputs)
    return CallableTarget(call, exposure, endpoint.owner.space)


def _measured(rows: Floats, how: str, seed: int) -> Measured:
    mean, low, high = curve_interval(rows[:, None, :], np.random.default_rng(seed))
    return Measured(value=mean[0], low=low[0], high=high[0], n=rows.shape[1], how=how)


def _declared(value: float, basis: str) -> Measured:
    return Measured(value=value, low=value, high=value, n=0, how=f"declared: {basis}")
