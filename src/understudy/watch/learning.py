"""Learning what benign is: some accounts set the scales, the others are ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from understudy import registry
from understudy.errors import UsageError
from understudy.leak import LeakMeter
from understudy.protocols import Detector
from understudy.types import Answers, Array, Floats
from understudy.views import View, form_of, view_of
from understudy.watch.calibration import Calibration, Cohort
from understudy.watch.queries import Queries
from understudy.watch.ranking import FIRST_AGE, Normaliser, Ranking, ages, needed, spans
from understudy.watch.scoring import ALARM_SETS, BLIND_SET, CLOCK, Scorer
from understudy.watch.wealth import Purse, Reference, bets_of, coins, unusual

POOLED = 60  # eligible queries that each account lends to the reference of a score
NORMALISING = 0.4  # share of the accounts that set the scales, up to so many: the others are worth more as ranks
MOST_NORMALISING = 400
OWN_RANKING = 100  # accounts from which on a declared segment is ranked by itself, if so many others are left
OWN_SCALES = 20  # accounts below which a cohort takes its scales from those of all


@dataclass(frozen=True, slots=True, eq=False)
class _Account:
    principal: str
    segment: str | None
    scores: Floats  # (n, s) float32
    labels: Array
    began: float


def calibrate(
    reference: Array,
    reference_answers: Answers,
    accounts: Iterable[Sequence[Queries]],
    rng: Generator,
    *,
    level: float = 0.01,
    confidence: float | None = None,
    horizon: int | None = 1024,
    epochs: int = 1,
    made: float = 0.0,
    model: str = "",
    simulated: Iterable[Sequence[Queries]] = (),
    leak: LeakMeter | None = None,
    also: Sequence[str] = (),
    blind: bool = False,
) -> Calibration:
    """Learn from benign accounts. One account is a sequence of `Queries` of one principal, in time order.

    `reference` (n, d): benign rows of the owner, such as those the model was trained on, and what it answers to them;
    texts are (n,) Python strings, images (n, h, w) or with channels. It decides what form of input is watched.
    `horizon`: queries of an account over which the level is spent; only accounts that lived so long are ranked. None:
    the longest for which enough accounts did. `epochs`: the horizon doubles that often, each on a share of the level of
    its own. `simulated`: made-up accounts that set the scales, so that every real one is ranked. `also`: detectors that
    bet beside the form's alarm set; `blind`: instead of it, as nobody's inputs are kept, beside the margin. Accounts of
    the owner's audits are left out.

    A declared segment with enough accounts is a cohort by itself, the rest are one together, and an account is ranked
    in its own (Vovk, Gammerman and Shafer 2005, section 4.5): the level holds in each, as long as the owner says who is
    in a segment and no customer can choose, and an account that lives by what-ifs sets nobody else's threshold.

    A level that the number of accounts cannot support gives a calibration without a threshold; `refuse` says so.
    """
    form = form_of(reference, rng)
    names = tuple(dict.fromkeys((*(BLIND_SET if blind else ALARM_SETS[form.kind]), *also)))  # each bets once
    scorer = Scorer(form, names, _fitted(names, view_of(form, reference, reference_answers), rng))
    if blind and not scorer.blind:
        raise UsageError(f"no inputs are kept, and detectors that read them are asked for: {', '.join(scorer.reading)}")
    longest = horizon and horizon * 2 ** (epochs - 1)
    real = [a for account in accounts if (a := _scored(scorer, account, longest))]
    made_up = [a for account in simulated if (a := _scored(scorer, account, longest))]
    if made_up:
        scaling, ranked = made_up, real
    else:
        order = rng.permutation(len(real))
        cut = min(round(NORMALISING * len(real)), MOST_NORMALISING)
        scaling, ranked = [real[i] for i in order[:cut]], [real[i] for i in order[cut:]]
    if not ranked or not any(len(a.labels) >= FIRST_AGE for a in scaling):
        raise UsageError(f"{len(real)} benign accounts are too few, or too young, to calibrate on")
    end = horizon or _longest([len(a.labels) for a in ranked], needed(level, confidence))
    old = [a for a in ranked if len(a.labels) >= end]
    if not old:
        raise UsageError(f"none of {len(ranked)} benign accounts has asked {end} queries: shorten the horizon")
    seed = int(rng.integers(2**63))
    own = _own_cohorts(old, max(OWN_RANKING, needed(level / min(epochs, 2), confidence)))
    cohorts: dict[str | None, Cohort] = {}
    rates, tails, began = dict[str, tuple[int, int]](), list[Floats](), list[float]()
    for segment in (None, *own):
        lent, mine = ([a for a in part if _cohort_of(a, own) == segment] for part in (scaling, old))
        if sum(len(a.labels) >= FIRST_AGE for a in lent) < OWN_SCALES:
            lent = scaling
        references = _references(scorer, lent, rng)
        normaliser = Normaliser.of(_peaks(scorer, references, lent, ages(end * 2 ** (epochs - 1)), rng))
        runs = [_statistics(references, normaliser, a, end, epochs, rng) for a in mine]
        ranking = Ranking.of([peaks for peaks, _ in runs], end)
        cohorts[segment] = Cohort(references, normaliser, ranking)
        lives = [(a.segment, peaks) for a, (peaks, _) in zip(mine, runs, strict=True)]
        rates |= _rates(ranking, lives, level, confidence)
        tails += [tail for _, tail in runs]
        began += [a.began for a in mine]
    common = cohorts.pop(None)
    return Calibration(
        *(made, level, confidence, model, seed, scorer, common),
        {segment: cohort for segment, cohort in cohorts.items() if segment is not None},
        dict(sorted(rates.items())),
        np.array(tails, np.float32),
        np.array(began),
        leak,
    )


def refuse(calibration: Calibration) -> str | None:
    """Why the calibration supports no alarm at its level; None where it does."""
    if calibration.threshold is not None:
        return None
    first = calibration.level * calibration.common.ranking.weights[0]
    return (
        f"{100 * calibration.level:g} % needs {needed(first, calibration.confidence)} accounts; "
        f"you have {calibration.accounts}"
    )


def _fitted(names: Sequence[str], reference: View, rng: Generator) -> tuple[Detector, ...]:
    found = []
    for name in names:
        detector = registry.create("detectors", name)
        if not {reference.form.kind, CLOCK.kind} & set(detector.forms):
            raise UsageError(f"detector {name} reads {', '.join(detector.forms)}, not {reference.form.kind} inputs")
        found.append(detector.fit(reference, rng))
    return tuple(found)


def _scored(scorer: Scorer, account: Sequence[Queries], longest: int | None) -> _Account | None:
    parts = [q for q in account if not q.audit and len(q)]
    if not parts:
        return None
    ring, clock = (np.zeros((0, form.columns), np.float32) for form in (scorer.form, CLOCK))
    scores, classes, left = list[Floats](), list[Array](), longest
    for part in parts:  # one by one: what is answered may change during a life
        some = part.take(slice(0, left))
        scored = scorer.scores(ring, clock, some, None)
        ring, clock = scored.ring, scored.clock
        scores.append(scored.scores.astype(np.float32))
        classes.append(scored.labels)
        left = None if left is None else left - len(some)
        if left == 0:
            break
    first = parts[0]
    return _Account(first.principal, first.segment, np.concatenate(scores), np.concatenate(classes), float(first.at[0]))


def _longest(lives: list[int], wanted: int) -> int:
    """The longest dyadic age that enough accounts reach, else the youngest."""
    found = FIRST_AGE
    while sum(n >= 2 * found for n in lives) >= wanted:
        found *= 2
    return found


def _own_cohorts(ranked: list[_Account], least: int) -> list[str]:
    """Segments that are ranked by themselves: `least` accounts each, and as many left for those of none.

    How many accounts declare a segment decides, never what they asked: a ranking chosen by its statistics would not be
    valid.
    """
    found, left = [], len(ranked)
    for segment, count in Counter(a.segment for a in ranked if a.segment is not None).most_common():
        if count >= least and left - count >= least:
            found.append(segment)
            left -= count
    return sorted(found)


def _cohort_of(account: _Account, own: list[str]) -> str | None:
    return account.segment if account.segment in own else None


def _references(scorer: Scorer, accounts: list[_Account], rng: Generator) -> tuple[Reference, ...]:
    found = []
    for j, detector in enumerate(scorer.detectors):
        values, labels = [], []
        for a in accounts:
            rows = np.flatnonzero(~np.isnan(a.scores[:, j]))
            rows = rows if len(rows) <= POOLED else rng.choice(rows, POOLED, replace=False)
            values.append(a.scores[rows, j])
            labels.append(a.labels[rows])
        pooled = np.concatenate(values).astype(np.float64)
        found.append(Reference.of(pooled, np.concatenate(labels) if detector.by_label else None))
    return tuple(found)


def _log_wealth(references: tuple[Reference, ...], account: _Account, rng: Generator) -> tuple[Floats, Floats]:
    coin = coins(int(rng.integers(2**63)), 0, account.scores.shape)
    e = bets_of(references, account.scores.astype(np.float64), account.labels, coin)
    return Purse.new(len(references)).after(e)[0], e


def _peaks(
    scorer: Scorer, references: tuple[Reference, ...], accounts: list[_Account], at: list[int], rng: Generator
) -> Floats:
    """(accounts, s, ages) largest log wealth by each age; NaN where an account is younger."""
    found = np.full((len(accounts), len(scorer.names), len(at)), np.nan)
    for i, account in enumerate(accounts):
        so_far = np.maximum.accumulate(_log_wealth(references, account, rng)[0])
        for k, age in enumerate(at):
            if len(so_far) >= age:
                found[i, :, k] = so_far[age - 1]
    reached = ~np.isnan(found[:, 0]).all(0)
    return found[:, :, : max(int(reached.sum()), 1)]


def _statistics(
    references: tuple[Reference, ...],
    normaliser: Normaliser,
    account: _Account,
    horizon: int,
    epochs: int,
    rng: Generator,
) -> tuple[Floats, Floats]:
    """The largest statistic per epoch that the account lived through, and the share of its bets that paid well."""
    log, e = _log_wealth(references, account, rng)
    z = normaliser.z(np.maximum.accumulate(log), 0).max(1)
    peaks = [z[rows].max() for e_, rows in spans(len(z), 0, horizon, epochs) if len(z) >= horizon * 2**e_]
    placed, odd = unusual(e)
    return np.array(peaks), np.where(placed > 0, odd / np.maximum(placed, 1), np.nan)


def _rates(
    ranking: Ranking, accounts: list[tuple[str | None, Floats]], level: float, confidence: float | None
) -> dict[str, tuple[int, int]]:
    limits = [ranking.threshold(e, level, confidence) for e in range(len(ranking.ends))]
    total: Counter[str] = Counter(segment for segment, _ in accounts if segment is not None)
    over: Counter[str] = Counter(
        segment
        for segment, peaks in accounts
        if segment is not None
        and any(limit is not None and peak > limit for peak, limit in zip(peaks, limits, strict=False))
    )
    return {segment: (over[segment], n) for segment, n in total.items()}
