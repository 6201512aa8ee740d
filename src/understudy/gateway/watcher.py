"""The watcher: a process beside the workers that follows what they record, for every endpoint with a monitor section.

It is not on the answer path. Where it dies it is started again, and goes on from its last save.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from understudy.errors import ManifestError, RecordError, UnderstudyError, UsageError
from understudy.gateway.book import FILE as BOOK
from understudy.gateway.book import Book
from understudy.gateway.deliver import Delivery
from understudy.gateway.feed import Done, Feed
from understudy.gateway.metrics import Watched, log
from understudy.gateway.pool import Pool
from understudy.gateway.service import Service, compile_service
from understudy.manifest_monitor import MonitorPart
from understudy.watch import Calibration

_PAUSE = 0.5  # seconds between looks where nothing waits
_TROUBLED = 10.0  # seconds between tries of what went wrong
_LAST = 5.0  # seconds that what is left may take at the end
_LOOK = 5.0  # seconds between looks for another calibration
_GAPS = "this machine's copy of the watch has gaps: it follows, and leaves decisions to machines that know more"


class Lookout:
    """One endpoint's feed, its deliveries and its share of the pool, opened as soon as there is a calibration.

    Whatever fails is logged and tried again: the watcher outlives a full disk, a damaged file and a server away.
    """

    def __init__(self, service: Service, monitor: MonitorPart, state: str | None) -> None:
        self.service, self._monitor = service, monitor
        self._path = service.path.resolve().parent / monitor.calibration
        self._pool = None if state is None else Pool(state, service.id)
        self._feed: Feed | None = None
        self._stamp: tuple[int, int] | None = None
        self._due, self._again, self._told = 0.0, 0.0, ""
        self._decides = True
        self._ended = threading.Event()
        self._delivery = Delivery(service.folder, monitor)
        self._postman = threading.Thread(target=self._deliver, daemon=True, name="delivery")
        self._postman.start()

    def step(self, now: float) -> bool:
        """Deal with what is new; whether more waits."""
        if now < self._again:
            return False
        try:
            if now >= self._due:
                self._due = now + _LOOK
                self._open(now)
            if self._feed is None:
                return False
            done = self._feed.step(now)
        except (UnderstudyError, OSError) as error:
            self._failed(str(error), now)
            return False
        self._tell(done)
        return done.behind > 0 and done.exchanges > 0

    def close(self, now: float) -> None:
        """Save and let go."""
        self._ended.set()
        self._postman.join(10)
        if self._feed is not None:
            with contextlib.suppress(UnderstudyError):
                self._feed.close(now)

    def _open(self, now: float) -> None:
        """Take up the calibration, where there is one, or another one."""
        try:
            found = self._path.stat()
        except OSError:
            if self._told != "none" and self._feed is None:
                self._told = "none"
                log().warning(
                    "nothing is watched until there is a calibration", endpoint=self.service.id, file=str(self._path)
                )
            return
        stamp = (found.st_mtime_ns, found.st_size)
        if stamp == self._stamp:
            return
        blob = self._path.read_bytes()
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close(now)
        calibration, space = self._calibration(blob), self.service.manifest.space
        if not calibration.scorer.form.takes(tuple(space.shape)):
            raise UsageError(f"{self._path} is a calibration of {calibration.scorer.form}, which this endpoint is not")
        self._feed = Feed(self.service, self._monitor, blob, self._pool)
        self._stamp = stamp
        log().info(
            "watching", endpoint=self.service.id, accounts=calibration.accounts, stated_level=calibration.level,
            threshold=calibration.threshold, since=calibration.made,
        )  # fmt: skip
        if calibration.model not in ("", self.service.manifest.model.version):
            log().warning("the calibration is of another version of the model", endpoint=self.service.id)
        least = 1 / (calibration.accounts + 1)
        for i, step in enumerate(self._monitor.response):
            if step.when.p_value is not None and step.when.p_value < least:
                log().warning(
                    "a step of the ladder can never act: too few benign accounts for its p_value",
                    endpoint=self.service.id, step=self._monitor.name(i), least=least,
                )  # fmt: skip
            if (step.when.leak or step.when.leak_budget) and calibration.leak is None:
                log().warning(
                    "a step of the ladder can never act: the calibration has no leak meter",
                    endpoint=self.service.id, step=self._monitor.name(i),
                )  # fmt: skip
        for name in calibration.segments.keys() - self._monitor.segments.keys():
            log().warning("nobody is in a segment of the calibration: declare it", endpoint=self.service.id, name=name)
        if calibration.threshold is None:
            log().warning("too few benign accounts for this level: no alarm is raised", endpoint=self.service.id)

    def _calibration(self, blob: bytes) -> Calibration:
        try:
            return Calibration.from_bytes(blob)
        except RecordError as error:
            raise RecordError(f"{self._path}: {error}") from None

    def _tell(self, done: Done) -> None:
        watched, endpoint = Watched.of(), self.service.id
        watched.count(endpoint, done.exchanges, done.lost + done.damaged, done.lag, done.behind)
        if self._pool is not None and self._feed is not None:
            watched.together(endpoint, self._feed.machines, self._feed.decides)
            if self._feed.decides != self._decides:
                self._decides = self._feed.decides
                say = log().info if self._decides else log().warning
                say("this machine decides" if self._decides else _GAPS, endpoint=endpoint)
        if done.lost or done.damaged:
            log().error("exchanges were not watched", endpoint=endpoint, removed=done.lost, damaged=done.damaged)
        for principal in done.alarmed:
            watched.alarms.labels(endpoint).inc()
            log().warning("alarm", endpoint=endpoint, principal=principal)
        for response in done.made:
            watched.responses.labels(endpoint, response.do).inc()
            log().warning(
                "response", endpoint=endpoint, id=response.id, do=response.do, whom=response.whom, name=response.name,
                step=response.step, until=response.until,
            )  # fmt: skip

    def _failed(self, why: str, now: float) -> None:
        self._again = now + _TROUBLED
        log().error("watching failed; it is tried again", endpoint=self.service.id, reason=why)
        feed, self._feed, self._stamp, self._due = self._feed, None, None, 0.0
        if feed is not None:
            feed.states.close()  # unsaved: what came since the last save is read again
            feed.book.close()

    def _deliver(self) -> None:
        path, endpoint, book = self.service.folder / BOOK, self.service.id, None
        while not self._ended.wait(_PAUSE):
            try:
                if book is None and path.exists():
                    book = Book(path)
                if book is not None:
                    done, failed = self._delivery.run(book, time.time())
                    if done or failed:
                        Watched.of().delivered(endpoint, done, failed, book.unsent())
            except (UnderstudyError, OSError) as error:
                log().error("alerts cannot be delivered", endpoint=endpoint, reason=str(error))
                self._ended.wait(_TROUBLED)
            except Exception as fault:  # whatever it is: without this thread nobody hears of anything any more
                log().error("alerts cannot be delivered", endpoint=endpoint, reason=type(fault).__name__)
                self._ended.wait(_TROUBLED)
        if book is not None:
            with contextlib.suppress(UnderstudyError, OSError):
                self._delivery.run(book, time.time())
            book.close()


def watched(services: Sequence[Service]) -> list[Service]:
    """The endpoints that have a monitor section."""
    return [service for service in services if service.manifest.monitor is not None]


def watch(manifests: Sequence[Path], state: str | None, supervisor: int) -> None:
    """Follow every endpoint until SIGTERM, or until the supervisor is gone. SIGHUP reads the manifests again."""
    from threadpoolctl import threadpool_limits

    os.nice(10)  # answers come first
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ended, reload = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, lambda *_: reload.set())
    lookouts = _lookouts(manifests, state)
    while not ended.is_set() and os.getppid() == supervisor:
        if reload.is_set():
            reload.clear()
            try:
                fresh = [compile_service(path) for path in manifests]
            except UnderstudyError:
                continue  # the supervisor has said so; the old manifests stay
            for lookout in lookouts:
                lookout.close(time.time())
            lookouts = _of(fresh, state)
        more = [lookout.step(time.time()) for lookout in lookouts]
        if not any(more):
            ended.wait(_PAUSE)
    for lookout in lookouts:
        last = time.monotonic() + _LAST
        while lookout.step(time.time()) and time.monotonic() < last:
            pass
        lookout.close(time.time())


def _lookouts(manifests: Sequence[Path], state: str | None) -> list[Lookout]:
    return _of([compile_service(path) for path in manifests], state)


def _of(services: Sequence[Service], state: str | None) -> list[Lookout]:
    found = []
    for service in watched(services):
        assert service.manifest.monitor is not None
        try:
            found.append(Lookout(service, service.manifest.monitor, state))
        except ManifestError as error:
            log().error("this endpoint is not watched", endpoint=service.id, reason=str(error))
    return found


class Sidecar:
    """The supervisor's end of the watcher: starts it where an endpoint wants one, and again where it died."""

    def __init__(self, manifests: Sequence[Path], state: str | None, dead: Callable[[int], None]) -> None:
        self._manifests, self._state, self._dead = tuple(manifests), state, dead
        self._process: BaseProcess | None = None
        self._again = 0.0

    def look(self, services: Sequence[Service]) -> None:
        """Start the watcher where it is wanted and not there."""
        process = self._process
        if process is not None and not process.is_alive():
            log().error("the watcher died and is started again", exit=process.exitcode)
            if process.pid:
                self._dead(process.pid)
            self._process, self._again = None, time.monotonic() + 5.0
        if self._process is None and time.monotonic() >= self._again and watched(services):
            context = multiprocessing.get_context("spawn")
            self._process = context.Process(
                target=watch, args=(self._manifests, self._state, os.getpid()), name="understudy-watch"
            )
            self._process.start()

    def reload(self) -> None:
        """Pass SIGHUP on."""
        if self._process is not None and self._process.pid and self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGHUP)

    def stop(self, seconds: float = 20.0) -> None:
        """Let it save and end; end it where it does not."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
