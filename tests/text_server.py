"""A server of a text classifier that knows nothing of Understudy: what is a sentence of documentation about?

TF-IDF and logistic regression on the documentation of the standard library, over two protocols, by json alone.
`python text_server.py PORT` serves until it is ended.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

import numpy as np

from documentation import sentences


@cache
def model() -> Any:
    """Trained on the first third."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, topics = sentences()
    third = len(texts) // 3
    return make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=500)).fit(texts[:third], topics[:third])


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Raw ASGI: `/v2/models/topics/infer` and `/v1/models/topics:predict`."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    status, answer = reply(scope["path"], body)
    out = json.dumps(answer).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(out)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": out})


def reply(path: str, body: bytes) -> tuple[int, Any]:
    """Status and answer."""
    try:
        asked = json.loads(body)
        if path == "/v2/models/topics/infer":
            (tensor,) = asked["inputs"]
            if tensor["datatype"] != "BYTES" or tensor["parameters"]["content_type"] != "str":
                raise ValueError("not texts")
            p = model().predict_proba([text for (text,) in np.reshape(tensor["data"], tensor["shape"]).tolist()])
            output = {"name": "predict_proba", "shape": list(p.shape), "datatype": "FP64", "data": p.ravel().tolist()}
            return 200, {"model_name": "topics", "outputs": [output], "words": ["secret"]}
        return 200, {"predictions": model().predict_proba(asked["instances"]).tolist()}
    except (KeyError, ValueError, TypeError, IndexError) as error:
        return 400, {"error": f"bad request: {error!r}"}


if __name__ == "__main__":
    import uvicorn

    model()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", access_log=False)
