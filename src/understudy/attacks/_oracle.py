"""Answers as identities: equal answers are one number, no row is asked twice, and all that was asked is kept."""

from __future__ import annotations

import numpy as np

from understudy.attacks._columns import Columns, Ints
from understudy.protocols import Metered
from understudy.types import Answers, Floats, Signal


class OutOfBudget(Exception):
    """What is left of the budget is kept for something else."""


class Oracle:
    """A target whose answers are numbered. `labels`: by class alone. `keep`: queries that are not to be spent."""

    def __init__(self, target: Metered, columns: Columns, labels: bool = False) -> None:
        self.target, self.columns, self.keep, self.labels = target, columns, 0, labels
        self.samples: list[Answers] = []  # of each identity one answer
        self._numbers: dict[bytes, int] = {}
        self._memory: dict[bytes, int] = {}
        self._rows, self._ids = np.empty((64, columns.d)), np.empty(64, np.int64)
        self.asked = 0

    @property
    def left(self) -> int:
        """Queries that may be spent."""
        return self.target.remaining - self.keep

    @property
    def rows(self) -> Floats:
        """Every row that was asked, (asked, d)."""
        return self._rows[: self.asked]

    @property
    def ids(self) -> Ints:
        """The identity of each of them."""
        return self._ids[: self.asked]

    def ask(self, rows: Floats, keep: bool = True) -> Ints:
        """The identities of rows (n, d). Raises OutOfBudget before anything is asked that cannot all be paid.

        `keep=False`: rows between numbers of the grid, which no part is to be held against.
        """
        keys = [row.tobytes() for row in rows]
        first: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            if key not in self._memory:
                first.setdefault(key, i)
        fresh = list(first.values())
        if len(fresh) > self.left:
            raise OutOfBudget
        if fresh:
            answers = self.target.query(self.columns.inputs(rows[fresh]))
            ids = self.numbered(answers)
            self._memory |= zip(first, ids.tolist(), strict=True)
            if keep:
                self._keep(rows[fresh], ids)
        return np.array([self._memory[key] for key in keys], np.int64)

    def numbered(self, answers: Answers) -> Ints:
        """The identity of each answer."""
        if self.labels:
            answers = Answers({Signal.LABEL: answers.labels()}, answers.outputs)
        else:
            answers = answers.only(self.target.exposure.signals)
        values = [answers[s].reshape(len(answers), -1) + 0.0 for s in sorted(answers.values)]  # + 0.0: no minus zero
        given = [answers.mask(s).reshape(len(answers), -1) for s in sorted(answers.values)]
        table = np.ascontiguousarray(np.hstack([*values, *given]).astype(np.float64))
        ids = []
        for i, row in enumerate(table):
            key = row.tobytes()
            if key not in self._numbers:
                self._numbers[key] = len(self.samples)
                self.samples.append(answers.take(np.array([i])))
            ids.append(self._numbers[key])
        return np.array(ids, np.int64)

    def _keep(self, rows: Floats, ids: Ints) -> None:
        end = self.asked + len(rows)
        if end > len(self._rows):
            more = max(end, 2 * len(self._rows)) - len(self._rows)
            self._rows = np.concatenate([self._rows, np.empty((more, self.columns.d))])
            self._ids = np.concatenate([self._ids, np.empty(more, np.int64)])
        self._rows[self.asked : end], self._ids[self.asked : end] = rows, ids
        self.asked = end
