"""Four workers that ask for one row at a time and note each answer; the parent kills them at random and begins others.

python hammer.py FOLDER CAP KEYS KILLS SEED       KEYS: how many principals, drawn at random; KILLS: at most
Prints how many were killed, once everybody's allowance is spent. Forks, to begin a worker in a millisecond.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

from understudy.gateway.ledger import MappedLedger
from understudy.guard import Allowance


async def work(folder: Path, cap: int, keys: int, rng: random.Random, n: int) -> None:
    ledger = MappedLedger(folder / "l")
    out = os.open(folder / f"notes{n}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        key = f"p:{rng.randrange(keys)}"
        names = [(key, "you", Allowance()), ("o:acme", "party", Allowance()), ("g", "all", Allowance(None, cap))]
        if not (await ledger.admit(names, 1)).admitted:
            return
        os.write(out, f"{key}\n".encode())


def begin(folder: Path, cap: int, keys: int, seed: int) -> int:
    if pid := os.fork():
        return pid
    code = 1
    try:
        asyncio.run(work(folder, cap, keys, random.Random(seed), seed))
        code = 0
    finally:
        os._exit(code)


def main(folder: Path, cap: int, keys: int, kills: int, seed: int) -> None:
    rng, begun, killed = random.Random(seed), 4, 0
    workers = [begin(folder, cap, keys, seed + i) for i in range(begun)]
    while killed < kills:
        time.sleep(rng.uniform(0.001, 0.02))
        i = rng.randrange(len(workers))
        os.kill(workers[i], signal.SIGKILL)
        _, status = os.waitpid(workers[i], 0)
        if not os.WIFSIGNALED(status):
            assert status == 0
            del workers[i]  # everything is spent
            break
        killed += 1
        workers[i] = begin(folder, cap, keys, seed + begun)
        begun += 1
    assert {os.waitpid(pid, 0)[1] for pid in workers} <= {0}
    print(killed)


main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
