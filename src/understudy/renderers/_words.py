"""Numbers as people read them. Formatting only: nothing is computed from what a report says."""

from __future__ import annotations

from collections.abc import Callable

from understudy.records import Measured, Range
from understudy.report import duration as _duration
from understudy.report import money as _money


def count(value: float | None) -> str:
    """A number of queries."""
    return "-" if value is None else f"{value:,.0f}"


def share(value: float) -> str:
    """A proportion or error; never rounded up to 1 or down to 0."""
    if 0.9999 <= value < 1:
        return "> 0.9999"
    if 0 < value < 0.0001:
        return f"{value:.1e}"
    return f"{value:.4f}" if value > 0.99 and value < 1 else f"{value:.3f}"


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
    high = "more than was tested" if r.high is None else show(r.high)
    low, mid = show(r.low), show(r.estimate)
    return mid if low == mid == high else f"{mid} ({low} to {high})"


def ends(r: Range | None, show: Callable[[float], str]) -> str:
    """The ends of a range alone."""
    if r is None or r.estimate is None or r.low is None:
        return ""
    if r.low == r.estimate == r.high:
        return "in every repetition"
    return f"{show(r.low)} to {'more than tested' if r.high is None else show(r.high)}"


def ends_money(r: Range | None, currency: str | None) -> str:
    """As `ends`, for amounts."""
    return ends(r, lambda v: money(v, currency))


def ranged_money(r: Range | None, currency: str | None) -> str:
    """As `ranged`, for amounts."""
    return ranged(r, lambda v: money(v, currency), "no price is given")
