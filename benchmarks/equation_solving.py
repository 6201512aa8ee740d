"""Linear models from scores: queries and what they buy, beside the method of Tramer et al. 2016 on the same targets.

    python benchmarks/equation_solving.py

Five targets of 105 inputs x 5 classes with standard normal weights, inputs in [-1, 1], the shape of the paper's
Adult-Race model (whose data is not redistributed here), and scikit-learn's softmax on iris. Copies are judged on 20,000
fresh uniform points by label agreement and the largest total variation distance. The paper's method is written anew
here: cross-entropy on soft answers to uniform queries, minimised by BFGS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import SEEDS, heading, last, meter, one_thread, percent, row, uniform, verdict

BUDGET, ENOUGH = 530, 1000
ROUNDED = {4: 0.999, 3: 0.997, 2: 0.993}


def synthetic(seed: int) -> Any:
    from understudy.targets.linear import softmax

    rng = np.random.default_rng([seed, 105])
    weights, bias = rng.normal(size=(5, 105)), rng.normal(size=5)
    return lambda x: softmax(x @ weights.T + bias)


def iris() -> tuple[Any, Any]:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    import understudy as us

    inputs, truth = load_iris(return_X_y=True)
    return LogisticRegression(max_iter=1000).fit(inputs, truth).predict_proba, us.Box(inputs.min(0), inputs.max(0))


def judged(copy: Any, call: Any, box: Any, seed: int) -> tuple[float, float]:
    """Label agreement and the largest total variation distance."""
    points = uniform(box, seed)
    ours, theirs = copy.query(points)["probabilities"], call(points)
    return float((ours.argmax(1) == theirs.argmax(1)).mean()), float(np.abs(ours - theirs).sum(1).max() / 2)


def published(target: Any, seed: int, n: int) -> Any:
    """The paper's attack: a softmax fitted to the soft answers of `n` uniform queries."""
    from scipy.optimize import minimize

    from understudy.targets.linear import LinearTarget, softmax

    x = target.space.sample(n, np.random.default_rng(seed))
    y, x1 = target.query(x)["probabilities"], np.hstack([x, np.ones((n, 1))])

    def loss(flat: Any) -> Any:
        theta = flat.reshape(y.shape[1], -1)
        p = softmax(x1 @ theta.T)
        value = -(y * np.log(np.maximum(p, 1e-300))).sum() / n + 1e-16 * (flat @ flat) / 2
        return value, ((p - y).T @ x1 / n + 1e-16 * theta).ravel()

    options = {"maxiter": 2000, "gtol": 1e-12}
    theta = minimize(loss, np.zeros(y.shape[1] * x1.shape[1]), jac=True, method="BFGS", options=options).x
    theta = theta.reshape(y.shape[1], -1)
    return LinearTarget(theta[:, :-1], theta[:, -1], target.space, "softmax")


def exact(name: str, cases: list[tuple[Any, int, Any]], budget: int, peer: int, bars: tuple[int, float, str]) -> str:
    """One row of full float answers. `bars`: equations, largest distance, and what was published.

    `budget` holds the check queries too; the paper's method gets `peer` queries.
    """
    from understudy import registry

    most, least, beside = bars
    ours, theirs, counts, checks = [], [], set(), set()
    for seed, (call, outputs, box) in zip(SEEDS, cases, strict=True):
        target = meter(call, "probabilities", outputs, box, budget)
        found = last(registry.create("attacks", "equation-solving"), target, seed)
        ours.append(judged(found.substitute, call, box, seed))
        counts.add(found.spent - found.notes["check_queries"])
        checks.add(found.notes["check_queries"])
        copied = published(meter(call, "probabilities", outputs, box, peer), seed, peer)
        theirs.append(judged(copied, call, box, seed))
    agreed, apart = min(a for a, _ in ours), max(v for _, v in ours)
    met = verdict(agreed == 1 and apart <= least and max(counts) <= most)
    return row(
        name,
        f"{max(counts)} + {max(checks)}",
        percent([a for a, _ in ours]),
        f"{apart:.0e}",
        f"{most} queries, 100 %, {least:.0e}",
        met,
        f"{percent([a for a, _ in theirs])}, {max(v for _, v in theirs):.0e} at {peer}",
        beside,
    )


def rounded(decimals: int, bar: float) -> str:
    """One row of rounded answers, check queries inside the budget."""
    import understudy as us
    from understudy import registry

    box, ours, theirs, spent = us.Box(-1, 1, shape=(105,)), [], [], 0
    for seed in SEEDS:
        call, defence = synthetic(seed), registry.create("defences", "round", decimals=decimals)
        target = meter(call, "probabilities", 5, box, BUDGET, [defence])
        found = last(registry.create("attacks", "equation-solving"), target, seed)
        spent = max(spent, target.spent)
        ours.append(judged(found.substitute, call, box, seed)[0])
        copied = published(meter(call, "probabilities", 5, box, BUDGET, [defence]), seed, BUDGET)
        theirs.append(judged(copied, call, box, seed)[0])
    met = verdict(min(ours) >= bar and spent <= BUDGET)
    return row(decimals, spent, percent(ours), f"{100 * bar:.1f} %", met, percent(theirs))


def main() -> None:
    import understudy as us

    box, (flower, garden) = us.Box(-1, 1, shape=(105,)), iris()
    print("Full float64 probabilities, five seeds; 'spent' is equations + check queries.\n")
    print(heading("target", "spent", "labels", "largest TV", "bar", "", "paper's method here", "published"))
    print(
        exact(
            "softmax 105 x 5",
            [(synthetic(seed), 5, box) for seed in SEEDS],
            ENOUGH,
            530,
            (106, 1e-12, "100 %, TV < 1e-7 at 530"),
        ),
        flush=True,
    )
    print(exact("softmax iris", [(flower, 3, garden)] * 5, 7, 7, (7, 1e-8, "TV 4e-7 at 7")), flush=True)
    print(f"\nSoftmax 105 x 5, rounded probabilities, {BUDGET} queries in all, five seeds.\n")
    print(heading("decimals", "spent", "labels", "bar, each seed", "", "paper's method here, as many queries"))
    for decimals, bar in ROUNDED.items():
        print(rounded(decimals, bar), flush=True)


if __name__ == "__main__":
    one_thread()
    main()
