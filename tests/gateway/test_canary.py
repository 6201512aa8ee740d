"""Nothing that is not granted leaves: thousands of generated cases, and proof that the search finds what it should."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import random
import re
import struct
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import canary
import numpy as np
import pytest
import sockets
from house import keys, manifest
from searching import findings

from running import start_guard
from understudy import guard
from understudy.defences.rounding import Round
from understudy.defences.top_k import TopK
from understudy.gateway import app as gateway
from understudy.gateway.upstream import AsgiUpstream, Reply
from understudy.types import Answers
from understudy.wire import Message, _released, generic, kserve, mlflow, oip

CODECS = (oip.OpenInference, kserve.KServeV1, mlflow.MlflowInvocations, generic.GenericJson)
REPLY: ContextVar[Reply] = ContextVar("reply", default=Reply(0, {}, b""))  # noqa: B039 - a tuple


@pytest.mark.parametrize("cases", [5_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_nothing_that_is_not_granted_leaves(cases: int) -> None:
    made = asyncio.run(canary.run(0, 0, cases))
    assert made.found == [], made.found[:10]
    assert made.asked > 0.7 * cases
    assert made.statuses[200] > 0.5 * cases
    assert made.canaries > 5 * cases
    assert not made.statuses[500]


def test_a_case_is_made_from_its_seed_and_number_alone() -> None:
    keys = {part.name: dict.fromkeys(part.tiers, "k") for part in canary.PARTS}
    one, two = canary.case(3, 17, keys), canary.case(3, 17, keys)
    assert one == two
    assert canary.case(3, 18, keys) != one != canary.case(4, 17, keys)


def test_nothing_leaves_the_process_either(tmp_path: Path) -> None:
    """500 cases over connections, with canaries in reason phrases, trailers and broken frames."""
    found, statuses = list[str](), Counter[int]()

    async def attack() -> None:
        now = b""
        async with sockets.RawUpstream(lambda *_: now) as upstream:
            paths = [manifest(part, tmp_path, upstream.url) for part in canary.PARTS]
            held = {part.name: keys(path, part) for part, path in zip(canary.PARTS, paths, strict=True)}
            guard = await asyncio.to_thread(start_guard, tmp_path, *paths)
            try:
                for number in range(500):
                    it = canary.case(0, number, held)
                    now = sockets.told(it.planted, random.Random(f"told:{number}"))
                    wire = await sockets.exchange(guard.url, sockets.written(it.request), 20)
                    statuses[int(wire[9:12])] += 1
                    more = findings(it.part, it.tier, it.asked, it.planted, it.rows, wire, server=True)
                    found.extend(f"case {number}: {what}" for what in more)
            finally:
                assert await asyncio.to_thread(guard.stop) == 0
            assert upstream.asked > 300
            said = guard.log.read_text()
            assert "the gateway failed" not in said
            assert "\nTraceback" not in said

    asyncio.run(attack())
    assert found == [], found[:10]
    assert statuses[200] > 150
    assert not statuses[500]


# faults, one at a time


Patch = Callable[[pytest.MonkeyPatch], None]


def respond(change: Callable[[bytes, Reply], bytes]) -> Patch:
    """Answers changed after the codec has written them, knowing what the upstream said."""

    def patch(to: pytest.MonkeyPatch) -> None:
        for codec in CODECS:
            old = codec.respond

            def new(self: Any, asked: Any, answers: Answers, model: str, old: Any = old) -> Message:
                made = old(self, asked, answers, model)
                return made._replace(body=change(made.body, REPLY.get()))

            to.setattr(codec, "respond", new)

    return patch


def unknown_field(body: bytes, reply: Reply) -> bytes:
    """A field of the upstream's that no codec knows, copied."""
    try:
        said, answer = json.loads(reply.body), json.loads(body)
        more = {k: v for k, v in said.items() if k not in answer and k not in ("model_version", "id")}
        return json.dumps({**more, **answer}).encode() if more else body
    except (ValueError, AttributeError, TypeError):
        return body


def unknown_tensor(body: bytes, reply: Reply) -> bytes:
    """A tensor that nobody asked for, copied."""
    try:
        said, answer = json.loads(reply.body), json.loads(body)
        answer["outputs"] += [t for t in said["outputs"] if t["name"] in ("hidden", "embedding")]
        return json.dumps(answer).encode()
    except (ValueError, KeyError, TypeError):
        return body


def status(to: pytest.MonkeyPatch, change: Callable[[Reply], tuple[str, dict[str, str]]]) -> None:
    old = gateway._status

    def new(reply: Reply, desk: Any) -> Any:
        made = old(reply, desk)
        message, headers = change(reply)
        made.message += message
        made.headers = {**made.headers, **headers}
        return made

    to.setattr(gateway, "_status", new)


def headers(to: pytest.MonkeyPatch, *names: str) -> None:
    """Headers of the upstream's, passed on."""
    old = gateway._sent

    def new(message: Message, status: int, more: Any = None) -> Any:
        theirs = REPLY.get().headers
        passed = {k: v for k, v in theirs.items() if (k in names if names else k.startswith("x-"))}
        return old(message, status, {**(more or {}), **passed})

    to.setattr(gateway, "_sent", new)


def columns(change: Callable[[Any], Any]) -> Patch:
    """Scores changed where they are written."""

    def patch(to: pytest.MonkeyPatch) -> None:
        old = _released.columns

        def new(*given: Any) -> Any:
            made = old(*given)
            return {s: change(c) if isinstance(c, np.ndarray) and c.dtype.kind == "f" else c for s, c in made.items()}

        to.setattr(_released, "columns", new)

    return patch


def masked_only(to: pytest.MonkeyPatch) -> None:
    """Withheld entries marked as such, and written all the same."""

    def apply(self: TopK, inputs: Any, answers: Answers, principal: str) -> Answers:
        hidden = TopK_apply(self, inputs, answers, principal)
        return Answers(answers.values, answers.outputs, hidden.present)

    to.setattr(TopK, "apply", apply)
    to.setattr(Answers, "mask", lambda self, signal: np.ones(self[signal].shape, bool))
    old = _released.columns
    to.setattr(_released, "columns", lambda a, *more: old(Answers(a.values, a.outputs), *more))


TopK_apply = TopK.apply


def echoed(to: pytest.MonkeyPatch) -> None:
    """The upstream's envelope in place of the customer's."""
    old = oip.OpenInference.respond

    def new(self: Any, asked: Any, answers: Answers, model: str) -> Message:
        found = REPLY.get().body.split(b'"id":"', 1)
        asked.echo.update({"id": found[-1].split(b'"')[0].decode("latin-1")} if len(found) > 1 else {})
        return old(self, asked, answers, model)

    to.setattr(oip, "_echo", lambda request: {})
    to.setattr(oip.OpenInference, "respond", new)


def identity(self: Any, inputs: Any, answers: Answers, principal: str) -> Answers:
    return answers


def retry_after(to: pytest.MonkeyPatch) -> None:
    """The digits of the upstream's Retry-After, whatever they are."""
    status(to, lambda reply: ("", {k: v for k, v in reply.headers.items() if k == "retry-after" and v.isdigit()}))


def value_payload(to: pytest.MonkeyPatch) -> None:
    """A NaN as it came."""
    old = np.isnan
    to.setattr(_released.np, "isnan", lambda a, *more: np.zeros_like(a, bool) if np.ndim(a) == 2 else old(a, *more))


def canary_numbers(body: bytes) -> list[float]:
    return [float(w) for w in re.findall(rb"0\.\d{15,17}(?![\de])", body)][:40]


def beside(packed: str, order: str = "<") -> Callable[[bytes, Reply], bytes]:
    """The answer's numbers before they were reduced, as base64 of their bytes, in a field that is granted."""

    def change(body: bytes, reply: Reply) -> bytes:
        found = canary_numbers(reply.body)
        text = base64.b64encode(struct.pack(f"{order}{len(found)}{packed}", *found))
        return body[:-1] + b',"id":"' + text + b'"}' if body.endswith(b"}") else body

    return change


FAULTS: dict[str, Patch] = {
    "an unknown field is copied": respond(unknown_field),
    "an unknown tensor is copied": respond(unknown_tensor),
    "nothing is left out of what is released": lambda to: to.setattr(Answers, "only", lambda self, signals: self),
    "top-k does nothing": lambda to: to.setattr(TopK, "apply", identity),
    "top-k only marks": masked_only,
    "rounding does nothing": lambda to: to.setattr(Round, "apply", identity),
    "one decimal too many": lambda to: to.setattr(
        Round, "__init__", lambda self, decimals=2: object.__setattr__(self, "decimals", decimals + 1)
    ),
    "the upstream's envelope is echoed": echoed,
    "error texts pass": lambda to: status(to, lambda reply: (reply.body.decode("latin-1"), {})),
    "error texts pass, compressed": lambda to: status(
        to, lambda reply: (base64.b64encode(gzip.compress(reply.body)).decode(), {})
    ),
    "error headers pass": lambda to: status(
        to, lambda reply: ("", {k: v for k, v in reply.headers.items() if k in ("server", "etag", "via")})
    ),
    "Retry-After passes": retry_after,
    "headers pass": headers,
    "the server's name passes": lambda to: headers(to, "server"),
    "the content type passes": lambda to: headers(to, "content-type"),
    "the number of the request is the upstream's": lambda to: headers(to, "x-request-id"),
    "the limits are the upstream's": lambda to: headers(to, "ratelimit-remaining", "ratelimit-limit"),
    "the answer passes after the answer": respond(lambda body, reply: body + reply.body),
    "the answer passes in gzip": respond(lambda body, reply: body + gzip.compress(reply.body)),
    "the answer passes in base64": respond(lambda body, reply: body + base64.b64encode(reply.body)),
    "float64 as base64": respond(beside("d")),
    "float32 as base64": respond(beside("f")),
    "float64 of the other order as base64": respond(beside("d", ">")),
    "digits past those granted": columns(lambda c: c + 1e-6),
    "a sign is told of what was rounded away": columns(lambda c: np.where(c == 0, -0.0, c)),
    "a NaN passes as it came": value_payload,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = AsgiUpstream.ask

    async def kept(self: Any, *given: Any) -> Reply:
        reply = await ask(self, *given)
        REPLY.set(reply)
        return reply

    monkeypatch.setattr(AsgiUpstream, "ask", kept)
    monkeypatch.setattr(guard.Grant, "of", classmethod(unchecked(guard.Grant.of)))
    FAULTS[fault](monkeypatch)
    made = asyncio.run(canary.run(0, 0, 4000, until_found=True))
    assert made.found, made


def unchecked(old: Any) -> Any:
    """`Grant.of` without its own check, which would refuse some of the faults at the start."""
    return lambda cls, served, defences, granted: cls(granted, tuple(defences))
