"""SIGKILL under load: whatever a client was told is on record, nobody asks more than they may, it starts again."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3

from running import ROUTES, Guard, add_key, manifest
from understudy.history import History

ACCOUNTS, THREADS = 3, 6


class Load:
    """Customers who ask one or two rows at a time until told to stop, and note every answer they received whole."""

    def __init__(self, url: str, keys: list[str], life: int) -> None:
        self.answered: list[tuple[str, int, int, bytes]] = []  # request id, account, rows, inputs
        self.statuses: Counter[int] = Counter()
        self._url, self._keys, self._life, self._over = url + ROUTES["open-inference"], keys, life, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, index: int) -> None:
        account = index % len(self._keys)
        chance = np.random.default_rng([self._life, index])
        pool = urllib3.PoolManager(retries=False)
        headers = {"authorization": f"Bearer {self._keys[account]}", "content-type": "application/json"}
        while not self._over.is_set():
            x = chance.uniform(0, 1, (1 + int(chance.integers(2)), 64))
            tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}
            try:
                answer = pool.request(
                    "POST", self._url, body=json.dumps({"inputs": [tensor]}).encode(), headers=headers, timeout=10
                )
            except (urllib3.exceptions.HTTPError, OSError):
                continue
            self.statuses[answer.status] += 1
            if answer.status == 200:
                json.loads(answer.data)
                self.answered.append((answer.headers["x-request-id"], account, len(x), x.tobytes()))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)


def kill_and_restart(
    tmp_path: Path, model_server: int, guarding: Callable[..., Guard], kills: int, allowance: int
) -> None:
    limits = {"per_day": allowance, "accounts_per_party": 2}
    tiers = [{"id": "t", "who": "w", "signals": {"label": {}}, "limits": limits}]
    path = manifest(tmp_path, model_server, tiers=tiers)
    keys = [add_key(path, "t", "--party", "acme", "--principal", f"a{i}") for i in range(ACCOUNTS)]
    folder = tmp_path / "guard" / "digits" / "history"
    chance, answered, starts, refused = random.Random(kills), list[tuple[str, int, int, bytes]](), list[float](), 0
    for life in range(kills + 1):
        began = time.monotonic()
        guard = guarding(path, "--workers", 2)
        starts.append(time.monotonic() - began)
        load = Load(guard.url, keys, life)
        time.sleep(chance.uniform(0.02, 0.6))
        if life < kills:
            guard.kill()
            load.stop()
        else:
            load.stop()
            assert guard.stop() == 0
        answered += load.answered
        refused += load.statuses[429]
        assert set(load.statuses) <= {200, 429}
    assert len(answered) > kills

    history = History(folder)
    history.verify()
    rows = {kept.row.context["request"]: kept.row for kept in history.rows()}
    for number, account, n, inputs in answered:
        row: Any = rows.get(number)
        assert row is not None, f"{number} was answered and is not on record"
        assert (row.rows, row.principal, row.inputs.tobytes()) == (n, f"key:a{account}", inputs)
    used = Counter[str]()
    for row in rows.values():
        used[row.principal] += row.rows
    assert max(used.values()) <= allowance
    assert sum(used.values()) <= 2 * allowance
    assert max(starts) < 20
    if refused:  # nor is much lost: what was charged and not answered is at most what was in flight at each kill
        assert sum(used.values()) >= 2 * allowance - 2 * THREADS * (kills + 1)


def test_five_kills_lose_nothing(tmp_path: Path, model_server: int, guarding: Callable[..., Guard]) -> None:
    kill_and_restart(tmp_path, model_server, guarding, 5, 100)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fifty_kills_lose_nothing(tmp_path: Path, model_server: int, guarding: Callable[..., Guard]) -> None:
    kill_and_restart(tmp_path, model_server, guarding, 50, 2000)
