"""`understudy monitor`: hold a log against what benign accounts do."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from understudy.errors import UsageError

if TYPE_CHECKING:
    from understudy.manifest import Manifest
    from understudy.monitor.run import Progress
    from understudy.survey import Survey

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="Hold LOGS against what benign accounts do.")
@click.argument("manifest", type=_FILE)
@click.argument("logs", nargs=-1)
@click.option(
    "--out", type=click.Path(path_type=Path), default="monitor", show_default=True, help="Folder to write to."
)
@click.option("--calibration", type=_FILE, help="Instead of the manifest's monitor.calibration.")
@click.option("--jobs", type=click.IntRange(1), help="Worker processes (default: one per core).")
@click.option(
    "--parties", type=click.IntRange(1), default=20, show_default=True, help="How many to list beside alarms."
)
@click.option("--scratch", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where to spill to.")
@click.option("--json", "as_json", is_flag=True, help="Print monitor.json instead of the table.")
def monitor(
    manifest: Path,
    logs: tuple[str, ...],
    out: Path,
    calibration: Path | None,
    jobs: int | None,
    parties: int,
    scratch: Path | None,
    as_json: bool,
) -> None:
    """Hold LOGS against what benign accounts do, and write alerts.jsonl, monitor.json and monitor.html.

    LOGS are files, folders, patterns or URLs of JSON lines, CSV or Parquet; without any, the gateway's own history is
    read. Exit codes: 0 nothing alarmed, 1 alarms, 2 usage or configuration error, 3 not assessed.
    """
    from understudy.manifest import load
    from understudy.monitor.run import Options, load_calibration, run
    from understudy.renderers import survey_html
    from understudy.survey import exit_code

    parsed, folder = load(manifest), manifest.resolve().parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # monitor.logs.encode may lie beside the manifest
    learnt = load_calibration(parsed, folder, calibration)
    if learnt is None:
        click.echo(
            "understudy: not assessed: there is no calibration yet; learn one of benign accounts first", err=True
        )
        sys.exit(3)
    _make(out)
    options = Options(jobs or len(os.sched_getaffinity(0)), parties, out / "rejects.jsonl", scratch)
    source: list[str | Path] = [*logs] or [_history(parsed, manifest)]
    with _progress(not as_json and sys.stderr.isatty()) as progress:
        survey, alerts = run(parsed, learnt, source, options, time.time(), progress)
    _write(out / "alerts.jsonl", "".join(alert.model_dump_json() + "\n" for alert in alerts))
    _write(out / "monitor.json", survey.model_dump_json(indent=1) + "\n")
    _write(out / "monitor.html", survey_html.render(survey))
    if as_json:
        click.echo(survey.model_dump_json(indent=1))
    else:
        _show(survey, out)
    sys.exit(exit_code(survey))


def _history(manifest: Manifest, path: Path) -> Path:
    from understudy.gateway.keys import path_of

    folder = path_of(manifest, path).with_name("history")
    if not folder.is_dir():
        raise UsageError(f"no logs were named, and nothing is on record yet: there is no {folder}")
    return folder


def _make(folder: Path) -> None:
    """A folder for its owner only: what is in it names customers."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("rejects.jsonl", "alerts.jsonl", "monitor.json", "monitor.html"):
        (folder / name).unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _show(survey: Survey, out: Path) -> None:
    from rich.console import Console

    from understudy.renderers import survey_terminal

    console = Console() if sys.stdout.isatty() else Console(width=120)
    survey_terminal.render(survey, console)
    console.print(f"Report: {out / 'monitor.html'}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _progress(wanted: bool) -> Iterator[Progress | None]:
    if not wanted:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda what, done, of: bars.update(task, description=what, completed=done, total=of)
