"""The pages that people read are true: what they show runs, what they name exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import yaml

from conftest import DEMO, ROOT
from understudy import manifest
from understudy.cli import main

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GUIDES = [p for p in PAGES if p.name == "README.md" or p.parent == ROOT / "docs"]
DONE = re.compile(r"\s+# exit code (\d)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: ```language [file name]."""

    page: Path
    line: int
    language: str
    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for m in re.finditer(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        if m[1] in languages:
            found.append(Block(page, text[: m.start()].count("\n") + 1, m[1], m[2] or "", m[3]))
    return found


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("https://", "mailto:")):
            continue
        where, _, anchor = link.partition("#")
        to = (page.parent / where).resolve() if where else page
        assert to.exists(), link
        assert to.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(to), link


@pytest.mark.parametrize("block", [b for p in GUIDES for b in blocks(p, "yaml")], ids=str)
def test_every_manifest_is_one(block: Block, tmp_path: Path) -> None:
    """A whole manifest loads; a part of one loads in the place of that part of the demo's."""
    path, text = tmp_path / "endpoint.yaml", block.text
    if "apiVersion" not in text:
        whole = yaml.safe_load((DEMO / "risk_score.yaml").read_text(encoding="utf-8"))
        text = yaml.safe_dump({**whole, **yaml.safe_load(text)})
    path.write_text(text, encoding="utf-8")
    manifest.load(path)


def everything(group: click.Group, before: str = "") -> dict[str, click.Command]:
    """Every command below a group, those that are imported when they are typed too, by what is typed."""
    found = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found[before + name] = command
        if isinstance(command, click.Group):
            found |= everything(command, f"{before}{name} ")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_and_option_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    verbs = {"audit", "report", "forget", "list"}
    commands = everything(main)
    assert verbs <= set(commands)
    options = {o for c in commands.values() for p in c.params for o in p.opts} | {"--help"}
    for script in re.findall(r"python ((?:benchmarks|tests|tools)/[\w/]+\.py)", text):
        options |= set(re.findall(r'"(--[a-z-]+)"', (ROOT / script).read_text(encoding="utf-8")))
    for verb in re.findall(r"(?:`|\$ )understudy ([a-z]+)", text):
        assert verb in commands, verb
    for option in re.findall(r"(?:`| )(--[a-z-]+)", text):
        assert option in options, option
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for target in re.findall(r"(?:`|\$ )make ([a-z-]+)", text):
        assert target in targets, target


def test_the_picture_is_there_and_small() -> None:
    picture = ROOT / "docs" / "images" / "report.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 300_000


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As someone types it who has the environment of this test on their PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PATH": path, "PYTHONPATH": ours}
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def python(text: str, folder: Path) -> str:
    (folder / "snippet_.py").write_text(text, encoding="utf-8")
    done = shell("python snippet_.py", folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_example_prints_what_it_says(tmp_path: Path) -> None:
    (block,) = blocks(ROOT / "README.md", "python")
    code = [line for line in block.text.splitlines() if line.strip()]
    assert len([line for line in code if not line.startswith(("import", "from"))]) <= 10
    promised = [line.rpartition("  # ")[2] for line in code if line.startswith("print")]
    assert python(block.text, tmp_path).splitlines() == promised


@pytest.mark.slow
def test_the_readmes_table_is_the_demos(tmp_path: Path) -> None:
    """Within a factor of 1.5: another processor adds up in another order. If it fails, run make showcase."""
    done = shell(f"understudy audit {DEMO / 'risk_score.yaml'} --json", tmp_path)
    assert done.returncode == 0, done.stderr
    (table,) = blocks(ROOT / "README.md", "text")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.text.splitlines() if "│" in line]
    rows = {name: cells for name, *cells in lines if name}
    figures = [int(text.split()[0].replace(",", "")) for text in rows["queries"]]
    shown = dict(zip(rows["tier"], figures, strict=True))
    for finding in json.loads(done.stdout)["findings"]:
        assert 2 / 3 < finding["queries"]["estimate"] / shown[finding["tier"]] < 3 / 2


@pytest.mark.parametrize("name", ["quickstart.md", "audit.md"])
def test_a_guide_can_be_followed_step_by_step(name: str, tmp_path: Path) -> None:
    """Its files are written, its Python and its commands run, in the order in which it shows them."""
    shutil.copytree(DEMO, tmp_path / "examples" / "demo")
    for block in blocks(ROOT / "docs" / name, "python", "yaml", "console"):
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            python(block.text, tmp_path)
        elif block.language == "console":
            for line in block.text.splitlines():
                assert line.startswith("$ "), line
                wanted = DONE.search(line)
                done = shell(DONE.sub("", line[2:]), tmp_path)
                assert done.returncode == int(wanted[1] if wanted else 0), (line, done.stderr)
                assert "Traceback" not in done.stderr, line


def test_a_skops_file_takes_the_place_of_the_function(tmp_path: Path) -> None:
    """The quickstart's second way in, put together from its own pieces."""
    pieces = blocks(ROOT / "docs" / "quickstart.md", "python", "yaml")
    files = {b.file: b.text for b in pieces if b.file}
    whole = yaml.safe_load(files["wine.yaml"])
    (skops,) = (b.text for b in pieces if b.language == "yaml" and "skops:" in b.text)
    (convert,) = (b.text for b in pieces if b.language == "python" and not b.file)
    (tmp_path / "mine.py").write_text(files["mine.py"], encoding="utf-8")
    (tmp_path / "wine.yaml").write_text(yaml.safe_dump({**whole, **yaml.safe_load(skops)}), encoding="utf-8")
    python(convert, tmp_path)
    done = shell("understudy audit wine.yaml --tier paid --seeds 3", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "COPIED" in done.stdout
