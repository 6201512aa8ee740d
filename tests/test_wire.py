"""Codecs: what is asked for is in the request, what comes back is read strictly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from understudy import registry
from understudy.errors import AnswerError, UsageError
from understudy.targets.callable import checked
from understudy.types import Exposure, Signal
from understudy.wire import Asked, Message

P = frozenset({Signal.PROBABILITIES})
X = np.array([[0.1, 2.0], [1e-300, -3.5]])
ROWS = [[0.25, 0.75], [0.5, 0.5]]


def codec(name: str, **options: Any) -> Any:
    return registry.create("protocols", name, **options)


ANSWERS = {
    "open-inference": {
        "outputs": [{"name": "predict_proba", "shape": [2, 2], "datatype": "FP64", "data": [*ROWS[0], *ROWS[1]]}]
    },
    "kserve-v1": {"predictions": ROWS},
    "mlflow": {"predictions": ROWS},
    "json": {"deep": [{"scores": row} for row in ROWS]},
}
OPTIONS: dict[str, dict[str, Any]] = {"json": {"paths": {"probabilities": "deep[*].scores"}}}


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_probabilities_arrive_whole(name: str) -> None:
    made = codec(name, **OPTIONS.get(name, {}))
    raw = made.answers(Message(json.dumps(ANSWERS[name]).encode()), P, 2)
    assert np.array_equal(np.asarray(raw["probabilities"]), ROWS)


@pytest.mark.parametrize("name", sorted(ANSWERS))
@given(x=arrays(np.float64, (3, 2), elements=st.floats(allow_nan=False, allow_infinity=False, width=64)))
def test_inputs_keep_every_digit(name: str, x: Any) -> None:
    body = json.loads(codec(name, **OPTIONS.get(name, {})).request(x, P).body)
    if name == "open-inference":
        sent = np.array(body["inputs"][0]["data"]).reshape(body["inputs"][0]["shape"])
        assert body["outputs"] == [{"name": "predict_proba"}]
    else:
        sent = np.array(body["instances" if name != "mlflow" else "inputs"])
    assert np.array_equal(sent, x)


@pytest.mark.parametrize("name", sorted(ANSWERS))
@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><html>busy</html>",
        b"",
        b'{"predictions": [[0.2',
        b"[]",
        b'{"outputs": 3}',
        b'{"outputs": [{"name": "predict_proba", "shape": [2, 2], "data": [1]}]}',
        b'{"outputs": [{"name": "predict", "shape": [1], "data": [1]}]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_answer_is_one_clear_error(name: str, body: bytes) -> None:
    with pytest.raises(AnswerError) as caught:
        codec(name, **OPTIONS.get(name, {})).answers(Message(body), P, 2)
    assert caught.value.raw == body
    assert len(str(caught.value)) < 250


def test_html_is_called_html() -> None:
    with pytest.raises(AnswerError, match="answered HTML"):
        codec("kserve-v1").answers(Message(b"<html><body>502</body></html>"), P, 1)


def test_bare_nan_is_read_as_tensorflow_serving_writes_it() -> None:
    raw = codec("kserve-v1").answers(Message(b'{"predictions": [[NaN, Infinity]]}'), P, 1)
    assert np.isnan(raw["probabilities"][0][0])


@pytest.mark.parametrize("name", ["kserve-v1", "mlflow"])
def test_named_predictions(name: str) -> None:
    both = frozenset({Signal.PROBABILITIES, Signal.LABEL})
    made = codec(name, fields={"probabilities": "scores"}, classes=("no", "yes"))
    rows = [{"scores": [0.2, 0.8], "label": "yes"}, {"scores": [0.9, 0.1], "label": "no"}]
    raw = made.answers(Message(json.dumps({"predictions": rows}).encode()), both, 2)
    assert raw["label"].tolist() == [1, 0]
    with pytest.raises(AnswerError, match="'maybe' is not one of the 2 classes"):
        made.answers(Message(b'{"predictions": [{"scores": [1, 0], "label": "maybe"}]}'), both, 1)
    with pytest.raises(AnswerError, match="no 'scores'"):
        made.answers(Message(b'{"predictions": [{"label": "no"}]}'), both, 1)


def test_two_signals_cannot_come_as_one_unnamed_array() -> None:
    with pytest.raises(AnswerError, match="one unnamed array"):
        codec("mlflow").answers(Message(b'{"predictions": [1, 0]}'), frozenset({Signal.LABEL, Signal.PROBABILITIES}), 2)


def test_data_frames_need_their_columns() -> None:
    made = codec("mlflow", form="dataframe_split", columns=("a", "b"))
    assert json.loads(made.request(X, P).body)["dataframe_split"]["columns"] == ["a", "b"]
    with pytest.raises(UsageError, match="0 columns are named"):
        codec("mlflow", form="dataframe_split").request(X, P)


def test_generic_json_by_template_and_path() -> None:
    made = codec("json", body={"q": {"rows": "$inputs"}, "v": 2}, paths={"label": "a[].l"})
    assert json.loads(made.request(X, P).body) == {"q": {"rows": X.tolist()}, "v": 2}
    labels = made.answers(Message(b'{"a": [{"l": 1}, {"l": 0}]}'), frozenset({Signal.LABEL}), 2)
    assert labels["label"].tolist() == [1, 0]
    single = codec("json", body="$input", paths={"probabilities": "p"})
    assert json.loads(single.request(X[:1], P).body) == X[0].tolist()
    assert single.answers(Message(b'{"p": [0.5, 0.5]}'), P, 1)["probabilities"].tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"body": {"q": 1}}, "neither"),
        ({"body": "$input"}, "set target.batch: 1"),
    ],
)
def test_a_template_without_room_is_refused(options: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted):
        codec("json", **options).request(X, P)


def test_a_path_that_is_none_or_finds_nothing() -> None:
    with pytest.raises(UsageError, match="path 'a\\[' for probabilities"):
        codec("json", paths={"probabilities": "a["})
    with pytest.raises(UsageError, match="path ']' for the inputs"):
        codec("json", inputs="]")
    with pytest.raises(AnswerError, match=r"nothing at 'a\.b'"):
        codec("json", paths={"probabilities": "a.b"}).answers(Message(b"{}"), P, 1)
    with pytest.raises(UsageError, match="no path is given"):
        codec("json", paths={"label": "a"}).answers(Message(b"{}"), P, 1)
    with pytest.raises(UsageError, match="no path is given"):
        codec("json", answer={"l": "$label"}).answers(Message(b"{}"), P, 1)
    with pytest.raises(AnswerError, match="cannot be followed"):
        codec("json", paths={"probabilities": "sum(a)"}).answers(Message(b'{"a": ["x"]}'), P, 1)


def test_unusual_whole_numbers_are_read_or_refused() -> None:
    """Integers beyond 64 bits are the nearest float64; beyond float64 there is nothing to read."""
    raw = codec("kserve-v1").answers(Message(b'{"predictions": [[18446744073709551617, 1]]}'), P, 1)
    assert raw["probabilities"][0, 0] == 2.0**64
    with pytest.raises(AnswerError, match="not a rectangular array of numbers"):
        codec("kserve-v1").answers(Message(b'{"predictions": [[' + b"9" * 400 + b", NaN]]}"), P, 1)


EXPLAINED = frozenset({Signal.PROBABILITIES, Signal.ATTRIBUTION, Signal.COUNTERFACTUAL})


@pytest.mark.parametrize("name", ["kserve-v1", "mlflow", "open-inference"])
def test_protocols_without_a_place_for_explanations_refuse_them(name: str) -> None:
    answers = Exposure.of(sorted(EXPLAINED), 2).nothing(1, (2,))
    with pytest.raises(UsageError, match="no place for attribution"):
        codec(name).request(X, EXPLAINED)
    with pytest.raises(UsageError, match="no place for attribution"):
        codec(name).respond(Asked(X[:1]), answers, "model")


@pytest.mark.parametrize("single", [None, "flat"])
@pytest.mark.parametrize("n", [1, 2])
def test_explanations_travel_as_json(n: int, single: Any) -> None:
    made, exposure = codec("json", single=single), Exposure.of(sorted(EXPLAINED), 2)
    sent = {
        "probabilities": np.array(ROWS)[:n],
        "attribution": np.arange(4.0 * n).reshape(n, 4),
        "counterfactual": np.array([[np.nan, np.nan], [1.0, 2.0]])[:n],
    }
    message = made.respond(Asked(X[:n]), checked(sent, n, exposure, (2,)), "model")
    back = checked(made.answers(message, EXPLAINED, n), n, exposure, (2,))
    assert all(np.array_equal(back[name], values, equal_nan=True) for name, values in sent.items())
