"""Decision trees: queries per leaf and what they buy, every run shown.

    python benchmarks/exact_trees.py

Targets are scikit-learn's trees on its own data sets, one per seed, inputs within the data's range, no data of the
attacker's unless said. Copies are judged on every real row and on 100,000 uniform rows of the space, by equality of
the whole answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from common import SEEDS, heading, meter, one_thread, row, verdict

BUDGET = 60_000


def data(name: str) -> tuple[Any, Any]:
    from sklearn import datasets

    loaded: tuple[Any, Any] = getattr(datasets, f"load_{name}")(return_X_y=True)
    return loaded


def around(rows: Any) -> Any:
    import understudy as us

    flat = rows.max(0) == rows.min(0)
    return us.Box(rows.min(0) - flat, rows.max(0) + flat)


def grown(name: str, seed: int, **options: Any) -> Any:
    """A tree, as its users fit it: a regression where the data is one."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeRegressor if name == "diabetes" else DecisionTreeClassifier
    return kind(random_state=seed, **options).fit(*data(name))


def leaves_told(tree: Any) -> Callable[[Any], Any]:
    """Every leaf answers in its own way."""
    return lambda x: tree.apply(x).astype(np.float64)[:, None]


def survey(seed: int) -> tuple[Any, Any, Any]:
    """193 leaves that give 28 answers, on thirteen columns of a survey's kind, and the rows it was fitted to."""
    from sklearn.tree import DecisionTreeClassifier

    import understudy as us

    rng, sizes = np.random.default_rng([seed, 193]), np.array([4, 5, 5, 9, 2, 2, 2, 2, 2, 2, 2, 4, 3])
    rows = np.stack([rng.integers(k, size=900) for k in sizes], axis=1).astype(np.float64)
    tree = DecisionTreeClassifier(max_leaf_nodes=193, random_state=seed).fit(rows, rng.integers(5, size=900))
    given = np.random.default_rng(seed).integers(28, size=tree.tree_.node_count).astype(np.float64)
    space = us.Mixed(np.zeros(13), sizes - 1, (13,), integer=range(13))
    return lambda x: given[tree.apply(x)][:, None], space, (tree, rows)


def attack(name: str, target: Any, seed: int, pool: Any = None) -> Any:
    from understudy import registry
    from understudy.endpoint import ArrayPool

    rows = np.zeros((0, *target.space.shape)) if pool is None else pool
    *_, found = registry.create("attacks", name).run(target, ArrayPool(rows), np.random.default_rng(seed))
    return found


def agreement(found: Any, signal: str, call: Any, rows: Any) -> float:
    """Share of rows answered alike."""
    same = found.substitute.query(rows)[signal] == call(rows)
    return float(same.reshape(len(rows), -1).all(1).mean())


def judged(case: str, call: Any, space: Any, real: Any, leaves: int, most: float | None, seed: int) -> str:
    """One run of `path-finding`."""
    target = meter(call, "value", 1, space, BUDGET)
    found = attack("path-finding", target, seed)
    if found.substitute is None:
        return row(case, seed, leaves, found.verdict.value, target.spent, "", "", "", "", verdict(False))
    uniform = agreement(found, "value", call, space.sample(100_000, np.random.default_rng([seed, 9])))
    rows, each = agreement(found, "value", call, real), target.spent / leaves
    whole = found.notes["leaves"] == leaves or most is None
    met = (
        (found.verdict.value == "exact" or most is None)
        and rows == uniform == 1
        and whole
        and (most is None or each <= most)
    )
    return row(
        *(case, seed, leaves, found.verdict.value, f"{target.spent:,}", f"{each:.1f}", found.notes["leaves"]),
        *(f"{rows:.6g}", f"{uniform:.6g}", verdict(met)),
    )


def exact() -> None:
    cases: list[tuple[str, str, dict[str, Any], float]] = [
        ("breast cancer, d = 30", "breast_cancer", {"max_leaf_nodes": 17}, 60),
        ("digits, d = 64", "digits", {"max_leaf_nodes": 120}, 100),
        ("diabetes, d = 10", "diabetes", {"max_leaf_nodes": 127}, 60),
        ("diabetes, d = 10", "diabetes", {"max_leaf_nodes": 288}, 60),
    ]
    for case, name, options, most in cases:
        for seed in SEEDS:
            tree, real = grown(name, seed, **options), data(name)[0]
            print(judged(case, leaves_told(tree), around(real), real, tree.get_n_leaves(), most, seed), flush=True)
    for seed in SEEDS:
        call, space, (tree, real) = survey(seed)
        print(judged("28 answers, d = 13", call, space, real, tree.get_n_leaves(), None, seed), flush=True)


def labels(name: str, seed: int) -> str:
    """One run of `tree-labels`, half of the rows the attacker's, judged on the other half."""
    inputs, _ = data(name)
    tree = grown(name, seed, max_leaf_nodes=20)
    leaves, half = tree.get_n_leaves(), np.random.default_rng(seed).random(len(inputs)) < 0.5
    target = meter(tree.predict, "label", len(tree.classes_), around(inputs), 300 * leaves)
    found = attack("tree-labels", target, seed, inputs[half])
    if found.substitute is None:
        return row(name, seed, leaves, target.spent, "", "", "", verdict(False))
    rest = agreement(found, "label", tree.predict, inputs[~half])
    uniform = agreement(found, "label", tree.predict, target.space.sample(100_000, np.random.default_rng([seed, 9])))
    each = target.spent / leaves
    met = verdict(rest >= 0.99 and each <= 300)
    return row(name, seed, leaves, f"{target.spent:,}", f"{each:.1f}", f"{rest:.6g}", f"{uniform:.6g}", met)


def growth(features: int, leaves: int) -> str:
    """Queries at seed 0 beside the information in the tree: per cut log2 d for its column, 23 bits for its number."""
    from sklearn.tree import DecisionTreeRegressor

    import understudy as us

    rng = np.random.default_rng([features, leaves])
    rows = rng.random((4000, features)).astype(np.float32).astype(np.float64)
    truth = np.sin(6 * rows[:, : min(features, 8)]).sum(1) + 0.1 * rng.normal(size=4000)
    tree = DecisionTreeRegressor(max_leaf_nodes=leaves, random_state=0).fit(rows, truth)
    target = meter(leaves_told(tree), "value", 1, us.Box(0, 1, (features,)), 10 * BUDGET)
    found = attack("path-finding", target, 0)
    bits = (leaves - 1) * (math.log2(features) + 23)
    cells = (features, leaves, found.verdict.value, f"{target.spent:,}", f"{target.spent / leaves:.1f}")
    return row(*cells, f"{bits:,.0f}", f"{target.spent / bits:.2f}")


def main() -> None:
    print("Every leaf answers in its own way, or 193 leaves in 28.\n")
    print(heading("tree", "seed", "leaves", "verdict", "queries", "a leaf", "found", "real rows", "uniform rows", ""))
    exact()
    print("\nLabels alone.\n")
    print(heading("tree", "seed", "leaves", "queries", "a leaf", "held-out real rows", "uniform rows", ""))
    for name in ("iris", "wine", "breast_cancer"):
        for seed in SEEDS:
            print(labels(name, seed), flush=True)
    print("\nGrowth.\n")
    print(heading("d", "leaves", "verdict", "queries", "a leaf", "bits in the tree", "queries a bit"))
    for features, leaves in ((10, 50), (30, 50), (100, 50), (300, 50), (10, 20), (10, 200), (10, 500)):
        print(growth(features, leaves), flush=True)


if __name__ == "__main__":
    one_thread()
    main()
