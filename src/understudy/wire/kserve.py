"""KServe v1 and TensorFlow Serving: POST /v1/models/{name}:predict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from understudy.errors import UsageError
from understudy.texts import plain
from understudy.types import Answers, Array, Signal
from understudy.wire import _json, _released
from understudy.wire._codec import Asked, Card, Message, RequestError, noted, scores_only, unread

_ROUTE = re.compile(r"(?P<root>.*)/v1/models/(?P<name>[^/:]+)(?P<version>/versions/[^/:]+)?:(?P<verb>[^/:]+)")
_REQUEST = frozenset({"instances", "inputs", "signature_name"})


@dataclass(frozen=True)
class KServeV1:
    """KServe v1 / TensorFlow Serving `:predict`: by row (`instances`, `predictions`) or column (`inputs`, `outputs`).

    A server answers in the form it was asked in. Only `:predict` is an inference route: `:explain`, `:classify` and
    `:regress` are refused. A customer's `signature_name` is noted and not passed on.

    `signature`: signature_name, where the model has several. `input_name`: the input's name, where rows are objects.
    `columnar`: the client sends the columnar form. `fields`: name per signal, where predictions are objects; several
    signals always are. `classes`: class names, where labels are text. `single`: `flat`, (n,), or `column`, (n, 1),
    where the upstream answers one number per row (the second class of two, or one value) and customers should
    receive the same.
    """

    signature: str | None = None
    input_name: str | None = None
    columnar: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    single: _released.Single = None

    def request(self, inputs: Array, signals: frozenset[Signal]) -> Message:
        """A :predict request."""
        scores_only("kserve-v1", signals)
        head = {"signature_name": self.signature} if self.signature else {}
        rows = plain(inputs)
        if self.columnar:
            rows = {self.input_name: rows} if self.input_name else rows
        elif self.input_name:
            rows = [{self.input_name: row} for row in inputs.tolist()]
        return Message(_json.write({**head, "inputs" if self.columnar else "instances": rows}))

    def answers(self, message: Message, signals: frozenset[Signal], n: int) -> dict[str, Any]:
        """Raw arrays by signal. Raises AnswerError."""
        found = _json.member(_json.read(message), "outputs" if self.columnar else "predictions", message.body)
        return _json.by_signal(found, signals, self.fields, self.classes, message.body)

    def parse(self, body: bytes, headers: Mapping[str, str], shape: tuple[int, ...]) -> Asked:
        """A customer's request. Raises RequestError."""
        request = _json.asked(body, headers)
        wider = unread(request, _REQUEST)
        if request.get("signature_name") not in (None, self.signature):
            wider.append("signature_name")
        form = "inputs" if "inputs" in request else "instances"
        data = request.get(form)
        if data is None or ("inputs" in request and "instances" in request):
            raise RequestError(400, "send either 'instances' or 'inputs'")
        if self.input_name is not None:
            data = _unnamed(data, self.input_name)
        return Asked(_json.rows(data, shape), None, noted(wider, headers), form=form)

    def respond(self, asked: Asked, answers: Answers, model: str) -> Message:
        """`{"predictions": rows}`, or `{"outputs": columns}` to a columnar request."""
        scores_only("kserve-v1", answers.values)
        made = _released.columns(answers, self.classes, self.single)
        if asked.form == "inputs":
            return Message(_json.write({"outputs": _released.named(made, self.fields)}))
        return Message(_json.write({"predictions": _released.rows(made, self.fields)}))

    def error(self, status: int, message: str) -> Message:
        """`{"error": message}`."""
        return Message(_json.write({"error": message}))

    def routes(self, path: str, card: Card) -> dict[str, Message]:
        """The model's status, for /v1/models/{name}:predict under any root. Raises UsageError for another verb."""
        found = _ROUTE.fullmatch(path)
        if found is None:
            return {}
        if found["verb"] != "predict":
            raise UsageError(f"kserve-v1: :{found['verb']} is not inference; only :predict is served")
        status: dict[str, Any] = {"name": card.name, "ready": True}
        if card.version:
            fine = {"error_code": "OK", "error_message": ""}
            status["model_version_status"] = [{"version": card.version, "state": "AVAILABLE", "status": fine}]
        model = f"{found['root']}/v1/models/{found['name']}"
        about = Message(_json.write(status))
        return dict.fromkeys({model, model + (found["version"] or "")}, about)


def _unnamed(data: Any, name: str) -> Any:
    """Rows out of `[{name: row}, ...]` or `{name: rows}`; plain rows stay what they are."""
    try:
        if type(data) is dict:
            return data[name] if len(data) == 1 else None
        if type(data) is list and data and type(data[0]) is dict and set(map(len, data)) == {1}:
            return list(map(itemgetter(name), data))
    except (KeyError, TypeError, IndexError):
        raise RequestError(400, f"each input must be an object with the one field {name!r}") from None
    return data
