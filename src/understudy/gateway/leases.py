"""What everybody has asked so far, shared by machines: deducted in Redis or Valkey in advance, spent here."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from understudy import guard
from understudy.errors import LedgerError, MissingExtra
from understudy.gateway._lua import SCRIPT
from understudy.gateway.ledger import Names
from understudy.guard import DAY, MONTH, Admission, Allowance, Usage

_FIELDS = ("at", "level", "day", "day_used", "month", "month_used")

T = TypeVar("T")

#: What is asked of the script for one key: key, allowance, rows given back, since when, rows, more that are wanted.
_Asked = tuple[str, Allowance, int, float, int, int]
_LOST = "the shared state was lost and counts from nothing; an operator must confirm it (--confirm-state)"


_ANY = Allowance()


@dataclass(slots=True)
class _Lease:
    """Rows deducted in advance from one key. Moments are of this machine's monotonic clock, `at` of the server's."""

    left: int = 0
    at: float = 0.0
    fresh: float = 0.0  # spend until then
    until: float = 0.0  # or, where the server is away and that is allowed, until then
    more: int = 0  # rows asked for beyond the need, doubled while they are all spent in time
    asking: int = 0  # calls under way
    allowance: Allowance = _ANY
    limit: int | None = None
    rest: int = 0  # at the server, in the tightest window
    reset: float = 0.0

    def holds(self, rows: int, now: float, away: bool = False) -> bool:
        """Whether that many rows may be spent."""
        return self.left >= rows and now < (self.until if away else self.fresh)


class LeasedLedger:
    """Usages in Redis or Valkey, deducted in leases: never over, and under by at most one lease per process and key.

    One atomic script call leases from every key that needs it; until that is spent or `life` seconds old, a request
    costs no call. Leases start at what is asked, double up to `lease` rows for busy keys, shrink to what is asked near
    the end of an allowance, and go back when they are old. Windows are of the server's clock. The steady rate is never
    passed since the first query; over any other stretch of time it may be, by the rows of `life` seconds.

    Out of reach: refused, with a growing pause between attempts, until it is back; `away="lease"` spends leases first.
    Emptied: everything is refused until `reset`. An id in the server and in a file in `folder` tells: keep that folder.
    The server must not evict (`maxmemory-policy noeviction`), and forgets nothing with `appendfsync always`.
    """

    def __init__(
        self,
        url: str,
        folder: str | Path,
        name: str = "",
        away: Literal["refuse", "lease"] = "refuse",
        *,
        prefix: str = "understudy",
        lease: int = 256,
        life: float = 5.0,
        timeout: float = 1.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        try:
            import redis.asyncio as redis
            from redis.backoff import NoBackoff
        except ImportError:
            raise MissingExtra("shared allowances need the redis extra: pip install 'understudy[redis]'") from None
        from redis.asyncio.retry import Retry

        self._where = without_secrets(url)
        self._away, self._lease, self._life, self._timeout, self._clock = away, lease, life, timeout, clock
        self._prefix = "{" + ":".join(filter(None, (prefix, name))) + "}:"  # one slot of a cluster
        self._file = Path(folder) / "shared-state.json"
        try:
            # a call that is tried again might give rows back twice
            options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "decode_responses": True}
            self._redis: Any = redis.Redis.from_url(
                url, socket_timeout=timeout, socket_connect_timeout=timeout, **options
            )
        except (ValueError, TypeError):
            raise LedgerError(f"{self._where}: is not the URL of a Redis server (redis://host:port/db)") from None
        self._script = self._redis.register_script(SCRIPT)
        self._url, self._slots = url, asyncio.Semaphore(16)
        self._leases = dict[str, _Lease]()
        self._epoch: str | None = None
        self._trouble, self._again = "", 0.0
        self._tasks = set[asyncio.Task[Any]]()
        self._sweeper: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"LeasedLedger({self._where!r})"

    async def admit(self, names: Names, rows: int) -> Admission:
        """Charge `rows` to every name, or to none."""
        now = time.monotonic()
        may_spend = not self._trouble or (self._away == "lease" and self._trouble != _LOST)
        if may_spend and (spent := self._spend(names, rows, now)) is not None:
            return spent
        if self._trouble:
            return self._refused(now)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        # a caller who goes away must not take with it what the server has deducted
        task = self._start(self._ask(names, rows))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._unspend(names, rows, done))
            raise

    async def refund(self, names: Names, rows: int, since: float) -> None:
        """Give back `rows` that were charged at `since` (`Admission.at`) and never answered, to day and 30 days.

        The steady rate makes up for them in less than a minute. Where the server is out of reach they are lost.
        """
        asked = [(key, Allowance(None, *allowance[1:]), rows, since, 0, 0) for key, _, allowance in names]
        await self._call(asked)

    def usage(self, key: str) -> Usage:
        """What one key has used, leases included. Blocks: for the administrator."""
        with self._blocking() as client:
            return _usage(client.hmget(self._prefix + "u:" + key, _FIELDS))

    def entries(self) -> Iterator[tuple[str, Usage]]:
        """What every key has used, leases included. Blocks: for the administrator."""
        start = self._prefix + "u:"
        with self._blocking() as client:
            for key in client.scan_iter(match=_literally(start) + "*", count=1000):
                yield key.removeprefix(start), _usage(client.hmget(key, _FIELDS))

    def trouble(self) -> str | None:
        """Why nothing can be leased now, or None."""
        return f"shared allowances: {self._trouble}" if self._trouble else None

    async def reset(self) -> None:
        """Confirm that counting may start from what the server holds now. Once on each machine. Raises LedgerError."""
        try:
            await self._remember()
        except _errors() as error:
            raise LedgerError(f"{self._where}: is out of reach ({type(error).__name__})") from None
        self._leases.clear()
        self._trouble = ""

    async def close(self) -> None:
        """Give every lease back, and let go of the server."""
        for task in (self._sweeper, self._recovery):
            if task is not None:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._trouble:
            await self._give_back(inf)
        await self._redis.aclose()

    # -- leases, here

    def _spend(self, names: Names, rows: int, now: float) -> Admission | None:
        """Admit on what is leased already, where that is enough."""
        leases, limit, least, reset, at = list[_Lease](), None, inf, 0.0, 0.0
        for key, _, _ in names:
            lease = self._leases.get(key)
            if lease is None or not lease.holds(rows, now, bool(self._trouble)):
                return None
            if lease.limit is not None and lease.rest + lease.left < least:
                limit, least, reset = lease.limit, lease.rest + lease.left, lease.reset
            leases.append(lease)
        for lease in leases:
            lease.left -= rows
            at = max(at, lease.at)
        return Admission(True, guard.WITHIN, 0.0, limit, None if limit is None else int(least) - rows, reset, at)

    def _unspend(self, names: Names, rows: int, task: asyncio.Task[Admission]) -> None:
        if not task.cancelled() and not task.exception() and task.result().admitted:
            self._start(self.refund(names, rows, task.result().at))

    def _refused(self, now: float) -> Admission:
        wait = max(self._again - now, 0.1)
        return Admission(False, f"shared allowances: {self._trouble or 'out of reach'}", wait)

    # -- the server

    async def _ask(self, names: Names, rows: int) -> Admission:
        """Lease what is missing, and spend. What is left of a lease that is not enough goes back in the same call."""
        began = time.monotonic()
        asked, held, enough = list[_Asked](), list[tuple[str, Allowance, _Lease]](), list[tuple[str, _Lease, float]]()
        for key, who, allowance in names:
            lease = self._leases.setdefault(key, _Lease())
            lease.asking += 1
            if lease.holds(rows, began):
                lease.left -= rows
                enough.append((key, lease, lease.at))
                continue
            lease.more = min(max(2 * lease.more, rows), self._lease) if began < lease.fresh else 0
            asked.append((key, allowance, lease.left, lease.at, rows, lease.more if lease.asking == 1 else 0))
            held.append((who, allowance, lease))
            lease.left, lease.allowance = 0, allowance
        try:
            decision = await self._exchange(asked, held, rows, began)
        finally:
            for lease in (*(lease for _, lease, _ in enough), *(lease for _, _, lease in held)):
                lease.asking -= 1
        if not decision.admitted:
            for key, lease, at in enough:
                if lease.at == at:
                    lease.left += rows
                else:  # another lease has taken its place: these rows may be of another window
                    self._start(self._call([(key, lease.allowance, rows, at, 0, 0)]))
        return decision

    async def _exchange(
        self, asked: list[_Asked], held: list[tuple[str, Allowance, _Lease]], rows: int, began: float
    ) -> Admission:
        answer = await self._call(asked)
        if answer is None:
            return self._refused(time.monotonic())
        passed, at, usages, granted = answer
        charged = [(who, allowance, usage) for (who, allowance, _), usage in zip(held, usages, strict=True)]
        decision, _ = guard.admit(charged, rows, at)  # the script has decided: this puts it in words
        if not passed:
            return decision if not decision.admitted else Admission(False, "shared allowances: ask again", 0.1)
        for (_, allowance, lease), one, n in zip(held, charged, granted, strict=True):
            self._take(lease, n - rows, at, began, guard.admit([one], n, at), allowance)
        return decision if decision.admitted else Admission(True, guard.WITHIN, at=at)

    def _take(
        self, lease: _Lease, n: int, at: float, began: float, after: tuple[Admission, list[Usage]], allowance: Allowance
    ) -> None:
        """Keep what was leased, beside what another request may have left meanwhile; the earlier end holds for both."""
        decision, [usage] = after
        day = usage.day + DAY - at if allowance.per_day is not None else inf
        month = usage.month + MONTH - at if allowance.per_30d is not None else inf
        # counted from before the call, and a hundredth less, so that it ends here before it ends there
        until = began + 0.99 * min(day, month, inf if allowance.per_minute is None else self._life)
        fresh = min(until, began + 0.99 * self._life)
        if lease.left:
            lease.at, lease.fresh, lease.until = min(lease.at, at), min(lease.fresh, fresh), min(lease.until, until)
        else:
            lease.at, lease.fresh, lease.until = at, fresh, until
        lease.left += n
        lease.limit, lease.rest, lease.reset = decision.limit, decision.remaining or 0, decision.reset

    async def _call(self, asked: list[_Asked]) -> tuple[bool, float, list[Usage], list[int]] | None:
        """Run the script. Nothing where the server is out of reach or has lost its state; then `_trouble` says so."""
        try:
            async with self._slots:
                if self._epoch is None:
                    await self._begin()
                keys = [self._prefix + "epoch", *(self._prefix + "u:" + key for key, *_ in asked)]
                arguments: list[Any] = [self._epoch, "" if self._clock is None else repr(self._clock())]
                for _, allowance, back, since, rows, more in asked:
                    arguments += [back, repr(since), rows, more, *("" if cap is None else cap for cap in allowance)]
                answer = await self._script(keys, arguments)
        except _errors() as error:
            self._fail(f"out of reach ({type(error).__name__})")
            return None
        except LedgerError as error:
            self._fail(str(error))
            return None
        if answer[0] == "lost":
            self._leases.clear()
            self._epoch = None
            self._fail(_LOST)
            return None
        self._trouble = ""
        n, numbers = len(asked), answer[2:]
        usages = [_usage(numbers[6 * i : 6 * i + 6]) for i in range(n)]
        return answer[0] == "yes", float(answer[1]), usages, [int(float(x)) for x in numbers[6 * n :]]

    def _fail(self, why: str) -> None:
        self._trouble = why
        if self._recovery is None or self._recovery.done():
            self._again = time.monotonic() + 0.05
            self._recovery = self._start(self._recover())

    async def _recover(self) -> None:
        """Try again, with growing pauses, until the server answers and its state is the one remembered."""
        pause = 0.05
        while self._trouble:
            self._again = time.monotonic() + pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)
            if self._trouble:
                await self._redis.connection_pool.disconnect(inuse_connections=False)
                await self._call([])

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _begin(self) -> None:
        """Learn the id of the state to count on: the one remembered, else the server's, else a new one."""
        memory = (await self._redis.info("memory")) or {}
        if int(memory.get("maxmemory") or 0) and memory.get("maxmemory_policy") != "noeviction":
            raise LedgerError("the server may evict what was counted: set maxmemory-policy noeviction")
        self._epoch = self._known().get(self._prefix)
        if self._epoch is None:
            await self._remember()

    def _known(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._file.read_text()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise LedgerError(f"{self._file} cannot be read ({type(error).__name__})") from None

    async def _remember(self) -> None:
        """Take the server's id as the one to count on, a new one where it has none."""
        await self._redis.set(self._prefix + "epoch", secrets.token_hex(8), nx=True)
        epoch = await self._redis.get(self._prefix + "epoch")
        new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        known = self._known() | {self._prefix: epoch}
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(known, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._file)
        except OSError as error:
            raise LedgerError(f"{self._file}: cannot be written: {error.strerror}") from None
        self._epoch = epoch

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._life / 2)
            if not self._trouble:
                await self._give_back(time.monotonic())

    async def _give_back(self, now: float) -> None:
        """Return what is left of old leases, and forget them."""
        old = [key for key, lease in self._leases.items() if now >= lease.fresh and not lease.asking]
        for start in range(0, len(old), 100):
            taken = [(key, self._leases.pop(key)) for key in old[start : start + 100] if key in self._leases]
            asked = [(key, lease.allowance, lease.left, lease.at, 0, 0) for key, lease in taken if lease.left]
            if asked and await self._call(asked) is None:
                return

    @contextmanager
    def _blocking(self) -> Iterator[Any]:
        import redis

        timeout = self._timeout
        try:
            with redis.Redis.from_url(
                self._url, socket_timeout=timeout, socket_connect_timeout=timeout, decode_responses=True
            ) as client:
                yield client
        except redis.RedisError as error:
            raise LedgerError(f"{self._where}: is out of reach ({type(error).__name__})") from None


def _errors() -> tuple[type[BaseException], ...]:
    from redis.exceptions import RedisError

    return RedisError, OSError, asyncio.TimeoutError


def _usage(numbers: list[str | None]) -> Usage:
    at, level, day, day_used, month, month_used = (float(x or 0) for x in numbers)
    return Usage(at, level, day, int(day_used), month, int(month_used))


def _literally(text: str) -> str:
    return "".join("\\" + c if c in "*?[]\\" else c for c in text)


def without_secrets(url: str) -> str:
    """A server's address as logs may show it."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or ''}:{parts.port or 6379}{parts.path}"
    except ValueError:
        return "the shared state"
