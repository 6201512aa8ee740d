"""A bounded sample of rows with classes, as many of each class, that merges exactly.

Of each class the rows of lowest rank are kept, a rank being a keyed hash of the row: what two samples hold together is
the sample of both, whoever saw what and when (bottom-k sampling, Cohen and Kaplan, PODC 2007). Equal rows count once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.types import Array
from understudy.views import Floats32

Key = NDArray[np.uint64]


def new_key(columns: int, rng: Generator) -> Key:
    """What ranks depend on: whoever does not hold it cannot choose which rows are kept."""
    return rng.integers(1, 2**64 - 1, columns + 1, np.uint64) | np.uint64(1)


@dataclass(frozen=True, slots=True, eq=False)
class Balanced:
    """`rows` (n, d) float16, `labels` (n,) and `ranks` (n,), by class and rank."""

    rows: NDArray[np.float16]
    labels: NDArray[np.int32]
    ranks: NDArray[np.uint64]

    @classmethod
    def of(cls, rows: Floats32, labels: Array, key: Key, most: int) -> Self:
        """The sample of `rows` (n, d), within the range of float16: at most `most` of each class."""
        return cls(rows.astype(np.float16), labels.astype(np.int32), _ranks(rows, labels, key))._cut(most)

    def __len__(self) -> int:
        return len(self.rows)

    def plus(self, other: Self, most: int) -> Self:
        """The sample of everything that both were drawn from."""
        parts = ((getattr(s, name) for s in (self, other)) for name in self.__slots__)
        return type(self)(*(np.concatenate(list(part)) for part in parts))._cut(most)

    def _cut(self, most: int) -> Self:
        order = np.lexsort((self.ranks, self.labels))
        labels, ranks = self.labels[order], self.ranks[order]
        again = (np.diff(labels, prepend=-1) == 0) & (np.diff(ranks, prepend=ranks[:1]) == 0)
        again[:1] = False
        order, labels = order[~again], labels[~again]
        place = np.arange(len(labels)) - np.searchsorted(labels, labels)
        order = order[place < most]
        return type(self)(self.rows[order], self.labels[order], self.ranks[order])


def _ranks(rows: Floats32, labels: Array, key: Key) -> NDArray[np.uint64]:
    """(n,) multilinear hash of the bits of each row and its class, then splitmix64's finish (Steele et al. 2014)."""
    bits = np.ascontiguousarray(rows + np.float32(0), np.float32).view(np.uint32)  # -0 is 0
    hashed: NDArray[np.uint64] = bits.astype(np.uint64) @ key[:-1] + labels.astype(np.uint64) * key[-1]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashed = (hashed ^ (hashed >> np.uint64(shift))) * np.uint64(factor)
    return hashed ^ (hashed >> np.uint64(31))
