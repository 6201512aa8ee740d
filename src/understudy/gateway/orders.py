"""What is in force for some callers, as a worker holds it: in memory, looked up anew when the file has changed.

Nothing that a customer receives says that there is an order, or why: allowances are told as if they were whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import NamedTuple

from understudy.errors import MonitorError
from understudy.gateway.book import FILE, Book
from understudy.gateway.identity import Caller
from understudy.gateway.metrics import log
from understudy.gateway.service import Served
from understudy.guard import DAY, MONTH, Admission, Allowance
from understudy.response import NORMAL, Response, Terms, lowest, terms

Holders = Sequence[tuple[str, str, Allowance]]
_WINDOWS = (("minute", 60.0), ("day", DAY), ("30 days", MONTH))


class Order(NamedTuple):
    """What is in force for one caller. `tier`: its own with the exposure that it is given now."""

    tier: Served
    terms: Terms

    def holders(self, whole: Holders) -> Holders:
        """The same holders with what is left of their allowances."""
        factors = {"p:": self.terms.factor, "o:": self.terms.party_factor}
        return [(key, who, scaled(allowance, factors.get(key[:2], 1.0))) for key, who, allowance in whole]

    def told(self, admission: Admission, whole: Holders) -> Admission:
        """The admission as the caller is told of it: in numbers of the whole allowance."""
        for (_, who, mine), (_, _, full) in zip(self.holders(whole), whole, strict=True):
            for cap, all_of_it, (word, length) in zip(mine, full, _WINDOWS, strict=True):
                if cap is None or all_of_it is None or cap == all_of_it or cap != admission.limit:
                    continue
                if not admission.admitted and admission.rule != f"{who}: {cap} per {word}":
                    continue
                return admission._replace(
                    limit=all_of_it,
                    remaining=(admission.remaining or 0) * all_of_it // cap,
                    rule=admission.rule if admission.admitted else f"{who}: {all_of_it} per {word}",
                    retry_after=length if admission.retry_after == inf else admission.retry_after,
                )
        return admission


def scaled(allowance: Allowance, factor: float) -> Allowance:
    """A share of an allowance; one row at least, or nothing would ever pass."""
    if factor >= 1.0:
        return allowance
    return Allowance(*(None if cap is None else max(int(cap * factor), 1) for cap in allowance))


class Orders:
    """The orders of one endpoint. `look` once in a while; between looks `of` costs one test where nobody is held.

    Raises MonitorError where what is in force cannot be read at the start: nobody is served as if nothing were.
    """

    def __init__(self, folder: Path, tiers: Mapping[str, Served]) -> None:
        self._path, self._tiers = folder / FILE, tiers
        self._book: Book | None = None
        self._held: dict[str, list[Response]] = {}
        self._unread = False
        try:
            self._read()
        except MonitorError as error:
            self.close()
            raise MonitorError(f"{error}; put it back, or remove it: then nothing is in force on anybody") from None

    def look(self) -> None:
        """Read what is in force where anybody has written since. What cannot be read leaves things as they are."""
        try:
            self._read()
        except MonitorError as error:
            self._unread = True
            log().error("responses cannot be read; those known stay in force", reason=str(error))

    def _read(self) -> None:
        if self._book is None:
            if not self._path.exists():
                return
            self._book = Book(self._path, 0.25)
        if not self._book.changed() and not self._unread:
            return
        held: dict[str, list[Response]] = {}
        now = time.time()
        for response in self._book.open(now):
            if response.state(now) in ("active", "proposed"):
                held.setdefault(f"{response.whom}:{response.name}", []).append(response)
                if response.to_tier is not None and response.to_tier not in self._tiers:
                    log().warning("a response gives a tier that is gone: the least is given", id=response.id)
        self._held, self._unread = held, False

    def of(self, caller: Caller) -> Order | None:
        """What is in force for a caller; None for nearly everybody. The owner's audits are nobody's suspects."""
        if not self._held or caller.audit:
            return None
        mine, party = self._held.get(f"principal:{caller.principal}"), self._held.get(f"party:{caller.party}")
        if mine is None and party is None:
            return None
        found = terms([*(mine or ()), *(party or ())], time.time())
        if found is NORMAL:
            return None
        own = self._tiers[caller.tier]
        gone = any(t not in self._tiers for t in found.tiers)
        lower = lowest(list(self._tiers) if gone else found.tiers, own.id, self._below)
        return Order(own if lower == own.id else replace(own, grant=self._tiers[lower].grant), found)

    def _below(self, one: str, other: str) -> bool:
        return self._tiers[one].grant.exposure.reveals_at_most(self._tiers[other].grant.exposure)

    def close(self) -> None:
        """Let go of the file."""
        if self._book is not None:
            self._book.close()
            self._book = None
