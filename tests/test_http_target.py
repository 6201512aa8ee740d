"""An HTTP target against a real server that misbehaves on demand."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

import understudy as us
from understudy import registry
from understudy.errors import AnswerError, InputError, TargetError
from understudy.store import Store
from understudy.targets.http import HttpTarget, is_local
from understudy.types import Exposure
from understudy.wrappers import Recorded

GOOD = {"predictions": [[0.25, 0.75], [0.5, 0.5]]}
X = np.zeros((2, 3))
KEY = "s3cret-key-value"


class Server:
    """Plays a script of (status, headers, body) and remembers what it was asked."""

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], bytes] | str] = []
        self.seen: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append((time.monotonic(), dict(self.headers), json.loads(body)))
                step = outer.script.pop(0) if outer.script else (200, {}, json.dumps(GOOD).encode())
                if step == "reset":
                    self.connection.shutdown(socket.SHUT_RDWR)  # closing alone waits for the streams made of it
                    self.close_connection = True
                    return
                if step == "slow":
                    threading.Event().wait(0.6)
                    step = (200, {}, json.dumps(GOOD).encode())
                assert not isinstance(step, str)
                status, headers, answer = step
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *args: object) -> None:
                """A client that hangs up is part of the test."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1/models/m:predict"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def target(self, **options: Any) -> HttpTarget:
        codec = registry.create("protocols", "kserve-v1")
        made = {"headers": {"Authorization": KEY}, "timeout_s": 5.0, **options}
        return HttpTarget(self.url, codec, Exposure.of("probabilities", 2), us.Box(-1, 1, shape=(3,)), **made)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Back-off is noted, not slept through; the server's own delays are real."""
    waits: list[float] = []
    monkeypatch.setattr("understudy.targets.http.time.sleep", waits.append)
    return waits


def test_it_asks_once_and_sends_the_key(server: Server) -> None:
    answers = server.target().query(X)
    assert answers["probabilities"].tolist() == GOOD["predictions"]
    ((_, headers, body),) = server.seen
    assert headers["Authorization"] == KEY
    assert body == {"instances": X.tolist()}


@pytest.mark.parametrize("step", [(503, {}, b""), (429, {}, b""), (502, {}, b"x"), (504, {}, b""), "reset"])
def test_it_asks_again_where_that_is_right(server: Server, step: Any, no_long_waits: list[float]) -> None:
    server.script = [step, step]
    assert len(server.target().query(X)) == 2
    assert len(server.seen) == 3
    assert len(no_long_waits) == 2
    assert all(0 < w < 60 for w in no_long_waits)


def test_retry_after_is_honoured(server: Server, no_long_waits: list[float]) -> None:
    date = formatdate(time.time() + 30, usegmt=True)
    server.script = [(429, {"Retry-After": "7"}, b""), (503, {"Retry-After": date}, b"")]
    server.target().query(X)
    assert no_long_waits[0] == 7
    assert 25 <= no_long_waits[1] <= 31


def test_a_very_long_retry_after_ends_it(server: Server) -> None:
    server.script = [(429, {"Retry-After": "86400"}, b"")]
    with pytest.raises(TargetError, match="asks to wait 86,400 seconds"):
        server.target().query(X)


def test_attempts_are_bounded(server: Server) -> None:
    server.script = [(503, {}, b"")] * 9
    with pytest.raises(TargetError, match="HTTP 503; given up after 3 attempts"):
        server.target(retries=2).query(X)
    assert len(server.seen) == 3


def test_no_answer_in_time(server: Server) -> None:
    server.script = ["slow", "slow"]
    with pytest.raises(TargetError, match="no answer in time; given up after 2 attempts"):
        server.target(timeout_s=0.2, retries=1).query(X)


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        ((401, {}, KEY.encode()), "HTTP 401 .*is the credential right"),
        ((404, {}, b"nope"), "HTTP 404 .*whole route"),
        ((413, {}, b""), "lower target.batch"),
        ((500, {}, b"<html>boom"), "HTTP 500"),
        ((307, {"Location": "http://elsewhere.example/x"}, b""), "redirects to http://elsewhere.example/x"),
    ],
)
def test_a_refusal_says_what_to_do_and_is_not_repeated(server: Server, step: Any, wanted: str) -> None:
    server.script = [step]
    with pytest.raises(TargetError, match=wanted) as caught:
        server.target().query(X)
    assert len(server.seen) == 1
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (b"<!doctype html><html>sign in</html>", "answered HTML"),
        (b'{"predictions": [[0.2, 0.8], [0.5', "half an answer"),
        (b'{"predictions": [[0.2, 0.8]]}', "2 inputs were asked and 1 answers came back"),
        (b'{"predictions": [[0.2, 0.8], [0.5]]}', "ragged"),
        (b'{"predictions": [[0.2, 0.3, 0.5], [0.5, 0.25, 0.25]]}', "3 numbers per answer, expected 2"),
        (b'{"predictions": [[0.2, 0.3], [0.5, 0.5]]}', "do not sum to one \\(row 0 sums to 0.5\\)"),
        (b'{"predictions": [[NaN, 0.3], [0.5, 0.5]]}', "row 0 is not finite"),
        (b'{"outputs": [[1, 0], [1, 0]]}', "no 'predictions'"),
        (b'{"predictions": [["a", "b"], ["c", "d"]]}', "not a rectangular array of numbers"),
    ],
)
def test_a_200_is_no_proof(server: Server, answer: bytes, wanted: str, tmp_path: Any) -> None:
    """One clear error that names the batch; what was bought before is kept, and so is what arrived."""
    store = Store.create(tmp_path / "run")
    recorded = Recorded(server.target(), store.cell("c"), batch=2)
    recorded.query(X)
    server.script = [(200, {}, answer)]
    with pytest.raises(AnswerError, match=f"batch 1 \\(2 queries\\): .*{wanted}"):
        recorded.query(X)
    assert store.counts()["c"]["answered"] == 2
    assert len(store.failures()) == 1
    raw = store._db.execute("SELECT raw FROM failures").fetchone()[0]
    assert raw == answer
    store.close()


def test_secrets_are_in_no_repr(server: Server) -> None:
    assert KEY not in repr(server.target())


def test_too_large_an_answer_is_not_read(server: Server) -> None:
    server.script = [(200, {}, b"x" * 5000)]
    with pytest.raises(AnswerError, match="larger than 1,000 bytes"):
        server.target(max_bytes=1000).query(X)


def test_rows_beyond_the_batch_are_refused_before_asking(server: Server) -> None:
    with pytest.raises(InputError, match="this target takes 1"):
        server.target(max_rows=1).query(X)
    assert not server.seen


def test_nothing_asked_nothing_sent(server: Server) -> None:
    assert len(server.target().query(np.zeros((0, 3)))) == 0
    assert not server.seen


def test_the_pace_is_shared_by_threads(server: Server, no_long_waits: list[float]) -> None:
    target = server.target(pace=10.0)
    threads = [threading.Thread(target=target.query, args=(X,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(round(w, 1) for w in no_long_waits)[-1] == pytest.approx(0.4, abs=0.15)


def test_nobody_listens() -> None:
    codec = registry.create("protocols", "kserve-v1")
    target = HttpTarget("http://127.0.0.1:9/x", codec, Exposure.of("label", 2), us.Box(-1, 1, shape=(3,)), retries=0)
    with pytest.raises(TargetError, match="cannot connect"):
        target.query(X)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:8080/x", True),
        ("http://127.0.0.1/x", True),
        ("http://127.9.9.9/x", True),
        ("http://[::1]:80/x", True),
        ("http://localhost.example.org/x", False),
        ("http://10.0.0.1/x", False),
        ("https://models.example.org/x", False),
        ("http://127.0.0.1.example.org/x", False),
    ],
)
def test_what_is_this_machine(url: str, local: bool) -> None:
    assert is_local(url) is local
