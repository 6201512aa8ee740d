"""The monitor on customers who behave like customers: false alarms, detections, leak, cost; peers in the same run.

    python benchmarks/monitor.py --part NAME [--set letters|spam|ticdata|satellite] [--seed N]

Parts: false-alarms (one calibration per seed), detection, theft, leak, cost; tables prints what has been made so far.
Each part takes minutes and keeps its figures in .bench/monitor/. Designs were fixed on letters.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from typing import Any

import numpy as np
from common import heading, one_thread, row

from portfolio import CACHE, OUTSIDE, PORTFOLIO, THIEVES, World, behaviours, customer, diluted, queries

#: the model that is served, and how long accounts live; satellite was never looked at before its one run
SETS = {
    "letters": ("logistic", 512),
    "spam": ("boosting", 512),
    "ticdata": ("balanced-forest", 512),
    "satellite": ("forest", 512),
}
ACCOUNTS, TESTED, STREAMS = 2000, 2000, 20
DILUTIONS, SPLITS = (0, 1, 4, 9), (5, 20, 100)
LEVEL = 0.01
TOOL = "interactive"  # the segment that a thief would choose
SIZES = (50, 200, 800, 3200)  # of the query sets that the leak meter is held against


def exact(hits: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval."""
    from scipy.stats import beta

    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, n - hits + 1))
    return low, 1.0 if hits == n else float(beta.ppf(0.975, hits + 1, n - hits))


def world_of(name: str) -> World:
    return World(name, SETS[name][0])


def calibration(world: World, seed: int) -> Any:
    """2,000 customers of the portfolio: 400 set the scales, 1,600 are ranked."""
    from understudy.watch import Calibration, calibrate

    kept = CACHE / f"{world.name}-{seed}.calibration"
    if kept.exists():
        return Calibration.from_bytes(kept.read_bytes())
    life, rng = SETS[world.name][1], np.random.default_rng([seed, 1])
    accounts = []
    for i, behaviour in enumerate(behaviours(ACCOUNTS, rng)):
        x = customer(world, "calibration", behaviour, life, rng)
        accounts.append([queries(world, f"benign-{i}", x, PORTFOLIO[behaviour][1])])
    reference = world.rows["training"]
    made = calibrate(reference, world.answers(reference), accounts, rng, level=LEVEL, horizon=life)
    kept.write_bytes(made.to_bytes())
    return made


def stand(watch: Any, world: World, name: str, x: Any, segment: str | None = None) -> Any:
    """Where an account stands that asked `x`."""
    state = watch.fresh(name, name, segment)
    return watch.standing(watch.advance(state, queries(world, name, x, segment)))


def false_alarms(name: str, seed: int) -> Any:
    """Accounts alarmed, by behaviour: the portfolio's, and two kinds of customer that no calibration has seen."""
    from understudy.watch import Watch

    world, rng = world_of(name), np.random.default_rng([seed, 2])
    made = calibration(world, seed)
    watch = Watch(made)
    found: dict[str, list[list[float]]] = {}
    kinds = behaviours(TESTED, rng) + [kind for kind in OUTSIDE for _ in range(50)]
    for i, behaviour in enumerate(kinds):
        x = customer(world, "test", behaviour, SETS[name][1], rng)
        segment = PORTFOLIO[behaviour][1] if behaviour in PORTFOLIO else None
        s = stand(watch, world, f"test-{i}", x, segment)
        undeclared = s if segment not in made.segments else stand(watch, world, f"test-{i}", x)
        confident = made.cohort(segment).ranking.threshold(0, LEVEL, 0.95)
        # alarmed, p-value, alarmed if its segment is not declared, alarmed at the confident rank (None: too few)
        found.setdefault(behaviour, []).append(
            [
                s.alarmed_at is not None,
                s.p_value,
                undeclared.alarmed_at is not None,
                None if confident is None else s.z > confident,
            ]
        )
    segments = {name: cohort.ranking.accounts for name, cohort in made.segments.items()}
    return {"accounts": made.accounts, "segments": segments, "found": found}


def detection(name: str, seed: int) -> Any:
    """Every attack x dilution x split: alarms, and the queries before them."""
    from understudy.watch import Watch

    world, life = world_of(name), SETS[name][1]
    watch = Watch(calibration(world, seed))
    table: dict[str, Any] = {}
    for attack, (asked, _, _) in THIEVES.items():
        cells: dict[str, Any] = {}
        for k in DILUTIONS:
            runs = []
            for stream in range(STREAMS):
                rng = np.random.default_rng([seed, 3, stream])
                x, theirs = diluted(world, asked(world, life, rng), k, life, rng)
                s = stand(watch, world, f"{attack}-{k}-{stream}", x)
                spent = None if s.alarmed_at is None else int(theirs[: s.alarmed_at].sum())
                runs.append([s.alarmed_at, spent, s.scores[0][0]])
            cells[f"1:{k}" if k else "pure"] = runs
        runs = []
        for stream in range(STREAMS):
            x = asked(world, life, np.random.default_rng([seed, 3, stream]))
            s = stand(watch, world, f"{attack}-tool-{stream}", x[:life], TOOL)
            runs.append([s.alarmed_at, s.alarmed_at, s.scores[0][0]])
        cells["as a tool"] = runs
        for accounts in SPLITS:
            runs = []
            for stream in range(max(1, STREAMS // 5)):
                rng = np.random.default_rng([seed, 4, stream])
                x = asked(world, 600, rng)
                for a in range(accounts):
                    s = stand(watch, world, f"{attack}-{accounts}-{stream}-{a}", x[a::accounts])
                    runs.append([s.alarmed_at, s.alarmed_at, s.scores[0][0]])
            cells[f"split {accounts}"] = runs
        table[attack] = cells
    return table


def theft(name: str, seed: int) -> Any:
    """Queries of each blatant attack until the best of three thieves agrees to 90 % with the model."""
    world, rng = world_of(name), np.random.default_rng([seed, 5])
    held = world.rows["held"]
    truth = world.probabilities(held).argmax(1)
    sizes = (10, 12, 14, 16, 17, 18, 20, 25, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1200, 2000)
    found: dict[str, Any] = {}
    for attack, (asked, _, blatant) in THIEVES.items():
        if not blatant:
            continue
        x, curve = asked(world, sizes[-1], rng), []
        for size in sizes:
            best = max(thieves(world, x[:size], held, truth).values())
            curve.append([size, best])
            if best >= 0.9:
                break
        found[attack] = curve
    return found


def thieves(world: World, x: Any, held: Any, truth: Any, soft: bool = True) -> dict[str, float]:
    """Agreement on the hold-out of really trained copies: a linear one, a forest, boosting for trees, log-odds."""
    import warnings

    p = world.probabilities(x)
    labels, found = p.argmax(1), {"label": 0.0}
    kinds = ["logistic", "forest"] + (["boosting"] if world.kind == "boosting" else [])
    kinds += ["mlp"] if world.kind == "mlp" else []
    if len(np.unique(labels)) < 2:
        found["label"] = float((truth == labels[0]).mean())
    else:
        from portfolio import model

        for kind in kinds:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                copy = model(kind).fit(x, labels)
                found["label"] = max(found["label"], float((copy.predict(held) == truth).mean()))
    if soft:
        logs = np.log(np.maximum(p, 1e-300))
        table = np.column_stack([np.ones(len(x)), (x - world.rows["training"].mean(0)) / world.sd])
        wide = np.column_stack([np.ones(len(held)), (held - world.rows["training"].mean(0)) / world.sd])
        solved = np.linalg.lstsq(table, logs - logs.mean(1, keepdims=True), rcond=1e-9)[0]
        found["probability"] = max(found["label"], float(((wide @ solved).argmax(1) == truth).mean()))
    return found


def leak(name: str, seed: int, kind: str | None = None) -> Any:
    """The meter beside thieves trained on the same queries: twelve attacks and seven kinds of customer, four sizes."""
    from understudy.leak import LeakMeter

    world, rng = World(name, kind or SETS[name][0]), np.random.default_rng([seed, 6])
    reference, held = world.rows["training"], world.rows["held"]
    truth = world.probabilities(held).argmax(1)
    meter = LeakMeter.fit(reference, world.answers(reference), rng, held_out=(held, world.answers(held)))
    makers: dict[str, Any] = {attack: THIEVES[attack][0] for attack in THIEVES}
    for behaviour in ("iid", "mix", "one-cluster", "corrections", "what-if", "drift", "unseen-clusters"):
        makers[f"customer: {behaviour}"] = lambda w, n, r, b=behaviour: customer(w, "test", b, n, r)
    raw, real, families, sizes = [], [], [], []
    for family, asked in makers.items():
        x = asked(world, SIZES[-1], rng)
        for size in SIZES:
            part, sketch = x[:size], meter.sketch()
            sketch.add(part, world.answers(part))
            raw.append(meter.raw(sketch))
            real.append(thieves(world, part, held, truth))
            families.append(family)
            sizes.append(size)
    told = meter.calibrated(raw, real, sizes, families)
    return {
        "kind": world.kind,
        "raw": raw,
        "real": real,
        "families": families,
        "sizes": sizes,
        "errors": {b: t.error for b, t in told.truths.items()},
    }


def cost(name: str, seed: int) -> Any:
    """CPU per query at 50,000 queries of history, in batches of 4,096 over accounts, and bytes per account."""
    from dataclasses import replace

    from understudy.leak import LeakMeter
    from understudy.watch import Watch

    world, rng = world_of(name), np.random.default_rng([seed, 7])
    made, reference = calibration(world, seed), world.rows["training"]
    found: dict[str, Any] = {"d": world.d, "K": world.outputs}
    for with_leak in (False, True):
        meter = LeakMeter.fit(reference, world.answers(reference), rng) if with_leak else None
        watch = Watch(replace(made, leak=meter))
        state, chunk = watch.fresh("heavy", "heavy"), 4096
        for _ in range(12):  # 49,152 queries of history
            part = queries(world, "heavy", customer(world, "test", "mix", chunk, rng))
            watch.advance(state, part)
        size = len(state.to_bytes())
        parts = [queries(world, "heavy", customer(world, "test", "mix", chunk, rng)) for _ in range(4)]
        start = time.process_time()
        for part in parts:
            watch.advance(state, part, watch.features([part]))
        spent = (time.process_time() - start) / (4 * chunk) * 1e6
        many = [queries(world, f"m{i}", customer(world, "test", "mix", 64, rng)) for i in range(64)]
        states = [watch.fresh(q.principal, q.party) for q in many]
        start = time.process_time()
        features = watch.features(many)
        for i, (one, part) in enumerate(zip(states, many, strict=True)):
            watch.advance(one, part, features[64 * i : 64 * i + 64])
        spread = (time.process_time() - start) / (64 * 64) * 1e6
        found["with leak" if with_leak else "scores"] = [spent, spread, size]
    return found


PARTS = {"false-alarms": false_alarms, "detection": detection, "theft": theft, "leak": leak, "cost": cost}


def kept(part: str, name: str, seed: int) -> Any:
    path = CACHE / f"{part}-{name}-{seed}.json"
    return json.loads(path.read_text()) if path.exists() else None


def expected(ranked: list[int], tested: list[int]) -> tuple[float, float, float, float]:
    """What exact ranks give in one calibration: mean share alarmed, 95 % of calibrations, chance of more than 2 %.

    Given a calibration, an account of a cohort is alarmed with a probability that is Beta over calibrations; the
    accounts tested add a binomial.
    """
    rng, total = np.random.default_rng(0), np.zeros(200_000)
    for m, n in zip(ranked, tested, strict=True):
        k = math.ceil((m + 1) * (1 - LEVEL) - 1e-9)
        total += rng.binomial(n, rng.beta(m + 1 - k, k, len(total)))
    share = total / sum(tested)
    low, high = np.quantile(share, [0.025, 0.975])
    return float(share.mean()), float(low), float(high), float((share > 0.02).mean())


def print_false_alarms(name: str) -> None:
    runs = [r for seed in range(5) if (r := kept("false-alarms", name, seed))]
    if not runs:
        return
    first = runs[0]
    own = ", ".join(f"{segment} ({n})" for segment, n in first["segments"].items())
    print(f"\n**{name}**: {len(runs)} calibrations; ranked in the first: {first['accounts']} in common, {own}\n")
    print(
        heading("", "accounts", "alarmed at 1 %", "exact 95 %", "if not declared", "p <= 0.1 %", "95 % confident rank")
    )
    rows = {k: [a for r in runs for a in r["found"].get(k, [])] for k in [*PORTFOLIO, *OUTSIDE]}
    inside = [a for k in PORTFOLIO for a in rows[k]]
    for kind, found in [("portfolio", inside), *rows.items()]:
        if not found:
            continue
        hits, undeclared = sum(bool(a[0]) for a in found), sum(bool(a[2]) for a in found)
        low, high = exact(hits, len(found))
        declared = PORTFOLIO[kind][1] if kind in PORTFOLIO else None
        alone = kind == "portfolio" or declared in first["segments"]
        sure = [a[3] for a in found if a[3] is not None]
        print(
            row(
                f"{kind} (declared {declared})" if declared else kind,
                len(found),
                f"{hits} ({100 * hits / len(found):.1f} %)",
                f"{100 * low:.1f}-{100 * high:.1f} %",
                undeclared if alone else "",
                sum(a[1] <= LEVEL / 10 for a in found),
                f"{sum(map(bool, sure))} of {len(sure)}" if sure else "too few ranked",
            )
        )
    per = [[bool(a[0]) for k in PORTFOLIO for a in r["found"].get(k, [])] for r in runs]
    tested = {
        s: sum(len(first["found"].get(k, [])) for k in PORTFOLIO if PORTFOLIO[k][1] == s) for s in first["segments"]
    }
    mean, low, high, over = expected(
        [first["accounts"], *first["segments"].values()], [TESTED - sum(tested.values()), *tested.values()]
    )
    print(
        f"\nper calibration: {', '.join(f'{100 * np.mean(p):.2f} %' for p in per)}; of exact ranks one expects "
        f"{100 * mean:.2f} % ({100 * low:.2f}-{100 * high:.2f} % in 95 of 100), over 2 % in {100 * over:.1f} of 100"
    )


def print_detection(name: str) -> None:
    runs = [r for seed in range(5) if (r := kept("detection", name, seed))]
    if not runs:
        return
    columns = [f"1:{k}" if k else "pure" for k in DILUTIONS] + ["as a tool"] + [f"split {n}" for n in SPLITS]
    n = STREAMS * len(runs)
    print(f"\n**{name}**: share of accounts alarmed (median queries to the alarm, benign ones included), ", end="")
    print(
        f"{n} streams over {len(runs)} calibrations: 100 % is at least {100 * exact(n, n)[0]:.0f} %, 0 at most ", end=""
    )
    print(f"{100 * exact(0, n)[1]:.0f} %; else in brackets\n")
    print(heading("attack", *columns))
    for attack in runs[0]:
        print(row(attack, *(cell([r for run in runs for r in run[attack][column]]) for column in columns)))


def cell(runs: list[Any]) -> str:
    at = [math.inf if a is None else a for a, *_ in runs]
    hits, middle = sum(map(math.isfinite, at)), statistics.median_low(at)
    if not hits:
        return "0"
    low, high = exact(hits, len(at))
    between = "" if hits == len(at) else f" [{100 * low:.0f}-{100 * high:.0f}]"
    return f"{100 * hits / len(at):.0f} %{between} ({middle if math.isfinite(middle) else '-'})"


def print_theft(name: str) -> None:
    curves, runs = kept("theft", name, 0), [r for seed in range(5) if (r := kept("detection", name, seed))]
    if not curves or not runs:
        return
    print(f"\n**{name}**: share of a real theft (90 % agreement) done at the alarm, pure\n")
    print(heading("attack", "queries to 90 %", "median queries to the alarm", "share"))
    for attack, curve in curves.items():
        size, best = curve[-1]
        at = statistics.median_low(a if a is not None else math.inf for run in runs for a, *_ in run[attack]["pure"])
        reached = best >= 0.9
        print(
            row(
                attack,
                f"<= {size}" if reached else f"never ({best:.2f} at {size})",
                at,
                f"{100 * at / size:.0f} %" if reached else "no theft",
            )
        )


def print_leak() -> None:
    from scipy.stats import spearmanr

    print("\n**Leak meter** beside trained substitutes\n")
    print(heading("set, model", "bracket", "query sets", "Spearman", "error on families left out", "largest shortfall"))
    for path in sorted(CACHE.glob("leak-*.json")):
        told = json.loads(path.read_text())
        for bracket, error in told["errors"].items():
            raw, real = (np.array([r[bracket] for r in told[k]]) for k in ("raw", "real"))
            print(
                row(
                    f"{path.name.split('-')[1]}, {told['kind']}",
                    bracket,
                    len(raw),
                    f"{spearmanr(raw, real).statistic:.3f}",
                    f"{error:.3f}",
                    f"{(real - raw).max():.2f}",
                )
            )


def print_cost() -> None:
    print("\n**Cost** at 50,000 queries of history\n")
    print(heading("set", "d, K", "", "us of CPU per query, one account", "64 accounts of 64 queries", "bytes of state"))
    for name in SETS:
        if told := kept("cost", name, 0):
            for what in ("scores", "with leak"):
                one, many, size = told[what]
                print(row(name, f"{told['d']}, {told['K']}", what, f"{one:.0f}", f"{many:.0f}", f"{size:,}"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", default="tables", choices=[*PARTS, "tables"])
    parser.add_argument("--set", default="letters", choices=SETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", choices=["logistic", "boosting", "forest", "mlp"], help="of the part leak")
    given = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    if given.part == "tables":
        for name in SETS:
            print_false_alarms(name)
            print_detection(name)
            print_theft(name)
        print_leak()
        print_cost()
        return
    start = time.process_time()
    options = [given.model] if given.part == "leak" and given.model else []
    found = PARTS[given.part](given.set, given.seed, *options)
    kept_as = CACHE / f"{given.part}-{given.set}-{'-'.join([*options, str(given.seed)])}.json"
    kept_as.write_text(json.dumps(found, default=float))
    print(f"{given.part}, {given.set}, seed {given.seed}: {time.process_time() - start:.0f} s of CPU")


if __name__ == "__main__":
    one_thread()
    main()
