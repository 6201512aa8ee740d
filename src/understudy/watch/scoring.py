"""From queries to scores: which detectors look, and on which queries each of them may bet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.protocols import Detector
from understudy.types import Floats
from understudy.views import WINDOW, Floats32, Form, Kind, gap, labels
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
        "probe",
        "grid",
        "constant-pair",
    ),
    "text": ("novelty", "fluency", "margin", "near-duplicate", "word-edit", "single-word", "unknown-words"),
    "image": ("novelty", "structure", "margin", "near-duplicate", "grid"),
}
_CHUNK = 128  # queries held against their window at once


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scores (n, s) with NaN where nothing may be bet, the answered classes (n,), and how many were what."""

    scores: Floats
    labels: NDArray[np.int64]
    ring: Floats32
    repeats: int
    fresh: int
    outside: int


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """Fitted detectors and the form of input they share."""

    form: Form
    names: tuple[str, ...]
    detectors: tuple[Detector, ...]

    def features(self, batch: Sequence[Queries]) -> Floats:
        """(queries of all, s) scores that need no own earlier queries; NaN where one does, or inputs were not kept.

        Of texts all are NaN: how a text looks depends on the account's template.
        """
        seen = [q for q in batch if q.inputs is not None and len(q)]
        found = np.full((sum(len(q) for q in batch), len(self.names)), np.nan)
        if not seen or not self.form.singly:
            return found
        inputs = np.concatenate([q.inputs.reshape(len(q), -1) for q in seen if q.inputs is not None])
        margin = np.concatenate([_margin(q) for q in seen])
        view = self.form.view(inputs, np.concatenate([labels(q.answers) for q in seen]), margin)
        rows = np.concatenate([np.full(len(q), q.inputs is not None) for q in batch])
        for j, detector in enumerate(self.detectors):
            if not detector.looks_back:
                found[rows, j] = detector.score(view)
        return found

    def scores(self, ring: Floats32, queries: Queries, features: Floats | None) -> Scored:
        """What each query scores, given what is kept of the account's latest queries, `ring` (m, width), oldest first.

        `features`: the rows of these queries of `features`.
        """
        n, s = len(queries), len(self.names)
        if queries.inputs is None or not n:
            return Scored(np.full((n, s), np.nan), np.zeros(n, np.int64), ring, 0, 0, 0)
        found = self.features([queries]) if features is None else features.copy()
        classes, margin = labels(queries.answers), _margin(queries)
        repeats = edits = outside = 0
        for i in range(0, n, _CHUNK):
            rows = slice(i, min(i + _CHUNK, n))
            view = self.form.view(queries.inputs[rows], classes[rows], margin[rows], ring).beside(ring)
            assert view.past is not None
            for j, detector in enumerate(self.detectors):
                if detector.looks_back or not self.form.singly:
                    found[rows, j] = detector.score(view)
                found[rows, j][view.past.repeat if detector.bets_on == "new" else ~view.past.fresh] = np.nan
            repeats, edits = repeats + int(view.past.repeat.sum()), edits + int((~view.past.fresh).sum())
            outside += int(self.form.outside(view).sum())
            ring = view.past.earlier[-WINDOW:]
        # as finely as references keep them: a tie would look like a record
        found = found.astype(np.float32).astype(np.float64)
        return Scored(found, classes, ring.copy(), repeats, n - edits, outside)


def _margin(queries: Queries) -> Floats:
    return gap(queries.answers) if queries.margin is None else queries.margin
