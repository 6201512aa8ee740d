"""Learning what benign is from a log: who is left out, what the log can support, and what the leak meter is worth."""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import Any

import numpy as np
from numpy.random import Generator

from understudy import registry
from understudy.errors import UsageError
from understudy.leak import LeakMeter
from understudy.stats import wilson
from understudy.survey import counted
from understudy.texts import array
from understudy.types import Answers, Array, Floats, Signal
from understudy.views import Scale, labels
from understudy.views.tabular import made_up
from understudy.watch import Calibration, Queries, calibrate
from understudy.watch.drift import drifted
from understudy.watch.learning import refuse
from understudy.watch.ranking import FIRST_AGE
from understudy.watch.scoring import ALARM_SETS

SIZES = (12, 50, 200, 800, 3200)  # queries of the substitutes that the leak meter is held against
LEARNERS = ("logistic", "boosting", "mlp")
TEXT_LEARNERS = ("text-logistic", "logistic")  # of texts; the second is given the meter's embeddings
_MOST = 5000  # benign accounts that are ranked, and younger ones; more make no better ranks, only a longer wait
_LIFE = 2**16  # queries of an account that are looked at where no horizon is named
_TAUGHT = 6  # of the accounts that asked most, copies are trained on what they received
_Life = list[Queries]
_CLASSES = (Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS)


@dataclass(frozen=True)
class Learnt:
    """A calibration and what its owner ought to read. `refused`: why it supports no alarm at its level."""

    calibration: Calibration
    notes: tuple[str, ...]
    refused: str | None


def learn(
    reference: Array,
    answers: Answers,
    queries: Iterable[Queries],
    rng: Generator,
    *,
    made: float,
    model: str,
    excluded: frozenset[str] = frozenset(),
    level: float = 0.01,
    confidence: float | None = None,
    horizon: int | None = None,
    epochs: int = 1,
    leak: bool = True,
    traffic: bool = False,
    also: Sequence[str] = (),
    ask: Callable[[Any], Answers] | None = None,
    declared: Callable[[str, str], str | None] | None = None,
) -> Learnt:
    """Calibrate on the accounts of a log, account by account in time order.

    `reference` (n, ...) and `answers`: the owner's rows or texts, and what the model says of them. `excluded`:
    principals or parties that are known to have abused the endpoint; only confirmed ones, since leaving out whatever
    looks extreme breaks the bound. Accounts of the owner's audits are left out. `traffic`: rank when accounts ask, too,
    which is all there is where nobody's inputs were kept; `also`: more detectors; `ask`: the model, for made-up rows
    (n, d), on which substitutes are trained too; `declared`: the segment that the guard will take a principal and party
    to be in. Raises UsageError where too little is left.
    """
    found = _Accounts(queries, excluded, horizon, horizon * 2 ** (epochs - 1) if horizon else _LIFE)
    lives = iter(found)
    first = list(islice(lives, 1))
    unkept = not first and bool(found.blind)
    calibration = calibrate(
        reference,
        answers,
        found.blind if unkept else chain(first, lives),
        rng,
        level=level,
        confidence=confidence,
        horizon=horizon,
        epochs=epochs,
        made=made,
        model=model,
        also=(*(() if unkept else also), *(ALARM_SETS["traffic"] if traffic or unkept else ())),
        blind=unkept,
    )
    notes = list(found.notes(unkept))
    if unkept:
        notes.append("no inputs are on record: accounts are ranked by their margins, and by when they ask")
        unread = [name for name in dict.fromkeys(also) if name not in calibration.scorer.names]
        notes += [f"monitor.also: {name} reads inputs, so it is left out" for name in unread]
    elif leak and answers.outputs > 1 and any(s in answers for s in _CLASSES):
        meter = LeakMeter.fit(reference, answers, rng)
        meter = hold(meter, families(reference, answers, found.longest, rng, ask), rng)
        notes += [
            f"leak meter, {bracket} bracket: error {truth.told()}, against trained substitutes of other families"
            for bracket, truth in meter.truths.items()
        ]
        calibration = replace(calibration, leak=meter)
    notes += remarks(calibration)
    if declared is not None:
        notes += unknown_live(calibration, found.segments, declared)
    return Learnt(calibration, tuple(notes), refuse(calibration))


def remarks(calibration: Calibration) -> Iterator[str]:
    """What the calibration holds for, and for whom it holds least."""
    sure = "on average over calibrations" if calibration.confidence is None else "for this calibration, 95 % sure"
    ranked = (
        f"{counted(calibration.accounts, 'benign account')} ranked over their first {calibration.horizon:,} queries"
    )
    level = f"{100 * calibration.level:g} %"
    if refuse(calibration) is None:
        yield f"{ranked}; {level} of accounts like these are ever alarmed, {sure}"
    else:
        yield f"{ranked}: too few to alarm anybody at {level}"
    for name, cohort in calibration.segments.items():
        yield f"segment {name!r} is ranked by itself ({cohort.ranking.accounts:,} accounts)"
    worst = calibration.worst_segment()
    if worst is not None and calibration.threshold is not None:
        name, over, total = worst
        share = wilson(over, total)
        yield f"worst segment: {name!r}, {over} of {total} accounts above their threshold (up to {share.high:.1%})"
    order = np.argsort(calibration.began, kind="stable")
    early, late = calibration.tails[order[: len(order) // 2]], calibration.tails[order[len(order) // 2 :]]
    for name, share in drifted(early, late, calibration.scorer.names) if np.ptp(calibration.began) else ():
        yield (
            f"traffic drifts within this log: in {name}, {share.value:.0%} of the accounts that began later are beyond "
            "nine tenths of the earlier ones; ranks may not hold for what comes next: calibrate on the later part"
        )


def unknown_live(
    calibration: Calibration, told: Sequence[tuple[str, str, str]], declared: Callable[[str, str], str | None]
) -> Iterator[str]:
    """Cohorts with accounts that only the log's own field tells: the guard has none, and holds them against others.

    `told`: principal, party and segment of the accounts that have one.
    """
    for name in calibration.segments:
        mine = [(principal, party) for principal, party, segment in told if segment == name]
        lost = sum(declared(*account) != name for account in mine)
        if lost:
            yield (
                f"warning: {lost} of {len(mine)} accounts of segment {name!r} are in it by the log's own field alone; "
                "`understudy guard` knows only monitor.segments and will hold them against other accounts: declare them"
            )


class _Accounts:
    """The accounts of a log to learn from, one at a time, so that what they asked need not be held.

    `blind`: accounts whose inputs were not kept throughout, as many as could be ranked; `longest`: those that asked
    most, as far as copies are trained on them. Both are known once the others were taken.
    """

    def __init__(self, queries: Iterable[Queries], excluded: frozenset[str], horizon: int | None, most: int) -> None:
        self._queries, self._excluded, self._most = queries, excluded, most
        self._horizon = horizon or FIRST_AGE
        self._left_out = self._unkept = 0
        self._missed, self._full = set(excluded), False
        self.blind: list[_Life] = []
        self.longest: list[_Life] = []
        self.segments: list[tuple[str, str, str]] = []  # principal, party and segment, where there is one

    def __iter__(self) -> Iterator[_Life]:
        sizes, counts = list[int](), Counter[tuple[bool, bool]]()  # of the longest; by inputs kept, and old enough
        for principal, parts in groupby(self._queries, key=lambda q: q.principal):
            life, n, audit, kept = _Life(), 0, False, True
            for q in parts:
                audit, kept = audit or q.audit, kept and (q.inputs is not None or not len(q))
                if len(q) and n < max(self._most, SIZES[-1]):
                    life.append(q)
                n += len(q)
            if not n:
                continue
            names = {principal, life[0].party} & self._excluded
            self._missed -= names
            if names or audit:
                self._left_out += 1
                continue
            self._unkept += not kept
            if counts[kept, n >= self._horizon] == _MOST:
                continue
            counts[kept, n >= self._horizon] += 1
            if (segment := life[0].segment) is not None:
                self.segments.append((principal, life[0].party, segment))
            if not kept:
                self.blind.append([replace(q, inputs=None) for q in life])
            else:
                if len(sizes) < _TAUGHT or n > sizes[-1]:
                    place = bisect(sizes, -n, key=lambda size: -size)
                    sizes.insert(place, n)
                    self.longest.insert(place, life)
                    del sizes[_TAUGHT:], self.longest[_TAUGHT:]
                yield life
                if counts[True, True] == _MOST:
                    self._full = True
                    return
        self._full = counts[False, True] == _MOST and not counts[True, True]

    def notes(self, unkept: bool) -> Iterator[str]:
        """Who was left out. `unkept`: those with inputs were not there, so the others were learnt from."""
        if self._left_out:
            yield f"left out: {counted(self._left_out, 'account')} (excluded by name, or the owner's own audits)"
        if self._missed and not self._full:
            some = sorted(self._missed)
            more = f" and {len(some) - 10} more" if len(some) > 10 else ""
            yield f"excluded, but not in this log: {', '.join(some[:10])}{more}"
        if self._unkept and not unkept:
            yield f"left out: {counted(self._unkept, 'account')} whose inputs were not kept, or only in part"
        if self._full:
            yield f"the first {_MOST:,} accounts that asked enough were read; the others were not"


# what the leak meter's readings are worth

Family = tuple[Array, Answers]


def families(
    reference: Array,
    answers: Answers,
    accounts: Sequence[Sequence[Queries]],
    rng: Generator,
    ask: Callable[[Any], Answers] | None = None,
) -> dict[str, Family]:
    """Query sets to train substitutes on, by kind: the owner's rows, what the longest accounts asked, made-up rows.

    Thieves without the model's data ask far away from it, and much: rows are made up for the model to `ask`.
    """
    texts = reference.dtype == object
    x = reference if texts else np.asarray(reference, np.float64).reshape(len(reference), -1)
    found: dict[str, Family] = {"owner's rows": (x, answers)}
    for i, account in enumerate(accounts):
        whole = _alike(account)
        if whole is not None and whole.inputs is not None:
            rows = whole.inputs if texts else np.asarray(whole.inputs, np.float64).reshape(len(whole), -1)
            found[f"account {i}"] = (rows, whole.answers)
    if ask is not None:
        made = far_texts(x, rng) if texts else far(x, rng)
        found |= {name: (rows, ask(rows)) for name, rows in made.items()}
    return found


def _alike(account: Sequence[Queries]) -> Queries | None:
    """What an account asked and was answered with the same signals, those that it was answered with most."""
    by_signals: dict[frozenset[Signal], _Life] = {}
    for q in account:
        if q.inputs is not None and any(s in q.answers for s in _CLASSES):
            by_signals.setdefault(frozenset(q.answers.values), []).append(q)
    most = max(by_signals.values(), key=lambda parts: sum(map(len, parts)), default=None)
    return None if most is None else Queries.concat(most)


def far_texts(x: Array, rng: Generator) -> dict[str, Array]:
    """Made-up texts by kind, of the words of the owner's texts `x` (n,): in another order, drawn by how frequent they
    are, one at a time, and the first half of one text with the last of another.
    """
    split = [text.split() for text in x.tolist()]
    words = np.array([w for some in split for w in some], object)
    many, longest = max(SIZES), max(len(text) for text in x.tolist())
    picked = rng.integers(len(x), size=(2, many))
    found = {
        "shuffled words": [" ".join(rng.permutation(np.array(split[i], object))) for i in picked[0, : SIZES[-2]]],
        "drawn words": [" ".join(rng.choice(words, max(len(split[i]), 1))) for i in picked[0]],
        "single words": rng.choice(np.unique(words), min(many, len(np.unique(words))), replace=False).tolist(),
        "spliced": [
            " ".join(split[i][: (len(split[i]) + 1) // 2] + split[j][len(split[j]) // 2 :])
            for i, j in picked.T.tolist()
        ][: SIZES[-2]],
    }
    return {name: array([t[:longest] or "a" for t in texts]) for name, texts in found.items()}


def far(x: Floats, rng: Generator) -> dict[str, Floats]:
    """Made-up rows by kind, within the ranges of the owner's rows `x` (n, d).

    Those of `made_up`, and *exchanged*: rows whose columns stand in for each other, as those of another table would.
    """
    scale, many = Scale.fit(x), max(SIZES)
    own = scale.own(x)
    rows = own[rng.integers(len(own), size=2 * many)]
    kinds = dict(zip(("shuffled", "partly shuffled", "uniform", "between"), made_up(rows, scale, rng), strict=True))
    for name in ("partly shuffled", "between"):
        kinds[name] = kinds[name][: SIZES[-2]]  # near the owner's rows much teaches no more than they do
    kinds["exchanged"] = rows[:many, rng.permutation(own.shape[1])]
    return {name: np.clip(rows * scale.spread + scale.centre, scale.low, scale.high) for name, rows in kinds.items()}


def hold(meter: LeakMeter, asked: Mapping[str, Family], rng: Generator) -> LeakMeter:
    """The meter held against substitutes really trained on `asked`, in several sizes."""
    readings, real, sizes, kinds = [], [], [], []
    for name, (x, answers) in asked.items():
        order = rng.permutation(len(x))
        for size in (s for s in SIZES if s <= len(x)):
            rows, sketch = order[:size], meter.sketch()
            sketch.add(x[rows], answers.take(rows))
            readings.append(meter.raw(sketch))
            real.append(substitutes(meter, x[rows], answers.take(rows), rng))
            sizes.append(size)
            kinds.append(name)
    return meter.calibrated(readings, real, sizes, kinds)


def substitutes(meter: LeakMeter, x: Array, answers: Answers, rng: Generator) -> dict[str, float]:
    """Agreement on the meter's hold-out of the best substitute trained on labels, and on everything that was given."""
    held, truth = meter.held
    label_only = Answers({Signal.LABEL: labels(answers)}, answers.outputs)
    given = {"label": label_only} | ({"probability": answers} if Signal.PROBABILITIES in answers else {})
    best = dict.fromkeys(given, 0.0)
    texts = x.dtype == object
    for name in TEXT_LEARNERS if texts else LEARNERS:
        embed = texts and name == "logistic"
        rows, judge = (meter.numbers(a).astype(np.float64) if embed else a for a in (x, held))
        for bracket, told in given.items():
            copy = registry.create("learners", name).fit(rows, told, rng)
            agreed = float((copy.query(judge).labels() == truth).mean())
            best[bracket] = max(best[bracket], agreed)
    if "probability" in best:
        best["probability"] = max(best.values())
    return best


def read_excluded(text: bytes) -> frozenset[str]:
    """Principals or parties, one a line; a `#` at its start or after a space starts a remark.

    Raises UsageError where none is named, or the file is not UTF-8.
    """
    try:
        lines = text.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError("the file of excluded accounts is not UTF-8") from None
    names = frozenset(re.split(r"(?:^|\s)#", line)[0].strip() for line in lines) - {""}
    if not names:
        raise UsageError("the file of excluded accounts names none")
    return names
