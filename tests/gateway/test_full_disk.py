"""A disk that is full: nothing leaves that is not on record, unless the manifest says it may; and it ends by itself."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from running import ROUTES, Guard, add_key, manifest, wait_for
from understudy.history import History

SIZE = 4 * 2**20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own with very little room."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "understudy-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"a small disk cannot be mounted: {error}")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here (it takes root): {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512):
            try:
                while file.write(os.urandom(size)) == size:
                    pass
            except OSError:
                continue
    return path


def ask(guard: Guard, key: str, rows: int, seed: int) -> Any:
    x = np.random.default_rng(seed).uniform(0, 1, (rows, 64))
    tensor = {"name": "x", "shape": [rows, 64], "datatype": "FP64", "data": x.ravel().tolist()}
    return guard.post(ROUTES["open-inference"], {"inputs": [tensor]}, key)


@pytest.mark.parametrize("away", ["refuse", "release"])
def test_a_full_disk(tmp_path: Path, small: Path, model_server: int, guarding: Callable[..., Guard], away: str) -> None:
    part = {"folder": str(small), "logging": {"when_unavailable": away}}
    path = manifest(tmp_path, model_server, guard=part)
    key = add_key(path, "partner", "--principal", "ann")
    guard = guarding(path, "--workers", 2)
    seen: Counter[int] = Counter()
    for i in range(20):
        seen[ask(guard, key, 2, i).status] += 1
    assert seen == {200: 20}
    ballast = fill(small)
    full: Counter[int] = Counter()
    for i in range(40):
        answer = ask(guard, key, 50, i)
        full[answer.status] += 1
        assert answer.status in (200, 503), answer.data
        if answer.status == 503:
            assert answer.headers["retry-after"]
    if away == "release":
        assert full == {200: 40}
        assert guard.get("/readyz").status == 200
    else:
        assert full[503] > 30  # the room within the files was soon used up
        wait_for(lambda: guard.get("/readyz").status == 503, 10)
    assert guard.get("/healthz").status == 200
    assert all(line["event"] != "a worker died and is started again" for line in guard.lines())

    ballast.unlink()
    history, began = History(small / "digits" / "history"), time.monotonic()

    def recovered() -> bool:
        """Whether eight answers in a row left, and are on record."""
        before = sum(1 for _ in history.rows())
        left = [ask(guard, key, 1, i).status for i in range(8)]
        return left == [200] * 8 and sum(1 for _ in history.rows()) == before + 8

    wait_for(recovered, 20)
    wait_for(lambda: all(guard.get("/readyz").status == 200 for _ in range(8)), 20)
    assert time.monotonic() - began < 15
    assert guard.stop() == 0
    history.verify()
    assert sum(1 for _ in history.rows()) >= 20 + 8 + (full[200] if away == "refuse" else 0)
