"""The laws of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from understudy.errors import UsageError
from understudy.protocols import Detector
from understudy.testing.contract import demand, random_state, says, stores_only_parameters
from understudy.testing.models import linear
from understudy.types import Array, Floats
from understudy.views import Scale, View, compare


@dataclass(frozen=True)
class DetectorBench:
    """A detector, fitted to benign rows of a small linear model and shown one account's queries."""

    subject: Detector
    seed: int = 0

    @cached_property
    def views(self) -> tuple[View, View]:
        """Benign rows of the owner, and an account that repeats, edits, sweeps, probes and asks at random."""
        rng, model = np.random.default_rng(self.seed), linear(self.seed, features=6)
        benign = np.asarray(np.round(np.tanh(rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) / 6), 2), np.float64)
        scale = Scale.fit(benign)
        asked: Floats = np.asarray(benign[rng.integers(300, size=60)] * 0.9, np.float64)
        asked[10:20] = asked[:10]
        asked[20:30] = asked[19]
        asked[20:30, 2] = np.linspace(-0.5, 0.5, 10)
        asked[30:36] = np.eye(6)
        asked[36:40] = rng.uniform(-1, 1, (4, 6))
        asked[40:44] = asked[44:48] + 0.01 * scale.spread
        reference = View.of(scale, benign, model.query(benign))
        view = View.of(scale, asked, model.query(asked))
        past = compare(np.zeros((0, 6), np.float32), view.own, view.scale)
        return reference, replace(view, past=past)

    @cached_property
    def fitted(self) -> Detector:
        return self.subject.fit(self.views[0], np.random.default_rng(self.seed))

    @cached_property
    def scores(self) -> Floats:
        return self.fitted.score(self.views[1])

    def from_row(self, start: int) -> Floats:
        """Scores of the account's queries from `start` on, those before held only as its past."""
        view = self.views[1]
        past = compare(view.own[:start], view.own[start:], view.scale)
        part = View(
            *(view.scale, view.inputs[start:], view.own[start:], view.z[start:], view.labels[start:]),
            *(view.margin[start:], past),
        )
        return self.fitted.score(part)


def learnt(detector: Detector) -> Mapping[str, Array] | None:
    """What a detector learnt, None where it learns nothing."""
    return getattr(detector, "fitted", None)


def documented_detector(bench: DetectorBench) -> None:
    """The docstring says what is seen, what is not, how it is calibrated, and whose it is."""
    says(bench, ("Sees", "Blind to", "Calibration", "Reference"))


def declares_its_bets(bench: DetectorBench) -> None:
    """`bets_on` is "fresh" or "new"; `by_label` and `looks_back` are booleans."""
    kind = type(bench.subject)
    demand(kind.bets_on in ("fresh", "new"), f"bets_on is {kind.bets_on!r}")
    demand(isinstance(kind.by_label, bool) and isinstance(kind.looks_back, bool), "by_label or looks_back is no bool")


def one_score_per_query(bench: DetectorBench) -> None:
    """A float64 number, or NaN, for each query; not the same for all of them."""
    n = len(bench.views[1])
    demand(bench.scores.shape == (n,), f"shape {bench.scores.shape} for {n} queries")
    demand(bench.scores.dtype == np.float64, f"scores are {bench.scores.dtype}")
    demand(not np.isinf(bench.scores).any(), "a score is infinite")
    demand(len(np.unique(bench.scores[~np.isnan(bench.scores)])) > 1, "every query scores the same")


def leaves_the_view_alone(bench: DetectorBench) -> None:
    """What is seen is not changed."""
    view = bench.views[1]
    before: list[Array] = [a.copy() for a in (view.inputs, view.own, view.z, view.margin)]
    bench.fitted.score(view)
    now: list[Array] = [view.inputs, view.own, view.z, view.margin]
    demand(all(np.array_equal(a, b) for a, b in zip(before, now, strict=True)), "the view was changed")


def fitting_is_repeatable(bench: DetectorBench) -> None:
    """The same rows and generator, the same scores; nobody else's generator is drawn from; the subject stays."""
    shared = random_state()
    again = bench.subject.fit(bench.views[0], np.random.default_rng(bench.seed))
    demand(np.array_equal(again.score(bench.views[1]), bench.scores, equal_nan=True), "fitted twice, two scores")
    demand(random_state() == shared, "the global generator was used")
    demand(learnt(bench.subject) is None, "fitting changed the detector itself")


def keeps_what_it_learns_in_numbers(bench: DetectorBench) -> None:
    """`fitted` holds arrays of numbers by name, and a detector that is given them scores the same."""
    kept = learnt(bench.fitted)
    if kept is None:
        return
    demand(all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" for a in kept.values()), "fitted holds no numbers")
    copied = {name: a.copy() for name, a in kept.items()}
    again: Detector = replace(bench.subject, fitted=copied)  # type: ignore[type-var]
    demand(np.array_equal(again.score(bench.views[1]), bench.scores, equal_nan=True), "restored, it scores otherwise")


def refuses_before_it_is_fitted(bench: DetectorBench) -> None:
    """A detector that learns raises UsageError when it is asked before."""
    if learnt(bench.fitted) is None:
        return
    try:
        bench.subject.score(bench.views[1])
    except UsageError:
        return
    raise AssertionError("it scores before it is fitted")


def batches_do_not_matter(bench: DetectorBench) -> None:
    """A query scores the same in any batch, given the same past."""
    for start in (1, 25, 59, 60):
        part = bench.from_row(start)
        demand(part.shape == (60 - start,), f"{part.shape} scores for {60 - start} queries")
        close = np.allclose(part, bench.scores[start:], rtol=1e-5, atol=1e-6, equal_nan=True)
        demand(close, f"queries from {start} on score otherwise in a batch of their own")


LAWS = (
    stores_only_parameters,
    documented_detector,
    declares_its_bets,
    one_score_per_query,
    leaves_the_view_alone,
    fitting_is_repeatable,
    keeps_what_it_learns_in_numbers,
    refuses_before_it_is_fitted,
    batches_do_not_matter,
)
