"""Train on counterfactuals of any kind: points that lie beyond the boundary, nobody knows how far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.random import Generator

from understudy.attacks._clamped import Clamped, Way
from understudy.attacks._source import Source
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.network import NetworkTarget
from understudy.types import Bools, Floats, Signal

_FEWEST = 10


@dataclass(frozen=True)
class CounterfactualTraining:
    """A network on labels, which is pushed where a counterfactual lies on the wrong side of it, and no further.

    Extracts:
        A substitute: fidelity, no parameters. Any model of two classes, any explainer.

    Needs:
        Counterfactuals, and labels or scores, of which the class is used. Two classes.

    Cost:
        Rounds of doubling numbers of queries from `first` on, at most `most`; a substitute after each.

    Reference:
        Dissanayake and Dutta, NeurIPS 2024 (counterfactual clamping); Aivodji, Bolot and Gambs, 2020 (counterfactuals
        as labelled points).

    Differs from the paper:
        The papers train one way. Counterfactuals taken as labels pull the boundary towards the side they are few on,
        clamped ones do not, and on uniform inputs neither is always better: here both ways, and one without them,
        compete on a fifth of the bought answers held out.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.COUNTERFACTUAL})
    adapts_to: ClassVar[frozenset[str]] = frozenset({"label-only", "round"})
    first: int = 20
    most: int = 2000
    network: Clamped = field(default_factory=Clamped, repr=False)

    def opening(self, space: Any, outputs: int) -> int:
        """Queries before the first substitute."""
        return self.first

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """A substitute after every round.

        Notes: `way` of using counterfactuals, and `scores` of all; `fidelity` on the `held_out` answers; `source`.
        """
        classes = {Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS} & target.exposure.signals
        if not classes or target.exposure.outputs != 2:
            reason = "two classes are needed, and labels or scores beside counterfactuals"
            yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason})
            return
        limit = min(self.most, target.remaining)
        source, shape = Source(target.space, pool.draw(limit, rng)), target.space.shape
        d = int(np.prod(shape))
        x, labels = np.zeros((0, d)), np.zeros(0)
        other, own = np.zeros((0, d)), np.zeros(0, np.bool_)
        size = self.first
        while len(x) < limit and target.remaining:
            asked, mine = source.draw(min(size - len(x), limit - len(x), target.remaining), rng, None)
            answers = target.query(asked)
            x, labels = np.concatenate([x, asked.reshape(-1, d)]), np.concatenate([labels, answers.labels()])
            other = np.concatenate([other, np.asarray(answers[Signal.COUNTERFACTUAL], np.float64)])
            own, size = np.concatenate([own, mine]), 2 * size
            if len(x) < _FEWEST:
                continue
            yield self._made(target, x, labels, other, rng, source.describe(own))

    def _made(self, target: Metered, x: Floats, labels: Floats, other: Floats, rng: Generator, told: str) -> Extraction:
        held = rng.permutation(len(x)) < max(len(x) // 5, 2)

        def fit(rows: Bools, way: Way) -> NetworkTarget:
            there = rows & np.isfinite(other).all(1)
            return self.network.fit(
                *(x[rows], labels[rows], other[there], 1 - labels[there], way, target.space, rng.spawn(1)[0])
            )

        # counterfactuals would judge in favour of the way that takes them for labels
        scores = {
            way: float((fit(~held, way).scores(x[held]).argmax(1) == labels[held]).mean()) for way in get_args(Way)
        }
        best: Way = max(scores, key=lambda way: scores[way])  # a tie goes to clamping
        notes = {"way": best, "scores": scores, "fidelity": scores[best], "held_out": int(held.sum()), "source": told}
        return Extraction(fit(np.ones(len(x), np.bool_), best), target.spent, Verdict.APPROXIMATE, None, notes)
