"""Bytes that nobody should send: every one is one clear refusal, at once, in no more memory than it takes."""

from __future__ import annotations

import gzip
import json
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy import registry
from understudy.errors import AnswerError, UsageError
from understudy.types import Signal
from understudy.wire import Message, RequestError, decoded

LABEL, P = Signal.LABEL, Signal.PROBABILITIES
NAMES = sorted(registry.names("protocols"))
LENGTH = "inference-header-content-length"
DEEP = b"[" * 100_000
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "kserve-v1": [{}, {"input_name": "x"}, {"classes": ("a", "b"), "columnar": True}],
    "mlflow": [{}, {"columns": ("a", "b")}, {"classes": ("a", "b")}],
    "open-inference": [{}, {"classes": ("a", "b")}],
    "json": [{}, {"paths": {"probabilities": "max(@)", "label": "keys(@)"}, "inputs": "instances || inputs"}],
}


def codec(name: str, **options: Any) -> Any:
    return registry.create("protocols", name, **options)


@contextmanager
def cheap(seconds: float = 2.0, megabytes: float = 20.0) -> Iterator[None]:
    """What runs here takes little time and memory."""
    tracemalloc.start()
    started = time.process_time()
    try:
        yield
        taken, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < seconds
    assert peak < megabytes * 1e6


def refused(name: str, body: Any, headers: dict[str, str] | None = None, status: int = 400, **options: Any) -> str:
    """The message with which a request is refused, cheaply."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = codec(name, **options)
    with (
        cheap(megabytes=20 + 15 * len(raw) / 1e6),
        pytest.raises(RequestError) as caught,
    ):  # orjson takes 13 bytes for 1
        made.parse(raw, headers or {}, (2,))
    assert caught.value.status == status
    assert len(str(caught.value)) < 150
    return str(caught.value)


def wrapped(name: str, rows: Any, n: int = 1) -> Any:
    """The protocol's request around rows."""
    if name == "open-inference":
        return {"inputs": [{"name": "x", "shape": [n, 2], "datatype": "FP64", "data": rows}]}
    if name == "sagemaker":
        return {"instances": [{"features": row} for row in rows] if isinstance(rows, list) else rows}
    return {{"mlflow": "inputs", "bentoml": "input_data"}.get(name, "instances"): rows}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"3", b'"x"', b"[]", b"{}", b"[{}]", b"\xff\xfe", b'\xef\xbb\xbf{"instances":[[1,2]]}'),
        *(DEEP, b'{"a":' * 100_000, DEEP[:500] + b"]" * 500, b'{"instances":' + DEEP, b'{"inputs":[{"shape":' + DEEP),
        *(b"<html>", b'{"instances": [[1, 2]', b'{"inputs": [[1, 2]]} {}', b"x" * 1_000_000),
        *(b'{"instances": {"b64": "AAAA"}}', b'{"inputs": "[[1, 2]]"}'),
    ],
)
def test_no_request_at_all(name: str, body: bytes) -> None:
    refused(name, body)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "rows",
    [
        *([], None, {}, 3, "x", [[]], [[], []], [[1], [2]], [[1, 2], [3]], [[1, 2, 3]], [[[1, 2]]], [1]),
        *([["1", "2"]], [["a", 2]], [[None, 2]], [[{}, 2]], [["nan", 1]], ["12"], [{"1": 1, "2": 2}], [[[1], [2]]]),
        *([[1, 2], "34"], [[1, 2], {"a": 1, "b": 2}], "[[1, 2]]", [["1" * 1_000_000, 2]] * 3),
    ],
    ids=lambda rows: repr(rows)[:30],
)
def test_rows_that_are_no_rows(name: str, rows: Any) -> None:
    """Ragged, empty, nested otherwise, or text where numbers belong: text is never read as a number."""
    refused(name, wrapped(name, rows))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("token", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 400])
def test_what_is_not_finite_is_refused(name: str, token: bytes) -> None:
    body = json.dumps(wrapped(name, [[1, 12345]])).encode().replace(b"12345", token)
    refused(name, body)


@pytest.mark.parametrize("name", NAMES)
def test_integers_beyond_64_bit_are_the_nearest_float(name: str) -> None:
    body = json.dumps(wrapped(name, [[2**64 + 1, -(2**70)]])).encode()
    assert codec(name).parse(body, {}, (2,)).inputs.tolist() == [[2.0**64, -(2.0**70)]]


@pytest.mark.parametrize("name", NAMES)
def test_of_a_key_given_twice_the_last_counts_for_everybody(name: str) -> None:
    """No difference between what was inspected and what is sent: the upstream sees only what was read."""
    body = json.dumps(wrapped(name, [[1, 2]])).encode()
    twice = body[:-1] + b"," + json.dumps(wrapped(name, [[3, 4]])).encode()[1:]
    made = codec(name)
    asked = made.parse(twice, {}, (2,))
    assert asked.inputs.tolist() == [[3.0, 4.0]]
    upstream = json.loads(made.request(asked.inputs, frozenset({P})).body)
    assert b"1" not in json.dumps(upstream).replace("input-0", "").replace('"shape": [1, 2]', "").encode()


def test_a_body_that_is_no_json_by_its_own_words() -> None:
    assert "send JSON" in refused("mlflow", b"a,b\n1,2\n", {"content-type": "text/csv"}, 415)
    assert "not JSON" in refused("mlflow", b"a,b\n1,2\n", {"content-type": "application/json"})


def test_a_row_without_inputs_is_not_skipped() -> None:
    assert "no inputs where they belong" in refused("sagemaker", {"instances": [{"features": [1, 2]}, {}]})


def test_curl_without_a_content_type_is_read() -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert codec("kserve-v1").parse(b'{"instances": [[1, 2]]}', form, (2,)).inputs.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("name", "body", "wanted"),
    [
        ("kserve-v1", {"instances": [[1, 2]], "inputs": [[1, 2]]}, "either"),
        ("kserve-v1", {"instances": [{"x": [1, 2]}]}, "shape"),
        ("mlflow", {"inputs": [[1, 2]], "instances": [[1, 2]]}, "exactly one"),
        ("mlflow", {"prompt": "hello"}, "exactly one"),
        ("mlflow", {"messages": [{"role": "user", "content": "hello"}]}, "exactly one"),
        ("mlflow", {"dataframe_split": [[1, 2]]}, "an object"),
        ("mlflow", {"dataframe_split": {"columns": ["a", "b"]}}, "not a list of rows"),
        ("mlflow", {"dataframe_records": [{"a": 1, "b": 2}]}, "not served here"),
        ("mlflow", {"inputs": {"a": [1], "b": [2]}}, "columns"),
    ],
)
def test_forms_that_are_not_read(name: str, body: Any, wanted: str) -> None:
    assert wanted in refused(name, body)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}},
        {"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}},
        {"dataframe_split": {"columns": [1, 2], "data": [[1, 2]]}},
        {"dataframe_split": {"columns": ["b", "a"], "data": [[1]]}},
        {"dataframe_split": {"columns": ["b", "a"], "data": "12"}},
        {"dataframe_split": {"columns": ["b", "a"], "data": [{"a": 1, "b": 2}]}},
        {"dataframe_records": [{"a": 1}]},
        {"dataframe_records": [{"a": 1, "c": 2}]},
        {"dataframe_records": [{"a": 1, "b": "2"}]},
        {"dataframe_records": [{"a": 1, "b": 2, "c": 3}]},
        {"dataframe_records": ["ab"]},
        {"dataframe_records": [[1, 2]]},
        {"dataframe_records": [1]},
        {"dataframe_records": {"a": 1, "b": 2}},
        {"dataframe_records": []},
        {"inputs": {"a": [1], "b": [2, 3]}},
        {"inputs": {"a": 1, "b": 2}},
        {"inputs": {"a": ["x"], "b": [2]}},
        {"inputs": {"a": [1]}},
    ],
)
def test_data_frames_that_are_none(body: Any) -> None:
    refused("mlflow", body, columns=("a", "b"))


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"y": [1, 2]}]},
        {"instances": [{"x": [1, 2], "y": 1}]},
        {"instances": [{"x": [1, 2]}, [1, 2]]},
        {"instances": [{"x": [1, 2]}, 3]},
        {"inputs": {"x": [[1, 2]], "y": 1}},
        {"inputs": {"y": [[1, 2]]}},
    ],
)
def test_named_rows_that_are_none(body: Any) -> None:
    refused("kserve-v1", body, input_name="x")


def one(**more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2], **more}]}


@pytest.mark.parametrize(
    "body",
    [
        *({"inputs": []}, {"inputs": {}}, {"inputs": [1]}, {"inputs": one()["inputs"] * 2}),
        *(one(name=1), one(name=None), one(shape=None), one(shape=[]), one(shape=[2]), one(shape=[2, 1])),
        *(one(shape=[1.0, 2]), one(shape=[True, 2]), one(shape=["1", 2]), one(shape=[-1, 2]), one(shape=[0, 2])),
        *(one(shape=[2**62, 2]), one(shape=[2**62, 2**62]), one(shape=[1, 2, 1]), one(shape=[2, 2], data=[[1, 2]])),
        *(one(data=[1]), one(data=[1, 2, 3]), one(data=None), one(data="12"), one(data=[]), one(data=[1, "2"])),
        *(one(data=[[1, "2"]]), one(data=[1, [2]]), one(data=[[1], [2]]), one(data=[[[1, 2]]]), one(data={"a": 1})),
        *(one(datatype="BYTES", data=["a", "b"]), one(datatype="FP8"), one(datatype=3), one(datatype=None)),
        *(one(parameters=[]), one(parameters={"binary_data_size": 16}), {**one(), "parameters": "x"}),
        *({**one(), "id": 3}, {**one(), "id": "x" * 300}, {**one(), "id": ["x"]}),
        *({**one(), "outputs": {}}, {**one(), "outputs": ["predict"]}, {**one(), "outputs": [{}]}),
        *({**one(), "outputs": [{"name": 3}]}, {**one(), "outputs": [{"name": "predict", "parameters": 3}]}),
    ],
    ids=lambda body: repr(body)[:60],
)
def test_tensors_that_are_none(body: Any) -> None:
    refused("open-inference", body)


def framed(
    tail: bytes, size: Any, datatype: str = "FP64", shape: Any = (1, 2), **more: Any
) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "x", "shape": list(shape), "datatype": datatype, "parameters": {"binary_data_size": size}, **more}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + tail, {LENGTH: str(len(head))}


GOOD = np.array([1.0, 2.0]).tobytes()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        framed(GOOD[:-1], 16),
        framed(GOOD[:-1], 15),
        framed(GOOD + b"x", 16),
        framed(GOOD + b"x", 17),
        framed(GOOD, 8),
        framed(GOOD, -16),
        framed(GOOD, 2**63),
        framed(GOOD, "16"),
        framed(GOOD, True),
        framed(GOOD, 16.0),
        framed(GOOD, None),
        framed(GOOD, 16, data=[1, 2]),
        framed(GOOD, 16, "FP32"),
        framed(GOOD, 16, "BYTES"),
        framed(GOOD, 16, shape=(2**61, 2)),
        framed(b"", 0),
        framed(struct.pack("<2d", float("nan"), 1), 16),
        framed(struct.pack("<2d", float("inf"), 1), 16),
        framed(struct.pack("<2I", 0x7F800001, 0), 8, "FP32"),  # a signalling NaN
        framed(struct.pack("<2H", 0x7F80, 0), 4, "BF16"),
        *(
            (framed(GOOD, 16)[0], {LENGTH: text})
            for text in ("-1", "0", "9" * 30, "1e2", " 80", "", "99999", "²", "10")
        ),
        (framed(GOOD, 16)[0], {}),
        (json.dumps(one()).encode() + b"tail", {LENGTH: str(len(json.dumps(one())))}),
    ],
    ids=range(31),
)
def test_binary_tensors_that_are_none(body: bytes, headers: dict[str, str]) -> None:
    refused("open-inference", body, headers)


def test_binary_tensors_that_are_fine() -> None:
    made = codec("open-inference")
    body, headers = framed(GOOD, 16)
    assert made.parse(body, headers, (2,)).inputs.tolist() == [[1.0, 2.0]]
    body, headers = framed(struct.pack("<2B", 0, 200), 2, "BOOL")
    assert made.parse(body, headers, (2,)).inputs.tolist() == [[0.0, 1.0]]
    body = json.dumps(one()).encode()
    assert made.parse(body, {LENGTH: str(len(body))}, (2,)).inputs.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body",
    [
        *(
            DEEP,
            b'{"predictions":' + DEEP,
            b'{"outputs":[' + DEEP,
            b'{"predictions":' + DEEP[:900] + b"NaN" + b"]" * 900 + b"}",
        ),
        b'{"outputs":[{"name":"predict","shape":[1],"data":' + DEEP[:900] + b"1" + b"]" * 900 + b"}]}",
        b'{"outputs":[{"name":"predict_proba","shape":[4611686018427387904,4611686018427387904],"data":[]}]}',
        b'{"outputs":[{"name":"predict_proba","shape":[1,2],"data":["' + b"x" * 1_000_000 + b'",1]}]}',
        b'{"predictions":[["' + b"9" * 1_000_000 + b'",1]]}',
        b'{"predictions":[{"' + b"k" * 1_000_000 + b'":1}]}',
    ],
    ids=range(9),
)
def test_hostile_answers_are_one_clear_error(name: str, body: bytes) -> None:
    for options in OPTIONS.get(name, [{}]):
        with cheap(megabytes=20 + 15 * len(body) / 1e6), pytest.raises((AnswerError, UsageError)) as caught:
            codec(name, **options).answers(Message(body), frozenset({P, LABEL}), 1)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("length", "size", "datatype", "shape", "wanted"),
    [
        (None, 16, "FP64", [1, 2], "missing"),
        ("-3", 16, "FP64", [1, 2], "not a length"),
        ("999999", 16, "FP64", [1, 2], "not a length"),
        ("", 24, "FP64", [1, 2], "missing"),
        ("", 8, "FP64", [1, 2], "8 bytes came for 2 numbers"),
        ("", 16, "FP9", [1, 2], "unknown datatype"),
        ("", 16, None, [1, 2], "unknown datatype"),
        ("", 16, "BYTES", [1, 2], "not a BYTES tensor"),
        ("", 16, "FP64", [2**62, 2], "16 bytes came"),
        ("", 16, "FP64", [-1, 2], "not a list of sizes"),
    ],
)
def test_binary_answers_that_are_none(length: str | None, size: int, datatype: Any, shape: Any, wanted: str) -> None:
    tensor = {"name": "predict_proba", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}
    head = json.dumps({"outputs": [tensor]}).encode()
    headers = {} if length is None else {LENGTH: length or str(len(head))}
    body = head if length is None else head + GOOD
    with cheap(), pytest.raises(AnswerError, match=wanted):
        codec("open-inference").answers(Message(body, headers), frozenset({P}), 1)


def test_bodies_are_decompressed_within_a_bound() -> None:
    body = b'{"instances": [[1, 2]]}'
    assert decoded(body, {}, 100) == body
    for name, packed in (
        ("gzip", gzip.compress(body)),
        ("X-GZIP ", gzip.compress(body)),
        ("deflate", zlib.compress(body)),
    ):
        assert decoded(packed, {"content-encoding": name}, len(body)) == body
        with pytest.raises(RequestError) as caught:
            decoded(packed, {"content-encoding": name}, len(body) - 1)
        assert caught.value.status == 413
    assert decoded(b"", {"content-encoding": "identity"}, 0) == b""
    assert decoded(gzip.compress(b""), {"content-encoding": "gzip"}, 0) == b""


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"x", "br", 415),
        (b"x", "zstd", 415),
        (gzip.compress(gzip.compress(b"x")), "gzip, gzip", 415),
        (b"x" * 1001, "", 413),
        (gzip.compress(b"\0" * 50_000_000), "gzip", 413),
        (zlib.compress(b"\0" * 50_000_000), "deflate", 413),
        (b"not gzip", "gzip", 400),
        (b"", "gzip", 400),
        (gzip.compress(b"hello")[:-4], "gzip", 400),
        (gzip.compress(b"hello") + b"tail", "gzip", 400),
        (gzip.compress(b"hello") * 2, "gzip", 400),
        (gzip.compress(b"hello")[:-8] + b"\0" * 8, "gzip", 400),
        (gzip.compress(b"") * 10_000, "gzip", 400),
    ],
    ids=range(13),
)
def test_encodings_that_are_refused(body: bytes, encoding: str, status: int) -> None:
    with cheap(0.5, 1), pytest.raises(RequestError) as caught:
        decoded(body, {"content-encoding": encoding}, 1000)
    assert caught.value.status == status


@given(body=st.binary(max_size=300), name=st.sampled_from(["gzip", "deflate", "br", "identity", "\0", "gzip,br"]))
def test_decoding_raises_one_kind_of_error(body: bytes, name: str) -> None:
    try:
        assert len(decoded(body, {"content-encoding": name}, 200)) <= 200
    except RequestError as error:
        assert error.status in (400, 413, 415)  # noqa: PT017
