"""KServe v1 and TensorFlow Serving: POST /v1/models/{name}:predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from understudy.types import Floats, Signal
from understudy.wire import _json


@dataclass(frozen=True)
class KServeV1:
    """KServe v1 / TensorFlow Serving, row form.

    `signature`: signature_name, where the model has several. `fields`: name per signal, where predictions are objects.
    `classes`: class names, where labels are text.
    """

    signature: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def request(self, inputs: Floats, signals: frozenset[Signal]) -> bytes:
        """The body of a :predict request."""
        named = {"signature_name": self.signature} if self.signature else {}
        return _json.write({**named, "instances": inputs.tolist()})

    def answers(self, body: bytes, signals: frozenset[Signal], n: int) -> dict[str, Any]:
        """Raw arrays by signal. Raises AnswerError."""
        rows = _json.member(_json.read(body), "predictions", body)
        return _json.by_signal(rows, signals, self.fields, self.classes, body)
