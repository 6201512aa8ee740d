"""Allowances counted anew from the record, after a machine went down with what its ledger had not yet written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

from understudy.errors import HistoryError
from understudy.guard import DAY, MONTH, Usage
from understudy.history import History


def recount(folder: Path, now: float) -> list[tuple[str, Usage]]:
    """What each holder has used, by the ledger's key. Never less than was answered: a day counts from midnight before.

    The steady rate starts afresh: it looks back one minute, and a machine takes longer to come back.
    """
    try:
        used = History(folder).usage(now - MONTH)
    except HistoryError:
        if folder.exists():
            raise
        return []
    sums: dict[str, Usage] = {}
    since = dt.datetime.fromtimestamp(now - DAY, dt.UTC).date()
    for one in used:
        if one.audit:
            continue
        for key in (f"p:{one.principal}", f"o:{one.tier}:{one.party}", "g:"):
            held = sums.get(key, Usage(month=one.first))
            held = held._replace(month=min(held.month, one.first), month_used=held.month_used + one.rows)
            if one.day >= since:
                day = min(held.day, one.first) if held.day_used else one.first
                held = held._replace(day=day, day_used=held.day_used + one.rows)
            sums[key] = held
    return _alive(sums.items(), now)


def _alive(sums: Iterable[tuple[str, Usage]], now: float) -> list[tuple[str, Usage]]:
    """A window that began more than its length ago but still holds queries goes on to the end of its day."""
    return [(key, usage._replace(day=max(usage.day, now - DAY + 1))) for key, usage in sums]
