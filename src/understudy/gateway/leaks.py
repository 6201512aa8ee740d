"""What accounts could have learned by now, each for itself and all of a party together: the larger counts."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

from understudy.gateway.states import Account, States
from understudy.leak import Leak, LeakMeter, LeakSketch

_GROWN = 1.25  # a leak is read again when so many times the queries have been answered
_FEW = 50


class Held(NamedTuple):
    """A reading; `together`: of all accounts of the party."""

    leak: Leak
    together: bool


class Leaks:
    """The readings of one endpoint's accounts. `meter`: None where the calibration has none, and nothing is known."""

    def __init__(self, meter: LeakMeter | None) -> None:
        self._meter = meter
        self._parties: dict[str, tuple[int, float | None]] = {}  # queries then, value
        self._news: dict[str, int] = {}  # queries since

    def forget(self) -> None:
        """Parties are read anew for those who ask from now on."""
        self._parties, self._news = {}, {}

    def add(self, party: str, queries: int) -> None:
        """So many more queries of a party were answered."""
        self._news[party] = self._news.get(party, 0) + queries

    def value(self, account: Account, states: States) -> float | None:
        """What the account, or its party together, could have learned; read again when it has grown by a quarter."""
        state, tally = account
        if state.sketch is None or self._meter is None:
            return None
        if state.sketch.n >= max(_FEW, _GROWN * tally.leak_read):
            found = self._own(account)
            tally.leak, tally.leak_read = (found.worst.value if found else None), state.sketch.n
        values = [v for v in (tally.leak, self._of_party(state.party, states)) if v is not None]
        return max(values, default=None)

    def now(self, account: Account, states: States) -> Held | None:
        """The same with its interval, read now; for alerts: it costs some hundred queries' work."""
        own, (_, party) = self._own(account), self._read(account.state.party, states)
        if party is not None and (own is None or party.worst.value > own.worst.value):
            return Held(party, True)
        return None if own is None else Held(own, False)

    def _own(self, account: Account) -> Leak | None:
        sketch = account.state.sketch
        return None if self._meter is None or sketch is None or not sketch.n else self._meter.read(sketch)

    def _of_party(self, party: str, states: States) -> float | None:
        """None where it is one account, or was when it was last looked at."""
        n, value = self._parties.get(party, (0, None))
        if party in self._parties and self._news.get(party, 0) < max(_FEW, (_GROWN - 1) * n):
            return value
        n, found = self._read(party, states)
        value = None if found is None else found.worst.value
        self._parties[party], self._news[party] = (n, value), 0
        return value

    def _read(self, party: str, states: States) -> tuple[int, Leak | None]:
        members = (states.get(who) for who in states.party(party))
        sketches = [a.state.sketch for a in members if a is not None and a.state.sketch is not None]
        n = sum(sketch.n for sketch in sketches)
        if len(sketches) < 2 or n < _FEW or self._meter is None:
            return n, None
        return n, self._meter.read(reduce(LeakSketch.merge, sketches))
