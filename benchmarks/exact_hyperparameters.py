"""Hyper-parameters out of models that were copied through their prediction interface: relative errors, every run.

    python benchmarks/exact_hyperparameters.py

scikit-learn's models on the diabetes (regression) and breast-cancer (classification) data that come with it. Each seed
trains on its own 90 % of the rows and draws its hyper-parameter log-uniformly. The attacker has those rows with their
truth and a metered target; neither the learner nor the scaling of the columns is told, but for diabetes on scaled
columns: they are equally wide as they come, so both scalings explain a model. The second table grows the number of
columns on made-up data; the third rounds the answers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from common import SEEDS, heading, one_thread, row, verdict

Make = Callable[[float], Any]


def attacked(
    make: Make, value: float, inputs: Any, truth: Any, signal: str, decimals: int | None = None, told: str = "auto"
) -> Any:
    """What the attack says of a model that was trained with `value`, and the queries that it asked."""
    import understudy as us
    from understudy.defences.rounding import Round
    from understudy.targets.sklearn import SklearnTarget
    from understudy.wrappers import Defended, Metered

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how far training went is what the attack is to find out
        model = make(value).fit(inputs, truth)
    margin = 0.01 * np.ptp(inputs, 0) + 1e-6
    target: Any = SklearnTarget.of(model, us.Box(inputs.min(0) - margin, inputs.max(0) + margin), [signal])
    if decimals is not None:
        target = Defended(target, (Round(decimals),), "thief", Round(decimals).reveals(target.exposure))
    from understudy.attacks.stationarity import Stationarity
    from understudy.endpoint import ArrayPool

    attack = Stationarity(scaling=told)
    target = Metered(target, 10 * inputs.shape[1] + 100)
    *_, found = attack.run(target, ArrayPool(inputs, truth), np.random.default_rng(0))
    return found.notes["hyperparameters"], found.spent


def said(name: str, value: float, solved: Any, key: str) -> str:
    """One run: the relative error; or the interval, where an interval is the answer."""
    if solved["objective"] != name or key not in solved["values"]:
        return f"taken for {solved['objective']}"
    low, high = solved["low"][key], solved["high"][key]
    if "gives it" in solved["reason"]:
        held = low <= value * (1 + 1e-6) and (high is None or value <= high * (1 + 1e-6))
        end = "any" if high is None else f"{high:.2g}"
        return f"{value:.2g} in {low:.2g} to {end}: {'holds' if held else '**wrong**'}"
    error = f"{abs(solved['values'][key] / value - 1):.0e}"
    if "is left" in solved["reason"]:
        return f"{error} ({'in' if low <= value <= high else '**not in**'} its interval)"
    return error


def table(signal: str, data: Any, cases: list[tuple[str, str, Make, tuple[float, float], float | None]]) -> None:
    inputs, truth = data
    for label, name, make, (low, high), bar in cases:
        runs, steep, spent = [], [], set()
        for seed in SEEDS:
            rng = np.random.default_rng([seed, 5])
            rows = rng.permutation(len(inputs))[: int(0.9 * len(inputs))]
            value = float(np.exp(rng.uniform(np.log(low), np.log(high))))
            told = "standard" if signal == "value" and "scaled" in label else "auto"
            solved, asked = attacked(make, value, inputs[rows], truth[rows], signal, None, told)
            key = "C" if "C" in solved["values"] else "alpha"
            runs.append(said(name, value, solved, key))
            steep.append(solved["condition"].get(key, np.nan))
            spent.add(asked)
        met = ""
        if bar is not None:
            met = verdict(all("holds" in run or ("taken" not in run and float(run.split()[0]) <= bar) for run in runs))
        shown = "" if bar is None else f"{bar:.0e}"
        drawn = f"{low:g} to {high:g}"
        print(row(label, drawn, "; ".join(runs), f"{max(steep):.0e}", shown, met, max(spent)), flush=True)


def models() -> Any:
    from sklearn.datasets import load_breast_cancer, load_diabetes
    from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC, LinearSVC

    def scaled(make: Make) -> Make:
        return lambda value: make_pipeline(StandardScaler(), make(value))

    def logistic(solver: str, **options: Any) -> Make:
        return scaled(lambda C: LogisticRegression(C=C, solver=solver, max_iter=100_000, random_state=0, **options))

    tight = {"tol": 1e-12, "max_iter": 10**6}
    yield (
        "value",
        load_diabetes(return_X_y=True),
        [
            ("ridge", "ridge", Ridge, (0.01, 100), 1e-10),
            ("ridge on scaled columns", "ridge", scaled(Ridge), (0.1, 100), 1e-10),
            ("LASSO, as it comes (tol 1e-4)", "lasso", Lasso, (0.01, 1), 1e-7),
            ("LASSO on scaled columns", "lasso", scaled(Lasso), (0.1, 10), 1e-7),
            ("elastic net (alpha)", "elastic-net", lambda a: ElasticNet(a, l1_ratio=0.3, **tight), (0.001, 0.1), None),
        ],
    )
    cancer = load_breast_cancer(return_X_y=True)
    yield (
        "probabilities",
        cancer,
        [
            (
                "logistic L2, newton-cholesky, tol 1e-10",
                "logistic-l2",
                logistic("newton-cholesky", tol=1e-10),
                (0.01, 100),
                1e-6,
            ),
            (
                "logistic L2, lbfgs, tol 1e-12: stops a little short",
                "logistic-l2",
                logistic("lbfgs", tol=1e-12),
                (0.01, 100),
                None,
            ),
            ("logistic L2, lbfgs, as it comes: not converged", "logistic-l2", logistic("lbfgs"), (0.01, 100), None),
            (
                "logistic L1, liblinear, tol 1e-10",
                "logistic-l1",
                logistic("liblinear", l1_ratio=1, tol=1e-10),
                (0.05, 10),
                None,
            ),
        ],
    )
    yield (
        "logits",
        cancer,
        [
            (
                "squared hinge, tol 1e-12",
                "squared-hinge",
                scaled(lambda C: LinearSVC(C=C, dual=False, **tight)),
                (0.01, 100),
                1e-6,
            ),
            ("hinge (SVC), as it comes", "hinge", scaled(lambda C: SVC(kernel="linear", C=C)), (0.01, 1), None),
            (
                "hinge (SVC), as it comes, C = 100",
                "hinge",
                scaled(lambda C: SVC(kernel="linear", C=C)),
                (100, 100),
                1e-6,
            ),
            (
                "hinge (LinearSVC), C = 100",
                "hinge",
                scaled(lambda C: LinearSVC(C=C, loss="hinge", tol=1e-8, max_iter=10**7, random_state=0)),
                (100, 100),
                1e-6,
            ),
        ],
    )
    separable = cancer[0][:, [0, 1, 20, 21]], (cancer[0][:, 20] > np.median(cancer[0][:, 20])).astype(int)
    gap = np.abs(separable[0][:, 2] - np.median(separable[0][:, 2])) > 0.5
    yield (
        "logits",
        (separable[0][gap], separable[1][gap]),
        [
            (
                "hinge (SVC) on separable rows, C = 100",
                "hinge",
                scaled(lambda C: SVC(kernel="linear", C=C)),
                (100, 100),
                1e-6,
            ),
        ],
    )


def growth() -> None:
    from sklearn.linear_model import LogisticRegression, Ridge

    for d in (10, 40, 160):
        for name, make, signal in (
            ("ridge", Ridge, "value"),
            ("logistic-l2", lambda C: LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10), "probabilities"),
        ):
            runs, steep, spent = [], [], set()
            for seed in SEEDS:
                rng = np.random.default_rng([seed, d])
                inputs = rng.uniform(-1, 1, (1000, d))
                score = inputs @ rng.standard_normal(d) + 0.5 * rng.standard_normal(1000)
                truth = score if signal == "value" else (score > 0).astype(int)
                solved, asked = attacked(make, 1.0, inputs, truth, signal)
                key = "alpha" if signal == "value" else "C"
                runs.append(said(name, 1.0, solved, key))
                steep.append(solved["condition"].get(key, np.nan))
                spent.add(asked)
            print(row(d, name, "; ".join(runs), f"{max(steep):.0e}", max(spent), d + 1), flush=True)


def rounded() -> None:
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge

    inputs, truth = load_diabetes(return_X_y=True)
    for decimals in (6, 4, 2, 0):
        runs = []
        for seed in SEEDS:
            rows = np.random.default_rng([seed, 6]).permutation(len(inputs))[: int(0.9 * len(inputs))]
            solved, _ = attacked(Ridge, 1.0, inputs[rows], truth[rows], "value", decimals)
            runs.append(said("ridge", 1.0, solved, "alpha"))
        print(row(decimals, "; ".join(runs)), flush=True)


def main() -> None:
    print("Five seeds, each its own rows and its own value; relative errors of what was solved, every run.\n")
    print(heading("model", "drawn from", "five runs", "largest condition", "bar", "", "queries"))
    for signal, data, cases in models():
        table(signal, data, cases)
    print("\nMore columns: uniform inputs, 1,000 rows, alpha = 1 or C = 1.\n")
    print(heading("d", "model", "five runs", "largest condition", "queries", "least possible"))
    growth()
    print("\nRidge (alpha = 1) on diabetes behind rounded answers.\n")
    print(heading("decimals", "five runs"))
    rounded()


if __name__ == "__main__":
    one_thread()
    main()
