"""From nothing to a certified tree: walk, check, and walk again where a check failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from understudy.attacks._columns import Columns
from understudy.attacks._copied import copied
from understudy.attacks._edges import NotATree
from understudy.attacks._oracle import Oracle, OutOfBudget
from understudy.attacks._parts import Node, Part
from understudy.attacks._walk import Walk
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.tree import TreeTarget
from understudy.types import Bools, Floats

_FEWEST = 8  # queries with which anything can be begun
_RESERVE = (4, 100)  # check queries at the end of the budget, at least and at most
_GLANCE = 20  # check queries for a substitute on the way


@dataclass(frozen=True)
class Care:
    """How much is checked: rows per round at least; per leaf and round, and rounds in a row, where leaves answer alike;
    and how many of the attacker's rows are asked before anything else.
    """

    checks: int
    probes: int
    rounds: int
    own: int = 0


class Search:
    """One attack on a tree. `labels`: only the class is looked at, of which leaves have few."""

    def __init__(self, target: Metered, pool: Pool, rng: Generator, care: Care, *, labels: bool = False) -> None:
        self.target, self.pool, self.rng, self.care, self.labels = target, pool, rng, care, labels
        self.columns = Columns(target.space, rng)
        self.oracle = Oracle(target, self.columns, labels)
        self.walk = Walk(self.oracle, self.columns, rng, alike=labels)
        self._checked, self._clean = 0, 0

    def run(self) -> Iterator[Extraction]:
        """Substitutes, from coarse to certified."""
        if self.target.remaining < _FEWEST:
            return
        self.oracle.keep = int(np.clip(self.target.remaining // 20, *_RESERVE))
        tree = Node(Part.whole(self.columns))
        try:
            self._begin()
            due = 2 * self.target.spent
            while True:
                for tree in self.walk.fill():
                    if self.target.spent >= due and any(node.known is None for node in tree.leaves()):
                        yield self._approximate(tree, _GLANCE)
                        due = 2 * self.target.spent
                if self._certified(tree):
                    break
        except NotATree as why:
            notes = {"family": "none", "reason": str(why)}
            yield Extraction(None, self.target.spent, Verdict.NOT_OF_FAMILY, None, notes)
            return
        except OutOfBudget:
            self.oracle.keep = 0
            yield self._approximate(tree, self.target.remaining)
            return
        copy = copied(tree, self.walk)
        notes = self._notes(copy) | {"check_queries": self._checked}
        if self._telling(copy):
            yield Extraction(copy, self.target.spent, Verdict.EXACT, copy.parameters, notes)
        else:
            yield Extraction(copy, self.target.spent, Verdict.APPROXIMATE, None, notes | {"fidelity": 1.0})

    def _begin(self) -> None:
        """Ask one row twice, rows that tell other models from trees, and the attacker's own."""
        row = self.columns.rows(self.columns.space.sample(1, self.rng))
        if self.oracle.left < 2:
            raise OutOfBudget
        one, two = self.oracle.numbered(self.target.query(self.columns.inputs(np.repeat(row, 2, 0))))
        if one != two:
            raise NotATree("one input asked twice was answered differently: the answers are noisy")
        self.walk.screen()
        own = self.pool.draw(min(self.care.own, self.oracle.left // 4), self.rng)
        self.oracle.ask(self.columns.rows(own))

    def _certified(self, tree: Node) -> bool:
        """Ask fresh rows; whether so many rounds in a row were answered as the tree says that it may be trusted."""
        copy, spent = copied(tree, self.walk), self.target.spent
        leaves = int((copy.leaf >= 0).sum())
        alike = self.walk.alike or len(self.oracle.samples) < leaves
        rows = self._rows(tree, max(self.care.checks, leaves * (self.care.probes if alike else 1)))
        if self._agree(copy, rows).all():
            self._checked, self._clean = self._checked + self.target.spent - spent, self._clean + 1
            return self._clean >= (self.care.rounds if alike else 1)
        self._checked, self._clean, self.walk.alike = 0, 0, True
        return False

    def _rows(self, tree: Node, n: int) -> Floats:
        """Rows to check: up to a sixth the attacker's, to a third with those the space draws; and inside every leaf."""
        own = self.columns.rows(self.pool.draw(n // 6, self.rng))
        drawn = self.columns.rows(self.columns.space.sample(n // 3 - len(own), self.rng))
        leaves = list(tree.leaves())
        places = self.rng.permutation(np.arange(n - n // 3) % len(leaves))
        counts = np.bincount(places, minlength=len(leaves))
        inside = [self.walk.draw(leaf.part, int(k), 0.7) for leaf, k in zip(leaves, counts, strict=True) if k]
        return np.concatenate([own, drawn, *inside])

    def _agree(self, copy: TreeTarget, rows: Floats) -> Bools:
        ours = self.oracle.numbered(copy.query(self.columns.inputs(rows)))
        return np.asarray(ours == self.oracle.ask(rows))

    def _approximate(self, tree: Node, checks: int) -> Extraction:
        """What is known so far, judged on fresh rows: the attacker's where there are any, else the space's."""
        copy, n = copied(tree, self.walk), min(checks, self.oracle.left)
        own = self.columns.rows(self.pool.draw(n, self.rng))
        rows = np.concatenate([own, self.columns.rows(self.columns.space.sample(n - len(own), self.rng))])
        notes = self._notes(copy)
        if n > 0:
            notes["fidelity"] = float(self._agree(copy, rows).mean())
        return Extraction(copy, self.target.spent, Verdict.APPROXIMATE, None, notes)

    def _telling(self, copy: TreeTarget) -> bool:
        """Whether answers tell most leaves apart. Where they do not, a leaf can hide from every check: never exact."""
        answers, leaves = len(self.oracle.samples), int((copy.leaf >= 0).sum())
        return not self.labels and 1 < leaves <= 2 * answers

    def _notes(self, copy: TreeTarget) -> dict[str, Any]:
        """`leaves` of the copy, `answers` that differ, and how many `contradictions` told leaves that answer alike."""
        double = np.flatnonzero(self.columns.double).tolist()
        return {
            "family": "tree",
            "leaves": int((copy.leaf >= 0).sum()),
            "answers": len(self.oracle.samples),
            "contradictions": self.walk.contradictions,
            "float64_columns": double,
        }
