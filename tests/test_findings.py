"""Time, money and verdicts: the arithmetic a reader will check by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.audit import GateSpec
from understudy.errors import UsageError
from understudy.findings import binding, days
from understudy.manifest import Limits, Price

BOTH = Limits(per_minute=120, per_day=5000)


def test_the_binding_allowance_decides() -> None:
    # 12,000 queries: two whole days of 5,000, then 2,000 more at 120 a minute (16 whole minutes before the last one)
    assert days(12_000, BOTH) == pytest.approx(2 + 16 / 1440)
    assert binding(12_000, BOTH) == "5,000 per day"
    assert days(1_000, BOTH) == pytest.approx(8 / 1440)
    assert binding(1_000, BOTH) == "120 per minute"


def test_the_first_window_costs_no_time() -> None:
    assert days(500, Limits(per_day=500)) == 0
    assert days(501, Limits(per_day=500)) == 1
    assert days(120, BOTH) == 0


def test_a_month_is_waited_out_when_it_is_spent() -> None:
    limits = Limits(per_day=500, per_30d=1000)
    assert days(1000, limits) == 1
    assert days(1001, limits) == 30


def test_no_allowance_gives_no_time() -> None:
    assert days(10, Limits()) is None
    assert binding(10, Limits()) == "no allowance is declared"


@given(st.integers(1, 10**7), st.integers(1, 50), st.integers(1, 10_000), st.integers(1, 1000))
def test_more_accounts_never_take_longer(queries: int, accounts: int, per_day: int, per_minute: int) -> None:
    limits = Limits(per_day=per_day, per_minute=per_minute)
    one, many = days(queries, limits), days(queries, limits, accounts)
    assert one is not None
    assert many is not None
    assert many <= one
    assert days(queries + 1, limits) >= one  # type: ignore[operator]


@given(st.integers(1, 10**6), st.integers(1, 5000), st.integers(1, 60))
def test_a_schedule_never_overspends_an_allowance(queries: int, per_day: int, window: int) -> None:
    """In the days a schedule claims, the allowance does allow that many queries."""
    limits = Limits(per_day=per_day)
    taken = days(queries, limits)
    assert taken is not None
    assert (taken + 1) * per_day >= queries
    assert limits.within(window) == per_day * window


def test_free_queries_are_free_per_account() -> None:
    price = Price(per_1k_queries=2, free_queries=100)
    assert price.of(1100) == 2
    assert price.of(50) == 0
    assert price.of(1100, accounts=2) == pytest.approx(1.8)


@pytest.mark.parametrize(
    "text", ["fidelity", "fidelity>0.9@5", "fidelity>=high@5", "fidelity>=0.9", "fidelity<=0.9@100", ">=0.9@1"]
)
def test_a_gate_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--fail-if"):
        GateSpec.parse(text)


def test_a_gate_on_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'fidelity'"):
        GateSpec.parse("fidelty>=0.9@5")


def test_a_gate_is_read() -> None:
    gate = GateSpec.parse("total-variation<=0.01@5_000")
    assert (gate.metric, gate.threshold, gate.higher_is_closer, gate.queries) == ("total-variation", 0.01, False, 5000)
