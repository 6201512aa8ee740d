"""Helper threads give way while the loop is busy, and only then."""

import asyncio
import os
import threading
import time

import pytest

from understudy.gateway.giveway import give_way, settle

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has batch threads")


def test_other_threads_are_batch_while_the_loop_is_busy_and_ordinary_again_when_it_is_calm() -> None:
    done = threading.Event()
    helper = threading.Thread(target=done.wait)
    helper.start()
    tid = helper.native_id
    assert tid is not None

    async def until(policy: int, work: float) -> None:
        deadline = time.monotonic() + 20
        while os.sched_getscheduler(tid) != policy:
            assert time.monotonic() < deadline
            end = time.thread_time() + work
            while time.thread_time() < end:
                pass
            await asyncio.sleep(0.01)

    async def main() -> None:
        watching = asyncio.create_task(give_way())
        assert os.sched_getscheduler(tid) == os.SCHED_OTHER
        await until(os.SCHED_BATCH, 0.05)
        assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER, "the loop's own thread never is"
        await until(os.SCHED_OTHER, 0.0)
        watching.cancel()

    try:
        asyncio.run(main())
    finally:
        done.set()
        helper.join()


def test_workers_are_kept_on_a_core_each_only_where_every_core_has_one() -> None:
    cores = os.sched_getaffinity(0)
    placed = []
    try:
        settle(0, len(cores) - 1)
        assert os.sched_getaffinity(0) == cores, "there are cores to spare"
        for index in range(len(cores) + 1):
            settle(index, len(cores) + 1)
            placed.append(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores)
    finally:
        os.sched_setaffinity(0, cores)
    assert placed == [{core} for core in [*sorted(cores), min(cores)]]
