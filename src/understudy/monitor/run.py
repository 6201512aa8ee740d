"""One look over a log: spill it by principal, follow every account in as many processes as there are jobs, conclude."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from understudy import logs
from understudy.alerts import Alert
from understudy.errors import RecordError, UnderstudyError, UsageError
from understudy.leak import Leak, LeakSketch
from understudy.manifest import Manifest
from understudy.manifest_monitor import MonitorPart
from understudy.monitor.conclude import Group, conclude, groups, shown
from understudy.monitor.follow import Seen, follow, learned
from understudy.survey import Survey
from understudy.watch import Calibration

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


@dataclass(frozen=True)
class Options:
    """How to look. `most`: parties shown by p-value, and by volume, beside those alarmed; `scratch`: where to spill."""

    jobs: int = 1
    most: int = 20
    rejects: Path | None = None
    scratch: Path | None = None


def run(
    manifest: Manifest,
    calibration: Calibration,
    source: logs.Source,
    options: Options,
    now: float,
    progress: Progress | None = None,
) -> tuple[Survey, list[Alert]]:
    """Hold a log against a calibration. `now`: Unix seconds, for dates only.

    Raises UsageError where the log, or the calibration, does not fit the manifest.
    """
    form = calibration.scorer.form
    if not form.takes(tuple(manifest.space.shape)):
        raise UsageError(f"the calibration is of {form}, the manifest's inputs are of another shape or form")
    tell = progress or (lambda what, done, of: None)
    tally = logs.Tally(options.rejects)
    with tempfile.TemporaryDirectory(prefix="understudy-", dir=options.scratch) as folder:
        tell("reading", 0, 1)
        parts = logs.partition(source, manifest, Path(folder), tally)
        tell("reading", 1, 1)
        with _workers(options.jobs, calibration) as pool:
            seen: list[Seen] = []
            for done, some in enumerate(_map(pool, _follow, parts), 1):
                seen += some
                tell("following", done, len(parts))
            found = groups(seen)
            listed = shown(found, options.most)
            leaks = _leaks(pool, calibration, parts, listed, tell)
    sources = [source] if isinstance(source, str | Path) else list(source)
    survey, alerts = conclude(
        manifest, calibration, found, listed, leaks, tally, [logs.shown(str(s)) for s in sources], now
    )
    records = [Path(s) for s in sources if "://" not in str(s) and Path(s).is_dir() and any(Path(s).glob("*.sqlite"))]
    return survey, [_placed(alert, records) for alert in alerts]


def load_calibration(manifest: Manifest, folder: Path, given: Path | None) -> Calibration | None:
    """The calibration a manifest in `folder` names, or the one given; None where there is none yet.

    Raises RecordError where it is damaged, OSError where it cannot be read.
    """
    path = given or folder / (manifest.monitor or MonitorPart()).calibration
    try:
        return Calibration.from_bytes(path.read_bytes()) if path.is_file() else None
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None


def _placed(alert: Alert, records: Sequence[Path]) -> Alert:
    """The alert with the addresses and clients that the gateway's record has of the account."""
    networks, clients = set[str](), set[str]()
    for folder in records:
        some, others = logs.contexts(folder, alert.principal)
        networks.update(some)
        clients.update(others)
    return alert.model_copy(update={"networks": sorted(networks), "clients": sorted(clients)})


Pool = ProcessPoolExecutor | None


def _map(pool: Pool, work: Callable[..., list[Seen]], parts: Sequence[logs.Part]) -> Iterator[list[Seen]]:
    try:
        yield from map(work, parts) if pool is None else pool.map(work, parts)
    except BrokenProcessPool:
        raise UnderstudyError("a worker process died (out of memory?)") from None


def _leaks(
    pool: Pool, calibration: Calibration, parts: Sequence[logs.Part], listed: Sequence[Group], tell: Progress
) -> dict[str, Leak]:
    """What each listed party could have learned. Its accounts may lie in several parts: sums add."""
    if calibration.leak is None:
        return {}
    wanted = frozenset(a.standing.principal for g in listed for a in g.accounts)
    holding = [(part, wanted) for part in parts]
    sums: dict[str, LeakSketch] = {}
    work = map(_learned, holding) if pool is None else pool.map(_learned, holding)
    for done, some in enumerate(work, 1):
        for party, blob in some:
            one = LeakSketch.from_bytes(blob, calibration.leak)
            sums[party] = sums[party].merge(one) if party in sums else one
        tell("measuring what was learned", done, len(parts))
    blobs = [(party, sketch.to_bytes()) for party, sketch in sums.items() if sketch.n]
    return dict(map(_read, blobs) if pool is None else pool.map(_read, blobs))


# in a worker: the calibration, loaded once

_held: list[Calibration] = []


@contextmanager
def _workers(jobs: int, calibration: Calibration) -> Iterator[Pool]:
    """Fresh processes of one thread each; none where one job is enough."""
    if jobs == 1:
        _start(calibration.to_bytes())
        yield None
        return
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))
    try:
        with ProcessPoolExecutor(jobs, get_context("spawn"), _start, (calibration.to_bytes(),)) as pool:
            yield pool
    finally:
        for name, value in threads.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _start(blob: bytes) -> None:
    _held[:] = [Calibration.from_bytes(blob)]


def _follow(part: logs.Part) -> list[Seen]:
    return follow(part.queries(), _held[0])


def _learned(task: tuple[logs.Part, frozenset[str]]) -> list[tuple[str, bytes]]:
    part, wanted = task
    meter = _held[0].leak
    assert meter is not None
    return [(party, sketch.to_bytes()) for party, sketch in learned(part.queries(wanted), meter).items()]


def _read(task: tuple[str, bytes]) -> tuple[str, Leak]:
    party, blob = task
    meter = _held[0].leak
    assert meter is not None
    return party, meter.read(LeakSketch.from_bytes(blob, meter))
