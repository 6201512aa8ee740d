"""The server side of every codec: what is read is what was sent, what leaves is what was released."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from understudy import registry
from understudy.errors import UsageError
from understudy.targets.callable import checked
from understudy.types import Answers, Exposure, Floats, Grain, Signal
from understudy.wire import Asked, Card, Message, RequestError

LABEL, P, LOGITS, VALUE = Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE
X = np.array([[0.1, 2.0], [1e-300, -3.5], [4.0, 5.0]])
SCORES = {"predictions": {"$rows": {"score": "$probabilities", "raw": "$logits", "predicted_label": "$label"}}}
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "bentoml": ("bentoml", {}),
    "json": ("json", {}),
    "json-by-row": ("json", {"body": {"x": {"$rows": [{"f": "$input"}]}}, "answer": SCORES}),
    "kserve-v1": ("kserve-v1", {}),
    "kserve-v1-named": ("kserve-v1", {"input_name": "x", "fields": {"probabilities": "scores", "label": "class"}}),
    "kserve-v1-columnar": ("kserve-v1", {"columnar": True}),
    "kserve-v1-columnar-named": ("kserve-v1", {"columnar": True, "input_name": "x"}),
    "mlflow": ("mlflow", {}),
    "mlflow-records": ("mlflow", {"form": "dataframe_records", "columns": ("a", "b")}),
    "mlflow-split": ("mlflow", {"form": "dataframe_split", "columns": ("a", "b")}),
    "open-inference": ("open-inference", {}),
    "open-inference-binary": ("open-inference", {"binary": True}),
    "sagemaker": ("sagemaker", {"answer": SCORES, "single": None}),
}
finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


def codec(name: str, **options: Any) -> Any:
    protocol, given_options = CODECS.get(name, (name, {}))
    return registry.create("protocols", protocol, **{**given_options, **options})


def headers(message: Message) -> dict[str, str]:
    return {**message.headers, "accept": "application/json"}


def parsed(made: Any, body: Any, shape: tuple[int, ...] = (2,), **more: str) -> Asked:
    asked = made.parse(body if isinstance(body, bytes) else json.dumps(body).encode(), more, shape)
    assert isinstance(asked, Asked)
    return asked


def said(message: Message) -> Any:
    return json.loads(message.body)


@pytest.mark.parametrize("name", sorted(CODECS))
@settings(max_examples=40)
@given(data=st.data(), n=st.integers(1, 4))
def test_what_was_sent_is_what_is_read(name: str, data: st.DataObject, n: int) -> None:
    """parse(request(x)) is x, bit for bit, and asks for nothing wider."""
    x = data.draw(arrays(np.float64, (n, 2), elements=finite))
    made = codec(name)
    sent = made.request(x, frozenset({P, LABEL}))
    asked = made.parse(sent.body, headers(sent), (2,))
    assert asked.inputs.dtype == np.float64
    assert asked.inputs.tobytes() == x.tobytes()
    assert asked.wider == ()


@pytest.mark.parametrize(
    "name", ["open-inference", "open-inference-binary", "kserve-v1", "mlflow", "json", "sagemaker"]
)
@given(x=arrays(np.float64, (2, 3, 2, 2), elements=finite))
def test_images_too(name: str, x: Floats) -> None:
    made = codec(name)
    sent = made.request(x, frozenset({P}))
    assert made.parse(sent.body, headers(sent), (3, 2, 2)).inputs.tobytes() == x.tobytes()


@pytest.mark.parametrize("classes", [(), ("no", "maybe", "yes")], ids=["indices", "names"])
@pytest.mark.parametrize("name", sorted(CODECS))
@settings(max_examples=40)
@given(data=st.data(), n=st.integers(1, 4))
def test_what_was_released_is_what_arrives(name: str, classes: tuple[str, ...], data: st.DataObject, n: int) -> None:
    """answers(respond(released)) is what was released, with zeros where something was withheld."""
    signals = frozenset(data.draw(st.sets(st.sampled_from([LABEL, P, LOGITS]), min_size=1)))
    values: dict[Signal, Any] = {}
    present = {}
    for signal in sorted(signals):
        if signal is LABEL:
            values[signal] = data.draw(arrays(np.int64, n, elements=st.integers(0, 2)))
        else:
            values[signal] = data.draw(arrays(np.float64, (n, 3), elements=finite))
            if data.draw(st.booleans()):
                present[signal] = data.draw(arrays(np.bool_, (n, 3)))
    made = codec(name, classes=classes)
    sent = made.request(np.ones((n, 2)), signals)
    asked = made.parse(sent.body, headers(sent), (2,))
    message = made.respond(asked, Answers(values, 3, present), "m")
    raw = made.answers(message, signals, n)
    for signal in signals:
        wanted = np.where(present[signal], values[signal], 0.0) if signal in present else values[signal]
        assert np.array_equal(np.asarray(raw[signal.value], np.float64), wanted)


@pytest.mark.parametrize("single", ["flat", "column"])
@pytest.mark.parametrize("name", sorted(CODECS))
@given(p=arrays(np.float64, 3, elements=st.floats(0, 1)))
def test_one_number_per_row_stays_one(name: str, single: str, p: Floats) -> None:
    """Customers receive the shape that the upstream answers, and `checked` makes the same of both."""
    made = codec(name, single=single)
    both = np.stack([1 - p, p], 1)
    message = made.respond(Asked(X, form="inputs"), Answers({P: both}, 2), "m")
    if name == "kserve-v1":
        message = made.respond(Asked(X), Answers({P: both}, 2), "m")
        assert said(message)["predictions"] == (p if single == "flat" else p[:, None]).tolist()
    if not name.startswith("kserve-v1"):
        raw = np.asarray(made.answers(message, frozenset({P}), 3)["probabilities"])
        assert raw.shape == ((3,) if single == "flat" else (3, 1))
        assert np.allclose(checked({"probabilities": raw}, 3, Exposure.of("probabilities", 2))[P], both, atol=1e-15)


def test_one_number_says_what_the_shown_one_says_and_no_more() -> None:
    made = codec("kserve-v1", single="flat")
    p, shown = np.array([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]), np.array([[1, 0], [0, 1], [0, 0]], bool)
    assert said(made.respond(Asked(X), Answers({P: p}, 2, {P: shown}), "m"))["predictions"] == [0.25, 0.75, 0.0]
    logits = np.array([[0.0, 2.5], [1.0, -1.0], [0.0, 0.0]])
    assert said(made.respond(Asked(X), Answers({LOGITS: logits}, 2), "m"))["predictions"] == [2.5, -2.0, 0.0]
    value = np.array([[2.0], [3.0], [4.0]])
    assert said(made.respond(Asked(X), Answers({VALUE: value}, 1), "m"))["predictions"] == [2.0, 3.0, 4.0]
    wide = np.full((1, 3), 0.25)
    assert said(made.respond(Asked(X), Answers({P: wide}, 3), "m"))["predictions"] == wide.tolist()


def test_several_signals_come_as_objects_and_one_as_rows() -> None:
    one, two = (
        Answers({P: np.array([[0.25, 0.75]])}, 2),
        Answers({LABEL: np.array([1]), P: np.array([[0.25, 0.75]])}, 2),
    )
    for name in ("kserve-v1", "mlflow", "json"):
        assert said(codec(name).respond(Asked(X), one, "m")) == {"predictions": [[0.25, 0.75]]}
        wanted = [{"label": 1, "probabilities": [0.25, 0.75]}]
        assert said(codec(name).respond(Asked(X), two, "m")) == {"predictions": wanted}
        named = codec(name, fields={"probabilities": "scores"}, classes=("no", "yes"))
        assert said(named.respond(Asked(X), one, "m")) == {"predictions": [{"scores": [0.25, 0.75]}]}
        assert said(named.respond(Asked(X), two, "m"))["predictions"] == [{"label": "yes", "scores": [0.25, 0.75]}]
    columnar = Asked(X, form="inputs")
    assert said(codec("kserve-v1").respond(columnar, one, "m")) == {"outputs": [[0.25, 0.75]]}
    assert said(codec("kserve-v1").respond(columnar, two, "m"))["outputs"]["label"] == [1]


def test_what_is_underneath_a_withheld_entry_never_leaves() -> None:
    answers = Answers({P: np.array([[0.123456, 0.876544]])}, 2, {P: np.array([[False, True]])})
    for name in CODECS:
        for binary in (True, False):
            body = codec(name).respond(Asked(X, binary=binary), answers, "m").body
            assert b"0.123456" not in body
            assert np.float64(0.123456).tobytes() not in body


def test_class_names_must_be_as_many_as_the_classes() -> None:
    for name in ("open-inference", "kserve-v1", "mlflow", "json"):
        with pytest.raises(UsageError, match="names 2 classes; the endpoint has 3"):
            codec(name, classes=("a", "b")).respond(Asked(X), Answers({LABEL: np.array([2])}, 3), "m")


def test_nan_of_the_server_is_null() -> None:
    """JSON has no NaN: it is written as null and read as NaN again; bytes keep it."""
    answers = Answers({VALUE: np.array([[np.nan], [1.0]])}, 1)
    for name in ("open-inference", "kserve-v1", "mlflow", "json", "bentoml", "kserve-v1-columnar"):
        made = codec(name)
        message = made.respond(Asked(X, form="inputs" if "columnar" in name else ""), answers, "m")
        assert b"null" in message.body
        assert np.isnan(made.answers(message, frozenset({VALUE}), 2)["value"][0, 0])
    made = codec("open-inference-binary")
    raw = made.answers(made.respond(Asked(X, binary=True), answers, "m"), frozenset({VALUE}), 2)
    assert np.isnan(raw["value"][0, 0])


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2], **more}


def test_open_inference_outputs_by_name() -> None:
    made = codec("open-inference")
    assert parsed(made, {"inputs": [tensor()]}).signals is None
    assert parsed(made, {"inputs": [tensor()], "outputs": []}).signals is None
    asked = parsed(made, {"inputs": [tensor()], "outputs": [{"name": "predict_proba"}]})
    assert (asked.signals, asked.wider) == (frozenset({P}), ())
    asked = parsed(made, {"inputs": [tensor()], "outputs": [{"name": "predict"}, {"name": "layer-7"}]})
    assert (asked.signals, asked.wider) == (frozenset({LABEL, VALUE}), ("outputs.layer-7",))
    assert asked.beyond(frozenset({LABEL})) == ["outputs.layer-7"]
    assert asked.beyond(frozenset({P})) == ["outputs.layer-7", "label", "value"]
    with pytest.raises(RequestError, match="none of the outputs") as caught:
        parsed(made, {"inputs": [tensor()], "outputs": [{"name": "layer-7"}]})
    assert caught.value.status == 400
    renamed = codec("open-inference", outputs={"probabilities": "scores"})
    assert parsed(renamed, {"inputs": [tensor()], "outputs": [{"name": "scores"}]}).signals == frozenset({P})


WIDER: list[tuple[str, dict[str, Any], dict[str, str], tuple[str, ...]]] = [
    (
        "open-inference",
        {
            "inputs": [tensor(parameters={"content_type": "np", "headers": {"x": 1}})],
            "outputs": [{"name": "predict", "parameters": {"classification": 3}, "shape": [1]}],
            "parameters": {"binary_data_output": False, "debug": True},
            "extra": 1,
        },
        {"accept": "text/event-stream"},
        ("extra", "parameters.debug", "inputs.parameters.headers", "outputs.parameters.classification", "Accept"),
    ),
    ("kserve-v1", {"instances": [[1, 2]], "signature_name": "logits", "y": 1}, {}, ("y", "signature_name")),
    ("mlflow", {"inputs": [[1, 2]], "params": {"predict_method": "predict_proba"}}, {}, ("params",)),
    (
        "mlflow",
        {"dataframe_split": {"data": [[1, 2]], "z": 0}},
        {"accept": "text/csv"},
        ("dataframe_split.z", "Accept"),
    ),
    ("json", {"instances": [[1, 2]], "return_scores": True}, {}, ("return_scores",)),
    ("sagemaker", {"instances": [{"features": [1, 2], "explain": 1}]}, {}, ("instances.explain",)),
    (
        "sagemaker",
        {"instances": [{"features": [1, 2]}]},
        {"x-amzn-sagemaker-enable-explanations": "`true`"},
        ("x-amzn-sagemaker-enable-explanations",),
    ),
]


@pytest.mark.parametrize(("name", "body", "more", "wanted"), WIDER, ids=[f"{i}-{w[0]}" for i, w in enumerate(WIDER)])
def test_asking_for_more_is_noted_and_goes_nowhere(
    name: str, body: dict[str, Any], more: dict[str, str], wanted: tuple[str, ...]
) -> None:
    made = codec(name)
    asked = parsed(made, body, **more)
    assert sorted(asked.wider) == sorted(wanted)
    upstream = made.request(asked.inputs, frozenset({LABEL}))
    assert upstream == made.request(np.array([[1.0, 2.0]]), frozenset({LABEL}))


def test_a_constant_of_the_template_is_not_the_customers_to_change() -> None:
    made = codec("json", body={"data": [{"x": "$inputs"}], "proba": False})
    assert parsed(made, {"data": [{"x": [[1, 2]]}], "proba": False}).wider == ()
    asked = parsed(made, {"data": [{"x": [[1, 2]], "y": 1}, 3], "proba": True})
    assert asked.wider == ("data.y", "data", "proba")
    assert b'"proba":false' in made.request(asked.inputs, frozenset({P})).body


def test_names_in_the_log_are_few_short_and_printable() -> None:
    body = {"instances": [[1, 2]], **{f"k{i}\n" + "x" * 500: 1 for i in range(500)}}
    wider = parsed(codec("kserve-v1"), body).wider
    assert len(wider) == 16
    assert all(len(name) <= 60 and name.isprintable() for name in wider)


def test_the_codecs_own_signature_is_not_wider() -> None:
    made = codec("kserve-v1", signature="classes")
    assert parsed(made, {"instances": [[1, 2]], "signature_name": "classes"}).wider == ()
    assert said(made.request(X, frozenset({P})))["signature_name"] == "classes"


def test_open_inference_envelope_is_id_and_model_name() -> None:
    made = codec("open-inference")
    asked = parsed(made, {"id": "r-1", "inputs": [tensor()]})
    answers = Answers({LABEL: np.array([1]), P: np.array([[0.25, 0.75]])}, 2)
    assert said(made.respond(asked, answers, "risk")) == {
        "model_name": "risk",
        "id": "r-1",
        "outputs": [
            {"name": "predict", "datatype": "INT64", "shape": [1], "data": [1]},
            {"name": "predict_proba", "datatype": "FP64", "shape": [1, 2], "data": [0.25, 0.75]},
        ],
    }
    single = codec("open-inference", answer_datatype="FP32", classes=("no", "yes"))
    outputs = said(single.respond(asked, answers.replace(P, np.array([[0.12, 0.88]])), "risk"))["outputs"]
    assert outputs[0] == {"name": "predict", "datatype": "BYTES", "shape": [1], "data": ["yes"]}
    assert outputs[1] == {"name": "predict_proba", "datatype": "FP32", "shape": [1, 2], "data": [0.12, 0.88]}


def test_nested_and_flat_data_are_the_same() -> None:
    made = codec("open-inference")
    two = {"shape": [2, 2]}
    flat = parsed(made, {"inputs": [tensor(**two, data=[1, 2, 3, 4])]}).inputs
    assert np.array_equal(flat, parsed(made, {"inputs": [tensor(**two, data=[[1, 2], [3, 4]])]}).inputs)


def test_data_frames_in_any_order_of_columns() -> None:
    made = codec("mlflow", columns=("a", "b"))
    rows = [[1.0, 2.0], [3.0, 4.0]]
    for body in (
        {"dataframe_split": {"columns": ["a", "b"], "data": rows, "index": [0, 1]}},
        {"dataframe_split": {"columns": ["b", "a"], "data": [r[::-1] for r in rows]}},
        {"dataframe_split": {"data": rows}},
        {"dataframe_records": [{"b": b, "a": a} for a, b in rows]},
        {"inputs": {"b": [2.0, 4.0], "a": [1.0, 3.0]}},
        {"instances": rows},
    ):
        assert parsed(made, body).inputs.tolist() == rows
    one = codec("mlflow", columns=("a",))
    assert parsed(one, {"dataframe_records": [{"a": 1}]}, (1,)).inputs.tolist() == [[1.0]]


def test_sagemaker_answers_as_its_linear_learner_does() -> None:
    made = registry.create("protocols", "sagemaker")
    asked = parsed(made, {"instances": [{"features": [1, 2]}]})
    answers = Answers({LABEL: np.array([1]), P: np.array([[0.25, 0.75]])}, 2)
    assert said(made.respond(asked, answers, "m")) == {"predictions": [{"score": 0.75, "predicted_label": 1}]}
    assert said(made.respond(asked, answers.only([LABEL]), "m")) == {"predictions": [{"predicted_label": 1}]}
    assert said(made.respond(asked, answers.only([]), "m")) == {"predictions": []}


def test_bentoml_answers_the_bare_array() -> None:
    made = codec("bentoml")
    asked = parsed(made, {"input_data": [[1, 2]]})
    assert said(made.respond(asked, Answers({P: np.array([[0.25, 0.75]])}, 2), "m")) == [[0.25, 0.75]]
    assert said(made.respond(asked, Answers({}, 2), "m")) == {}


def test_generic_json_finds_inputs_by_expression() -> None:
    made = codec("json", inputs="rows[*].[age, income]")
    assert parsed(made, {"rows": [{"age": 3, "income": 4}]}).inputs.tolist() == [[3.0, 4.0]]
    single = codec("json", body={"row": "$input"})
    assert parsed(single, {"row": [1, 2]}).inputs.tolist() == [[1.0, 2.0]]
    broken = codec("json", inputs="sum(rows)")
    with pytest.raises(RequestError, match="no inputs where they belong"):
        parsed(broken, {"rows": ["a"]})


def test_errors_have_the_protocols_shape() -> None:
    for name in ("open-inference", "kserve-v1", "json"):
        assert said(codec(name).error(429, "slow down")) == {"error": "slow down"}
    assert said(codec("mlflow").error(400, "no")) == {"error_code": "BAD_REQUEST", "message": "no"}
    assert said(codec("mlflow").error(429, "no"))["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert said(codec("mlflow").error(502, "no"))["error_code"] == "INTERNAL_ERROR"


CARD = Card("risk", None, (30,), Exposure({P: Grain(), LABEL: Grain()}, 2))


def test_metadata_and_health_come_from_the_card() -> None:
    oip = codec("open-inference").routes("/v2/models/risk/infer", CARD)
    assert set(oip) == {
        *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/risk", "/v2/models/risk/ready"),
    }
    assert said(oip["/v2/models/risk"]) == {
        "name": "risk",
        "platform": "",
        "inputs": [{"name": "input-0", "datatype": "FP64", "shape": [-1, 30]}],
        "outputs": [
            {"name": "predict", "datatype": "INT64", "shape": [-1]},
            {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 2]},
        ],
    }
    assert said(oip["/v2"]) == {"name": "risk", "extensions": ["binary_tensor_data"]}
    versioned = codec("open-inference", single="column").routes(
        "/a/v2/models/m/versions/3/infer", CARD._replace(version="3")
    )
    assert said(versioned["/a/v2/models/m/versions/3"])["versions"] == ["3"]
    assert said(versioned["/a/v2/models/m"])["outputs"][1]["shape"] == [-1, 1]
    v1 = codec("kserve-v1").routes("/v1/models/risk:predict", CARD)
    assert {path: said(m) for path, m in v1.items()} == {"/v1/models/risk": {"name": "risk", "ready": True}}
    told = codec("kserve-v1").routes("/v1/models/risk:predict", CARD._replace(version="3"))["/v1/models/risk"]
    assert said(told)["model_version_status"][0]["version"] == "3"
    assert set(codec("mlflow").routes("/m/invocations", CARD)) == {"/m/ping", "/m/health"}
    assert codec("mlflow").routes("/invocations", CARD._replace(version="3"))["/version"].body == b"3"
    assert set(codec("sagemaker").routes("/invocations", CARD)) == {"/ping"}
    assert set(codec("bentoml").routes("/classify", CARD)) == {"/healthz", "/livez", "/readyz"}
    for name in ("open-inference", "kserve-v1", "mlflow", "json"):
        assert codec(name).routes("/score", CARD) == {}


@pytest.mark.parametrize("verb", ["explain", "classify", "regress"])
def test_other_verbs_are_not_inference(verb: str) -> None:
    with pytest.raises(UsageError, match=f":{verb} is not inference"):
        codec("kserve-v1").routes(f"/v1/models/risk:{verb}", CARD)
