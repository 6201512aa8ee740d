"""What machines share of the watch through Redis or Valkey: a bounded stream of exchanges, and who decided what first.

Nothing here is a state: those are each machine's own. Every call raises Away where the server is out of reach.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from understudy.errors import MissingExtra, MonitorError
from understudy.gateway._lua import APPEND, CLAIM, REPORT
from understudy.gateway.leases import without_secrets

FULL = 64 * 2**20  # bytes that the stream may hold
SILENT = 10.0  # seconds after which a machine that says nothing decides nothing
_GONE = 3600.0  # seconds for which what a machine that is away has not read is kept, where there is room
_LIVES = 3600  # seconds after which what nobody reads or writes any more is removed
_KEEP = 600.0  # seconds for which everything is kept, where there is room: for machines that join
_PIECE = 2**20  # bytes in one call
_AT_ONCE = 64  # entries in one answer
_ID = re.compile(r"(\d+)-\d+")


class Away(MonitorError):
    """The server is out of reach, or is no use."""


class Facts(NamedTuple):
    """Of the stream: a name that changes where it began anew, its last number and the first that is there (0: none);
    machines heard of lately, and whether others among them have followed it without a gap.
    """

    epoch: int
    last: int
    first: int
    heard: int
    whole: bool


class Server:
    """A connection of one endpoint. `base`: what its keys' names begin with; they lie in one slot of a cluster."""

    def __init__(self, url: str, name: str, prefix: str = "understudy", timeout: float = 1.0) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise MissingExtra("shared responses need the redis extra: pip install 'understudy[redis]'") from None
        self.where, self.base = without_secrets(url), "{" + f"{prefix}:{name}" + "}:"
        self.redis: Any = redis.Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
        self._errors = (redis.RedisError, OSError)
        self._append, self._report, self._claim = map(self.redis.register_script, (APPEND, REPORT, CLAIM))

    @contextmanager
    def reached(self) -> Iterator[Any]:
        """The client."""
        try:
            yield self.redis
        except self._errors as error:
            raise Away(f"{self.where}: {type(error).__name__}") from None

    def append(self, keys: Sequence[str], blob: list[bytes]) -> int:
        """See the script."""
        with self.reached():
            return int(self._append(keys, [FULL, _LIVES, *blob]))

    def report(self, keys: Sequence[str], machine: str, at: int, partial: bool) -> Facts:
        """See the script."""
        epoch = secrets.randbits(52)
        lengths = (int(SILENT), int(_GONE), int(_KEEP), FULL, _LIVES)
        with self.reached():
            found = self._report(keys, [machine, at, int(partial), epoch, *lengths])
        epoch, last, first, heard, whole = map(int, found)
        return Facts(epoch, last, first, heard, whole > 0)

    def claim(self, keys: Sequence[str], arguments: Sequence[Any]) -> list[bool]:
        """See the script."""
        with self.reached():
            return [bool(granted) for granted in self._claim(keys, arguments)]

    def first(self, what: str, seconds: float) -> bool:
        """Whether nobody has said this within that time."""
        with self.reached() as redis:
            return bool(redis.set(f"{self.base}said:{what}", 1, nx=True, ex=max(int(seconds), 1)))


class Stream:
    """Exchanges of all machines that hold an endpoint against one calibration, `made`, in the order they arrived."""

    def __init__(self, server: Server, made: str) -> None:
        self._server = server
        base = f"{server.base}watch:{made[:16]}:"
        self._rows, self._facts, self._members = (base + part for part in ("exchanges", "facts", "members"))

    def append(self, blobs: Sequence[bytes]) -> bool:
        """Put entries at the end; False where it is full, or began anew just now: they are to come again."""
        piece, size = list[bytes](), 0
        for blob in blobs:
            piece.append(blob)
            size += len(blob)
            if size >= _PIECE:
                if self._server.append([self._rows, self._facts], piece) <= 0:
                    return False
                piece, size = [], 0
        return not piece or self._server.append([self._rows, self._facts], piece) > 0

    def report(self, machine: str, saved: int, partial: bool) -> Facts:
        """Say that this machine is there, and how far it need not read again."""
        return self._server.report([self._rows, self._facts, self._members], machine, saved, partial)

    def read(self, after: int, limit: int) -> tuple[list[tuple[int, bytes]], int]:
        """Up to `limit` entries with their numbers, and the last number that there is."""
        found = list[tuple[int, bytes]]()
        with self._server.reached() as redis:
            last = int(redis.hget(self._facts, "last") or 0)
            while len(found) < limit and after < last:
                count = min(limit - len(found), _AT_ONCE)
                some = redis.xrange(self._rows, f"{after + 1}-0", f"{last}-{2**64 - 1}", count)
                for id_, fields in some:
                    match = _ID.fullmatch(id_.decode())
                    assert match is not None
                    after = int(match[1])
                    found.append((after, fields.get(b"d", b"")))
                if len(some) < count:
                    break
        return found, last
