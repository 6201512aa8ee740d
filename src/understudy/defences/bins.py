"""A confidence in a few steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np

from understudy.errors import UsageError
from understudy.types import Answers, Bools, Exposure, Floats, Grain, Signal


@dataclass(frozen=True)
class Bins:
    """Shows one number beside the label: the mean score of the bin that the answered class's probability falls in.

    Bins are fitted to the owner's data: `bins` of equal mass, or between the `edges` that are given (then `bins` has
    no say). The number of a bin is the mean of the owner's scores in it, rounded to `decimals`; of a bin that none
    fell in, its middle. The map is monotone and belongs to the answered class, so the class that is shown is always
    the one the endpoint answered. Where that class's probability was withheld, nothing is shown.

    Hides:
        All but log2(bins) bits of each confidence (3 bits for 8 bins), every other class, logits and values.
    Costs the honest user:
        The ranking within a bin, the second choice and the distribution. Thresholds work at the bins' edges only. The
        numbers are calibrated to the model's own scores, not to the truth: an overconfident model stays so.
    Broken by:
        `retraining` and `boundary-nullspace` on the labels alone, at the price of `label-only`. Bisection to an edge:
        each edge is one more decision boundary, and a point on it is an exact equation for some 20 to 50 queries.
    Reference:
        Zadrozny and Elkan, Obtaining calibrated probability estimates from decision trees and naive Bayesian
        classifiers, ICML 2001, section 3.1 (binning); its worth against copying is that of coarse rounding, Tramer
        et al., USENIX Security 2016, section 7.
    """

    bins: int = 8
    edges: tuple[float, ...] | None = None
    decimals: int | None = 3
    fitted: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False)  # edges, and a number per bin

    keeps_label: ClassVar[bool] = True

    def reveals(self, exposure: Exposure) -> Exposure:
        """One probability per answer, out of as many as there are bins; a label that is there stays.

        Raises UsageError where there are no probabilities, where they are coarser than `decimals`, or for bins that
        are none.
        """
        if Signal.PROBABILITIES not in exposure.grains:
            raise UsageError(f"bins needs probabilities; this endpoint answers {exposure or 'nothing'}")
        if self.edges is None and self.bins < 2:
            raise UsageError(f"bins needs at least 2 bins, not {self.bins}; to withhold every score use label-only")
        if self.edges is not None and (not self.edges or (np.diff([0.0, *self.edges, 1.0]) <= 0).any()):
            raise UsageError("bins: edges must be one or more rising numbers between 0 and 1")
        grain = exposure.grains[Signal.PROBABILITIES]
        if grain.decimals is not None and (self.decimals is None or self.decimals > grain.decimals):
            raise UsageError(
                f"bins is given answers of {grain.decimals} decimals: set its decimals to {grain.decimals} or less"
            )
        levels = self.bins if self.edges is None else len(self.edges) + 1
        shown = Grain(1, self.decimals, levels if grain.levels is None else min(levels, grain.levels))
        left = {Signal.PROBABILITIES: shown}
        if Signal.LABEL in exposure.grains:
            left[Signal.LABEL] = exposure.grains[Signal.LABEL]
        return Exposure(left, exposure.outputs)

    def fit(self, inputs: Floats, answers: Answers) -> Self:
        """Edges and numbers from the owner's answers. Raises UsageError where there are fewer than `bins`."""
        if Signal.PROBABILITIES not in answers:
            raise UsageError("bins needs probabilities to be fitted to")
        score, given = _confidence(answers)
        score = score[given]
        if len(score) < self.bins:
            raise UsageError(f"bins: {self.bins} bins cannot be fitted to {len(score)} answers of the owner's data")
        if self.edges is not None:
            edges = np.asarray(self.edges, np.float64)
        else:
            edges = np.unique(np.quantile(score, np.arange(1, self.bins) / self.bins))
            edges = edges[edges > score.min()]  # many equal scores: fewer bins, none of them empty
        of = np.searchsorted(edges, score, side="right")
        count, total = (np.bincount(of, weights, len(edges) + 1) for weights in (None, score))
        bounds = np.concatenate([[0.0], edges, [1.0]])
        number = np.where(count > 0, total / np.maximum(count, 1), (bounds[:-1] + bounds[1:]) / 2)
        if self.decimals is not None:
            number = np.round(number, self.decimals) + 0.0
        return replace(self, fitted=(tuple(edges.tolist()), tuple(number.tolist())))

    def apply(self, inputs: Floats, answers: Answers, principal: str) -> Answers:
        """The label where there is one, and the number of the bin at the answered class.

        Raises UsageError before `fit`.
        """
        if self.fitted is None:
            raise UsageError("bins is not fitted: it needs the endpoint's answers on the owner's data first")
        edges, number = self.fitted
        score, given = _confidence(answers)
        rows, label = np.arange(len(answers)), answers.labels()
        values = np.zeros((len(answers), answers.outputs))
        shown = np.zeros(values.shape, np.bool_)
        values[rows, label] = np.where(given, np.asarray(number)[np.searchsorted(edges, score, side="right")], 0.0)
        shown[rows, label] = given
        return answers.only([Signal.LABEL]).replace(Signal.PROBABILITIES, values, shown)


def _confidence(answers: Answers) -> tuple[Floats, Bools]:
    """The probability of each answered class, shape (n,), and whether there is one."""
    rows, label = np.arange(len(answers)), answers.labels()
    score = np.asarray(answers[Signal.PROBABILITIES], np.float64)[rows, label]
    return score, answers.mask(Signal.PROBABILITIES)[rows, label] & np.isfinite(score)
