"""Following the accounts of one part of a log. No state but what is given; parts may be followed anywhere."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from understudy.leak import LeakMeter, LeakSketch
from understudy.types import Floats
from understudy.views import Floats32, Scale
from understudy.watch import Calibration, Queries, Standing, State, Watch

_BATCH, _BYTES = 4096, 2**25  # queries whose features are worked out at once, and bytes of their inputs
_LOUDEST = 4  # scores of an account that are kept
_DAY = 86_400
_BETS = 50  # of an account in one score, from which on its tail counts


class Seen(NamedTuple):
    """An account at the end of its queries.

    `tail` (s,): share of its bets in each score with p below 0.1, NaN where it placed few; `unseen`: share of queries
    whose inputs were not kept; `mean`, `spread` (d,): of its latest inputs, where it is alarmed
    and they are tabular; `signals` it received; `busiest`: queries on the day (UTC) on which it asked most.
    """

    standing: Standing
    tail: Floats32
    unseen: float
    signals: tuple[str, ...]
    busiest: int
    mean: Floats | None = None
    spread: Floats | None = None


def follow(queries: Iterable[Queries], calibration: Calibration) -> list[Seen]:
    """Every account of a stream of `Queries`: account by account, each in time order. No leak is measured here."""
    watch, found = Watch(dataclasses.replace(calibration, leak=None)), list[Seen]()
    state: State | None = None
    signals, days = set[str](), Counter[float]()
    for batch in _batches(queries):
        features, start = watch.features(batch), 0
        for part in batch:
            if state is None or part.principal != state.principal:
                if state is not None:
                    found.append(_seen(watch, state, signals, days))
                state, signals, days = watch.fresh(part.principal, part.party, part.segment), set(), Counter()
            watch.advance(state, part, features[start : start + len(part)])
            signals.update(part.answers.values)
            days.update(dict(zip(*(a.tolist() for a in np.unique(part.at // _DAY, return_counts=True)), strict=True)))
            start += len(part)
    if state is not None:
        found.append(_seen(watch, state, signals, days))
    return found


def learned(queries: Iterable[Queries], meter: LeakMeter) -> dict[str, LeakSketch]:
    """What each party received, summed for the leak meter."""
    found: dict[str, LeakSketch] = {}
    whose: tuple[str, str] | None = None
    for part in queries:
        if whose is None or whose[0] != part.principal:
            whose = part.principal, part.party  # as it is followed: by the party that it asked for first
        if part.inputs is not None:
            found.setdefault(whose[1], meter.sketch()).add(part.inputs, part.answers)
    return found


def _batches(queries: Iterable[Queries]) -> Iterator[list[Queries]]:
    """Queries by about `_BATCH` rows: features are worked out for many accounts at once."""
    batch, size, held = list[Queries](), 0, 0
    for part in queries:
        batch.append(part)
        size += len(part)
        held += 0 if part.inputs is None else part.inputs.nbytes
        if size >= _BATCH or held >= _BYTES:
            yield batch
            batch, size, held = [], 0, 0
    if batch:
        yield batch


def _seen(watch: Watch, state: State, signals: set[str], days: Counter[float]) -> Seen:
    standing = watch.standing(state)
    placed, odd = state.tails
    tail = np.where(placed >= _BETS, odd / np.maximum(placed, 1), np.nan).astype(np.float32)
    mean = spread = None
    scale = watch.calibration.scorer.form
    if standing.alarmed_at is not None and len(state.ring) and isinstance(scale, Scale):
        latest = state.ring.astype(np.float64) * scale.spread + scale.centre
        mean, spread = latest.mean(0), latest.std(0)
    short = dataclasses.replace(standing, scores=standing.scores[:_LOUDEST])
    busiest = max(days.values(), default=0)
    return Seen(short, tail, standing.quality["unseen"], tuple(sorted(signals)), busiest, mean, spread)
