"""What everybody has asked so far, shared by all workers of one machine, exact also where workers are killed."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from understudy import guard
from understudy.errors import LedgerError
from understudy.gateway import _table
from understudy.gateway._table import ENTRY, UNKNOWN, Table
from understudy.guard import Admission, Allowance, Usage

#: Holders of a request: (key, word for the rule, allowance) each, as ("p:acme-1", "your key", Allowance(...)).
Names = Sequence[tuple[str, str, Allowance]]

_NOTHING = Usage()
_REMEMBERED = 65_536  # keys whose place in the file a worker remembers
_LOOK = 1.0  # seconds between looks whether the file is still the one that others open


class Ledger(Protocol):
    """Where allowances are charged."""

    async def admit(self, names: Names, rows: int) -> Admission:
        """Charge `rows` to every name, or to none. Raises LedgerError where nothing can be counted."""
        ...

    async def refund(self, names: Names, rows: int, since: float) -> None:
        """Give back `rows` that were charged at `since` (`Admission.at`) and never answered."""
        ...

    def usage(self, key: str) -> Usage:
        """What one key has used."""
        ...

    def entries(self) -> Iterator[tuple[str, Usage]]:
        """What every key has used."""
        ...

    def trouble(self) -> str | None:
        """Why nothing can be admitted now, or None."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


class MappedLedger:
    """Usages in one file that all workers of a machine map into memory, under a lock that dies with its holder.

    A worker killed between charge and answer leaves its charge: never over, and under by requests in flight only.
    Everything is there at once after a restart of the processes. After one of the machine the file may lack the last
    seconds: then, and where the file is new, it is `stale`, and the caller counts from the history and calls `restore`.
    Until that is done, nothing is admitted after a restart of the machine.

    Keys are kept readable up to 55 bytes. 124 bytes per key at most; what no window holds any more is dropped
    when the file grows. Raises LedgerError where the file is damaged, foreign or taken away, or cannot grow.
    """

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = Path(path), clock
        self._mutex = threading.Lock()
        self._places = dict[str, int]()
        self._table: Table | None = None
        self._boot = _boot_id()
        self._open_lock()
        with self._locked:
            if not self._path.exists():
                _table.build(self._path, np.empty(0, ENTRY), UNKNOWN)
            self._reopen(verify=True)

    def _open_lock(self) -> None:
        self._lock_path = self._path.with_name(self._path.name + ".lock")
        try:
            self._fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(f"{self._lock_path}: cannot be opened: {error.strerror}") from None
        self._pid, self._looked = os.getpid(), -1.0
        self._locked = _Locked(self)

    @property
    def stale(self) -> bool:
        """Whether the file is new, or the machine has restarted since it was counted: `restore` it."""
        with self._locked:
            return self._live().boot != self._boot

    async def admit(self, names: Names, rows: int) -> Admission:
        """Charge `rows` to every name, or to none. Raises LedgerError where nothing can be counted."""
        with self._locked:
            table, places = self._counted_live(), list[int]()
            held = []
            for key, who, allowance in names:
                place = self._places.get(key) or self._find(table, key) or 0
                places.append(place)
                held.append((who, allowance, table.read(place) if place else _NOTHING))
            decision, after = guard.admit(held, rows, self._clock())
            if decision.admitted:
                if 0 in places:
                    table, places = self._make_room([_table.field(key) for key, _, _ in names])
                for place, usage in zip(places, after, strict=True):
                    table.write(place, usage)
            return decision

    async def refund(self, names: Names, rows: int, since: float) -> None:
        """Give back `rows` that were charged at `since` (`Admission.at`) and never answered."""
        with self._locked:
            table, now = self._live(), self._clock()
            for key, _, allowance in names:
                if place := self._find(table, key):
                    table.write(place, guard.refund(allowance, Usage(*table.read(place)), rows, since, now))

    def usage(self, key: str) -> Usage:
        """What one key has used."""
        with self._locked:
            table = self._live()
            place = self._find(table, key)
            return Usage(*table.read(place)) if place else Usage()

    def entries(self) -> Iterator[tuple[str, Usage]]:
        """What every key has used, as of now."""
        with self._locked:
            rows = self._live().rows()
        return _table.entries(rows)

    def trouble(self) -> str | None:
        """Why nothing can be admitted now, or None."""
        try:
            with self._locked:
                self._counted_live()
        except LedgerError as error:
            return str(error)
        return None

    def restore(self, entries: Iterable[tuple[str, Usage]]) -> None:
        """Replace everything by what was counted elsewhere, and admit again. A second worker's call does nothing."""
        kept = {_table.field(key): usage for key, usage in entries}
        rows = np.array([(*usage, key) for key, usage in kept.items()], ENTRY)
        with self._locked:
            if self._live().boot != self._boot:
                self._replace(rows, self._boot)

    def size(self) -> tuple[int, int]:
        """Keys in the file, and its bytes."""
        with self._locked:
            return len(self._live().rows()), self._path.stat().st_size

    async def close(self) -> None:
        """Let go of the file. Nothing needs to be written: it is there already."""
        if self._table is not None:
            self._table.close()
            os.close(self._fd)
            self._table = None

    def _live(self) -> Table:
        """The file as it is now; the lock is held."""
        table = self._table
        if table is None:
            raise LedgerError(f"{self._path}: is closed")
        if table.moved:
            table = self._reopen()
        now = time.monotonic()
        if not 0.0 <= now - self._looked < _LOOK:
            self._look(table)
            self._looked = now
        return table

    def _counted_live(self) -> Table:
        table = self._live()
        if not self._counted:
            raise LedgerError(f"{self._path}: the machine has restarted; allowances must be counted anew first")
        return table

    def _look(self, table: Table) -> None:
        """Whether another process would open the same files. Somebody may have removed them, and count from nothing."""
        try:
            same = self._path.stat().st_ino == table.inode
            same = same and self._lock_path.stat().st_ino == os.fstat(self._fd).st_ino
        except OSError:
            same = False
        if not same:
            raise LedgerError(f"{self._path}: was removed or replaced while in use; restart the gateway")
        self._counted = table.boot in (self._boot, UNKNOWN)

    def _reopen(self, verify: bool = False) -> Table:
        if self._table is not None:
            self._table.close()
            self._table = None
        table = self._table = Table(self._path, verify)
        table.moved = False  # whoever set it here was killed before another file was in place
        self._places.clear()
        self._look(table)
        return table

    def _find(self, table: Table, key: str) -> int | None:
        place = self._places.get(key)
        if place is None:
            place = table.find(_table.field(key))
            if place is not None:
                if len(self._places) >= _REMEMBERED:
                    self._places.clear()
                self._places[key] = place
        return place

    def _make_room(self, names: Sequence[bytes]) -> tuple[Table, list[int]]:
        """A place for every name; where the file is full, in a larger one of what still counts."""
        for _ in range(2):
            table = self._live()
            try:
                return table, [table.find(name) or table.insert(name) for name in names]
            except _table.Full:
                self._replace(_table.alive(table.rows(), self._clock()), table.boot)
        raise LedgerError(f"{self._path}: has no room for {len(names)} more keys")

    def _replace(self, rows: npt.NDArray[Any], boot: bytes) -> None:
        """Put a file of these entries in the place of this one; the other processes notice at their next look."""
        table = self._live()
        table.moved = True
        try:
            _table.build(self._path, rows, boot)
        finally:
            self._reopen()

    def _forked(self) -> None:
        """In a child process: a lock of its own. The parent's would be shared with it, and keep neither out."""
        os.close(self._fd)
        self._mutex = threading.Lock()
        self._open_lock()


class _Locked:
    """Between threads and between processes: one holder at a time."""

    def __init__(self, ledger: MappedLedger) -> None:
        self._ledger = ledger

    def __enter__(self) -> None:
        ledger = self._ledger
        if ledger._pid != os.getpid():
            ledger._forked()
        ledger._mutex.acquire()
        try:
            fcntl.flock(ledger._fd, fcntl.LOCK_EX)
        except BaseException:
            ledger._mutex.release()
            raise

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._ledger._fd, fcntl.LOCK_UN)
        self._ledger._mutex.release()


def _boot_id() -> bytes:
    """16 bytes that change with each start of the machine."""
    import uuid

    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except OSError:
        import subprocess

        done = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=True)
        return uuid.UUID(done.stdout.strip()).bytes
