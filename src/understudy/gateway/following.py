"""One step's exchanges become accounts' states: with others where they share the work, else each by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from understudy.gateway.runs import before, runs
from understudy.gateway.states import Account, States
from understudy.gateway.tally import Tally, measure
from understudy.history import Row
from understudy.manifest_monitor import MonitorPart
from understudy.types import Floats
from understudy.watch import Queries, State, Watch
from understudy.watch.watching import ODD

_TOGETHER = 4096  # queries whose features are worked out at once, to bound memory


@dataclass(slots=True)
class Followed:
    """Accounts that asked something; queries that could not be followed; principals that crossed the threshold."""

    accounts: list[Account] = field(default_factory=list)
    damaged: int = 0
    alarmed: list[str] = field(default_factory=list)


class Follower:
    """Follows accounts against one calibration. What cannot be followed, whatever it is, is counted and passed over:
    one account must not blind the rest.
    """

    def __init__(self, watch: Watch, monitor: MonitorPart) -> None:
        self._watch, self._monitor = watch, monitor

    def follow(self, rows: Sequence[Row], states: States) -> Followed:
        """Put what these exchanges make of their accounts into `states`."""
        by_principal: dict[str, list[Row]] = {}
        for row in rows:
            by_principal.setdefault(row.principal, []).append(row)
        done, accounts = Followed(), dict[str, Account]()
        for principal, mine in by_principal.items():
            accounts[principal] = states.get(principal) or self._fresh(principal, mine[-1].party)
            accounts[principal].tally.add(mine)
        asked = list[Queries]()
        for queries in runs(list(by_principal.values())):
            if queries.inputs is None or self._watch.calibration.scorer.form.takes(queries.inputs.shape[1:]):
                asked.append(queries)
            else:
                done.damaged += len(queries)  # of another model than the calibration's
        for texts in (False, True):
            some = [q for q in asked if q.inputs is not None and (q.inputs.dtype == object) is texts]
            measure([accounts[q.principal].tally for q in some], [q.inputs for q in some if q.inputs is not None])
        behaviour = [self._behaviour(accounts[queries.principal].state, queries) for queries in asked]
        self._advance(accounts, [queries for queries in behaviour if queries is not None], done)
        done.accounts = list(accounts.values())
        for account in done.accounts:
            states.put(account)
        return done

    def _fresh(self, principal: str, party: str) -> Account:
        segment = self._monitor.segment(principal, party)
        return Account(self._watch.fresh(principal, party, segment), Tally(party))

    def _behaviour(self, state: State, queries: Queries) -> Queries | None:
        """What is judged of them: what came before the calibration was learned from, and counts as received only."""
        old = before(queries.at, self._watch.calibration.made)
        if not old:
            return queries
        if state.sketch is not None and queries.inputs is not None:
            with suppress(*ODD):
                state.sketch.add(queries.inputs[:old], queries.answers.take(slice(0, old)))
        return queries.take(slice(old, None)) if old < len(queries) else None

    def _advance(self, accounts: Mapping[str, Account], batch: Sequence[Queries], done: Followed) -> None:
        states = [accounts[queries.principal].state for queries in batch]
        runs_of = Counter(queries.principal for queries in batch)
        once = [i for i, queries in enumerate(batch) if runs_of[queries.principal] == 1]
        known = {state.principal for state in states if state.alarmed_at is not None}
        rest = set(range(len(batch)))
        left = set(self._watch.advance_each([states[i] for i in once], [batch[i] for i in once]))
        rest -= {i for k, i in enumerate(once) if k not in left}
        for some in _pieces(sorted(rest), batch):
            for i, features in zip(some, self._features([batch[i] for i in some]), strict=True):
                try:
                    self._watch.advance(states[i], batch[i], features)
                except ODD:
                    done.damaged += len(batch[i])
        now = {state.principal for state in states if state.alarmed_at is not None}
        done.alarmed = sorted(now - known)

    def _features(self, batch: Sequence[Queries]) -> Iterator[Floats | None]:
        """Of each its rows of what is worked out for all at once; None where one account's cannot be."""
        found, start = None, 0
        with suppress(*ODD):
            found = self._watch.features(batch)
        for queries in batch:
            yield None if found is None else found[start : start + len(queries)]
            start += len(queries)


def _pieces(which: Sequence[int], batch: Sequence[Queries]) -> Iterator[list[int]]:
    some, size = list[int](), 0
    for i in which:
        some.append(i)
        size += len(batch[i])
        if size >= _TOGETHER:
            yield some
            some, size = [], 0
    if some:
        yield some
