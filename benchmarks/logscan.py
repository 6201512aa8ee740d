"""Scanning a log: which engine should read it, and what a whole scan takes in time and memory as it grows.

    python benchmarks/logscan.py engines                       # 1,000,000 rows a format, one thread: about a minute
    python benchmarks/logscan.py scan --rows 1000000 3000000   # two processes: minutes
    python benchmarks/logscan.py scan --rows 10000000

Rows have 20 features and 2 probabilities; accounts are a hundredth of the rows. Every run is a fresh process. DuckDB
and Polars are needed for `engines` only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from common import heading, one_thread, row

WORK = Path(".bench/logscan")
D, PER_ACCOUNT, LIFE, CHUNK = 20, 100, 64, 100_000
FEATURES = [f"f{i}" for i in range(D)]
COLUMNS = ["principal", "party", "at", *FEATURES, "p0", "p1"]
FORMATS = ("csv", "jsonl", "parquet")
MANIFEST: dict[str, Any] = {
    "apiVersion": "understudy/v1",
    "kind": "Endpoint",
    "metadata": {"id": "bench", "owner": "o@example.org", "contact": "c@example.org"},
    "model": {"version": "1"},
    "target": {"python": "none:none", "signals": {"probabilities": {}}, "outputs": 2},
    "space": {"low": -1e9, "high": 1e9, "shape": [D]},
    "evaluation": {"data": "none.npy"},
    "goals": [{"id": "copy", "threshold": 0.95, "basis": "benchmark"}],
    "tiers": [{"id": "paid", "who": "customers", "signals": {"probabilities": {}}}],
}
PLACES = {"inputs": FEATURES, "answers": {"probabilities": ["p0", "p1"]}}
NESTED = {"inputs": "inputs", "answers": {"probabilities": "probabilities"}}


# the log: customers' rows around a few centres, answered by a logistic model


def draw(n: int, rng: np.random.Generator) -> Any:
    """(n, 20) rows of three decimals."""
    mixed = np.random.default_rng(5).normal(size=(D, D)) / np.sqrt(D)
    return np.round(rng.normal(size=(n, D)) @ mixed + rng.integers(0, 3, (n, 1)), 3)


def answers(x: Any) -> Any:
    """(n, 2) probabilities of four decimals."""
    p = np.round(1 / (1 + np.exp(-x @ np.random.default_rng(6).normal(size=D))), 4)
    return np.column_stack([1 - p, p])


def chunks(rows: int) -> Iterator[Any]:
    """Arrow tables of the log, in the order of time, all accounts mixed."""
    import pyarrow as pa

    for start in range(0, rows, CHUNK):
        n, rng = min(CHUNK, rows - start), np.random.default_rng([7, start])
        who, x = rng.integers(0, max(rows // PER_ACCOUNT, 1), n), draw(n, rng)
        p, at = answers(x), 1.79e9 + (start + np.sort(rng.uniform(0, n, n))) / rows * 2.6e6
        names = {"principal": [f"key:account-{i}" for i in who], "party": [f"org-{i}" for i in who], "at": at}
        numbers = {name: x[:, i] for i, name in enumerate(FEATURES)}
        yield pa.table({**names, **numbers, "p0": p[:, 0], "p1": p[:, 1]})


def write(rows: int, kind: str) -> Path:
    """The log as a file, made once."""
    import orjson
    import pyarrow.csv
    import pyarrow.parquet

    path = WORK / f"{rows}.{kind}"
    if path.exists():
        return path
    WORK.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    if kind == "parquet":
        first = next(chunks(1))
        with pyarrow.parquet.ParquetWriter(part, first.schema) as file:
            for table in chunks(rows):
                file.write_table(table)
    elif kind == "csv":
        first = next(chunks(1))
        with pyarrow.csv.CSVWriter(part, first.schema) as file:
            for table in chunks(rows):
                file.write_table(table)
    else:
        with part.open("wb") as lines:
            for table in chunks(rows):
                x = np.column_stack([table[c].to_numpy() for c in FEATURES]).tolist()
                p = np.column_stack([table[c].to_numpy() for c in ("p0", "p1")]).tolist()
                heads = zip(
                    table["principal"].to_pylist(), table["party"].to_pylist(), table["at"].to_pylist(), strict=True
                )
                for (who, org, at), inputs, given in zip(heads, x, p, strict=True):
                    record = {"principal": who, "party": org, "at": at, "inputs": inputs, "probabilities": given}
                    lines.write(orjson.dumps({**record, "model": "m1", "latency_ms": 12.5}) + b"\n")
    part.rename(path)
    return path


# engines: each gives the same arrays, about 65,536 rows at a time


def by_pyarrow(path: Path, kind: str) -> Iterator[tuple[Any, Any, Any]]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    if kind == "parquet":
        found = pa.parquet.ParquetFile(path).iter_batches(65_536, columns=COLUMNS, use_threads=False)
    elif kind == "csv":
        found = pa.csv.open_csv(path, read_options=pa.csv.ReadOptions(use_threads=False, block_size=2**23))
    else:
        numbers = pa.list_(pa.float64())
        fields = [("principal", pa.string()), ("party", pa.string()), ("at", pa.float64())]
        schema = pa.schema([*fields, ("inputs", numbers), ("probabilities", numbers)])
        parse = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        found = pa.json.open_json(path, pa.json.ReadOptions(use_threads=False, block_size=2**23), parse)
    yield from map(_arrow, found)


def _arrow(batch: Any) -> tuple[Any, Any, Any]:
    names, at = batch["principal"].dictionary_encode(), batch["at"].to_numpy()
    if "inputs" in batch.schema.names:
        lists = (batch[c].flatten().to_numpy().reshape(len(at), -1) for c in ("inputs", "probabilities"))
        return (names, at, np.hstack(list(lists)))
    return names, at, np.column_stack([batch[c].to_numpy() for c in COLUMNS[3:]])


def by_polars(path: Path, kind: str) -> Iterator[tuple[Any, Any, Any]]:
    import polars as pl

    if kind == "parquet":
        frame = pl.scan_parquet(path).select(COLUMNS)
    elif kind == "csv":
        frame = pl.scan_csv(path)
    else:
        numbers = pl.List(pl.Float64)
        texts = {"principal": pl.String, "party": pl.String, "at": pl.Float64}
        frame = pl.scan_ndjson(path, schema={**texts, "inputs": numbers, "probabilities": numbers})
    for batch in frame.collect_batches(chunk_size=65_536):
        names, at = batch["principal"].cast(pl.Categorical).to_physical(), batch["at"].to_numpy()
        if kind == "jsonl":
            lists = (batch[c].explode().to_numpy().reshape(len(at), -1) for c in ("inputs", "probabilities"))
            yield names, at, np.hstack(list(lists))
        else:
            yield names, at, batch.select(COLUMNS[3:]).to_numpy()


def by_duckdb(path: Path, kind: str) -> Iterator[tuple[Any, Any, Any]]:
    import duckdb

    if kind == "jsonl":
        texts, lists = ("principal", "party"), ("inputs", "probabilities")
        kinds = {**dict.fromkeys(texts, "VARCHAR"), "at": "DOUBLE", **dict.fromkeys(lists, "DOUBLE[]")}
        types = ", ".join(f"'{name}': '{kind_}'" for name, kind_ in kinds.items())
        source = f"read_json('{path}', format='newline_delimited', columns={{{types}}})"
        columns = '"principal","party","at","inputs","probabilities"'
    else:
        source, columns = f"read_{kind}('{path}')", ",".join(f'"{c}"' for c in COLUMNS)
    with duckdb.connect(config={"threads": 1}) as db:
        yield from map(_arrow, db.execute(f"SELECT {columns} FROM {source}").to_arrow_reader(65_536))


def by_python(path: Path, kind: str) -> Iterator[tuple[Any, Any, Any]]:
    """A line at a time, by orjson or the csv module: what `understudy.logs` does with lines."""
    import csv

    import orjson

    def table(rows: list[Any]) -> tuple[Any, Any, Any]:
        return (
            [r[0] for r in rows],
            np.array([r[1] for r in rows], np.float64),
            np.array([r[2] for r in rows], np.float64),
        )

    rows: list[Any] = []
    with path.open("rb") as file:
        if kind == "jsonl":
            found = ((r["principal"], r["at"], r["inputs"] + r["probabilities"]) for r in map(orjson.loads, file))
        else:
            next(file)
            found = ((r[0], r[2], r[3:]) for r in csv.reader(line.decode() for line in file))
        for record in found:
            rows.append(record)
            if len(rows) == 8192:
                yield table(rows)
                rows = []
    if rows:
        yield table(rows)


ENGINES: dict[str, Callable[[Path, str], Iterator[tuple[Any, Any, Any]]]] = {
    "pyarrow": by_pyarrow,
    "Polars": by_polars,
    "DuckDB": by_duckdb,
    "orjson, csv": by_python,
}


def one_engine(engine: str, path: Path, kind: str) -> None:
    """Read a file; print rows, a checksum, CPU seconds and peak memory."""
    start, rows, total = time.process_time(), 0, 0.0
    if engine == "partition":
        rows = partitioned(path, kind)
    else:
        for _, at, numbers in ENGINES[engine](path, kind):
            rows, total = rows + len(at), total + float(numbers.sum()) + float(at.sum()) / 1e9
    print(json.dumps([rows, round(total, 3), time.process_time() - start, peak()]))


def partitioned(path: Path, kind: str) -> int:
    """What `understudy.logs` makes of it: read, checked, and on disk by account."""
    import tempfile

    from understudy import logs
    from understudy.manifest import Manifest

    tally = logs.Tally()
    manifest = Manifest.model_validate({**MANIFEST, "monitor": {"logs": NESTED if kind == "jsonl" else PLACES}})
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        logs.partition(path, manifest, Path(folder), tally)
    return tally.queries


def peak() -> float:
    """MiB of this process, at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def engines(rows: int) -> None:
    """The table of engines."""
    for kind in FORMATS:
        write(rows, kind)
    print(f"\n{rows:,} rows, one thread; CPU as a ratio to the fastest engine of the format, peak memory in MiB.\n")
    print(heading("reader", *FORMATS))
    found: dict[tuple[str, str], list[float]] = {}
    for engine in [*ENGINES, "partition"]:
        for kind in FORMATS:
            if (engine, kind) == ("orjson, csv", "parquet"):
                continue
            runs = [fresh("engine", engine, str(WORK / f"{rows}.{kind}"), kind) for _ in range(3)]
            assert {r[0] for r in runs} == {rows}, (engine, kind, runs)
            found[engine, kind] = [sorted(r[2] for r in runs)[1], max(r[3] for r in runs), runs[0][1]]
    for kind in FORMATS:
        sums = {found[e, kind][2] for e in ENGINES if (e, kind) in found}
        assert max(sums) - min(sums) <= 1e-6 * abs(max(sums)), (kind, sums)  # all read the same numbers
    best = {kind: min(found[e, kind][0] for e in ENGINES if (e, kind) in found) for kind in FORMATS}
    for engine in [*ENGINES, "partition"]:
        cells = []
        for kind in FORMATS:
            seconds, memory, _ = found.get((engine, kind), (None, None, None))
            cells.append("-" if seconds is None else f"{seconds / best[kind]:.1f} ({memory:.0f})")
        print(row(engine, *cells))
    slowest = max(found["partition", kind][0] for kind in FORMATS) / rows
    print(f"\nSlowest reader of ours, whole (checks and spill included): {1e6 * slowest:.1f} µs of CPU a row.")


# the whole scan


def calibration() -> Path:
    """Learnt of 400 accounts like those of the log."""
    from understudy.leak import LeakMeter
    from understudy.types import Answers, Signal
    from understudy.watch import Queries, calibrate

    path = WORK / "calibration.bin"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(8)

        def told(x: Any) -> Answers:
            return Answers({Signal.PROBABILITIES: answers(x)}, 2)

        rows = [draw(LIFE, rng) for _ in range(400)]
        at = np.arange(LIFE, dtype=float)
        accounts = [[Queries(f"a{i}", f"a{i}", at, x, told(x))] for i, x in enumerate(rows)]
        reference = draw(2000, rng)
        meter = LeakMeter.fit(reference, told(reference), rng)
        made = calibrate(reference, told(reference), accounts, rng, horizon=LIFE, model="1", made=1.79e9, leak=meter)
        path.write_bytes(made.to_bytes())
    return path


def one_scan(path: Path, jobs: int) -> None:
    """A whole `monitor.run`; print rows, wall and CPU seconds of each step, peak memory of all processes."""
    from understudy.manifest import Manifest
    from understudy.monitor import Options, run
    from understudy.watch import Calibration

    manifest = Manifest.model_validate({**MANIFEST, "monitor": {"logs": PLACES}})
    learnt = Calibration.from_bytes(calibration().read_bytes())
    start, steps = time.perf_counter(), dict[str, float]()

    def progress(what: str, done: int, of: int) -> None:
        if done == of:
            steps[what] = time.perf_counter() - start

    survey, _ = run(manifest, learnt, path, Options(jobs, scratch=WORK), time.time(), progress)
    wall = time.perf_counter() - start
    own, below = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + below.ru_utime + below.ru_stime
    memory = (own.ru_maxrss + jobs * below.ru_maxrss) / 1024  # the largest child, as often as there are jobs
    print(json.dumps([survey.queries, survey.accounts, survey.alarmed, wall, cpu, memory, steps]))


def scan(sizes: list[int], jobs: int) -> None:
    """The table of whole scans."""
    calibration()
    for rows in sizes:
        write(rows, "parquet")
    first: float | None = None
    print(f"\nParquet, {D} features, {jobs} processes, a hundred queries an account.\n")
    print(
        heading("rows", "accounts", "alarmed", "wall, minutes", "CPU a row, to the first", "of it reading", "peak GiB")
    )
    for rows in sizes:
        queries, accounts, alarmed, wall, cpu, memory, steps = fresh(
            "one-scan", str(WORK / f"{rows}.parquet"), str(jobs)
        )
        assert queries == rows
        first = first or cpu / rows
        reading = f"{100 * steps['reading'] / wall:.0f} % of the time"
        print(
            row(
                f"{rows:,}",
                f"{accounts:,}",
                alarmed,
                f"{wall / 60:.1f}",
                f"{cpu / rows / first:.2f}",
                reading,
                f"{memory / 1024:.2f}",
            )
        )
        print(f"<!-- {1e6 * cpu / rows:.0f} µs of CPU a row; steps end at {steps} s -->", file=sys.stderr)


def fresh(*arguments: str) -> list[Any]:
    """What this script prints last in a process of its own."""
    env = {**os.environ, "POLARS_MAX_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["engines", "scan", "engine", "one-scan"])
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.what == "engines":
        engines(options.rows[0])
    elif options.what == "scan":
        scan(options.rows, options.jobs)
    elif options.what == "engine":
        engine, path, kind = options.arguments
        one_engine(engine, Path(path), kind)
    else:
        path, jobs = options.arguments
        one_scan(Path(path), int(jobs))


if __name__ == "__main__":
    one_thread()
    main()
