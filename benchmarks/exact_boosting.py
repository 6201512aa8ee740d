"""Boosted trees and forests from scores: what it takes to copy every threshold and every term.

    python benchmarks/exact_boosting.py [--growth]

scikit-learn, XGBoost and LightGBM at 100 trees, learning rate 0.1, rows subsampled at 0.8 (so that seeds differ), each
library's defaults otherwise; inputs within the data's range. Copies are judged on every row of the data and on 20,000
uniform points. `--growth`: instead, queries as features, trees and depth grow. Needs xgboost and lightgbm.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import numpy as np
from common import SEEDS, heading, last, meter, one_thread, row, uniform, verdict

LIBRARIES = ("scikit-learn", "XGBoost", "LightGBM")
BARS = {1: "exact, 40 per threshold", 2: "exact, 30,000", 3: "none set"}


def data(name: str, features: int | None = None) -> tuple[Any, Any]:
    from sklearn.datasets import load_breast_cancer, load_diabetes

    x, y = {"breast cancer": load_breast_cancer, "diabetes": load_diabetes}[name](return_X_y=True)
    return x[:, :features], y


def boosted(library: str, name: str, depth: int, seed: int, trees: int = 100, features: int | None = None) -> Any:
    """(call, signal, outputs, inputs): log-odds from scikit-learn, probabilities from the others, or values."""
    x, y = data(name, features)
    classify = name == "breast cancer"
    options = {"n_estimators": trees, "max_depth": depth, "learning_rate": 0.1, "subsample": 0.8, "random_state": seed}
    if library == "scikit-learn":
        from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

        if classify:
            return GradientBoostingClassifier(**options).fit(x, y).decision_function, "logits", 2, x
        return GradientBoostingRegressor(**options).fit(x, y).predict, "value", 1, x
    if library == "XGBoost":
        from xgboost import XGBClassifier, XGBRegressor

        model: Any = (XGBClassifier if classify else XGBRegressor)(**options, n_jobs=1).fit(x, y)
    else:
        from lightgbm import LGBMClassifier, LGBMRegressor

        more = {"num_leaves": 2**depth, "subsample_freq": 1, "n_jobs": 1, "verbose": -1}
        model = (LGBMClassifier if classify else LGBMRegressor)(**options, **more).fit(x, y)
    return (model.predict_proba, "probabilities", 2, x) if classify else (model.predict, "value", 1, x)


def attacked(made: Any, budget: int, seed: int, pool: Any = None) -> tuple[Any, float, float, int]:
    """The extraction, its largest error and its fidelity (equal labels, or R2), and the queries."""
    import understudy as us
    from understudy import registry

    call, signal, outputs, x = made
    box = us.Box(x.min(0), x.max(0))
    target = meter(call, signal, outputs, box, budget)
    found = last(registry.create("attacks", "additive-steps"), target, seed, pool)
    points = np.concatenate([x, uniform(box, seed)])
    ours, theirs = found.substitute.query(points), target.target.query(points)
    if signal == "value":
        a, b = ours["value"], theirs["value"]
        explained = 1 - ((a - b) ** 2).sum() / ((b - b.mean()) ** 2).sum()
        return found, float(np.abs(a - b).max()), float(explained), found.spent
    a, b = (np.diff(v[signal]) / (1 if signal == "logits" else 2) for v in (ours, theirs))
    return found, float(np.abs(a - b).max()), float((ours.labels() == theirs.labels()).mean()), found.spent


def table(depth: int) -> None:
    for name in ("breast cancer", "diabetes"):
        for library in LIBRARIES:
            runs = [attacked(boosted(library, name, depth, seed), 60_000, seed) for seed in SEEDS]
            steps = [found.notes["steps"] for found, *_ in runs]
            spent, exact = [n for *_, n in runs], sum(found.verdict.value == "exact" for found, *_ in runs)
            per = [n / s for n, s in zip(spent, steps, strict=True)]
            worst, same = max(error for _, error, *_ in runs), min(share for _, _, share, _ in runs)
            least = 1e-9 if library != "XGBoost" else (1e-4 if name == "breast cancer" else 1e-3)
            good = exact == len(SEEDS) and worst <= least
            good &= max(per) <= 40 if depth == 1 else max(spent) <= 30_000 if depth == 2 else True
            print(
                row(
                    depth,
                    name,
                    library,
                    f"{min(steps)}-{max(steps)}",
                    ", ".join(f"{n:,}" for n in spent),
                    f"{statistics.median(per):.1f} ({max(per):.1f})",
                    f"{exact} of 5",
                    f"{worst:.0e}",
                    f"{same:.6f}",
                    BARS[depth],
                    verdict(good) if depth < 3 else "",
                ),
                flush=True,
            )


def deeper() -> None:
    """Beyond what is solved: the fidelity of the trained copy, half the rows known to the attacker."""
    for name in ("breast cancer", "diabetes"):
        shares, ways = [], set()
        for seed in SEEDS:
            made = boosted("scikit-learn", name, 6, seed)
            found, _, share, _ = attacked(made, 20_000, seed, made[3][::2])
            shares.append(share)
            ways.add(f"{found.verdict.value}, {found.notes['way']}")
        told = "; ".join(sorted(ways))
        print(row(6, name, "20,000", f"{statistics.median(shares):.3f} ({min(shares):.3f})", told), flush=True)


def growth() -> None:
    cases = {
        "features": [("breast cancer", 2, 100, d) for d in (5, 10, 20, 30)],
        "trees": [("breast cancer", 2, trees, None) for trees in (25, 50, 100, 200)],
        "depth": [("breast cancer", depth, 50, None) for depth in (1, 2, 3)],
    }
    for what, sizes in cases.items():
        for name, depth, trees, features in sizes:
            runs = [
                attacked(boosted("scikit-learn", name, depth, seed, trees, features), 100_000, seed) for seed in SEEDS
            ]
            spent = statistics.median(n for *_, n in runs)
            terms = statistics.median(sum(found.notes["terms"]) for found, *_ in runs)
            steps = statistics.median(found.notes["steps"] for found, *_ in runs)
            exact = sum(found.verdict.value == "exact" for found, *_ in runs)
            size = {"features": features, "trees": trees, "depth": depth}[what]
            print(row(what, size, steps, terms, f"{spent:,.0f}", f"{spent / terms:.1f}", f"{exact} of 5"), flush=True)


def main() -> None:
    if "--growth" in sys.argv:
        print(heading("grows", "to", "thresholds", "terms", "queries", "per term", "exact"))
        growth()
        return
    print(
        heading(
            "depth", "data", "library", "thresholds", "queries, each seed", "per threshold, median (worst)", "exact",
            "largest error", "labels or R2", "bar", "",
        )
    )  # fmt: skip
    for depth in (1, 2, 3):
        table(depth)
    print("\n" + heading("depth", "data", "budget", "labels or R2, median (worst)", "verdict"))
    deeper()


if __name__ == "__main__":
    one_thread()
    main()
