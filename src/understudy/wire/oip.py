"""Open Inference Protocol v2, JSON form: POST /v2/models/{name}/infer (KServe, MLServer, Triton)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from understudy.errors import AnswerError
from understudy.types import Floats, Signal
from understudy.wire import _json

_NAMES = {"probabilities": "predict_proba", "label": "predict", "value": "predict", "logits": "decision_function"}


@dataclass(frozen=True)
class OpenInference:
    """Open Inference Protocol v2, JSON.

    `input_name`, `datatype`: the one input tensor. `outputs`: output tensor per signal, asked for by name and expected
    back by name (defaults: those of MLServer's scikit-learn runtime). `classes`: class names, where labels are text.
    """

    input_name: str = "input-0"
    datatype: str = "FP64"
    outputs: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def request(self, inputs: Floats, signals: frozenset[Signal]) -> bytes:
        """The body of an inference request for `inputs`, asking for one output tensor per signal."""
        tensor = {
            "name": self.input_name,
            "shape": list(inputs.shape),
            "datatype": self.datatype,
            "data": inputs.ravel().tolist(),
        }
        wanted = [{"name": self._name(signal)} for signal in sorted(signals)]
        return _json.write({"inputs": [tensor], "outputs": wanted})

    def answers(self, body: bytes, signals: frozenset[Signal], n: int) -> dict[str, Any]:
        """Raw arrays by signal, in the shapes the server states. Raises AnswerError."""
        outputs = _json.member(_json.read(body), "outputs", body)
        if not isinstance(outputs, list):
            raise AnswerError("'outputs' is not a list of tensors", body)
        tensors = {_json.member(t, "name", body, "an output tensor"): t for t in outputs}
        return {signal.value: self._array(tensors, signal, body) for signal in signals}

    def _name(self, signal: Signal) -> str:
        return self.outputs.get(signal.value, _NAMES[signal.value])

    def _array(self, tensors: Mapping[str, Any], signal: Signal, body: bytes) -> Any:
        name = self._name(signal)
        tensor = _json.member(tensors, name, body)
        shape = _json.member(tensor, "shape", body, f"tensor {name}")
        data = _flat(_json.member(tensor, "data", body, f"tensor {name}"))
        if not isinstance(shape, list) or not all(isinstance(s, int) and s >= 0 for s in shape):
            raise AnswerError(f"tensor {name}: its shape is not a list of sizes", body)
        if len(data) != math.prod(shape):
            raise AnswerError(f"tensor {name}: {len(data)} numbers came for shape {shape}", body)
        if signal is Signal.LABEL:
            return _json.indexed(data, self.classes, body)
        try:
            return np.asarray(data, np.float64).reshape(shape)
        except (TypeError, ValueError):
            raise AnswerError(f"tensor {name}: not all numbers", body) from None


def _flat(data: Any) -> list[Any]:
    """Data may be nested or flat, row-major either way."""
    if isinstance(data, list) and data and isinstance(data[0], list):
        return [value for row in data for value in _flat(row)]
    return data if isinstance(data, list) else [data]
