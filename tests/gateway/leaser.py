"""A worker across machines: asks for one row at a time and notes each answer, until refused by an allowance.

python leaser.py URL FOLDER NOTES CAP [STUBBORN]      STUBBORN: goes on after that many refusals, for others' leases
Out of reach is waited out.
"""

from __future__ import annotations

import asyncio
import os
import sys

from understudy.gateway.leases import LeasedLedger
from understudy.guard import Allowance


async def main(url: str, folder: str, notes: str, cap: int, stubborn: int) -> None:
    ledger = LeasedLedger(url, folder, lease=64, timeout=20)
    out = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    names = [("p:x", "you", Allowance()), ("o:x", "party", Allowance()), ("g", "all", Allowance(None, cap))]
    while stubborn:
        decision = await ledger.admit(names, 1)
        if decision.admitted:
            os.write(out, b".")
        elif decision.rule.startswith("shared"):
            await asyncio.sleep(min(decision.retry_after, 0.05))
        else:
            stubborn -= 1
            await asyncio.sleep(0.01)
    await ledger.close()


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
