"""Walking a tree from leaf to leaf until the known parts fill the space."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator

from understudy.attacks._columns import Columns, Ints
from understudy.attacks._edges import Edges, NotATree, aside
from understudy.attacks._oracle import Oracle
from understudy.attacks._parts import Node, Part, Parts, cut_up
from understudy.types import Floats

_PAIRS = 8  # neighbours that are compared before anything else
_ALONE = 128  # random rows of which two at least must be answered alike
_LEAVES, _TELLING = 5000, 64  # more leaves are not taken for one tree; parts from which their number is foretold
_FIRST, _FACES = 3, 20  # leaves after which, and faces on average beyond which, it is no single tree's


class Walk:
    """Known parts of the space, and what is asked to know more of them.

    `alike`: whether several leaves may answer the same. Then a part is not extended beyond what is known to be free.
    """

    def __init__(self, oracle: Oracle, columns: Columns, rng: Generator, *, alike: bool = False) -> None:
        self.oracle, self.columns, self.rng, self.alike = oracle, columns, rng, alike
        self.edges = Edges(oracle, columns, rng)
        self.parts: list[Part] = []
        self.leaves: list[int] = []  # the identity of each part
        self.seeds: list[Floats] = []  # and a row inside
        self.contradictions = 0
        self._seen = 0  # rows asked that every part has been held against

    # a tree at all?

    def screen(self) -> None:
        """Raises NotATree where neighbours differ nearly always, or where no two random rows are answered alike.

        128 rows that all differ have fewer than 1 in 2,700 pairs in one leaf (at 95 %).
        """
        rows = self.columns.rows(self.columns.space.sample(_PAIRS, self.rng))
        ids = self.oracle.ask(rows)
        near = aside(rows, self.columns, self.rng)
        if not np.array_equal(rows, near, equal_nan=True) and (ids == self.oracle.ask(near)).sum() <= 1:
            raise NotATree("inputs a hundredth apart are answered differently: a smooth model, or very many trees")
        while len(set(ids.tolist())) == len(ids) and len(ids) < _ALONE and len(self.oracle.samples) > 1:
            more = self.columns.rows(self.columns.space.sample(len(ids), self.rng))
            ids = np.concatenate([ids, self.oracle.ask(more)])
        if len(ids) >= _ALONE and len(set(ids.tolist())) == len(ids):
            raise NotATree(f"no two of {_ALONE} random inputs are answered alike: many trees, or thousands of leaves")

    def foretell(self) -> None:
        """Raises NotATree when the known parts are many and fill next to nothing, or have too many faces."""
        known = len(self.parts)
        share = (self._covered(self.columns.drawn).sum() + 1) / len(self.columns.drawn)
        if known >= _TELLING and known / share > _LEAVES:
            raise NotATree(f"{known} leaves fill {share:.1%} of the space: more than {_LEAVES} of them")
        faces = sum(int(np.isfinite(p.below).sum() + np.isfinite(p.high).sum()) for p in self.parts)
        if known >= _FIRST and faces > _FACES * known:
            raise NotATree(f"a leaf has {faces // known} faces, more than one of a single tree has")

    def size(self, part: Part) -> float:
        """About which share of the space's draws fall into a part."""
        return float(
            np.prod([self.columns.share(f, part.below[f], part.high[f], part.held) for f in range(self.columns.d)])
        )

    # filling the space

    def fill(self) -> Iterator[Node]:
        """After each round the tree of cuts, until nothing is unknown; the last one is complete."""
        while True:
            while self._seen < self.oracle.asked:
                self.repair()
            self.foretell()
            tree = cut_up(self.parts, self.columns)
            unknown = [node.part for node in tree.leaves() if node.known is None]
            yield tree
            if not unknown:
                return
            unknown.sort(key=self.size, reverse=True)
            enough = len(self.parts) + max(1, len(self.parts) // 8)
            for part in unknown:
                self.visit(part)
                if len(self.parts) >= enough:
                    break

    def visit(self, part: Part) -> None:
        """The leaf at a row of an unknown part: one that was asked already, else a drawn one."""
        rows = self.oracle.rows
        inside = np.flatnonzero(part.holds(rows, self.columns.marks(rows)))
        inside = inside[~self._covered(rows[inside])] if len(inside) else inside
        if len(inside):
            row, leaf = rows[inside[0]].copy(), int(self.oracle.ids[inside[0]])
        else:
            row = self.draw(part, 1)[0]
            if self._covered(row[None])[0]:
                return
            leaf = int(self.oracle.ask(row[None])[0])
        grown = self.edges.grow(row, leaf, part)
        if not self.alike:
            grown = self._extended(row, leaf, grown, part)
        self._settle(row, leaf, grown)

    def _extended(self, row: Floats, leaf: int, grown: Part, within: Part) -> Part:
        """The leaf beyond the part it was looked for in, where stepping out of that part does not change the answer."""
        tried: set[tuple[int, float, bool]] = set()
        while True:
            steps = [s for s in self._steps(grown, within) if s not in tried]
            if not steps:
                return grown
            tried |= set(steps)
            rows = np.repeat(row[None], len(steps), 0)
            for i, (f, value, gap) in enumerate(steps):
                rows[i, f] = np.nan if gap else value
            wider = grown
            for i in np.flatnonzero(~self._covered(rows)).tolist():
                if self.oracle.ask(rows[i][None])[0] == leaf:
                    wider = _opened(wider, steps[i][0], rows[i], row, self.columns)
            if wider is not grown:
                within, grown = wider, self.edges.grow(row, leaf, wider)

    def _steps(self, grown: Part, within: Part) -> list[tuple[int, float, bool]]:
        """(column, value, or 0 and True for a gap) just beyond each face that the part was given and did not find."""
        columns, steps = self.columns, list[tuple[int, float, bool]]()
        for f in np.flatnonzero(columns.ordered & (grown.below < grown.high)).tolist():
            if grown.below[f] == within.below[f] and grown.below[f] >= columns.low[f]:
                steps.append((f, float(grown.below[f]), False))
            if grown.high[f] == within.high[f] and grown.high[f] < columns.high[f]:
                steps.append((f, columns.step(f, float(grown.high[f]), True), False))
        for m in np.flatnonzero(~within.held).tolist():
            gap = bool(np.isnan(columns.value[m]))
            steps.append((int(columns.owner[m]), 0.0 if gap else float(columns.value[m]), gap))
        return steps

    # keeping parts true

    def _settle(self, row: Floats, leaf: int, part: Part) -> None:
        """Add a part, cut back until nothing that is known contradicts it."""
        while True:
            part = self._undisputed(row, leaf, part)
            rival = self._rival(part)
            if rival is None:
                break
            part = self._apart(row, leaf, part, rival)
        self.parts.append(part)
        self.leaves.append(leaf)
        self.seeds.append(row)

    def _undisputed(self, row: Floats, leaf: int, part: Part) -> Part:
        """The part without the rows that are known to be answered otherwise."""
        while True:
            rows, ids = self.oracle.rows, self.oracle.ids
            others = np.flatnonzero(ids != leaf)
            inside = others[part.holds(rows[others], self.columns.marks(rows[others]))]
            if not len(inside):
                return part
            self.contradictions += 1
            goal = rows[inside[self.rng.integers(len(inside))]].copy()
            base, f = self.edges.responsible(row.copy(), goal, leaf)
            part, _ = self.edges.trimmed(part, base, goal, f, leaf)

    def _rival(self, part: Part) -> int | None:
        """A known part that overlaps this one."""
        if not self.parts:
            return None
        alive = Parts.of(self.parts).clipped(part).alive(self.columns)
        return int(np.argmax(alive)) if alive.any() else None

    def _apart(self, row: Floats, leaf: int, part: Part, rival: int) -> Part:
        """The part without its overlap with another one, or as it is when the other one proved wrong and is gone."""
        other = self.parts[rival]
        shared = Parts.of([other]).clipped(part)
        overlap = Part(shared.below[0], shared.high[0], shared.held[0])
        answered = int(self.oracle.ask(self.draw(overlap, 1))[0])
        if self.leaves[rival] != leaf and answered == leaf:
            self.contradictions += 1
            self._drop(rival)
            return part
        if answered != leaf:
            return part  # the next look at what is known cuts it back
        return max(self._pieces(row, part, other), key=self.size)

    def _pieces(self, row: Floats, part: Part, other: Part) -> Iterator[Part]:
        """What is left of the part on the row's side of each face of another one that does not hold the row."""
        mark = self.columns.marks(row[None])[0]
        for f in range(self.columns.d):
            if mark[f] >= 0:
                if not other.held[mark[f]]:
                    yield (
                        part.without((self.columns.owner == f) & other.held).numberless(f)
                        if self.columns.ordered[f]
                        else part.without((self.columns.owner == f) & other.held)
                    )
            elif row[f] <= other.below[f]:
                yield self._gapless(part.up_to(f, other.below[f]), other, f)
            elif row[f] > other.high[f]:
                yield self._gapless(part.above(f, other.high[f]), other, f)

    def _gapless(self, part: Part, other: Part, f: int) -> Part:
        return part.without((self.columns.owner == f) & other.held)

    def repair(self) -> None:
        """Cut back every part that a row asked since contradicts; what it loses is unknown again."""
        start, self._seen = self._seen, self.oracle.asked
        rows, ids = self.oracle.rows[start:], self.oracle.ids[start:]
        marks = self.columns.marks(rows)
        wrong = [
            i
            for i, (part, leaf) in enumerate(zip(self.parts, self.leaves, strict=True))
            if part.holds(rows[ids != leaf], marks[ids != leaf]).any()
        ]
        lost = [(self.seeds[i], self.leaves[i], self.parts[i]) for i in wrong]
        for i in reversed(wrong):
            self._drop(i)
        for row, leaf, part in lost:
            self._settle(row, leaf, part)

    def _drop(self, i: int) -> None:
        del self.parts[i], self.leaves[i], self.seeds[i]

    def _covered(self, rows: Floats) -> np.ndarray:
        """Which rows lie in a known part."""
        marks, covered = self.columns.marks(rows), np.zeros(len(rows), np.bool_)
        for part in self.parts:
            open_rows = np.flatnonzero(~covered)
            if not len(open_rows):
                break
            covered[open_rows] = part.holds(rows[open_rows], marks[open_rows])
        return covered

    # drawing

    def draw(self, part: Part, n: int, even: float = 0.5) -> Floats:
        """Rows of a part: a share even over the thresholds known so far, the others as the space draws."""
        columns, rows = self.columns, np.empty((n, self.columns.d))
        first = round(even * n) if n > 1 else 0
        for f in range(columns.d):
            below, high = part.below[f], part.high[f]
            rows[first:, f] = columns.pick(f, below, high, part.held, n - first, self.rng)
            if first:
                ends = [below, *(t for t in self.edges.known[f] if below < t < high), high]
                rows[:first, f] = columns.spread(f, ends, part.held, first, self.rng)
        return rows


def _opened(part: Part, f: int, beyond: Floats, row: Floats, columns: Columns) -> Part:
    """The part with column f open on the side of a row beyond it."""
    mark = columns.marks(beyond[None])[0, f]
    below, high, held = part.below.copy(), part.high.copy(), part.held.copy()
    if mark >= 0:
        held[mark] = True
    elif beyond[f] > row[f]:
        high[f] = np.inf
    else:
        below[f] = -np.inf
    return Part(below, high, held)


def identities(tree: Node, walk: Walk) -> list[tuple[Node, int]]:
    """The leaves of a tree of cuts and their identities; of an unknown one what most rows asked in it answered."""
    rows, ids = walk.oracle.rows, walk.oracle.ids
    marks = walk.columns.marks(rows)
    usual = int(np.bincount(ids).argmax()) if len(ids) else 0
    found: list[tuple[Node, int]] = []
    for node in tree.leaves():
        if node.known is not None:
            found.append((node, walk.leaves[node.known]))
            continue
        inside: Ints = ids[node.part.holds(rows, marks)]
        found.append((node, int(np.bincount(inside).argmax()) if len(inside) else usual))
    return found
