"""What an audit sees over the wire is what it sees in process, in every protocol."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

import understudy as us
from understudy import registry
from understudy.protocols import Defence
from understudy.targets.callable import CallableTarget, checked
from understudy.targets.http import HttpTarget
from understudy.types import Answers, Ask, Exposure, Floats, Grain, Signal
from understudy.wire import RequestError
from understudy.wrappers import Defended

SPACE = us.Box(-1, 1, shape=(4,))
NAMES = ("open-inference", "kserve-v1", "mlflow", "json", "bentoml", "sagemaker")
TIERS = {
    "label": {Signal.LABEL: Grain()},
    "top-2": {Signal.PROBABILITIES: Grain(top_k=2)},
    "top-2 of 2 decimals": {Signal.PROBABILITIES: Grain(2, 2), Signal.LABEL: Grain()},
    "all": {Signal.PROBABILITIES: Grain(), Signal.LABEL: Grain()},
}


def softmax(x: Floats) -> Floats:
    z = x @ np.random.default_rng(0).normal(size=(4, 5)) * 4
    e = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def tier(grains: dict[Signal, Grain]) -> Defended:
    """What one customer meets in process."""
    target = CallableTarget(softmax, Exposure.of("probabilities", 5), SPACE)
    chain: list[Defence] = []
    grain = grains.get(Signal.PROBABILITIES)
    if grain is None:
        chain.append(registry.create("defences", "label-only"))
    else:
        if grain.top_k is not None:
            chain.append(registry.create("defences", "top-k", k=grain.top_k))
        if grain.decimals is not None:
            chain.append(registry.create("defences", "round", decimals=grain.decimals))
    return Defended(target, chain, "p", Exposure(grains, 5))


class Server:
    """The smallest gateway there is: parse, ask the tier, respond."""

    def __init__(self) -> None:
        self.codec: Any = None
        self.tier: Any = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                try:
                    asked = outer.codec.parse(body, headers, SPACE.shape)
                    assert not asked.wider
                    status, message = 200, outer.codec.respond(asked, outer.tier.query(asked.inputs), "m")
                except RequestError as error:
                    status, message = error.status, outer.codec.error(error.status, str(error))
                self.send_response(status)
                for name, value in {**message.headers, "content-length": str(len(message.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(message.body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/x"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def same(one: Answers, other: Answers) -> None:
    assert one.values.keys() == other.values.keys()
    for signal in one.values:
        assert np.array_equal(one[signal], other[signal])
        assert np.array_equal(one.mask(signal), other.mask(signal))


@pytest.mark.parametrize("name", [*NAMES, "open-inference binary"])
@pytest.mark.parametrize("grains", TIERS.values(), ids=TIERS)
def test_over_the_wire_and_in_process_agree(server: Server, name: str, grains: dict[Signal, Grain]) -> None:
    protocol, _, binary = name.partition(" ")
    server.codec = registry.create("protocols", protocol, **({"binary": True} if binary else {}))
    server.tier = tier(grains)
    over = HttpTarget(server.url, server.codec, server.tier.exposure, SPACE)
    x = SPACE.sample(50, np.random.default_rng(1))
    same(server.tier.query(x), over.query(x))
    same(server.tier.query(x[:1]), over.query(x[:1], Ask(over.exposure.signals)))


def test_a_probability_that_is_zero_counts_as_withheld_where_only_the_largest_are_shown() -> None:
    """0.999, 0.001, 0 shown to two decimals: nobody over the wire can tell the zeros apart."""
    sure = CallableTarget(lambda x: np.array([[0.999, 0.001, 0.0]]), Exposure.of("probabilities", 3), SPACE)
    chain = [registry.create("defences", "top-k", k=2), registry.create("defences", "round", decimals=2)]
    shown = Exposure({Signal.PROBABILITIES: Grain(2, 2)}, 3)
    inside = Defended(sure, chain, "p", shown).query(np.zeros((1, 4)))
    assert inside["probabilities"].tolist() == [[1.0, 0.0, 0.0]]
    assert inside.mask("probabilities").tolist() == [[True, False, False]]
    same(inside, checked({"probabilities": [[1.0, 0, 0]]}, 1, shown))


def test_all_zeros_are_shown_where_all_is_shown() -> None:
    answers = checked({"probabilities": [[1.0, 0, 0]]}, 1, Exposure.of("probabilities", 3))
    assert answers.mask("probabilities").all()
