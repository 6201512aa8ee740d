"""How queries and CPU seconds of the exact attacks grow with what they are up against: a table, and a picture of it.

    python benchmarks/exact_growth.py [attack ...]      all by default; writes docs/images/growth.svg

Each line of the picture grows one thing and leaves the others as they are; three seeds each, medians. The fewest
queries possible are unknowns over numbers per answer; for trees, whose answers tell leaves apart, bits in the tree (per
cut log2 d for its column and 23 for its number), one a query; for boosted trees one query per term. CPU is that of
attack and target together, as a ratio to that of the smallest size. Runs are kept in .bench/growth.json and not made
twice.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from common import heading, meter, one_thread, row

ROOT = Path(__file__).resolve().parent.parent
KEPT, PICTURE = ROOT / ".bench" / "growth.json", ROOT / "docs" / "images" / "growth.svg"
SEEDS, BUDGET = (0, 1, 2), 300_000
Size = tuple[int, ...]

#: Per attack: what grows, and the sizes; the first of each line is the smallest.
GROWTH: dict[str, dict[str, list[Size]]] = {
    "equation-solving": {
        "inputs": [(26, 5), (105, 5), (420, 5)],
        "classes": [(105, 3), (105, 6), (105, 12), (105, 24)],
    },
    "path-finding": {
        "leaves": [(10, 20), (10, 50), (10, 200), (10, 500)],
        "inputs": [(10, 50), (30, 50), (100, 50), (300, 50)],
    },
    "additive-steps": {
        "trees": [(30, 25, 2), (30, 50, 2), (30, 100, 2)],
        "depth": [(30, 50, 1), (30, 50, 2), (30, 50, 3)],
        "inputs": [(5, 50, 2), (10, 50, 2), (30, 50, 2)],
    },
    "hessian-diagonalisation": {
        "inputs": [(26, 20, 5), (105, 20, 5), (420, 20, 5)],
        "units": [(105, 5, 5), (105, 10, 5), (105, 20, 5)],
        "classes": [(105, 20, 3), (105, 20, 5), (105, 20, 10)],
    },
    "critical-points": {
        "inputs": [(64, 32, 10), (256, 32, 10), (784, 32, 10)],
        "units": [(64, 8, 10), (64, 32, 10), (64, 128, 10)],
        "classes": [(64, 32, 2), (64, 32, 10), (64, 32, 30)],
    },
    "critical-points-deep": {
        "inputs": [(16, 16, 16, 10), (32, 16, 16, 10), (64, 16, 16, 10)],
        "units, 1st layer": [(64, 8, 16, 10), (64, 12, 16, 10), (64, 16, 16, 10)],
        "units, 2nd layer": [(64, 16, 8, 10), (64, 16, 16, 10), (64, 16, 24, 10)],
    },
    "stationarity": {"inputs": [(10,), (40,), (160,), (640,)]},
}
WHICH = {"inputs": 0, "classes": -1, "leaves": 1, "trees": 1, "depth": 2, "units": 1}
DEEP = {"units, 1st layer": 1, "units, 2nd layer": 2}
NAMES = {"stationarity": "stationarity (ridge), with its solver"}


def victim(attack: str, size: Size, seed: int) -> tuple[Any, str, int, Any, Any]:
    """(call, signal, outputs, space, the attacker's rows with their truth or None)."""
    import exact_boosting
    import exact_relu
    import exact_relu_deep
    import exact_smooth

    import understudy as us
    from understudy.targets.linear import softmax

    rng, d = np.random.default_rng([seed, *size]), size[0]
    anywhere = us.Box(-np.inf, np.inf, (d,))
    if attack == "equation-solving":
        weights, bias = rng.normal(size=(size[1], d)), rng.normal(size=size[1])
        return lambda x: softmax(x @ weights.T + bias), "probabilities", size[1], us.Box(-1, 1, (d,)), None
    if attack == "path-finding":
        from exact_trees import leaves_told
        from sklearn.tree import DecisionTreeRegressor

        rows = rng.random((4000, d)).astype(np.float32).astype(np.float64)
        truth = np.sin(6 * rows[:, :8]).sum(1) + 0.1 * rng.normal(size=4000)
        tree = DecisionTreeRegressor(max_leaf_nodes=size[1], random_state=seed).fit(rows, truth)
        return leaves_told(tree), "value", 1, us.Box(0, 1, (d,)), None
    if attack == "additive-steps":
        call, signal, outputs, x = exact_boosting.boosted("scikit-learn", "breast cancer", size[2], seed, size[1], d)
        return call, signal, outputs, us.Box(x.min(0), x.max(0)), None
    if attack == "hessian-diagonalisation":
        model = exact_smooth.drawn(seed, size)
        return exact_smooth.probabilities(model), "probabilities", size[-1], model.space, None
    if attack == "critical-points":
        (a, b), (c, e) = exact_relu.drawn(size, seed)
        return lambda x: np.maximum(x @ a.T + b, 0) @ c.T + e, "logits", size[-1], anywhere, None
    if attack == "critical-points-deep":
        return exact_relu_deep.victim("-".join(map(str, size)), seed)[0], "logits", size[-1], anywhere, None
    from sklearn.linear_model import Ridge

    rows = rng.uniform(-1, 1, (2000, d))
    truth = rows @ rng.standard_normal(d) + 0.5 * rng.standard_normal(2000)
    return Ridge().fit(rows, truth).predict, "value", 1, us.Box(-1.01, 1.01, (d,)), (rows, truth)


def fewest(attack: str, size: Size, found: Any) -> float:
    """The count of queries that cannot be beaten, or what stands for it."""
    import exact_relu_deep

    if attack == "path-finding":
        return (size[1] - 1) * (math.log2(size[0]) + 23)
    if attack == "additive-steps":
        return float(sum(found.notes["terms"]))
    if attack == "critical-points-deep":
        return exact_relu_deep.least("-".join(map(str, size)), "logits")
    if len(size) == 3:
        d, h, c = size
        k = c - (attack == "hessian-diagonalisation")
        return (h * (d + 1) + k * (h + 1)) / k
    return size[0] + 1.0


def run(attack: str, size: Size, seed: int) -> dict[str, Any]:
    from understudy import registry
    from understudy.endpoint import ArrayPool

    call, signal, outputs, space, known = victim(attack, size, seed)
    target = meter(call, signal, outputs, space, BUDGET)
    pool = ArrayPool(np.zeros((0, size[0]))) if known is None else ArrayPool(*known)
    clock = time.process_time()
    *_, found = registry.create("attacks", attack).run(target, pool, np.random.default_rng(seed))
    clock = time.process_time() - clock
    exact = found.verdict.value == "exact"
    return {
        "spent": target.spent,
        "cpu": clock,
        "exact": exact,
        "fewest": fewest(attack, size, found) if exact else None,
    }


def measured(attacks: list[str]) -> dict[str, Any]:
    """Every run of these attacks, made or kept."""
    KEPT.parent.mkdir(exist_ok=True)
    runs: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for attack in attacks:
        for size in sorted({size for sizes in GROWTH[attack].values() for size in sizes}):
            for seed in SEEDS:
                key = f"{attack} {'-'.join(map(str, size))} {seed}"
                if key not in runs:
                    runs[key] = run(attack, size, seed)
                    KEPT.write_text(json.dumps(runs))
    return runs


def lines(attack: str, runs: dict[str, Any]) -> Iterator[tuple[str, list[int], list[dict[str, Any]]]]:
    """(what grows, its sizes, per size the medians over the exact runs and their number)."""
    for what, sizes in GROWTH[attack].items():
        points = []
        for size in sizes:
            all_runs = [runs[f"{attack} {'-'.join(map(str, size))} {seed}"] for seed in SEEDS]
            good = [r for r in all_runs if r["exact"]]
            middle = {
                k: statistics.median(r[k] for r in good) if good else math.nan for k in ("spent", "cpu", "fewest")
            }
            points.append(middle | {"size": size, "good": len(good)})
        yield what, [size[(WHICH | DEEP)[what]] for size in sizes], points


def table(attacks: list[str], runs: dict[str, Any]) -> None:
    print(heading("attack", "grows", "size", "queries", "fewest", "ratio", "CPU, to the smallest", "exact"))
    for attack in attacks:
        for what, sizes, points in lines(attack, runs):
            for size, p in zip(sizes, points, strict=True):
                ratio, cpu = p["spent"] / p["fewest"], p["cpu"] / points[0]["cpu"]
                cells = (f"{p['spent']:,.0f}", f"{p['fewest']:,.0f}", f"{ratio:.2f}", f"{cpu:.1f}")
                print(row(attack, what, size, *cells, f"{p['good']} of {len(SEEDS)}"))


def draw(runs: dict[str, Any]) -> str:
    """Two panels per attack, both axes logarithmic: queries with the fewest possible, and CPU."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from understudy.renderers import _svg as svg

    looks = (("blue", "o", "-"), ("red", "s", (0, (6, 1.5))), ("green", "^", (0, (3, 1))))
    with svg.style():
        figure = Figure(figsize=(10.4, 11.2), layout="constrained")
        grid = figure.subplots(4, 4)
        for i, attack in enumerate(GROWTH):
            queries, cpu = grid[i // 2, 2 * (i % 2) : 2 * (i % 2) + 2]
            for (what, sizes, points), (colour, mark, dash) in zip(lines(attack, runs), looks, strict=False):
                times = [size / sizes[0] for size in sizes]
                style = {"color": svg.INK[colour], "marker": mark, "ms": 4.5, "lw": 1.6, "ls": dash}
                label = f"{what} {sizes[0]} to {sizes[-1]}"
                queries.plot(times, [p["spent"] for p in points], label=label, **style)
                queries.plot(times, [p["fewest"] for p in points], color=svg.INK[colour], lw=1, ls=(0, (1, 2)))
                cpu.plot(times, [p["cpu"] / points[0]["cpu"] for p in points], **style)
            queries.set_title(NAMES.get(attack, attack), loc="left", fontweight="bold", size=9.5)
            for axes, label in ((queries, "queries"), (cpu, "CPU, times the smallest")):
                axes.set(xscale="log", yscale="log", ylabel=label, xlabel="size, times the smallest")
                axes.grid(color=svg.INK["line"], lw=0.7)
                _plain(axes.xaxis, *axes.get_xlim())
                _plain(axes.yaxis, *axes.get_ylim())
            low, high = queries.get_ylim()
            queries.set_ylim(low, high * (high / low) ** (0.16 * len(GROWTH[attack])))  # room for the key
            _plain(queries.yaxis, *queries.get_ylim())
            queries.legend(loc="upper left", handlelength=2.4, borderaxespad=0.1, labelspacing=0.25, fontsize=8)
        left, right = grid[-1, -2:]
        for axes in (left, right):
            axes.set_axis_off()
        ink = {"color": svg.INK["ink"]}
        key = [
            Line2D([], [], marker="o", ms=4.5, lw=1.6, **ink),
            Line2D([], [], lw=1, ls=(0, (1, 2)), **ink),
        ]
        left.legend(key, ["measured, median of 3 seeds", "fewest queries possible"], loc="center left", fontsize=9)
        drawn = svg.save(figure, "Queries and CPU of each exact attack against the size of what it attacks, log-log")
    css = resources.files("understudy.renderers").joinpath("templates/report.css").read_text().splitlines()[:2]
    ground = '<rect width="100%" height="100%" style="fill: var(--card)"/>'
    return drawn.replace("</title>", f"</title><style>{' '.join(css)}</style>{ground}", 1) + "\n"


def _plain(axis: Any, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, in plain digits; powers of ten alone where those would be many."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    if len(ticks) > 6:
        ticks = [t for t in ticks if f"{t:e}"[0] == "1"]
    axis.set_ticks(ticks, [f"{t:,.10g}" for t in ticks])
    axis.set_ticks([], minor=True)


def main() -> None:
    attacks = sys.argv[1:] or list(GROWTH)
    runs = measured(attacks)
    table(attacks, runs)
    if attacks == list(GROWTH):
        PICTURE.write_text(draw(runs), encoding="utf-8")


if __name__ == "__main__":
    one_thread()
    main()
