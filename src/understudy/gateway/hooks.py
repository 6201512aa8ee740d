"""For a proxy that stays in the path: may this request pass (`/-/admit`), and here is a copy of it (`/-/mirror`).

nginx's `auth_request` sees headers only, so a request counts as one row, and an answer is never reduced: this is access
control and a record of inputs, less than the gateway in the path gives. The original route is in `x-original-uri`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from understudy.errors import HistoryError, KeysError, LedgerError, Unauthenticated
from understudy.gateway.desk import Desk
from understudy.gateway.metrics import log, metrics
from understudy.gateway.request import Refused, caller_of, headers_of, parse, read_body, terms_of
from understudy.gateway.upstream import Receive, Scope
from understudy.history import Row

ADMIT, MIRROR = "/-/admit", "/-/mirror"


async def hook(desk_of: Callable[[str], Desk | None], scope: Scope, receive: Receive) -> tuple[int, dict[str, str]]:
    """Status and headers. 204: pass; 401: no credential; 403: over an allowance (nginx understands no 429 here)."""
    original = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"x-original-uri"), "")
    desk = desk_of(original.partition("?")[0])  # anybody may send anything here: nothing that can fail reads it
    if desk is None or not desk.service.guard.hooks:
        return 404, {}
    try:
        caller = caller_of(desk, scope)
        tier, holders, _ = terms_of(desk, caller)
    except Refused as refused:
        metrics().refused(desk.service.id, "none", refused.rule.split(":")[0]).inc()
        return refused.status, dict(refused.headers)
    except (Unauthenticated, KeysError):
        metrics().refused(desk.service.id, "none", "unauthenticated").inc()
        return 401, {"www-authenticate": "Bearer"}
    if scope["path"] == ADMIT:
        try:
            admission = await desk.ledger.admit(holders, 1)
        except LedgerError as error:
            log().error("allowances cannot be counted", endpoint=desk.service.id, reason=str(error))
            return 503, {}
        metrics().refused(desk.service.id, tier.id, "admitted" if admission.admitted else "allowance").inc()
        headers = {"x-understudy-principal": caller.principal, "x-understudy-tier": tier.id}
        return (204, headers) if admission.admitted else (403, {"x-understudy-rule": admission.rule})
    guard, at = desk.service.guard, time.time()
    try:
        body = await read_body(receive, scope["headers"], guard.max_body, guard.body_timeout_s)
        _, x = parse(desk.service, body, headers_of(scope))
        row = Row(
            at, caller.principal, caller.party, tier.id, desk.service.route, desk.service.version, "mirrored", 0,
            len(x), x, None, None, caller.audit, {},
        )  # fmt: skip
        await desk.history.append(row)
    except (Refused, HistoryError):
        return 202, {}  # a copy that cannot be kept is nobody's trouble but ours
    return 204, {}
