"""The house keeps its shape: small files, complete catalogues, light imports, stable public names."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import understudy

SOURCE = Path(understudy.__file__).parent
ROOMS = ("attacks", "defences", "detectors", "learners", "metrics", "targets", "wire")
HEAVY = (
    "scipy",
    "sklearn",
    "skops",
    "pydantic",
    "matplotlib",
    "torch",
    "urllib3",
    "jinja2",
    "rich",
    "click",
    "hypothesis",
)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_is_in_the_catalogue_and_every_entry_is_a_file(room: str) -> None:
    catalogue: dict[str, str] = importlib.import_module(f"understudy.{room}").CATALOG
    listed = {entry.partition(":")[0] for entry in catalogue.values()}
    files = {f"understudy.{room}.{path.stem}" for path in (SOURCE / room).glob("*.py") if path.stem[0] != "_"}
    assert listed == files
    assert list(catalogue) == sorted(catalogue)


@pytest.mark.parametrize("room", ROOMS)
def test_every_entry_is_there_under_its_name(room: str) -> None:
    catalogue: dict[str, str] = importlib.import_module(f"understudy.{room}").CATALOG
    for name, entry in catalogue.items():
        module, _, attribute = entry.partition(":")
        assert name == name.lower()
        found = importlib.import_module(module)
        assert not attribute or hasattr(found, attribute), entry


def heavy_after(code: str) -> list[str]:
    """The heavy libraries that a fresh interpreter holds after running `code`."""
    program = f"import sys, json\n{code}\nprint(json.dumps(sorted(m for m in {HEAVY!r} if m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    held: list[str] = json.loads(done.stdout)
    return held


def test_importing_understudy_imports_nothing_heavier_than_numpy() -> None:
    assert heavy_after("import understudy") == []


def test_listing_every_catalogue_imports_nothing_heavier_than_numpy() -> None:
    listing = "from understudy import registry\nfor kind in registry.KINDS: assert registry.names(kind) is not None"
    assert heavy_after(listing) == []


def test_listing_imports_no_plug_in() -> None:
    program = (
        "import sys; from understudy import registry\n"
        "for kind in registry.KINDS: registry.names(kind)\n"
        "for kind in registry.KINDS:\n"
        "    for path in registry.names(kind).values(): assert path.partition(':')[0] not in sys.modules, path"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_contracts_import_nothing_heavier_than_numpy() -> None:
    assert heavy_after("import understudy.testing") == []


def test_a_heavy_import_would_be_noticed() -> None:
    """The check itself works: a heavy import is seen."""
    assert "scipy" in heavy_after("import scipy")


def test_public_names_are_there_and_sorted() -> None:
    assert {"Box", "extract", "fidelity", "run_audit", "target"} <= set(understudy.__all__)
    assert understudy.__all__ == sorted(understudy.__all__)
    assert len(set(understudy.__all__)) == len(understudy.__all__)
    for name in understudy.__all__:
        assert getattr(understudy, name).__doc__, f"{name} has no docstring"


#: These names are promised to stay. One may be added here; taking one away breaks somebody's program.
PUBLIC = {
    "Answers",
    "Box",
    "Estimate",
    "Exposure",
    "Extraction",
    "Grain",
    "Mixed",
    "Signal",
    "Text",
    "UnderstudyError",
    "Verdict",
    "extract",
    "fidelity",
    "hyperparameters",
    "importances",
    "rank_agreement",
    "run_audit",
    "target",
}


def test_public_names_are_the_promised_ones() -> None:
    assert set(understudy.__all__) == PUBLIC
