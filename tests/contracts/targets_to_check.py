"""How to make each target of the catalogue, around a small model that is fitted or served, for its contract."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from understudy import registry
from understudy.protocols import Target
from understudy.targets.callable import CallableTarget
from understudy.targets.network import NetworkTarget
from understudy.testing import explained, linear, network, steps, tree
from understudy.types import Box, Exposure, Floats


@contextmanager
def callable_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    model = linear()
    yield CallableTarget(
        lambda x: {signal.value: values for signal, values in model.query(x).values.items()},
        Exposure.of(["label", "probabilities"], 3),
        model.space,
    )


@contextmanager
def linear_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    yield linear()


@contextmanager
def network_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    yield network(widths=(4, 6, 5, 3))


@contextmanager
def additive_steps_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    yield steps()


@contextmanager
def kernel_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    rng, space = np.random.default_rng(0), Box(-1, 1, (4,))
    yield registry.load("targets", "kernel")(space.sample(30, rng), rng.normal(size=(30, 2)), 0.5, space)


@contextmanager
def sklearn_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    import skops.io
    from sklearn.linear_model import LogisticRegression

    model, path = linear(), tmp_path_factory.mktemp("skops") / "model.skops"
    inputs = model.space.sample(200, np.random.default_rng(0))
    skops.io.dump(LogisticRegression().fit(inputs, model.query(inputs).labels()), path)
    yield registry.load("targets", "sklearn").load(path, model.space, signals=("label", "probabilities"), trusted=())


@contextmanager
def xgboost_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    from xgboost import XGBClassifier

    model, path = linear(), tmp_path_factory.mktemp("xgboost") / "model.ubj"
    inputs = model.space.sample(200, np.random.default_rng(0))
    XGBClassifier(n_estimators=5, n_jobs=1).fit(inputs, model.query(inputs).labels()).save_model(path)
    yield registry.load("targets", "xgboost").load(path, model.space)


@contextmanager
def lightgbm_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    from lightgbm import LGBMClassifier

    model, path = linear(), tmp_path_factory.mktemp("lightgbm") / "model.txt"
    inputs = model.space.sample(200, np.random.default_rng(0))
    fitted = LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(inputs, model.query(inputs).labels())
    fitted.booster_.save_model(path)
    yield registry.load("targets", "lightgbm").load(path, model.space)


class Scorer(BaseHTTPRequestHandler):
    """Serves the linear model's probabilities in KServe's first protocol."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        body = json.dumps({"predictions": linear().query(asked)["probabilities"].tolist()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def http_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    codec = registry.create("protocols", "kserve-v1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Scorer) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/v1/models/linear:predict"
            exposure = Exposure.of("probabilities", 3)
            yield registry.load("targets", "http")(url, codec, exposure, linear().space, headers={})
        finally:
            server.shutdown()
            serving.join()


@contextmanager
def tree_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    yield tree()


TARGETS: dict[str, Callable[[pytest.TempPathFactory], AbstractContextManager[Target]]] = {
    "additive-steps": additive_steps_target,
    "callable": callable_target,
    "http": http_target,
    "kernel": kernel_target,
    "lightgbm": lightgbm_target,
    "linear": linear_target,
    "network": network_target,
    "sklearn": sklearn_target,
    "tree": tree_target,
    "xgboost": xgboost_target,
}


def boundless(*widths: int) -> NetworkTarget:
    """A ReLU network that takes any number, and answers with its scores."""
    model = network(1, widths=widths)
    return replace(model, space=Box(-np.inf, np.inf, (widths[0],)))


def staircase() -> Target:
    """Four cells of the square, and a nearest counterfactual inside any box."""
    space, corners = Box(0, 1, (2,)), np.array([[a, b] for a in (0.0, 0.4) for b in (0.0, 0.7)])

    def labels(x: Floats) -> Any:
        return ((x[:, 0] >= 0.4) ^ (x[:, 1] >= 0.7)).astype(int)

    def call(x: Floats, within: tuple[Floats, Floats] | None = None) -> dict[str, Any]:
        low, high = (space.low, space.high) if within is None else within
        ends = np.nextafter(np.where(corners[:, None] == 0, [0.4, 0.7], 1.0)[:, 0], -1)
        found = np.full(x.shape, np.nan)
        for i, row in enumerate(x):
            inside = np.clip(row, np.maximum(corners, low), np.minimum(ends, high))
            real = ((np.maximum(corners, low) <= np.minimum(ends, high)).all(1)) & (labels(inside) != labels(row[None]))
            if real.any():
                found[i] = inside[real][((inside[real] - row) ** 2).sum(1).argmin()]
        return {"label": labels(x), "counterfactual": found}

    return CallableTarget(call, Exposure.of(["label", "counterfactual"], 2), space)


#: What attacks on families other than linear models are put to work on, and with how many queries (else 300).
ATTACKED: dict[str, tuple[Sequence[Target], int]] = {
    "additive-steps": ([steps(), steps(outputs=2, link="probabilities"), steps(outputs=1, link="identity")], 1500),
    "attribution-regression": (
        [
            explained(linear(), ["logits", "attribution"]),
            explained(linear(1, outputs=2), ["probabilities", "attribution"]),
            explained(linear(1, outputs=1, link="identity"), ["value", "attribution"]),
        ],
        300,
    ),
    "box-search": ([staircase()], 300),
    "counterfactual": ([explained(linear(outputs=2), ["label", "counterfactual"])], 300),
    "counterfactual-training": ([explained(linear(outputs=2), ["label", "counterfactual"])], 100),
    "critical-points": ([network(), replace(network(1), link="identity")], 700),
    "critical-points-deep": ([boundless(6, 5, 5, 4)], 4000),
    "gradient-solving": (
        [
            explained(linear(), ["probabilities", "attribution"]),
            explained(linear(1, outputs=2), ["label", "probabilities", "attribution"]),
            explained(network(), ["logits", "attribution"]),
            explained(replace(network(1, widths=(4, 5, 1)), link="identity"), ["value", "attribution"]),
        ],
        300,
    ),
    "hessian-diagonalisation": ([network(activation="tanh"), network(1, activation="logistic")], 300),
    "path-finding": ([tree(), tree(1, "value", outputs=1)], 900),
    "retraining": ((), 150),
    "tree-labels": ([tree(2, "label"), tree(3)], 1500),
}
