"""Train a substitute on bought answers: any model, any signal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator

from understudy import registry
from understudy.protocols import Extraction, Learner, Metered, Pool, Target, Verdict
from understudy.types import Answers, Box, Floats, Signal, Space

_CLEARLY_WORSE = 0.03  # a learner this far behind on held-out answers, twice running, is dropped
_ENOUGH = 400  # queries before which held-out scores are too noisy to drop a learner or to end on
_CALM = 4  # rounds without a better held-out score after which more of the same buys nothing


@dataclass(frozen=True)
class Retraining:
    """Buy answers to the attacker's inputs and train; choose the learner on bought answers held out for it.

    Extracts:
        A substitute of the learner's own kind: fidelity, no parameters.

    Needs:
        Labels, probabilities, logits or values; soft answers are used where they are given.

    Cost:
        Rounds of geometrically growing numbers of queries. Ends with the budget, at `most` queries, beyond which these
        learners no longer gain, or when four rounds running brought no better score on held-out answers.

    Reference:
        Tramer et al., USENIX Security 2016, section 6.1 (retraining, uniform and adaptive); Orekondy, Schiele and
        Fritz, CVPR 2019 (random transfer sets); Pal et al., AAAI 2020 (uncertainty sampling).

    Differs from the paper:
        Several learners compete on held-out bought answers, so no architecture is assumed. A pool that runs short is
        stretched by mixtures of its rows instead of silently capping the budget; without a pool the space is sampled.
        Adaptive sampling takes the lowest margins among fresh candidates, in batches of a whole round.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset({"label-only", "round", "top-k"})
    learners: tuple[str, ...] = ("logistic", "boosting", "mlp")
    sampling: Literal["random", "adaptive"] = "random"
    first: int = 50
    growth: float = 1.7
    most: int = 20_000

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """A substitute after every round."""
        source = _Source(target.space, pool.draw(min(self.most, target.remaining), rng))
        contest = _Contest({name: registry.create("learners", name) for name in self.learners})
        inputs: list[Floats] = []
        bought: list[Answers] = []
        substitute: Target | None = None
        size, total, calm, best = max(self.first, 5 * target.exposure.outputs), 0, 0, -np.inf
        while target.remaining and total < self.most and calm < _CALM:
            n = min(size - total, target.remaining, self.most - total)
            if target.remaining - n < 0.3 * n:
                n = min(target.remaining, self.most - total)  # a last crumb is not worth a round
            x = source.draw(n, rng, substitute if self.sampling == "adaptive" else None)
            inputs.append(x)
            bought.append(target.query(x))
            total, size = total + n, int(np.ceil(size * self.growth))
            if total < 10:
                continue
            answers = Answers.concat(bought)
            substitute, notes = contest.hold(np.concatenate(inputs), answers, rng)
            score = notes["score"]
            calm = calm + 1 if score <= best + 1e-3 and total >= _ENOUGH else 0
            best = max(best, score)
            notes |= {"sampling": self.sampling, "mixed_from_pool": source.mixed} | _warning(answers)
            yield Extraction(substitute, target.spent, Verdict.APPROXIMATE, None, notes)


class _Source:
    """Where inputs come from: the pool, then mixtures of its rows, or the space where there is no pool."""

    def __init__(self, space: Space, rows: Floats) -> None:
        self._space, self._rows, self._used, self.mixed = space, rows, 0, 0

    def draw(self, n: int, rng: Generator, substitute: Target | None) -> Floats:
        """`n` inputs; with a substitute, those of five times as many that it is least certain about."""
        if substitute is None:
            return self._fresh(n, rng)
        candidates = self._fresh(5 * n, rng)
        return np.asarray(candidates[np.argsort(_margin(substitute, candidates), kind="stable")[:n]])

    def _fresh(self, n: int, rng: Generator) -> Floats:
        own = self._rows[self._used : self._used + n]
        self._used += len(own)
        if len(own) == n:
            return own
        return np.concatenate([own, self._mixtures(n - len(own), rng)])

    def _mixtures(self, n: int, rng: Generator) -> Floats:
        """Points between (and a little beyond) two rows of the pool, kept inside the box."""
        if len(self._rows) < 2:
            return self._space.sample(n, rng)
        self.mixed += n
        a, b = self._rows[rng.integers(len(self._rows), size=(2, n))]
        share = rng.uniform(-0.2, 1.2, (n, *([1] * (a.ndim - 1))))
        x = a + share * (b - a)
        return np.asarray(np.clip(x, self._space.low, self._space.high) if isinstance(self._space, Box) else x)


class _Contest:
    """Learners judged on the same held-out fifth of the bought answers; the winner is trained again on all of them."""

    def __init__(self, learners: dict[str, Learner]) -> None:
        self._open = dict(learners)
        self._behind: dict[str, int] = dict.fromkeys(learners, 0)

    def hold(self, inputs: Floats, answers: Answers, rng: Generator) -> tuple[Target, dict[str, Any]]:
        """The winner's substitute, and its notes: held-out fidelity, and the score of every learner still open."""
        held = np.arange(len(inputs)) % 5 == 0
        scores, agreed = dict[str, float](), dict[str, float]()
        for name, learner in self._open.items():
            trial = learner.fit(inputs[~held], answers.take(~held), rng.spawn(1)[0])
            given = trial.query(inputs[held])
            scores[name], agreed[name] = _score(given, answers.take(held)), _agreement(given, answers.take(held))
        winner = max(scores, key=lambda name: scores[name])
        for name in scores:
            behind = scores[name] < scores[winner] - _CLEARLY_WORSE
            self._behind[name] = self._behind[name] + 1 if behind and len(inputs) >= _ENOUGH else 0
            if self._behind[name] >= 2:
                self._open.pop(name)
        copy = self._fit(winner, inputs, answers, rng)
        return copy, {"learner": winner, "fidelity": agreed[winner], "score": scores[winner], "scores": scores}

    def _fit(self, winner: str, inputs: Floats, answers: Answers, rng: Generator) -> Target:
        return self._open[winner].fit(inputs, answers, rng.spawn(1)[0])


def _agreement(ours: Answers, theirs: Answers) -> float:
    """Agreement of labels; of values the share of variance explained."""
    if Signal.VALUE in theirs:
        wanted = theirs[Signal.VALUE]
        error = ((ours[Signal.VALUE] - wanted) ** 2).sum()
        return float(1 - error / max(((wanted - wanted.mean(0)) ** 2).sum(), 1e-300))
    return float(np.mean(ours.labels() == theirs.labels()))


def _score(ours: Answers, theirs: Answers) -> float:
    """What learners are chosen by: closeness of probabilities where all are given (labels are a poor judge where one
    class is nearly alone), else agreement.
    """
    if Signal.PROBABILITIES not in theirs or not theirs.mask(Signal.PROBABILITIES).all():
        return _agreement(ours, theirs)
    p = theirs[Signal.PROBABILITIES]
    if ((p < 0) | (p > 1)).any():
        return _agreement(ours, theirs)
    q = ours[Signal.PROBABILITIES] if Signal.PROBABILITIES in ours else np.eye(p.shape[1])[ours.labels()]
    return float(1 - np.abs(p - q).sum(1).mean() / 2)


def _margin(substitute: Target, inputs: Floats) -> Floats:
    """Gap between the two largest probabilities; 1 everywhere for substitutes that know labels only."""
    answers = substitute.query(inputs)
    if Signal.PROBABILITIES not in answers:
        return np.ones(len(inputs))
    two = np.sort(answers[Signal.PROBABILITIES], axis=1)[:, -2:]
    return np.asarray(two[:, 1] - two[:, 0], np.float64)


def _warning(answers: Answers) -> dict[str, str]:
    """A copy trained on one class nearly alone says little of the others."""
    if Signal.VALUE in answers:
        return {}
    share = np.bincount(answers.labels(), minlength=1).max() / len(answers)
    return {"warning": f"{share:.0%} of the bought answers are one class"} if share > 0.8 else {}
