"""What an owner does to a record from the command line, and what the supervisor does to it by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from conftest import Cli
from running import ROUTES, Guard, add_key, manifest, wait_for
from test_history import DAY, T0, keep, row
from understudy.gateway.service import compile_service
from understudy.gateway.upkeep import Upkeep
from understudy.history import History
from understudy.history.chain import Limits

DIGITS = {"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP64", "data": [0.5] * 64}]}


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Path]:
    """A manifest, and the history of its endpoint: six old exchanges of one principal, four recent of another."""
    path = manifest(tmp_path, 1, guard={"logging": {"retention_days": 30}})
    folder = tmp_path / "guard" / "digits" / "history"
    now = time.time()
    rows = [row(i, now - 50 * DAY + i, "key:old-1") for i in range(6)] + [
        row(i, now - DAY + i, "key:new-1") for i in range(4)
    ]
    keep(folder, rows, "0", limits=Limits(rows=3), together=False)
    return path, folder


def test_a_record_is_held_to_its_chain_and_to_the_ends_known_before(
    kept: tuple[Path, Path], cli: Cli, tmp_path: Path
) -> None:
    path, folder = kept
    done = cli("history", path, "verify", "--json")
    assert done.returncode == 0, done.stderr
    heads = tmp_path / "heads.json"
    heads.write_text(done.stdout)
    assert json.loads(done.stdout)["0"][0] == 10
    said = cli("history", path, "verify", "--known", heads)
    assert (said.returncode, "worker 0: 10 exchanges" in said.stdout) == (0, True)
    max(folder.glob("*-0-*.sqlite")).unlink()
    assert cli("history", path, "verify").returncode == 0  # nothing else shows that an end was cut off
    cut = cli("history", path, "verify", "--known", heads)
    assert (cut.returncode, "rows up to 10 were kept and are not there" in cut.stderr) == (2, True)
    heads.write_text("[1]")
    assert "is not what" in cli("history", path, "verify", "--known", heads).stderr


def test_a_record_is_exported_and_a_principal_erased(kept: tuple[Path, Path], cli: Cli, tmp_path: Path) -> None:
    path, folder = kept
    out = tmp_path / "out.parquet"
    recent = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 10 * DAY))
    assert "4 exchanges" in cli("history", path, "export", out, "--since", recent).stdout
    assert "10 exchanges" in cli("history", path, "export", out).stdout
    assert pq.read_table(out).num_rows == 10
    assert b"new-1" not in out.read_bytes()
    for wrong in ("new-1", "key:new-2"):
        done = cli("history", path, "erase", wrong, "--yes")
        assert (done.returncode, "did you mean 'key:new-1'" in done.stderr) == (2, True)
    assert cli("history", path, "erase", "key:new-1").returncode == 1  # nobody said yes
    assert "4 exchanges of key:new-1 are erased" in cli("history", path, "erase", "key:new-1", "--yes").stdout
    assert not [k for k in History(folder).rows() if k.row.principal == "key:new-1"]
    assert cli("history", path, "verify").returncode == 0


def test_retention_from_the_command_line(kept: tuple[Path, Path], cli: Cli) -> None:
    path, folder = kept
    assert "0 segments" in cli("history", path, "expire", "--days", 60).stdout
    assert "2 segments of 6 exchanges" in cli("history", path, "expire").stdout
    History(folder).verify()
    assert len(list(History(folder).rows())) == 4


def test_retention_runs_when_it_is_due_and_not_before(kept: tuple[Path, Path]) -> None:
    path, folder = kept
    services, clock = [compile_service(path)], 1000.0
    upkeep = Upkeep(lambda: clock)
    copies = {old.path: old.path.read_bytes() for old in History(folder).segments()[:2]}
    upkeep.look(services)
    wait_for(lambda: not any(old.exists() for old in copies) and not upkeep.busy)
    for old, content in copies.items():  # as if a removal had been cut short
        old.write_bytes(content)
    clock += DAY / 2
    upkeep.look(services)
    assert not upkeep.busy
    clock += DAY / 2
    upkeep.look(services)
    wait_for(lambda: not any(old.exists() for old in copies))
    wait_for(lambda: not upkeep.busy)
    History(folder).verify()


def test_without_a_record_it_says_so(tmp_path: Path, cli: Cli) -> None:
    done = cli("history", manifest(tmp_path, 1), "verify")
    assert (done.returncode, "nothing is on record yet" in done.stderr) == (2, True)


def test_the_supervisor_removes_what_is_past_retention_and_says_what_logging_disables(
    tmp_path: Path, model_server: int, guarding: Callable[..., Guard]
) -> None:
    folder = tmp_path / "guard" / "digits" / "history"
    keep(folder, [row(i, T0 + i) for i in range(5)], "0", limits=Limits(rows=2), together=False)
    path = manifest(tmp_path, model_server, guard={"logging": {"inputs": "hash", "retention_days": 3}})
    key = add_key(path, "public")
    guard = guarding(path)
    assert History(folder).segments() == []
    told = [line for line in guard.lines() if line["event"] == "retention"]
    assert [(line["segments"], line["exchanges"], line["days"]) for line in told] == [(3, 5, 3)]
    assert any("replay cannot train" in line["event"] for line in guard.lines() if line["level"] == "warning")
    assert guard.post(ROUTES["open-inference"], DIGITS, key).status == 200
    assert History(folder).verify()["0"].seq == 6
    (found,) = History(folder).rows()
    assert found.row.inputs is None
    assert np.asarray(found.prints["hashes"]).shape == (1, 16)
