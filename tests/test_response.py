"""Laws of the response ladder: nothing above what a human confirmed, everything ends, nothing is decided twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy import response
from understudy.errors import UsageError
from understudy.gateway.book import pack, unpack
from understudy.manifest_monitor import MonitorPart
from understudy.response import NORMAL, Act, Response, Seen, due, lowest, merge, terms

DAY = 86_400.0
LADDER = MonitorPart.model_validate({
    "leak_budget": {"standard": 0.5},
    "response": [
        {"when": {"p_value": 0.05}, "do": "note", "expires": "1d", "cool_down": "1h"},
        {"when": {"p_value": 0.01}, "do": "alert", "expires": "1d", "cool_down": "1h"},
        {"when": {"p_value": 0.01, "leak": 0.2}, "do": "throttle", "factor": 0.25, "expires": "2d", "cool_down": "1d"},
        {"id": "cap", "when": {"leak_budget": True}, "do": "reduce", "to_tier": "public", "whom": "party"},
        {"when": {"p_value": 0.005, "queries": 100}, "do": "reverify", "expires": "7d"},
        {"when": {"p_value": 0.001}, "do": "suspend", "whom": "party", "expires": "7d"},
    ],
})  # fmt: skip
BAD = Seen("acme-1", "acme", "standard", 0.0005, 0.9, 500)

shares = st.none() | st.floats(0.0001, 1)
seen = st.builds(
    Seen, st.sampled_from(["acme-1", "acme-2"]), st.just("acme"), st.sampled_from(["standard", "public"]), shares,
    shares, st.integers(0, 10_000),
)  # fmt: skip
times = st.floats(0, 100 * DAY)
acts = st.none() | st.builds(
    Act, times, st.sampled_from("ab"), st.sampled_from("xy"), st.none() | st.floats(0, 50 * DAY)
)
any_response = st.builds(
    Response, st.sampled_from(["s", "t"]), st.sampled_from(["throttle", "reduce", "reverify", "suspend", "note"]),
    st.just("principal"), st.just("acme-1"), times, st.floats(1, 30 * DAY), st.floats(1, 30 * DAY), st.just(0.5),
    st.none() | st.just("public"), acts, acts,
)  # fmt: skip


def played(events: list[tuple[Seen, float]], human: list[float]) -> list[Response]:
    """What is held after the watcher has looked at each moment; a human confirms what is proposed at some of them."""
    held: list[Response] = []
    for what, at in sorted(events, key=lambda e: e[1]):
        held += due(LADDER, held, what, at)
        if at in human:
            held = [response.confirm(r, "h", "why", at) if r.state(at) == "proposed" else r for r in held]
    return held


@given(st.lists(st.tuples(seen, times), max_size=12), times)
def test_nothing_is_suspended_that_no_human_confirmed(events: list[tuple[Seen, float]], now: float) -> None:
    held = played(events, [])
    assert terms(held, now).refuse != "suspend"
    assert not [r for r in held if r.do == "suspend" and r.state(now) == "active"]


@given(st.lists(st.tuples(seen, times), max_size=12), st.data())
def test_everything_ends_by_itself(events: list[tuple[Seen, float]], data: Any) -> None:
    human = [at for _, at in events if data.draw(st.booleans())]
    held = played(events, human)
    end = max([r.until for r in held], default=0.0)
    assert terms(held, end) is NORMAL
    assert all(r.until <= r.since + 2 * r.expires for r in held)


@given(st.lists(st.tuples(seen, times), max_size=12), seen, times)
def test_what_is_decided_is_not_decided_again(events: list[tuple[Seen, float]], what: Seen, now: float) -> None:
    held = played([e for e in events if e[1] <= now], [])
    first = due(LADDER, held, what, now)
    assert due(LADDER, held + first, what, now) == []
    assert len({(r.step, r.name) for r in first}) == len(first)
    assert len({r.id for r in held + first}) == len(held) + len(first)


@given(st.lists(st.tuples(seen, times), max_size=20))
def test_a_step_never_acts_within_its_cool_down(events: list[tuple[Seen, float]]) -> None:
    by_step: dict[tuple[str, str], list[Response]] = {}
    for r in played(events, []):
        by_step.setdefault((r.step, r.name), []).append(r)
    for several in by_step.values():
        for one, other in pairwise(several):
            assert other.since >= one.until + one.cool_down


@given(any_response, st.lists(st.tuples(acts, acts), min_size=3, max_size=3))
def test_copies_merge_in_any_order(r: Response, human: list[tuple[Act | None, Act | None]]) -> None:
    a, b, c = (replace(r, confirmed=x, revoked=y) for x, y in human)
    assert merge(a, a) == a
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, b).id == r.id


@given(any_response)
def test_a_response_comes_back_from_its_text(r: Response) -> None:
    assert unpack(pack(r)) == r


@given(st.lists(any_response, max_size=6), times)
def test_a_revoked_response_is_not_in_force(held: list[Response], now: float) -> None:
    ended = [replace(r, revoked=Act(r.since, "h", "why")) for r in held]
    assert terms(ended, now) is NORMAL
    strict = terms(held, now)
    assert 0 < strict.factor <= 1
    assert terms(held + ended, now)[:4] == strict[:4]


def test_each_condition_has_its_step() -> None:
    assert [r.step for r in due(LADDER, [], BAD, 0.0)] == [
        "1-note", "2-alert", "3-throttle", "cap", "5-reverify", "6-suspend",
    ]  # fmt: skip
    assert [r.step for r in due(LADDER, [], BAD._replace(p_value=None), 0.0)] == ["cap"]
    assert [r.step for r in due(LADDER, [], BAD._replace(leak=None), 0.0)] == [
        "1-note", "2-alert", "5-reverify", "6-suspend",
    ]  # fmt: skip
    assert due(LADDER, [], BAD._replace(p_value=0.2, leak=0.4), 0.0) == []
    assert [r.step for r in due(LADDER, [], BAD._replace(p_value=None, tier="public"), 0.0)] == []


def test_a_suspension_waits_for_a_named_human_and_counts_from_then() -> None:
    proposed = next(r for r in due(LADDER, [], BAD, 0.0) if r.do == "suspend")
    assert terms([proposed], 1.0) is NORMAL
    for by, reason in (("", "why"), ("h", " "), ("h\n", "why"), ("h" * 501, "why")):
        with pytest.raises(UsageError, match="characters"):
            response.confirm(proposed, by, reason, 1.0)
    held = response.confirm(proposed, "h", "seen the logs", 5 * DAY)
    assert terms([held], 6 * DAY).refuse == "suspend"
    assert terms([held], 12 * DAY - 1).refuse == "suspend"
    assert terms([held], 12 * DAY) is NORMAL
    with pytest.raises(UsageError, match="is active: there is nothing to confirm"):
        response.confirm(held, "h", "again", 6 * DAY)
    with pytest.raises(UsageError, match="is over: there is nothing to confirm"):
        response.confirm(proposed, "h", "too late", 7 * DAY)
    with pytest.raises(UsageError, match="only a suspension is confirmed"):
        response.confirm(due(LADDER, [], BAD, 0.0)[0], "h", "why", 1.0)


def test_a_human_may_keep_a_step_quiet() -> None:
    cap = next(r for r in due(LADDER, [], BAD, 0.0) if r.step == "cap")
    ended = response.revoke(cap, "h", "a licence was agreed", DAY, quiet=90 * DAY)
    assert terms([ended], DAY) is NORMAL
    leaking = BAD._replace(p_value=None)
    assert due(LADDER, [ended], leaking, 90 * DAY) == []
    assert [r.step for r in due(LADDER, [ended], leaking, 91 * DAY)] == ["cap"]
    with pytest.raises(UsageError, match="is revoked already"):
        response.revoke(ended, "h", "again", 2 * DAY)


def test_the_strictest_of_several_counts() -> None:
    held = due(LADDER, [], BAD, 0.0)
    found = terms(held, 1.0)
    assert (found.factor, found.party_factor, found.tiers, found.refuse) == (0.25, 1.0, ("public",), "reverify")
    assert len(found.why) == 3


def test_the_exposure_given_is_never_more_than_the_customers_own() -> None:
    order = {"public": 0, "standard": 1, "partner": 2}

    def below(a: str, b: str) -> bool:
        return order[a] <= order[b]

    assert lowest(["public"], "standard", below) == "public"
    assert lowest(["partner"], "standard", below) == "standard"
    assert lowest(["standard", "public"], "partner", below) == "public"
