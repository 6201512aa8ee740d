"""`--check-upstream`: whether a model server can be reached around the guard."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Cli
from running import MODEL_SERVER, free_port, listens, manifest, wait_for


@pytest.fixture
def everywhere() -> Iterator[int]:
    """A model server that listens on every address."""
    port = free_port()
    with subprocess.Popen([sys.executable, str(MODEL_SERVER), str(port), "0.0.0.0"]) as process:
        wait_for(lambda: listens(port), 60)
        yield port
        process.terminate()


def test_loopback_only_is_reachable_from_here_alone(tmp_path: Path, model_server: int, cli: Cli) -> None:
    done = cli("guard", manifest(tmp_path, model_server), "--check-upstream")
    assert done.returncode == 0, done.stdout
    assert f"ok    port {model_server} listens on loopback only" in done.stdout
    assert "ok    it answers whoever connects from this machine: it asks for no credential" in done.stdout


def test_every_address_is_a_way_around(tmp_path: Path, everywhere: int, cli: Cli) -> None:
    done = cli("guard", manifest(tmp_path, everywhere), "--check-upstream")
    assert done.returncode == 1
    assert f"OPEN  port {everywhere} listens on 0.0.0.0: other machines can connect" in done.stdout
    assert "OPEN  it answers whoever connects: it asks for no credential" in done.stdout


def test_nobody_there_is_no_way_around(tmp_path: Path, cli: Cli) -> None:
    port = free_port()
    done = cli("guard", manifest(tmp_path, port), "--check-upstream")
    assert done.returncode == 0, done.stdout
    assert f"nothing listens on port {port}" in done.stdout
