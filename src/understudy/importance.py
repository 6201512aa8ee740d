"""What a model looks at: how much its answers move when one column is shuffled, and whether two models agree on it.

No gradient, no truth, no look inside: any `Target` will do, a substitute above all, which costs nothing to ask.
Source: Fisher, Rudin and Dominici, JMLR 20 (2019), model reliance, with the model's own answer in place of the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from understudy.errors import InputError
from understudy.protocols import Target
from understudy.types import Answers, Array, Ask, Estimate, Floats, Signal

_SIGNALS = (Signal.VALUE, Signal.PROBABILITIES, Signal.LOGITS, Signal.LABEL)  # the more telling first
_BATCH = 20_000  # rows in one query
_SAME = 1e-9  # importances closer than this share of the largest are ties
_RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class Importances:
    """`per_row` (n, d): how far each answer moved when column j was shuffled; 0 to 1 for classes.

    Of classes: the total variation distance of the probabilities, or whether the label changed where there are none. Of
    values: the absolute change in standard deviations of the answers, averaged over the outputs.
    """

    per_row: Floats
    signal: Signal

    @property
    def values(self) -> Floats:
        """(d,) importances."""
        return np.asarray(self.per_row.mean(0))

    @property
    def ranking(self) -> NDArray[np.intp]:
        """Columns, the most important first; ties in their own order."""
        return np.argsort(-_rounded(self.values), kind="stable")


def importances(model: Target, inputs: Floats, rng: Generator, signal: Signal | None = None) -> Importances:
    """Permutation importances of a model over `inputs` (n, *shape), by coordinate: n (d + 1) questions.

    The same generator shuffles alike for every model, so two models are compared on the same questions. `signal`: what
    to compare answers by; by default the most telling that the model gives. Raises InputError where there are fewer
    than two rows or the model gives no such signal.
    """
    if len(inputs) < 2:
        raise InputError("importances need at least two rows to shuffle")
    given = [s for s in _SIGNALS if s in model.exposure.signals]
    chosen = signal if signal is not None else next(iter(given), None)
    if chosen is None or chosen not in given:
        raise InputError(f"importances need a label, scores or values; this model gives {model.exposure}")
    x = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
    n, d = x.shape
    ask = Ask(frozenset({chosen}))
    before = _scores(model.query(inputs, ask), chosen)
    spread = np.where(before.std(0) > 0, before.std(0), 1.0)
    moved = np.zeros((n, d))
    shuffled = rng.permuted(np.tile(np.arange(n), (d, 1)), axis=1)
    step = max(_BATCH // n, 1)
    for first in range(0, d, step):
        columns = np.arange(first, min(first + step, d))
        batch = np.repeat(x[None], len(columns), 0)
        batch[np.arange(len(columns))[:, None], np.arange(n), columns[:, None]] = x[shuffled[columns], columns[:, None]]
        after = _scores(model.query(batch.reshape(-1, *inputs.shape[1:]), ask), chosen)
        change = np.abs(after.reshape(len(columns), n, -1) - before)
        moved[:, columns] = ((change / spread).mean(2) if chosen is Signal.VALUE else change.sum(2) / 2).T
    return Importances(moved, chosen)


def telling(one: Target, other: Target) -> Signal | None:
    """The most telling signal that both models give; None where they have none in common."""
    return next((s for s in _SIGNALS if {s} <= one.exposure.signals & other.exposure.signals), None)


def rank_agreement(one: Importances, other: Importances, rng: Generator) -> Estimate:
    """Spearman's rank correlation of two models' importances, -1 to 1, over the same rows.

    The 95 % interval resamples those rows: which rows happened to be shuffled is what is uncertain about a ranking. NaN
    where a model looks at every column alike. Raises InputError where the rows or columns differ.
    """
    a, b = one.per_row, other.per_row
    if a.shape != b.shape:
        raise InputError(f"importances over {a.shape} and {b.shape} rows and columns cannot be compared")
    n = len(a)
    weights = rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES) / n
    draws = [spearman(p, q) for p, q in zip(weights @ a, weights @ b, strict=True)]
    value = spearman(one.values, other.values)
    if not np.isfinite(draws).any() or np.isnan(value):
        return Estimate(value, -1.0, 1.0, n)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def spearman(a: Floats, b: Floats) -> float:
    """The correlation of ranks, ties sharing theirs; NaN where either is constant."""
    p, q = ranks(a), ranks(b)
    p, q = p - p.mean(), q - q.mean()
    size = float(np.sqrt((p @ p) * (q @ q)))
    return float(np.clip(p @ q / size, -1, 1)) if size else float("nan")


def ranks(values: Floats) -> Floats:
    """1 for the smallest; ties share the mean of theirs."""
    _, place, count = np.unique(_rounded(values), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place])


def _rounded(values: Floats) -> Floats:
    unit = _SAME * float(np.abs(values).max(initial=0.0))
    return np.round(values / unit) if unit else values


def _scores(answers: Answers, signal: Signal) -> Floats:
    """Answers as rows whose difference tells how far they are apart."""
    values: Array = answers[signal]
    if signal is Signal.LABEL:
        return np.asarray(values[:, None] == np.arange(answers.outputs), np.float64)
    scores = np.asarray(np.where(answers.mask(signal), values, 0.0), np.float64)
    if signal is not Signal.LOGITS:
        return scores
    e = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))
