"""Open Inference Protocol v2 over HTTP: POST /v2/models/{name}/infer (KServe, MLServer, Triton)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from understudy import texts
from understudy.errors import AnswerError, UsageError
from understudy.types import Answers, Array, Signal
from understudy.wire import _json, _released, _tensor
from understudy.wire._codec import Asked, Card, Message, RequestError, noted, scores_only, shown, unread

_NAMES = {"probabilities": "predict_proba", "label": "predict", "value": "predict", "logits": "decision_function"}
_ROUTE = re.compile(r"(?P<root>.*)/v2/models/(?P<name>[^/]+)(?P<version>/versions/[^/]+)?/infer")
_LENGTH = "inference-header-content-length"
_REQUEST = frozenset({"id", "inputs", "outputs", "parameters"})
_TENSOR = frozenset({"name", "shape", "datatype", "data", "parameters"})
_HARMLESS = frozenset({"binary_data", "binary_data_output", "binary_data_size", "content_type"})
_LONGEST_ID = 256
_TEXTS = "BYTES"


@dataclass(frozen=True)
class OpenInference:
    """Open Inference Protocol v2, JSON and the binary tensor extension.

    As a client it asks for one output tensor per signal, by name, and expects them back by name; `binary`: it sends
    and wants tensors as bytes. As a server it reads one input tensor under any name, flat or nested, in JSON or bytes
    (BYTES where inputs are texts, else every other datatype), asks nothing of the upstream that was not read, and
    writes the tensors that are granted, as JSON or as bytes, whichever was wanted. What a
    request may ask for beyond its inputs is noted and not passed on: unknown output tensors, `classification`, and
    every parameter that does not say how bytes are sent. A request for nothing but unknown tensors is refused.

    `input_name`, `datatype`: the upstream's one input tensor. `outputs`: output tensor per signal (defaults: those of
    MLServer's scikit-learn runtime). `classes`: class names, where labels are text. `single`: `flat`, (n,), or
    `column`, (n, 1), where the upstream answers one number per row (the second class of two, or one value) and
    customers should receive the same. `answer_datatype`: FP64 or FP32, the type of scores that customers receive.
    """

    input_name: str = "input-0"
    datatype: str = "FP64"
    outputs: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    binary: bool = False
    single: _released.Single = None
    answer_datatype: Literal["FP64", "FP32"] = "FP64"

    def __post_init__(self) -> None:
        known = (*_tensor.DTYPES, _TEXTS)
        if self.datatype not in known:
            raise UsageError(f"open-inference: unknown datatype {self.datatype!r} (known: {', '.join(known)})")

    def request(self, inputs: Array, signals: frozenset[Signal]) -> Message:
        """An inference request. Raises InputError where the inputs do not fit the datatype, UsageError for signals
        that have no tensor.
        """
        scores_only("open-inference", signals)
        text = inputs.dtype == object
        datatype = _TEXTS if text else self.datatype
        if datatype == _TEXTS and not text:
            raise UsageError("open-inference: datatype BYTES is for texts, and these inputs are numbers")
        tensor: dict[str, Any] = {"name": self.input_name, "shape": inputs.shape, "datatype": datatype}
        wanted: list[dict[str, Any]] = [{"name": self._tensors[signal]} for signal in sorted(signals)]
        if text:  # MLServer hands its models bytes unless it is told
            tensor |= {"shape": (len(inputs), 1), "parameters": {"content_type": "str"}}
        if self.binary:
            data = _tensor.pack_texts(inputs.tolist()) if text else _tensor.pack(inputs, datatype)
            tensor["parameters"] = {**tensor.get("parameters", {}), "binary_data_size": len(data)}
            for output in wanted:
                output["parameters"] = {"binary_data": True}
            return _framed({"inputs": [tensor], "outputs": wanted}, data)
        # Floats travel with every digit, whatever their type: the server rounds, as it does for everybody.
        whole = inputs if datatype[0] in "FB" and datatype != "BOOL" else _tensor.cast(inputs, datatype)
        tensor["data"] = whole.tolist() if text else np.ascontiguousarray(whole).ravel()
        return Message(_json.write({"inputs": [tensor], "outputs": wanted}))

    def answers(self, message: Message, signals: frozenset[Signal], n: int) -> dict[str, Any]:
        """Raw arrays by signal, in the shapes the server states. Raises AnswerError."""
        raw = message.body
        size = _header_length(message)
        answer = _json.read(message if size is None else message._replace(body=raw[:size]))
        outputs = _json.member(answer, "outputs", raw)
        if not isinstance(outputs, list):
            raise AnswerError("'outputs' is not a list of tensors", raw)
        tensors: dict[str, tuple[Any, int]] = {}
        at = len(raw) if size is None else size
        for tensor in outputs:
            name = _json.member(tensor, "name", raw, "an output tensor")
            if not isinstance(name, str):
                raise AnswerError("an output tensor's name is not text", raw)
            tensors[name] = tensor, at
            at += _declared(tensor) or 0
        if at > len(raw):
            raise AnswerError(f"{at - len(raw):,} bytes of binary tensors are missing", raw)
        return {signal.value: self._array(tensors, signal, raw) for signal in signals}

    def parse(self, body: bytes, headers: Mapping[str, str], shape: tuple[int, ...]) -> Asked:
        """A customer's request. Raises RequestError."""
        start = _split(body, headers)
        request = _json.asked(body if start is None else body[:start], headers)
        inputs = request.get("inputs")
        if type(inputs) is not list or len(inputs) != 1 or type(inputs[0]) is not dict:
            raise RequestError(400, "'inputs' must be a list of one tensor")
        tensor = inputs[0]
        wider = unread(request, _REQUEST)
        wider += unread(tensor, _TENSOR, "inputs.")
        everything = _parameters(request, "", wider)
        x = _rows(tensor, _parameters(tensor, "inputs.", wider), body, start, shape)
        named = self._named(request.get("outputs"), wider)
        as_bytes: frozenset[Signal] | bool = everything.get("binary_data_output") is True
        if named is not None:
            as_bytes = frozenset(s for s, wanted in named.items() if (as_bytes if wanted is None else wanted))
        signals = None if named is None else frozenset(named)
        return Asked(x, signals, noted(wider, headers), _echo(request), as_bytes, alike=self._alike)

    def respond(self, asked: Asked, answers: Answers, model: str) -> Message:
        """One tensor per released signal, `model_name`, and the request's `id`."""
        scores_only("open-inference", answers.values)
        made = _released.columns(answers, self.classes, self.single)
        outputs, tail = [], list[bytes]()
        for signal, column in made.items():
            tensor: dict[str, Any] = {"name": self._tensors[signal]}
            text = isinstance(column, list)
            if signal is Signal.LABEL:
                tensor |= {"datatype": "BYTES" if text else "INT64", "shape": (len(column),)}
            else:
                tensor |= {"datatype": self.answer_datatype, "shape": column.shape}
                if self.answer_datatype == "FP32":
                    with np.errstate(over="ignore"):
                        column = column.astype(np.float32)
            if asked.binary is True or (asked.binary and signal in asked.binary):
                data = _tensor.pack_texts(column) if text else column.tobytes()
                tensor["parameters"] = {"binary_data_size": len(data)}
                tail.append(data)
            else:
                tensor["data"] = column if text else column.ravel()
            outputs.append(tensor)
        answer = {"model_name": model, **asked.echo, "outputs": outputs}
        return _framed(answer, *tail) if tail else Message(_json.write(answer))

    def error(self, status: int, message: str) -> Message:
        """`{"error": message}`."""
        return Message(_json.write({"error": message}))

    def routes(self, path: str, card: Card) -> dict[str, Message]:
        """Server and model metadata and health, for /v2/models/{name}/infer under any root."""
        found = _ROUTE.fullmatch(path)
        if found is None:
            return {}
        scores_only("open-inference", card.exposure.signals)
        root, model = found["root"] + "/v2", f"{found['root']}/v2/models/{found['name']}"
        versions = {"versions": [card.version]} if card.version else {}
        outputs = []
        for signal in sorted(card.exposure.signals):
            datatype, width = self.answer_datatype, [card.exposure.outputs]
            if signal is Signal.LABEL:
                datatype, width = ("BYTES" if self.classes else "INT64"), []  # type: ignore[assignment]
            elif self.single is not None and card.exposure.outputs == (1 if signal is Signal.VALUE else 2):
                width = [1] if self.single == "column" else []
            outputs.append({"name": self._tensors[signal], "datatype": datatype, "shape": [-1, *width]})
        asked = self.datatype if card.shape else _TEXTS
        inputs = [{"name": self.input_name, "datatype": asked, "shape": [-1, *card.shape]}]
        about = {"name": card.name, **versions, "platform": "", "inputs": inputs, "outputs": outputs}
        server = {"name": card.name, "extensions": ["binary_tensor_data"]}
        ready = Message(_json.write({"name": card.name, "ready": True}))
        names = {model, model + (found["version"] or "")}
        health = {f"{root}/health/live": Message(b'{"live":true}'), f"{root}/health/ready": Message(b'{"ready":true}')}
        described = Message(_json.write(about))
        return {
            root: Message(_json.write(server)),
            **health,
            **{f"{name}/ready": ready for name in names},
            **dict.fromkeys(names, described),
        }

    @cached_property
    def _tensors(self) -> dict[Signal, str]:
        return {signal: self.outputs.get(signal.value, _NAMES[signal.value]) for signal in Signal if signal in _NAMES}

    @cached_property
    def _signals(self) -> dict[str, tuple[Signal, ...]]:
        return {
            name: tuple(s for s, tensor in self._tensors.items() if tensor == name) for name in self._tensors.values()
        }

    @cached_property
    def _alike(self) -> tuple[frozenset[Signal], ...]:
        return tuple(frozenset(signals) for signals in self._signals.values() if len(signals) > 1)

    def _named(self, outputs: Any, wider: list[str]) -> dict[Signal, bool | None] | None:
        """The signals asked for by tensor name, each with whether it was wanted as bytes; None where none was named."""
        if outputs is None or outputs == []:
            return None
        if type(outputs) is not list or not all(type(o) is dict and type(o.get("name")) is str for o in outputs):
            raise RequestError(400, "'outputs' must be a list of named tensors")
        named: dict[Signal, bool | None] = {}
        for output in outputs:
            signals = self._signals.get(output["name"], ())
            if not signals:
                wider.append("outputs." + shown(output["name"]))
            if len(output) > 1:
                wider += unread(output, _TENSOR, "outputs.")
            wanted = _parameters(output, "outputs.", wider).get("binary_data")
            named |= dict.fromkeys(signals, wanted if isinstance(wanted, bool) else None)
        if not named:
            raise RequestError(400, "none of the outputs that were asked for is served here")
        return named

    def _array(self, tensors: Mapping[str, tuple[Any, int]], signal: Signal, raw: bytes) -> Array:
        name = self._tensors[signal]
        tensor, at = _json.member(tensors, name, raw)
        where = f"tensor {name}"
        shape = _json.member(tensor, "shape", raw, where)
        if not isinstance(shape, list) or not all(type(s) is int and s >= 0 for s in shape) or len(shape) > 32:
            raise AnswerError(f"{where}: its shape is not a list of sizes", raw)
        size, count = _declared(tensor), math.prod(shape)
        if size is None:
            data = _flat(_json.member(tensor, "data", raw, where))
            if len(data) != count:
                raise AnswerError(f"{where}: {len(data)} numbers came for shape {str(shape)[:60]}", raw)
        else:
            data = _unpacked(tensor.get("datatype"), raw, at, size, count, where)
        made = _json.column_of(signal, data, self.classes, raw)
        try:
            return made if signal is Signal.LABEL else made.reshape(shape)
        except ValueError:
            raise AnswerError(f"{where}: not numbers in the shape it states", raw) from None


def _framed(head: Mapping[str, Any], *tail: bytes) -> Message:
    """JSON and the bytes after it, with the header that says where one ends."""
    start = _json.write(head)
    return Message(b"".join((start, *tail)), {"content-type": "application/octet-stream", _LENGTH: str(len(start))})


def _split(body: bytes, headers: Mapping[str, str]) -> int | None:
    """Where the bytes after the JSON of a request begin; None where all of it is JSON."""
    text = headers.get(_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16 and 0 < int(text) <= len(body)):
        raise RequestError(400, "Inference-Header-Content-Length is not a length within the body")
    return int(text)


def _header_length(message: Message) -> int | None:
    text = message.headers.get(_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= len(message.body)):
        raise AnswerError("Inference-Header-Content-Length is not a length within the answer", message.body)
    return int(text)


def _parameters(part: Mapping[str, Any], where: str, wider: list[str]) -> Mapping[str, Any]:
    """The parameters of a request's part; those that do not say how bytes are sent are noted."""
    given = part.get("parameters")
    if given is None:
        return {}
    if type(given) is not dict:
        raise RequestError(400, "'parameters' must be an object")
    wider += unread(given, _HARMLESS, f"{where}parameters.")
    return given


def _echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    name = request.get("id")
    if name is None:
        return {}
    if type(name) is not str or len(name) > _LONGEST_ID:
        raise RequestError(400, f"'id' must be text of at most {_LONGEST_ID} characters")
    return {"id": name}


def _rows(
    tensor: Mapping[str, Any], parameters: Mapping[str, Any], body: bytes, start: int | None, shape: tuple[int, ...]
) -> Array:
    """The input tensor, (n, *shape), texts where that is (). Memory is taken only for what is there."""
    stated, datatype, data = tensor.get("shape"), tensor.get("datatype"), tensor.get("data")
    if type(tensor.get("name")) is not str or type(stated) is not list or type(datatype) is not str:
        raise RequestError(400, "the input tensor needs a name, a shape and a datatype")
    if shape and datatype not in _tensor.DTYPES:
        raise RequestError(400, "the input tensor's datatype is not a number's")
    if not shape and datatype != _TEXTS:
        raise RequestError(400, "the input tensor's datatype must be BYTES: inputs are texts")
    n = stated[0] if stated else 0
    if not shape and stated[1:] == [1]:
        stated = stated[:1]  # the same texts as a table of one column
    if stated[1:] != list(shape) or not all(type(size) is int for size in stated) or n < 1:
        raise RequestError(
            400, f"the input tensor's shape must be [{', '.join(map(str, ('n', *shape)))}], n at least 1"
        )
    count = n * math.prod(shape)
    size = parameters.get("binary_data_size")
    if size is None:
        if start is not None and start != len(body):
            raise RequestError(400, "there are bytes after the JSON, and no tensor says they are its own")
        if type(data) is not list or not data:
            raise RequestError(400, "the input tensor has no data")
        if type(data[0]) is list or not shape:
            x = _json.rows(data, shape)
            if len(x) != n:
                raise RequestError(400, "the input tensor's data does not fit its shape")
            return x
        if len(data) != count:
            raise RequestError(400, "the input tensor's data does not fit its shape")
        return _json.rows((data,), (count,)).reshape(n, *shape)
    if type(size) is not int or data is not None or start is None:
        raise RequestError(400, "binary_data_size needs Inference-Header-Content-Length, and no data beside it")
    if not shape:
        if size != len(body) - start:
            raise RequestError(400, "binary_data_size is not the number of bytes that came")
        try:
            return texts.array(_tensor.unpack_texts(body[start:], n))
        except ValueError:
            raise RequestError(400, "the bytes are not as many UTF-8 texts as the shape states") from None
    if size != len(body) - start or size != count * _tensor.DTYPES[datatype].itemsize:
        raise RequestError(400, "binary_data_size fits neither the bytes that came nor the tensor's shape and datatype")
    x = _tensor.unpack(datatype, body, start, count)
    if not np.isfinite(x).all():
        raise RequestError(400, "the input tensor holds NaN or infinities")
    return x.reshape(n, *shape)


def _declared(tensor: Any) -> int | None:
    """How many bytes an answer's tensor says are its own."""
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    return size if type(size) is int and size >= 0 else None


def _unpacked(datatype: Any, raw: bytes, at: int, size: int, count: int, where: str) -> Any:
    if datatype == "BYTES":
        try:
            return _tensor.unpack_texts(raw[at : at + size], count)
        except ValueError as error:
            raise AnswerError(f"{where}: {error}", raw) from None
    if not isinstance(datatype, str) or datatype not in _tensor.DTYPES:
        raise AnswerError(f"{where}: unknown datatype {shown(datatype)!r}", raw)
    if size != count * _tensor.DTYPES[datatype].itemsize:
        raise AnswerError(f"{where}: {size:,} bytes came for {count:,} numbers of {datatype}", raw)
    return _tensor.unpack(datatype, raw, at, count)


def _flat(data: Any) -> list[Any]:
    """Data may be nested or flat, row-major either way."""
    for _ in range(32):
        if not (isinstance(data, list) and data and isinstance(data[0], list)):
            break
        flat: list[Any] = []
        for row in data:
            flat.extend(row if isinstance(row, list) else (row,))
        data = flat
    return data if isinstance(data, list) else [data]
