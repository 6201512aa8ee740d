"""`--observe`: pass every request and answer on as they are, and say what would have been withheld or refused."""

from __future__ import annotations

import time
from collections.abc import Mapping

from understudy.errors import Unauthenticated
from understudy.gateway.desk import Desk
from understudy.gateway.identity import Caller
from understudy.gateway.metrics import log, metrics
from understudy.gateway.request import (
    Refused,
    Unusable,
    caller_of,
    clamped,
    context_of,
    headers_of,
    parse,
    read_body,
    terms_of,
    understood,
)
from understudy.gateway.upstream import Receive, Reply, Scope, TooSlow, Unreachable, Upstream
from understudy.guard import release
from understudy.history import Row

_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "content-length", "host",
})  # fmt: skip
_NOBODY = Caller("nobody", "nobody", "none")


async def observe(desk: Desk, inference: bool, scope: Scope, receive: Receive) -> Reply:
    """The upstream's answer to this very request; what the guard thinks of it goes to the record and the log."""
    guard = desk.service.guard
    try:
        body = await read_body(receive, scope["headers"], guard.max_body, guard.body_timeout_s)
    except Refused as refused:  # what cannot be held cannot be passed on
        return Reply(refused.status, {}, b"")
    headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
    kept = {name: value for name, value in headers.items() if name not in _HOP}
    reply = await _forwarded(desk.upstream, scope, body, kept)
    if inference:
        try:
            await _think(desk, scope, body, reply)
        except Exception:
            log().exception("observing failed; the answer went out as it was", endpoint=desk.service.id)
    return reply._replace(headers={name: value for name, value in reply.headers.items() if name not in _HOP})


async def _forwarded(upstream: Upstream, scope: Scope, body: bytes, headers: Mapping[str, str]) -> Reply:
    raw = scope.get("raw_path") or scope["path"].encode()
    url = raw.decode("latin-1") + ("?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "")
    try:
        return await upstream.forward(scope["method"], url, body, headers)
    except TooSlow:
        return Reply(504, {}, b"")
    except Unreachable:
        return Reply(502, {}, b"")


async def _think(desk: Desk, scope: Scope, body: bytes, reply: Reply) -> None:
    """Decide as if guarding, then record."""
    service, would, caller, at = desk.service, list[str](), _NOBODY, time.time()
    try:
        caller = caller_of(desk, scope)
    except Unauthenticated as error:
        would.append(f"refuse 401 ({error})")
    tier = service.tiers.get(caller.tier)
    x, answers = None, None
    try:
        asked, x = parse(service, body, headers_of(scope))
        if tier is not None:
            served, holders, order = terms_of(desk, caller)
            if order is not None and served.grant is not tier.grant:
                would.append(f"release {served.grant.exposure}, as was ordered ({', '.join(order.terms.why)})")
            clamped(service, served, asked)
            admission = await desk.ledger.admit(holders, len(x))
            if not admission.admitted:
                would.append(f"refuse 429 ({admission.rule})")
            if asked.wider:
                would.append(f"not pass on {', '.join(asked.wider)[:200]}")
    except Refused as refused:
        would.append(f"refuse {refused.status} ({refused.message})")
    if x is not None and 200 <= reply.status < 300:
        try:
            answers = understood(service, reply, len(x))
        except Unusable as why:
            would.append(f"ask the model for {service.exposure} itself, since in this answer it cannot read it ({why})")
        else:
            if tier is not None and tier.grant.exposure != service.exposure:
                release(tier.grant, x, answers, caller.principal)
                would.append(f"release {tier.grant.exposure} of {service.exposure}")
    rule = "observed; would " + "; would ".join(would) if would else "observed; would change nothing"
    metrics().refused(service.id, caller.tier, "observed: would change" if would else "observed: the same").inc()
    log().info("observed", endpoint=service.id, principal=caller.principal, would=would, version=service.version)
    row = Row(
        at, caller.principal, caller.party, caller.tier, service.route, service.version, rule, reply.status,
        0 if x is None else len(x), x, answers, None, caller.audit, context_of(scope, "", None),
    )  # fmt: skip
    await desk.history.append(row)
