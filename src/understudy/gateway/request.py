"""What can be said of a request before anyone is asked: its body, its rows, what it asks for, why it ends here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import cast

from understudy.errors import AnswerError, InputError, Unauthenticated, UsageError
from understudy.gateway.desk import Desk, Holders
from understudy.gateway.identity import Caller
from understudy.gateway.metrics import metrics
from understudy.gateway.orders import Order
from understudy.gateway.service import Served, Service
from understudy.gateway.upstream import Receive, Reply, Scope
from understudy.guard import Admission
from understudy.targets.callable import checked
from understudy.types import Answers, Array, Signal
from understudy.wire import Asked, Message, RequestError, decoded

#: Headers that say how a body is to be read; no other reaches a codec.
_READ = frozenset({b"content-type", b"content-encoding", b"accept", b"inference-header-content-length"})
AGAIN = {"retry-after": "2"}


class Refused(Exception):
    """The request ends here: a status, words that may be shown, and the rule for the log."""

    def __init__(self, status: int, message: str, rule: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.rule, self.headers = status, message, rule, headers or {}


class Unusable(Exception):
    """The upstream's answer cannot be used; the message holds nothing of it."""


class Gone(Exception):
    """The customer hung up."""


def caller_of(desk: Desk, scope: Scope) -> Caller:
    """Who asks, by headers and the connection's address. Raises Unauthenticated or KeysError."""
    client = scope.get("client")
    return desk.identity.resolve(scope["headers"], client[0] if client else None)


def terms_of(desk: Desk, caller: Caller) -> tuple[Served, Holders, Order | None]:
    """On which terms a caller is served: its tier, whose allowances it is charged to, the order in force or None.

    Raises Refused where it is not served. The words are those that anybody gets.
    """
    tier = desk.service.tiers[caller.tier]
    order, holders = desk.orders.of(caller), desk.holders(caller, tier)
    if order is None:
        return tier, holders, None
    if order.terms.refuse == "reverify":
        raise unauthenticated(Unauthenticated(f"to be verified again ({', '.join(order.terms.why)})"))
    if order.terms.refuse:
        raise Refused(403, "not permitted", f"suspended: {', '.join(order.terms.why)}")
    return order.tier, order.holders(holders), order


def unauthenticated(error: Unauthenticated) -> Refused:
    """401, the same for every reason."""
    return Refused(401, str(error), f"unauthenticated: {error.why}", {"www-authenticate": "Bearer"})


def context_of(scope: Scope, number: str, order: Order | None) -> dict[str, str]:
    """What the record keeps beside an exchange: the request's number, from where, with what, under which order."""
    client, agent = scope.get("client"), b""
    for name, value in scope["headers"]:
        if name == b"user-agent":
            agent = value[:200]
            break
    kept = {"request": number, "network": client[0] if client else "", "client": agent.decode("latin-1")}
    if order is not None:
        kept["order"] = ",".join(order.terms.why)
    return kept


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers that a codec may read, names in lower case."""
    return {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"] if k in _READ}


async def read_body(receive: Receive, headers: Sequence[tuple[bytes, bytes]], most: int, seconds: float) -> bytes:
    """The whole body, bounded in bytes and time. Raises Refused or Gone."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and (len(value) > 12 or int(value) > most):
            raise Refused(413, f"the body may have {most} bytes", "body too large")
    parts, size, late = list[bytes](), 0, False
    loop, task = asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())

    def cut() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = loop.call_later(seconds, cut)  # what asyncio.timeout does, at half its price
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise Refused(413, f"the body may have {most} bytes", "body too large")
            if not message.get("more_body"):
                return part if not parts else b"".join([*parts, part])
            parts.append(part)
    except asyncio.CancelledError:
        if late and not task.uncancel():
            raise Refused(408, "the body did not arrive in time", "slow body") from None
        raise
    finally:
        timer.cancel()


def parse(service: Service, body: bytes, headers: Mapping[str, str]) -> tuple[Asked, Array]:
    """A request's rows, as the space holds them. Raises Refused."""
    try:
        content = decoded(body, headers, service.guard.max_body)
        asked = service.codec.parse(content, headers, service.space.shape)
        x = service.space.check(asked.inputs)
    except RequestError as error:
        raise Refused(error.status, str(error), "malformed") from None
    except InputError as error:
        raise Refused(400, str(error), "malformed") from None
    if not len(x):
        raise Refused(400, "the request has no rows", "malformed")
    if len(x) > service.guard.max_rows:
        raise Refused(413, f"at most {service.guard.max_rows} rows a request", "too many rows")
    return asked, x


def understood(service: Service, reply: Reply, rows: int) -> Answers:
    """The upstream's whole answer, held against what the manifest says it answers. Raises Unusable."""
    try:
        content = decoded(reply.body, reply.headers, service.guard.max_answer)
        raw = service.codec.answers(Message(content, dict(reply.headers)), service.exposure.signals, rows)
        return checked(raw, rows, service.exposure, service.space.shape)
    except (AnswerError, RequestError, UsageError) as error:
        raise Unusable(error.told if isinstance(error, AnswerError) else str(error)) from None


def clamped(service: Service, tier: Served, asked: Asked) -> frozenset[Signal]:
    """What this answer holds: the signals asked for that are granted; all that are granted where none is."""
    granted = tier.grant.exposure.signals
    wider = asked.beyond(granted)
    if wider:
        if service.guard.asks == "refuse":
            raise Refused(403, f"this tier does not grant {', '.join(wider)[:200]}", "asks for more")
        metrics().refused(service.id, tier.id, "clamped").inc()
    wanted = granted & asked.signals if asked.signals is not None else granted
    return wanted or granted


def over(admission: Admission) -> Refused:
    """429; 413 where the request alone is more than the allowance; 503 where allowances cannot be counted."""
    if admission.limit is None:  # no allowance refused it
        wait = {"retry-after": str(max(ceil(admission.retry_after), 1))}
        return Refused(503, "the service is not available; try again", f"unavailable: {admission.rule}", wait)
    headers, rule = quota(admission), f"allowance: {admission.rule}"
    if admission.retry_after == inf:
        return Refused(413, f"more rows than {admission.rule} allows at all", rule, headers)
    headers["retry-after"] = str(max(ceil(admission.retry_after), 1))
    return Refused(429, f"over the allowance ({admission.rule})", rule, headers)


def quota(admission: Admission) -> dict[str, str]:
    """RateLimit headers: the tightest window, in rows and seconds."""
    if admission.limit is None or admission.remaining is None:
        return {}
    return {
        "ratelimit-limit": str(admission.limit),
        "ratelimit-remaining": str(max(admission.remaining, 0)),
        "ratelimit-reset": str(ceil(admission.reset)),
    }
