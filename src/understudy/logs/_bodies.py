"""Logs that hold whole bodies of requests and responses: KServe's CloudEvents, SageMaker's data capture."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from understudy.errors import AnswerError, InputError, UsageError
from understudy.logs._joined import Half, Join, Recent
from understudy.logs._layout import sound
from understudy.logs._places import AGAIN, Aside, Bad, Places
from understudy.logs._spill import Spill
from understudy.logs._tally import Tally
from understudy.types import Answers, Array, Exposure
from understudy.wire import Codec, Message, RequestError
from understudy.wire._json import rows as json_rows

ROOM, SIZE = 20_000, 2**26  # events, and bytes of them, that wait in memory for their other half
REQUEST, RESPONSE = "org.kubeflow.serving.inference.request", "org.kubeflow.serving.inference.response"


class Bodies:
    """Turns a request's and a response's body into queries, by the protocol's codec."""

    def __init__(
        self, spill: Spill, tally: Tally, places: Places, codec: Codec, shape: tuple[int, ...], shown: Exposure
    ) -> None:
        self._spill, self.tally, self._places = spill, tally, places
        self._codec, self._shape, self._shown = codec, shape, shown

    def take(self, about: Mapping[str, Any], request: Message, response: Message) -> None:
        """One exchange; `about` is where the places look. Raises Bad."""
        who, at = self._places.who(about), self._places.at(about)
        inputs = self._inputs(request)
        answers = self._answers(response, len(inputs))
        self._spill.add(who, self._spill.layout.pack(len(inputs), at, inputs, answers))
        self.tally.queries += len(inputs)

    def _inputs(self, message: Message) -> Array:
        try:
            if "csv" in message.headers["content-type"]:
                if self._shape:
                    found = json_rows(_csv(message.body), (self._spill.layout.width,)).reshape(-1, *self._shape)
                else:
                    found = json_rows(_csv_texts(message.body), ())
            else:
                found = self._codec.parse(message.body, message.headers, self._shape).inputs
        except RequestError as error:
            raise Bad(f"the request: {error}") from None
        except (UsageError, InputError):
            raise Bad("the request cannot be read by the protocol") from None
        if wrong := self._spill.layout.unfit(found):
            raise Bad(next(iter(wrong.values())))
        return found

    def _answers(self, message: Message, n: int) -> Answers:
        """What the body holds of the signals: all of them, or those that it has."""
        signals, why = self._shown.signals, "none of the signals is in the response"
        for some in [signals, *({s} for s in sorted(signals) if len(signals) > 1)]:
            shown = Exposure({s: self._shown.grains[s] for s in some}, self._shown.outputs)
            try:
                if "csv" in message.headers["content-type"]:
                    if len(some) > 1:
                        continue
                    raw: dict[str, Any] = {next(iter(some)).value: np.array(_csv(message.body))}
                else:
                    raw = self._codec.answers(message, frozenset(some), n)
            except AnswerError as error:
                why = error.told
                continue
            except UsageError:
                continue
            except ValueError:
                why = "it is no table of numbers"
                continue
            try:
                answers, bad = (
                    sound(raw, n, shown) if _long(raw, n) else (None, {0: f"answers to {n} inputs are not there"})
                )
            except (TypeError, ValueError, IndexError):
                answers, bad = None, {0: "not a rectangular array of numbers"}
            if answers is not None and not bad:
                return answers
            why = next(iter(bad.values()), why)
        raise Bad(f"the response: {why}")


def _long(raw: Mapping[str, Any], n: int) -> bool:
    return all(len(value) == n for value in raw.values())


def _csv(body: bytes) -> list[list[float]]:
    """Rows of numbers. Raises RequestError."""
    try:
        lines = [line.split(",") for line in body.decode().splitlines() if line.strip()]
        return [[float(cell) if cell.strip() else math.nan for cell in line] for line in lines]
    except ValueError:
        raise RequestError(400, "the body is no CSV of numbers") from None


def _csv_texts(body: bytes) -> list[list[str]]:
    """Rows of one text. Raises RequestError."""
    try:
        return list(csv.reader(io.StringIO(body.decode(), newline=""), strict=True))
    except (ValueError, csv.Error):
        raise RequestError(400, "the body is no CSV of texts") from None


class SageMaker:
    """Data capture: a record holds both bodies."""

    def __init__(self, bodies: Bodies, places: Places) -> None:
        self._bodies, self._places, self._recent = bodies, places, Recent()

    def add(self, file: str, line: int, record: dict[str, Any]) -> None:
        """One record. Raises Bad."""
        captured = record.get("captureData")
        if not isinstance(captured, dict) or "endpointInput" not in captured or "endpointOutput" not in captured:
            raise Bad("the record does not hold both endpointInput and endpointOutput")
        key = self._places.id(record)
        if key is not None and self._recent.again(key):
            raise Aside(AGAIN)
        request, response = (self._message(captured[part]) for part in ("endpointInput", "endpointOutput"))
        self._bodies.take(record, request, response)

    def close(self) -> None:
        """Nothing waits."""

    @staticmethod
    def _message(part: Any) -> Message:
        if not isinstance(part, dict) or not isinstance(part.get("data"), str):
            raise Bad("captured data is not text")
        encoding = str(part.get("encoding", "")).upper()
        content = str(part.get("observedContentType") or ("text/csv" if encoding == "CSV" else "application/json"))
        try:
            data = base64.b64decode(part["data"], validate=True) if encoding == "BASE64" else part["data"].encode()
        except (binascii.Error, ValueError):
            raise Bad("captured data is not the encoding that it says") from None
        return Message(data, {"content-type": content.lower()})


class KServe:
    """CloudEvents of KServe's logger: a request and a response under one id, in any order, even in other files."""

    def __init__(self, bodies: Bodies, places: Places, folder: Path) -> None:
        self._bodies, self._places = bodies, places
        self._join, self._recent = Join(folder, ROOM, SIZE), Recent()

    def add(self, file: str, line: int, record: dict[str, Any]) -> None:
        """One event. Raises Bad."""
        kind, key = record.get("type"), self._places.id(record)
        if kind not in (REQUEST, RESPONSE):
            raise Bad("the event is neither an inference request nor a response")
        if key is None:
            raise Bad("the event has no id")
        if self._recent.again((kind == REQUEST, key)):
            raise Aside(AGAIN)
        try:
            pair = self._join.add(str(key), Half(kind == REQUEST, file, line, record))
        except TypeError:
            raise Bad("the event is nested too deeply") from None
        if pair is not None:
            self._take(*pair)

    def close(self) -> None:
        """Join what came far apart; what stayed alone is rejected."""
        for found in self._join.rest():
            if isinstance(found, Half):
                other = "response" if found.request else "request"
                self._bodies.tally.reject(found.file, found.line, f"there is no {other} of its id")
                continue
            try:
                self._take(*found)
            except Bad as why:
                self._bodies.tally.reject(found[0].file, found[0].line, str(why))
            except Aside as why:
                self._bodies.tally.aside[str(why)] += 1

    def _take(self, request: Half, response: Half) -> None:
        about = {**request.event, "metadata": _headers(request.event.get("metadata"))}
        bodies = (_event_body(half.event) for half in (request, response))
        self._bodies.take(about, *bodies)


def _headers(metadata: Any) -> Any:
    """KServe's extension: request headers as JSON text, several values each; here one each, names in lower case."""
    if isinstance(metadata, str):
        try:
            metadata = orjson.loads(metadata)
        except orjson.JSONDecodeError:
            return None
    if not isinstance(metadata, dict):
        return None
    return {k.lower(): v[0] if isinstance(v, list) and v else v for k, v in metadata.items()}


def _event_body(event: Mapping[str, Any]) -> Message:
    content = str(event.get("datacontenttype") or "application/json").lower()
    if "data_base64" in event:
        try:
            return Message(base64.b64decode(event["data_base64"], validate=True), {"content-type": content})
        except (binascii.Error, ValueError, TypeError):
            raise Bad("the event's data_base64 is not base64") from None
    data = event.get("data")
    if data is None:
        raise Bad("the event has no data")
    try:
        return Message(data.encode() if isinstance(data, str) else orjson.dumps(data), {"content-type": content})
    except TypeError:
        raise Bad("the event is nested too deeply") from None
