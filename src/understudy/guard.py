"""The gateway's mind: who may ask how much, and what leaves. Plain functions: no I/O, no async, the clock is passed in.

The gateway calls these with what it holds; an audit calls `release` through `wrappers.Defended`, so what is audited is
what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

from understudy.errors import UsageError
from understudy.protocols import Defence
from understudy.types import Answers, Exposure, Floats, Grain, Signal

DAY, MONTH = 86_400.0, 30 * 86_400.0  # seconds


class Allowance(NamedTuple):
    """Rows that may be asked: at a steady rate with a minute's worth at once, and in each day and 30 days."""

    per_minute: int | None = None
    per_day: int | None = None
    per_30d: int | None = None

    def times(self, accounts: int) -> Allowance:
        """What that many accounts may ask together."""
        return Allowance(*(None if cap is None else cap * accounts for cap in self))

    def capped(self, per_30d: int) -> Allowance:
        """The same, and no more than that in 30 days."""
        return self._replace(per_30d=min(self.per_30d or per_30d, per_30d))


class Usage(NamedTuple):
    """What was asked so far. Times are seconds of one clock; a window begins with its first query, as audits count.

    `due`: when the steady rate has caught up (the theoretical arrival time of the generic cell rate algorithm).
    """

    due: float = 0.0
    day: float = 0.0
    day_used: int = 0
    month: float = 0.0
    month_used: int = 0


class Admission(NamedTuple):
    """Whether a request may be asked, by which rule, and what the caller may do next.

    `retry_after`: seconds until the same request could pass; infinite where it never can. `limit`, `remaining` and
    `reset` (seconds) are those of the tightest window.
    """

    admitted: bool
    rule: str
    retry_after: float = 0.0
    limit: int | None = None
    remaining: int | None = None
    reset: float = 0.0


def admit(held: Sequence[tuple[str, Allowance, Usage]], rows: int, now: float) -> tuple[Admission, list[Usage]]:
    """Charge `rows` to every holder (a principal, its party, everybody), or to none.

    `held`: (name for the rule, allowance, usage) each. Returns the decision and the usages to be kept; where the
    request is refused these are the usages that were given. Within the steady rate a minute's worth may come at once.
    """
    refused: Admission | None = None
    tightest = Admission(True, "within every allowance")
    charged = []
    for who, allowance, usage in held:
        due, day, day_used, month, month_used = usage
        if now >= day + DAY:
            day, day_used = now, 0
        if now >= month + MONTH:
            month, month_used = now, 0
        windows = (
            (allowance.per_day, day_used, day + DAY - now, "day"),
            (allowance.per_30d, month_used, month + MONTH - now, "30 days"),
        )
        for cap, used, left, word in windows:
            if cap is None:
                continue
            if used + rows > cap:
                wait = inf if rows > cap else left
                refused = _longer(refused, Admission(False, f"{who}: {cap} per {word}", wait, cap, cap - used, left))
            elif tightest.remaining is None or cap - used - rows < tightest.remaining:
                tightest = Admission(True, tightest.rule, 0.0, cap, cap - used - rows, left)
        cap = allowance.per_minute
        if cap is not None:
            gap = 60.0 / cap
            ahead = max(due - now, 0.0)
            room = int((60.0 - ahead) / gap + 1e-9)
            if rows > room:
                wait = inf if rows > cap else ahead + rows * gap - 60.0
                refused = _longer(refused, Admission(False, f"{who}: {cap} per minute", wait, cap, room, ahead))
            elif tightest.remaining is None or room - rows < tightest.remaining:
                tightest = Admission(True, tightest.rule, 0.0, cap, room - rows, ahead + rows * gap)
            due = max(due, now) + rows * gap
        charged.append(Usage(due, day, day_used + rows, month, month_used + rows))
    if refused is not None:
        return refused, [usage for _, _, usage in held]
    return tightest, charged


def _longer(one: Admission | None, other: Admission) -> Admission:
    return other if one is None or other.retry_after > one.retry_after else one


def refund(allowance: Allowance, usage: Usage, rows: int, since: float) -> Usage:
    """The usage with `rows` given back that were charged at `since` and never answered, within the same windows."""
    due, day, day_used, month, month_used = usage
    if allowance.per_minute is not None:
        due -= rows * 60.0 / allowance.per_minute
    if since >= day:
        day_used = max(day_used - rows, 0)
    if since >= month:
        month_used = max(month_used - rows, 0)
    return Usage(due, day, day_used, month, month_used)


@dataclass(frozen=True)
class Grant:
    """What one tier receives: an exposure, and the defences that make it out of the upstream's answers."""

    exposure: Exposure
    defences: tuple[Defence, ...]

    @classmethod
    def of(cls, served: Exposure, defences: Sequence[Defence], granted: Exposure) -> Grant:
        """What is left of `served`. Raises UsageError when the defences would leave more than is granted, or less.

        A granted label that is not served is worked out from the scores before they are reduced.
        """
        left = served
        if Signal.LABEL in granted.grains and Signal.LABEL not in left.grains:
            left = replace(left, grains={**left.grains, Signal.LABEL: Grain()})
        for defence in defences:
            left = defence.reveals(left)
        left = replace(
            left, grains={signal: grain for signal, grain in left.grains.items() if signal in granted.grains}
        )
        if left.grains.keys() != granted.grains.keys() or not left.reveals_at_most(granted):
            raise UsageError(f"{granted} is granted, but behind the defences there is {str(left) or 'nothing'}")
        return cls(left, tuple(defences))

    def fit(self, inputs: Floats, answers: Answers) -> Grant:
        """The same grant, each defence fitted to the owner's answers as they reach it."""
        answers, fitted = _named(self, answers), list[Defence]()
        for defence in self.defences:
            fitted.append(defence.fit(inputs, answers))
            answers = fitted[-1].apply(inputs, answers, "")
        return replace(self, defences=tuple(fitted))


def release(grant: Grant, inputs: Floats, answers: Answers, principal: str) -> Answers:
    """The answers as one principal receives them: reduced, and nothing that is not granted.

    A granted label that the upstream does not name is worked out from its scores before they are reduced. Where only
    the largest probabilities are granted, one that is zero counts as withheld: protocols write both as 0, and an audit
    in process is to see what a customer sees. What a defence raises goes to the caller, who closes the answer
    (`closed`).
    """
    answers = _named(grant, answers)
    for defence in grant.defences:
        answers = defence.apply(inputs, answers, principal)
    grain = grant.exposure.grains.get(Signal.PROBABILITIES)
    if grain is not None and grain.top_k is not None and Signal.PROBABILITIES in answers:
        p = answers[Signal.PROBABILITIES]
        answers = answers.replace(Signal.PROBABILITIES, p, answers.mask(Signal.PROBABILITIES) & (p != 0))
    return answers.only(grant.exposure.signals)


def _named(grant: Grant, answers: Answers) -> Answers:
    if Signal.LABEL in grant.exposure.grains and Signal.LABEL not in answers:
        return answers.replace(Signal.LABEL, answers.labels())
    return answers


def closed(grant: Grant, answers: Answers) -> Answers | None:
    """What may still leave where a defence failed: the label, where it is granted; else nothing."""
    if Signal.LABEL not in grant.exposure.grains:
        return None
    return Answers({Signal.LABEL: answers.labels()}, answers.outputs)
