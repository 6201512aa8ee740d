"""The response ladder: what is to be done about an account, given what was done before. No I/O; the clock is passed in.

A `Response` is a fact with at most two human acts on it, so copies of it held by several machines merge in any order.
What is in force follows from the facts and the time: everything ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal, NamedTuple

from understudy.errors import UsageError
from understudy.manifest_monitor import TOUCHING, MonitorPart, Step
from understudy.manifest_parts import seconds
from understudy.types import digest

Held = Literal["active", "proposed", "over", "revoked"]
_THROTTLED = 0.1  # share of the allowances that a throttle leaves unless it says otherwise


class Seen(NamedTuple):
    """What the ladder looks at.

    `p_value`: of the account among benign ones, where an alarm could be raised at all; `leak`: share of the model that
    the account, or its party together, could have learned; `declared`: queries of the last day as a share of what the
    customer declared, None where nothing was.
    """

    principal: str
    party: str
    tier: str
    p_value: float | None = None
    leak: float | None = None
    queries: int = 0
    declared: float | None = None


class Act(NamedTuple):
    """What a named human did, and why. `quiet`: seconds for which the step shall not act again, instead of its own;
    `known`: this is how this customer works, so it is from now on also held against its own first queries.
    """

    at: float
    by: str
    reason: str
    quiet: float | None = None
    known: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """One step in force on an account or a party (`whom`, `name`). Times are Unix seconds, lengths seconds."""

    step: str
    do: str
    whom: str
    name: str
    since: float
    expires: float
    cool_down: float
    factor: float = 1.0
    to_tier: str | None = None
    confirmed: Act | None = None
    revoked: Act | None = None

    @property
    def id(self) -> str:
        """Twelve digits that name it, the same on every machine."""
        return digest(self.step, self.do, self.whom, self.name, repr(self.since))[:12]

    @property
    def until(self) -> float:
        """When it ends by itself; a suspension counts from its confirmation."""
        return (self.confirmed.at if self.confirmed else self.since) + self.expires

    @property
    def ends(self) -> float:
        """When it ends, or ended."""
        return min(self.until, self.revoked.at) if self.revoked else self.until

    @property
    def again(self) -> float:
        """From when on the step may act again."""
        quiet = self.revoked.quiet if self.revoked else None
        return self.ends + (self.cool_down if quiet is None else quiet)

    def state(self, now: float) -> Held:
        """What it is now. Only what is active is in force."""
        if self.revoked is not None:
            return "revoked"
        if now >= self.until:
            return "over"
        return "proposed" if self.do == "suspend" and self.confirmed is None else "active"


class Terms(NamedTuple):
    """What is in force for one caller. `factor`, `party_factor`: of the account's and its party's allowances; `tiers`:
    whose exposures are given instead, any of them; `why`: the responses, for the owner's record only.
    """

    factor: float = 1.0
    party_factor: float = 1.0
    tiers: tuple[str, ...] = ()
    refuse: Literal["", "reverify", "suspend"] = ""
    why: tuple[str, ...] = ()


NORMAL = Terms()


def holds(step: Step, seen: Seen, budgets: dict[str, float]) -> bool:
    """Whether a step's condition holds for what is seen of an account; `budgets`: leak budgets by tier."""
    when = step.when
    if step.tiers is not None and seen.tier not in step.tiers:
        return False
    if step.to_tier is not None and step.to_tier == seen.tier:
        return False
    if when.p_value is not None and (seen.p_value is None or seen.p_value > when.p_value):
        return False
    if when.leak is not None and (seen.leak is None or seen.leak < when.leak):
        return False
    if when.leak_budget:
        budget = budgets.get(seen.tier)
        if budget is None or seen.leak is None or seen.leak < budget:
            return False
    if when.declared is not None and (seen.declared is None or seen.declared < when.declared):
        return False
    return when.queries is None or seen.queries >= when.queries


def due(ladder: MonitorPart, held: Iterable[Response], seen: Seen, now: float) -> list[Response]:
    """The steps to be taken now: each whose condition holds, and that is neither in force nor cooling down.

    Of several conditions that hold, each acts once; what was decided already is not decided again.
    """
    again: dict[tuple[str, str, str], float] = {}
    for response in held:
        key = (response.step, response.whom, response.name)
        again[key] = max(again.get(key, -inf), response.again)
    found = []
    for i, step in enumerate(ladder.response):
        if not holds(step, seen, ladder.leak_budget):
            continue
        name = seen.principal if step.whom == "principal" else seen.party
        if now < again.get((ladder.name(i), step.whom, name), -inf):
            continue
        found.append(
            Response(
                *(ladder.name(i), step.do, step.whom, name, now, seconds(step.expires), seconds(step.cool_down)),
                (step.factor or _THROTTLED) if step.do == "throttle" else 1.0,
                step.to_tier,
            )
        )
    return found


def confirm(response: Response, by: str, reason: str, now: float) -> Response:
    """A suspension that a named human has confirmed. Raises UsageError where there is nothing to confirm."""
    _named(by, reason)
    if response.do != "suspend":
        raise UsageError(f"{response.id} is to {response.do}: only a suspension is confirmed")
    if (state := response.state(now)) != "proposed":
        raise UsageError(f"{response.id} is {state}: there is nothing to confirm")
    return replace(response, confirmed=Act(now, by, reason))


def revoke(
    response: Response, by: str, reason: str, now: float, quiet: float | None = None, known: bool = False
) -> Response:
    """A response that a named human has ended. Raises UsageError where it has ended already."""
    _named(by, reason)
    if (state := response.state(now)) in ("over", "revoked"):
        raise UsageError(f"{response.id} is {state} already")
    return replace(response, revoked=Act(now, by, reason, quiet, known))


def _named(by: str, reason: str) -> None:
    for what, text in (("name", by), ("reason", reason)):
        if not text.strip() or len(text) > 500 or not text.isprintable():
            raise UsageError(f"a {what} is 1 to 500 printable characters; it goes on record")


def merge(one: Response, other: Response) -> Response:
    """Two copies of one response as one: of two like acts the first counts. In any order, any number of times."""
    return replace(one, confirmed=_first(one.confirmed, other.confirmed), revoked=_first(one.revoked, other.revoked))


def _first(one: Act | None, other: Act | None) -> Act | None:
    return min(
        (act for act in (one, other) if act), key=lambda a: (a[:3], a[3] or 0.0, a[3] is None, a[4]), default=None
    )


def terms(held: Sequence[Response], now: float) -> Terms:
    """What is in force now, of the responses on one caller and on its party."""
    active = [r for r in held if r.state(now) == "active" and r.do in TOUCHING]
    if not active:
        return NORMAL
    does = {r.do for r in active}
    throttles = [(r.factor, r.whom) for r in active if r.do == "throttle"]
    return Terms(
        min((factor for factor, _ in throttles), default=1.0),
        min((factor for factor, whom in throttles if whom == "party"), default=1.0),
        tuple(r.to_tier for r in active if r.to_tier is not None),
        "suspend" if "suspend" in does else "reverify" if "reverify" in does else "",
        tuple(r.id for r in active),
    )


def lowest(tiers: Sequence[str], own: str, below: Callable[[str, str], bool]) -> str:
    """Of the tiers that are given instead of the customer's `own`, one that reveals least; never more than its own.

    `below(a, b)`: whether a reveals at most what b does.
    """
    found = own
    for tier in tiers:
        if below(tier, found):
            found = tier
    return found
