"""ART's side of art_noticed.py, which starts it in ART's environment: nothing of Understudy is imported here."""

from __future__ import annotations

import http.client
import json
import sys
from typing import Any

import numpy as np

AT_ONCE = 8  # rows a request
ROUTE = "/v2/models/digits/infer"


class Gateway:
    """A client of the guard with one key; it speaks Open Inference."""

    def __init__(self, port: int, key: str) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._head = {"content-type": "application/json", "authorization": f"Bearer {key}"}

    def __call__(self, x: Any) -> Any:
        """(n, 10) probabilities."""
        tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}
        body = json.dumps({"inputs": [tensor], "outputs": [{"name": "predict_proba"}]})
        self._http.request("POST", ROUTE, body, self._head)
        answer = self._http.getresponse()
        told = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the guard answered {answer.status}: {told[:500]!r}")
        found = next(o for o in json.loads(told)["outputs"] if o["name"] == "predict_proba")
        return np.array(found["data"]).reshape(found["shape"])


def thief(path: str, port: int) -> None:
    """One run for each line of standard input: attack, pool, seed, budget, key. Prints the fidelity of its copy."""
    import torch
    from art.attacks import extraction
    from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier

    torch.set_num_threads(1)
    pools = dict(np.load(path))
    for line in sys.stdin:
        attack, pool, seed, budget, key = json.loads(line)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - ART draws from numpy's shared generator
        net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        copy = PyTorchClassifier(
            net,
            loss=torch.nn.CrossEntropyLoss(),
            optimizer=torch.optim.Adam(net.parameters(), lr=1e-3),
            input_shape=(64,),
            nb_classes=10,
            clip_values=(0, 1),
            device_type="cpu",
        )
        victim = BlackBoxClassifier(Gateway(port, key), (64,), 10, (0, 1))
        options = {"batch_size_fit": 32, "batch_size_query": AT_ONCE, "nb_epochs": 60, "nb_stolen": budget}
        if attack == "KnockoffNets":
            options |= {"use_probability": True, "verbose": False}
        uniform = np.random.default_rng(seed).uniform(0, 1, (10_000, 64))
        x = (uniform if pool == "uniform" else pools[pool]).astype(np.float32)
        stolen = getattr(extraction, attack)(victim, **options).extract(x, thieved_classifier=copy)
        told = stolen.predict(pools["held"].astype(np.float32)).argmax(1)
        print((told == pools["answered"]).mean(), flush=True)


if __name__ == "__main__":
    thief(sys.argv[1], int(sys.argv[2]))
