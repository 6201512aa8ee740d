"""Networks with one hidden layer of tanh or logistic units, solved from their answers: queries, and how close.

    python benchmarks/exact_smooth.py

First the published work: five networks of 105 inputs, 20 tanh units and 5 classes, 2,225 unknowns, standard normal
weights scaled to sums of standard deviation 1 (the shape of the Adult-Race network of Tramer et al. 2016, whose data
does not come with any package). Then scikit-learn's networks, trained on real data scaled to [-1, 1] per column, five
training seeds each. Then how queries grow with inputs, units and classes, beside the fewest that could do: unknowns
over numbers per answer. Copies are judged on 20,000 uniform points.
"""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import numpy as np
from common import SEEDS, heading, last, meter, one_thread, row, uniform, verdict

GROWTH = (
    ("inputs", [(26, 20, 5), (52, 20, 5), (105, 20, 5), (210, 20, 5), (784, 20, 5)]),
    ("units", [(105, 5, 5), (105, 10, 5), (105, 20, 5), (105, 40, 5)]),
    ("classes", [(105, 20, 2), (105, 20, 3), (105, 20, 5), (105, 20, 10)]),
)


def drawn(seed: int, widths: tuple[int, ...]) -> Any:
    from understudy.testing import network

    return network(seed, widths=widths, activation="tanh", spread=1.0)


def trained(load: Any, units: int, activation: str, seed: int) -> tuple[Any, int, Any]:
    from sklearn.neural_network import MLPClassifier

    import understudy as us

    inputs, truth = load(return_X_y=True)
    low, high = inputs.min(0), np.maximum(inputs.max(0), inputs.min(0) + 1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged is what users' networks are
        model = MLPClassifier((units,), activation=activation, random_state=seed)
        model.fit(2 * (inputs - low) / (high - low) - 1, truth)
    return model.predict_proba, len(model.classes_), us.Box(-1, 1, (inputs.shape[1],))


def solve(call: Any, outputs: int, box: Any, seed: int, budget: int) -> tuple[int, float, float, float]:
    """Queries, label agreement (nan: refused), the largest total variation distance, CPU seconds of the attack."""
    from understudy import registry

    target, clock = meter(call, "probabilities", outputs, box, budget), time.process_time()
    found = last(registry.create("attacks", "hessian-diagonalisation"), target, seed)
    clock = time.process_time() - clock
    if found.substitute is None:
        return target.spent, float("nan"), float("nan"), clock
    points = uniform(box, seed)
    ours, theirs = found.substitute.query(points)["probabilities"], call(points)
    same = float((ours.argmax(1) == theirs.argmax(1)).mean())
    return target.spent, same, float(np.abs(ours - theirs).sum(1).max() / 2), clock


def probabilities(model: Any) -> Any:
    return lambda x: model.query(x)["probabilities"]


def published() -> None:
    print("The published work: 105-20-5, tanh, float64 probabilities. One row per seed.\n")
    print(heading("seed", "queries, checks included", "labels", "largest TV", "bar: <= 2,225, 100 %, 1e-6"))
    for seed in SEEDS:
        model = drawn(seed, (105, 20, 5))
        spent, same, apart, _ = solve(probabilities(model), 5, model.space, seed, 2_225)
        met = verdict(same == 1 and apart <= 1e-6)
        print(row(seed, f"{spent:,}", f"{100 * same:.3f} %", f"{apart:.0e}", met), flush=True)


def real() -> None:
    from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

    print("\nscikit-learn's MLPClassifier on real data, float64 probabilities, five training seeds each.\n")
    print(heading("data", "network", "units", "solved", "queries", "labels, worst", "largest TV", "unknowns / answer"))
    for load, name, units in (
        (load_iris, "iris", 3),
        (load_wine, "wine", 10),
        (load_breast_cancer, "breast cancer", 10),
        (load_digits, "digits", 16),
        (load_digits, "digits", 32),
    ):
        for activation in ("tanh", "logistic"):
            runs = []
            for seed in SEEDS:
                call, outputs, box = trained(load, units, activation, seed)
                runs.append(solve(call, outputs, box, seed, 20_000))
            solved, d = [run for run in runs if run[1] == run[1]], box.shape[0]
            least = (units * (d + 1) + (outputs - 1) * (units + 1)) / (outputs - 1)
            shape = f"{d}-{units}-{outputs} {activation}"
            spent = " / ".join(f"{run[0]:,}" for run in runs)
            agreed = f"{100 * min(run[1] for run in solved):.3f} %" if solved else "-"
            apart = f"{max(run[2] for run in solved):.0e}" if solved else "-"
            print(row(name, shape, units, f"{len(solved)} of 5", spent, agreed, apart, f"{least:,.0f}"), flush=True)


def growth() -> None:
    timed = [(seed, drawn(seed, (105, 20, 5))) for seed in SEEDS]
    base = statistics.median(solve(probabilities(model), 5, model.space, seed, 5_000)[3] for seed, model in timed)
    for what, sizes in GROWTH:
        print(f"\nGrowth with {what}: tanh networks drawn at random, three seeds, median.\n")
        print(
            heading("network", "solved", "queries", "fewest possible", "ratio", "largest TV", "CPU / CPU of 105-20-5")
        )
        for widths in sizes:
            d, h, c = widths
            runs = []
            for seed in SEEDS[:3]:
                model = drawn(seed, widths)
                runs.append(solve(probabilities(model), c, model.space, seed, 100_000))
            solved = [run for run in runs if run[1] == 1]
            spent, least = statistics.median(r[0] for r in runs), (h * (d + 1) + (c - 1) * (h + 1)) / (c - 1)
            apart = f"{max(run[2] for run in solved):.0e}" if solved else "-"
            clock = statistics.median(r[3] for r in runs) / base
            name, count = "-".join(map(str, widths)), f"{len(solved)} of 3"
            print(
                row(name, count, f"{spent:,}", f"{least:,.0f}", f"{spent / least:.2f}", apart, f"{clock:.1f}"),
                flush=True,
            )


def main() -> None:
    published()
    real()
    growth()


if __name__ == "__main__":
    one_thread()
    main()
