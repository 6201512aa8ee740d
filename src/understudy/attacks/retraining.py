"""Train a substitute on bought answers: any model, any signal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, log
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator

from understudy import registry
from understudy.attacks._source import Source
from understudy.errors import UsageError
from understudy.protocols import Extraction, Metered, Pool, Target, Verdict, takes
from understudy.targets.linear import softmax
from understudy.types import Answers, Bools, Floats, Signal, Space

#: Settings that each learner is tried with: those of the cheap one that matter; the others come as they are.
_SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "logistic": ({"strength": 1.0}, {"strength": 100.0}),
    "text-logistic": ({"words": 1}, {"words": 2}),
}
_FEWEST = 10  # answers that can be split into a fitted and a held-out part
_BEHIND = 0.01  # held-out score that far under the best one, and three standard errors, is behind
_ENOUGH = 50  # held-out rows of the pool on which learners can be judged
_CLOSE, _CALM, _LONG = 0.995, 3, 1000  # score above which that many rounds without a better one end a run that long


@dataclass(frozen=True)
class Retraining:
    """Buy answers to the attacker's inputs and train; choose the learner on bought answers held out for it.

    Extracts:
        A substitute of the learner's own kind: fidelity, no parameters.

    Needs:
        Labels, probabilities, logits or values; soft answers are used where they are given. For a model of texts some
        texts to begin with: none can be made up.

    Cost:
        Rounds of geometrically growing numbers of queries (50, 85, 145, ...), a substitute after each. Ends with the
        budget; at `most` queries, beyond which these learners gain little and take long to train; or, from 1,000
        queries on, when the score on held-out answers is 0.995 or more and three rounds running (five times the
        queries) brought none that is 0.001 better.

    Reference:
        Tramer et al., USENIX Security 2016, section 6.1 (retraining, uniform and adaptive); Orekondy, Schiele and
        Fritz, CVPR 2019 (random transfer sets); Pal et al., AAAI 2020 (uncertainty sampling).

    Differs from the paper:
        Several learners compete on a fifth of the bought answers, so no architecture is assumed; one that is behind,
        and would still be at the end of the budget at the pace at which it catches up, is dropped. A pool that runs
        short is stretched by crossing its rows (of texts, the first words of one and the last of another) instead of
        silently capping the budget; without a pool the space is sampled.
        Adaptive sampling takes the lowest margins among fresh candidates, in batches of a whole round; the held-out
        fifth is always drawn at random. By default it is used on labels only: soft answers gain nothing from it.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset({"label-only", "round", "top-k"})
    reads: ClassVar[frozenset[str]] = frozenset({"numbers", "text"})
    learners: tuple[str, ...] = ("logistic", "boosting", "mlp", "text-logistic")
    sampling: Literal["auto", "random", "adaptive"] = "auto"
    first: int = 50
    growth: float = 1.7
    most: int = 20_000

    def opening(self, space: Space, outputs: int) -> int:
        """Queries before the first substitute."""
        return max(self.first, 5 * outputs)

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """A substitute after every round.

        Notes: `learner`; `fidelity`, its agreement with the `held_out` bought answers it was judged on (of the pool
        alone where enough of them are held out; of values the variance explained); `score` and `scores`, what learners
        were chosen by; `source`; `warning` where one class is nearly alone.
        """
        limit, space = min(self.most, target.remaining), target.space
        source, contest, bought = Source(space, pool.draw(limit, rng)), _Contest(self._fitting(space)), _Rows()
        substitute: Target | None = None
        size, calm, best = self.opening(target.space, target.exposure.outputs), 0, -np.inf
        while len(bought) < limit and target.remaining and calm < _CALM:
            n = min(size - len(bought), limit - len(bought), target.remaining)
            if limit - len(bought) - n < 0.3 * n:
                n = min(limit - len(bought), target.remaining)  # a last crumb is not worth a round
            held_out, own = source.draw(n // 5, rng, None)
            fitted, more_own = source.draw(n - n // 5, rng, substitute if self._adaptive(target) else None)
            x = np.concatenate([held_out, fitted])
            bought.add(x, target.query(x), np.concatenate([own, more_own]), len(held_out))
            size = ceil(size * self.growth)
            if len(bought) < _FEWEST:
                continue
            left = ceil(log(limit / len(bought)) / log(self.growth))
            substitute, notes = contest.hold(bought, left, rng)
            calm = calm + 1 if len(bought) >= _LONG and _CLOSE <= notes["score"] <= best + 1e-3 else 0
            best = max(best, notes["score"])
            sampling = "adaptive" if self._adaptive(target) else "random"
            notes |= {"sampling": sampling, "source": source.describe(bought.own)} | _warning(bought.answers)
            yield Extraction(substitute, target.spent, Verdict.APPROXIMATE, None, notes)

    def _fitting(self, space: Space) -> tuple[str, ...]:
        found = tuple(name for name in self.learners if takes(registry.load("learners", name), space))
        if not found:
            raise UsageError(f"retraining: none of {', '.join(self.learners)} takes the inputs of this target")
        return found

    def _adaptive(self, target: Metered) -> bool:
        """Whether inputs are chosen by margin; `auto`: where no score of every class is given."""
        grains = target.exposure.grains
        soft = any(grains[s].top_k is None for s in grains if s is not Signal.LABEL)
        return self.sampling == "adaptive" or (self.sampling == "auto" and not soft)


class _Rows:
    """What has been bought: inputs, answers, which rows are the pool's own and which are held out."""

    def __init__(self) -> None:
        self._batches = list[tuple[Floats, Answers, Bools, Bools]]()

    def __len__(self) -> int:
        return sum(len(x) for x, *_ in self._batches)

    def add(self, x: Floats, answers: Answers, own: Bools, held_out: int) -> None:
        """A round's rows, those that are held out first."""
        self._batches.append((x, answers, own, np.arange(len(x)) < held_out))

    @property
    def inputs(self) -> Floats:
        return np.concatenate([x for x, *_ in self._batches])

    @property
    def answers(self) -> Answers:
        return Answers.concat([answers for _, answers, *_ in self._batches])

    @property
    def own(self) -> Bools:
        return np.concatenate([own for _, _, own, _ in self._batches])

    @property
    def held(self) -> Bools:
        return np.concatenate([held for *_, held in self._batches])


class _Contest:
    """Learners, each with its settings, judged on the same held-out fifth; the winner is trained again on everything.

    Small rounds are poor judges of large ones, so a learner is dropped only where it cannot catch up.
    """

    def __init__(self, learners: tuple[str, ...]) -> None:
        self._open = [(name, options) for name in learners for options in _SETTINGS.get(name, ({},))]
        self._made = [registry.create("learners", name, **options) for name, options in self._open]
        self._gaps = [np.inf] * len(self._open)

    def hold(self, bought: _Rows, left: int, rng: Generator) -> tuple[Target, dict[str, Any]]:
        """The winner's substitute and its notes. `left`: rounds to come."""
        inputs, answers, held = bought.inputs, bought.answers, bought.held
        theirs, rows, given = answers.take(held), list[Floats](), list[Answers]()
        for learner in self._made:
            trial = learner.fit(inputs[~held], answers.take(~held), rng.spawn(1)[0])
            given.append(trial.query(inputs[held]))
            rows.append(_closeness(given[-1], theirs))
        natural = bought.own[held]
        if natural.sum() < _ENOUGH:
            natural = np.ones(int(held.sum()), np.bool_)
        scores = [float(r.mean() + r[natural].mean()) / 2 for r in rows]  # the pool's own rows count for half
        winner = int(np.argmax(scores))
        name, options = self._open[winner]
        notes = {
            "learner": name,
            "settings": dict(options),
            "fidelity": _agreement(given[winner], theirs, natural),
            "held_out": int(natural.sum()),
            "score": scores[winner],
            "scores": {
                n: max(s for (m, _), s in zip(self._open, scores, strict=True) if m == n) for n, _ in self._open
            },
        }
        substitute = self._made[winner].fit(inputs, answers, rng.spawn(1)[0])
        self._drop(rows, winner, left)
        return substitute, notes

    def _drop(self, rows: list[Floats], winner: int, left: int) -> None:
        keep = []
        for i, mine in enumerate(rows):
            short = rows[winner] - mine
            gap = float(short.mean())
            behind = gap > max(_BEHIND, 3 * float(short.std()) / len(short) ** 0.5)
            pace = max(0.0, self._gaps[i] - gap)
            if not (behind and len(short) >= _FEWEST and gap > 1.5 * pace * left):
                keep.append(i)
            self._gaps[i] = gap
        for name in ("_open", "_made", "_gaps"):
            setattr(self, name, [getattr(self, name)[i] for i in keep])


def _agreement(ours: Answers, theirs: Answers, rows: Bools) -> float:
    """Agreement of labels; of values the share of variance explained."""
    if Signal.VALUE in theirs:
        return float(_explained(ours.take(rows), theirs.take(rows)).mean())
    return float(np.mean(ours.labels()[rows] == theirs.labels()[rows]))


def _explained(ours: Answers, theirs: Answers) -> Floats:
    """Per row; the mean is the share of variance explained, averaged over outputs."""
    wanted = theirs[Signal.VALUE]
    return np.asarray(1 - ((ours[Signal.VALUE] - wanted) ** 2 / np.maximum(wanted.var(0), 1e-300)).mean(1))


def _closeness(ours: Answers, theirs: Answers) -> Floats:
    """What learners are chosen by, per row, 1 at best: agreement of labels, and as much of that as is given of
    probabilities (labels are a poor judge where one class is nearly alone); of values the variance explained.
    """
    if Signal.VALUE in theirs:
        return _explained(ours, theirs)
    same = np.asarray(ours.labels() == theirs.labels(), np.float64)
    signal = next((s for s in (Signal.LOGITS, Signal.PROBABILITIES) if s in theirs and theirs.mask(s).all()), None)
    if signal is None or Signal.PROBABILITIES not in ours:
        return same
    p = theirs[signal]
    if signal is Signal.LOGITS or ((p < 0) | (p > 1)).any():
        p = softmax(p)
    return np.asarray((same + 1 - np.abs(p - ours[Signal.PROBABILITIES]).sum(1) / 2) / 2)


def _warning(answers: Answers) -> dict[str, str]:
    """A copy trained on one class nearly alone says little of the others."""
    if Signal.VALUE in answers:
        return {}
    share = np.bincount(answers.labels(), minlength=1).max() / len(answers)
    return {"warning": f"{share:.0%} of the bought answers are one class"} if share > 0.8 else {}
