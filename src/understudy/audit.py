"""manifest -> run: tiers x attacks x seeds, each cell on record, resumable, in as many processes as asked.

Goals share cells: an attack is run once per tier and seed, and held against every goal. Order of work and number of
processes change nothing in the findings.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from understudy import cell, registry
from understudy.anchors import ceiling, floor
from understudy.cell import EVALUATION, Known, Plan, Result, Threshold
from understudy.endpoint import Endpoint, authorise, named, open_endpoint
from understudy.errors import RecordError, UnderstudyError, UsageError
from understudy.findings import Case, conclude, days, reached_at
from understudy.manifest import Tier
from understudy.noticed import Watching
from understudy.protocols import Attack, Metric, takes
from understudy.records import Finding, Run
from understudy.store import Store
from understudy.types import digest

Progress = Callable[[Mapping[str, int], set[str], int], None]  # queries asked by cell, cells done, how many cells


@dataclass(frozen=True)
class Options:
    """What the command line may set over the manifest."""

    seeds: int | None = None
    budget: int | None = None
    tiers: tuple[str, ...] = ()
    jobs: int = 1
    gates: tuple[GateSpec, ...] = ()


@dataclass(frozen=True)
class GateSpec:
    """`fidelity>=0.95@5000`: the run fails when this can be so within that many queries."""

    text: str
    metric: str
    threshold: float
    higher_is_closer: bool
    queries: int

    @classmethod
    def parse(cls, text: str) -> GateSpec:
        """Raises UsageError on anything that is not METRIC>=VALUE@QUERIES or METRIC<=VALUE@QUERIES."""
        found = re.fullmatch(r"\s*([a-z-]+)\s*(>=|<=)\s*([0-9.eE+-]+)\s*@\s*([0-9_]+)\s*", text)
        try:
            name, sign, value, queries = found.groups() if found else ("", "", "", "")
            gate = cls(text.strip(), name, float(value), sign == ">=", int(queries))
        except ValueError:
            raise UsageError(f"--fail-if {text!r}: expected METRIC>=VALUE@QUERIES, e.g. fidelity>=0.95@5000") from None
        metric: Metric = registry.create("metrics", gate.metric)
        if metric.higher_is_closer != gate.higher_is_closer:
            way, other = ("higher", ">=") if metric.higher_is_closer else ("lower", "<=")
            raise UsageError(
                f"--fail-if {text!r}: a {way} {name} is a closer copy; write {name}{other}{value}@{queries}"
            )
        return gate


@dataclass(frozen=True)
class Work:
    """One tier and attack, all its repetitions."""

    tier: Tier
    attack: str
    adaptive: bool
    budget: int
    cells: tuple[Plan, ...]


def plan(endpoint: Endpoint, options: Options) -> list[Work]:
    """Everything that is to be asked, before anything is asked. Raises UsageError when it cannot be carried out."""
    m = endpoint.manifest
    if not endpoint.target.space.shape and len(endpoint.pool.inputs) < 2:
        raise UsageError("pool: texts cannot be made up: give the attacker some, as a pool")
    unknown = set(options.tiers) - {t.id for t in m.tiers}
    if unknown:
        raise UsageError(f"no tier is called {', '.join(sorted(unknown))} (tiers: {', '.join(t.id for t in m.tiers)})")
    goals = sorted({g.metric for g in m.goals})
    for gate in options.gates:
        if gate.metric not in goals:
            raise UsageError(f"--fail-if {gate.text!r}: no goal measures {gate.metric} (goals: {', '.join(goals)})")
    stop = tuple(Threshold(g.metric, g.threshold, goal_metric(g.metric).higher_is_closer) for g in m.goals)
    stop += tuple(Threshold(g.metric, g.threshold, g.higher_is_closer) for g in options.gates)
    work = []
    for tier in m.tiers:
        if options.tiers and tier.id not in options.tiers:
            continue
        budget = options.budget or m.audit.budget or tier.limits.within(m.audit.review_days)
        if budget is None:
            raise UsageError(f"tier {tier.id} has no allowance: give limits in the manifest, audit.budget, or --budget")
        behind = _defence_names(tier)
        for item in m.audit.attacks:
            name, extra = named(item, "audit.attacks")
            attack: Attack = registry.create("attacks", name, **extra)
            if not takes(attack, endpoint.target.space):
                raise UsageError(
                    f"audit.attacks: {name} asks numbers, and this model takes texts; retraining takes them"
                )
            cells = tuple(
                Plan(tier.id, name, extra, i, m.audit.seed, budget, stop) for i in range(options.seeds or m.audit.seeds)
            )
            label = cells[0].name.split("/", 1)[1].rsplit("/", 1)[0]
            work.append(Work(tier, label, behind <= attack.adapts_to, budget, cells))
    return work


@dataclass(frozen=True)
class Row:
    """One line of a bill: what one tier and attack can cost at most. Money and days are one attacker's."""

    tier: str
    attack: str
    seeds: int
    budget: int
    money: float | None
    currency: str | None
    days: float | None


@dataclass(frozen=True)
class Bill:
    """What an audit can cost at most. `seconds`: at the target's pace; None where none is set."""

    rows: tuple[Row, ...]
    evaluation: int
    queries: int
    seconds: float | None


def cost(endpoint: Endpoint, work: Sequence[Work]) -> Bill:
    """The bill of a plan, before anything is asked."""
    part = endpoint.manifest.target
    rows = []
    for w in work:
        price, time = w.tier.price, days(w.budget, w.tier.limits)
        paid, currency = (price.of(w.budget), price.currency) if price else (None, None)
        rows.append(Row(w.tier.id, w.attack, len(w.cells), w.budget, paid, currency, time))
    evaluation = len(endpoint.evaluation)
    requests = sum(row.seeds * -(-row.budget // part.batch) for row in rows) + -(-evaluation // part.batch)
    queries = evaluation + sum(row.seeds * row.budget for row in rows)
    return Bill(tuple(rows), evaluation, queries, requests / part.pace if part.pace else None)


def goal_metric(name: str) -> Metric:
    """The metric of a goal; it must be a mean over queries, since its interval is one of a mean."""
    metric: Metric = registry.create("metrics", name)
    if metric.summary(np.array([0.0, 1.0])) != 0.5:
        raise UsageError(f"goals: metric {name} is not a mean over queries; it is reported, but cannot be a goal")
    return metric


def _defence_names(tier: Tier) -> set[str]:
    names = {named(extra, "defences")[0] for extra in tier.defences}
    if not set(tier.signals) - {"label"}:
        names.add("label-only")
    for grade in tier.signals.values():
        names |= {"top-k"} if grade.top_k is not None else set()
        names |= {"round"} if grade.decimals is not None else set()
    return names


def run(manifest: Path, folder: Path, options: Options, resume: bool = False, progress: Progress | None = None) -> Path:
    """Run an audit into `folder` (or resume the one that is there) and write its findings.

    Raises UsageError and its kin before anything is asked; TargetError, AnswerError or RecordError on the way, with
    everything bought so far on record.
    """
    endpoint = open_endpoint(manifest, 1)
    leave = authorise(endpoint.manifest, dt.datetime.now(dt.UTC).date())
    started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    work = plan(endpoint, options)
    store, record = _open(folder, resume, endpoint, leave, started, options)
    try:
        with threadpool_limits(1):
            results = _cells(store, manifest, endpoint, work, options.jobs, progress)
            findings = _conclude(store, endpoint, record, work, results)
        store.write("findings.jsonl", "".join(f.model_dump_json() + "\n" for f in findings))
    except (UnderstudyError, KeyboardInterrupt) as error:
        error.add_note(f"What was bought is kept; go on with: understudy audit {manifest} --resume {folder}")
        raise
    finally:
        store.close()
    return folder


def new_folder(manifest: Path, base: Path = Path("runs")) -> Path:
    """A fresh run folder name: time, manifest and a few random letters."""
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    return base / f"{stamp}-{manifest.stem}-{secrets.token_hex(2)}"


def _open(
    folder: Path, resume: bool, endpoint: Endpoint, leave: dict[str, object] | None, started: str, options: Options
) -> tuple[Store, Run]:
    m = endpoint.manifest
    body = m.model_dump(mode="json", by_alias=True)
    record = Run(
        id=folder.name,
        started=started,
        endpoint=m.metadata.id,
        manifest=body,
        manifest_digest=digest(repr((body, options.seeds, options.budget, options.tiers))),
        seed=m.audit.seed,
        seeds=options.seeds or m.audit.seeds,
        authorisation=leave,
        data=dict(endpoint.data),
        versions=versions(),
    )
    if not resume:
        store = Store.create(folder)
        store.write("run.json", record.model_dump_json(indent=1))
        return store, record
    store = Store.open(folder)
    store.verify()
    kept = Run.read(store.read("run.json"), folder / "run.json")
    for what, ours, theirs in (
        ("manifest, --seeds, --budget or --tier", record.manifest_digest, kept.manifest_digest),
        ("evaluation or pool data", record.data, kept.data),
    ):
        if ours != theirs:
            store.close()
            raise RecordError(f"{folder} was started with another {what}; start a new run, or restore it")
    return store, kept


def versions() -> dict[str, str]:
    """What made the figures."""
    found = {"python": platform.python_version()}
    for name in ("understudy", "numpy", "scipy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def _cells(
    store: Store, manifest: Path, endpoint: Endpoint, work: Sequence[Work], jobs: int, progress: Progress | None
) -> dict[str, Result]:
    """Run every cell, here or in worker processes."""
    plans = [p for w in work for p in w.cells]
    endpoint, known, true = cell.prepare(store, endpoint)
    tell = progress or (lambda asked, done, cells: None)
    results: dict[str, Result] = {}
    if jobs <= 1 or len(plans) == 1:
        for p in plans:
            tell(_asked(store), set(results), len(plans))
            results[p.name] = cell.run(store, endpoint, p, known, true)
        tell(_asked(store), set(results), len(plans))
        return results
    share = min(jobs, len(plans))
    with _workers(share, manifest, store.folder) as pool:
        waiting: dict[Future[bytes], str] = {pool.submit(_work, p): p.name for p in plans}
        try:
            while waiting:
                done, _ = wait(waiting, timeout=0.25, return_when=FIRST_COMPLETED)
                for future in done:
                    results[waiting.pop(future)] = Result.from_bytes(future.result())
                tell(_asked(store), set(results), len(plans))
        except BrokenProcessPool:
            raise UnderstudyError("a worker process died (out of memory?)") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return results


def _asked(store: Store) -> dict[str, int]:
    return {name: count["asked"] for name, count in store.counts().items() if name != EVALUATION}


@contextmanager
def _workers(jobs: int, manifest: Path, folder: Path) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes with one thread each: as many cells at once as there are jobs, and the same sums in each."""
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))
    try:
        with ProcessPoolExecutor(jobs, get_context("spawn"), _start, (manifest, folder, jobs)) as pool:
            yield pool
    finally:
        for name, value in threads.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


_worker: list[tuple[Store, Endpoint, Known, Known | None]] = []  # in a worker process: what _start opened, once


def _start(manifest: Path, folder: Path, share: int) -> None:
    store = Store.open(folder)
    _worker.append((store, *cell.prepare(store, open_endpoint(manifest, share))))


def _work(p: Plan) -> bytes:
    store, endpoint, known, true = _worker[0]
    return cell.run(store, endpoint, p, known, true).to_bytes()


def _conclude(
    store: Store, endpoint: Endpoint, record: Run, work: Sequence[Work], results: Mapping[str, Result]
) -> list[Finding]:
    endpoint, known, true = cell.prepare(store, endpoint)
    watching = Watching.open(endpoint, known)
    again = {name: count["asked_again"] for name, count in store.counts().items()}
    at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    findings = []
    for goal in endpoint.manifest.goals:
        metric = goal_metric(goal.metric)
        against = true if metric.against == "truth" else known
        if against is None:
            raise UsageError(f"goal {goal.id}: {goal.metric} needs the truth of the evaluation set")
        bottom = floor(endpoint, goal, metric, against, record.seed)
        top = ceiling(endpoint, goal, metric, against, record.seed, record.seeds)
        for w in work:
            case = Case(
                run=record.id,
                at=at,
                endpoint=endpoint,
                tier=w.tier,
                goal=goal,
                metric=metric,
                attack=w.attack,
                adaptive=w.adaptive,
                budget=w.budget,
                results=[results[p.name] for p in w.cells],
                asked_again=again,
                floor=bottom,
                ceiling=top,
                seed=record.seed,
            )
            reached = [reached_at(case, result) for result in case.results]
            detection = watching.look(store, w.tier, case.results, reached, record.seed)
            findings.append(conclude(case, detection))
    return findings
