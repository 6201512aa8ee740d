"""Numbers as people read them. Formatting only: nothing is computed from what a report says."""

from __future__ import annotations

import re
from collections.abc import Callable

from understudy.records import Finding, Measured, Noticed, Outcome, Range
from understudy.report import duration as _duration
from understudy.report import money as _money

OUTCOME = {
    Outcome.REACHED: "copied",
    Outcome.NOT_REACHED: "not demonstrated",
    Outcome.NOT_ASSESSED: "not assessed",
}


def count(value: float | None) -> str:
    """A number of queries."""
    return "-" if value is None else f"{value:,.0f}"


def share(value: float) -> str:
    """A proportion or error; never rounded up to 1 or down to 0."""
    if abs(value - 1) < 1e-9:  # no proportion of countable rows lies so close to 1: this is 1 after adding up floats
        return "1"
    if 0.9999 <= value < 1:
        return "> 0.9999"
    if value != 0 and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.4f}" if 0.995 < value < 1 else f"{value:.3f}"


def interval(m: Measured | None) -> str:
    """A measured figure with its interval."""
    if m is None:
        return "not measured"
    return share(m.value) if m.low == m.high else f"{share(m.value)} ({share(m.low)} to {share(m.high)})"


def duration(days: float | None) -> str:
    """Days as a person says them."""
    return "no allowance" if days is None else _duration(days)


def money(value: float | None, currency: str | None) -> str:
    """An amount."""
    return "no price" if value is None or currency is None else _money(value, currency)


def ranged(r: Range | None, show: Callable[[float], str], missing: str = "-") -> str:
    """An estimate with its range; an open end is said in words."""
    if r is None:
        return missing
    if r.estimate is None or r.low is None:
        return "not reached"
    mid, between = show(r.estimate), _between(r, show)
    return f"{mid} ({between})" if between else mid


def ranged_money(r: Range | None, currency: str | None) -> str:
    """As `ranged`, for amounts."""
    return ranged(r, lambda v: money(v, currency), "no price is given")


def ends(r: Range, show: Callable[[float], str]) -> str:
    """The ends of a range alone; nothing where they are the estimate."""
    between = _between(r, show)
    return f"range {between}" if between else ""


def _between(r: Range, show: Callable[[float], str]) -> str:
    """`low to high`, the unit said once; nothing where both are the estimate."""
    if r.low is None or r.estimate is None:
        return ""
    low, high = show(r.low), "more than was tested" if r.high is None else show(r.high)
    if low == high == show(r.estimate):
        return ""
    unit = re.match(r"[A-Z]{3} (?=\d)", low)  # a currency stands before the amount
    if unit and high.startswith(unit[0]):
        return f"{low} to {high.removeprefix(unit[0])}"
    unit = re.search(r"(?<=\d) [a-z]+$", low)
    return f"{low.removesuffix(unit[0])} to {high}" if unit and high.endswith(unit[0]) else f"{low} to {high}"


def figure(f: Finding, r: Range | None, show: Callable[[float], str], missing: str) -> tuple[str, str]:
    """A headline figure and the line under it. What was not concluded is said, not dressed up as a bound."""
    if r is None:
        return "unknown", missing
    if r.estimate is not None:
        return show(r.estimate), ends(r, show)
    return "unknown", OUTCOME[f.outcome]


def figure_queries(f: Finding) -> tuple[str, str]:
    """The headline number of queries."""
    if f.outcome is Outcome.NOT_REACHED:
        return f"> {count(f.threat_model.budget)}", "not demonstrated within what was tested"
    if f.queries.estimate is None:
        return "unknown", f"not assessed; {count(f.threat_model.budget)} were offered"
    return figure(f, f.queries, count, "")


def figure_money(f: Finding, currency: str | None) -> tuple[str, str]:
    """The headline amount."""
    return figure(f, f.money, lambda v: money(v, currency), "no price is given")


def figure_time(f: Finding) -> tuple[str, str]:
    """The headline time of one account, and under it what a party needs."""
    main, under = figure(f, f.days_one, duration, "no allowance is declared")
    party = f.days_party
    if party is not None and party.estimate is not None and f.threat_model.accounts > 1:
        with_all = f"{duration(party.estimate)} with {f.threat_model.accounts} accounts"
        under = f"{under}; {with_all}" if under else with_all
    return main, under


def alarmed(n: Noticed) -> str:
    """How often a way of asking is alarmed, with its exact interval."""
    between = f"{100 * n.low:.0f} to {100 * n.high:.0f} %"
    return f"{n.alarmed} of {n.of} ({between})"


def alarm_after(n: Noticed) -> str:
    """How soon, and which part of the attack was done by then."""
    if n.delay is None or n.share is None:
        return "-"
    part = f"{100 * n.share:.0f} %" if n.share >= 0.01 else "under 1 %"
    return f"{count(n.delay)} ({part} of the attack)"


def chance(n: Noticed) -> str:
    """How often benign customers with as many accounts would be alarmed."""
    return "-" if n.chance is None else f"{100 * n.chance:.2g} %"


def noticed(f: Finding) -> str:
    """Whether the monitor would have noticed the attack as it was run."""
    if f.detection is None or not f.detection.assessed:
        return "not assessed"
    plain = f.detection.ways[0]
    return alarmed(plain) + (f", after {count(plain.delay)} queries" if plain.delay is not None else "")
