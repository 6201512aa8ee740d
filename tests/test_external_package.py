"""A package by somebody else registers one plug-in of each kind by entry point, and they keep the public contracts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "external_package"

CONTRACTS = """
import json, warnings
import numpy as np
warnings.simplefilter("error")
from understudy import registry
from understudy.testing import check_attack, check_defence, check_learner, check_metric, check_target
from understudy.types import Box

rng = np.random.default_rng(0)
check_attack(registry.load("attacks", "one-batch"), rng)
check_defence(registry.create("defences", "withhold-logits"), rng)
check_learner(registry.create("learners", "nearest-centroid"), rng)
check_metric(registry.create("metrics", "brier"), rng)

inputs, space = rng.uniform(-1, 1, (20, 2)), Box(-1, 1, (2,))
options = {"centres": inputs[:3], "classes": (0, 1, 2), "outputs": 3, "space": space}
check_target(registry.create("targets", "centroids", **options), inputs, rng)
kinds = ("attacks", "defences", "learners", "metrics", "targets")
print(json.dumps({kind: sorted(registry.names(kind)) for kind in kinds}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built and installed by pip as its users would, off line and into a folder of its own."""
    work = tmp_path_factory.mktemp("outsiders")
    source, site = work / "source", work / "site"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(source)], None)
    return site


def _run(command: list[str], site: Path | None) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(site)} if site else {})
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_outsiders_keep_the_contracts(installed: Path) -> None:
    listed = json.loads(_run([sys.executable, "-c", CONTRACTS], installed))
    assert "one-batch" in listed["attacks"]
    assert "withhold-logits" in listed["defences"]
    assert "nearest-centroid" in listed["learners"]
    assert "brier" in listed["metrics"]
    assert "centroids" in listed["targets"]


BROKEN = """
import dataclasses, numpy as np
from understudy import registry
from understudy.testing import check_defence
from understudy.types import Answers

class Leaky(registry.load("defences", "withhold-logits")):
    def apply(self, inputs, answers, principal):
        return answers

try:
    check_defence(Leaky(), np.random.default_rng(0))
except AssertionError as error:
    print(error)
"""


def test_a_broken_outsider_is_told_which_law(installed: Path) -> None:
    told = _run([sys.executable, "-c", BROKEN], installed)
    assert "reveals-what-it-says" in told
    assert "Leaky" in told
