"""Texts on the wire: what a client sends is what the gateway reads, in every protocol, and nothing else is a text."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test_wire_hostile import cheap
from understudy import registry, texts
from understudy.errors import UsageError
from understudy.types import Exposure, Signal
from understudy.wire import Card, RequestError

P = frozenset({Signal.PROBABILITIES})
LENGTH = "inference-header-content-length"
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "bentoml": ("bentoml", {"body": {"texts": "$inputs"}}),
    "json": ("json", {}),
    "json-by-row": ("json", {"body": {"x": {"$rows": {"text": "$input"}}}}),
    "kserve-v1": ("kserve-v1", {}),
    "kserve-v1-named": ("kserve-v1", {"input_name": "text"}),
    "kserve-v1-columnar": ("kserve-v1", {"columnar": True, "input_name": "text"}),
    "mlflow": ("mlflow", {}),
    "mlflow-records": ("mlflow", {"form": "dataframe_records", "columns": ("text",)}),
    "mlflow-split": ("mlflow", {"form": "dataframe_split", "columns": ("text",)}),
    "open-inference": ("open-inference", {}),
    "open-inference-binary": ("open-inference", {"binary": True}),
    "sagemaker": ("sagemaker", {}),
}
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def codec(name: str) -> Any:
    protocol, options = CODECS[name]
    return registry.create("protocols", protocol, **options)


@pytest.mark.parametrize("name", sorted(CODECS))
@given(asked=st.lists(anything, min_size=1, max_size=4))
def test_what_was_sent_is_what_is_read(name: str, asked: list[str]) -> None:
    made = codec(name)
    sent = made.request(texts.array(asked), P)
    read = made.parse(sent.body, {**sent.headers, "accept": "application/json"}, ())
    assert read.inputs.dtype == object
    assert read.inputs.tolist() == asked
    assert read.wider == ()


def test_a_single_row_template_takes_one_text() -> None:
    made = registry.create("protocols", "json", body={"prompt": "$input"}, answer={"label": "$label"})
    assert made.parse(made.request(texts.array(["hello"]), P).body, {}, ()).inputs.tolist() == ["hello"]
    with pytest.raises(UsageError, match=r"target\.batch: 1"):
        made.request(texts.array(["a", "b"]), P)


def bodies(name: str, data: Any) -> dict[str, Any]:
    """A request around what should be texts."""
    if name.startswith("open-inference"):
        n = len(data) if isinstance(data, list) else 1
        return {"inputs": [{"name": "x", "shape": [n], "datatype": "BYTES", "data": data}]}
    if name == "bentoml":
        return {"texts": data}
    if name == "sagemaker":
        return {"instances": [{"features": row} for row in data] if isinstance(data, list) else data}
    if name == "json-by-row":
        return {"x": [{"text": row} for row in data] if isinstance(data, list) else data}
    return {"inputs" if name.startswith("mlflow") else "instances": data}


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize(
    "data",
    [
        *([], [1], ["a", 1], [None], [True], [{"a": "b"}], [["a", "b"]], [["a"], "b"], [["a"], ["b", "c"]], [[["a"]]]),
        *("abc", 7, None, {"x": "a"}, [[]], [[1.5]]),
    ],
    ids=str,
)
def test_what_is_no_text_is_refused(name: str, data: Any) -> None:
    """Never a number read as a text, nor a text out of something else."""
    with pytest.raises(RequestError) as caught:
        codec(name).parse(json.dumps(bodies(name, data)).encode(), {}, ())
    assert caught.value.status == 400


@pytest.mark.parametrize("name", sorted(CODECS))
def test_half_a_character_is_no_json(name: str) -> None:
    for bad in (rb'"\ud83d"', b'"\xff"', b'"\xed\xa0\x80"'):
        body = json.dumps(bodies(name, ["AAA"])).encode().replace(b'"AAA"', bad)
        with pytest.raises(RequestError):
            codec(name).parse(body, {}, ())


def framed(head: dict[str, Any], tail: bytes) -> tuple[bytes, dict[str, str]]:
    start = json.dumps(head).encode()
    return start + tail, {LENGTH: str(len(start))}


def tensor(tail: bytes, n: Any, **more: Any) -> tuple[bytes, dict[str, str]]:
    made = {"name": "x", "shape": [n], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}, **more}
    return framed({"inputs": [made]}, tail)


@pytest.mark.parametrize(
    ("tail", "n"),
    [
        (b"", 1),
        (struct.pack("<I", 5) + b"abc", 1),
        (struct.pack("<I", 2**32 - 1) + b"abc", 1),
        (struct.pack("<I", 3) + b"abc" + b"!", 1),
        (struct.pack("<I", 3) + b"abc", 2),
        (struct.pack("<I", 3) + b"abc", 10**18),
        (struct.pack("<I", 1) + b"\xff", 1),
        (struct.pack("<I", 3) + b"\xed\xa0\x80", 1),
        (b"\0\0\0", 1),
        (struct.pack("<I", 0) * 3, 2),
    ],
)
def test_bytes_that_are_no_texts(tail: bytes, n: int) -> None:
    body, headers = tensor(tail, n)
    with cheap(), pytest.raises(RequestError) as caught:
        codec("open-inference").parse(body, headers, ())
    assert caught.value.status == 400


@pytest.mark.parametrize("stated", [[], [0], [-1], [2, 1], [1, 2], [1, 1, 1], ["1"], [1.0], [True], 1])
def test_a_shape_that_is_not_the_texts(stated: Any) -> None:
    made = {"inputs": [{"name": "x", "shape": stated, "datatype": "BYTES", "data": ["a"]}]}
    with pytest.raises(RequestError):
        codec("open-inference").parse(json.dumps(made).encode(), {}, ())


def test_texts_and_numbers_do_not_mix() -> None:
    made = codec("open-inference")
    for datatype in ("FP64", "UINT8", "STRING"):
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": datatype, "data": ["a"]}]}
        with pytest.raises(RequestError, match="must be BYTES"):
            made.parse(json.dumps(body).encode(), {}, ())
    body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}]}
    with pytest.raises(RequestError, match="not a number's"):
        made.parse(json.dumps(body).encode(), {}, (1,))
    with pytest.raises(UsageError, match="BYTES is for texts"):
        registry.create("protocols", "open-inference", datatype="BYTES").request(texts.blank(1, (2,)), P)


def test_texts_come_flat_or_as_a_column() -> None:
    for data in (["a", "b"], [["a"], ["b"]]):
        for stated in ([2], [2, 1]):
            made = {"inputs": [{"name": "x", "shape": stated, "datatype": "BYTES", "data": data}]}
            assert codec("open-inference").parse(json.dumps(made).encode(), {}, ()).inputs.tolist() == ["a", "b"]


def test_the_metadata_say_texts() -> None:
    card = Card("spam", "1", (), Exposure.of(["label"], 2))
    about = codec("open-inference").routes("/v2/models/spam/infer", card)
    (told,) = json.loads(about["/v2/models/spam"].body)["inputs"]
    assert (told["datatype"], told["shape"]) == ("BYTES", [-1])
