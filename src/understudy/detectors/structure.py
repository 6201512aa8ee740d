"""Plausible columns, implausible rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import Fitted, learnt, sample
from understudy.forest import flatten, mean_value
from understudy.types import Floats
from understudy.views import Floats32, Scale, View


@dataclass(frozen=True)
class Structure:
    """Probability that a row is made up, by extremely randomised trees trained on real against made-up rows.

    Made-up rows: every column shuffled, 35 % of the columns shuffled, uniform on the columns' grids, and between two
    neighbours on the grids.

    Sees:
        Rows whose columns do not belong together: independent marginals, uniform, SMOTE, mapped foreign rows.
    Blind to:
        Real rows; generators that learnt how columns depend on each other. It was trained on the families of attack it
        names above: expect less of a new generator.
    Calibration:
        Bets on fresh queries only, within the answered class.
    Reference:
        Geurts, Ernst and Wehenkel, Extremely randomized trees, Machine Learning 63, 2006; real against permuted rows
        as in Breiman and Cutler's unsupervised forests; as a bet, ours.
    """

    trees: int = 60
    rows: int = 4000
    fitted: Fitted | None = field(default=None, repr=False, compare=False)

    bets_on: ClassVar[Literal["fresh", "new"]] = "fresh"
    by_label: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Train on the reference and on rows made up from it."""
        from sklearn.ensemble import ExtraTreesClassifier

        real = sample(reference.own, self.rows, rng)
        made = np.concatenate(made_up(real, reference.scale, rng))
        forest = ExtraTreesClassifier(
            self.trees, min_samples_leaf=2, class_weight="balanced", random_state=int(rng.integers(2**31 - 1))
        ).fit(np.concatenate([real, made]), np.repeat([0, 1], [len(real), len(made)]))
        return replace(self, fitted=flatten(forest.estimators_, _share))

    def score(self, view: View) -> Floats:
        """(n,) probability, 0 to 1."""
        return mean_value(learnt(self.fitted, "structure"), view.own)


def _share(tree: object) -> Floats:
    counts = tree.value[:, 0, :]  # type: ignore[attr-defined]
    found: Floats = counts[:, 1] / counts.sum(1)
    return found


def made_up(real: Floats32, scale: Scale, rng: Generator) -> list[Floats32]:
    """The four kinds of made-up rows, half as many of each as there are real ones."""
    n, d = len(real), real.shape[1]
    half = max(n // 2, 1)
    shuffled = rng.permuted(real, axis=0)[:half]
    base = sample(real, half, rng)
    partly = np.where(rng.random(base.shape) < 0.35, rng.permuted(base, axis=0), base)
    uniform = rng.uniform(real.min(0), real.max(0), (half, d)).astype(np.float32)
    one, other = real[rng.integers(n, size=half)], real[rng.integers(n, size=(half, 20))]
    squares = ((other - one[:, None]) ** 2).sum(2)
    mate = other[np.arange(half), np.where(squares > 0, squares, np.inf).argmin(1)]
    between = one + rng.random((half, 1), np.float32) * (mate - one)
    return [shuffled, partly, on_grid(uniform, scale), on_grid(between, scale)]


def on_grid(own: Floats32, scale: Scale) -> Floats32:
    """Rows rounded to the decimals that their columns have."""
    raw, step = own * scale.spread + scale.centre, 10.0 ** -np.maximum(scale.decimals, 0).astype(np.float64)
    return scale.own(np.where(scale.decimals >= 0, np.round(raw / step) * step, raw))
