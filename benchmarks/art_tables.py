"""The tables of art_noticed.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from art_worlds import ATTACKS, BUDGETS, FAR_POOLS, SEEDS, Run
from common import heading, row

GOAL = 0.9
POOLS = {pool: budgets for pools in BUDGETS.values() for pool, budgets in pools.items()}


class Outcome(NamedTuple):
    """Of every run [epochs, training loss, fidelity] of each of ART's copies, and what our best copy reached; of every
    party what the monitor said.
    """

    copies: dict[Run, Any]
    better: dict[Run, float]
    parties: dict[str, Any]

    @classmethod
    def joined(cls, outcomes: Sequence[Outcome]) -> Outcome:
        """Of several models. Their runs are of different pools; customers of the same name are not told apart."""
        return cls(*(reduce(lambda a, b: a | b, found) for found in zip(*outcomes, strict=True)))

    def first(self, run: Run) -> float:
        """Fidelity after 60 epochs."""
        return float(self.copies[run][0][2])

    def last(self, run: Run) -> float:
        """Fidelity of the copy that has converged, where one was trained until it had; else after 60 epochs."""
        return float(self.copies[run][-1][2])

    def account(self, run: Run) -> Any:
        return self.parties[run.party]["accounts"][0]

    def leak(self, run: Run) -> Any:
        """The meter by the bracket of what the attack trains on: probabilities, or labels."""
        return self.parties[run.party]["leak"]["probabilities" if run.attack == "KnockoffNets" else "labels"]


def report(found: Outcome) -> None:
    curves(found)
    noticed(found)
    leak(found)
    verdicts(found)


def curves(found: Outcome) -> None:
    """Medians over seeds, after 60 epochs and converged."""
    for pool, budgets in POOLS.items():
        print("\n" + heading(f"{pool}: fidelity, median of {len(SEEDS)} seeds", *[f"{b:,}" for b in budgets]))
        for attack in ATTACKS:
            seeds = [[Run(attack, pool, seed, b) for seed in SEEDS] for b in budgets]
            print(row(f"{attack}, 60 epochs", *[f"{statistics.median(map(found.first, s)):.3f}" for s in seeds]))
            if seeds[0][0].converges:
                print(row(f"{attack}, converged", *[f"{statistics.median(map(found.last, s)):.3f}" for s in seeds]))


def noticed(found: Outcome) -> None:
    """Where each attack's first copy that reaches the goal lies on the grid, and the alarm of that run.

    The share is of the last budget that was not enough, so it is rather too large than too small.
    """
    columns = ("seed", f"queries to {GOAL}", "alarmed at query", "share at most", "loudest score")
    print("\n" + heading("attack, pool", *columns))
    for attack in ATTACKS:
        for pool in FAR_POOLS:
            for seed in SEEDS:
                wanted = [Run(attack, pool, seed, b) for b in POOLS[pool]]
                print(row(f"{attack}, {pool}", seed, *share(found, wanted)))
    print("\n" + heading("every budget and seed", "runs alarmed", "median query", "latest"))
    for attack in ATTACKS:
        for pool in POOLS:
            accounts = [found.account(r) for r in found.copies if (r.attack, r.pool) == (attack, pool)]
            at = [a["alarmed_at"] for a in accounts if a["alarmed_at"] is not None]
            when = (f"{statistics.median(at):g}", max(at)) if at else ("-", "-")
            print(row(f"{attack}, {pool}", f"{len(at)} of {len(accounts)}", *when))


def share(found: Outcome, wanted: Sequence[Run]) -> tuple[object, ...]:
    """Queries to the goal, query of the alarm, share of the former, loudest score."""
    enough = next((i for i, run in enumerate(wanted) if found.first(run) >= GOAL), len(wanted))
    short, run = wanted[max(enough - 1, 0)], wanted[min(enough, len(wanted) - 1)]
    if enough == len(wanted):
        cost = f"> {run.budget:,} ({found.first(run):.2f})"
    else:
        cost = f"{short.budget:,}-{run.budget:,}" if enough else f"<= {run.budget:,}"
    account = found.account(run)
    at = account["alarmed_at"]
    if at is None:
        return cost, "never", "-", "-"
    return cost, at, f"{100 * at / short.budget:.2f} %" if enough else "-", account["scores"][0]["detector"]


def leak(found: Outcome) -> None:
    """The meter beside ART's copies, seed by seed."""
    columns = ("queries", "60 epochs", "converged", "epochs", "our best copy", "leak meter", "minus 60 epochs")
    columns += ("minus converged", "within 0.1 of the converged", "converged in its interval")
    print("\n" + heading("attack, pool", *columns))
    for attack in ATTACKS:
        for pool, budgets in POOLS.items():
            for budget in budgets:
                wanted = [Run(attack, pool, seed, budget) for seed in SEEDS]
                told = [found.leak(run) for run in wanted]
                read = np.array([t["estimate"] for t in told])
                first, last = (np.array([f(run) for run in wanted]) for f in (found.first, found.last))
                n, cells = len(wanted), ("-",) * 5
                if wanted[0].converges:
                    inside = sum(t["low"] <= r <= t["high"] for t, r in zip(told, last, strict=True))
                    shares = (f"{within(read, last)} of {n}", f"{inside} of {n}")
                    epochs = ", ".join(f"{found.copies[run][-1][0]:,}" for run in wanted)
                    cells = (each(last), epochs, gaps(read, last), *shares)
                better = each([found.better[run] for run in wanted]) if wanted[0] in found.better else "-"
                middle = (each(first), *cells[:2], better, each(read), gaps(read, first))
                print(row(f"{attack}, {pool}", f"{budget:,}", *middle, *cells[2:]))


def verdicts(found: Outcome) -> None:
    """The meter against copies after 60 epochs and converged ones, by attack and pool."""
    columns = ("runs", "within 0.1 after 60 epochs", "within 0.1 of the converged", "least", "most", "in its interval")
    columns += ("converged more than 0.1 above it",)
    print("\n" + heading("attack, pool: where copies converged", *columns))
    for attack in ATTACKS:
        for pool in (p for p in POOLS if p not in FAR_POOLS):
            wanted = [r for r in found.copies if (r.attack, r.pool) == (attack, pool)]
            told = [found.leak(run) for run in wanted]
            read = np.array([t["estimate"] for t in told])
            first, last = (np.array([f(run) for run in wanted]) for f in (found.first, found.last))
            inside = sum(t["low"] <= r <= t["high"] for t, r in zip(told, last, strict=True))
            gap = read - last
            counts = (len(wanted), within(read, first), within(read, last), f"{gap.min():+.2f}", f"{gap.max():+.2f}")
            print(row(f"{attack}, {pool}", *counts, inside, int((gap < -0.1).sum())))


def within(read: Any, real: Any) -> int:
    return int((abs(read - real) <= 0.1).sum())


def each(values: Any) -> str:
    return ", ".join(f"{v:.2f}" for v in values)


def gaps(read: Any, real: Any) -> str:
    return ", ".join(f"{v:+.2f}" for v in read - real)
