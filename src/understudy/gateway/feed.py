"""One endpoint, watched: what the workers recorded becomes states, what states say becomes responses and alerts.

It reads the history, so it costs the answer path nothing, and whatever was answered is seen sooner or later: a watcher
that falls behind shows as lag, and one that was away goes on where it stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import cast

from understudy.alerts import Alert
from understudy.errors import UsageError
from understudy.gateway.book import FILE as BOOK
from understudy.gateway.book import Book
from understudy.gateway.entries import Aside
from understudy.gateway.following import Follower
from understudy.gateway.leaks import Leaks
from understudy.gateway.metrics import log
from understudy.gateway.pool import Pool
from understudy.gateway.reporting import Reporter
from understudy.gateway.service import Service
from understudy.gateway.shared import SILENT, Away
from understudy.gateway.states import ALONE, Account, States, remove
from understudy.gateway.states import FILE as STATES
from understudy.gateway.together import News, Together, read_alone
from understudy.guard import DAY
from understudy.history import Row
from understudy.manifest_monitor import TOUCHING, MonitorPart
from understudy.response import Response, Seen, due
from understudy.types import digest
from understudy.watch import Calibration, State, Watch

LIMIT = 1024  # exchanges of each worker that are read at once
SAVE = 5.0  # seconds between saves at the least; what came since is read again after a crash
_SHARE = 10.0  # times what a save took: a tenth of the time at the most goes into saving
_MANY = 1024  # changed accounts that are saved before that, to bound memory

Made = tuple[Response, Alert | None]


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
    """One endpoint. One process at a time. Raises MonitorError, HistoryError or RecordError where a file is no use.

    With a `pool`, everything that any machine recorded is followed, and each response is put in force by one machine.
    While the pool is away this one goes on alone, on a copy: what all had seen, and its own record since.
    """

    def __init__(self, service: Service, monitor: MonitorPart, calibration: bytes, pool: Pool | None = None) -> None:
        self.service, self.monitor, self._pool = service, monitor, pool
        self.watch = Watch(Calibration.from_bytes(calibration))
        self._made = digest(calibration)
        self.alone = pool is None or (service.folder / ALONE).exists()
        file = ALONE if pool is not None and self.alone else STATES
        self.states = States(service.folder / file, self.watch, self._made)
        self._together = None if pool is None else Together(pool.server, self._made, self.states.machine)
        self._waiting: dict[str, float] = {}  # accounts that others were to decide about, and since when
        self._adopts = -math.inf
        try:
            self.book = Book(service.folder / BOOK)
        except BaseException:
            self.states.close()
            raise
        self._report = Reporter(service, monitor, self.watch.calibration)
        self._follower = Follower(self.watch, monitor)
        self._places, self._due = dict(self.states.places), -math.inf
        self._expires = -math.inf
        self._leaks_count = any(step.when.leak or step.when.leak_budget for step in monitor.response)
        self._held: dict[tuple[str, str], list[Response]] = {}
        self._ending: dict[str, Response] = {}
        self._leaks = Leaks(self.watch.calibration.leak)

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
        self._share(now)
        if self.book.changed():
            self.read_book(now)
        self._settle(now)
        news = self._receive(now)
        done = Done(news.exchanges, sum(row.rows for row in news.rows), news.behind, news.lost, news.damaged)
        touched = dict[str, Account]()
        for aside, run in groupby(news.entries, lambda entry: isinstance(entry, Aside)):
            if aside:
                for entry in run:
                    self._apply(cast(Aside, entry))
            else:
                touched |= self._follow(cast(list[Row], list(run)), done)
        self._decide_all(touched, now, done)
        if news.rows:
            done.lag = max(now - news.rows[-1].at, 0.0)
        moved, self._places = news.places != self._places, news.places
        due = now >= self._due or self.states.unsaved >= _MANY
        if due and (moved or self.states.unsaved or self._due == -math.inf):
            self._save(now)
        return done

    def _follow(self, rows: Sequence[Row], done: Done) -> dict[str, Account]:
        for row in rows:
            self._leaks.add(row.party, row.rows)
        followed = self._follower.follow(rows, self.states)
        done.damaged += followed.damaged
        done.alarmed += followed.alarmed
        return {account.state.principal: account for account in followed.accounts}

    # with other machines

    def _share(self, now: float) -> None:
        """Exchange responses with the others; part from them where the server is away, and meet again."""
        if self._pool is None or self._together is None:
            return
        if self._pool.share(self.book, now):
            self.read_book(now)
        if self._pool.away and not self.alone:
            self._save(now)
            self.states.copy(self.service.folder / ALONE)
            self._turn(ALONE, True, now)
            log().error("other machines are out of reach: this one watches alone", endpoint=self.service.id)
        elif not self._pool.away and self.alone:
            self._turn(STATES, False, now)
            self._together.again()
            log().warning("watching together again; what was seen alone is told", endpoint=self.service.id)
        if not self._pool.away and now >= self._adopts:
            self._adopts = now + SILENT
            with self._reaching(now):
                self._pool.adopt(self.book, self._report.sinks, now)

    def _turn(self, file: str, alone: bool, now: float) -> None:
        """Go on from another copy."""
        self.states.close()
        self.states, self.alone = States(self.service.folder / file, self.watch, self._made), alone
        if not alone:
            remove(self.service.folder / ALONE)
        self._places = dict(self.states.places)
        self._leaks.forget()
        self.read_book(now)

    @contextmanager
    def _reaching(self, now: float) -> Iterator[None]:
        """What fails because the server is away is tried again, alone or with it."""
        assert self._pool is not None
        try:
            yield
        except Away as error:
            self._pool.lost(error, now)

    def _receive(self, now: float) -> News:
        if self._together is not None and not self.alone:
            with self._reaching(now):
                return self._together.read(self.history, self._places, self.states.places, LIMIT, now)
        elif self.history.is_dir():
            return read_alone(self.history, self._places, LIMIT)
        return News(self._places)

    @property
    def machines(self) -> int:
        """Machines that are followed; 0 while others are out of reach."""
        return 1 if self._together is None else 0 if self.alone else self._together.machines

    @property
    def decides(self) -> bool:
        """Whether this machine decides about accounts; one whose copy has gaps leaves it to those that know more."""
        return self._together is None or self.alone or self._together.decides(self._places)

    # deciding

    def _decide_all(self, touched: dict[str, Account], now: float, done: Done) -> None:
        """Decide about these accounts, or leave it to a machine that knows more of them for as long as it is heard."""
        late = {who: since for who, since in self._waiting.items() if now - since < 6 * SILENT}
        if self.decides:
            self._waiting = {}
            for principal in late:
                if principal not in touched and (account := self.states.get(principal)) is not None:
                    touched[principal] = account
            for account in touched.values():
                self._decide(account, now, done)
            done.alarmed = [
                who for who in done.alarmed if self._first(f"alarm:{who}:{touched[who].state.alarmed_at}", now)
            ]
        else:
            self._waiting, done.alarmed = late | dict.fromkeys(touched, now), []

    def _decide(self, account: Account, now: float, done: Done) -> None:
        state, tally = account
        promised = self.monitor.promised(state.principal, state.party)
        share = None if promised is None else tally.last_day(now) / promised
        seen = Seen(state.principal, state.party, tally.tier, self._p_value(state), 1.0, tally.queries, share)
        held = [*self._held.get(("principal", state.principal), ()), *self._held.get(("party", state.party), ())]
        if not due(self.monitor, held, seen, now):
            return  # whatever it could have learned: that costs a hundred queries' work to find out
        seen = seen._replace(leak=self._leaks.value(account, self.states) if self._leaks_count else None)
        made = due(self.monitor, held, seen, now)
        if not made:
            return
        standing, party = self.watch.standing(state, leak=False), self.states.party(tally.party)
        asked = sum(a.tally.queries for who in party if (a := self.states.get(who))) if len(party) > 1 else None
        told = any(r.do != "note" for r in made)
        leak = self._leaks.now(account, self.states) if told else None
        alerts = [
            None if r.do == "note" else self._report.alert(r, standing, tally, seen, leak, asked, now) for r in made
        ]
        granted = self._granted(list(zip(made, alerts, strict=True)), state.principal, now)
        self.book.add(granted, self._report.sinks)
        for response, _ in granted:
            self._held.setdefault((response.whom, response.name), []).append(response)
            self._ending[response.id] = response
            done.made.append(response)
        if granted and self._pool is not None and not self.alone:
            with self._reaching(now):
                self._pool.queued([response for response, _ in granted])

    def _granted(self, made: list[Made], principal: str, now: float) -> list[Made]:
        """Those that no other machine has decided already; decided anew where none can be asked."""
        if self._pool is None or self.alone:
            return made
        self._waiting[principal] = now
        with self._reaching(now):
            mine = self._pool.claim(made, self.book, now)
            if all(mine):
                del self._waiting[principal]
            return [one for one, granted in zip(made, mine, strict=True) if granted]
        return []

    def _first(self, what: str, now: float) -> bool:
        """Whether no other machine has said so."""
        if self._pool is not None and not self.alone:
            with self._reaching(now):
                return self._pool.server.first(what, DAY)
        return True

    def _p_value(self, state: State) -> float:
        """Short of an alarm no p-value counts as within the level."""
        found = self.watch.p_value(state)
        return found if state.alarmed_at is not None else max(found, math.nextafter(self.monitor.level, 1.0))

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
        """Where the customer meets nothing any more, its evidence is set aside: an alarm takes new behaviour. A note or
        an alert that lasts longer keeps no evidence alive; where the customer met nothing, their end sets it aside.
        """
        for response in [r for r in self._ending.values() if r.ends <= now]:
            whom = [response.name] if response.whom == "principal" else self.states.party(response.name)
            accounts = [account for who in whom if (account := self.states.get(who)) is not None]
            met, alarmed = response.do in TOUCHING, [a.state for a in accounts if a.state.alarmed_at is not None]
            free = [state.principal for state in alarmed if not self._in_force(state, met, now)]
            act = response.revoked
            known = (act.by, act.at) if act is not None and act.known else None
            aside = Aside(response.id, tuple(free), known)
            if self._together is None or self.alone:
                self._apply(aside)
            else:
                self._together.say(aside)
            del self._ending[response.id]

    def _in_force(self, state: State, met: bool, now: float) -> bool:
        held = [*self._held.get(("principal", state.principal), ()), *self._held.get(("party", state.party), ())]
        return any(r.state(now) in ("active", "proposed") and (r.do in TOUCHING or not met) for r in held)

    def _apply(self, aside: Aside) -> None:
        """Once, however many machines say it."""
        if aside.response in self.states.settled:
            return
        for principal in aside.principals:
            account = self.states.get(principal)
            if account is not None and account.state.alarmed_at is not None:
                self._set_aside(account.state, aside.known)
                self.states.put(account)
        self.states.settle(aside.response)

    def _set_aside(self, state: State, known: tuple[str, float] | None) -> None:
        if known is not None:
            try:
                self.watch.rebaseline(state, *known)
                return
            except UsageError as error:
                where = self.service.id
                log().warning("a known customer is not held against itself", endpoint=where, reason=str(error))
        self.watch.restart(state)

    def _save(self, now: float) -> None:
        began = time.monotonic()
        self.states.save(self._places)
        if now >= self._expires:
            self._expires = now + DAY
            self.states.expire(now - self.service.guard.logging.retention_days * DAY)
            self._leaks.forget()
        self._due = now + max(SAVE, _SHARE * (time.monotonic() - began))
