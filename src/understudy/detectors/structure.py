"""Plausible columns, implausible rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from understudy.detectors._common import Fitted, learnt, numbers
from understudy.forest import flatten, mean_value
from understudy.types import Floats
from understudy.views import Kind, View, sample


@dataclass(frozen=True)
class Structure:
    """Probability that a row is made up, by extremely randomised trees trained on real against made-up rows.

    A split chooses among the share `choice` of a table's columns, as most of many tell nothing; of an image's among the
    square root.

    Made-up rows: every column shuffled, 35 % of the columns shuffled, uniform on the columns' grids, and between two
    neighbours on the grids. Made-up images: the same with pixels, blends of two, and steps of one size at every pixel.

    Sees:
        Rows whose columns do not belong together: independent marginals, uniform, SMOTE, mapped foreign rows. Images
        that are noise, blended, or perturbed along the sign of a gradient.
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
    choice: float = 0.3
    fitted: Fitted | None = field(default=None, repr=False, compare=False)

    forms: ClassVar[tuple[Kind, ...]] = ("tabular", "image")
    bets_on: ClassVar[Literal["fresh", "new"]] = "fresh"
    by_label: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False

    def fit(self, reference: View, rng: Generator) -> Self:
        """Train on the reference and on rows made up from it."""
        from sklearn.ensemble import ExtraTreesClassifier

        rows = sample(np.arange(len(reference)), self.rows, rng)
        made = np.concatenate(numbers(reference, "structure").made_up(reference, rows, rng))
        real = reference.own[rows]
        forest = ExtraTreesClassifier(
            self.trees,
            min_samples_leaf=2,
            max_features=self.choice if reference.form.kind == "tabular" else "sqrt",
            class_weight="balanced",
            random_state=int(rng.integers(2**31 - 1)),
        ).fit(np.concatenate([real, made]), np.repeat([0, 1], [len(real), len(made)]))
        return replace(self, fitted=flatten(forest.estimators_, _share))

    def score(self, view: View) -> Floats:
        """(n,) probability, 0 to 1."""
        numbers(view, "structure")
        return mean_value(learnt(self.fitted, "structure"), view.own)


def _share(tree: object) -> Floats:
    counts = tree.value[:, 0, :]  # type: ignore[attr-defined]
    found: Floats = counts[:, 1] / counts.sum(1)
    return found
