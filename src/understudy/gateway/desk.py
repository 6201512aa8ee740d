"""One service, open: who asks, what they may still ask, who answers, where it is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from understudy.endpoint import headers_from
from understudy.gateway.identity import Caller, Identity
from understudy.gateway.keys import Keys
from understudy.gateway.leases import LeasedLedger
from understudy.gateway.ledger import Ledger, MappedLedger
from understudy.gateway.metrics import log
from understudy.gateway.orders import Orders
from understudy.gateway.recount import recount
from understudy.gateway.service import Served, Service
from understudy.gateway.upstream import App, AsgiUpstream, HttpUpstream, Upstream
from understudy.guard import Allowance
from understudy.history import Writer

_REMEMBERED = 100_000  # callers whose holders are kept at hand
Holders = Sequence[tuple[str, str, Allowance]]


@dataclass(eq=False)
class Desk:
    """A service with everything it needs open. `in_flight`: requests at the upstream now."""

    service: Service
    identity: Identity
    ledger: Ledger
    upstream: Upstream
    history: Writer
    orders: Orders
    in_flight: int = 0
    _holders: dict[Caller, Holders] = field(default_factory=dict)

    @classmethod
    def open(cls, service: Service, worker: str, app: App | None, state: str | None, old: Desk | None) -> Desk:
        """Open a service, and take over what an older version of it holds open. Raises UnderstudyError."""
        folder = service.folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # what may fail comes first: a refused reload must leave the old version whole
        identity = Identity(service.manifest, service.path.resolve().parent, Keys(folder / "keys.sqlite", 0.25))
        upstream, inputs = _upstream(service, app), service.guard.logging.inputs
        orders = Orders(folder, service.tiers)
        if old is None or old.service.folder != folder:
            history = Writer(folder / "history", worker, inputs)
            return cls(service, identity, _ledger(service, state), upstream, history, orders)
        history = old.history
        if old.service.guard.logging.inputs != inputs:
            history.close()
            history = Writer(folder / "history", worker, inputs)
        return cls(service, identity, old.ledger, upstream, history, orders)

    def holders(self, caller: Caller, tier: Served) -> Holders:
        """Whose allowances a request is charged to: the principal, its party, everybody; an audit counts for itself."""
        found = self._holders.get(caller)
        if found is None:
            if len(self._holders) >= _REMEMBERED:
                self._holders.clear()
            mine = (f"p:{caller.principal}", "this account", tier.allowance)
            party = (f"o:{tier.id}:{caller.party}", "this organisation", tier.party)
            everybody = ("g:", "this service", self.service.everybody)
            if caller.audit:
                found = [(f"a:{caller.principal}", "this audit", Allowance())]
            else:
                found = [h for h in (mine, party, everybody) if h[0] != "g:" or any(h[2])]
            self._holders[caller] = found
        return found

    async def trouble(self) -> str:
        """Why this desk cannot answer now; empty where it can."""
        if self.service.guard.logging.when_unavailable == "refuse" and not await self.history.probe():
            return self.history.reason
        if not self.identity.wait(0):
            return "the issuer's keys are not there yet"
        return self.ledger.trouble() or ""

    async def retire(self, successors: Sequence[Desk]) -> None:
        """Close what no successor took over."""
        await self.upstream.close()
        self.identity.close()
        self.orders.close()
        if all(other.ledger is not self.ledger for other in successors):
            await self.ledger.close()
        if all(other.history is not self.history for other in successors):
            self.history.close()

    async def close(self) -> None:
        """Let go of files and connections."""
        await self.retire([])


def _ledger(service: Service, state: str | None) -> Ledger:
    """Allowances; counted anew from history where the machine went down since they were written."""
    if state is not None:
        return LeasedLedger(state, service.folder, service.id, service.guard.state_away)
    ledger = MappedLedger(service.folder / "allowances.ledger")
    if ledger.stale:
        ledger.restore(recount(service.folder / "history", time.time()))
        log().warning("allowances were counted from the record", endpoint=service.id)
    return ledger


def _upstream(service: Service, app: App | None) -> Upstream:
    guard, http = service.guard, service.http
    if app is not None:
        return AsgiUpstream(app, service.route, guard.max_answer)
    ca_file = Path(http.ca_file) if http.ca_file else None
    headers = headers_from(http.headers)
    return HttpUpstream(http.url, headers, http.timeout_s, guard.max_answer, guard.max_in_flight, ca_file)
