"""Tree ensembles from counterfactuals inside boxes: where there is none, a whole box is answered alike."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from understudy.errors import BudgetExceeded, InputError
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.tree import TreeTarget
from understudy.types import Answers, Ask, Box, Exposure, Floats, Signal

_GLANCE = 20  # check queries for a substitute on the way


@dataclass(frozen=True)
class BoxSearch:
    """Ask for the nearest counterfactual inside a box: none, and the box is a leaf; else it crosses a threshold.

    Extracts:
        The classes of a tree, a forest or boosted trees everywhere: boxes that are answered alike, as one tree. Labels
        are all that is copied, so the copy is never called exact; `complete` says that no box is open.

    Needs:
        Counterfactuals that can be asked for inside a box (`Ask.within`: Python functions with a parameter `within`;
        no protocol carries it), and labels or scores. A bounded space of numbers. Nothing of the attacker's.

    Cost:
        One query for each box, open ones included: about twice as many as the boxes in which neighbours differ. Deep
        ensembles in many columns have more of these than budgets hold; then the largest boxes are settled first.

    Reference:
        Khouna, Ferry and Vidal, NeurIPS 2025 (tree ensembles from locally optimal counterfactuals).

    Differs from the paper:
        Written from its abstract and a description at second hand, so order and bounds are ours: the largest box comes
        first, it is cut in the one column in which its counterfactual is furthest off, and a sliver narrower than
        `tolerance` of a column's range, beside a threshold that a counterfactual oversteps, is taken for nothing.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.COUNTERFACTUAL})
    adapts_to: ClassVar[frozenset[str]] = frozenset()
    checks: int = 100
    tolerance: float = 1e-6

    def opening(self, space: Any, outputs: int) -> int:
        """Queries before the first substitute that is worth much."""
        return 50

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """A substitute whenever the queries have doubled, then the complete one, or the last that the budget holds.

        Notes: `boxes`, how many are settled; `open`; `complete`; `fidelity` on fresh rows; `reason` of a refusal.
        """
        space, reason = target.space, ""
        if not isinstance(space, Box) or not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            reason = "boxes need a space with bounds"
        elif not {Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS} & target.exposure.signals:
            reason = "labels or scores are needed beside counterfactuals"
        elif target.remaining < 2 * _GLANCE:
            return
        search: _Search | None = None
        try:
            search = None if reason else _Search(target, self.tolerance)
        except BudgetExceeded:
            return
        except InputError as why:
            reason = str(why)
        if search is None:
            yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason})
            return
        due, keep = 100, min(self.checks, target.remaining // 5)
        while search.open and target.remaining > keep and search.step():
            if target.spent >= due and target.remaining > keep + _GLANCE:
                yield self._judged(search, target, rng, _GLANCE)
                due = 2 * target.spent
        yield self._judged(search, target, rng, min(self.checks, target.remaining))

    def _judged(self, search: _Search, target: Metered, rng: Generator, n: int) -> Extraction:
        copy, x = search.copy(), target.space.sample(n, rng)
        notes: dict[str, Any] = {
            "family": "tree",
            "boxes": search.settled,
            "open": len(search.open),
            "complete": not search.open,
        }
        if n:
            notes["fidelity"] = float((copy.query(x).labels() == target.query(x).labels()).mean())
        return Extraction(copy, target.spent, Verdict.APPROXIMATE, None, notes)


class _Search:
    """The boxes so far, as a tree that grows: open ones wait by size, each with its counterfactual."""

    def __init__(self, target: Metered, tolerance: float) -> None:
        space = target.space
        assert isinstance(space, Box)
        self._target, self._low, self._high = target, space.low.ravel(), space.high.ravel()
        self._least = tolerance * (self._high - self._low)
        self.feature, self.threshold = list[int](), list[float]()
        self.children, self.label = list[tuple[int, int]](), list[int]()
        self.open = list[tuple[float, int, Floats, Floats, Floats, Floats]]()
        self.settled = 0
        self._box(self._low, self._high)

    def _box(self, low: Floats, high: Floats) -> int:
        """A new leaf, asked at its centre; open where a counterfactual inside it is not answered alike.

        One that lies in a sliver along a wall is taken for the neighbour's, and asked for again without the sliver.
        """
        centre = low + (high - low) / 2
        node, inner, outer = -1, low, high
        while True:
            label, other = self._asked(centre, inner, outer)
            node = self._leaf(label) if node < 0 else node
            off = np.abs(other - centre) / (self._high - self._low)
            if not np.isfinite(other).all() or not off.any():
                self.settled += 1
                return node
            j = int(off.argmax())
            inner, outer = inner.copy(), outer.copy()
            if other[j] < centre[j] and other[j] - inner[j] < self._least[j]:
                inner[j] += self._least[j]
            elif other[j] > centre[j] and outer[j] - other[j] < self._least[j]:
                outer[j] -= self._least[j]
            else:
                size = float(np.log((high - low) / (self._high - self._low)).sum())
                heapq.heappush(self.open, (-size, node, low, high, centre, other))
                return node
            if inner[j] >= centre[j] or outer[j] <= centre[j]:
                self.settled += 1
                return node

    def _asked(self, centre: Floats, low: Floats, high: Floats) -> tuple[int, Floats]:
        ask = Ask(within=(tuple(low.tolist()), tuple(high.tolist())))
        answers = self._target.query(centre.reshape(1, *self._target.space.shape), ask)
        return int(answers.labels()[0]), np.asarray(answers[Signal.COUNTERFACTUAL], np.float64)[0]

    def step(self) -> bool:
        """Cut the largest open box where its counterfactual crosses a threshold; False where the budget ends first.

        Costs two queries, or one, and one more for each sliver.
        """
        cut = heapq.heappop(self.open)
        try:
            self._cut(*cut[1:])
        except BudgetExceeded:
            heapq.heappush(self.open, cut)
            return False
        return True

    def _cut(self, node: int, low: Floats, high: Floats, centre: Floats, other: Floats) -> None:
        j = int((np.abs(other - centre) / (self._high - self._low)).argmax())
        up = other[j] > centre[j]
        cut = float(np.nextafter(other[j], -np.inf)) if up else float(other[j])
        lower, upper = high.copy(), low.copy()
        lower[j], upper[j] = cut, np.nextafter(cut, np.inf)
        children = self._part(low, lower, node), self._part(upper, high, node)
        self.feature[node], self.threshold[node], self.children[node] = j, cut, children

    def _part(self, low: Floats, high: Floats, parent: int) -> int:
        if (high - low > self._least).all():
            return self._box(low, high)
        return self._leaf(self.label[parent])  # a sliver: what lies there is taken to be answered as its neighbour is

    def _leaf(self, label: int) -> int:
        self.feature.append(-1)
        self.threshold.append(0.0)
        self.children.append((-1, -1))
        self.label.append(label)
        return len(self.feature) - 1

    def copy(self) -> TreeTarget:
        """The boxes as a tree; an open one answers as its centre does."""
        k, d = len(self.feature), len(self._low)
        feature = np.array(self.feature)
        ends = np.flatnonzero(feature < 0)
        leaf = np.full(k, -1)
        leaf[ends] = np.arange(len(ends))
        left, right = np.array(self.children).T
        outputs = self._target.exposure.outputs
        return TreeTarget(
            *(self._target.space, Exposure.of(Signal.LABEL, outputs)),
            Answers({Signal.LABEL: np.array(self.label)[ends]}, outputs),
            *(feature, np.array(self.threshold), left, right, leaf),
            gap_left=np.zeros(k, np.bool_),
            codes=np.zeros((k, 1), np.bool_),
            categorical=np.zeros(d, np.bool_),
            single=np.zeros(d, np.bool_),
        )
