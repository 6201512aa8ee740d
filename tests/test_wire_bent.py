"""Requests and answers of every protocol with anything in them changed: read as what they are, or one clear error."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from test_wire_hostile import LABEL, LENGTH, NAMES, OPTIONS, P, codec
from understudy.errors import AnswerError, UsageError
from understudy.types import Answers
from understudy.wire import Asked, Message, RequestError


def valid() -> list[tuple[str, bytes, dict[str, str]]]:
    """A request and an answer in every protocol, to be bent."""
    made = []
    released = Answers({LABEL: np.array([1]), P: np.array([[0.25, 0.75]])}, 2)
    for name in NAMES:
        for options in ({}, {"binary": True}) if name == "open-inference" else ({},):
            it = codec(name, **options)
            asked = Asked(np.zeros((1, 2)), binary="binary" in options)
            for message in (
                it.request(np.array([[0.5, 2.0]]), frozenset({P, LABEL})),
                it.respond(asked, released, "m"),
            ):
                made.append((name, message.body, dict(message.headers)))
    frame = {"dataframe_split": {"columns": ["b", "a"], "data": [[1, 2]]}}
    records = {"dataframe_records": [{"a": 1, "b": 2}]}
    made += [("mlflow", json.dumps(body).encode(), {}) for body in (frame, records)]
    return made


VALID = valid()
PIECES = [
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"null",
    b"NaN",
    b"1e400",
    b"-1",
    b"true",
    b"[[]]",
    b"9" * 30,
    b"\x00",
]
SWAPS: list[Any] = [None, [], {}, "x", -1, 2**63, 1e308, True, [[]], {"a": []}, "1", [None], [["a"]], 0.5, [{}]]


def bent(body: bytes, rng: random.Random) -> bytes:
    """A body with something cut, doubled, put in, or changed for something else."""
    for _ in range(rng.randint(1, 3)):
        i, j = sorted(rng.randrange(len(body) + 1) for _ in range(2))
        piece = rng.choice([*PIECES, bytes([rng.randrange(256)]), body[i:j]])
        body = body[:i] + piece + body[rng.choice([i, i + 1, j]) :]
    return body


def swapped(value: Any, rng: random.Random) -> Any:
    """A JSON value in which one part became something else."""
    if rng.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return rng.choice(SWAPS)
    made: Any = value.copy()
    key = rng.choice(list(made)) if isinstance(made, dict) else rng.randrange(len(made))
    made[key] = swapped(made[key], rng)
    return made


def harmless(name: str, body: bytes, headers: dict[str, str], options: dict[str, Any]) -> None:
    """Whatever it is: a request or one RequestError; an answer or one AnswerError. What is read is well-formed."""
    made = codec(name, **options)
    try:
        asked = made.parse(body, headers, (2,))
    except RequestError as error:
        assert 400 <= error.status < 500  # noqa: PT017
    else:
        assert asked.inputs.dtype == np.float64
        assert asked.inputs.shape[1:] == (2,)
        assert len(asked.inputs)
        assert np.isfinite(asked.inputs).all()
        made.respond(asked, Answers({LABEL: np.array([1]), P: np.array([[0.25, 0.75]])}, 2), "m")
        made.request(asked.inputs, frozenset({P}))
    try:
        raw = made.answers(Message(body, headers), frozenset({P, LABEL}), 1)
    except (AnswerError, UsageError) as error:
        assert len(str(error)) < 400  # noqa: PT017
    else:
        assert all(isinstance(array, np.ndarray) for array in raw.values())


@settings(max_examples=300)
@given(
    name=st.sampled_from(NAMES),
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["instances", "inputs", "outputs", "predictions", "data", "shape", "name", "x", "a"]),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode()),
    length=st.none() | st.text(max_size=5) | st.integers(-5, 300).map(str),
)
@example("open-inference", b'{"outputs":[{"name":"predict","shape":[0,4611686018427387904],"data":[]}]}', None)
def test_no_bytes_do_harm(name: str, body: bytes, length: str | None) -> None:
    for options in OPTIONS.get(name, [{}]):
        harmless(name, body, {} if length is None else {LENGTH: length}, options)


@settings(max_examples=500)
@given(case=st.sampled_from(range(len(VALID))), seed=st.integers(0, 2**64))
def test_no_bent_message_does_harm(case: int, seed: int) -> None:
    name, body, headers = VALID[case]
    rng = random.Random(seed)
    size = int(headers.get(LENGTH, len(body)))
    value = json.loads(body[:size])
    for _ in range(4):
        head = json.dumps(swapped(value, rng)).encode() if rng.random() < 0.6 else bent(body[:size], rng)
        tail = body[size:] if rng.random() < 0.7 else bent(body[size:], rng)
        if LENGTH in headers:
            stated = str(len(head)) if rng.random() < 0.8 else rng.choice(["-1", "0", "7", "999999", "x"])
            headers = {**headers, LENGTH: stated}
        for options in OPTIONS.get(name, [{}]):
            harmless(name, head + tail, headers, options)
