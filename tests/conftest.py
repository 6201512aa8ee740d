"""Shared pieces: the command line as a user types it, and small real endpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import settings

from running import MODEL_SERVER, Guard, free_port, listens, start_guard, wait_for
from understudy.cli import main

os.environ.setdefault("UNDERSTUDY_NOISE_KEY", "a key for tests, known to everybody")

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "examples" / "demo"

# A deadline per example measures how busy the machine is, not the code.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli() -> Cli:
    """Run `understudy ARGS` in a process of its own, as a user would."""

    def run(
        *args: object, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "understudy", *map(str, args)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """What `cli` does, in this process, for where another one would prove no more; the user's modules are forgotten."""

    def run(
        *args: object, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as during:
            if cwd is not None:
                during.chdir(cwd)
            for name, value in (env or {}).items():
                during.setenv(name, value)
            during.setattr(sys, "path", [*sys.path])
            known = set(sys.modules)
            done = CliRunner().invoke(main, [*map(str, args)])
            for name in set(sys.modules) - known:
                if cwd is not None and str(getattr(sys.modules[name], "__file__", "")).startswith(str(cwd)):
                    del sys.modules[name]
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess([*map(str, args)], done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def model_server() -> Iterator[int]:
    """The port of a running model server."""
    port = free_port()
    with subprocess.Popen([sys.executable, str(MODEL_SERVER), str(port)]) as process:
        wait_for(lambda: listens(port), 60)
        yield port
        process.terminate()


@pytest.fixture
def guarding(tmp_path: Path) -> Iterator[Callable[..., Guard]]:
    """Starts gateways that end with the test."""
    running: list[Guard] = []

    def start(*arguments: Any, **options: Any) -> Guard:
        running.append(start_guard(tmp_path, *arguments, **options))
        return running[-1]

    yield start
    for guard in running:
        guard.kill()
