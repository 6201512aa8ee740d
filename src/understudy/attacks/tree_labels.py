"""Small decision trees from labels alone: the same walk, with many more checks, from rows of the attacker's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.random import Generator

from understudy.attacks._tree_search import Care, Search
from understudy.protocols import Extraction, Metered, Pool
from understudy.types import Signal


@dataclass(frozen=True)
class TreeLabels:
    """A box whose inside is answered alike wherever one looks is taken for a leaf, until a check finds otherwise.

    Extracts:
        A tree that agrees with every label bought, its thresholds exact to the last bit. How it is divided into leaves
        is its own affair: labels do not tell, and small leaves can stay unseen. Never called exact.

    Needs:
        Labels (or scores, of which only the largest is used). Up to `own` rows of the attacker's, for at most a quarter
        of the budget: they reach small leaves where real inputs lie, which random ones miss.

    Cost:
        80 to 300 queries per leaf. It ends after `rounds` rounds of `probes` checks per leaf that all agree, or with
        the budget. Another model is refused after 18 to 60 queries, or its boundaries are followed to the budget's end.

    Reference:
        Tramer, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016, section 4.2, whose path finding needs answers
        that tell leaves apart; section 6 retrains from labels.

    Differs from the paper:
        The paper has no path finding from labels. Every label bought is held against every box; a contradiction is
        bisected to the threshold it proves. Checks are spread evenly over known thresholds and the ends between them,
        since leaves that are small in the space often are not small there.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS})
    adapts_to: ClassVar[frozenset[str]] = frozenset({"label-only", "round", "top-k"})
    checks: int = 100
    probes: int = 10
    rounds: int = 3
    own: int = 500

    def opening(self, space: Any, outputs: int) -> int:
        """Queries before the first substitute that is worth much: five leaves."""
        return 500

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """A substitute whenever the queries have doubled, and the one that nothing contradicts.

        Notes: as of `path-finding`, and `fidelity` on fresh rows.
        """
        care = Care(self.checks, self.probes, self.rounds, self.own)
        yield from Search(target, pool, rng, care, labels=True).run()
