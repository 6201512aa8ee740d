"""Where and when a worker's threads run: together, and the helpers only when the busy event loop pauses.

The client's thread and the record's are woken more than twice a request. On a busy core the system runs whoever is
woken at once, and the loop, which holds the interpreter, is put aside for it: a fifth of all CPU went into changing
places. As batch threads they are run when the loop has nothing more to do. Beside other hungry processes each would
wait four times as long for its core, so it is left off while the worker is not busy: then there is little to interrupt.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time

_LOOK = 0.25  # seconds
_BUSY, _CALM = 0.15, 0.07  # share of a core that the loop uses


def settle(index: int, workers: int) -> None:
    """Keep a worker's threads together on one core, where every core has a worker to carry.

    They pass one interpreter's lock around; from core to core that costs up to a quarter more CPU. Where there are
    cores to spare the system places them better than we could.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if workers >= len(cores):
        os.sched_setaffinity(0, {cores[index % len(cores)]})


async def give_way() -> None:
    """Watch this thread's load, and let the process's other threads give way while it is high. Until cancelled.

    Only Linux knows the difference; elsewhere this does nothing.
    """
    if not hasattr(os, "SCHED_BATCH") or not os.path.isdir("/proc/self/task"):
        return
    giving, used, at = False, time.thread_time(), time.monotonic()
    while True:
        await asyncio.sleep(_LOOK)
        before, used, since, at = used, time.thread_time(), at, time.monotonic()
        share = (used - before) / (at - since)
        if share > _BUSY or giving:  # also those that were started meanwhile
            giving = share > _CALM
            _schedule(os.SCHED_BATCH if giving else os.SCHED_OTHER)


def _schedule(policy: int) -> None:
    """Every thread of this process but this one."""
    for name in os.listdir("/proc/self/task"):
        if int(name) != threading.get_native_id():
            try:
                os.sched_setscheduler(int(name), policy, os.sched_param(0))
            except OSError:  # it has ended, or somebody forbids it
                return
