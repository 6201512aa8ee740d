"""The command line: verbs over a manifest. Every import that costs time happens inside the verb that needs it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from understudy.errors import UnderstudyError, UsageError
from understudy.registry import KINDS, load, load_object, names

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.audit import Progress, Work
    from understudy.endpoint import Endpoint
    from understudy.records import Report


class _Group(click.Group):
    """Prints a mistake as one message on standard error, exit code 2; never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UnderstudyError as error:
            lines = [f"understudy: {error}", *getattr(error, "__notes__", [])]
            click.echo("\n".join(lines), err=True)
            ctx.exit(2)
        except KeyboardInterrupt as stop:
            click.echo("\n".join(["understudy: stopped", *getattr(stop, "__notes__", [])]), err=True)
            ctx.exit(130)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read our output has gone; click ends quietly
                raise
            click.echo(f"understudy: {error.filename or 'the system says'}: {error.strerror or error}", err=True)
            ctx.exit(2)


class _Lazy(_Group):
    """Verbs of other modules are imported when they are typed."""

    verbs: ClassVar[Mapping[str, str]] = {
        "calibrate": "understudy.cli_calibrate:calibrate",
        "guard": "understudy.cli_guard:guard",
        "history": "understudy.cli_history:history",
        "keys": "understudy.cli_keys:keys",
        "monitor": "understudy.cli_monitor:monitor",
        "responses": "understudy.cli_responses:responses",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.verbs])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        found: click.Command | None = load_object(self.verbs[name]) if name in self.verbs else None
        return found or super().get_command(ctx, name)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="understudy")
def main() -> None:
    """Measure how easily a deployed model can be copied through its prediction interface.

    Exit codes: 0 pass, 1 a --fail-if gate fired, 2 usage or configuration error, 3 not assessed.
    """


_MANIFEST = click.Path(exists=True, dir_okay=False, path_type=Path)
_RUN = click.Path(exists=True, file_okay=False, path_type=Path)


@main.command(short_help="Attack every tier of MANIFEST and report.")
@click.argument("manifest", type=_MANIFEST)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make (default: a new one under runs/).")
@click.option("--resume", type=_RUN, help="Go on with this run folder; nothing recorded is asked again.")
@click.option("--plan", "only_plan", is_flag=True, help="Print queries, money and time; ask nothing.")
@click.option("--tier", "tiers", multiple=True, help="Only this tier (may be repeated).")
@click.option("--budget", type=click.IntRange(1), help="Queries offered to each attack, instead of the allowance.")
@click.option("--seeds", type=click.IntRange(1), help="Repetitions of each attack.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Worker processes (default: one per core).")
@click.option("--fail-if", "gates", multiple=True, metavar="COND", help="e.g. 'fidelity>=0.95@5000'; exit code 1.")
@click.option("--json", "as_json", is_flag=True, help="Print the report (or the plan) as JSON.")
def audit(
    manifest: Path,
    out: Path | None,
    resume: Path | None,
    only_plan: bool,
    tiers: tuple[str, ...],
    budget: int | None,
    seeds: int | None,
    jobs: int | None,
    gates: tuple[str, ...],
    as_json: bool,
) -> None:
    """Attack every tier of MANIFEST under exactly its exposure, and write a run folder."""
    from understudy import audit as room
    from understudy.endpoint import open_endpoint

    parsed = tuple(room.GateSpec.parse(text) for text in gates)
    options = room.Options(seeds, budget, tiers, jobs or len(os.sched_getaffinity(0)), parsed)
    if only_plan:
        endpoint = open_endpoint(manifest)
        _show_plan(endpoint, room.plan(endpoint, options), as_json)
        return
    if out and resume:
        raise UsageError("--out and --resume exclude each other: a resumed run stays in its folder")
    folder = resume or out or room.new_folder(manifest)
    if not as_json:
        click.echo(f"Auditing {manifest} into {folder}, {options.jobs} at a time", err=True)
    with _progress(not as_json) as progress:
        room.run(manifest, folder, options, resume is not None, progress)
    command = " ".join(["understudy", *sys.argv[1:]])
    report = _write(folder, parsed, command)
    _show(report, folder, as_json)


@main.command(short_help="Write the report of a finished RUN anew.")
@click.argument("run", type=_RUN)
@click.option("--fail-if", "gates", multiple=True, metavar="COND", help="Judge this run by another gate.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of the table.")
def report(run: Path, gates: tuple[str, ...], as_json: bool) -> None:
    """Write report.json and report.html of a finished RUN anew, and print its table."""
    from understudy.audit import GateSpec

    parsed = tuple(GateSpec.parse(text) for text in gates)
    _show(_write(run, parsed, f"understudy report {run}"), run, as_json)


@main.command(short_help="Remove RUN and all it holds.")
@click.argument("run", type=_RUN)
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(run: Path, yes: bool) -> None:
    """Remove RUN and all it holds: inputs, answers, findings, reports."""
    from understudy import store

    if not yes:
        click.confirm(f"Remove {run} and everything in it?", abort=True)
    store.forget(run)
    click.echo(f"{run} is gone")


@main.command("list")
@click.argument("kind", type=click.Choice(KINDS))
def list_(kind: str) -> None:
    """List the plug-ins of a KIND."""
    for name, where in names(kind).items():
        doc = (load(kind, name).__doc__ or "").strip().splitlines()
        click.echo(f"{name:22} {doc[0] if doc else where}")


def _write(folder: Path, gates: tuple[Any, ...], command: str) -> Report:
    from understudy import report as room
    from understudy.renderers import html
    from understudy.store import Store

    made = room.build(folder, gates, command)
    store = Store.open(folder)
    store.write("report.json", made.model_dump_json(indent=1) + "\n")
    store.write("report.html", html.render(made))
    store.close()
    return made


def _show(made: Report, folder: Path, as_json: bool) -> None:
    from understudy.report import exit_code

    if as_json:
        click.echo(made.model_dump_json(indent=1))
    else:
        from understudy.renderers import terminal

        console = _console()
        terminal.render(made, console)
        console.print(f"Report: {folder / 'report.html'}", soft_wrap=True, highlight=False)
    sys.exit(exit_code(made))


def _console() -> Console:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=100)


@contextmanager
def _progress(wanted: bool) -> Iterator[Progress | None]:
    """A bar for all cells and a line for each at work on a terminal; a line per finished cell otherwise.

    On standard error either way. A cell has no bar of its own: it ends when its thresholds are met, nobody knows when.
    """
    if not wanted:
        yield None
        return
    if not sys.stderr.isatty():
        told: set[str] = set()

        def line(asked: Mapping[str, int], done: set[str], cells: int) -> None:
            for name in sorted(done - told):
                told.add(name)
                click.echo(f"{len(told)} of {cells}: {name} asked {asked.get(name, 0):,} queries", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(40), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        everything = bars.add_task("starting", total=None)
        tasks: dict[str, Any] = {}

        def bar(asked: Mapping[str, int], done: set[str], cells: int) -> None:
            said = f"{len(done)} of {cells} attacks done, {sum(asked.values()):,} queries asked"
            bars.update(everything, description=said, total=cells, completed=len(done))
            for name in sorted(set(asked) - done):
                if name not in tasks:
                    tasks[name] = bars.add_task(name, total=None)
                bars.update(tasks[name], description=f"  {name}: {asked[name]:,} queries")
            for name in done & set(tasks):
                bars.update(tasks[name], visible=False)

        yield bar


def _show_plan(endpoint: Endpoint, work: list[Work], as_json: bool) -> None:
    """Queries, money and time before anything is asked; every figure is an upper bound."""
    import json
    from dataclasses import asdict

    from rich.table import Table

    from understudy.audit import cost
    from understudy.renderers.terminal import box
    from understudy.report import duration, money

    bill = cost(endpoint, work)
    if as_json:
        click.echo(json.dumps(asdict(bill)))
        return
    console = _console()
    columns = ("tier", "attack", "queries at most", "an attacker pays at most", "and needs at most")
    table = Table(*columns, box=box(console))
    for row in bill.rows:
        price = "no price given" if row.money is None else money(row.money, row.currency or "")
        time = "no allowance given" if row.days is None else duration(row.days)
        table.add_row(row.tier, row.attack, f"{row.seeds} x {row.budget:,}", price, time)
    console.print(table)
    pace = "as fast as the target answers (no pace is set)"
    if bill.seconds is not None:
        pace = f"{duration(bill.seconds / 86400)} at the pace set"
    console.print(
        f"At most {bill.queries:,} queries in all, {bill.evaluation:,} of them the owner's for evaluation: {pace}.",
        highlight=False,
    )
