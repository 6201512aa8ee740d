"""`understudy calibrate`: learn from a log what benign accounts do."""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from pathlib import Path

import click
import numpy as np

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="Learn from LOGS what benign accounts do.")
@click.argument("manifest", type=_FILE)
@click.argument("logs", nargs=-1, required=True)
@click.option("--out", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Instead of monitor.calibration.")
@click.option("--exclude", type=_FILE, help="Confirmed abusers: principals or parties, one a line.")
@click.option("--level", type=click.FloatRange(0, 0.1, min_open=True), help="Instead of monitor.level.")
@click.option("--sure", is_flag=True, help="A level that holds for this calibration, 95 % sure; needs more accounts.")
@click.option("--horizon", type=click.IntRange(16), help="Instead of monitor.horizon.")
@click.option("--longest", is_flag=True, help="The longest horizon that enough accounts have lived through.")
@click.option("--epochs", type=click.IntRange(1, 8), default=1, show_default=True, help="How often it doubles.")
@click.option("--no-leak", is_flag=True, help="Train no substitutes; no leak is measured.")
@click.option(
    "--rejects", type=click.Path(dir_okay=False, path_type=Path), help="File for a sample of what is malformed."
)
@click.option("--scratch", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where to spill to.")
@click.option("--seed", type=int, default=0, show_default=True)
def calibrate(
    manifest: Path,
    logs: tuple[str, ...],
    out: Path | None,
    exclude: Path | None,
    level: float | None,
    sure: bool,
    horizon: int | None,
    longest: bool,
    epochs: int,
    no_leak: bool,
    rejects: Path | None,
    scratch: Path | None,
    seed: int,
) -> None:
    """Learn from LOGS what benign accounts do, and write the calibration that monitor and guard hold others against.

    The model is asked under the owner's credential: about the manifest's evaluation rows, and made-up rows. Exit codes:
    0 written, 2 usage or configuration error, 3 written, but too few accounts for an alarm at this level.
    """
    from understudy import calibrating
    from understudy.endpoint import authorise, open_endpoint
    from understudy.logs import Tally, read
    from understudy.manifest_monitor import MonitorPart

    endpoint = open_endpoint(manifest)
    authorise(endpoint.manifest, dt.datetime.now(dt.UTC).date())
    part, tally = endpoint.manifest.monitor or MonitorPart(), Tally(rejects)
    learnt = calibrating.learn(
        endpoint.evaluation,
        endpoint.owned(endpoint.evaluation),
        read(list(logs), endpoint.manifest, tally, scratch),
        np.random.default_rng(seed),
        made=time.time(),
        model=endpoint.manifest.model.version,
        excluded=calibrating.read_excluded(exclude.read_bytes()) if exclude else frozenset(),
        level=level or part.level,
        confidence=0.95 if sure else None,
        horizon=None if longest else horizon or part.horizon,
        epochs=epochs,
        leak=not no_leak,
        traffic=part.traffic,
        also=part.also,
        declared=part.segment,
        ask=lambda x: endpoint.owned(x.reshape(len(x), *endpoint.evaluation.shape[1:])),
    )
    path = out or manifest.resolve().parent / part.calibration
    partial = path.with_name(path.name + ".partial")
    with open(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
        file.write(learnt.calibration.to_bytes())
    partial.replace(path)
    for note in learnt.notes:
        click.echo(note)
    for line in tally.told():
        click.echo(line)
    click.echo(f"Calibration: {path}")
    if learnt.refused:
        click.echo(f"understudy: no alarm is supported: {learnt.refused}", err=True)
        sys.exit(3)
