"""Tensors as JSON and as bytes, in every datatype."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from test_wire_server import LABEL, P, codec, parsed, tensor
from understudy.errors import InputError
from understudy.types import Answers


def test_binary_outputs_as_wanted() -> None:
    made = codec("open-inference")
    body: dict[str, Any] = {"inputs": [tensor()], "parameters": {"binary_data_output": True}}
    assert parsed(made, body).binary is True
    body["outputs"] = [{"name": "predict_proba"}, {"name": "predict", "parameters": {"binary_data": False}}]
    assert parsed(made, body).binary == frozenset({P})
    asked = replace(parsed(made, body), binary=frozenset({P}))
    message = made.respond(asked, Answers({LABEL: np.array([1]), P: np.array([[0.25, 0.75]])}, 2), "m")
    size = int(message.headers["inference-header-content-length"])
    assert message.headers["content-type"] == "application/octet-stream"
    assert message.body[size:] == np.array([0.25, 0.75]).tobytes()
    outputs = json.loads(message.body[:size])["outputs"]
    assert outputs[0]["data"] == [1]
    assert outputs[1]["parameters"] == {"binary_data_size": 16}
    raw = made.answers(message, frozenset({P, LABEL}), 1)
    assert raw["probabilities"].tolist() == [[0.25, 0.75]]


TYPES = [
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "BF16",
    "FP32",
    "FP64",
]


@pytest.mark.parametrize("datatype", TYPES)
def test_every_datatype_as_json_and_as_bytes(datatype: str) -> None:
    x = np.array([[0.0, 1.0], [1.0, 0.0]]) if datatype == "BOOL" else np.array([[0.0, 1.0], [100.0, 3.0]])
    for binary in (True, False):
        made = codec("open-inference", datatype=datatype, binary=binary)
        sent = made.request(x, frozenset({P}))
        assert np.array_equal(made.parse(sent.body, sent.headers, (2,)).inputs, x)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        *(("INT8", 200.0), ("UINT8", -1.0), ("INT64", 2.0**63), ("INT32", 0.5), ("BOOL", 2.0)),
        *(("FP16", 1e5), ("FP32", 1e300), ("BF16", 3.4e38)),
    ],
)
def test_inputs_that_do_not_fit_the_datatype_are_refused(datatype: str, value: float) -> None:
    with pytest.raises(InputError, match=f"1 input.* do not fit the datatype {datatype}"):
        codec("open-inference", datatype=datatype, binary=True).request(np.array([[value, 0.0]]), frozenset({P}))


def test_bfloat16_rounds_half_to_even() -> None:
    x = np.array([[1.00390625, 1.01171875]])  # half-way between two neighbours, twice
    made = codec("open-inference", datatype="BF16", binary=True)
    sent = made.request(x, frozenset({P}))
    assert made.parse(sent.body, sent.headers, (2,)).inputs.tolist() == [[1.0, 1.015625]]
