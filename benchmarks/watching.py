"""What watching costs: on the answer path, and beside it. `python benchmarks/watching.py` prints two tables."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import heading, one_thread, row

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "gateway")]
RUNS, REQUESTS = 5, 400
#: accounts, exchanges of each, rows of one, whether every leak is read
SHAPES = ((100, 40, 1, False), (1000, 10, 1, False), (64, 40, 8, False), (20, 50, 4, False), (20, 50, 4, True))


def cpu(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


async def answered(path: Path, key: str) -> float:
    """CPU seconds of one answered request, model included as the cheapest there is: a constant."""
    from understudy.gateway.app import Gateway

    told = json.dumps({
        "model_name": "m",
        "outputs": [{"name": "predict_proba", "shape": [1, 10], "datatype": "FP64", "data": [0.1] * 10}],
    }).encode()  # fmt: skip

    async def model(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(told)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": told})

    body = json.dumps({
        "inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP64", "data": [0.5] * 64}]
    }).encode()  # fmt: skip
    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "method": "POST", "path": "/v2/models/digits/infer", "query_string": b"", "headers": headers,
        "client": ("192.0.2.1", 1), "raw_path": b"/v2/models/digits/infer",
    }  # fmt: skip
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    gateway = Gateway([path], app=model)
    await gateway.open()
    began = time.process_time()
    for _ in range(REQUESTS):
        await gateway(dict(scope), receive, send)
    spent = time.process_time() - began
    await gateway.close()
    assert statuses == [200] * REQUESTS, statuses[:3]
    return spent / REQUESTS


def path_cost(held: int) -> float:
    """CPU seconds per request of looking up what is in force, while `held` other accounts are."""
    from understudy.gateway.book import FILE, Book
    from understudy.gateway.identity import Caller
    from understudy.gateway.orders import Orders
    from understudy.response import Response

    folder, n = Path(tempfile.mkdtemp()), 200_000
    if held:
        with Book(folder / FILE) as book:
            now = time.time()
            book.add(
                (Response("1", "throttle", "principal", f"key:x-{i}", now, 1e5, 1e5, 0.5), None) for i in range(held)
            )
    orders, caller = Orders(folder, {}), Caller("key:a-1", "key:a", "standard")
    spent = cpu(lambda: [orders.of(caller) for _ in range(n)]) / n
    orders.close()
    return spent


def followed(accounts: int, exchanges: int, rows: int, leak: bool = False) -> tuple[float, int, int]:
    """CPU seconds per query of following a history; queries written, and followed. `leak`: a step looks at nothing but
    the leak, so that every account's is read.
    """
    import benign
    import numpy as np

    from running import manifest
    from understudy.gateway.feed import Feed
    from understudy.gateway.service import compile_service
    from understudy.history import Row, Writer

    ladder = [{"when": {"p_value": 0.01, "leak": 0.4}, "do": "alert"}]
    ladder += [{"when": {"leak": 0.95}, "do": "alert"}] if leak else []
    service = compile_service(manifest(Path(tempfile.mkdtemp()), 9, monitor={"response": ladder}))
    service.folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    async def fill() -> None:
        writers = [Writer(service.folder / "history", str(i)) for i in range(2)]
        for e in range(exchanges):
            await asyncio.gather(*(writers[i % 2].append(exchange(i, e)) for i in range(accounts)))
        for writer in writers:
            writer.close()

    def exchange(i: int, e: int) -> Row:
        q = benign.account(i, rng, rows)
        return Row(
            1.0 + e + i / accounts, f"key:b{i}", f"key:o{i}", "standard", "/", "v", "w", 200, rows, q.inputs, q.answers,
            q.margin, False, {"network": "192.0.2.1", "client": "x"},
        )  # fmt: skip

    asyncio.run(fill())
    assert service.manifest.monitor is not None
    feed, queries = Feed(service, service.manifest.monitor, benign.calibration()), 0
    began = time.process_time()
    while (done := feed.step(time.time())).exchanges:
        queries += done.queries
    spent = time.process_time() - began
    feed.close(time.time())
    return spent / queries, accounts * exchanges * rows, queries


def main() -> None:
    from running import add_key, manifest

    path = manifest(Path(tempfile.mkdtemp()), 9, tiers=[{"id": "standard", "who": "w", "signals": {"label": {}}}])
    key = add_key(path, "standard")
    request = [asyncio.run(answered(path, key)) for _ in range(RUNS)]
    whole = statistics.median(request)
    print(heading("on the answer path", "share of a request's CPU, every run", "median"))
    for held in (0, 1000):
        shares = [100 * path_cost(held) / whole for _ in range(RUNS)]
        name = f"look-up, {held:,} other accounts held"
        print(row(name, ", ".join(f"{s:.3f} %" for s in shares), f"{statistics.median(shares):.3f} %"))
    print()
    columns = ("beside it: accounts x exchanges x rows", "CPU of one query / of one answered request, every run")
    print(heading(*columns, "median", "microseconds here, median", "queries written", "followed"))
    for *shape, leak in SHAPES:
        found = [followed(*shape, leak) for _ in range(RUNS)]
        ratios = [spent / whole for spent, _, _ in found]
        print(
            row(
                " x ".join(map(str, shape)) + (", every leak read" if leak else ""),
                ", ".join(f"{r:.2f}" for r in ratios),
                f"{statistics.median(ratios):.2f}",
                f"{1e6 * statistics.median(spent for spent, _, _ in found):.0f}",
                *(", ".join(sorted({f"{f[i]:,}" for f in found})) for i in (1, 2)),
            )
        )


if __name__ == "__main__":
    one_thread()
    main()
