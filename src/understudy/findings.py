"""Cells -> findings: curves with intervals, queries to a threshold, what they cost in time and money, what it means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.anchors import Anchor
from understudy.cell import Result, Threshold
from understudy.endpoint import Endpoint, behind
from understudy.manifest import Goal, Limits, Price, Tier
from understudy.protocols import Metric
from understudy.records import Detection, Finding, Line, Measured, Outcome, Point, Range, SeedResult, ThreatModel
from understudy.stats import curve_interval, first_crossing
from understudy.types import Bools, Floats, digest

MIN_SEEDS = 3
_DAY = 24 * 60  # minutes


@dataclass(frozen=True, eq=False)
class Case:
    """All repetitions of one attack on one tier, held against one goal."""

    run: str
    at: str
    endpoint: Endpoint
    tier: Tier
    goal: Goal
    metric: Metric
    attack: str
    adaptive: bool
    budget: int
    results: Sequence[Result]
    asked_again: Mapping[str, int]
    floor: Anchor
    ceiling: Anchor | None
    seed: int

    @property
    def threshold(self) -> Threshold:
        return Threshold(self.goal.metric, self.goal.threshold, self.metric.higher_is_closer)


def days(queries: float, limits: Limits, accounts: int = 1) -> float | None:
    """Days to ask `queries` at every allowance of `accounts` accounts together; None where there is no allowance.

    Windows are used greedily: whole 30-day windows first, then whole days, then minutes. The last window of each kind
    is not waited out.
    """
    return _schedule(queries, limits, accounts)[0]


def binding(queries: float, limits: Limits, accounts: int = 1) -> str:
    """The allowance that decides the time, in words."""
    return _schedule(queries, limits, accounts)[1]


def _schedule(queries: float, limits: Limits, accounts: int) -> tuple[float | None, str]:
    windows = [(limits.per_minute, 1, "minute"), (limits.per_day, _DAY, "day"), (limits.per_30d, 30 * _DAY, "30 days")]
    caps = list[tuple[int, int, str]]()
    for cap, length, word in windows:
        # a window that allows more than the shorter ones let through binds nothing
        if cap and not any(cap >= shorter * (length // each) for shorter, each, _ in caps):
            caps.append((cap, length, word))
    if not caps:
        return None, "no allowance is declared"
    rest, total, parts = math.ceil(queries), 0, list[tuple[int, str]]()
    for cap, length, word in reversed(caps):
        full = max(rest - 1, 0) // (cap * accounts)
        total, rest = total + full * length, rest - full * cap * accounts
        parts.append((full * length, f"{cap:,} per {word}"))
    most, words = max(parts)
    return total / _DAY, words if most else "within the first window of every allowance"


def conclude(case: Case, detection: Detection | None = None) -> Finding:
    """The finding of one case. Randomness (resampling) comes from the run's seed and the finding's id."""
    endpoint, tier, goal = case.endpoint.manifest.metadata.id, case.tier, case.goal
    signals = repr(sorted((s.value, g.top_k, g.decimals) for s, g in tier.signals.items())) + behind(tier)
    name = digest(endpoint, tier.id, goal.id, case.attack, signals)[:16]
    grid, rows = _curve(case)
    points: list[Point] = []
    queries = Range(low=None, estimate=None, high=None)
    best, best_at = None, None
    if grid:
        rng = np.random.default_rng([case.seed, int(name, 16)])
        mean, low, high = curve_interval(rows, rng)
        points = [_point(case, *row) for row in zip(grid, mean, low, high, strict=True)]
        queries = _crossings(case, grid, mean, low, high)
        i = int(np.argmax(mean) if case.metric.higher_is_closer else np.argmin(mean))
        best_at = grid[i]
        best = Measured(value=mean[i], low=low[i], high=high[i], n=rows.shape[2])
    outcome, reason = _judge(case, queries, best)
    limits, accounts = tier.limits, tier.limits.accounts_per_party
    timed = _allowance(case) is not None
    return Finding(
        id=name,
        run=case.run,
        at=case.at,
        endpoint=endpoint,
        tier=tier.id,
        goal=goal.id,
        metric=goal.metric,
        higher_is_closer=case.metric.higher_is_closer,
        threshold=goal.threshold,
        attack=case.attack,
        outcome=outcome,
        reason=reason,
        queries=queries,
        money=_over(queries, lambda q: _money(q, tier.price)) if tier.price else None,
        days_one=_over(queries, lambda q: days(q, limits)) if timed else None,
        days_party=_over(queries, lambda q: days(q, limits, accounts)) if timed else None,
        binding=binding(queries.estimate or case.budget, limits),
        best=best,
        best_queries=best_at,
        curve=points,
        suite=_suite(case),
        seeds=[_seed(case, i, r) for i, r in enumerate(case.results)],
        measures=_measures(case),
        floor=case.floor.shown,
        ceiling=case.ceiling.shown if case.ceiling else None,
        threat_model=_threat_model(case),
        detection=detection,
    )


def reached_at(case: Case, result: Result) -> int | None:
    """Queries after which one repetition's best substitute first met the goal; None = never."""
    figures = [
        (c.spent, float(case.metric.summary(v)))
        for c in result.checkpoints
        if c.best and (v := _row(c.values, case)) is not None
    ]
    return next((q for q, v in figures if case.threshold.reached(v)), None)


def _allowance(case: Case) -> int | None:
    return case.tier.limits.within(case.endpoint.manifest.audit.review_days)


def _best(result: Result, metric: str) -> list[tuple[int, Floats]]:
    return [(c.spent, c.values[metric]) for c in result.checkpoints if c.best and metric in c.values]


def _curve(case: Case) -> tuple[list[int], Floats]:
    """Query counts at which any repetition had a new best substitute, and (seeds, counts, evaluation rows) values.

    Before its first substitute a repetition stands at the floor.
    """
    curves = [_best(r, case.goal.metric) for r in case.results]
    grid = sorted({spent for curve in curves for spent, _ in curve})
    rows = len(case.endpoint.evaluation)
    start = case.floor.rows if case.floor.rows is not None else np.full(rows, case.floor.shown.value)
    values = np.empty((len(curves), len(grid), rows))
    for s, curve in enumerate(curves):
        steps = [start, *(v for _, v in curve)]
        at = np.searchsorted([spent for spent, _ in curve], grid, side="right")
        values[s] = np.stack([steps[i] for i in at]) if grid else values[s]
    return grid, values


def _crossings(case: Case, grid: list[int], mean: Floats, low: Floats, high: Floats) -> Range:
    def reached(curve: Floats) -> Bools:
        t = case.threshold
        return curve >= t.value if t.higher_is_closer else curve <= t.value

    first, last = (high, low) if case.metric.higher_is_closer else (low, high)
    return Range(
        low=first_crossing(grid, reached(first)),
        estimate=first_crossing(grid, reached(mean)),
        high=first_crossing(grid, reached(last)),
    )


def _judge(case: Case, queries: Range, best: Measured | None) -> tuple[Outcome, str]:
    """Reached is always reported; not reached within a poor attempt is not assessed, never safe."""
    failed = [r for r in case.results if r.error is not None]
    allowance = _allowance(case)
    if queries.estimate is not None:
        if case.threshold.reached(case.floor.shown.value):
            return Outcome.REACHED, "the floor, which takes no query at all, is already past the threshold"
        return Outcome.REACHED, f"reached at {queries.estimate:,.0f} queries"
    if failed:
        return Outcome.NOT_ASSESSED, f"{len(failed)} repetition(s) failed: {failed[0].error}"
    if len(case.results) < MIN_SEEDS:
        return Outcome.NOT_ASSESSED, f"{len(case.results)} repetition(s) ran; at least {MIN_SEEDS} are needed"
    if allowance is None:
        return Outcome.NOT_ASSESSED, "the tier has no allowance, so no budget is enough to conclude anything"
    if case.budget < allowance:
        return Outcome.NOT_ASSESSED, f"the budget of {case.budget:,} is under the tier's allowance of {allowance:,}"
    if best is None:
        return Outcome.NOT_ASSESSED, "no attack that ran could make a substitute from what this tier receives"
    return Outcome.NOT_REACHED, f"not demonstrated with a budget of {case.budget:,} by the attacks listed"


def _point(case: Case, queries: int, value: float, low: float, high: float) -> Point:
    limits = case.tier.limits
    return Point(
        queries=queries,
        value=value,
        low=low,
        high=high,
        money=_money(queries, case.tier.price) if case.tier.price else None,
        days_one=days(queries, limits),
        days_party=days(queries, limits, limits.accounts_per_party),
    )


def _money(queries: float, price: Price | None) -> float | None:
    return None if price is None else price.of(queries)


def _over(queries: Range, f: Any) -> Range:
    low, estimate, high = (None if q is None else f(q) for q in (queries.low, queries.estimate, queries.high))
    return Range(low=low, estimate=estimate, high=high)


def _suite(case: Case) -> list[Line]:
    """The curve of each attack that made a substitute, over the first repetition that has one, and those set aside."""
    lines = []
    made = sorted({c.attack for r in case.results for c in r.checkpoints})
    for attack in made:
        for result in case.results:
            mine = [c for c in result.checkpoints if c.attack == attack]
            if mine:
                shown = [
                    (c.spent, float(case.metric.summary(v))) for c in mine if (v := _row(c.values, case)) is not None
                ]
                lines.append(
                    Line(
                        attack=attack,
                        verdict=mine[-1].verdict,
                        queries=[q for q, _ in shown],
                        values=[v for _, v in shown],
                        note=result.set_aside.get(attack, ""),
                    )
                )
                break
    aside = {name: why for r in case.results for name, why in r.set_aside.items() if name not in made}
    lines += [Line(attack=name, verdict="set aside", queries=[], values=[], note=aside[name]) for name in sorted(aside)]
    return lines


def _row(values: Mapping[str, Floats], case: Case) -> Floats | None:
    return values.get(case.goal.metric)


def _seed(case: Case, i: int, result: Result) -> SeedResult:
    best = [c for c in result.checkpoints if c.best]
    last = best[-1] if best else (result.checkpoints[-1] if result.checkpoints else None)
    figures = [(c.spent, float(case.metric.summary(v))) for c in best if (v := _row(c.values, case)) is not None]
    return SeedResult(
        seed=i,
        spent=result.spent,
        asked_again=case.asked_again.get(result.cell, 0),
        verdict=last.verdict if last else "none",
        reached_at=reached_at(case, result),
        final=figures[-1][1] if figures else None,
        attack=last.attack if last else case.attack,
        measures=dict(last.measures) if last else {},
        notes=dict(last.notes) if last else {},
        error=result.error,
    )


def _measures(case: Case) -> dict[str, Measured]:
    """Other metrics of each repetition's best substitute: mean over repetitions, and their range."""
    finals = [best[-1].measures for r in case.results if (best := [c for c in r.checkpoints if c.best])]
    found = {}
    for name in sorted({m for f in finals for m in f}):
        v = [f[name] for f in finals if name in f]
        how = f"mean and range over {len(v)} repetition(s)"
        found[name] = Measured(
            value=float(np.mean(v)), low=min(v), high=max(v), n=len(case.endpoint.evaluation), how=how
        )
    return found


def _threat_model(case: Case) -> ThreatModel:
    m = case.endpoint.manifest
    accounts, allowance = case.tier.limits.accounts_per_party, _allowance(case)
    rows = len(case.endpoint.pool.inputs)
    knows = [f"{word}: {v}" for word, v in m.knowledge.model_dump().items() if v]
    pool = f"{rows:,} inputs: {m.pool.provenance}" if m.pool else "none: inputs are made up inside the space"
    return ThreatModel(
        access=f"{case.endpoint.tier(case.tier, '').exposure}{behind(case.tier)}",
        pool=pool,
        knows="; ".join([*knows, "the space and the number of outputs"]).replace("_", " "),
        budget=case.budget,
        allowance=allowance,
        accounts=accounts,
        allowance_party=allowance and allowance * accounts,
        seeds=len(case.results),
        adaptive=case.adaptive,
    )
