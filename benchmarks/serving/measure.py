"""Requests per second by wrk, CPU by /proc, latency of one connection: of one stack, for some seconds."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from serving.stacks import SIZES, WORK, Stack

_TICK = os.sysconf("SC_CLK_TCK")


class Rate(NamedTuple):
    """Requests per second, and CPU per request of the whole process tree in microseconds."""

    per_second: float
    cpu_us: float


def rate(stack: Stack, size: str, seconds: float, warm: float = 1.0) -> Rate:
    """Load by wrk, on core 1, for some seconds. Raises RuntimeError where an answer is not 200."""
    script = _script(stack, size)
    url = f"http://127.0.0.1:{stack.port}{stack.paths[size]}"
    wrk = ["taskset", "-c", "1", "wrk", "-t1", f"-c{stack.connections}", "--timeout", "30s", "-s", str(script)]
    if warm:
        subprocess.run([*wrk, f"-d{warm:g}s", url], check=True, capture_output=True)
    before = cpu(stack.pid)
    done = subprocess.run([*wrk, f"-d{seconds:g}s", url], check=True, capture_output=True, text=True)
    used = cpu(stack.pid) - before
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"{stack.name}: {done.stdout}")
    found = re.search(r"(\d+) requests in", done.stdout), re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert found[0], done.stdout
    assert found[1], done.stdout
    return Rate(float(found[1][1]), used / int(found[0][1]) * 1e6)


def latency(stack: Stack, size: str, requests: int) -> float:
    """Median seconds of requests one after another on one connection."""
    message = _message(stack, size)
    taken = []
    with socket.create_connection(("127.0.0.1", stack.port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(requests):
            start = time.perf_counter()
            s.sendall(message)
            status = _receive(s)
            taken.append(time.perf_counter() - start)
            if status != b"200":
                raise RuntimeError(f"{stack.name}: status {status!r}")
    return median(taken)


def sync(seconds: float = 0.5) -> float:
    """Median seconds that the disk takes to keep 4 KB in a file that has its size already: what any record costs."""
    path, taken = WORK / "sync", []
    handle = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        os.write(handle, bytes(2**20))
        os.fsync(handle)
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            os.pwrite(handle, b"x" * 4096, 4096 * (len(taken) % 256))
            os.fdatasync(handle)
            taken.append(time.perf_counter() - start)
    finally:
        os.close(handle)
    return median(taken)


def cpu(pid: int) -> float:
    """CPU seconds of a process and everything it started."""
    total, children = 0.0, _children()
    family = [pid]
    for member in family:
        family += children.get(member, [])
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            found.setdefault(parent, []).append(int(entry.name))
    return found


def _headers(stack: Stack, size: str) -> dict[str, str]:
    head = {"Content-Type": "application/json"}
    if stack.key is not None:
        head["Authorization"] = "Bearer " + stack.key.split("\n")[list(SIZES).index(size)]
    return head


def _script(stack: Stack, size: str) -> Path:
    path = WORK / f"{stack.name}-{size}.lua".replace(" ", "-")
    lines = ['wrk.method = "POST"', f"wrk.body = [==[{stack.bodies[size].decode()}]==]"]
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in _headers(stack, size).items()]
    path.write_text("\n".join(lines))
    return path


def _message(stack: Stack, size: str) -> bytes:
    body = stack.bodies[size]
    head = {"Host": "127.0.0.1", **_headers(stack, size), "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"POST {stack.paths[size]} HTTP/1.1\r\n{lines}\r\n".encode() + body


def _receive(s: socket.socket) -> bytes:
    """One whole answer with a Content-Length; its status."""
    got = b""
    while (at := got.find(b"\r\n\r\n")) < 0:
        got += s.recv(65536)
    length = re.search(rb"content-length:\s*(\d+)", got[:at], re.IGNORECASE)
    assert length, got[:at]
    left = int(length[1]) - (len(got) - at - 4)
    while left > 0:
        left -= len(s.recv(65536))
    return got[9:12]
