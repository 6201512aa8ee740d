"""One plug-in of each kind by somebody outside, tiny but real: what `understudy.testing` is for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from understudy import registry
from understudy.errors import UsageError
from understudy.protocols import Extraction, Metered, Pool, Target, Verdict
from understudy.types import Answers, Ask, Box, Exposure, Floats, Signal, Space


@dataclass(frozen=True, eq=False)
class Centroids:
    """Answers the class whose centre is nearest."""

    centres: Floats
    classes: tuple[int, ...]
    outputs: int
    space: Space

    @property
    def exposure(self) -> Exposure:
        return Exposure.of(Signal.LABEL, self.outputs)

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        x = self.space.check(inputs)
        distance = ((x[:, None, :] - self.centres) ** 2).sum(2)
        labels = np.asarray(self.classes, np.int64)[distance.argmin(1)]
        answers = Answers({Signal.LABEL: labels}, self.outputs)
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)


@dataclass(frozen=True)
class NearestCentroid:
    """Learns the mean input of each class that was answered."""

    def fit(self, inputs: Floats, answers: Answers, rng: Generator) -> Target:
        labels = answers.labels()
        classes = np.unique(labels)
        centres = np.array([inputs[labels == c].mean(0) for c in classes])
        space = Box(-np.inf, np.inf, inputs.shape[1:])
        return Centroids(centres, tuple(int(c) for c in classes), answers.outputs, space)


@dataclass(frozen=True)
class OneBatch:
    """Asks one batch from the pool, or from the space where the pool is dry, and trains on the answers.

    Extracts: a substitute of whatever family the learner has.
    Needs: an answer that holds a class.
    Cost: half the budget for training, half for measuring.
    Reference: Tramer et al., USENIX Security 2016, section 6 (retraining with uniform queries).
    Differs from the paper: the learner is any that is installed.
    """

    learner: str = "nearest-centroid"

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS})
    adapts_to: ClassVar[frozenset[str]] = frozenset()

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        half = target.remaining // 2
        if not half:
            return
        inputs = pool.draw(2 * half, rng)
        if len(inputs) < 2 * half:
            inputs = np.concatenate([inputs, target.space.sample(2 * half - len(inputs), rng)])
        answers = target.query(inputs)
        copy: Target = registry.create("learners", self.learner).fit(inputs[:half], answers.take(slice(0, half)), rng)
        agree = copy.query(inputs[half:]).labels() == answers.take(slice(half, None)).labels()
        yield Extraction(copy, target.spent, Verdict.APPROXIMATE, notes={"fidelity": float(agree.mean())})


@dataclass(frozen=True)
class WithholdLogits:
    """Withholds logits and lets everything else pass.

    Hides: logits.
    Costs the honest user: nothing that the probabilities do not tell.
    Broken by: taking the logarithm of the probabilities.
    Reference: folklore.
    """

    keeps_label: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True

    def reveals(self, exposure: Exposure) -> Exposure:
        kept = {signal: grain for signal, grain in exposure.grains.items() if signal is not Signal.LOGITS}
        if not kept:
            raise UsageError("withhold-logits would leave nothing")
        return replace(exposure, grains=kept)

    def fit(self, inputs: Floats, answers: Answers) -> Self:
        return self

    def apply(self, inputs: Floats, answers: Answers, principal: str) -> Answers:
        return answers.only(answers.values.keys() - {Signal.LOGITS})


@dataclass(frozen=True)
class Brier:
    """Summed squared difference of the predicted probabilities."""

    against: ClassVar[str] = "target"
    higher_is_closer: ClassVar[bool] = False
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES})
    symmetric: ClassVar[bool] = True

    def measure(self, substitute: Target, reference: Target, inputs: Floats) -> Floats:
        p, q = (model.query(inputs)[Signal.PROBABILITIES] for model in (substitute, reference))
        return np.asarray(((p - q) ** 2).sum(1), np.float64)

    def summary(self, values: Floats) -> float:
        return float(values.mean()) if len(values) else math.nan
