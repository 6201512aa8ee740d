"""What MLServer's users write, run in MLServer's own environment: `python client_mlserver.py URL INPUTS KEY`.

Prints {way: {output: values}} for each way of asking: its types posted as JSON, tritonclient in JSON and in binary, and
its batch client. Each asks for both outputs by name, or for none.
"""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import tritonclient.http as triton
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, RequestOutput

url, file, key = sys.argv[1:]
x = np.array(json.loads(Path(file).read_text()))
host, model = urlsplit(url).netloc, url.split("/")[-2]
headers = {"authorization": f"Bearer {key}"}
both = ("predict", "predict_proba")
told: dict[str, dict[str, object]] = {}


def types(outputs: list[str]) -> dict[str, object]:
    wanted = [RequestOutput(name=name) for name in outputs] or None
    request = InferenceRequest(inputs=[NumpyCodec.encode_input("x", x)], outputs=wanted, id="mine")
    body = request.model_dump_json(exclude_none=True).encode()
    posted = urllib.request.Request(url, body, {**headers, "content-type": "application/json"})
    with urllib.request.urlopen(posted, timeout=30) as answer:
        response = InferenceResponse.model_validate_json(answer.read())
    assert response.id == "mine"
    return {output.name: NumpyCodec.decode_output(output).tolist() for output in response.outputs}


def by_triton(binary: bool) -> dict[str, object]:
    with triton.InferenceServerClient(host) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        card = client.get_model_metadata(model)
        assert card["inputs"][0]["shape"] == [-1, 64]
        tensor = triton.InferInput("x", list(x.shape), "FP64")
        tensor.set_data_from_numpy(x, binary_data=binary)
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in both]
        result = client.infer(model, [tensor], outputs=wanted, headers=headers)
        found = {o["name"]: result.as_numpy(o["name"]).tolist() for o in result.get_response()["outputs"]}
        told["card"] = {o["name"]: o["shape"] for o in card["outputs"]}
        return found


def batch() -> dict[str, object]:
    lines = Path(file).with_suffix(".lines"), Path(file).with_suffix(".answers")
    inputs = [{"name": "x", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}]
    lines[0].write_text(json.dumps({"inputs": inputs}) + "\n")
    command = [Path(sys.executable).with_name("mlserver"), "infer", "-u", host, "-m", model]
    command += ["-i", lines[0], "-o", lines[1], "-H", f"authorization: Bearer {key}"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(lines[1].read_text().splitlines()[0])
    return {o["name"]: np.reshape(o["data"], o["shape"]).tolist() for o in answer["outputs"]}


told["types, both"] = types(list(both))
told["types, none named"] = types([])
told["types, scores"] = types(["predict_proba"])
told["triton, JSON"] = by_triton(False)
told["triton, binary"] = by_triton(True)
told["batch"] = batch()
print(json.dumps(told))
