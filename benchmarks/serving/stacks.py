"""What is compared, each started in its own place: nginx, the bare pass-through, the guard, LiteLLM. One upstream."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).parents[2]
BENCH = ROOT / ".bench"
WORK = BENCH / "gateway"
SIZES = {"1 KB": 42, "8 KB": 358}  # numbers in a request and in an answer
LITELLM = "litellm[proxy]==1.106.2"
PASSTHROUGH = ("aiohttp==3.14.5", "uvicorn", "uvloop", "httptools")
UNDERSTUDY = Path(sys.executable).with_name("understudy")


@dataclass(frozen=True)
class Stack:
    """Something that answers. `paths` and `bodies`: by size; `key`: one per size, a line each, where any is needed."""

    name: str
    workers: int
    port: int
    pid: int
    paths: dict[str, str]
    bodies: dict[str, bytes]
    key: str | None = None
    connections: int = 32


def prepare(litellm: bool) -> None:
    """Everything that has to be installed once."""
    if not (shutil.which("wrk") and shutil.which("nginx")):
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "wrk", "nginx-light"], check=True)
    _environment("passthrough", *PASSTHROUGH)
    if litellm:
        _environment("litellm", LITELLM)


def versions() -> dict[str, str]:
    """What was measured."""
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().rpartition("/")[2]
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.split()[1]
    found = {"nginx": nginx, "wrk": wrk, "Python": sys.version.split()[0]}
    for folder, names in (("passthrough", ("aiohttp", "uvicorn", "uvloop")), ("litellm", ("litellm",))):
        found |= {f"{n} ({folder})" if folder != n else n: _version(BENCH / folder, n) for n in names}
    return {k: v for k, v in found.items() if v} | {
        n: _version(Path(sys.prefix), n) for n in ("uvicorn", "uvloop", "pyreqwest", "numpy", "orjson")
    }


def _version(environment: Path, name: str) -> str:
    code = f"from importlib.metadata import version; print(version({name!r}))"
    python = environment / "bin/python"
    return (
        subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip() if python.exists() else ""
    )


def _environment(name: str, *packages: str) -> None:
    folder = BENCH / name
    done = folder / ".done"
    if not done.exists():
        print(f"making {folder} ({', '.join(packages)})", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *packages], check=True)
        done.touch()


@contextlib.contextmanager
def all_stacks(workers: tuple[int, ...], litellm: bool) -> Iterator[list[Stack]]:
    """Every stack, started. One worker is pinned to core 0, the upstream to core 1; more workers run anywhere."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        upstream = free_port()
        processes.append(_upstream(upstream))
        stacks = []
        for n in workers:
            stacks += [
                _nginx(n, upstream, processes),
                _passthrough(n, upstream, processes),
                _guard(n, upstream, processes),
            ]
            if litellm:
                stacks.append(_litellm(n, upstream, processes))
        yield stacks
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _start(
    name: str, command: list[Any], port: int | None, core: int | None, seconds: float = 60, **env: str
) -> subprocess.Popen[bytes]:
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    with (WORK / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*pinned, *map(str, command)], stdout=log, stderr=log, start_new_session=True, env={**os.environ, **env}
        )
    deadline = time.monotonic() + seconds
    while port is not None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            break
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} does not start: see {WORK / name}.log")
        time.sleep(0.1)
    return process


def _upstream(port: int) -> subprocess.Popen[bytes]:
    """Static answers from nginx, for POST too."""
    rng = np.random.default_rng(7)
    for size, n in SIZES.items():
        p = rng.dirichlet(np.ones(n))
        tensor = {"name": "predict_proba", "shape": [1, n], "datatype": "FP64", "data": p.tolist()}
        answer = {"model_name": "m", "model_version": "1", "id": "bench", "outputs": [tensor]}
        _put(f"v2/models/{_model(size)}/infer", json.dumps(answer, separators=(",", ":")))
        _put(f"{_model(size)}/v1/chat/completions", _chat(n * 24))
    conf = WORK / "upstream.conf"
    conf.write_text(
        _HEAD.format(folder=WORK, name="upstream", workers=1)
        + f"server {{ listen 127.0.0.1:{port}; root {WORK}/www; default_type application/json;"
        + " location / { error_page 405 =200 $uri; } } }"
    )
    return _start("upstream", ["nginx", "-c", conf, "-g", "daemon off;"], port, 1)


_HEAD = """worker_processes {workers}; pid {folder}/{name}.pid; error_log {folder}/{name}.err;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_buffer_size 64k; client_max_body_size 1m; keepalive_requests 1000000000;
client_body_temp_path {folder}/{name}.body; proxy_temp_path {folder}/{name}.proxy; fastcgi_temp_path {folder}/{name}.f;
uwsgi_temp_path {folder}/{name}.u; scgi_temp_path {folder}/{name}.s;
"""


def _put(path: str, text: str) -> None:
    file = WORK / "www" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _chat(size: int) -> str:
    """A chat completion with log-probabilities, of about `size` bytes."""
    entries: list[dict[str, Any]] = []

    def written() -> str:
        message = {"role": "assistant", "content": "ok " * len(entries)}
        choice = {"index": 0, "message": message, "logprobs": {"content": entries}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": len(entries), "total_tokens": 9 + len(entries)}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "bench"}
        return json.dumps({**head, "choices": [choice], "usage": usage}, separators=(",", ":"))

    while len(written()) < size:
        entries.append({"token": "ok ", "logprob": -0.31725, "bytes": [111, 107, 32], "top_logprobs": []})
    return written()


def _nginx(workers: int, upstream: int, processes: list[subprocess.Popen[bytes]]) -> Stack:
    port, conf = free_port(), WORK / f"nginx-{workers}.conf"
    conf.write_text(
        _HEAD.format(folder=WORK, name=f"nginx-{workers}", workers=workers)
        + f"upstream model {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}"
        + f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://model; proxy_http_version 1.1;"
        + ' proxy_set_header Connection ""; } } }'
    )
    command = ["nginx", "-c", conf, "-g", "daemon off;"]
    processes.append(_start(f"nginx-{workers}", command, port, _core(workers)))
    return Stack("nginx proxy_pass", workers, port, processes[-1].pid, _paths(), _bodies())


def _passthrough(workers: int, upstream: int, processes: list[subprocess.Popen[bytes]]) -> Stack:
    port = free_port()
    command = [
        *(BENCH / "passthrough/bin/uvicorn", "serving.passthrough:app", "--app-dir", ROOT / "benchmarks"),
        *("--port", port, "--workers", workers, "--loop", "uvloop", "--http", "httptools", "--lifespan", "off"),
        *("--no-access-log", "--log-level", "warning"),
    ]
    env = {"UPSTREAM": f"http://127.0.0.1:{upstream}"}
    processes.append(_start(f"passthrough-{workers}", command, port, _core(workers), **env))
    return Stack("bare pass-through", workers, port, processes[-1].pid, _paths(), _bodies())


def _guard(workers: int, upstream: int, processes: list[subprocess.Popen[bytes]]) -> Stack:
    """Everything on: a key, limits of principal, party and all, top-k and rounding, the record durable and whole."""
    folder = WORK / f"guard-{workers}"
    folder.mkdir()
    manifests = [manifest(folder, size, upstream) for size in SIZES]
    keys = [_key(path) for path in manifests]
    name, core = f"guard-{workers}", _core(workers)
    command = [UNDERSTUDY, "guard", *manifests, "--listen", "127.0.0.1:0", "--workers", workers]
    processes.append(_start(name, command, None, core))
    deadline = time.monotonic() + 60
    while not (found := re.search(r"Guarding at http://127\.0\.0\.1:(\d+)", (WORK / f"{name}.log").read_text())):
        if processes[-1].poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the guard does not start: see {WORK / name}.log")
        time.sleep(0.1)
    return Stack("guard", workers, int(found[1]), processes[-1].pid, _paths(), _bodies(), "\n".join(keys))


def manifest(folder: Path, size: str, upstream: int, **identity: Any) -> Path:
    """The manifest of one size: labels and the five largest probabilities to three places."""
    n = SIZES[size]
    plenty = {"per_minute": 10**8, "per_day": 10**11, "per_30d": 10**12, "accounts_per_party": 4}
    review = {"by": "bench", "on": "2020-01-01", "until": "2099-01-01", "reason": "a benchmark"}
    body = {
        "apiVersion": "understudy/v1",
        "kind": "Endpoint",
        "metadata": {"id": _model(size), "owner": "o@example.org", "contact": "c@example.org"},
        "model": {"version": "1"},
        "target": {
            "http": {"url": f"http://127.0.0.1:{upstream}{_paths()[size]}", "protocol": "open-inference"},
            "signals": {"probabilities": {}},
            "outputs": n,
        },
        "space": {"low": 0, "high": 1, "shape": [n]},
        "evaluation": {"data": "none.npy"},
        "goals": [{"id": "copy", "threshold": 0.95, "basis": "a benchmark"}],
        "tiers": [
            {
                "id": "standard",
                "who": "customers",
                "signals": {"label": {}, "probabilities": {"top_k": 5, "decimals": 3}},
                "limits": plenty,
                "review": review,
            }
        ],
        "guard": {"limits": {"per_minute": 10**9, "per_day": 10**12, "per_30d": 10**13}, "identity": identity},
    }
    path = folder / f"{_model(size)}.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def _key(path: Path) -> str:
    command = [UNDERSTUDY, "keys", "add", path, "--tier", "standard", "--party", "acme"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"us_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", done.stdout)
    assert found, done.stdout
    return found[0]


def _litellm(workers: int, upstream: int, processes: list[subprocess.Popen[bytes]]) -> Stack:
    port, conf = free_port(), WORK / f"litellm-{workers}.yaml"
    models = [
        {
            "model_name": _model(size),
            "litellm_params": {
                "model": f"openai/{_model(size)}",
                "api_base": f"http://127.0.0.1:{upstream}/{_model(size)}/v1",
                "api_key": "none",
            },
        }
        for size in SIZES
    ]
    conf.write_text(yaml.safe_dump({"model_list": models, "general_settings": {"master_key": "sk-bench"}}))
    command = [BENCH / "litellm/bin/litellm", "--config", conf, "--port", port, "--host", "127.0.0.1"]
    command += ["--num_workers", workers]
    env = {"LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    path = str(BENCH / "litellm/bin") + ":" + os.environ["PATH"]
    processes.append(_start(f"litellm-{workers}", command, port, _core(workers), 240, PATH=path, **env))
    bodies = {}
    for size, n in SIZES.items():
        message = {"role": "user", "content": "x" * (n * 20)}
        bodies[size] = json.dumps({"model": _model(size), "messages": [message], "logprobs": True}).encode()
    paths = dict.fromkeys(SIZES, "/v1/chat/completions")
    return Stack("LiteLLM", workers, port, processes[-1].pid, paths, bodies, "\n".join(["sk-bench"] * len(SIZES)), 8)


def _core(workers: int) -> int | None:
    return 0 if workers == 1 else None


def _model(size: str) -> str:
    return "m" + size.split()[0]


def _paths() -> dict[str, str]:
    return {size: f"/v2/models/{_model(size)}/infer" for size in SIZES}


def _bodies() -> dict[str, bytes]:
    return {size: request(n) for size, n in SIZES.items()}


def request(n: int) -> bytes:
    """A request of one row with `n` numbers, every digit written."""
    data = np.random.default_rng(3).uniform(0, 1, n).tolist()
    tensor = {"name": "input-0", "shape": [1, n], "datatype": "FP64", "data": data}
    return json.dumps({"id": "bench", "inputs": [tensor]}, separators=(",", ":")).encode()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
