"""What the supervisor does at the start and once a day: remove what retention no longer keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from understudy.errors import HistoryError
from understudy.gateway.metrics import log
from understudy.gateway.service import Service
from understudy.guard import DAY
from understudy.history import History


class Upkeep:
    """Knows when it is due; works beside the supervisor, one run at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._due, self._thread = clock, float("-inf"), threading.Thread()

    def run(self, services: Sequence[Service]) -> None:
        """Expire every service's history, now. What cannot be removed is logged, and tried again in a day."""
        self._due = self._clock() + DAY
        for service in services:
            folder, days = service.folder / "history", service.guard.logging.retention_days
            try:
                stones = History(folder).expire(time.time(), days) if folder.is_dir() else []
            except HistoryError as error:
                log().error("retention failed", endpoint=service.id, reason=str(error))
                continue
            if stones:
                rows = sum(stone.rows for stone in stones)
                log().info("retention", endpoint=service.id, days=days, segments=len(stones), exchanges=rows)

    @property
    def busy(self) -> bool:
        """Whether a run goes on beside the supervisor."""
        return self._thread.is_alive()

    def look(self, services: Sequence[Service]) -> None:
        """Start a run where one is due."""
        if self._clock() >= self._due and not self.busy:
            self._thread = threading.Thread(target=self.run, args=(services,), daemon=True, name="upkeep")
            self._thread.start()
