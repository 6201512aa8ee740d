"""The operators' address: metrics, tiers, principals, spend, recent decisions and why. Its own port, its own key."""

from __future__ import annotations

import asyncio
import datetime as dt
import hmac
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from understudy.errors import UnderstudyError, UsageError
from understudy.gateway.book import FILE, Book
from understudy.gateway.keys import Keys
from understudy.gateway.leases import LeasedLedger
from understudy.gateway.ledger import Ledger, MappedLedger
from understudy.gateway.metrics import exposition
from understudy.gateway.service import Service, compile_service
from understudy.guard import DAY
from understudy.history import History
from understudy.manifest_parts import Duration, Part, seconds

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_OPEN = frozenset({"/healthz", "/readyz"})


def admin_app(manifests: Sequence[Path], key: str, ready: Callable[[], bool], state: str | None) -> Starlette:
    """The admin application. Everything but /healthz and /readyz takes `Authorization: Bearer KEY`."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    class Locked:
        """Asks for the key, compared in constant time."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] not in _OPEN:
                given = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
                if not hmac.compare_digest(given, b"Bearer " + key.encode()):
                    refused = JSONResponse({"error": "the admin key is needed"}, 401, {"www-authenticate": "Bearer"})
                    await refused(scope, receive, send)
                    return
            await self.app(scope, receive, send)

    def healthz(request: Request) -> Response:
        return JSONResponse({"status": "up"})

    def readyz(request: Request) -> Response:
        return JSONResponse({"ready": ready()}, 200 if ready() else 503)

    def scrape(request: Request) -> Response:
        return PlainTextResponse(exposition(), media_type="text/plain; version=0.0.4")

    def answer(make: Callable[[Service, Request], Any]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            wanted = request.query_params.get("endpoint")
            try:
                services = [compile_service(path) for path in manifests]
                made = {s.id: make(s, request) for s in services if wanted in (None, s.id)}
            except UnderstudyError as error:
                return JSONResponse({"error": str(error)}, 409)
            except ValueError as error:
                return JSONResponse({"error": f"query: {error}"}, 400)
            return JSONResponse(made) if made else JSONResponse({"error": f"no endpoint {wanted!r}"}, 404)

        return endpoint

    async def decide(request: Request) -> Response:
        """A named human confirms or ends a response: `{"by": ..., "reason": ..., "quiet": "30d", "known": true}`."""
        act, id_ = request.path_params["act"], request.path_params["id"]
        if act not in ("confirm", "revoke"):
            return JSONResponse({"error": "confirm or revoke"}, 404)
        try:
            said = Said.model_validate_json(await request.body())
            found = await asyncio.to_thread(decided, [compile_service(path) for path in manifests], id_, act, said)
        except ValidationError as error:
            fault = error.errors()[0]
            return JSONResponse({"error": f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}"}, 400)
        except UnderstudyError as error:
            return JSONResponse({"error": str(error)}, 409)
        return JSONResponse(found) if found else JSONResponse({"error": f"no response {id_!r}"}, 404)

    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", scrape),
        Route("/tiers", answer(tiers)),
        Route("/principals", answer(lambda service, request: principals(service, state))),
        Route("/spend", answer(spend)),
        Route("/decisions", answer(decisions)),
        Route("/responses", answer(responses)),
        Route("/responses/{id}/{act}", decide, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Locked)])


def tiers(service: Service, request: Request) -> Any:
    """What each tier receives and may ask, as it is enforced."""
    return {
        "version": service.version,
        "route": service.route,
        "warnings": list(service.warnings),
        "tiers": {
            tier.id: {
                "exposure": str(tier.grant.exposure),
                "allowance": tier.allowance._asdict(),
                "party": tier.party._asdict(),
            }
            for tier in service.tiers.values()
        },
    }


def principals(service: Service, state: str | None) -> Any:
    """Keys (never secrets) and what each holder of an allowance has used of its windows."""
    with Keys(service.folder / "keys.sqlite") as keys:
        held = [key._asdict() for key in keys.list()]
    return {"keys": held, "used": asyncio.run(_used(service, state))}


async def _used(service: Service, state: str | None) -> dict[str, dict[str, int]]:
    path, now = service.folder / "allowances.ledger", time.time()
    if state is None and not path.exists():
        return {}
    ledger: Ledger = MappedLedger(path) if state is None else LeasedLedger(state, service.folder, service.id)
    try:
        return {
            key: {"day_used": u.day_used if now < u.day + DAY else 0, "month_used": u.month_used}
            for key, u in ledger.entries()
        }
    finally:
        await ledger.close()


def spend(service: Service, request: Request) -> Any:
    """Rows answered and their price since a time (`?days=30`), audits apart."""
    since = time.time() - float(request.query_params.get("days", "30")) * DAY
    prices = {tier.id: tier.price for tier in service.manifest.tiers}
    sums: dict[tuple[str, str, str], int] = {}
    for use in History(service.folder / "history").usage(since):
        if not use.audit:
            who = (use.principal, use.party, use.tier)
            sums[who] = sums.get(who, 0) + use.rows
    return [
        {
            "principal": who, "party": party, "tier": tier, "rows": rows,
            "money": price.of(rows) if (price := prices.get(tier)) else None,
            "currency": price.currency if price else None,
        }
        for (who, party, tier), rows in sorted(sums.items())
    ]  # fmt: skip


def decisions(service: Service, request: Request) -> Any:
    """The latest exchanges (`?limit=100&principal=`): by which rule, of which manifest. Never inputs or answers."""
    limit, wanted = int(request.query_params.get("limit", "100")), request.query_params.get("principal")
    return [
        {
            "at": dt.datetime.fromtimestamp(row.at, dt.UTC).isoformat(timespec="milliseconds"),
            "principal": row.principal, "party": row.party, "tier": row.tier, "rows": row.rows, "status": row.status,
            "rule": row.rule, "version": row.version, "audit": row.audit,
        }
        for row in History(service.folder / "history").recent(min(limit, 1000), wanted)
    ]  # fmt: skip


class Said(Part):
    """What a human decides, and why."""

    by: str
    reason: str
    quiet: Duration | None = None
    known: bool = False


def responses(service: Service, request: Request) -> Any:
    """Responses in force and proposed (`?all=1`: those that have ended, too), with every act on record."""
    path, now, everything = service.folder / FILE, time.time(), bool(request.query_params.get("all"))
    if not path.exists():
        return []
    with Book(path) as book:
        held = [r for r in book.all() if everything or r.state(now) in ("active", "proposed")]
        return [{**asdict(r), "id": r.id, "state": r.state(now), "acts": book.acts(r.id)} for r in held]


def decided(services: Sequence[Service], id_: str, act: str, said: Said) -> dict[str, Any] | None:
    """Confirm or end a response, wherever it is; None where it is nowhere. Raises UsageError where it cannot be."""
    for service in services:
        if not (service.folder / FILE).exists():
            continue
        with Book(service.folder / FILE) as book:
            if id_ not in {r.id for r in book.all()}:
                continue
            if act == "confirm":
                after = book.confirm(id_, said.by, said.reason)
            else:
                quiet = seconds(said.quiet) if said.quiet else None
                after = book.revoke(id_, said.by, said.reason, quiet, said.known)
            return {**asdict(after), "id": after.id, "state": after.state(time.time())}
    return None


def serve_admin(
    address: tuple[str, int], manifests: Sequence[Path], key: str, ready: Callable[[], bool], state: str | None
) -> None:
    """Serve the admin application from a thread of the supervisor. Raises UsageError where the address is taken."""
    import socket

    import uvicorn

    try:
        listening = socket.create_server(address)
    except OSError as error:
        raise UsageError(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}") from None
    config = uvicorn.Config(
        admin_app(manifests, key, ready, state), lifespan="off", access_log=False, log_config=None, server_header=False
    )
    threading.Thread(target=uvicorn.Server(config).run, args=([listening],), daemon=True, name="admin").start()
