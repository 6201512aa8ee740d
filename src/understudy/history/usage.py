"""Who asked how much, counted again from the record: for allowances after a power loss, and for billing."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime
from typing import NamedTuple

from understudy.history.rows import NOTHING, Row

# Erased rows count for nobody in particular; what was refused or failed was not asked.
_COUNT = """
SELECT CAST(rows.at / 86400 AS INTEGER), CASE WHEN erased.seq IS NULL THEN principal ELSE '' END AS who,
  CASE WHEN erased.seq IS NULL THEN party ELSE '' END AS whose, tier, audit, SUM(rows), COUNT(*), MIN(rows.at)
FROM rows LEFT JOIN erased USING(seq) WHERE rows.at >= ? AND status < 400 GROUP BY 1, who, whose, tier, audit
"""
_RECENT = """
SELECT rows.at, iif(erased.seq IS NULL, principal, ''), iif(erased.seq IS NULL, party, ''), tier, route, version, rule,
  status, rows, audit FROM rows LEFT JOIN erased USING(seq)
WHERE :who IS NULL OR (principal = :who AND erased.seq IS NULL) ORDER BY rows.seq DESC LIMIT :limit
"""


class Used(NamedTuple):
    """What one principal asked in one day (UTC), as a customer of one tier.

    `rows`: queries; `requests`: exchanges; `first`: when the first came.
    Only what was answered counts (status below 400). `audit`: the owner's own audit: not for billing.
    """

    day: date
    principal: str
    party: str
    tier: str
    audit: bool
    rows: int
    requests: int
    first: float


def count(db: sqlite3.Connection, since: float) -> list[Used]:
    """The usage in one segment."""
    return [
        Used(datetime.fromtimestamp(day * 86400, UTC).date(), who, whose, tier, bool(audit), rows, requests, first)
        for day, who, whose, tier, audit, rows, requests, first in db.execute(_COUNT, (since,))
    ]


def total(parts: list[Used]) -> list[Used]:
    """The usage of several segments as one, by day, party and principal."""
    sums: dict[tuple[object, ...], Used] = {}
    for part in parts:
        key = part[:5]
        held = sums.get(key)
        sums[key] = part if held is None else _add(held, part)
    return sorted(sums.values(), key=lambda used: (used.day, used.party, used.principal, used.tier, used.audit))


def _add(one: Used, other: Used) -> Used:
    return one._replace(
        rows=one.rows + other.rows, requests=one.requests + other.requests, first=min(one.first, other.first)
    )


def recent(db: sqlite3.Connection, limit: int, principal: str | None) -> list[Row]:
    """The latest rows of one segment, newest first, without inputs and answers."""
    found = db.execute(_RECENT, {"who": principal, "limit": limit})
    return [Row._make((*head, None, None, None, bool(audit), NOTHING)) for *head, audit in found]
