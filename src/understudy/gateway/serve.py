"""Workers and signals: one socket, N processes, SIGHUP reads the manifests again, SIGTERM drains.

supervisor   binds, starts workers, restarts those that die, serves the operators' address
worker       uvicorn (uvloop, httptools) around one `Gateway`; ends when its supervisor does
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from understudy.errors import MissingExtra, UnderstudyError, UsageError
from understudy.gateway.app import Gateway, compile_all
from understudy.gateway.deliver import secret_of
from understudy.gateway.giveway import give_way, settle
from understudy.gateway.metrics import forget_worker, log
from understudy.gateway.service import Service
from understudy.gateway.upkeep import Upkeep
from understudy.gateway.watcher import Sidecar

_GRACE = 20.0  # seconds that requests in flight have to end
_GARBAGE = (10_000, 20, 20)  # a request leaves no cycles; by default it pays for a look for them every few requests
_CALM = 5.0  # a worker that lived shorter than this is not restarted at once


@dataclass(frozen=True)
class Options:
    """What `understudy guard` was told. `admin`: host and port of the operators' address, or None."""

    manifests: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    observe: bool = False
    state: str | None = None
    admin: tuple[str, int] | None = None
    cert: Path | None = None
    key: Path | None = None


def serve(options: Options, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT. Raises UsageError and its kin before anything is served."""
    if any(find_spec(name) is None for name in ("uvicorn", "uvloop", "httptools", "pyreqwest")):
        raise MissingExtra("the gateway needs its libraries: pip install 'understudy[guard]'")
    services = compile_all(options.manifests)
    for service in services:
        if service.manifest.monitor is not None and service.manifest.monitor.sinks.webhook is not None:
            secret_of(service.manifest.monitor.sinks.webhook)  # now: an endpoint is not left unwatched for it
    admin_key = os.environ.get("UNDERSTUDY_ADMIN_KEY", "")
    if options.admin and len(admin_key) < 16:
        raise UsageError("the admin address needs a key: set UNDERSTUDY_ADMIN_KEY to 16 or more random characters")
    listening = _bind(options.host, options.port)
    scratch = Path(tempfile.mkdtemp(prefix="understudy-metrics-"))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(scratch)
    crew = _Crew(options, services, listening, scratch)
    try:
        crew.listen_to_signals()
        crew.start()
        host, port = listening.getsockname()[:2]
        if options.admin:
            from understudy.gateway.admin import serve_admin

            serve_admin(options.admin, options.manifests, admin_key, crew.ready, options.state)
        ready(f"{'https' if options.cert else 'http'}://{host}:{port}")
        for service in services:
            log().info(
                "guarding", endpoint=service.id, upstream=service.http.url.split("?")[0], observe=options.observe
            )
        crew.watch()
    finally:
        crew.stop()
        listening.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _bind(host: str, port: int) -> socket.socket:
    """The listening socket. A predecessor's workers may still be draining: it is tried for a few seconds."""
    deadline = time.monotonic() + 10
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        try:
            return socket.create_server((host, port), family=family, backlog=2048)
        except OSError as error:
            if time.monotonic() > deadline or error.errno not in (98, 48):
                raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from None
            time.sleep(0.2)


class _Crew:
    """The workers of one supervisor."""

    def __init__(self, options: Options, services: list[Service], listening: socket.socket, scratch: Path) -> None:
        self._options, self._services, self._listening, self._scratch = options, services, listening, scratch
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection, float]] = {}
        self._ended, self._asked_to_reload, self._upkeep = threading.Event(), False, Upkeep()
        self._sidecar = Sidecar(options.manifests, options.state, lambda pid: forget_worker(scratch, pid))

    def listen_to_signals(self) -> None:
        """SIGTERM and SIGINT end `watch`, SIGHUP makes it reload."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ended.set())
        signal.signal(signal.SIGHUP, lambda *_: setattr(self, "_asked_to_reload", True))

    def start(self) -> None:
        """Start every worker and wait until each serves. Raises UsageError with the first one's reason."""
        self._upkeep.run(self._services)  # before a worker holds the segments that may go
        for index in range(self._options.workers):
            self._start(index)
        for _, pipe, _ in self._workers.values():
            if not pipe.poll(60):
                raise UsageError("a worker did not start within a minute")
            try:
                trouble = pipe.recv()
            except EOFError:
                raise UsageError("a worker ended while it started; see the log above") from None
            if trouble:
                raise UsageError(trouble)

    def _start(self, index: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work, args=(self._options, self._listening, index, theirs), name=f"understudy-guard-{index}"
        )
        process.start()
        theirs.close()
        self._workers[index] = (process, ours, time.monotonic())

    def ready(self) -> bool:
        """Whether every worker runs."""
        return all(process.is_alive() for process, _, _ in self._workers.values())

    def watch(self) -> None:
        """Pass reloads on and restart what dies, until told to stop."""
        while not self._ended.wait(0.2):
            self._upkeep.look(self._services)
            self._sidecar.look(self._services)
            if self._asked_to_reload:
                self._asked_to_reload = False
                self._reload()
            for index, (process, pipe, since) in list(self._workers.items()):
                if process.is_alive():
                    continue
                pipe.close()
                log().error("a worker died and is started again", worker=index, exit=process.exitcode)
                if process.pid:
                    forget_worker(self._scratch, process.pid)
                self._ended.wait(max(0.0, min(_CALM, since + _CALM - time.monotonic())))
                self._start(index)

    def _reload(self) -> None:
        try:
            self._services = compile_all(self._options.manifests)
        except UnderstudyError as error:
            log().error("manifest refused; the old one stays", reason=str(error))
            return
        for process, _, _ in self._workers.values():
            if process.pid and process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGHUP)

        self._sidecar.reload()

    def stop(self) -> None:
        """Drain every worker; end those that do not."""
        for process, _, _ in self._workers.values():
            if process.is_alive():
                process.terminate()
        deadline = time.monotonic() + _GRACE + 5
        for process, pipe, _ in self._workers.values():
            process.join(max(0.1, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()
        self._sidecar.stop()  # after the workers, so that it follows their last answers


def work(options: Options, listening: socket.socket, index: int, pipe: Connection) -> None:
    """A worker process, from start to end."""
    import uvicorn
    import uvloop

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # signals are handled below

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's to pass on
    settle(index, options.workers)
    gateway = Gateway(options.manifests, observe=options.observe, state=options.state, worker=str(index))
    config = uvicorn.Config(
        gateway,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(_GRACE),
        ssl_certfile=options.cert,
        ssl_keyfile=options.key,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = Server(config)

    def end_with_supervisor() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
        server.should_exit = True

    async def main() -> None:
        try:
            await gateway.open()
        except UnderstudyError as error:
            pipe.send(str(error))
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, gateway.reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
        gc.collect()
        gc.freeze()  # what is there now stays: not to be looked through again and again
        gc.set_threshold(*_GARBAGE)
        pipe.send(None)
        threading.Thread(target=end_with_supervisor, daemon=True).start()
        giving_way = loop.create_task(give_way())
        try:
            await server.serve(sockets=[listening])
        finally:
            giving_way.cancel()
            await gateway.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    sys.exit(0)
