"""Decision trees from answers that tell leaves apart: walk from leaf to leaf, and cut the space as the tree does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.random import Generator

from understudy.attacks._tree_search import Care, Search
from understudy.protocols import Extraction, Metered, Pool
from understudy.types import Signal


@dataclass(frozen=True)
class PathFinding:
    """In a leaf every input is answered alike: where the answer changes there is a threshold, found to the last bit.

    Extracts:
        The tree: every leaf's answer, every threshold between two neighbours of the grid that the target computes on
        (whole numbers, float32 or float64, told per column), sets of categories, and where missing values go. Sides
        that answer alike are one leaf. Where there are fewer than half as many different answers as leaves the copy is
        not called exact: a leaf can hide among others from every check.

    Needs:
        Probabilities, logits or values of one tree; top-k and rounded ones too, as long as answers repeat exactly. Any
        columns: numbers, whole numbers, categories, gaps, where the space says so (`Mixed`). No rows of the attacker's;
        where there are some they are checked too.

    Cost:
        About 40 queries per leaf, nearly whatever the number of columns: one bisection per threshold (24 to 32 queries
        to a float32, 55 to a float64), and a few to learn that a leaf is whole. One fresh check row per leaf, `checks`
        at least; where leaves answer alike `probes` per leaf, until `rounds` rounds in a row find nothing: 90 to
        160 queries per leaf were measured then. Another model is refused after 18 to 150 queries; a sum of trees whose
        cells do not all differ after 1,000 to 3,000, or its cells are followed to the budget's end.

    Reference:
        Tramer, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016, section 4.2 (path finding and its top-down
        variant).

    Differs from the paper:
        The paper scans every column of every leaf. Here one query moves all columns to the corner of a candidate box;
        if the answer changes, the column that did it is found by halving the set of columns moved, those known to be
        split first, and the threshold among those known before a new one is bisected. What is left unknown is cut as
        the known leaves allow (a tree's cut goes through no leaf), so that the next candidate is nearly always a leaf
        already, and the walk ends when nothing is left. Gaps are one more value of a column instead of answers of
        inner nodes. The paper loses leaves that answer as their neighbours do; here every answer bought is held
        against every leaf, and one that contradicts splits it.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset({"round", "top-k"})
    checks: int = 50
    probes: int = 8
    rounds: int = 10

    def opening(self, space: Any, outputs: int) -> int:
        """Queries before the first substitute that is worth much: ten leaves."""
        return 400

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """A substitute whenever the queries have doubled, then the certified one.

        Notes: `leaves`; `answers`, how many different ones; `contradictions`, how often leaves that answer alike were
        told apart; `float64_columns`; `check_queries`; `reason` why a target is refused.
        """
        yield from Search(target, pool, rng, Care(self.checks, self.probes, self.rounds)).run()
