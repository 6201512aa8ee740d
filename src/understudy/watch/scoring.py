"""From queries to scores: which detectors look, and on which queries each of them may bet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.protocols import Detector
from understudy.types import Floats
from understudy.views import WINDOW, Floats32, Own, Scale, View, compare
from understudy.watch.queries import Queries

#: The scores that bet, in the order of a state's columns (detectors.md of the study calls this the alarm set).
ALARM_SET = (
    "novelty",
    "structure",
    "margin",
    "near-duplicate",
    "line-depth",
    "sweep-count",
    "probe",
    "grid",
    "constant-pair",
)
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
    """Fitted detectors and the scale they share."""

    scale: Scale
    names: tuple[str, ...]
    detectors: tuple[Detector, ...]

    def features(self, batch: Sequence[Queries]) -> Floats:
        """(queries of all, s) scores that need no own earlier queries; NaN where one does, or inputs were not kept."""
        seen = [q for q in batch if q.inputs is not None and len(q)]
        found = np.full((sum(len(q) for q in batch), len(self.names)), np.nan)
        if not seen:
            return found
        views = [View.of(self.scale, q.inputs, q.answers, q.margin) for q in seen if q.inputs is not None]
        parts = ([getattr(v, part) for v in views] for part in ("inputs", "own", "z", "labels", "margin"))
        inputs, own, z, labels, margin = map(np.concatenate, parts)
        view = View(self.scale, inputs, own, z, labels, margin)
        rows = np.concatenate([np.full(len(q), q.inputs is not None) for q in batch])
        for j, detector in enumerate(self.detectors):
            if not detector.looks_back:
                found[rows, j] = detector.score(view)
        return found

    def scores(self, ring: Floats32, queries: Queries, features: Floats | None) -> Scored:
        """What each query scores, given the account's latest queries `ring` (m, d) in own units, oldest first."""
        n, s = len(queries), len(self.names)
        if queries.inputs is None or not n:
            return Scored(np.full((n, s), np.nan), np.zeros(n, np.int64), ring, 0, 0, 0)
        found = self.features([queries]) if features is None else features.copy()
        view = View.of(self.scale, queries.inputs, queries.answers, queries.margin)
        repeats = edits = 0
        for i in range(0, n, _CHUNK):
            rows = slice(i, min(i + _CHUNK, n))
            past = compare(ring, view.own[rows], self.scale)
            repeat, fresh = past.repeat, past.fresh
            self._look_back(found[rows], _part(view, rows, past))
            for j, detector in enumerate(self.detectors):
                found[rows, j][repeat if detector.bets_on == "new" else ~fresh] = np.nan
            repeats, edits = repeats + int(repeat.sum()), edits + int((~fresh).sum())
            ring = past.earlier[-WINDOW:]
        outside = int(self.scale.outside(view.inputs).sum())
        # as finely as references keep them: a tie would look like a record
        found = found.astype(np.float32).astype(np.float64)
        return Scored(found, view.labels, ring.copy(), repeats, n - edits, outside)

    def _look_back(self, into: Floats, view: View) -> None:
        for j, detector in enumerate(self.detectors):
            if detector.looks_back:
                into[:, j] = detector.score(view)


def _part(view: View, rows: slice, past: Own) -> View:
    return View(view.scale, view.inputs[rows], view.own[rows], view.z[rows], view.labels[rows], view.margin[rows], past)
