"""A model server that knows nothing of Understudy: softmax on digits over three protocols, by json and numpy alone.

`python model_server.py PORT [ADDRESS]` serves until it is ended. It answers more than anybody should see.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

import numpy as np


@cache
def model() -> Any:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    inputs, truth = load_digits(return_X_y=True)
    return LogisticRegression(max_iter=300).fit(inputs[:600] / 16, truth[:600])


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Raw ASGI: `/v2/models/digits/infer`, `/v1/models/digits:predict`, `/invocations`, `/fail/STATUS`."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    status, answer = reply(scope["path"], body)
    out = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(out)).encode()),
        (b"x-model-secret", b"gradient-42"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": out})


def reply(path: str, body: bytes) -> tuple[int, Any]:
    """Status and answer."""
    if path.startswith("/fail/"):
        return int(path.split("/")[2]), {"error": "Traceback (most recent call last): secret-path/model.py line 7"}
    try:
        asked = json.loads(body)
        if path == "/v2/models/digits/infer":
            tensor = asked["inputs"][0]
            x = np.array(tensor["data"], float).reshape(tensor["shape"])
            p = model().predict_proba(x)
            extra = {"hidden": p @ np.ones((10, 4)), "predict_proba": p, "predict": p.argmax(1)}
            wanted = [o["name"] for o in asked.get("outputs", [])] or ["predict"]
            kinds = {"predict": "INT64"}
            outputs = [
                {
                    "name": name,
                    "shape": list(extra[name].shape),
                    "datatype": kinds.get(name, "FP64"),
                    "data": extra[name].ravel().tolist(),
                    "parameters": {"calibration": 0.731},
                }
                for name in [*wanted, "hidden"]
            ]
            return 200, {
                "model_name": "digits",
                "model_version": "7",
                "id": "u1",
                "outputs": outputs,
                "debug": p.tolist(),
            }
        rows = asked["inputs"] if path == "/invocations" else asked["instances"]
        p = model().predict_proba(np.array(rows, float))
        return 200, {"predictions": p.tolist(), "debug": {"logits": np.log(p + 1e-300).tolist()}}
    except (KeyError, ValueError, TypeError, IndexError) as error:
        return 400, {"error": f"bad request: {error!r} in /srv/secret-path/model.py"}


if __name__ == "__main__":
    import uvicorn

    model()
    where = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    uvicorn.run(app, host=where, port=int(sys.argv[1]), log_level="critical", access_log=False)
