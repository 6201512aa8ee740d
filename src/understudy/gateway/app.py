"""One request, from bytes to bytes: identify, read, parse, admit, ask, reduce, record, release.

The gateway is an ASGI application. In front of a server it asks over HTTP; wrapped around an application
(`Gateway([...], app=fastapi_app)`) it is its middleware. Decisions are `guard.py`'s; what leaves is built from granted
signals by the codec, never filtered out of what the upstream said.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from understudy.errors import (
    HistoryError,
    InputError,
    KeysError,
    LedgerError,
    ManifestError,
    Unauthenticated,
    UnderstudyError,
)
from understudy.gateway.desk import Desk
from understudy.gateway.hooks import ADMIT, MIRROR, hook
from understudy.gateway.identity import Caller
from understudy.gateway.life import Wrapped, live
from understudy.gateway.metrics import log, metrics
from understudy.gateway.observe import observe
from understudy.gateway.request import (
    AGAIN,
    Gone,
    Refused,
    Unusable,
    caller_of,
    clamped,
    context_of,
    headers_of,
    over,
    parse,
    quota,
    read_body,
    terms_of,
    unauthenticated,
    understood,
)
from understudy.gateway.service import Served, Service, compile_service
from understudy.gateway.traces import teller
from understudy.gateway.upstream import App, Receive, Reply, Scope, Send, TooSlow, Unreachable
from understudy.guard import closed, release
from understudy.history import Row
from understudy.types import Answers, Floats, Signal
from understudy.wire import Message

_JSON = {"content-type": "application/json"}


class Sent(NamedTuple):
    """A response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Gateway:
    """The gateway of one or several manifests, in one worker process.

    `app`: the application to wrap, for one manifest; else each manifest's `target.http` is asked. `observe`: record
    and say what would be withheld or refused, and change nothing. `state`: URL of a Redis or Valkey that machines share
    allowances through. `worker`: this process's name; no two running workers of one folder share a name.
    """

    def __init__(
        self,
        manifests: Sequence[str | Path],
        app: App | None = None,
        observe: bool = False,
        state: str | None = None,
        worker: str = "0",
    ) -> None:
        if app is not None and len(manifests) != 1:
            raise ManifestError("a wrapped application is one endpoint: give one manifest")
        self.observe, self._state, self._worker = observe, state, worker
        self._app = None if app is None else Wrapped(app)
        self._paths = [Path(path) for path in manifests]
        self._desks: list[Desk] = []
        self._routes: dict[str, list[Desk]] = {}
        self._cards: dict[str, list[tuple[Desk, Message]]] = {}
        self._prefix, self._numbers = secrets.token_hex(4), itertools.count()
        self._compiled = compile_all(self._paths)
        self._retiring = set[asyncio.Task[None]]()
        self._looking: asyncio.TimerHandle | None = None

    # life

    async def open(self) -> None:
        """Open allowances, history, keys and connections. Raises UnderstudyError."""
        self._take(self._compiled)
        self._look()

    def _look(self) -> None:
        """Notice, once a second, what the watcher or an operator has put in force."""
        for desk in self._desks:
            desk.orders.look()
        self._looking = asyncio.get_running_loop().call_later(1.0, self._look)

    async def close(self) -> None:
        """Let go of everything; what was recorded is durable already."""
        metrics().count()
        if self._looking is not None:
            self._looking.cancel()
        for desk in self._desks:
            await desk.close()
        self._desks, self._routes, self._cards = [], {}, {}

    def reload(self) -> str | None:
        """Read the manifests again; a bad one changes nothing. Returns why, or None; requests in flight go on."""
        try:
            self._take(compile_all(self._paths))
        except UnderstudyError as error:
            log().error("manifest refused; the old one stays", reason=str(error))
            return str(error)
        return None

    def _take(self, services: list[Service]) -> None:
        old, desks = {desk.service.path: desk for desk in self._desks}, list[Desk]()
        for service in services:
            desk = Desk.open(service, self._worker, self._app, self._state, old.get(service.path))
            desks.append(desk)
            for warning in service.warnings:
                log().warning(warning, endpoint=service.id)
            log().info("serving", endpoint=service.id, version=service.version, route=service.route)
        for desk in self._desks:
            self._later(desk.retire(desks), desk.service.http.timeout_s + 5)
        self._desks = desks
        self._routes, self._cards = {}, {}
        for desk in desks:
            self._routes.setdefault(desk.service.route, []).append(desk)
            for path, message in desk.service.cards.items():
                self._cards.setdefault(path, []).append((desk, message))

    def _later(self, closing: Coroutine[None, None, None], seconds: float) -> None:
        """Close what a reload replaced once the requests that use it have ended."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            await closing

        task = asyncio.get_running_loop().create_task(wait())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the application's life."""
        if scope["type"] == "lifespan":
            await live(self._app, self.open, self.close, scope, receive, send)
            return
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        try:
            sent = await self._serve(scope, receive)
        except Gone:
            return
        except Exception:
            log().exception("the gateway failed", path=scope["path"][:200])
            sent = _sent(Message(b'{"error":"internal error"}', _JSON), 500)
        try:
            await send({"type": "http.response.start", "status": sent.status, "headers": sent.headers})
            await send({"type": "http.response.body", "body": sent.body if scope["method"] != "HEAD" else b""})
        except RuntimeError as error:  # uvloop's word for a customer who hung up, or sent rubbish after the request
            if "handler is closed" not in str(error):
                raise

    async def _serve(self, scope: Scope, receive: Receive) -> Sent:
        path, method = scope["path"], scope["method"]
        desk = _of_host(self._routes.get(path, ()), scope)
        if self.observe and path not in ("/healthz", "/readyz"):
            behind = desk or _of_host(self._desks, scope)
            if behind is not None:
                reply = await observe(behind, desk is not None and method == "POST", scope, receive)
                return _sent(Message(reply.body, reply.headers), reply.status)
        if desk is None:
            if path in (ADMIT, MIRROR):
                status, headers = await hook(lambda route: _of_host(self._routes.get(route, ()), scope), scope, receive)
                return _sent(Message(b"", {}), status, headers)
            return await self._other(path, method, scope)
        if method != "POST":
            refusal = desk.service.codec.error(405, "inference takes POST")
            return _sent(refusal, 405, {"allow": "POST"})
        number = f"{self._prefix}-{next(self._numbers):x}"
        started, caller = time.perf_counter(), None
        try:
            caller = self._who(desk, scope)
            sent = await self._infer(desk, caller, scope, receive, number, started)
        except Refused as refused:
            tier = caller.tier if caller else "none"
            metrics().refused(desk.service.id, tier, refused.rule.split(":")[0]).inc()
            log().info(
                "refused", endpoint=desk.service.id, tier=tier, principal=caller.principal if caller else None,
                status=refused.status, rule=refused.rule, request=number, version=desk.service.version,
            )  # fmt: skip
            message = desk.service.codec.error(refused.status, refused.message)
            sent = _sent(message, refused.status, {"x-request-id": number, **refused.headers})
        if (tell := teller()) is not None:
            seconds, tier = time.perf_counter() - started, caller.tier if caller else "none"
            tell(scope["headers"], seconds, desk.service.id, tier, sent.status)
        return sent

    async def _other(self, path: str, method: str, scope: Scope) -> Sent:
        """Health, metadata, and everything that is not declared."""
        if method in ("GET", "HEAD"):
            if path == "/healthz":
                return _sent(Message(b'{"status":"up"}', _JSON), 200)
            if path == "/readyz":
                troubles = [trouble for desk in self._desks if (trouble := await desk.trouble())]
                status = 503 if troubles or not self._desks else 200
                return _sent(
                    Message(b'{"status":"ready"}' if status == 200 else b'{"status":"not ready"}', _JSON), status
                )
            for desk, message in self._cards.get(path, ()):
                if _of_host((desk,), scope) is not None:
                    return _sent(message, 200)
        return _sent(Message(b'{"error":"no such route"}', _JSON), 404)

    # inference

    @staticmethod
    def _who(desk: Desk, scope: Scope) -> Caller:
        try:
            return caller_of(desk, scope)
        except Unauthenticated as error:
            raise unauthenticated(error) from None
        except KeysError as error:
            log().error("keys cannot be looked up", endpoint=desk.service.id, reason=str(error))
            raise Refused(503, "the service is not available; try again", "keys unavailable", AGAIN) from None

    async def _infer(
        self, desk: Desk, caller: Caller, scope: Scope, receive: Receive, number: str, started: float
    ) -> Sent:
        service = desk.service
        tier, holders, order = terms_of(desk, caller)
        body = await read_body(receive, scope["headers"], service.guard.max_body, service.guard.body_timeout_s)
        asked, x = parse(service, body, headers_of(scope))
        granted = clamped(service, tier, asked)
        at = time.time()
        try:
            admission = await desk.ledger.admit(holders, len(x))
        except LedgerError as error:
            log().error("allowances cannot be counted", endpoint=service.id, reason=str(error))
            raise Refused(503, "the service is not available; try again", "allowances unavailable", AGAIN) from None
        if order is not None:
            admission = order.told(admission, desk.holders(caller, tier))
        if not admission.admitted:
            raise over(admission)
        try:
            before = time.perf_counter()
            answers = await self._upstream(desk, x)
            upstream = time.perf_counter() - before
            released = self._release(service, tier, x, answers, caller).only(granted)
            message = service.codec.respond(asked, released, service.id)
            row = Row(
                at, caller.principal, caller.party, caller.tier, service.route, service.version, admission.rule, 200,
                len(x), x, released, margin(answers), caller.audit, context_of(scope, number, order),
            )  # fmt: skip
            await _record(desk, row)
        except Exception:
            await desk.ledger.refund(holders, len(x), admission.at)
            raise
        metrics().answered(service.id, caller.tier, len(x), time.perf_counter() - started, upstream)
        return _sent(message, 200, {"x-request-id": number, **quota(admission)})

    async def _upstream(self, desk: Desk, x: Floats) -> Answers:
        """The upstream's whole answer, checked. Whatever goes wrong there is told in general words only."""
        service = desk.service
        if desk.in_flight >= service.guard.max_in_flight:
            raise Refused(503, "too many requests at once; try again", "overload", {"retry-after": "1"})
        desk.in_flight += 1
        try:
            message = service.codec.request(x, service.exposure.signals)
            reply = await desk.upstream.ask(message.body, message.headers)
        except InputError as error:
            raise Refused(400, str(error), "malformed") from None  # the upstream's datatype does not hold them
        except TooSlow as error:
            raise _upstream_failed(504, "the model did not answer in time", str(error), desk) from None
        except Unreachable as error:
            raise _upstream_failed(502, "the model is out of reach", str(error), desk) from None
        finally:
            desk.in_flight -= 1
        if not 200 <= reply.status < 300:
            raise _status(reply, desk)
        try:
            return understood(service, reply, len(x))
        except Unusable as error:
            raise _upstream_failed(502, "the model's answer could not be used", str(error), desk) from None

    @staticmethod
    def _release(service: Service, tier: Served, x: Floats, answers: Answers, caller: Caller) -> Answers:
        try:
            return release(tier.grant, x, answers, caller.principal)
        except Exception as fault:
            log().error(
                "a defence failed; the answer is closed", endpoint=service.id, tier=tier.id, fault=type(fault).__name__
            )
            metrics().refused(service.id, tier.id, "defence failed").inc()
            label = closed(tier.grant, answers)
            if label is None:
                raise Refused(502, "the answer could not be prepared", "defence failed") from None
            return label


def compile_all(paths: Sequence[Path]) -> list[Service]:
    """Every manifest, compiled and fitted. Raises ManifestError when one is bad, or two answer the same route.

    The supervisor calls this before any worker does, so the owner's data are asked for by one process.
    """
    services = [compile_service(path) for path in paths]
    seen: dict[tuple[str | None, str], Service] = {}
    for service in services:
        place = (service.guard.host, service.route)
        if place in seen:
            raise ManifestError(
                f"{service.path} and {seen[place].path} both answer {service.route}: give guard.path or guard.host"
            )
        seen[place] = service
    return [service.fitted() for service in services]


def _of_host(desks: Sequence[Desk], scope: Scope) -> Desk | None:
    """The desk that answers this request's host: one that names it, else one that names none."""
    if not desks:
        return None
    if len(desks) == 1 and desks[0].service.guard.host is None:
        return desks[0]
    host = next((v.decode("latin-1").rsplit(":", 1)[0].lower() for k, v in scope["headers"] if k == b"host"), "")
    named = [desk for desk in desks if desk.service.guard.host == host]
    return named[0] if named else next((desk for desk in desks if desk.service.guard.host is None), None)


def _status(reply: Reply, desk: Desk) -> Refused:
    """An upstream error in general words: no text of its own leaves, and no number but a short wait."""
    status = reply.status
    if status in (429, 503):
        wait = reply.headers.get("retry-after", "")
        seconds = min(max(int(wait), 1), 60) if wait.isascii() and wait.isdigit() and len(wait) < 9 else 1
        return _upstream_failed(503, "the model is busy; try again", f"HTTP {status}", desk, str(seconds))
    if status in (400, 413, 422):
        return _upstream_failed(400, "the model does not take these inputs", f"HTTP {status}", desk)
    return _upstream_failed(502, "the model failed", f"HTTP {status}", desk)


def _upstream_failed(status: int, message: str, why: str, desk: Desk, wait: str | None = None) -> Refused:
    log().warning("upstream", endpoint=desk.service.id, why=why)
    return Refused(status, message, "upstream", {"retry-after": wait} if wait else None)


async def _record(desk: Desk, row: Row) -> None:
    """Durable, or the answer does not leave - unless the manifest says in as many words that it may."""
    try:
        await desk.history.append(row)
    except HistoryError as error:
        log().error("an answer could not be recorded", endpoint=desk.service.id, reason=str(error))
        if desk.service.guard.logging.when_unavailable == "refuse":
            raise Refused(503, "the service is not available; try again", "record unavailable", AGAIN) from None


def margin(answers: Answers) -> Floats | None:
    """Per row, how far the two largest scores of the upstream are apart: the owner's, never released."""
    for signal in (Signal.PROBABILITIES, Signal.LOGITS):
        if signal in answers and answers.outputs > 1:
            two = np.partition(answers[signal], -2, axis=1)[:, -2:]
            return np.asarray(two[:, 1] - two[:, 0])
    return None


def _sent(message: Message, status: int, more: Mapping[str, str] | None = None) -> Sent:
    headers = {**message.headers, "content-length": str(len(message.body)), **(more or {})}
    return Sent(status, [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()], message.body)
