"""Keeping exchanges from an event loop: `await append(row)` returns once the row is on disk.

One thread writes. Rows that arrive while it commits go into the next commit; a lone row is committed at once. The loop
wakes the thread once for all rows of a turn: woken for each, the two would spend more on changing places than on rows.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic

from understudy.errors import HistoryError
from understudy.history.chain import BATCH, DEFAULT, Chain, Limits
from understudy.history.rows import Head, Row
from understudy.types import Floats

_BACK_OFF = (0.1, 5.0)  # seconds until a failed history is tried again: at first, at most

_Item = tuple[Row | None, "asyncio.Future[None]"]


class Writer:
    """Appends to one worker's chain, from one event loop at a time. Raises HistoryError when the folder cannot be used.

    `inputs`: "whole", "sketch", "hash" or "none"; `scale`: centre and spread per coordinate, for sketches;
    `room`: rows that may wait for the disk; beyond that `append` waits for room first.
    """

    def __init__(
        self,
        folder: str | Path,
        worker: str,
        inputs: str = "whole",
        *,
        scale: tuple[Floats, Floats] | None = None,
        limits: Limits = DEFAULT,
        room: int = 1024,
    ) -> None:
        self.folder, self.worker, self._room = Path(folder), worker, room
        self._chain = Chain(self.folder, worker, inputs, scale, limits)
        self._next: list[_Item] = []  # of this turn of the loop
        self._rows: deque[_Item | None] = deque()  # for the thread; None ends it
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns: list[asyncio.Future[None]] = []
        self._closed = False
        self._retry_at, self._delay = 0.0, _BACK_OFF[0]
        #: rows that wait for the disk
        self.waiting = 0
        #: why nothing can be kept now; empty while all is well
        self.reason = ""
        self._thread = threading.Thread(target=self._run, name=f"history-{worker}", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether the last attempt to keep something worked."""
        return not self.reason

    @property
    def closed(self) -> bool:
        """Whether it keeps nothing any more."""
        return self._closed

    @property
    def head(self) -> Head:
        """Where the chain ends now; written down elsewhere, it lets `verify` see a cut-off end."""
        return self._chain.head

    async def append(self, row: Row) -> None:
        """Keep a row; durable on return. Raises HistoryError when it cannot be kept (it may be on record all the same).

        While the history is out of order this raises at once, and tries again after a back-off of up to 5 s. A caller
        that is cancelled leaves its row to be kept.
        """
        await self._put(row)

    async def probe(self) -> bool:
        """Whether rows can be kept; where not, try again if the back-off has passed. For readiness checks."""
        if self.reason:
            with suppress(HistoryError):
                await self._put(None)
        return self.healthy

    def close(self) -> None:
        """Keep what waits, then let go of the folder. Blocks for a commit or two."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._rows.append(None)
            self._wake.put(None)
        self._thread.join()

    async def _put(self, row: Row | None) -> None:
        self._check()
        self._loop = loop = asyncio.get_running_loop()
        while self.waiting >= self._room:
            turn = loop.create_future()
            self._turns.append(turn)
            await turn
            self._check()
        future = loop.create_future()
        self.waiting += 1
        if not self._next:
            loop.call_soon(self._hand_over)
        self._next.append((row, future))
        await future

    def _hand_over(self) -> None:
        ready, self._next = self._next, []
        self._rows.extend(ready)
        self._wake.put(None)

    def _check(self) -> None:
        if self._closed:
            raise HistoryError(f"the history {self.folder} was closed")
        if self.reason and monotonic() < self._retry_at:
            raise HistoryError(self.reason)

    # the writer's thread

    def _run(self) -> None:
        more = True
        while more:
            batch, more = self._gather()
            if batch:
                results = self._keep([row for row, _ in batch if row is not None])
                if results is None:  # everybody who waits is told now
                    rest, more = self._take() if more else ([], False)
                    self._tell(batch + rest, None)
                else:
                    self._tell(batch, results)
        self._chain.close()

    def _gather(self) -> tuple[list[_Item], bool]:
        """The rows of the next commit, and whether there may be more after it."""
        if not self._rows:
            try:
                self._wake.get(timeout=self._chain.due())
            except Empty:
                with suppress(Exception):  # the next append meets it again and reports it
                    self._chain.tick()
        return self._take(BATCH)

    def _take(self, most: int | None = None) -> tuple[list[_Item], bool]:
        taken: list[_Item] = []
        while self._rows and len(taken) != most:
            item = self._rows.popleft()
            if item is None:
                return taken, False
            taken.append(item)
        return taken, True

    def _keep(self, rows: list[Row]) -> Sequence[HistoryError | None] | None:
        try:
            if rows:
                results = self._chain.keep(rows)
            else:
                results = []
                self._chain.touch()
        except Exception as error:
            self._chain.drop()
            self._retry_at = monotonic() + self._delay
            self._delay = min(2 * self._delay, _BACK_OFF[1])
            self.reason = str(error) if isinstance(error, HistoryError) else f"{self.folder} cannot be written: {error}"
            return None
        self.reason, self._delay = "", _BACK_OFF[0]
        return results

    def _tell(self, batch: list[_Item], results: Sequence[HistoryError | None] | None) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, batch, results, self.reason)

    # the loop's thread again

    def _settle(self, batch: list[_Item], results: Sequence[HistoryError | None] | None, reason: str) -> None:
        self.waiting -= len(batch)
        outcomes = iter(results or ())
        for row, future in batch:
            error = HistoryError(reason) if results is None else next(outcomes) if row is not None else None
            if future.done():  # its caller went away
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        turns, self._turns = self._turns, []
        for turn in turns:
            if not turn.done():
                turn.set_result(None)
