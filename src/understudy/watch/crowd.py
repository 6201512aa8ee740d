"""Many accounts that asked a few queries each, followed at once: as `Watch.advance` one after another, up to rounding.

A few rows cost as much as one in everything that numpy does, so the price of an account is that of the calls. Here the
calls are shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.leak import Received
from understudy.types import Answers, Array, Floats
from understudy.views import WINDOW, Floats32, Scale, TextScale, View, gap, labels
from understudy.watch.calibration import Calibration, Cohort
from understudy.watch.queries import Queries, joins
from understudy.watch.scoring import ALARM_SETS, Scorer
from understudy.watch.state import FIRST, State
from understudy.watch.wealth import MARGIN, UNUSUAL, Purse, bets, coins_at, p_of

FEW = 32  # queries of one account up to which sharing pays
_TEXTS = 2**14  # texts that are laid beside those asked, in a group; each is 96 numbers
_ROOM = 2**17  # numbers in the table of changed fields, all of a group against all


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """What comes of one account's queries, before its state is changed."""

    scores: Floats  # (n, s)
    tails: Floats  # (2, s)
    z: Floats  # (n,)
    peak: Floats
    purse: Purse
    ring: Floats32
    counts: tuple[int, int, int]  # repeats, fresh, out of range
    received: Received | None  # where a leak meter reads it


def takes(calibration: Calibration, state: State, queries: Queries) -> bool:
    """Whether they are followed with other accounts': a few rows of numbers or texts, and no approval by a human."""
    scorer, inputs = calibration.scorer, queries.inputs
    if inputs is None or not 0 < len(queries) <= FEW or state.own or queries.principal != state.principal:
        return False
    if scorer.timed or scorer.blind or not scorer.form.takes(inputs.shape[1:]):
        return False
    if isinstance(scorer.form, TextScale):
        return inputs.dtype.kind in "OUT" and set(scorer.names) <= set(ALARM_SETS["text"])
    return isinstance(scorer.form, Scale) and inputs.dtype.kind in "fiub"


def follow(calibration: Calibration, states: Sequence[State], batch: Sequence[Queries]) -> list[Followed]:
    """Accounts that `takes` says yes to, each once, of one `kind` all. Nothing is changed."""
    scorer, form = calibration.scorer, calibration.scorer.form
    lengths = np.array([len(q) for q in batch])
    ends = np.cumsum(lengths)
    rows = [slice(end - n, end) for n, end in zip(lengths.tolist(), ends.tolist(), strict=True)]
    kept = [q.inputs for q in batch if q.inputs is not None]
    inputs = np.concatenate([x if isinstance(form, TextScale) else x.reshape(len(x), -1) for x in kept])
    answers = Answers.concat([q.answers for q in batch])
    margins = [q.margin for q in batch if q.margin is not None]
    classes, margin = labels(answers), np.concatenate(margins) if margins else gap(answers)
    scores, own = np.empty((len(inputs), len(scorer.names))), np.empty((len(inputs), form.columns), np.float32)
    repeat, fresh, outside = np.zeros((3, len(inputs)), np.bool_)
    for mine, part in _views(scorer, inputs, classes, margin, [s.ring for s in states], rows, scores):
        assert part.past is not None
        own[mine], repeat[mine], fresh[mine], outside[mine] = (
            *(part.own, part.past.repeat, part.past.fresh),
            form.outside(part),
        )
        for j, detector in enumerate(scorer.detectors):
            if detector.looks_back or not form.singly:
                scores[mine, j] = detector.score(part)
    for j, detector in enumerate(scorer.detectors):
        scores[repeat if detector.bets_on == "new" else ~fresh, j] = np.nan
    scores = scores.astype(np.float32).astype(np.float64)
    e, purses = np.ones(scores.shape), dict[int, Purse]()
    by_cohort: dict[int, tuple[Cohort, list[int]]] = {}
    for i, state in enumerate(states):
        cohort = calibration.cohort(state.segment)
        by_cohort.setdefault(id(cohort), (cohort, []))[1].append(i)
    cohorts = [(c, np.concatenate([np.arange(rows[i].start, rows[i].stop) for i in m])) for c, m in by_cohort.values()]
    first = np.repeat(np.array([state.n for state in states]) - (ends - lengths), lengths) + np.arange(len(scores))
    seeds = np.repeat(np.array([state.seed for state in states], np.uint64), lengths)
    coin = coins_at(seeds[:, None], first, scores.shape[1])
    for cohort, mine in cohorts:
        p = np.minimum(1.0, p_of(cohort.references, scores[mine], classes[mine], coin[mine]) + MARGIN)
        e[mine] = np.where(np.isnan(scores[mine]), 1.0, bets(p))
    peaks = np.empty(scores.shape)
    for members in _alike(lengths):
        after, log = _after([states[i].purse for i in members], [e[rows[i]] for i in members])
        most = np.maximum.accumulate(np.maximum(log, np.stack([states[i].peak for i in members])), 0)  # (n, a, s)
        for a, i in enumerate(members):
            purses[i], peaks[rows[i]] = after[a], most[: lengths[i], a]
    z, born = np.empty(len(scores)), np.repeat([state.born for state in states], lengths)
    for cohort, mine in cohorts:
        z[mine] = cohort.normaliser.at(peaks[mine], first[mine] - born[mine] + 1).max(1)
    sums = np.stack([repeat, fresh, outside], 1).astype(np.int64)
    totals = np.add.reduceat(sums, ends - lengths).tolist()
    tails = np.add.reduceat(np.stack([e != 1, e > UNUSUAL], 1).astype(np.float64), ends - lengths)
    received = None if calibration.leak is None else calibration.leak.received(inputs, answers)
    return [
        Followed(
            *(scores[mine], tails[i], z[mine], peaks[mine.stop - 1].copy(), purses[i]),
            np.concatenate([states[i].ring, own[mine]])[-WINDOW:],
            tuple(totals[i]),
            None if received is None else received.part(mine),
        )
        for i, mine in enumerate(rows)
    ]


def kind(queries: Queries) -> tuple[object, ...]:
    """What queries have in common whose answers can be joined."""
    return *joins(queries.answers), queries.margin is None


def commit(state: State, queries: Queries, one: Followed) -> None:
    """Change a state by what was found, but for its count. Where its sketch refuses the answers, nothing is changed."""
    if state.sketch is not None and one.received is not None:
        state.sketch.take(one.received)
    state.peak, state.purse, state.ring = one.peak, one.purse, one.ring
    state.tails = state.tails + one.tails
    if len(state.first) < FIRST:
        state.first = np.concatenate([state.first, one.scores[: FIRST - len(state.first)].astype(np.float32)])
    for name, more in zip(("repeats", "fresh", "out_of_range"), one.counts, strict=True):
        state.counts[name] = state.counts.get(name, 0) + more
    state.since, state.until = min(state.since, float(queries.at[0])), max(state.until, float(queries.at[-1]))


def _views(
    scorer: Scorer,
    inputs: Array,
    classes: NDArray[np.int64],
    margin: Floats,
    rings: Sequence[Floats32],
    rows: Sequence[slice],
    scores: Floats,
) -> Iterator[tuple[Array, View]]:
    """Which rows, and how they look beside their accounts' earlier ones, some accounts at a time. Of numbers, `scores`
    that do not look back are filled in for all at once.
    """
    form, asked = scorer.form, [r.stop - r.start for r in rows]
    whole = None if isinstance(form, TextScale) else form.view(inputs, classes, margin)
    for j, detector in enumerate(scorer.detectors):
        if whole is not None and not detector.looks_back:
            scores[:, j] = detector.score(whole)
    for members in _groups([len(r) for r in rings], asked, whole is None):
        mine: Array = np.concatenate([np.arange(rows[i].start, rows[i].stop) for i in members])
        theirs = [rings[i] for i in members]
        if isinstance(form, TextScale):
            many = [asked[i] for i in members]
            yield mine, form.view_each(inputs[mine], classes[mine], margin[mine], theirs, many)
        elif isinstance(form, Scale) and whole is not None:
            past = form.compare_each(theirs, [whole.own[rows[i]] for i in members])
            own, z = whole.own[mine], whole.z[mine]
            yield mine, View(form, whole.inputs[mine], own, z, classes[mine], margin[mine], None, past)


def _groups(kept: Sequence[int], asked: Sequence[int], apart: bool) -> Iterator[list[int]]:
    """Accounts of like size, as many as there is room for. `apart`: none of a group is held against another's."""
    group, widest = list[int](), 0
    for i in sorted(range(len(kept)), key=lambda i: (kept[i] + asked[i], asked[i])):
        widest = max(widest, asked[i])
        size = (len(group) + 1) * widest * (kept[i] + asked[i])
        if group and (size > _TEXTS if apart else (len(group) + 1) * size > _ROOM):
            yield group
            group, widest = [], asked[i]
        group.append(i)
    if group:
        yield group


def _alike(lengths: NDArray[np.int64]) -> Iterator[list[int]]:
    """Accounts whose numbers of queries lie within a factor of two."""
    sizes = np.ceil(np.log2(lengths))
    for size in np.unique(sizes):
        yield np.flatnonzero(sizes == size).tolist()


def _after(purses: Sequence[Purse], e: Sequence[Floats]) -> tuple[list[Purse], Floats]:
    """Each purse after its bets (n, s), and log wealth (most n, accounts, s) after each query, as far as there are any.

    Scores do not meet in a purse, so many purses are one of many scores.
    """
    s, most = e[0].shape[1], max(map(len, e))
    padded = np.ones((most, len(e), s))
    for a, mine in enumerate(e):
        padded[: len(mine), a] = mine
    joined = Purse(*(np.concatenate([getattr(p, part) for p in purses]) for part in ("betting", "cash", "log")))
    betting, cash, log = (part.reshape(most, len(e), s) for part in joined.path(padded.reshape(most, -1)))
    last = [len(mine) - 1 for mine in e]
    after = [Purse(betting[n, a].copy(), cash[n, a].copy(), log[n, a].copy()) for a, n in enumerate(last)]
    return after, log
