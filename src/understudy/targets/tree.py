"""A decision tree as a target: numbers, categories and gaps, any answer per leaf. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.types import Answers, Array, Ask, Bools, Exposure, Floats, Space

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TreeTarget:
    """A binary tree of k nodes; node 0 is the root. It answers what its leaves hold.

    At a node, column `feature` goes left where its number is at most `threshold`; a category where `codes[node, code]`;
    a gap (NaN) where `gap_left`. Leaves have feature -1 and `leaf`, their row in `answers`; others have leaf -1.
    `categorical` (d,): columns that hold codes. `single` (d,): columns that the model rounds to float32 first.
    """

    space: Space
    exposure: Exposure
    answers: Answers  # one row per leaf
    feature: Ints  # (k,)
    threshold: Floats  # (k,)
    left: Ints  # (k,)
    right: Ints  # (k,)
    leaf: Ints  # (k,)
    gap_left: Bools  # (k,)
    codes: Bools  # (k, most categories of a column)
    categorical: Bools  # (d,)
    single: Bools  # (d,)

    @property
    def parameters(self) -> dict[str, Array]:
        """The arrays that make this tree, the leaves' answers among them."""
        names = ("feature", "threshold", "left", "right", "leaf", "gap_left", "codes")
        answers = {signal.value: values for signal, values in self.answers.values.items()}
        return {name: getattr(self, name) for name in names} | answers

    def apply(self, inputs: ArrayLike) -> Ints:
        """The leaf of each input, shape (n,)."""
        x = self.space.check(inputs)
        x = x.reshape(len(x), len(self.single))
        with np.errstate(over="ignore"):
            x = np.where(self.single, x.astype(np.float32), x)
        node, going = np.zeros(len(x), np.int64), np.arange(len(x))
        while len(going := going[self.feature[node[going]] >= 0]):
            at = node[going]
            node[going] = np.where(self._left(x[going], at), self.left[at], self.right[at])
        return self.leaf[node]

    def _left(self, x: Floats, at: Ints) -> Bools:
        f = self.feature[at]
        value = x[np.arange(len(x)), f]
        gap = np.isnan(value)
        goes = np.where(gap, self.gap_left[at], value <= self.threshold[at])
        coded = self.categorical[f] & ~gap
        if coded.any():
            goes[coded] = self.codes[at[coded], value[coded].astype(np.int64)]
        return np.asarray(goes)

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """What the leaves hold, or those signals that `ask` names."""
        answers = self.answers.take(self.apply(inputs))
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)
