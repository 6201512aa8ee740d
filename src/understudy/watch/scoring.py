"""From queries to scores: which detectors look, and on which queries each of them may bet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.protocols import Detector
from understudy.types import Floats
from understudy.views import WINDOW, Clock, Floats32, Form, Kind, gap, labels
from understudy.watch.queries import Queries

#: The scores that bet, in the order of a state's columns. A sweep or a sign step has no text form; pixels one at a time
#: have no meaning on an image, and of earlier images no pixels are kept.
ALARM_SETS: Mapping[Kind, tuple[str, ...]] = {
    "tabular": (
        "novelty",
        "structure",
        "margin",
        "near-duplicate",
        "line-depth",
        "sweep-count",
        "one-at-a-time",
        "probe",
        "grid",
        "constant-pair",
    ),
    "text": (
        "novelty",
        "fluency",
        "word-order",
        "margin",
        "near-duplicate",
        "word-edit",
        "single-word",
        "unknown-words",
    ),
    "image": ("novelty", "structure", "margin", "near-duplicate", "grid"),
    "traffic": ("volume", "cadence", "round-the-clock"),
}
BLIND_SET = ("margin",)  # what else is left where inputs are not kept
CLOCK = Clock()
_CHUNK = 128  # queries held against their window at once


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scores (n, s) with NaN where nothing may be bet, the answered classes (n,), and how many were what."""

    scores: Floats
    labels: NDArray[np.int64]
    ring: Floats32
    clock: Floats32
    repeats: int
    fresh: int
    outside: int


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """Fitted detectors and the form of input they share; some of them may read the clock instead."""

    form: Form
    names: tuple[str, ...]
    detectors: tuple[Detector, ...]

    @property
    def timed(self) -> bool:
        """Whether a score reads the clock."""
        return any(CLOCK.kind in detector.forms for detector in self.detectors)

    @property
    def blind(self) -> bool:
        """Whether it was made for accounts whose inputs are not kept: no score looks at what was asked."""
        return not self.reading

    @property
    def reading(self) -> tuple[str, ...]:
        """Which scores look at what was asked."""
        pairs = zip(self.names, self.detectors, strict=True)
        return tuple(name for name, one in pairs if name not in BLIND_SET and CLOCK.kind not in one.forms)

    def features(self, batch: Sequence[Queries]) -> Floats:
        """(queries of all, s) scores that need no own earlier queries; NaN where one does, or inputs were not kept.

        Of texts all are NaN: how a text looks depends on the account's template.
        """
        seen = [q for q in batch if q.inputs is not None and len(q)]
        found = np.full((sum(len(q) for q in batch), len(self.names)), np.nan)
        if not seen or not self.form.singly:
            return found
        inputs = np.concatenate([q.inputs.reshape(len(q), -1) for q in seen if q.inputs is not None])
        margin = np.concatenate([margin_of(q) for q in seen])
        view = self.form.view(inputs, np.concatenate([labels(q.answers) for q in seen]), margin)
        rows = np.concatenate([np.full(len(q), q.inputs is not None) for q in batch])
        for j, detector in enumerate(self.detectors):
            if not detector.looks_back:
                found[rows, j] = detector.score(view)
        return found

    def scores(self, ring: Floats32, clock: Floats32, queries: Queries, features: Floats | None) -> Scored:
        """What each query scores, given what is kept of the account's latest queries, oldest first.

        `ring` (m, width) of what they held, `clock` (m, 2) of when they were asked; `features`: the rows of these
        queries of `features`.
        """
        n = len(queries)
        found = self.features([queries]) if features is None else features.copy()
        classes, margin = labels(queries.answers), margin_of(queries)
        clock = self._paced(found, clock, queries.at)
        if self.blind and "margin" in self.names:
            found[:, self.names.index("margin")] = -margin
        if self.blind or queries.inputs is None or not n:
            scores = found if self.blind else np.full_like(found, np.nan)
            return Scored(_coarse(scores), classes, ring, clock, 0, 0, 0)
        repeats = edits = outside = 0
        for i in range(0, n, _CHUNK):
            rows = slice(i, min(i + _CHUNK, n))
            view = self.form.view(queries.inputs[rows], classes[rows], margin[rows], ring).beside(ring)
            assert view.past is not None
            for j, detector in enumerate(self.detectors):
                if self.form.kind not in detector.forms:
                    continue
                if detector.looks_back or not self.form.singly:
                    found[rows, j] = detector.score(view)
                found[rows, j][view.past.repeat if detector.bets_on == "new" else ~view.past.fresh] = np.nan
            repeats, edits = repeats + int(view.past.repeat.sum()), edits + int((~view.past.fresh).sum())
            outside += int(self.form.outside(view).sum())
            ring = view.past.earlier[-WINDOW:]
        return Scored(_coarse(found), classes, ring.copy(), clock, repeats, n - edits, outside)

    def _paced(self, into: Floats, clock: Floats32, at: Floats) -> Floats32:
        """Fill in the scores that read the clock; the account's clock afterwards."""
        paced = [j for j, detector in enumerate(self.detectors) if CLOCK.kind in detector.forms]
        if not paced or not len(at):
            return clock
        for i in range(0, len(at), WINDOW):
            rows = slice(i, i + WINDOW)
            nothing = np.zeros(len(at[rows]))
            view = CLOCK.view(at[rows], nothing.astype(np.int64), nothing).beside(clock)
            assert view.past is not None
            for j in paced:
                into[rows, j] = self.detectors[j].score(view)
            clock = view.past.earlier[-WINDOW:]
        return clock.copy()


def _coarse(scores: Floats) -> Floats:
    """As finely as references keep them: a tie would look like a record."""
    return scores.astype(np.float32).astype(np.float64)


def margin_of(queries: Queries) -> Floats:
    """(n,) the owner's margin, else what the answers show of it."""
    return gap(queries.answers) if queries.margin is None else queries.margin
