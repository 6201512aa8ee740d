"""What the watch remembers of one account, and what it says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from understudy.errors import RecordError
from understudy.leak import Leak, LeakMeter, LeakSketch
from understudy.store import frame, unframe
from understudy.types import Array, Floats
from understudy.views import Floats32
from understudy.watch.wealth import Purse

FORMAT = 3
_ARRAYS = ("ring", "clock", "peak", "best", "first", "tails")
_PLAIN = ("principal", "party", "segment", "seed", "n", "born", "alarmed_at", "counts", "approvals")
FIRST = 256  # queries whose scores are kept, for an account that a human approves of later


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an account stands among benign ones. Only `alarmed_at` accuses; the rest is evidence and severity.

    `n`: queries seen; `since`, `until`: Unix seconds of the first and last; `p_value`: share of benign accounts that
    ever look so unusual within the horizon (a rank: 1 / (accounts + 1) at the least); `alarmed_at`: how many queries it
    had asked when it crossed the threshold; `z`: largest normalised score so far; `scores`: (detector, normalised
    value) now, largest first; `leak`: what it could have learned; `beyond`: older than the calibrated horizon, so that
    its later queries are not assessed; `looked`: queries whose inputs were there and were looked at; `quality`: shares
    that are a matter of data quality, not of accusation: `unseen` of all queries, the others of those `looked` at, and
    absent where nobody looked.
    """

    principal: str
    party: str
    n: int
    since: float
    until: float
    p_value: float
    alarmed_at: int | None
    z: float
    scores: tuple[tuple[str, float], ...]
    leak: Leak | None
    segment: str | None
    accounts: int
    beyond: bool
    looked: int
    quality: Mapping[str, float]


@dataclass(slots=True, eq=False)
class State:
    """One account, followed. `Watch.advance` changes it in place; its size does not grow with its queries.

    `clock` (m, 2): when the latest queries were asked, where a score reads it.
    `ring`: the latest queries in own units; `born`: queries before the last approved re-baselining; `peak` (s,)
    largest log wealth; `best` (epochs,) largest statistic; `first` (<= 256, s) scores of its first queries; `own`: the
    sorted scores that an approved account is also held against.
    """

    principal: str
    party: str
    segment: str | None
    seed: int
    ring: Floats32
    clock: Floats32
    purse: Purse
    peak: Floats
    best: Floats
    first: Floats32
    tails: Floats  # (2, s): bets placed, and those at small p-values
    n: int = 0
    born: int = 0
    since: float = np.inf
    until: float = -np.inf
    alarmed_at: int | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"repeats": 0, "fresh": 0, "out_of_range": 0, "unseen": 0})
    own: tuple[Array, ...] = ()
    approvals: list[dict[str, Any]] = field(default_factory=list)
    sketch: LeakSketch | None = None

    @property
    def age(self) -> int:
        """Queries since its birth or its last re-baselining."""
        return self.n - self.born

    def to_bytes(self) -> bytes:
        """The state as bytes: it survives a restart."""
        arrays: dict[str, Array] = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {"betting": self.purse.betting, "cash": self.purse.cash, "log": self.purse.log}
        arrays |= {f"own/{j}": values for j, values in enumerate(self.own)}
        if self.sketch is not None:
            arrays["sketch"] = np.frombuffer(self.sketch.to_bytes(), np.uint8)
        head = {name: getattr(self, name) for name in _PLAIN}
        times = [t if np.isfinite(t) else None for t in (self.since, self.until)]
        return frame(arrays, format=FORMAT, **head, times=times)

    @classmethod
    def from_bytes(cls, blob: bytes, meter: LeakMeter | None = None) -> State:
        """The inverse of `to_bytes`; `meter`: that of the calibration. Raises RecordError on damage or other format."""
        arrays, head = unframe(blob)
        if head.get("format") != FORMAT:
            raise RecordError(
                f"a watch state of format {head.get('format')} cannot be read; this version reads {FORMAT}"
            )
        since, until = head["times"]
        plain: dict[str, Any] = {n: head[n] for n in _PLAIN} | {n: arrays[n] for n in _ARRAYS}
        return cls(
            **plain,
            purse=Purse(arrays["betting"], arrays["cash"], arrays["log"]),
            since=np.inf if since is None else since,
            until=-np.inf if until is None else until,
            own=tuple(arrays[f"own/{j}"] for j in range(sum(name.startswith("own/") for name in arrays))),
            sketch=LeakSketch.from_bytes(arrays["sketch"].tobytes(), meter) if meter and "sketch" in arrays else None,
        )
