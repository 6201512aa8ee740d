"""A history that a test writes to, and the feed that follows it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import benign
import numpy as np

from running import manifest
from understudy.gateway.feed import Feed
from understudy.gateway.pool import Pool
from understudy.gateway.service import compile_service
from understudy.history import Row, Writer
from understudy.types import Answers

LADDER = [
    {"when": {"p_value": 0.01}, "do": "reduce", "to_tier": "public", "expires": "1h", "cool_down": "1h"},
    {"when": {"leak_budget": True}, "do": "reduce", "to_tier": "public", "whom": "party", "expires": "1h"},
]


class Desk:
    """A history that is written to, and the feed that follows it. The clock is the test's."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        monitor = {"response": LADDER, "leak_budget": {"standard": 0.98}, **changes.pop("monitor", {})}
        self.path = manifest(folder, 9, monitor=monitor, **changes)
        self.service = compile_service(self.path)
        self.inputs = self.service.guard.logging.inputs
        self.rng, self.now = np.random.default_rng(7), 1000.0
        self.feed: Feed | None = None

    def open(self, blob: bytes | None = None, pool: Pool | None = None) -> Feed:
        assert self.service.manifest.monitor is not None
        self.feed = Feed(self.service, self.service.manifest.monitor, blob or benign.calibration(), pool)
        return self.feed

    def rows(self, who: str, x: Any, answers: Answers | None = None, audit: bool = False) -> Row:
        self.now += 1.0
        released, margin = benign.answers(x) if answers is None else (answers, None)
        party = who.split("-")[0]
        return Row(
            self.now, f"key:{who}", f"key:{party}", "standard", "/", "v", "within", 200, len(x), x, released,
            margin, audit, {"network": "192.0.2.1", "client": "test"},
        )  # fmt: skip

    def write(self, *rows: Row) -> None:
        async def keep() -> None:
            writer = Writer(self.service.folder / "history", "0", self.inputs)
            for row in rows:
                await writer.append(row)
            writer.close()

        self.service.folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(keep())

    def shop(self, who: str, n: int) -> Row:
        return self.rows(who, benign.digits()[self.rng.choice(len(benign.digits()), n)])

    def thief(self, who: str, n: int) -> Row:
        return self.rows(who, self.rng.uniform(0, 1, (n, 64)))
