"""What operators watch: Prometheus counters, one set over all workers, and JSON log lines without secrets or inputs."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

_TOGETHER, _LATEST = 64, 0.25  # answered requests that are counted at once, and seconds until they are at the latest
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Counts by endpoint, tier and outcome. Children are looked up once per combination.

    Answered requests are counted some at a time: one by one, each finds Prometheus's code out of the processor's cache.
    """

    def __init__(self) -> None:
        from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

        registry = CollectorRegistry() if _multiprocess() is None else REGISTRY
        self._requests = Counter(
            "understudy_requests", "Requests by outcome.", ("endpoint", "tier", "outcome"), registry=registry
        )
        self._rows = Counter("understudy_rows", "Rows answered.", ("endpoint", "tier"), registry=registry)
        self._seconds = Histogram(
            "understudy_seconds", "Time to answer.", ("endpoint",), buckets=_BUCKETS, registry=registry
        )
        self._upstream = Histogram(
            "understudy_upstream_seconds", "Of it, the upstream's.", ("endpoint",), buckets=_BUCKETS, registry=registry
        )
        self.registry = registry
        self._waiting: list[tuple[str, str, int, float, float]] = []
        self.refused = cache(lambda endpoint, tier, outcome: self._requests.labels(endpoint, tier, outcome))
        self._answered = cache(
            lambda endpoint, tier: (
                self._requests.labels(endpoint, tier, "answered"),
                self._rows.labels(endpoint, tier),
                self._seconds.labels(endpoint),
                self._upstream.labels(endpoint),
            )
        )

    def answered(self, endpoint: str, tier: str, rows: int, seconds: float, upstream: float) -> None:
        """One answered request, on the event loop. It is seen a quarter of a second later at the latest."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(_LATEST, self.count)
        self._waiting.append((endpoint, tier, rows, seconds, upstream))
        if len(self._waiting) == _TOGETHER:
            self.count()

    def count(self) -> None:
        """Count what waits."""
        waiting, self._waiting = self._waiting, []
        for endpoint, tier, rows, seconds, upstream in waiting:
            requests, total, whole, theirs = self._answered(endpoint, tier)
            requests.inc()
            total.inc(rows)
            whole.observe(seconds)
            theirs.observe(upstream)


class Watched:
    """What the watcher counts. Lag, loss and failure are visible, never silent."""

    def __init__(self) -> None:
        from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

        registry = CollectorRegistry() if _multiprocess() is None else REGISTRY
        one = ("endpoint",)

        def counter(name: str, text: str, labels: tuple[str, ...] = one) -> Counter:
            return Counter(f"understudy_watch_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"understudy_watch_{name}", text, one, registry=registry, multiprocess_mode="livemostrecent")

        self._exchanges = counter("exchanges", "Exchanges followed.")
        self._shed = counter("shed", "Exchanges that were removed or damaged before they were followed.")
        self.alarms = counter("alarms", "Accounts alarmed.")
        self.responses = counter("responses", "Steps of the ladder taken.", ("endpoint", "do"))
        self._alerts = counter("alerts", "Alerts by what became of them.", ("endpoint", "outcome"))
        self._lag = gauge("lag_seconds", "Age of the latest exchange of the last look that found any.")
        self._behind = gauge("behind", "Exchanges on record that are not followed yet, at least.")
        self._machines = gauge("machines", "Machines that are followed together; 0 while this one goes on alone.")
        self._decides = gauge("decides", "1 where this machine decides about accounts; 0 where its copy has gaps.")
        self._unsent = gauge("unsent", "Alerts that wait for a sink.")

    @staticmethod
    @cache
    def of() -> Watched:
        """The process's: made once."""
        return Watched()

    def count(self, endpoint: str, exchanges: int, shed: int, lag: float, behind: int) -> None:
        """One step of the watcher."""
        self._exchanges.labels(endpoint).inc(exchanges)
        self._shed.labels(endpoint).inc(shed)
        self._lag.labels(endpoint).set(lag)
        self._behind.labels(endpoint).set(behind)

    def together(self, endpoint: str, machines: int, decides: bool) -> None:
        """How many machines share the watch, and whether this one decides."""
        self._machines.labels(endpoint).set(machines)
        self._decides.labels(endpoint).set(decides)

    def delivered(self, endpoint: str, done: int, failed: int, unsent: int) -> None:
        """One round of deliveries."""
        self._alerts.labels(endpoint, "delivered").inc(done)
        self._alerts.labels(endpoint, "failed").inc(failed)
        self._unsent.labels(endpoint).set(unsent)


@cache
def metrics() -> Metrics:
    """The process's metrics: made once, since Prometheus refuses a name twice."""
    return Metrics()


def _multiprocess() -> str | None:
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR")


def exposition() -> bytes:
    """The text that Prometheus scrapes: of all workers where they share a folder, else of this process."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    folder = _multiprocess()
    if folder is None:
        metrics().count()
        return bytes(generate_latest(metrics().registry))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return bytes(generate_latest(registry))


def forget_worker(folder: Path, pid: int) -> None:
    """Tell Prometheus that a worker has ended: its counts stay, its gauges go."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


@cache
def log() -> Any:
    """The structured log: one JSON object a line on standard error."""
    import structlog

    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what customers can provoke fills no log
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger("understudy.guard")
