"""SIGKILL at random moments, 20 times, against a counting HTTP server: nothing recorded is asked again."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import DEMO
from test_audit import findings
from understudy.store import Store

KILLS = 20
CONCURRENCY, JOBS, BATCH = 2, 2, 10


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    port, counts = tmp_path / "port", tmp_path / "counts"
    counts.touch()
    process = subprocess.Popen([sys.executable, Path(__file__).with_name("counting_server.py"), port, counts])
    try:
        for _ in range(200):
            if port.exists() and port.read_text():
                break
            time.sleep(0.1)
        yield int(port.read_text()), counts
    finally:
        process.kill()
        process.wait()


def manifest(folder: Path, port: int) -> Path:
    text = (DEMO / "risk_score.yaml").read_text(encoding="utf-8")
    http = (
        f"  http:\n    url: http://127.0.0.1:{port}/score\n    protocol: json\n"
        "    options: {body: {instances: $inputs}, paths: {probabilities: predictions}}\n"
    )
    text = text.replace("  python: models:risk_score\n", http)
    text = text.replace("  batch: 500\n", f"  batch: {BATCH}\n  concurrency: {CONCURRENCY}\n")
    text = text.replace("threshold: 0.95", "threshold: 0.9999")  # out of reach: every attack spends its budget
    path = folder / "endpoint.yaml"
    path.write_text(text, encoding="utf-8")
    (folder / "models.py").write_bytes((DEMO / "models.py").read_bytes())
    return path


def command(path: Path, *options: object) -> list[str]:
    tiers = ["--tier", "public", "--tier", "standard", "--budget", "600", "--jobs", str(JOBS)]
    return [sys.executable, "-m", "understudy", "audit", str(path), *tiers, *map(str, options)]


@pytest.mark.slow
def test_twenty_kills_change_nothing(server: tuple[int, Path], tmp_path: Path) -> None:
    port, counts = server
    path = manifest(tmp_path, port)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = subprocess.run(command(path, "--out", whole), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 3), done.stderr
    started = time.monotonic()
    asked_whole = len(counts.read_text().splitlines())
    counts.write_text("")

    chance = random.Random(0)
    kills = 0
    for _ in range(200):
        if kills == KILLS:
            break
        where = ["--resume", broken] if broken.exists() else ["--out", broken]
        process = subprocess.Popen(
            command(path, *where), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        kept = answered(broken)
        wait_for(lambda kept=kept, process=process: answered(broken) > kept or process.poll() is not None)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.25))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if process.returncode in (0, 3):
            pytest.fail(f"the audit ended after {kills} kills only; make it longer")
    done = subprocess.run(command(path, "--resume", broken), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 3), done.stderr
    assert kills == KILLS, f"only {kills} kills in {time.monotonic() - started:.0f} s"

    store = Store.open(broken)
    store.verify()
    per_cell = store.counts()
    store.close()
    asked = counts.read_text().splitlines()
    recorded, again = total(per_cell, "answered"), total(per_cell, "asked_again")
    # Every row the server saw is on record once, plus the batches that were in flight when the axe fell.
    assert recorded == asked_whole
    assert len(asked) <= recorded + again
    assert again <= KILLS * JOBS * CONCURRENCY * BATCH
    assert max(Counter(asked).values()) <= 1 + most_tries(broken) + duplicates(whole)
    # And the findings are those of the run that nobody interrupted, but for the count of what was asked again.
    ours, theirs = findings(broken), findings(whole)
    for row in (*ours, *theirs):
        for seed in row["seeds"]:
            seed.pop("asked_again")
    assert ours == theirs


def answered(folder: Path) -> int:
    try:
        with sqlite3.connect(f"file:{folder}/exchanges.sqlite?mode=ro", uri=True, timeout=5) as db:
            n = int(db.execute("SELECT COUNT(*) FROM exchanges WHERE seq IS NOT NULL").fetchone()[0])
        db.close()
        return n
    except sqlite3.OperationalError:
        return -1


def wait_for(condition: object) -> None:
    assert callable(condition)
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("the audit made no progress for 24 s")


def total(per_cell: dict[str, dict[str, int]], what: str) -> int:
    return sum(count[what] for count in per_cell.values())


def most_tries(folder: Path) -> int:
    with sqlite3.connect(folder / "exchanges.sqlite") as db:
        tries = int(db.execute("SELECT MAX(tries) FROM exchanges").fetchone()[0])
    db.close()
    return tries


def duplicates(folder: Path) -> int:
    """How often an uninterrupted run asks one and the same row: cells share the pool."""
    store = Store.open(folder)
    rows = Counter(
        row.tobytes() for cell in store.counts() for exchange in store.exchanges(cell) for row in exchange.inputs
    )
    store.close()
    return max(rows.values())
