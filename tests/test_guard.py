"""What the gateway's decisions promise, as laws: never over, all or nothing, truthful, and as the audit counts time."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from math import inf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from understudy.findings import days
from understudy.guard import DAY, MONTH, Admission, Allowance, Usage, admit, refund
from understudy.manifest import Limits

NOW = 1.76e9
caps = st.none() | st.integers(1, 60) | st.integers(1, 100_000)
allowances = st.builds(Allowance, caps, caps, caps)
#: Pauses in seconds: none, a moment, and those that end a window.
pauses = st.sampled_from([0.0, DAY - 1, DAY, DAY + 1, MONTH, 60.0]) | st.floats(0, 90)
some_rows = st.integers(1, 40) | st.integers(1, 20_000)


@st.composite
def usages(draw: st.DrawFn, now: float = NOW) -> Usage:
    counts = st.integers(0, 100_000)
    ages = st.floats(0, 2 * DAY)
    at, day, month = (now - draw(ages) for _ in range(3))
    return Usage(at, draw(st.floats(0, 100_000)), day, draw(counts), month, draw(counts))


helds = st.lists(st.tuples(st.sampled_from(["your key", "your party"]), allowances, usages()), min_size=1, max_size=3)


class World:
    """Two principals of one party among everybody; what was charged, by holder."""

    def __init__(self, principal: Allowance, party: Allowance, everybody: Allowance) -> None:
        self.allowances = {"p:a": principal, "p:b": principal, "o:x": party, "g": everybody}
        self.usages = defaultdict[str, Usage](Usage)
        self.now = NOW
        self.charges = list[tuple[str, int, float, dict[str, Usage]]]()

    def ask(self, principal: str, rows: int) -> Admission:
        keys = (principal, "o:x", "g")
        held = [(key, self.allowances[key], self.usages[key]) for key in keys]
        decision, after = admit(held, rows, self.now)
        if decision.admitted:
            self.usages.update(zip(keys, after, strict=True))
            self.charges.append((principal, rows, self.now, dict(zip(keys, after, strict=True))))
        else:
            assert after == [usage for _, _, usage in held], "a refused request is charged to nobody"
        return decision

    def give_back(self, i: int) -> None:
        _, rows, since, after = self.charges.pop(i)
        for key in after:
            self.usages[key] = refund(self.allowances[key], self.usages[key], rows, since, self.now)

    def check(self) -> None:
        """No window holds more than its cap, windows of a kind do not overlap, the steady rate holds throughout."""
        for key, allowance in self.allowances.items():
            mine = [(rows, at, after[key]) for _, rows, at, after in self.charges if key in after]
            for field, cap, length in (("day", allowance.per_day, DAY), ("month", allowance.per_30d, MONTH)):
                windows = defaultdict[float, int](int)
                for rows, at, after in mine:
                    start: float = getattr(after, field)
                    assert start <= at < start + length
                    windows[start] += rows
                assert cap is None or max(windows.values(), default=0) <= cap
                assert all(b - a >= length for a, b in pairwise(windows))
            if allowance.per_minute is not None:
                # used between any two moments <= burst + rate * time: the largest excess over the rate, in one pass
                rate, excess, last = allowance.per_minute / 60, 0.0, NOW
                for rows, at, _ in mine:
                    excess = max(excess - (at - last) * rate, 0.0) + rows
                    last = at
                    assert excess <= allowance.per_minute * (1 + 1e-12)


@given(
    st.tuples(allowances, allowances, allowances),
    st.lists(st.tuples(pauses, st.sampled_from(["p:a", "p:b"]), some_rows), max_size=40),
)
def test_no_allowance_is_ever_overspent_and_a_refusal_charges_nobody(
    limits: tuple[Allowance, Allowance, Allowance], asked: list[tuple[float, str, int]]
) -> None:
    world = World(*limits)
    for pause, who, rows in asked:
        world.now += pause
        world.ask(who, rows)
    world.check()


@settings(max_examples=300)
@given(
    st.tuples(allowances, allowances, allowances),
    st.lists(st.tuples(pauses, st.sampled_from(["p:a", "p:b"]), some_rows, st.integers(0, 9)), max_size=40),
)
def test_nor_where_unanswered_requests_are_given_back(
    limits: tuple[Allowance, Allowance, Allowance], asked: list[tuple[float, str, int, int]]
) -> None:
    """What was answered stays within every allowance, whenever and in whatever order the rest is given back."""
    world = World(*limits)
    for pause, who, rows, back in asked:
        world.now += pause
        world.ask(who, rows)
        if back < len(world.charges):
            world.give_back(back)
    world.check()


def test_time_that_has_passed_is_not_given_back_twice() -> None:
    """The steady rate made up for a request while it waited; its refund must not let others in for it again."""
    world = World(Allowance(per_minute=60), Allowance(), Allowance())
    assert world.ask("p:a", 60).admitted
    world.now += 120
    assert world.ask("p:a", 60).admitted
    world.give_back(0)
    assert not world.ask("p:a", 1).admitted


def test_a_refund_undoes_a_charge() -> None:
    limits = Allowance(60, 100, 1000)
    before = Usage(NOW, 3.0, NOW - 5, 3, NOW - 5, 3)
    _, [after] = admit([("you", limits, before)], 7, NOW)
    assert refund(limits, after, 7, NOW, NOW) == before
    assert refund(limits, after, 7, NOW - 10, NOW) == after, "charged in earlier windows, and made up for since"


@given(helds, some_rows, st.floats(0, 2 * MONTH))
def test_fewer_rows_and_a_later_time_are_never_refused_instead(
    held: list[tuple[str, Allowance, Usage]], rows: int, later: float
) -> None:
    if admit(held, rows, NOW)[0].admitted:
        assert admit(held, rows, NOW + later)[0].admitted
        assert admit(held, max(rows // 2, 1), NOW)[0].admitted
        for i in range(len(held)):
            assert admit(held[:i] + held[i + 1 :], rows, NOW)[0].admitted


@given(helds, some_rows)
def test_having_used_more_never_helps(held: list[tuple[str, Allowance, Usage]], rows: int) -> None:
    first, after = admit(held, rows, NOW)
    spent = [(who, allowance, usage) for (who, allowance, _), usage in zip(held, after, strict=True)]
    second, _ = admit(spent, rows, NOW)
    assert first.admitted or not second.admitted
    if first.remaining is not None and first.admitted:
        assert second.admitted == (rows <= first.remaining)


@given(helds, some_rows)
def test_it_is_all_or_nothing_and_exactly_the_strictest_decides(
    held: list[tuple[str, Allowance, Usage]], rows: int
) -> None:
    together, after = admit(held, rows, NOW)
    alone = [admit([one], rows, NOW) for one in held]
    assert together.admitted == all(decision.admitted for decision, _ in alone)
    if together.admitted:
        assert after == [usage for _, [usage] in alone]
        assert together.remaining == min((d.remaining for d, _ in alone if d.remaining is not None), default=None)
    else:
        assert after == [usage for _, _, usage in held]
        assert together.retry_after == max(decision.retry_after for decision, _ in alone)


@settings(max_examples=500)
@given(helds, some_rows)
@example([("you", Allowance(per_minute=99_991), Usage(NOW - 0.1, 99_991.0))], 20_000)
def test_the_wait_is_true(held: list[tuple[str, Allowance, Usage]], rows: int) -> None:
    """The same request passes after exactly that long where nothing else happens; it never does where that is said."""
    decision, _ = admit(held, rows, NOW)
    if decision.admitted:
        assert decision.retry_after == 0
    elif decision.retry_after == inf:
        assert not admit(held, rows, NOW + 10 * MONTH)[0].admitted
    else:
        assert admit(held, rows, NOW + decision.retry_after)[0].admitted
        # and no sooner
        assert not admit(held, rows, NOW + decision.retry_after - 1e-5 * max(decision.retry_after, 1))[0].admitted


@pytest.mark.parametrize("per_minute", [7, 60, 60_000, 70_001, 6_000_000])
def test_a_minute_s_worth_comes_at_once_row_by_row_and_not_one_more(per_minute: int) -> None:
    """Times of day in float64 resolve 0.24 microseconds; counting in them would add up to whole rows."""
    limits, usage, rows = Allowance(per_minute=per_minute), Usage(), max(per_minute // 70_001, 1)
    for _ in range(per_minute // rows):
        decision, [usage] = admit([("you", limits, usage)], rows, NOW)
        assert decision.admitted
    rest = per_minute % rows
    assert not admit([("you", limits, usage)], rest + 1, NOW)[0].admitted
    assert not rest or admit([("you", limits, usage)], rest, NOW)[0].admitted


@settings(max_examples=60, deadline=None)
@given(
    st.none() | st.integers(1, 50),
    st.none() | st.integers(1, 200),
    st.none() | st.integers(1, 600),
    st.integers(1, 2000),
)
def test_the_audit_counts_time_as_the_gateway_grants_it(
    per_minute: int | None, per_day: int | None, per_30d: int | None, queries: int
) -> None:
    """A thief who asks row by row, as soon as each may pass, needs the days an audit reports, give or take a minute.

    An audit counts whole minutes; the steady rate gives rows back one by one: they differ by less than one minute.
    """
    limits = Limits(per_minute=per_minute, per_day=per_day, per_30d=per_30d)
    said = days(queries, limits)
    if said is None:
        return
    allowance, usage, now = Allowance(per_minute, per_day, per_30d), Usage(), NOW
    for _ in range(queries):
        decision, [after] = admit([("you", allowance, usage)], 1, now)
        if not decision.admitted:
            now += decision.retry_after
            decision, [after] = admit([("you", allowance, usage)], 1, now)
        assert decision.admitted
        usage = after
    window = 60 if per_minute else 0
    assert abs((now - NOW) - said * DAY) <= window + 0.01


@given(usages(), st.floats(0, 3 * MONTH), allowances, some_rows)
def test_a_usage_that_is_over_is_as_good_as_none(usage: Usage, later: float, allowance: Allowance, rows: int) -> None:
    usage, now = usage._replace(level=min(usage.level, allowance.per_minute or 0)), NOW + later
    if usage.over(now):
        assert admit([("you", allowance, usage)], rows, now)[0] == admit([("you", allowance, Usage())], rows, now)[0]
    assert Usage().over(now)
    assert not Usage(now, 0.0, now, 1, now, 1).over(now)


def test_the_rule_and_the_quota_are_those_of_the_tightest_window() -> None:
    held = [("your key", Allowance(60, 100, 1000), Usage()), ("everybody", Allowance(per_day=70), Usage())]
    decision, after = admit(held, 50, NOW)
    assert decision == Admission(True, "within every allowance", 0.0, 60, 10, 50.0, NOW)
    held = [(who, allowance, usage) for (who, allowance, _), usage in zip(held, after, strict=True)]
    decision, _ = admit(held, 30, NOW + 30)
    assert decision == Admission(False, "everybody: 70 per day", DAY - 30, 70, 20, DAY - 30)
    assert admit(held, 71, NOW)[0].retry_after == inf
