"""Networks with two hidden ReLU layers, solved from their logits: queries, and how close.

    python benchmarks/exact_relu_deep.py [networks] [fresh] [probabilities] [growth]

Victims are scikit-learn's networks, trained on real or synthetic data: 20-10-10-5 on `make_classification` (5 classes,
ten networks), 64-16-16-10 on digits (ten), 784-32-16-10 on digits enlarged to 28 x 28 pixels (five). Inputs are
unbounded, the attacker has none. Two seeds of the attack for each of the first two, one for the third. Then fresh
victims, probabilities, and how queries grow. A copy is judged by its largest error on 20,000 points, uniform
over the range of the data, and on the data itself, as a power of two.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from common import heading, meter, one_thread, row, verdict

BARS = {"20-10-10-5": (18, 3_600), "64-16-16-10": (19, 6_400), "784-32-16-10": (5, 28_000)}
SEEDS = {"20-10-10-5": (10, 2), "64-16-16-10": (10, 2), "784-32-16-10": (5, 1)}
GROWTH = (
    ("inputs", ["16-16-16-10", "32-16-16-10", "64-16-16-10"]),
    ("units of the first layer", ["64-8-16-10", "64-16-16-10", "64-32-16-10"]),
    ("units of the second layer", ["64-16-8-10", "64-16-16-10", "64-16-24-10"]),
)
CLOSE = -20  # log2 of the error of a copy that counts as exact


def data(inputs: int, seed: int) -> tuple[Any, Any]:
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits, make_classification

    if inputs == 20:
        return make_classification(2000, 20, n_informative=10, n_classes=5, random_state=seed)
    images, labels = load_digits(return_X_y=True)
    side = round(inputs**0.5)
    if side * side != inputs:
        return images[:, np.random.default_rng(0).permutation(64)[:inputs]] / 16, labels
    scale = (1, side / 8, side / 8)
    return np.clip(zoom(images.reshape(-1, 8, 8) / 16, scale, order=1), 0, 1).reshape(-1, inputs), labels


@cache
def victim(name: str, seed: int) -> tuple[Any, Any]:
    """(logits of a batch, the inputs it was trained on)."""
    from sklearn.neural_network import MLPClassifier

    inputs, *hidden, _ = map(int, name.split("-"))
    x, y = data(inputs, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged is what users' networks are
        model = MLPClassifier(hidden, random_state=seed, max_iter=100).fit(x, y)

    def logits(u: Any) -> Any:
        for w, b in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
            u = np.maximum(u @ w + b, 0)
        return u @ model.coefs_[-1] + model.intercepts_[-1]

    return logits, x


def least(name: str, signal: str) -> float:
    """Unknowns per number of an answer: a scale for every hidden unit is free."""
    d, h, g, c = map(int, name.split("-"))
    k = c - (signal == "probabilities")
    return (h * (d + 1) + g * (h + 1) + k * (g + 1) - h - g) / k


def solve(name: str, which: int, seed: int, signal: str = "logits") -> dict[str, Any]:
    import understudy as us
    from understudy import registry
    from understudy.endpoint import ArrayPool
    from understudy.targets.linear import softmax

    logits, x = victim(name, which)
    d, outputs = x.shape[1], int(name.split("-")[-1])
    call = logits if signal == "logits" else lambda u: softmax(logits(u))
    target = meter(call, signal, outputs, us.Box(-np.inf, np.inf, (d,)), 100_000)
    clock = time.process_time()
    attack = registry.create("attacks", "critical-points-deep")
    found = list(attack.run(target, ArrayPool(np.zeros((0, d))), np.random.default_rng(seed)))[-1]
    run = {"spent": target.spent, "cpu": time.process_time() - clock, "verdict": found.verdict.value}
    if found.substitute is None:
        return run | {"uniform": np.inf, "real": np.inf, "same": 0.0, "why": found.notes["reason"]}
    points = np.random.default_rng([which, 20_000]).uniform(x.min(), x.max(), (20_000, d))
    for place, u in (("uniform", points), ("real", x)):
        ours, theirs = found.substitute.query(u)["logits"], logits(u)
        run["same"] = min(run.get("same", 1.0), float((ours.argmax(1) == theirs.argmax(1)).mean()))
        if signal == "probabilities":
            ours, theirs = (z - z.mean(1, keepdims=True) for z in (ours, theirs))
        run[place] = float(np.log2(np.abs(ours - theirs).max()))
    return run


def close(run: dict[str, Any]) -> bool:
    return max(run["uniform"], run["real"]) <= CLOSE


def told(runs: Sequence[dict[str, Any]]) -> str:
    """How many refused, and how many called exact that are not."""
    refused = sum(run["verdict"] != "exact" for run in runs)
    wrong = sum(run["verdict"] == "exact" and not close(run) for run in runs)
    return f"{refused} refused, {wrong} wrong"


def networks() -> None:
    print("Every run: queries, and the larger of log2 of the errors on uniform and on real points.\n")
    table = [
        heading("network", "exact", "not", "queries: median (range)", "error: median / worst", "fewest", "bar", "")
    ]
    print(heading("network", "victim", "seed", "verdict", "queries", "error, uniform", "error, real", "labels"))
    for name, (victims, seeds) in SEEDS.items():
        runs = []
        for which in range(victims):
            for seed in range(seeds):
                run = solve(name, which, seed)
                runs.append(run)
                errors = (f"2^{run[k]:.1f}" for k in ("uniform", "real"))
                print(row(name, which, seed, run["verdict"], f"{run['spent']:,}", *errors, run["same"]), flush=True)
        spent, worst = [r["spent"] for r in runs], sorted(max(r["uniform"], r["real"]) for r in runs)
        good, (bar, most) = sum(map(close, runs)), BARS[name]
        met = verdict(good >= bar and statistics.median(spent) <= most)
        table.append(
            row(
                name,
                f"{good} of {len(runs)}",
                told(runs),
                f"{statistics.median(spent):,.0f} ({min(spent):,} to {max(spent):,})",
                f"2^{statistics.median(worst):.1f} / 2^{worst[-1]:.1f}",
                f"{least(name, 'logits'):,.0f}",
                f">= {bar} of {len(runs)}, median <= {most:,}",
                met,
            )
        )
    print("\n" + "\n".join(table))


def fresh() -> None:
    print("\nVictims that the attack's constants were not set on: ten more of each, one seed.\n")
    print(heading("network", "exact", "not", "queries: median (range)", "error: median / worst", "fewest"))
    for name in ("20-10-10-5", "64-16-16-10"):
        summary(name, [solve(name, which, 0) for which in range(10, 20)], "logits")


def probabilities() -> None:
    print("\nProbabilities of every class instead of logits; errors of centred logits.\n")
    print(heading("network", "exact", "not", "queries: median (range)", "error: median / worst", "fewest"))
    for name in ("20-10-10-5", "64-16-16-10"):
        summary(name, [solve(name, which, 0, "probabilities") for which in range(5)], "probabilities")


def growth() -> None:
    for what, names in GROWTH:
        print(f"\nGrowth with {what}; logits, three victims each.\n")
        print(heading("network", "exact", "not", "queries: median (range)", "error: median / worst", "fewest"))
        for name in names:
            summary(name, [solve(name, which, 0) for which in range(3)], "logits")


def summary(name: str, runs: list[dict[str, Any]], signal: str) -> None:
    spent, worst = [r["spent"] for r in runs], sorted(max(r["uniform"], r["real"]) for r in runs)
    print(
        row(
            name,
            f"{sum(map(close, runs))} of {len(runs)}",
            told(runs),
            f"{statistics.median(spent):,.0f} ({min(spent):,} to {max(spent):,})",
            f"2^{statistics.median(worst):.1f} / 2^{worst[-1]:.1f}",
            f"{least(name, signal):,.0f}",
        ),
        flush=True,
    )


if __name__ == "__main__":
    one_thread()
    parts = {"networks": networks, "fresh": fresh, "probabilities": probabilities, "growth": growth}
    for part in sys.argv[1:] or parts:
        parts[part]()
