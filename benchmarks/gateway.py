"""What guarding costs: requests per second, CPU, latency and memory, beside nginx, a bare pass-through and LiteLLM.

    python benchmarks/gateway.py                  # everything but memory: about 6 minutes
    python benchmarks/gateway.py --quick          # one pass, without LiteLLM: half a minute
    python benchmarks/gateway.py --memory --requests 500000 --principals 100000

Installs what it needs: wrk and nginx-light from Debian, environments of its own under `.bench/`. One worker runs on
core 0, the upstream and wrk on core 1; the passes over all stacks take turns, and each figure is the median over them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))
from serving.measure import Rate, latency, rate, sync
from serving.stacks import SIZES, WORK, Stack, all_stacks, prepare, versions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--no-litellm", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--requests", type=int, default=500_000)
    parser.add_argument("--principals", type=int, default=100_000)
    options = parser.parse_args()
    if options.memory:
        from serving.memory import grow

        return grow(options.requests, options.principals)
    if options.quick:
        options.passes, options.seconds, options.no_litellm = 1, 1.0, True
    prepare(not options.no_litellm)
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    with all_stacks(tuple(options.workers), not options.no_litellm) as stacks:
        os.sched_setaffinity(0, {1})
        rates, waits = measure(stacks, options.passes, options.seconds)
    table(rates)
    if 1 in options.workers:  # one connection is one worker's affair
        latencies(waits)
    return 0


Rates = dict[tuple[str, int, str], list[Rate]]
Waits = dict[tuple[str, str], list[float]]


def measure(stacks: list[Stack], passes: int, seconds: float) -> tuple[Rates, Waits]:
    """All stacks in turn, several times over. Every number goes to `figures.jsonl` as it is taken."""
    rates: Rates = defaultdict(list)
    waits: Waits = defaultdict(list)
    kept = (WORK / "figures.jsonl").open("w")
    for turn in range(passes):
        for stack in stacks:
            slow = stack.name == "LiteLLM"
            for size in SIZES:
                found = rate(stack, size, 8.0 if slow else seconds, 8.0 if slow and not turn else 1.0)
                rates[stack.name, stack.workers, size].append(found)
                print(json.dumps([turn, stack.name, stack.workers, size, *found]), file=kept, flush=True)
        alone = {stack.name: stack for stack in stacks if stack.workers == 1 and stack.name != "LiteLLM"}
        for size in SIZES:
            took: dict[str, list[float]] = defaultdict(list)
            for _ in range(8):  # the three take turns in blocks short enough to meet the same weather
                for name, stack in alone.items():
                    took[name].append(latency(stack, size, 60))
            for name, values in took.items():
                waits[name, size].append(median(values))
            print(json.dumps([turn, "latency", size, {k: median(v) for k, v in took.items()}]), file=kept, flush=True)
        waits["disk", "sync"].append(sync())
        print(json.dumps([turn, "sync", waits["disk", "sync"][-1]]), file=kept, flush=True)
    return rates, waits


def table(rates: Rates) -> None:
    """Rates and CPU, each pass's ratio to that pass's nginx, the median over passes."""
    print("\n| stack | workers | body | requests/s | % of nginx | CPU µs/request | × nginx | × less than LiteLLM |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, workers, size), found in rates.items():
        nginx = rates["nginx proxy_pass", workers, size]
        share = median(mine.per_second / theirs.per_second * 100 for mine, theirs in zip(found, nginx, strict=True))
        cost = median(mine.cpu_us / theirs.cpu_us for mine, theirs in zip(found, nginx, strict=True))
        lite = rates.get(("LiteLLM", workers, size))
        less = median(theirs.cpu_us / mine.cpu_us for mine, theirs in zip(found, lite, strict=True)) if lite else None
        print(
            f"| {name} | {workers} | {size} | {median(f.per_second for f in found):,.0f} | {share:.2f} % "
            f"| {median(f.cpu_us for f in found):,.0f} | {cost:.1f} | {'-' if less is None else f'{less:,.0f}'} |"
        )


def latencies(waits: Waits) -> None:
    """Latency of one connection, and what guarding adds to a bare pass-through."""
    print("\n| p50, one connection, ms | " + " | ".join(SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    for name in dict.fromkeys(name for name, size in waits if size in SIZES):
        print(f"| {name} | " + " | ".join(f"{median(waits[name, size]) * 1e3:.2f}" for size in SIZES) + " |")
    added = {
        size: median(g - b for g, b in zip(waits["guard", size], waits["bare pass-through", size], strict=True))
        for size in SIZES
    }
    print("| **added by guarding** | " + " | ".join(f"{added[size] * 1e3:.2f}" for size in SIZES) + " |")
    print(f"\nThe disk keeps 4 KB in {median(waits['disk', 'sync']) * 1e3:.2f} ms (p50).")


if __name__ == "__main__":
    sys.exit(main())
