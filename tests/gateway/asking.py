"""Requests as customers write them, and every way that they have of asking for more than they are granted."""

from __future__ import annotations

import base64
import gzip
import json
import random
import struct
from typing import Any

from house import Part, Request

IDS = ("mine", "u1", "é☃", "0.12", "a" * 256, '"quoted"\\', "", "<id>", "9f8e7d6c")
OUTPUTS = ("predict", "predict_proba", "decision_function", "hidden", "debug", "classes", "outputs", "input-0", "*", "")
FIELDS: dict[str, Any] = {
    "debug": True,
    "verbose": 9,
    "explain": True,
    "classification": 10,
    "top_k": 100,
    "logprobs": 20,
    "raw_output": True,
    "decimals": 17,
    "return_all": [True],
    "output_filter": {"TensorNames": ["logits"]},
    "model_version": "7",
    "fields": "*",
}
SIGNATURES = ("serving_default", "serving", "predict_raw", "__saved_model_init_op", "tensorflow/serving/classify")
HEADERS = (
    (b"accept", b"*/*"), (b"accept", b"application/octet-stream"), (b"accept", b"text/html, application/x-npy"),
    (b"accept-encoding", b"gzip, br"), (b"x-debug", b"1"), (b"x-model-secret", b"show"), (b"te", b"trailers"),
    (b"x-amzn-sagemaker-enable-explanations", b"`true`"), (b"x-amzn-sagemaker-target-model", b"other"),
    (b"x-forwarded-for", b"127.0.0.1"), (b"x-principal", b"admin"), (b"cookie", b"tier=whole"), (b"range", b"bytes=0-"),
    (b"prefer", b"return=representation"), (b"x-original-uri", b"/score"), (b"traceparent", b"00-" + b"1" * 32),
)  # fmt: skip
QUERIES = (b"debug=1", b"outputs=predict_proba", b"verbose=true&explain=1", b"tier=whole", b"format=npy", b"a=%00")
VERBS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")


def valid(part: Part, rng: random.Random, n: int) -> tuple[dict[str, Any] | Any, bytes, list[tuple[bytes, bytes]]]:
    """A request for `n` rows: its JSON, the bytes after it, and headers."""
    x = [[rng.randrange(1001) / 1000 for _ in range(part.width)] for _ in range(n)]
    head = [(b"content-type", b"application/json")]
    if part.protocol == "open-inference":
        tensor: dict[str, Any] = {"name": "input-0", "shape": [n, part.width]}
        flat, tail = [v for row in x for v in row], b""
        if rng.random() < 0.3:
            datatype, code = rng.choice((("FP64", "d"), ("FP32", "f"), ("FP16", "e")))
            tail = struct.pack(f"<{len(flat)}{code}", *flat)
            tensor |= {"datatype": datatype, "parameters": {"binary_data_size": len(tail)}}
        else:
            tensor |= {"datatype": "FP64", "data": flat if rng.random() < 0.5 else x}
        return {"inputs": [tensor]}, tail, head
    if part.protocol == "kserve-v1":
        return {rng.choice(("instances", "inputs")): x}, b"", head
    if part.protocol == "mlflow":
        form = rng.choice(("inputs", "instances", "dataframe_split", "dataframe_records"))
        names = list(part.options["columns"])
        if form == "dataframe_split":
            rng.shuffle(names)
            return {form: {"columns": names, "data": x}}, b"", head
        return {form: [dict(zip(names, row, strict=True)) for row in x] if form.endswith("records") else x}, b"", head
    if part.protocol == "sagemaker":
        return {"instances": [{"features": row} for row in x]}, b"", head
    return {"input_data" if part.protocol == "bentoml" else "instances": x}, b"", head


def wider(part: Part, rng: random.Random, body: dict[str, Any], head: list[tuple[bytes, bytes]]) -> None:
    """Add what asks for more."""
    for _ in range(rng.randrange(4)):
        name = rng.choice(list(FIELDS))
        body[name] = FIELDS[name]
    if part.protocol == "open-inference":
        tensor = body["inputs"][0]
        if rng.random() < 0.5:
            body["outputs"] = [_output(rng) for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.5:
            body["parameters"] = {"binary_data_output": rng.random() < 0.5, rng.choice(list(FIELDS)): True}
        if rng.random() < 0.3:
            tensor["parameters"] = {**tensor.get("parameters", {}), "content_type": "np", "debug": 1}
    elif part.protocol == "kserve-v1" and rng.random() < 0.5:
        body["signature_name"] = rng.choice(SIGNATURES)
    elif part.protocol == "mlflow" and rng.random() < 0.5:
        body["params"] = {"predict_method": "predict_proba", "pyfunc_predict_fn": "predict_raw"}
    head.extend(rng.sample(HEADERS, rng.randrange(3)))


def _output(rng: random.Random) -> dict[str, Any]:
    parameters = {"binary_data": rng.random() < 0.5}
    if rng.random() < 0.3:
        parameters["classification"] = 10  # type: ignore[assignment]
    output: dict[str, Any] = {"name": rng.choice(OUTPUTS)}
    return output | ({"parameters": parameters} if rng.random() < 0.6 else {})


def written(
    rng: random.Random, part: Part, body: Any, tail: bytes, head: list[tuple[bytes, bytes]], key: str | None
) -> Request:
    """The request on its way: as bytes, perhaps compressed and in parts, with a credential."""
    data = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if tail:
        head = [*head, (b"inference-header-content-length", str(len(data)).encode())]
    data += tail
    if rng.random() < 0.1:
        data, head = gzip.compress(data, 1, mtime=0), [*head, (b"content-encoding", b"gzip")]
    if key is not None:
        head = [
            *head,
            (b"authorization", b"Bearer " + key.encode()) if rng.random() < 0.8 else (b"x-api-key", key.encode()),
        ]
    if rng.random() < 0.9:
        head = [*head, (b"content-length", str(len(data)).encode())]
    cut = rng.randrange(len(data) + 1) if rng.random() < 0.2 else len(data)
    query = rng.choice(QUERIES) if rng.random() < 0.1 else b""
    return Request("POST", part.route, head, [data[:cut], data[cut:]] if cut < len(data) else [data], query)


def elsewhere(rng: random.Random, part: Part, request: Request) -> Request:
    """The same request by another method, or to a route that is not the inference route."""
    if rng.random() < 0.4:
        request.method = rng.choice(VERBS)
        return request
    root, _, last = part.route.rpartition("/")
    request.method = rng.choice(("POST", "POST", "GET"))
    request.path = rng.choice((
        root, part.route + "/", "/" + part.route, part.route + "/..", f"{root}/./{last}", part.route.upper(),
        part.route.replace(":predict", ":explain"), part.route.replace("/infer", "/explain"), "/metrics", "/", "",
        root + "/ready", "/v2", "/v2/health/ready", "/v2/repository/index", "/v1/models", "/ping", "/version",
        "/healthz", "/readyz", "/-/admit", "/-/mirror", "/-/decisions", "/openapi.json", "/docs", part.route + "\0",
        part.route + ";debug=1", "//evil" + part.route, "/v2/models/m/versions/7/infer", "/v2/models/m/generate_stream",
    ))  # fmt: skip
    if request.path.startswith("/-/"):
        request.headers = [*request.headers, (b"x-original-uri", part.route.encode())]
    return request


def encoded(rng: random.Random, data: bytes) -> str:
    """Bytes as some text."""
    return rng.choice((
        base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode(), data.hex(),
        base64.b64encode(gzip.compress(data, 1, mtime=0)).decode(),
    ))  # fmt: skip
