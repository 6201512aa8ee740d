"""Parts of a space, each answered alike, and the tree of cuts that tells known parts from those not yet seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from understudy.attacks._columns import Columns, Ints
from understudy.types import Bools, Floats

_TABLE = 4_000_000  # cells of a comparison of parts with cuts


@dataclass(frozen=True, eq=False)
class Part:
    """Numbers in (below, high] per column (d,), and the marks (S,) that are held. No number: below > high."""

    below: Floats
    high: Floats
    held: Bools

    @classmethod
    def whole(cls, columns: Columns) -> Part:
        """All of the space."""
        d, size = columns.d, len(columns.owner)
        return cls(np.full(d, -np.inf), np.full(d, np.inf), np.ones(size, np.bool_))

    def above(self, f: int, cut: float) -> Part:
        """The numbers of column f beyond a cut, and all marks."""
        below = self.below.copy()
        below[f] = max(cut, below[f])
        return replace(self, below=below)

    def up_to(self, f: int, cut: float) -> Part:
        """The numbers of column f up to a cut, and all marks."""
        high = self.high.copy()
        high[f] = min(cut, high[f])
        return replace(self, high=high)

    def without(self, marks: Bools | int) -> Part:
        """Without some marks."""
        held = self.held.copy()
        held[marks] = False
        return replace(self, held=held)

    def numberless(self, f: int) -> Part:
        """Without the numbers of column f."""
        below, high = self.below.copy(), self.high.copy()
        below[f], high[f] = np.inf, -np.inf
        return replace(self, below=below, high=high)

    def holds(self, rows: Floats, marks: Ints) -> Bools:
        """Which rows lie inside, shape (n,)."""
        inside = (rows > self.below) & (rows <= self.high)
        if len(self.held):
            inside = np.where(marks < 0, inside, self.held[marks])
        return np.asarray(inside.all(1))


@dataclass(frozen=True, eq=False)
class Parts:
    """Several parts as arrays: (m, d), (m, d), (m, S)."""

    below: Floats
    high: Floats
    held: Bools

    @classmethod
    def of(cls, parts: list[Part]) -> Parts:
        return cls(
            np.array([p.below for p in parts]), np.array([p.high for p in parts]), np.array([p.held for p in parts])
        )

    def take(self, rows: Ints) -> Parts:
        return Parts(self.below[rows], self.high[rows], self.held[rows])

    def clipped(self, part: Part) -> Parts:
        """Their intersections with a part."""
        return Parts(np.maximum(self.below, part.below), np.minimum(self.high, part.high), self.held & part.held)

    def alive(self, columns: Columns) -> Bools:
        """Which of them hold anything at all, shape (m,)."""
        some = self.below < self.high
        some[:, ~columns.ordered] = False
        np.logical_or.at(some.T, columns.owner, self.held.T)
        return np.asarray(some.all(1))


@dataclass(frozen=True, eq=False)
class Cut:
    """Column f: numbers up to `cut` go left, and of its marks those in `left` (S,)."""

    f: int
    cut: float
    left: Bools

    def sides(self, part: Part, columns: Columns) -> tuple[Part, Part]:
        """Both halves of a part."""
        mine = columns.owner == self.f
        one, two = part.without(mine & ~self.left), part.without(mine & self.left)
        if not columns.ordered[self.f]:
            return one, two
        return one.up_to(self.f, self.cut), two.above(self.f, self.cut)


@dataclass(eq=False)
class Node:
    """A node of the tree of cuts: the part it stands for; its cut and sides, or the known part that fills it."""

    part: Part
    known: int | None = None
    cut: Cut | None = None
    left: Node | None = None
    right: Node | None = None

    def leaves(self) -> Iterator[Node]:
        """Every leaf below, from left to right."""
        stack = [self]
        while stack:
            node = stack.pop()
            if node.left is not None and node.right is not None:
                stack += [node.right, node.left]
            else:
                yield node


def cut_up(parts: list[Part], columns: Columns) -> Node:
    """A tree whose leaves are the known parts and what is between them.

    The true tree has at every node a cut that goes through none of its leaves. So the cut is taken that goes through
    the fewest known parts, of these the one that is a face of most, of these the one in the middle.
    """
    root = Node(Part.whole(columns))
    if not parts:
        return root
    every = Parts.of(parts)
    stack = [(root, np.arange(len(parts)))]
    while stack:
        node, rows = stack.pop()
        clipped = every.take(rows).clipped(node.part)
        alive = clipped.alive(columns)
        rows, clipped = rows[alive], Parts(clipped.below[alive], clipped.high[alive], clipped.held[alive])
        if not len(rows):
            continue
        node.cut = _best(node.part, clipped, columns)
        if node.cut is None:
            node.known = int(rows[0])
            continue
        node.left, node.right = (Node(side) for side in node.cut.sides(node.part, columns))
        stack += [(node.left, rows), (node.right, rows)]
    return root


def _best(part: Part, parts: Parts, columns: Columns) -> Cut | None:
    """The cut between known parts, or None where one of them is all there is."""
    found = [c for c in (_by_number(part, parts, columns), _by_mark(part, parts, columns)) if c is not None]
    return min(found, key=lambda c: c[0])[1] if found else None


Rated = tuple[tuple[int, int, float], Cut]


def _by_number(part: Part, parts: Parts, columns: Columns) -> Rated | None:
    some = parts.below < parts.high
    faces = [np.nonzero(some & (parts.high < part.high)), np.nonzero(some & (parts.below > part.below))]
    f = np.concatenate([faces[0][1], faces[1][1]])
    if not len(f):
        return None
    cuts = np.concatenate([parts.high[faces[0]], parts.below[faces[1]]])
    order = np.lexsort((cuts, f))
    f, cuts = f[order], cuts[order]
    new = np.append(True, (np.diff(f) != 0) | (np.diff(cuts) != 0))
    support = np.diff(np.append(np.flatnonzero(new), len(f)))
    f, cuts = f[new], cuts[new]
    most = max(_TABLE // len(parts.below), 1)
    if len(f) > most:
        chosen = np.argsort(-support, kind="stable")[:most]
        f, cuts, support = f[chosen], cuts[chosen], support[chosen]
    left, right = some[:, f] & (parts.below[:, f] < cuts), some[:, f] & (parts.high[:, f] > cuts)
    through, gaps_left = (left & right), np.zeros(len(f), np.bool_)
    broken = through.sum(0)
    for g in np.unique(f[columns.gaps[f]]):
        mine, gap = f == g, parts.held[:, columns.marks_of(g)[-1], None]
        either = [(through[:, mine] | (gap & side[:, mine])).sum(0) for side in (right, left)]
        gaps_left[mine] = either[0] <= either[1]
        broken[mine] = np.minimum(*either)
    low, high = np.maximum(part.below, columns.low)[f], np.minimum(part.high, columns.high)[f]
    middle = np.abs((cuts - low) / np.maximum(high - low, 1e-300) - 0.5)
    best = np.lexsort((middle, -support, broken))[0]
    mark = (columns.owner == f[best]) & gaps_left[best]
    return (int(broken[best]), -int(support[best]), float(middle[best])), Cut(int(f[best]), float(cuts[best]), mark)


def _by_mark(part: Part, parts: Parts, columns: Columns) -> Rated | None:
    best: Rated | None = None
    for f in np.unique(columns.owner):
        mine = columns.marks_of(f)
        if columns.ordered[f]:  # numbers to the left, the gap to the right
            if part.held[mine[0]] and part.below[f] < part.high[f]:
                numbers, gap = parts.below[:, f] < parts.high[:, f], parts.held[:, mine[0]]
                one_sided = int((numbers != gap).sum())
                if one_sided:
                    rated = (int((numbers & gap).sum()), -one_sided, 0.5), Cut(int(f), np.inf, columns.owner < 0)
                    best = rated if best is None or rated[0] < best[0] else best
            continue
        held, room = parts.held[:, mine], part.held[mine]
        sets, support = np.unique(held[held.sum(1) < room.sum()], axis=0, return_counts=True)
        for some, count in zip(sets, support, strict=True):
            through = int(((held & some).any(1) & (held & ~some).any(1)).sum())
            left = np.zeros(len(columns.owner), np.bool_)
            left[mine] = some
            rated = (through, -int(count), 0.5), Cut(int(f), np.inf, left)
            best = rated if best is None or rated[0] < best[0] else best
    return best
