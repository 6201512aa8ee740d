"""Responses shared by machines through the Redis or Valkey that shares allowances: what one machine puts in force, or
an operator ends on one, holds on all of them within a second or two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from understudy.alerts import Alert
from understudy.gateway.book import Book, pack, unpack
from understudy.gateway.metrics import log
from understudy.gateway.shared import SILENT, Away, Server
from understudy.response import Response
from understudy.types import digest

_EVERY = 1.0  # seconds between exchanges
_KEPT = 86_400.0  # seconds that a response stays in the pool after it may act again


class Pool:
    """One endpoint's part of the server. Out of reach: each machine goes on with what it knows, and catches up."""

    def __init__(self, url: str, name: str, prefix: str = "understudy", timeout: float = 1.0) -> None:
        self.server = Server(url, name, prefix, timeout)
        self._key, self._alerts = self.server.base + "responses", self.server.base + "alerts"
        self._due, self._given = 0.0, dict[str, Response]()
        self.away = False

    def share(self, book: Book, now: float) -> list[Response]:
        """Take in what the others hold and give what is held here; returns what changed here."""
        if now < self._due:
            return []
        self._due = now + _EVERY
        try:
            with self.server.reached() as redis:
                changed = self._share(redis, book, now)
        except Away as error:
            self.lost(error, now)
            return []
        self.away = False
        return changed

    def lost(self, why: Away, now: float) -> None:
        """The server does not answer; it is tried again in a while."""
        if not self.away:
            log().error("responses are not shared now", reason=str(why), endpoint=self._key)
        self.away, self._due = True, now + 5 * _EVERY

    def _share(self, redis: Any, book: Book, now: float) -> list[Response]:
        theirs = {r.id: r for r in map(_response, redis.hgetall(self._key).values()) if r is not None}
        news = [response for response in theirs.values() if self._given.get(response.id) != response]
        changed = book.merge(news) if news else []
        mine = {response.id: response for response in book.open(now - _KEPT)}
        if fresh := [response for id_, response in mine.items() if theirs.get(id_) != response]:
            with redis.pipeline() as work:
                work.hset(self._key, mapping={response.id: pack(response) for response in fresh})
                for response in fresh:
                    if response.id not in theirs:
                        work.set(self._last(response), response.id, ex=_lives(response, now))
                work.execute()
        if old := [id_ for id_, response in theirs.items() if now >= response.again + _KEPT]:
            redis.hdel(self._key, *old)
        self._given = mine
        return changed

    def claim(self, made: Sequence[tuple[Response, Alert | None]], book: Book, now: float) -> list[bool]:
        """Put new responses in the pool, each unless another machine has put one of its step and holder there that this
        one does not know yet. Raises Away.
        """
        keys, arguments = [self._key, self._alerts], list[Any]()
        for response, alert in made:
            keys.append(self._last(response))
            known = book.last(response.step, response.whom, response.name)
            text = "" if alert is None else json.dumps([now, alert.model_dump_json()])
            arguments += [response.id, known or "", _lives(response, now), pack(response), text]
        return self.server.claim(keys, arguments)

    def queued(self, responses: Sequence[Response]) -> None:
        """Their alerts are on their way. Raises Away."""
        with self.server.reached() as redis:
            redis.hdel(self._alerts, *(response.id for response in responses))

    def adopt(self, book: Book, sinks: Sequence[str], now: float) -> int:
        """Send what a machine put in force and did not live to send; returns how many. Raises Away."""
        adopted = 0
        with self.server.reached() as redis:
            for id_, text in redis.hgetall(self._alerts).items():
                try:
                    at, alert = json.loads(text)
                    Alert.model_validate_json(alert)
                except (ValueError, TypeError):
                    redis.hdel(self._alerts, id_)  # somebody else's
                    continue
                if now - at >= SILENT and self.server.first(f"adopt:{id_.decode()}", 6 * SILENT):
                    book.queue(alert, sinks)
                    redis.hdel(self._alerts, id_)
                    adopted += 1
        return adopted

    def _last(self, response: Response) -> str:
        return f"{self.server.base}last:{digest(response.step, response.whom, response.name)[:24]}"


def _response(text: bytes) -> Response | None:
    """None where it is none: others may write there."""
    try:
        found = unpack(text.decode())
        found.state(found.again)
    except (ValueError, TypeError, LookupError):
        return None
    return found


def _lives(response: Response, now: float) -> int:
    return max(int(response.again - now + _KEPT), 1)
