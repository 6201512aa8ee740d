"""What an alert says of an account beside its rank: how much it asked, from where, with what, and what of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import orjson

from understudy.alerts import InputStatistics, Volumes, moment
from understudy.history import Row
from understudy.types import Array

_NAMES, _HOURS, _COORDINATES = 8, 25, 64
_HOUR = 3600
_LARGE = 1e150  # squares of more are not numbers any more


@dataclass(slots=True)
class Tally:
    """Sums of one account; a few kilobytes, whatever it asks. `leak`: (value, queries it was read at), its own and its
    party's.
    """

    party: str
    tier: str = ""
    route: str = ""
    version: str = ""
    queries: int = 0
    first: float = 0.0
    last: float = 0.0
    networks: dict[str, int] = field(default_factory=dict)
    clients: dict[str, int] = field(default_factory=dict)
    hours: dict[int, int] = field(default_factory=dict)
    seen: int = 0
    total: Array | None = None
    squares: Array | None = None
    leak: float | None = None
    leak_read: int = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Count exchanges, in time order."""
        self.first = self.first or rows[0].at
        for row in rows:
            self.queries += row.rows
            hour = int(row.at // _HOUR)
            self.hours[hour] = self.hours.get(hour, 0) + row.rows
            for names, key in ((self.networks, "network"), (self.clients, "client")):
                if name := str(row.context.get(key, "")):
                    names[name] = names.get(name, 0) + 1
        last = rows[-1]
        self.tier, self.route, self.version, self.last = last.tier, last.route, last.version, max(self.last, last.at)
        self.networks, self.clients = _most(self.networks), _most(self.clients)
        self.hours = {hour: n for hour, n in self.hours.items() if hour > int(self.last // _HOUR) - _HOURS}

    def last_day(self, now: float) -> int:
        """Queries of the last 24 hours, to the hour."""
        hour = int(now // _HOUR)
        return sum(n for h, n in self.hours.items() if h > hour - 24)

    def volumes(self, now: float, party_queries: int | None) -> Volumes:
        """How much was asked."""
        hour = int(now // _HOUR)
        return Volumes(
            queries=self.queries,
            queries_last_hour=sum(n for h, n in self.hours.items() if h >= hour - 1),
            queries_last_day=self.last_day(now),
            party_queries=party_queries,
            since=moment(self.first),
            until=moment(self.last),
        )

    def statistics(
        self, kept: Literal["whole", "sketch", "hash", "none"], quality: Mapping[str, float]
    ) -> InputStatistics:
        """What the inputs add up to."""
        if not self.seen:
            return InputStatistics(kept=kept)
        mean, spread = None, None
        if self.total is not None and self.squares is not None:
            mean = self.total / self.seen
            spread = np.sqrt(np.maximum(self.squares / self.seen - mean**2, 0))
            if not (spread > 1e-6 * np.abs(mean)).any():  # all alike: the mean is an input
                mean, spread = None, None
        return InputStatistics(
            kept=kept,
            seen=self.seen,
            repeats=quality.get("repeats"),
            out_of_range=quality.get("out_of_range"),
            mean=None if mean is None else mean.tolist(),
            spread=None if spread is None else spread.tolist(),
        )

    def most(self) -> tuple[list[str], list[str]]:
        """Addresses and clients, the most frequent first."""
        return [n for n, _ in Counter(self.networks).most_common()], [n for n, _ in Counter(self.clients).most_common()]

    def to_text(self) -> str:
        """The tally as JSON."""
        return orjson.dumps(self, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()

    @classmethod
    def from_text(cls, text: str) -> Tally:
        """The inverse of `to_text`."""
        body: dict[str, Any] = orjson.loads(text)
        for name in ("total", "squares"):
            body[name] = None if not body[name] else np.array(body[name])
        body["hours"] = {int(hour): n for hour, n in body["hours"].items()}
        return cls(**body)


def measure(tallies: Sequence[Tally], inputs: Sequence[Array]) -> None:
    """Add to each its inputs (n, d): the sums of the first 64 columns, as many in all. Texts are counted."""
    starts = np.cumsum([0, *map(len, inputs)])[:-1]
    for tally, mine in zip(tallies, inputs, strict=True):
        tally.seen += len(mine)
    if not inputs or inputs[0].dtype == object:
        return
    x = np.concatenate([mine[:, :_COORDINATES] for mine in inputs]).astype(np.float64, copy=False)
    if not (np.abs(x) <= _LARGE).all():
        x = np.clip(np.nan_to_num(x), -_LARGE, _LARGE)
    sums = np.add.reduceat(np.stack([x, x * x], 1), starts)
    for tally, (total, squares) in zip(tallies, sums, strict=True):
        tally.total = total.copy() if tally.total is None else total + tally.total
        tally.squares = squares.copy() if tally.squares is None else squares + tally.squares


def _most(names: dict[str, int]) -> dict[str, int]:
    return dict(Counter(names).most_common(_NAMES)) if len(names) > _NAMES else names
