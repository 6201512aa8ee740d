"""The laws of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from understudy.errors import UsageError
from understudy.protocols import Detector
from understudy.testing.contract import demand, random_state, says, stores_only_parameters
from understudy.testing.models import linear
from understudy.types import Answers, Array, Floats, Signal
from understudy.views import FORMS, Clock, Floats32, Kind, View, form_of, view_of

ASKED = 60
_WORDS = (
    ("the", "a", "every", "no"),
    ("small", "old", "red", "quiet", "broken", "late"),
    ("parcel", "letter", "invoice", "order", "refund", "driver", "account"),
    ("arrived", "went", "was sent", "got lost", "stayed", "is waiting"),
    ("at the depot", "in the post", "on monday", "without a stamp", "for two weeks"),
)


@dataclass(frozen=True)
class DetectorBench:
    """A detector, fitted to benign inputs of a small model and shown one account's queries.

    `form`: "tabular" rows of 6 numbers, "text" sentences, "image"s of 8 x 8, or "traffic", times; None for the
    first that it reads.
    """

    subject: Detector
    seed: int = 0
    form: Kind | None = None

    @cached_property
    def views(self) -> tuple[View, View]:
        """Benign inputs of the owner, and an account that repeats, edits, sweeps, probes and asks at random."""
        return _views(self.form or self.subject.forms[0], self.seed)

    @cached_property
    def fitted(self) -> Detector:
        return self.subject.fit(self.views[0], np.random.default_rng(self.seed))

    @cached_property
    def scores(self) -> Floats:
        return self.fitted.score(self.views[1])

    def from_row(self, start: int) -> Floats:
        """Scores of the account's queries from `start` on, those before held only as its past."""
        view = self.views[1]
        ring: Floats32 = view.own[:start]
        part = view.form.view(view.inputs[start:], view.labels[start:], view.margin[start:], ring)
        return self.fitted.score(part.beside(ring))


@cache
def _views(kind: Kind, seed: int) -> tuple[View, View]:
    rng = np.random.default_rng(seed)
    benign, asked = {"tabular": _rows, "text": _texts, "image": _images, "traffic": _times}[kind](rng)
    form = Clock() if kind == "traffic" else form_of(benign, rng)
    reference = view_of(form, benign, _answers(benign, seed))
    view = view_of(form, asked, _answers(asked, seed))
    return reference, view.beside(np.zeros((0, form.columns), np.float32))


def _answers(inputs: Array, seed: int) -> Answers:
    if inputs.dtype.kind == "f" and inputs.ndim > 1:
        flat = inputs.reshape(len(inputs), -1)
        return linear(seed, features=flat.shape[1]).query(flat)
    first = np.array([min(len(str(text)), 60) / 60 for text in inputs])
    return Answers({Signal.PROBABILITIES: np.stack([first, 1 - first], 1)}, 2)


def _rows(rng: np.random.Generator) -> tuple[Array, Array]:
    benign = np.asarray(np.round(np.tanh(rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) / 6), 2), np.float64)
    asked = np.asarray(benign[rng.integers(300, size=ASKED)] * 0.9, np.float64)
    asked[10:20] = asked[:10]
    asked[20:30] = asked[19]
    asked[20:30, 2] = np.linspace(-0.5, 0.5, 10)
    asked[30:36] = np.eye(6)
    asked[36:40] = rng.uniform(-1, 1, (4, 6))
    asked[40:44] = asked[44:48] + 0.01 * benign.std(0)
    asked[50:54] = asked[49] + np.diag(benign.std(0))[:4]
    return benign, asked


def _texts(rng: np.random.Generator) -> tuple[Array, Array]:
    made = [" ".join(str(rng.choice(part)) for part in _WORDS) for _ in range(300 + ASKED)]
    benign, asked = np.array(made[:300], object), np.array(made[300:], object)
    asked[10:20] = asked[:10]
    asked[20:24] = [f"{asked[19]} {more}" for more in ("now", "today", "again", "at last")]
    asked[24:30] = ["parcel", "letter", "zebra", "", "das Paket kam nie an", "LETTER letter letter"]
    asked[30:40] = [f"dear sir or madam : {text} , thank you" for text in made[:10]]
    asked[40:44] = [" ".join(rng.permutation(text.split())) for text in made[20:24]]
    return benign, asked


def _times(rng: np.random.Generator) -> tuple[Array, Array]:
    day = 1_790_000_000.0
    benign = day + np.cumsum(rng.lognormal(3, 2, 300))
    paused = np.concatenate([rng.lognormal(6, 1, 30), np.full(10, 5.0), np.zeros(10), rng.lognormal(7, 1, 10)])
    return benign, day + np.cumsum(paused)


def _images(rng: np.random.Generator) -> tuple[Array, Array]:
    across, down = np.meshgrid(np.arange(8.0), np.arange(8.0))
    place = rng.uniform(1, 7, (300 + ASKED, 2, 1, 1))
    made = np.round(16 * np.exp(-((across - place[:, 0]) ** 2 + (down - place[:, 1]) ** 2) / 6)) / 16
    benign, asked = made[:300], made[300:].copy()
    asked[10:20] = asked[:10]
    asked[20:30] = asked[19] * np.linspace(0.9, 1, 10)[:, None, None]
    asked[30:40] = rng.uniform(0, 1, (10, 8, 8))
    return benign, asked


def learnt(detector: Detector) -> Mapping[str, Array] | None:
    """What a detector learnt, None where it learns nothing."""
    return getattr(detector, "fitted", None)


def documented_detector(bench: DetectorBench) -> None:
    """The docstring says what is seen, what is not, how it is calibrated, and whose it is."""
    says(bench, ("Sees", "Blind to", "Calibration", "Reference"))


def declares_its_bets(bench: DetectorBench) -> None:
    """`forms` names forms of input; `bets_on` is "fresh" or "new"; `by_label` and `looks_back` are booleans."""
    kind = type(bench.subject)
    known = set(FORMS)
    demand(bool(kind.forms) and known >= set(kind.forms), f"forms is {kind.forms!r}; there are {sorted(known)}")
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


def refuses_forms_that_it_does_not_name(bench: DetectorBench) -> None:
    """Inputs of a form that it does not read raise UsageError; nothing is made up for them."""
    for other in FORMS:
        if other in bench.subject.forms or other == "traffic":  # times stand beside inputs, never in their place
            continue
        try:
            bench.fitted.score(_views(other, bench.seed)[1])
        except UsageError:
            continue
        raise AssertionError(f"it scores {other} inputs, which it does not name")


def batches_do_not_matter(bench: DetectorBench) -> None:
    """A query scores the same in any batch, given the same past."""
    for start in (1, 25, 59, ASKED):
        part = bench.from_row(start)
        demand(part.shape == (ASKED - start,), f"{part.shape} scores for {ASKED - start} queries")
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
    refuses_forms_that_it_does_not_name,
    batches_do_not_matter,
)
