"""Real processes: a model server, and `understudy guard` in front of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
import yaml
from click.testing import CliRunner

from understudy.cli import main

MODEL_SERVER = Path(__file__).parent / "gateway" / "model_server.py"
UNDERSTUDY = Path(sys.executable).with_name("understudy")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What `condition` returns once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} seconds: {condition}")


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


ROUTES = {
    "open-inference": "/v2/models/digits/infer",
    "kserve-v1": "/v1/models/digits:predict",
    "mlflow": "/invocations",
}


def manifest(folder: Path, port: int, protocol: str = "open-inference", name: str = "digits", **changes: Any) -> Path:
    """A manifest of the model server's digits; `changes` replace whole sections, `tiers` included."""
    body: dict[str, Any] = {
        "apiVersion": "understudy/v1",
        "kind": "Endpoint",
        "metadata": {"id": name, "owner": "o@example.org", "contact": "c@example.org"},
        "model": {"version": "1"},
        "target": {
            "http": {"url": f"http://127.0.0.1:{port}{ROUTES[protocol]}", "protocol": protocol, "timeout_s": 5},
            "signals": {"probabilities": {}},
            "outputs": 10,
        },
        "space": {"low": 0, "high": 1, "shape": [64]},
        "evaluation": {"data": "digits.npy"},
        "goals": [{"id": "copy", "threshold": 0.95, "basis": "test"}],
        "tiers": [
            {"id": "public", "who": "anybody", "signals": {"label": {}}, "limits": {"per_day": 1000}},
            {
                "id": "standard",
                "who": "customers",
                "signals": {"label": {}, "probabilities": {"top_k": 1, "decimals": 2}},
                "limits": {"per_minute": 600, "per_day": 5000, "accounts_per_party": 2},
                "price": {"per_1k_queries": 2},
            },
            {"id": "partner", "who": "partners", "signals": {"probabilities": {}}, "limits": {"per_day": 50_000}},
        ],
        "guard": {},
    }
    body.update(changes)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def add_key(path: Path, tier: str, *options: str) -> str:
    """A new key, as the command line gives it."""
    done = CliRunner().invoke(main, ["keys", "add", str(path), "--tier", tier, *options])
    found = re.search(r"us_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", done.stdout)
    assert found, done.output
    return found[0]


@dataclass
class Guard:
    """A running `understudy guard`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    http: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(maxsize=32, retries=False))

    def post(self, path: str, body: Any, key: str | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        """One request."""
        head = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {}), **headers}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.request("POST", self.url + path, body=data, headers=head, timeout=20)

    def get(self, path: str) -> urllib3.BaseHTTPResponse:
        """One read."""
        return self.http.request("GET", self.url + path, timeout=10)

    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def kill(self) -> None:
        """SIGKILL to the supervisor and all its workers at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def start_guard(folder: Path, *arguments: Any, env: dict[str, str] | None = None) -> Guard:
    """Start `understudy guard ARGUMENTS` on a free port and wait until it serves."""
    log = folder / "guard.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [UNDERSTUDY, "guard", *map(str, arguments), "--listen", "127.0.0.1:0"],
            stderr=file,
            stdout=file,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )

    def serving() -> str | None:
        found = re.search(r"Guarding at (http\S+)", log.read_text())
        assert found or process.poll() is None, log.read_text()
        return found[1] if found else None

    return Guard(process, wait_for(serving, 60), log)
