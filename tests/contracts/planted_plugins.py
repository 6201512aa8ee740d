"""Defences, learners and metrics with one fault each: for every law one that breaks it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from understudy.defences.label_only import LabelOnly
from understudy.defences.rounding import Round
from understudy.errors import UsageError
from understudy.metrics.total_variation import TotalVariation
from understudy.targets.linear import LinearTarget
from understudy.types import Answers, Box, Exposure, Signal

LABELS = frozenset({Signal.LABEL})

# a defence with one fault each


class Logged(Round):
    __doc__ = Round.__doc__

    def __init__(self) -> None:
        object.__setattr__(self, "decimals", 2)
        object.__setattr__(self, "seen", [])


class Silent(Round):
    """Rounds."""


class Refuses(Round):
    def reveals(self, exposure: Exposure) -> Exposure:
        raise UsageError("no")


class Lies(Round):
    def apply(self, inputs: Any, answers: Answers, principal: str) -> Answers:
        return answers


class SignsItsZeros(Round):
    def apply(self, inputs: Any, answers: Answers, principal: str) -> Answers:
        released = super().apply(inputs, answers, principal)
        return released.replace(Signal.LOGITS, -0.0 * released["logits"]) if Signal.LOGITS in released else released


class Adds(LabelOnly):
    def reveals(self, exposure: Exposure) -> Exposure:
        return Exposure.of("logits", exposure.outputs)


class InPlace(Round):
    def apply(self, inputs: Any, answers: Answers, principal: str) -> Answers:
        for values in answers.values.values():
            if values.dtype == np.float64:
                np.round(values, 2, out=values)
        return super().apply(inputs, answers, principal)


class Centres(Round):
    def apply(self, inputs: Any, answers: Answers, principal: str) -> Answers:
        for signal in answers.values.keys() - LABELS:
            answers = answers.replace(signal, answers[signal] - answers[signal].mean(0))
        return super().apply(inputs, answers, principal)


@dataclass(frozen=True)
class Drifts(Round):
    __doc__ = Round.__doc__
    fitted: Any = None

    def fit(self, inputs: Any, answers: Answers) -> Drifts:
        return replace(self, fitted=((float(np.random.default_rng().random()),),))


@dataclass(frozen=True)
class Guesses(Round):
    __doc__ = Round.__doc__
    fitted: Any = None

    def fit(self, inputs: Any, answers: Answers) -> Guesses:
        return replace(self, fitted=((1.0,),))


class Shivers(Round):
    __doc__ = Round.__doc__

    def apply(self, inputs: Any, answers: Answers, principal: str) -> Answers:
        rng = np.random.default_rng()
        for signal in answers.values.keys() - LABELS:
            answers = answers.replace(signal, answers[signal] + rng.standard_normal(answers[signal].shape))
        return super().apply(inputs, answers, principal)


class Chokes(Round):
    def apply(self, inputs: Any, answers: Answers, principal: str) -> Answers:
        if not len(answers):
            raise ValueError("nothing to round")
        return super().apply(inputs, answers, principal)


class Halves(Round):
    __doc__ = Round.__doc__

    def apply(self, inputs: Any, answers: Answers, principal: str) -> Answers:
        for signal in answers.values.keys() - LABELS:
            answers = answers.replace(signal, answers[signal] / 2, answers.mask(signal))
        return super().apply(inputs, answers, principal)


class Relabels(LabelOnly):
    def apply(self, inputs: Any, answers: Answers, principal: str) -> Answers:
        return Answers({Signal.LABEL: (answers.labels() + 1) % answers.outputs}, answers.outputs)


DEFENCES = {
    "stores-only-parameters": Logged(),
    "documented-defence": Silent(),
    "defends-something": Refuses(),
    "reveals-what-it-says": Lies(),
    "reveals-no-more": Adds(),
    "leaves-answers-alone": InPlace(),
    "fitting-is-repeatable": Drifts(),
    "refuses-before-it-is-fitted": Guesses(),
    "repeats-are-answered-alike": Shivers(),
    "rows-are-independent": Centres(),
    "defends-an-empty-batch": Chokes(),
    "twice-is-once": Halves(),
    "keeps-the-label": Relabels(),
}


# a learner with one fault each


@dataclass(frozen=True)
class Centroid:
    """A linear model whose weights are the class means: it learns from labels, quickly and exactly."""

    def fit(self, inputs: Any, answers: Answers, rng: Any) -> LinearTarget:
        labels = answers.labels()
        present = np.bincount(labels, minlength=answers.outputs) > 0
        means = np.array([inputs[labels == c].mean(0) if present[c] else np.zeros(4) for c in range(answers.outputs)])
        bias = np.where(present, -0.5 * (means**2).sum(1), -1e6)
        return LinearTarget(means, bias, Box(-np.inf, np.inf, (4,)), scored=False)


class Remembers(Centroid):
    def __init__(self) -> None:
        object.__setattr__(self, "fits", 0)


class Constant(Centroid):
    def fit(self, inputs: Any, answers: Answers, rng: Any) -> LinearTarget:
        return replace(super().fit(inputs, answers, rng), weights=np.zeros((3, 4)), bias=np.eye(3)[1])


class Forgets(Centroid):
    def fit(self, inputs: Any, answers: Answers, rng: Any) -> LinearTarget:
        fitted = super().fit(inputs, answers, rng)
        return replace(fitted, weights=fitted.weights[:2], bias=fitted.bias[:2])


class WantsAllClasses(Centroid):
    def fit(self, inputs: Any, answers: Answers, rng: Any) -> LinearTarget:
        if len(np.unique(answers.labels())) < 2:
            raise ValueError("this solver needs samples of at least 2 classes")
        return super().fit(inputs, answers, rng)


class Wobbles(Centroid):
    def fit(self, inputs: Any, answers: Answers, rng: Any) -> LinearTarget:
        noise = np.random.default_rng().standard_normal((3, 4))
        fitted = super().fit(inputs, answers, rng)
        return replace(fitted, weights=fitted.weights + noise)


class Scales(Centroid):
    def fit(self, inputs: Any, answers: Answers, rng: Any) -> LinearTarget:
        inputs *= 0.5
        return super().fit(inputs, answers, rng)


class Shuffles(Centroid):
    def fit(self, inputs: Any, answers: Answers, rng: Any) -> LinearTarget:
        np.random.permutation(3)  # noqa: NPY002
        return super().fit(inputs, answers, rng)


LEARNERS = {
    "stores-only-parameters": Remembers(),
    "learns": Constant(),
    "copies-are-targets": Forgets(),
    "learns-one-class": WantsAllClasses(),
    "same-seed-same-fit": Wobbles(),
    "leaves-training-data-alone": Scales(),
    "fits-without-shared-randomness": Shuffles(),
}


# a metric with one fault each


class Counts(TotalVariation):
    def __init__(self) -> None:
        object.__setattr__(self, "calls", 0)


class Untyped(TotalVariation):
    against: ClassVar[str] = "victim"


class Fussy(TotalVariation):
    def measure(self, *models: Any) -> Any:
        raise UsageError("no")


class Inverted(TotalVariation):
    higher_is_closer: ClassVar[bool] = True


class Aggregates(TotalVariation):
    def measure(self, *models: Any) -> Any:
        return super().measure(*models).mean(keepdims=True)


class DividesByNone(TotalVariation):
    def measure(self, substitute: Any, reference: Any, inputs: Any) -> Any:
        return super().measure(substitute, reference, inputs) * (1 // len(inputs) + 1)


class OneSided(TotalVariation):
    def measure(self, substitute: Any, reference: Any, inputs: Any) -> Any:
        p, q = (model.query(inputs).values.get(Signal.PROBABILITIES) for model in (substitute, reference))
        if p is None or q is None:
            raise UsageError("no")
        return np.abs(p - q).sum(1) / p.max(1)


class Jitters(TotalVariation):
    def measure(self, substitute: Any, reference: Any, inputs: Any) -> Any:
        values = super().measure(substitute, reference, inputs)
        inputs *= 0.99
        return values


METRICS = {
    "stores-only-parameters": Counts(),
    "declares-its-kind": Untyped(),
    "measures-something": Fussy(),
    "a-model-is-closest-to-itself": Inverted(),
    "one-value-per-query": Aggregates(),
    "measures-an-empty-batch": DividesByNone(),
    "symmetric-where-claimed": OneSided(),
    "leaves-queries-alone": Jitters(),
}
