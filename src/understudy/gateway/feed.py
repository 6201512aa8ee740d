"""One endpoint, watched: what the workers recorded becomes states, what states say becomes responses and alerts.

It reads the history, so it costs the answer path nothing, and whatever was answered is seen sooner or later: a watcher
that falls behind shows as lag, and one that was away goes on where it stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np

from understudy.errors import UnderstudyError, UsageError
from understudy.gateway.book import FILE as BOOK
from understudy.gateway.book import Book
from understudy.gateway.reporting import Reporter
from understudy.gateway.service import Service
from understudy.gateway.states import FILE as STATES
from understudy.gateway.states import Account, States
from understudy.gateway.tally import Tally
from understudy.guard import DAY
from understudy.history import Row, read_on
from understudy.leak import Leak, LeakSketch
from understudy.manifest_monitor import MonitorPart
from understudy.response import Response, Seen, due
from understudy.types import Answers, Floats, digest
from understudy.watch import Calibration, Queries, Standing, State, Watch

LIMIT = 1024  # exchanges of each worker that are read at once
SAVE = 5.0  # seconds between saves at the least; what came since is read again after a crash
_SHARE = 10.0  # times what a save took: a tenth of the time at the most goes into saving
_ODD = (UnderstudyError, ValueError, ArithmeticError, LookupError)
_MANY = 1024  # changed accounts that are saved before that, to bound memory
_GROWN = 1.1  # a leak is read again when so many times the queries have been answered: it costs a hundred queries' work
_FEW = 50


@dataclass(slots=True)
class Done:
    """What one step did. `lost`, `damaged`: what retention removed unread, and what could not be followed; `lag`: age
    in seconds of the latest exchange that it dealt with.
    """

    exchanges: int = 0
    queries: int = 0
    behind: int = 0
    lost: int = 0
    damaged: int = 0
    lag: float = 0.0
    made: list[Response] = field(default_factory=list)
    alarmed: list[str] = field(default_factory=list)


class Feed:
    """One endpoint. One process at a time. Raises MonitorError, HistoryError or RecordError where a file is no use."""

    def __init__(self, service: Service, monitor: MonitorPart, calibration: bytes) -> None:
        self.service, self.monitor = service, monitor
        self.watch = Watch(Calibration.from_bytes(calibration))
        self.states = States(service.folder / STATES, self.watch, digest(calibration))
        try:
            self.book = Book(service.folder / BOOK)
        except BaseException:
            self.states.close()
            raise
        self._report = Reporter(service, monitor, self.watch.calibration)
        self._form = self.watch.calibration.scorer.form
        self._places, self._due = dict(self.states.places), -math.inf
        self._expires = -math.inf
        self._held: dict[tuple[str, str], list[Response]] = {}
        self._ending: dict[str, Response] = {}
        self._leaks: dict[str, tuple[int, float | None]] = {}  # of parties: queries then, value
        self._news: dict[str, int] = {}  # queries since

    @property
    def history(self) -> Path:
        """The folder that is followed."""
        return self.service.folder / "history"

    def close(self, now: float) -> None:
        """Save, and let go of everything."""
        self._save(now)
        self.states.close()
        self.book.close()

    def step(self, now: float) -> Done:
        """Deal with what is new, once."""
        self.states.look()
        if self.book.changed():
            self.read_book(now)
        self._settle(now)
        if not self.history.is_dir():
            return Done()
        read = read_on(self.history, self._places, LIMIT)
        rows = [k.row for k in read.rows if k.row.answers is not None and k.row.status < 400 and not k.row.audit]
        done = Done(len(read.rows), sum(r.rows for r in rows), read.behind, read.lost, read.damaged)
        if rows:
            touched = self._advance(rows, done)
            for account in touched:
                self._decide(account, now, done)
            done.lag = max(now - rows[-1].at, 0.0)
        moved, self._places = read.places != self._places, read.places
        due = now >= self._due or self.states.unsaved >= _MANY
        if due and (moved or self.states.unsaved or self._due == -math.inf):
            self._save(now)
        return done

    # following

    def _advance(self, rows: Sequence[Row], done: Done) -> list[Account]:
        by_principal: dict[str, list[Row]] = {}
        for row in rows:
            by_principal.setdefault(row.principal, []).append(row)
        accounts, batch = list[Account](), list[Queries]()
        for principal, mine in by_principal.items():
            party = mine[-1].party
            account = self.states.get(principal) or Account(self._fresh(principal, party), Tally(party))
            account.tally.add(mine)
            self._news[party] = self._news.get(party, 0) + sum(row.rows for row in mine)
            for queries in runs(mine, account.state.segment):
                if queries.inputs is not None and not self._form.takes(queries.inputs.shape[1:]):
                    done.damaged += len(queries)  # of another model than the calibration's
                    continue
                if queries.inputs is not None:
                    account.tally.measure(queries.inputs)
                old = int(np.searchsorted(queries.at, self.watch.calibration.made))
                if old and account.state.sketch is not None and queries.inputs is not None:
                    # what came before the calibration was learned from: it counts as received, not as behaviour
                    account.state.sketch.add(queries.inputs[:old], queries.answers.take(slice(0, old)))
                if old < len(queries):
                    batch.append(queries.take(slice(old, None)))
            accounts.append(account)
        self._follow({a.state.principal: a for a in accounts}, batch, done)
        for account in accounts:
            self.states.put(account)
        return accounts

    def _follow(self, accounts: dict[str, Account], batch: Sequence[Queries], done: Done) -> None:
        """What cannot be followed, whatever it is, is counted and passed over: one account must not blind the rest."""
        features: Floats | None = None
        with suppress(*_ODD):
            features = self.watch.features(batch) if batch else None
        start = 0
        for queries in batch:
            state = accounts[queries.principal].state
            before, end = state.alarmed_at, start + len(queries)
            try:
                self.watch.advance(state, queries, None if features is None else features[start:end])
            except _ODD:
                done.damaged += len(queries)
            if before is None and state.alarmed_at is not None:
                done.alarmed.append(queries.principal)
            start = end

    def _fresh(self, principal: str, party: str) -> State:
        return self.watch.fresh(principal, party, self.monitor.segment(principal, party))

    # deciding

    def _decide(self, account: Account, now: float, done: Done) -> None:
        state, tally = account
        standing = self.watch.standing(state, leak=False)
        leak = self._leak(account) if any(s.when.leak or s.when.leak_budget for s in self.monitor.response) else None
        seen = Seen(state.principal, state.party, tally.tier, self._p_value(standing), leak, tally.queries)
        held = [*self._held.get(("principal", state.principal), ()), *self._held.get(("party", state.party), ())]
        made = due(self.monitor, held, seen, now)
        if not made:
            return
        party = self.states.party(tally.party)
        asked = sum(a.tally.queries for who in party if (a := self.states.get(who))) if len(party) > 1 else None
        read = self._read(account)
        alerts = [
            None if r.do == "note" else self._report.alert(r, standing, tally, seen, read, asked, now) for r in made
        ]
        self.book.add(zip(made, alerts, strict=True), self._report.sinks)
        for response in made:
            self._held.setdefault((response.whom, response.name), []).append(response)
            self._ending[response.id] = response
        done.made += made

    def _p_value(self, standing: Standing) -> float:
        """Short of an alarm no p-value counts as within the level."""
        if standing.alarmed_at is not None:
            return standing.p_value
        return max(standing.p_value, math.nextafter(self.monitor.level, 1.0))

    def _read(self, account: Account) -> Leak | None:
        meter, sketch = self.watch.calibration.leak, account.state.sketch
        return None if meter is None or sketch is None or not sketch.n else meter.read(sketch)

    def _leak(self, account: Account) -> float | None:
        """What the account, or its party together, could have learned; read again when it has grown by a tenth."""
        state, tally = account
        if state.sketch is None or self.watch.calibration.leak is None:
            return None
        if state.sketch.n >= max(_FEW, _GROWN * tally.leak_read):
            found = self._read(account)
            tally.leak, tally.leak_read = (found.worst.value if found else None), state.sketch.n
        found_by_party = self._leak_of_party(state.party)
        values = [v for v in (tally.leak, found_by_party) if v is not None]
        return max(values, default=None)

    def _leak_of_party(self, party: str) -> float | None:
        """None where it is one account, or was when it was last looked at."""
        n, value = self._leaks.get(party, (0, None))
        if party in self._leaks and self._news.get(party, 0) < max(_FEW, (_GROWN - 1) * n):
            return value
        members = (self.states.get(who) for who in self.states.party(party))
        sketches = [a.state.sketch for a in members if a is not None and a.state.sketch is not None]
        n, value = sum(s.n for s in sketches), None
        if len(sketches) > 1 and n >= _FEW and self.watch.calibration.leak is not None:
            value = self.watch.calibration.leak.read(reduce(LeakSketch.merge, sketches)).worst.value
        self._leaks[party], self._news[party] = (n, value), 0
        return value

    # what has ended

    def read_book(self, now: float) -> None:
        """Take notice of what operators and other machines did."""
        self._held, self._ending = {}, {}
        for response in self.book.all():
            if now < response.again:
                self._held.setdefault((response.whom, response.name), []).append(response)
            if response.id not in self.states.settled:
                self._ending[response.id] = response

    def _settle(self, now: float) -> None:
        """Where nothing is in force any more, an account's evidence is set aside: an alarm takes new behaviour."""
        for response in [r for r in self._ending.values() if r.ends <= now]:
            whom = [response.name] if response.whom == "principal" else self.states.party(response.name)
            for principal in whom:
                account = self.states.get(principal)
                if account is not None and not self._in_force(account.state, now):
                    self._set_aside(account, response)
            self.states.settle(response.id)
            del self._ending[response.id]

    def _in_force(self, state: State, now: float) -> bool:
        held = [*self._held.get(("principal", state.principal), ()), *self._held.get(("party", state.party), ())]
        return any(r.state(now) in ("active", "proposed") for r in held)

    def _set_aside(self, account: Account, response: Response) -> None:
        state = account.state
        if state.alarmed_at is None:
            return
        act = response.revoked
        if act is not None and act.known:
            try:
                self.watch.rebaseline(state, act.by, act.at)
                self.states.put(account)
                return
            except UsageError:
                pass  # too few of its own queries are kept
        self.watch.restart(state)
        self.states.put(account)

    def _save(self, now: float) -> None:
        began = time.monotonic()
        self.states.save(self._places)
        if now >= self._expires:
            self._expires = now + DAY
            self.states.expire(now - self.service.guard.logging.retention_days * DAY)
            self._leaks, self._news = {}, {}  # they are read again for those who ask
        self._due = now + max(SAVE, _SHARE * (time.monotonic() - began))


def runs(rows: Sequence[Row], segment: str | None) -> Iterator[Queries]:
    """One principal's exchanges as queries, joined as long as the same signals and inputs are there."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or _kind(rows[end]) != _kind(rows[start]):
            yield _joined(rows[start:end], segment)
            start = end


def _kind(row: Row) -> tuple[object, ...]:
    assert row.answers is not None
    return (
        frozenset(row.answers.values), row.answers.outputs, row.inputs is None, row.margin is None, row.party,
        None if row.inputs is None else (row.inputs.dtype == object, row.inputs.shape[1:]),
    )  # fmt: skip


def _joined(rows: Sequence[Row], segment: str | None) -> Queries:
    kept = [r.inputs for r in rows if r.inputs is not None]
    inputs = [x if x.dtype == object else x.reshape(len(x), -1) for x in kept]  # texts, or rows of numbers
    margins = [r.margin for r in rows if r.margin is not None]
    return Queries(
        *(rows[0].principal, rows[0].party, np.repeat([r.at for r in rows], [r.rows for r in rows])),
        np.concatenate(inputs) if inputs else None,
        Answers.concat([r.answers for r in rows if r.answers is not None]),
        np.concatenate(margins) if margins else None,
        segment=segment,
    )
