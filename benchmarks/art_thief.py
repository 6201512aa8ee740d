"""ART's side of art_noticed.py, which starts it in ART's environment: nothing of Understudy is imported here."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

AT_ONCE = 8  # rows a request
ROUTE = "/v2/models/digits/infer"
EPOCHS, MOST = 60, 7680  # of a run's first copy, and of its last
STILL = 1e-3  # nats per row of training loss that doubling the epochs has to bring, else a copy has converged


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


class Recorded:
    """A model that is asked once about each row (float32): whoever asks again is given the answer that was recorded."""

    def __init__(self, ask: Callable[[Any], Any]) -> None:
        self._ask, self.answers = ask, dict[bytes, Any]()

    def __call__(self, x: Any) -> Any:
        rows = np.ascontiguousarray(x, np.float32)
        if any(row.tobytes() not in self.answers for row in rows):
            for row, answer in zip(rows, self._ask(x), strict=True):
                self.answers[row.tobytes()] = answer
        return np.array([self.answers[row.tobytes()] for row in rows])

    @property
    def rows(self) -> Any:
        """(n, 64) what was asked."""
        return np.array([np.frombuffer(row, np.float32) for row in self.answers])


def untrained(seed: int) -> Any:
    """The network that a run starts from."""
    import torch
    from art.estimators.classification import PyTorchClassifier

    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    return PyTorchClassifier(
        net,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-3),
        input_shape=(64,),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )


def extract(attack: str, seed: int, budget: int, epochs: int, x: Any, ask: Callable[[Any], Any], copy: Any) -> Any:
    """`copy`, trained by ART's attack on `budget` rows of `x`: which ones depends on the seed alone."""
    from art.attacks import extraction
    from art.estimators.classification import BlackBoxClassifier

    np.random.seed(seed)  # noqa: NPY002 - ART draws from numpy's shared generator
    victim = BlackBoxClassifier(ask, (64,), 10, (0, 1))
    options = {"batch_size_fit": 32, "batch_size_query": AT_ONCE, "nb_epochs": epochs, "nb_stolen": budget}
    if attack == "KnockoffNets":
        options |= {"use_probability": True, "verbose": False}
    return getattr(extraction, attack)(victim, **options).extract(x, thieved_classifier=copy)


def loss(attack: str, copy: Any, told: Recorded) -> float:
    """Mean cross-entropy of a copy to the answers that it was trained on, in nats."""
    logits, p = copy.predict(told.rows).astype(float), np.array(list(told.answers.values()))
    wanted = p if attack == "KnockoffNets" else np.eye(p.shape[1])[p.argmax(1)]
    high = logits.max(1, keepdims=True)
    return float(-(wanted * (logits - high - np.log(np.exp(logits - high).sum(1, keepdims=True)))).sum(1).mean())


def thief(path: str, ask: Callable[[str], Callable[[Any], Any]]) -> None:
    """One run for each line of standard input: attack, pool, seed, budget, key, whether to go on until converged.

    Prints [epochs, training loss, fidelity] of its copies. The attack is run again on the answers that it received,
    with the copy that it has, so that its epochs double, until that lowers the training loss by less than `STILL`.
    The hold-out has no say in it.
    """
    import torch

    torch.set_num_threads(1)
    pools = dict(np.load(path))
    for line in sys.stdin:
        attack, pool, seed, budget, key, converge = json.loads(line)
        told = Recorded(ask(key))
        uniform = np.random.default_rng(seed).uniform(0, 1, (10_000, 64))
        x = (uniform if pool == "uniform" else pools[pool]).astype(np.float32)
        found, epochs, before = [], EPOCHS, np.inf
        copy = extract(attack, seed, budget, EPOCHS, x, told, untrained(seed))
        while True:
            after = loss(attack, copy, told)
            agreed = (copy.predict(pools["held"].astype(np.float32)).argmax(1) == pools["answered"]).mean()
            found.append((epochs, after, float(agreed)))
            if not converge or before - after < STILL or epochs >= MOST:
                break
            copy = extract(attack, seed, budget, epochs, x, told, copy)
            epochs, before = 2 * epochs, after
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    thief(sys.argv[1], lambda key: Gateway(int(sys.argv[2]), key))
