"""Nine gateways in this process, one per protocol and shape of answer, around an upstream that the caller scripts.

What the endpoints grant is written down here a second time (`Part.tiers`), for oracles that import none of our codecs.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from understudy.gateway.app import Gateway
from understudy.gateway.keys import Keys

Grains = dict[str, tuple[int | None, int | None]]  # signal: (top k, decimals)
WHOLE = (None, None)
LABEL: Grains = {"label": WHOLE}
SCORES: dict[str, Grains] = {
    "label": LABEL,
    "top1": {"label": WHOLE, "probabilities": (1, 2)},
    "top3": {"probabilities": (3, None)},
    "round": {"probabilities": (None, 3)},
    "whole": {"probabilities": WHOLE},
}
BATCH, _RENEWED = 256, 50_000  # cases at once; cases after which the gateways are made anew
CLASSES = ["ash", "birch", "cedar", "dogwood"]


@dataclass(frozen=True)
class Part:
    """One endpoint: what its upstream answers, and what each tier receives of it."""

    name: str
    protocol: str
    route: str
    outputs: int
    width: int
    served: tuple[str, ...]
    tiers: dict[str, Grains]
    options: dict[str, Any] = field(default_factory=dict)
    asks: str = "clamp"
    hooks: bool = False


PARTS = (
    Part("oip", "open-inference", "/v2/models/m/infer", 5, 3, ("probabilities",), SCORES, hooks=True),
    Part(
        "oip-binary", "open-inference", "/v2/models/m/versions/4/infer", 4, 2, ("label", "probabilities", "logits"),
        {"label": LABEL, "whole": {"probabilities": WHOLE}, "logits": {"logits": (None, 1)},
         "two": {"label": WHOLE, "probabilities": (2, 4)}},
        {"binary": True, "datatype": "FP32", "answer_datatype": "FP32"}, "refuse",
    ),
    Part(
        "oip-value", "open-inference", "/prefix/v2/models/m/infer", 2, 3, ("value",),
        {"whole": {"value": WHOLE}, "round": {"value": (None, 2)}}, {"binary": True},
    ),
    Part("kserve", "kserve-v1", "/v1/models/m:predict", 4, 3, ("probabilities",), SCORES),
    Part(
        "kserve-named", "kserve-v1", "/v1/models/n:predict", 4, 2, ("label", "probabilities"), SCORES,
        {"fields": {"label": "class", "probabilities": "scores"}, "classes": CLASSES, "signature": "serving"},
    ),
    Part(
        "mlflow", "mlflow", "/invocations", 4, 3, ("probabilities",), SCORES,
        {"form": "dataframe_split", "columns": ["a", "b", "c"], "params": {"method": "proba"}},
    ),
    Part(
        "json", "json", "/score", 4, 2, ("label", "probabilities"), SCORES,
        {"paths": {"label": "result.label", "probabilities": "result.scores"},
         "answer": {"ok": True, "result": {"label": "$label", "scores": "$probabilities"}}},
    ),
    Part(
        "sagemaker", "sagemaker", "/endpoints/e/invocations", 2, 3, ("label", "probabilities"),
        {"label": LABEL, "round": {"label": WHOLE, "probabilities": (None, 2)},
         "whole": {"label": WHOLE, "probabilities": WHOLE}},
    ),
    Part("bentoml", "bentoml", "/predict", 4, 3, ("probabilities",), SCORES),
)  # fmt: skip


def manifest(part: Part, folder: Path, url: str = "http://127.0.0.1:9", inputs: str = "none") -> Path:
    """The endpoint's manifest. Two tiers have limits, so that every header of the gateway's is met."""
    review = {"by": "o", "on": "2020-01-01", "until": "2099-01-01", "reason": "test"}
    tiers = [
        {
            "id": name,
            "who": "w",
            "unauthenticated": name == "label",
            "review": review,
            "signals": {
                signal: {k: v for k, v in (("top_k", top), ("decimals", decimals)) if v is not None}
                for signal, (top, decimals) in grains.items()
            },
            "limits": {"per_day": 10**8, "per_minute": 10**7} if name in ("round", "label") else {},
        }
        for name, grains in part.tiers.items()
    ]
    http = {"url": url + part.route, "protocol": part.protocol, "options": part.options, "timeout_s": 5}
    body = {
        "apiVersion": "understudy/v1",
        "kind": "Endpoint",
        "metadata": {"id": part.name, "owner": "o@example.org", "contact": "c@example.org"},
        "model": {"version": "1"},
        "target": {"http": http, "signals": {s: {} for s in part.served}, "outputs": part.outputs},
        "space": {"low": 0, "high": 1, "shape": [part.width]},
        "evaluation": {"data": "none.npy"},
        "goals": [{"id": "copy", "threshold": 0.95, "basis": "test"}],
        "tiers": tiers,
        "guard": {
            "asks": part.asks, "hooks": part.hooks, "logging": {"inputs": inputs}, "max_body": 2**18, "max_rows": 100,
            "body_timeout_s": 2,
        },
    }  # fmt: skip
    if part.served == ("value",):
        body["metadata"]["kind"] = "regression"  # type: ignore[index]
    path = folder / f"{part.name}.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def keys(path: Path, part: Part) -> dict[str, str]:
    """A new key for each tier."""
    with Keys(path.parent / "guard" / part.name / "keys.sqlite") as held:
        return {tier: held.add(tier) for tier in part.tiers}


@dataclass
class Request:
    """A request as an ASGI server hands it on. `chunks`: the body's parts; `gone`: then the customer hangs up;
    `slow`: then nothing more comes.
    """

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    chunks: Sequence[bytes] = (b"",)
    query: bytes = b""
    client: tuple[str, int] | None = ("192.0.2.7", 4711)
    gone: bool = False
    slow: bool = False


class Broken(Exception):
    """What left is not an HTTP response."""


class House:
    """The nine, open; a folder in memory where there is one. `app`: the upstream of all of them."""

    def __init__(self, app: Any, inputs: str = "none") -> None:
        room = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="understudy-house-", dir=room if room.is_dir() else None))
        self.gateways: dict[str, Gateway] = {}
        self.keys: dict[str, dict[str, str]] = {}
        for part in PARTS:
            path = manifest(part, self.folder, inputs=inputs)
            self.keys[part.name] = keys(path, part)
            self.gateways[part.name] = Gateway([path], app=app)

    async def __aenter__(self) -> House:
        for gateway in self.gateways.values():
            await gateway.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for gateway in self.gateways.values():
            await gateway.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def ask(self, part: str, request: Request) -> bytes | None:
        """Every byte that leaves; None where the customer hung up and none did. Raises Broken."""
        chunks = list(request.chunks)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if chunks:
                body = chunks.pop(0)
                more = bool(chunks) or request.gone or request.slow
                return {"type": "http.request", "body": body, "more_body": more}
            if request.slow:
                await asyncio.sleep(3600)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request.method,
            "scheme": "http", "path": request.path, "raw_path": request.path.encode("utf-8", "surrogateescape"),
            "query_string": request.query, "root_path": "", "headers": request.headers, "client": request.client,
            "server": ("127.0.0.1", 80),
        }  # fmt: skip
        await self.gateways[part](scope, receive, send)
        if not sent and request.gone:
            return None
        return _raw(sent)


async def in_houses(
    app: Any, one: Callable[[House, int], Awaitable[None]], start: int, cases: int, after: Callable[[int], bool]
) -> None:
    """`one(house, number)` for cases `start` to `start + cases`, a batch at once; `after(next)` ends it if true."""
    end = start + cases
    for begun in range(start, end, _RENEWED):
        async with House(app) as house:
            for first in range(begun, min(begun + _RENEWED, end), BATCH):
                next_ = min(first + BATCH, begun + _RENEWED, end)
                await asyncio.gather(*(one(house, i) for i in range(first, next_)))
                if after(next_):
                    return


_NAME, _VALUE = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+"), re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def _raw(sent: list[dict[str, Any]]) -> bytes:
    if [message["type"] for message in sent] != ["http.response.start", "http.response.body"]:
        raise Broken(f"messages: {[message['type'] for message in sent]}")
    status, headers = sent[0]["status"], sent[0]["headers"]
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Broken(f"header {name!r}: {value!r}")
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *(b": ".join(pair) for pair in headers)]
    return b"\r\n".join([*lines, b"", sent[1].get("body", b"")])
