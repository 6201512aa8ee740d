"""The monitor on texts and on images: false alarms, detections, cost.

    python benchmarks/monitor_forms.py --set glosses|verbs|mnist|digits --part NAME [--seed N]

Parts: false-alarms (one calibration per seed), detection, cost; tables prints what has been made of a set so far.
Each part takes a minute or two and keeps its figures in .bench/forms/. Designs were fixed on verbs and digits; glosses
and mnist were run at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import heading, one_thread, row
from monitor import exact

CACHE = Path(".bench/forms")
ACCOUNTS, TESTED, STREAMS = 2000, 1000, 20
DILUTIONS, SPLITS = (0, 1, 4, 9), (5, 20)
LEVEL = 0.01


def world_of(name: str) -> Any:
    import portfolio_images
    import portfolio_text

    return (portfolio_images if name in ("mnist", "digits") else portfolio_text).World(name)


def behaviours(world: Any, n: int, rng: Any) -> list[str]:
    """`n` behaviours in the portfolio's proportions."""
    names = list(world.portfolio)
    return [names[k] for k in rng.choice(len(names), n, p=[world.portfolio[name][0] for name in names])]


def queries(world: Any, name: str, x: Any, segment: str | None = None) -> Any:
    """The inputs as queries of one account, a minute apart."""
    from understudy.watch import Queries

    return Queries(name, name, 1.7e9 + 60.0 * np.arange(len(x)), x, world.answers(x), segment=segment)


def calibration(world: Any, seed: int) -> Any:
    """2,000 customers of the portfolio: 400 set the scales, 1,600 are ranked."""
    from understudy.watch import Calibration, calibrate

    kept = CACHE / f"{world.name}-{seed}.calibration"
    if kept.exists():
        return Calibration.from_bytes(kept.read_bytes())
    rng = np.random.default_rng([seed, 1])
    accounts = (
        [queries(world, f"b{i}", world.customer("calibration", kind, world.life, rng), world.portfolio[kind][1])]
        for i, kind in enumerate(behaviours(world, ACCOUNTS, rng))
    )
    reference = world.rows["training"]
    made = calibrate(reference, world.answers(reference), accounts, rng, level=LEVEL, horizon=world.life)
    kept.write_bytes(made.to_bytes())
    return made


def stand(watch: Any, world: Any, name: str, x: Any, segment: str | None = None) -> Any:
    """Where an account stands that asked `x`."""
    return watch.standing(watch.advance(watch.fresh(name, name, segment), queries(world, name, x, segment)))


def false_alarms(world: Any, seed: int) -> Any:
    """Accounts alarmed, by behaviour: the portfolio's, and customers that no calibration has seen."""
    from understudy.watch import Watch

    made, rng = calibration(world, seed), np.random.default_rng([seed, 2])
    watch, found = Watch(made), dict[str, list[list[Any]]]()
    kinds = behaviours(world, TESTED, rng) + [kind for kind in world.outside for _ in range(20)]
    for i, kind in enumerate(kinds):
        x = world.customer("test", kind, world.life, rng)
        s = stand(watch, world, f"test-{i}", x, world.portfolio.get(kind, (0, None))[1])
        found.setdefault(kind, []).append([s.alarmed_at is not None, s.p_value, s.scores[0][0]])
    own = {name: cohort.ranking.accounts for name, cohort in made.segments.items()}
    return {"accounts": made.accounts, "segments": own, "found": found}


def detection(world: Any, seed: int) -> Any:
    """Every attack x dilution x split: alarms, the queries before them, and the loudest score."""
    from understudy.watch import Watch

    watch, table = Watch(calibration(world, seed)), dict[str, Any]()
    for attack, asked in world.thieves.items():
        cells: dict[str, Any] = {}
        for k in DILUTIONS:
            runs = []
            for stream in range(STREAMS):
                rng = np.random.default_rng([seed, 3, stream])
                x = asked(world, world.life, rng)
                if k:
                    theirs = rng.random(world.life) < 1 / (1 + k)
                    mixed = world.customer("test", "mix", world.life, rng)
                    mixed[theirs] = x[: int(theirs.sum())]
                    x = mixed
                s = stand(watch, world, f"{attack}-{k}-{stream}", x)
                runs.append([s.alarmed_at, s.scores[0][0]])
            cells[f"1:{k}" if k else "pure"] = runs
        for accounts in SPLITS:
            runs = []
            for stream in range(STREAMS // 5):
                x = asked(world, 4 * world.life, np.random.default_rng([seed, 4, stream]))
                for a in range(accounts):
                    s = stand(watch, world, f"{attack}-{accounts}-{stream}-{a}", x[a::accounts])
                    runs.append([s.alarmed_at, s.scores[0][0]])
            cells[f"split {accounts}"] = runs
        table[attack] = cells
    return table


def cost(world: Any, seed: int) -> Any:
    """CPU per query after 4,096 queries of history, the model's own apart, and bytes per account."""
    from understudy.watch import Watch

    watch, rng = Watch(calibration(world, seed)), np.random.default_rng([seed, 7])
    state = watch.fresh("heavy", "heavy")
    parts = [queries(world, "heavy", world.customer("test", "mix", 1024, rng)) for _ in range(8)]
    for part in parts[:4]:
        watch.advance(state, part)
    start = time.process_time()
    for part in parts[4:]:
        watch.advance(state, part)
    together = (time.process_time() - start) / 4096 * 1e6
    many = [queries(world, f"m{i}", world.customer("test", "mix", 64, rng)) for i in range(64)]
    states = [watch.fresh(q.principal, q.party) for q in many]
    start = time.process_time()
    features = watch.features(many)
    for i, (one, part) in enumerate(zip(states, many, strict=True)):
        watch.advance(one, part, features[64 * i : 64 * i + 64])
    spread = (time.process_time() - start) / 4096 * 1e6
    single = [parts[0].take(slice(i, i + 1)) for i in range(256)]
    start = time.process_time()
    for part in single:
        watch.advance(state, part)
    alone = (time.process_time() - start) / 256 * 1e6
    return [together, spread, alone, len(state.to_bytes()), len(watch.calibration.to_bytes())]


def trained(world: Any, x: Any, held: Any, truth: Any) -> dict[str, float]:
    """Agreement on the hold-out of copies really trained on TF-IDF: a logistic one, and ridge on log-odds."""
    import warnings

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge

    p = world.probabilities(x)
    labels, words = p.argmax(1), TfidfVectorizer(sublinear_tf=True)
    rows, logs = words.fit_transform(x), np.log(np.maximum(p, 1e-9))
    judged, found = words.transform(held), {"label": float((truth == labels[0]).mean())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that training could go on is no news
        if len(np.unique(labels)) > 1:
            copy = LogisticRegression(C=10, max_iter=60, tol=1e-2).fit(rows, labels)
            found["label"] = float((copy.predict(judged) == truth).mean())
        fit = Ridge(alpha=0.3, solver="sparse_cg", tol=1e-2).fit(rows, logs - logs.mean(1, keepdims=True))
    found["probability"] = max(found["label"], float((fit.predict(judged).argmax(1) == truth).mean()))
    return found


def leak(world: Any, seed: int) -> Any:
    """Of texts: the meter beside thieves trained on the same queries, of every attack and seven kinds of customer."""
    from understudy.leak import LeakMeter

    rng, held = np.random.default_rng([seed, 6]), world.rows["held"][:1000]
    truth = world.probabilities(held).argmax(1)
    reference = world.rows["training"]
    meter = LeakMeter.fit(reference, world.answers(reference), rng, held_out=(held, world.answers(held)))
    makers = dict(world.thieves)
    for behaviour in ("iid", "mix", "one-cluster", "typing-edits", "templates", "drift", "unseen-clusters"):
        makers[f"customer: {behaviour}"] = lambda w, n, r, b=behaviour: w.customer("test", b, n, r)
    raw, real, sizes, families, held_by = [], [], [], [], 0
    for family, asked in makers.items():
        x = asked(world, 800, rng)
        for size in (50, 200, 800):
            sketch = meter.sketch()
            sketch.add(x[:size], world.answers(x[:size]))
            raw.append(meter.raw(sketch))
            real.append(trained(world, x[:size], held, truth))
            sizes.append(size)
            families.append(family)
            held_by = len(sketch.to_bytes())
    told = meter.calibrated(raw, real, sizes, families)
    return {"raw": raw, "real": real, "errors": {b: t.error for b, t in told.truths.items()}, "bytes": held_by}


PARTS = {"false-alarms": false_alarms, "detection": detection, "cost": cost, "leak": leak}


def kept(part: str, name: str, seed: int) -> Any:
    path = CACHE / f"{part}-{name}-{seed}.json"
    return json.loads(path.read_text()) if path.exists() else None


def print_false_alarms(world: Any) -> None:
    runs = [r for seed in range(5) if (r := kept("false-alarms", world.name, seed))]
    if not runs:
        return
    print(
        f"\n**{world.name}**: {len(runs)} calibrations, {runs[0]['accounts']} accounts ranked together; by themselves "
        f"{', '.join(f'{s} ({n})' for s, n in runs[0]['segments'].items()) or 'none'}; {world.life} queries each\n"
    )
    print(heading("", "accounts", "alarmed at 1 %", "exact 95 %", "p <= 0.1 %", "loudest score of those alarmed"))
    rows = {kind: [a for r in runs for a in r["found"].get(kind, [])] for kind in (*world.portfolio, *world.outside)}
    inside = [a for kind in world.portfolio for a in rows[kind]]
    for kind, found in [("portfolio", inside), *rows.items()]:
        if found:
            alarmed = [a for a in found if a[0]]
            low, high = exact(len(alarmed), len(found))
            declared = world.portfolio.get(kind, (0, None))[1]
            loud = statistics.mode(a[2] for a in alarmed) if alarmed else ""
            print(
                row(
                    kind + (f" (declared {declared})" if declared else ""),
                    len(found),
                    f"{len(alarmed)} ({100 * len(alarmed) / len(found):.1f} %)",
                    f"{100 * low:.1f}-{100 * high:.1f} %",
                    sum(a[1] <= LEVEL / 10 for a in found),
                    loud,
                )
            )
    shares = []
    for r in runs:
        hits = [bool(a[0]) for kind in world.portfolio for a in r["found"].get(kind, [])]
        shares.append(f"{100 * sum(hits) / len(hits):.1f} %")
    print(f"\nper calibration: {', '.join(shares)}")


def print_detection(world: Any) -> None:
    table = kept("detection", world.name, 0)
    if not table:
        return
    columns = [f"1:{k}" if k else "pure" for k in DILUTIONS] + [f"split {n}" for n in SPLITS]
    print(f"\n**{world.name}**: share of accounts alarmed (median queries to the alarm, benign ones included)\n")
    print(heading("attack", *columns, "loudest, pure"))
    for attack, cells in table.items():
        shown = []
        for column in columns:
            at = [a if a is not None else math.inf for a, _ in cells[column]]
            hits, middle = sum(map(math.isfinite, at)), statistics.median_low(at)
            told = f"{100 * hits / len(at):.0f} % ({middle if math.isfinite(middle) else '-'})" if hits else "0"
            shown.append(told)
        alarmed = [loud for a, loud in cells["pure"] if a is not None]
        print(row(attack, *shown, statistics.mode(alarmed) if alarmed else ""))


def print_cost(world: Any) -> None:
    if told := kept("cost", world.name, 0):
        print(f"\n**{world.name}**: cost\n")
        print(
            heading("us of CPU per query, 1,024 at once", "64 accounts of 64", "one at a time", "state", "calibration")
        )
        print(row(*(f"{t:.0f}" for t in told[:3]), f"{told[3]:,} bytes", f"{told[4]:,} bytes"))


def print_leak(world: Any) -> None:
    from scipy.stats import spearmanr

    if told := kept("leak", world.name, 0):
        print(f"\n**{world.name}**: leak meter beside trained copies; its sketch takes {told['bytes']:,} bytes\n")
        print(heading("bracket", "query sets", "Spearman", "error on families left out", "largest shortfall"))
        for bracket, error in told["errors"].items():
            raw, real = (np.array([r[bracket] for r in told[k]]) for k in ("raw", "real"))
            rank = f"{spearmanr(raw, real).statistic:.3f}"
            print(row(bracket, len(raw), rank, f"{error:.3f}", f"{(real - raw).max():.2f}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="tables", choices=[*PARTS, "tables"])
    parser.add_argument("--set", default="glosses", choices=["glosses", "verbs", "mnist", "digits"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    world = world_of(given.set)
    if given.part == "tables":
        print_false_alarms(world)
        print_detection(world)
        print_cost(world)
        print_leak(world)
        return
    start = time.process_time()
    found = PARTS[given.part](world, given.seed)
    (CACHE / f"{given.part}-{given.set}-{given.seed}.json").write_text(json.dumps(found, default=float))
    print(f"{given.part}, {given.set}, seed {given.seed}: {time.process_time() - start:.0f} s of CPU")


if __name__ == "__main__":
    one_thread()
    main()
