"""Detectors of the literature, as published, beside ours: whom they accuse, what they notice, what they cost.

    python benchmarks/references.py --part compared --set letters|spam
    python benchmarks/references.py --part cost --set letters|spam
    python benchmarks/references.py

The same customers and the same thieves as benchmarks/monitor.py; its calibration of seed 0 is ours. Parts keep their
figures in .bench/monitor/; the last form prints them. All but Blacklight measure distances in standard deviations of
the training rows, which is kinder to them than raw columns.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from common import heading, one_thread, row
from monitor import SETS, calibration, exact, stand, world_of

from portfolio import CACHE, PORTFOLIO, THIEVES, World, behaviours, customer, diluted

CUSTOMERS, STREAMS, DILUTIONS = 200, 20, (0, 4)
HISTORY, TIMED = 50_000, 500

Alarm = Callable[[Any, Any], "int | None"]  # queries (n, d), answered classes (n,) -> queries at the first alarm


class Prada:
    """Distances of a benign account's queries are normally distributed (Juuti, Szyller, Marchal and Asokan, EuroS&P
    2019, algorithm 3, as in their release; delta 0.95).
    """

    delta, every, enough, least = 0.95, 10, 100, 10

    def __init__(self, d: int) -> None:
        self.grown: dict[int, Any] = {}
        self.size: dict[int, int] = defaultdict(int)
        self.spread: dict[int, list[float]] = {}
        self.nearest: dict[int, list[float]] = defaultdict(list)
        self.limit: dict[int, float] = {}
        self.d, self.n = d, 0

    def add(self, x: Any, label: int) -> bool:
        """Take the next query; whether it is called an attack."""
        self.n += 1
        if label not in self.grown:
            self.grown[label], self.spread[label], self.limit[label] = np.empty((16, self.d)), [0.0], 0.0
            self._grow(label, x)
        else:
            apart = self.grown[label][: self.size[label]] - x
            m = math.sqrt(np.einsum("ij,ij->i", apart, apart).min())
            self.nearest[label].append(m)
            if m > self.limit[label]:
                self._grow(label, x)
                self.spread[label].append(m)
                far = np.array(self.spread[label])
                self.limit[label] = max(self.limit[label], far.mean() - far.std())
        return self.n % self.every == 0 and self.strange()

    def strange(self) -> bool:
        from scipy.stats import shapiro

        kept = [v for v in self.nearest.values() if len(v) >= self.least]
        if not kept:
            return False
        v = np.concatenate(kept)
        v = v[np.abs(v - v.mean()) < 3 * v.std()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its p-value beyond 5,000, which is not used
            return len(v) > self.enough and float(shapiro(v).statistic) < self.delta

    def _grow(self, label: int, x: Any) -> None:
        n = self.size[label]
        if n == len(self.grown[label]):
            self.grown[label] = np.concatenate([self.grown[label], np.empty_like(self.grown[label])])
        self.grown[label][n] = x
        self.size[label] = n + 1

    def bytes(self) -> int:
        """Kept inputs and distances."""
        lists = (*self.spread.values(), *self.nearest.values())
        return 8 * (self.d * sum(self.size.values()) + sum(map(len, lists)))


def prada(world: World) -> Alarm:
    centre = world.rows["training"].mean(0)

    def alarm(x: Any, labels: Any) -> int | None:
        watched = Prada(world.d)
        hits = (i + 1 for i, z in enumerate((x - centre) / world.sd) if watched.add(z, int(labels[i])))
        return next(hits, None)

    return alarm


def seat(world: World) -> Alarm:
    """More than 50 pairs of similar queries (Zhang, Chen and Wagner, AISec 2021), similar being as near as one pair in
    10,000 of benign rows. Its encoder, a fine-tuned image network, has no counterpart on a table: columns as they are.
    """
    rng, rows = np.random.default_rng(0), world.rows["training"]
    z = (rows[rng.integers(len(rows), size=(2, 400_000))]) / world.sd
    apart = np.linalg.norm(z[0] - z[1], axis=1)
    near = float(np.quantile(apart[apart > 0], 1e-4))

    def alarm(x: Any, labels: Any) -> int | None:
        z = x / world.sd
        squares = np.einsum("ij,ij->i", z, z)
        close = squares[:, None] + squares - 2 * z @ z.T <= near**2
        pairs = np.tril(close, -1).sum(1).cumsum()
        return first(pairs > 50)

    return alarm


def blacklight(world: World) -> Alarm:
    """Half of the hashed windows of the salted, quantised input in common with one earlier query (Li et al., USENIX
    Security 2022; quantisation 50, windows of 20, step 1). Where there are fewer than 40 columns a window is half of
    them. As no input here has more than 50 windows, all are kept.
    """
    rng, width = np.random.default_rng(0), min(20, world.d // 2)
    salt = rng.integers(0, 255, world.d)
    weights = rng.integers(1, 2**62, width, dtype=np.uint64)
    span = np.where(world.high > world.low, world.high - world.low, 1)

    def alarm(x: Any, labels: Any) -> int | None:
        level = (255 * np.clip((x - world.low) / span, 0, 1) + salt) % 255
        quantised = (np.round(level / 50) * 50).astype(np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(quantised, width, axis=1)
        hashed = (windows * weights).sum(2, dtype=np.uint64)
        for i in range(1, len(x)):
            if (hashed[:i] == hashed[i]).sum(1).max() >= hashed.shape[1] / 2:
                return i + 1
        return None

    return alarm


def mmd(world: World, window: int = 256) -> Alarm:
    """Maximum mean discrepancy of a window of queries from benign rows above the 95th percentile of benign windows
    (Liu, Guo and Dong 2026; median bandwidth, 20 reference windows, 1,000 null values). They take windows of 1,500;
    accounts here live 512 queries, so 256, looked at every 64. By 256 random Fourier features.
    """
    rng, rows = np.random.default_rng(0), world.rows["training"] / world.sd
    sample = rows[rng.choice(len(rows), min(1000, len(rows)), replace=False)]
    squares = ((sample[:300, None] - sample[None, 300:600]) ** 2).sum(2)
    bandwidth = math.sqrt(np.median(squares))
    directions, phase = rng.standard_normal((world.d, 256)) / bandwidth, rng.uniform(0, 2 * np.pi, 256)

    def features(z: Any) -> Any:
        return np.sqrt(2 / 256) * np.cos(z @ directions + phase)

    known = features(rows)

    def benign() -> Any:
        return known[rng.integers(len(known), size=window)].mean(0)

    references = np.array([benign() for _ in range(20)])

    def distance(mean: Any) -> float:
        return float(((references - mean) ** 2).sum(1).mean())

    limit = np.quantile([distance(benign()) for _ in range(1000)], 0.95)

    def alarm(x: Any, labels: Any) -> int | None:
        sums = np.concatenate([np.zeros((1, 256)), features(x / world.sd).cumsum(0)])
        for end in range(window, len(x) + 1, 64):
            if distance((sums[end] - sums[end - window]) / window) > limit:
                return end
        return None

    return alarm


def ours(world: World) -> Alarm:
    from understudy.watch import Watch

    watch = Watch(calibration(world, 0))
    return lambda x, labels: stand(watch, world, f"ours-{len(x)}", x).alarmed_at


def first(hits: Any) -> int | None:
    return int(hits.argmax()) + 1 if hits.any() else None


DETECTORS = {"PRADA": prada, "SEAT": seat, "Blacklight": blacklight, "windowed MMD": mmd, "understudy": ours}


def compared(name: str) -> Any:
    """First alarms on customers and on thieves, by detector."""
    from understudy.watch import Watch

    world, life = world_of(name), SETS[name][1]
    alarms = {what: made(world) for what, made in DETECTORS.items()}
    made, rng = calibration(world, 0), np.random.default_rng([0, 2])
    watch, kinds = Watch(made), behaviours(2000, rng)[:CUSTOMERS]  # as benchmarks/monitor.py draws them
    found: dict[str, Any] = {"customers": {}, "thieves": {}}
    for i, behaviour in enumerate(kinds):
        x = customer(world, "test", behaviour, life, rng)
        labels = world.probabilities(x).argmax(1)
        told = {what: alarm(x, labels) for what, alarm in alarms.items() if what != "understudy"}
        told["understudy"] = stand(watch, world, f"test-{i}", x, PORTFOLIO[behaviour][1]).alarmed_at
        found["customers"].setdefault(behaviour, []).append(told)
    for attack, (asked, _, _) in THIEVES.items():
        for k in DILUTIONS:
            told = []
            for stream in range(STREAMS):
                rng = np.random.default_rng([0, 3, stream])
                x, _ = diluted(world, asked(world, life, rng), k, life, rng)
                labels = world.probabilities(x).argmax(1)
                told.append({what: alarm(x, labels) for what, alarm in alarms.items()})
            found["thieves"].setdefault(attack, {})[str(k)] = told
    return found


def cost(name: str) -> Any:
    """PRADA at 50,000 queries of one customer, who never repeats one: CPU per query, and bytes."""
    world, rng = world_of(name), np.random.default_rng([0, 8])
    rows = world.rows["test"]
    pair, share = rng.integers(len(rows), size=(2, HISTORY + TIMED)), rng.random((HISTORY + TIMED, 1))
    z = (share * rows[pair[0]] + (1 - share) * rows[pair[1]]) / world.sd
    labels = world.probabilities(z * world.sd).argmax(1)
    watched = Prada(world.d)
    watched.every = HISTORY  # its test depends on no earlier one, and is not timed on the way
    for x, label in zip(z[:HISTORY], labels[:HISTORY], strict=True):
        watched.add(x, int(label))
    watched.every = Prada.every
    start = time.process_time()
    for x, label in zip(z[HISTORY:], labels[HISTORY:], strict=True):
        watched.add(x, int(label))
    return {"us": (time.process_time() - start) / TIMED * 1e6, "bytes": watched.bytes()}


PARTS = {"compared": compared, "cost": cost}


def print_compared(name: str) -> None:
    path = CACHE / f"references-compared-{name}.json"
    if not path.exists():
        return
    found, names = json.loads(path.read_text()), list(DETECTORS)
    everybody = [told for rows in found["customers"].values() for told in rows]
    print(f"\n**{name}**: customers ever accused within 512 queries\n")
    print(heading("", "accounts", *names))
    for kind, rows in [("portfolio", everybody), *found["customers"].items()]:
        hits = [sum(told[what] is not None for told in rows) for what in names]
        shown = [f"{h} ({100 * exact(h, len(rows))[0]:.0f}-{100 * exact(h, len(rows))[1]:.0f} %)" for h in hits]
        print(row(kind, len(rows), *(shown if kind == "portfolio" else hits)))
    print(f"\n**{name}**: thieves noticed of {STREAMS} (median queries to the alarm), pure; at 1:4\n")
    print(heading("attack", *names))
    for attack, cells in found["thieves"].items():
        print(row(attack, *("; ".join(noticed([t[what] for t in told]) for told in cells.values()) for what in names)))


def noticed(alarms: list[int | None]) -> str:
    at = [math.inf if a is None else a for a in alarms]
    hits, middle = sum(map(math.isfinite, at)), statistics.median_low(at)
    return f"{hits} ({middle if math.isfinite(middle) else '-'})" if hits else "0"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", default="tables", choices=[*PARTS, "tables"])
    parser.add_argument("--set", default="letters", choices=SETS)
    given = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    if given.part != "tables":
        (CACHE / f"references-{given.part}-{given.set}.json").write_text(json.dumps(PARTS[given.part](given.set)))
        return
    for name in SETS:
        print_compared(name)
    print(f"\n**PRADA** at {HISTORY:,} queries of history, none of them a repeat\n")
    print(heading("set", "us of CPU per query", "bytes"))
    for name in SETS:
        if (path := CACHE / f"references-cost-{name}.json").exists():
            told = json.loads(path.read_text())
            print(row(name, f"{told['us']:,.0f}", f"{told['bytes']:,}"))


if __name__ == "__main__":
    one_thread()
    main()
