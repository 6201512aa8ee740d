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

    `level`: rows that the steady rate had not yet made up for at `at`. It is kept in rows because a time of day in
    float64 resolves 0.24 microseconds, which at high rates is whole rows. A charge written in this order, and cut
    short anywhere, never counts less than was asked before it.
    """

    at: float = 0.0
    level: float = 0.0
    day: float = 0.0
    day_used: int = 0
    month: float = 0.0
    month_used: int = 0

    def over(self, now: float) -> bool:
        """Whether this is as good as nothing asked, under any allowance: every window is over."""
        day = not self.day_used or now >= self.day + DAY
        return day and (not self.month_used or now >= self.month + MONTH) and (not self.level or now >= self.at + 60.0)


#: A usage's numbers, as they are read from a file: they need no names to be counted with.
Counted = tuple[float, float, float, int, float, int]


class Admission(NamedTuple):
    """Whether a request may be asked, by which rule, and what the caller may do next.

    `retry_after`: seconds until the same request could pass; infinite where it never can. `limit`, `remaining` and
    `reset` (seconds) are those of the tightest window. `at`: when it was charged; a refund names it.
    """

    admitted: bool
    rule: str
    retry_after: float = 0.0
    limit: int | None = None
    remaining: int | None = None
    reset: float = 0.0
    at: float = 0.0


WITHIN = "within every allowance"


def admit(held: Sequence[tuple[str, Allowance, Counted]], rows: int, now: float) -> tuple[Admission, list[Usage]]:
    """Charge `rows` to every holder (a principal, its party, everybody), or to none.

    `held`: (name for the rule, allowance, usage) each. Returns the decision and the usages to be kept; where the
    request is refused these are the usages that were given. Within the steady rate a minute's worth may come at once.
    """
    refused: tuple[float, str, int, str, float, float] | None = None  # wait, who, cap, window, remaining, reset
    limit, least, reset = None, inf, 0.0
    charged = list[Usage]()
    for who, (per_minute, per_day, per_30d), (at, level, day, day_used, month, month_used) in held:
        left = day + DAY - now
        if left <= 0.0 or not day_used:
            day, day_used, left = now, 0, DAY
        day_used += rows
        if per_day is not None:
            rest: float = per_day - day_used
            if rest < 0:
                wait = left if rows <= per_day else inf
                if refused is None or wait > refused[0]:
                    refused = wait, who, per_day, "day", rest + rows, left
            elif rest < least:
                limit, least, reset = per_day, rest, left
        left = month + MONTH - now
        if left <= 0.0 or not month_used:
            month, month_used, left = now, 0, MONTH
        month_used += rows
        if per_30d is not None:
            rest = per_30d - month_used
            if rest < 0:
                wait = left if rows <= per_30d else inf
                if refused is None or wait > refused[0]:
                    refused = wait, who, per_30d, "30 days", rest + rows, left
            elif rest < least:
                limit, least, reset = per_30d, rest, left
        if per_minute is not None:
            rate = per_minute / 60.0
            if now > at:
                level = max(level - (now - at) * rate, 0.0)
                at = now
            level += rows
            rest = per_minute - level
            if rest < 0:
                # the microsecond outweighs what is lost in adding it to the time of day
                wait = 1e-6 - rest / rate if rows <= per_minute else inf
                if refused is None or wait > refused[0]:
                    refused = wait, who, per_minute, "minute", rest + rows, (level - rows) / rate
            elif rest < least:
                limit, least, reset = per_minute, rest, level / rate
        charged.append(Usage(at, level, day, day_used, month, month_used))
    if refused is not None:
        wait, who, limit, word, least, reset = refused
        rule = f"{who}: {limit} per {word}"
        return Admission(False, rule, wait, limit, max(int(least), 0), reset), [Usage(*usage) for _, _, usage in held]
    return Admission(True, WITHIN, 0.0, limit, None if limit is None else int(least), reset, now), charged


def refund(allowance: Allowance, usage: Usage, rows: int, since: float, now: float) -> Usage:
    """The usage with `rows` given back that were charged at `since` and never answered, within the same windows.

    What the steady rate has made up for since is not given back again: others may have been admitted on it.
    """
    at, level, day, day_used, month, month_used = usage
    if allowance.per_minute is not None:
        made_up = max(now - since, 0.0) * allowance.per_minute / 60.0
        level = max(level - max(rows - made_up, 0.0), 0.0)
    if since >= day:
        day_used = max(day_used - rows, 0)
    if since >= month:
        month_used = max(month_used - rows, 0)
    return Usage(at, level, day, day_used, month, month_used)


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
