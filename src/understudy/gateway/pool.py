"""Responses shared by machines through the Redis or Valkey that shares allowances: what one machine puts in force, or
an operator ends on one, holds on all of them within a second or two.
"""

from __future__ import annotations

from typing import Any

from understudy.errors import MissingExtra
from understudy.gateway.book import Book, pack, unpack
from understudy.gateway.leases import without_secrets
from understudy.gateway.metrics import log
from understudy.response import Response

_EVERY = 1.0  # seconds between exchanges
_KEPT = 86_400.0  # seconds that a response stays in the pool after it may act again


class Pool:
    """One endpoint's part of the server. Out of reach: each machine goes on with what it knows, and catches up."""

    def __init__(self, url: str, name: str, prefix: str = "understudy", timeout: float = 1.0) -> None:
        try:
            import redis
        except ImportError:
            raise MissingExtra("shared responses need the redis extra: pip install 'understudy[redis]'") from None
        self._where, self._key = without_secrets(url), f"{prefix}:{name}:responses"
        self._redis: Any = redis.Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, decode_responses=True
        )
        self._errors = (redis.RedisError, OSError)
        self._due, self._away, self._given = 0.0, False, dict[str, Response]()

    def share(self, book: Book, now: float) -> list[Response]:
        """Take in what the others hold and give what is held here; returns what changed here."""
        if now < self._due:
            return []
        self._due = now + _EVERY
        try:
            theirs = {id_: unpack(text) for id_, text in self._redis.hgetall(self._key).items()}
            news = [response for response in theirs.values() if self._given.get(response.id) != response]
            changed = book.merge(news) if news else []
            mine = {response.id: response for response in book.open(now - _KEPT)}
            fresh = {id_: pack(response) for id_, response in mine.items() if theirs.get(id_) != response}
            if fresh:
                self._redis.hset(self._key, mapping=fresh)
            if old := [id_ for id_, response in theirs.items() if now >= response.again + _KEPT]:
                self._redis.hdel(self._key, *old)
            self._given = mine
        except self._errors as error:
            if not self._away:
                log().error(
                    "responses are not shared now", server=self._where, reason=type(error).__name__, endpoint=self._key
                )
            self._away, self._due = True, now + 5 * _EVERY
            return []
        self._away = False
        return changed
