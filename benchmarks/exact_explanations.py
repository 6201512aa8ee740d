"""Logistic regressions copied through the explanations of shap and lime, and networks through gradients: every run.

    python benchmarks/exact_explanations.py

scikit-learn's logistic regression on its breast-cancer data (30 columns, scaled by the model). Half of the rows trained
it and are the explainer's; the attacker has 100 of the others, without truth; copies are judged on the rest and on
20,000 uniform points within the data's range. Labels that are equal to the model's, in per cent.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from common import SEEDS, heading, one_thread, percent, row, uniform, verdict

BUDGET = 100


def fitted(seed: int) -> Any:
    """The model, its training rows, the attacker's, and those that judge."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs, truth = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng([seed, 6]).permutation(len(inputs))
    train, pool, rest = order[:284], order[284:384], order[384:]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(inputs[train], truth[train])
    return model, inputs[train], inputs[pool], inputs[rest]


def linear_shap(model: Any, rows: Any, seed: int) -> Any:
    import shap

    explainer = shap.LinearExplainer(model[-1], model[0].transform(rows))
    return lambda x: explainer.shap_values(model[0].transform(x))


def kernel_shap(model: Any, rows: Any, seed: int) -> Any:
    import shap

    def second(x: Any) -> Any:
        return model.predict_proba(x)[:, 1]

    explainer = shap.KernelExplainer(second, shap.sample(rows, 30, random_state=seed))

    def call(x: Any) -> Any:
        np.random.seed(seed)  # noqa: NPY002  # the explainer draws from numpy's shared generator
        return explainer.shap_values(x, silent=True, nsamples=500)

    return call


def lime(discretised: bool) -> Any:
    def make(model: Any, rows: Any, seed: int) -> Any:
        from lime.lime_tabular import LimeTabularExplainer

        explainer = LimeTabularExplainer(rows, discretize_continuous=discretised, random_state=seed)

        def one(x: Any) -> Any:
            found = explainer.explain_instance(x, model.predict_proba, num_features=len(x))
            return [weight for _, weight in sorted(found.as_map()[1])]

        return lambda x: np.array([one(each) for each in x])

    return make


EXPLAINERS = {
    "shap LinearExplainer": linear_shap,
    "shap KernelExplainer, of probabilities": kernel_shap,
    "lime, continuous": lime(False),
    "lime, discretised (its default)": lime(True),
}


def copies(make: Any, seed: int) -> Any:
    """Every copy of a run: (queries, fidelity on real rows, on uniform points, verdict)."""
    import understudy as us
    from understudy.attacks.attribution_regression import AttributionRegression
    from understudy.endpoint import ArrayPool
    from understudy.targets.callable import CallableTarget
    from understudy.types import Exposure
    from understudy.wrappers import Metered

    model, train, pool, rest = fitted(seed)
    explain = make(model, train, seed)
    box = us.Box(np.minimum(train.min(0), pool.min(0)), np.maximum(train.max(0), pool.max(0)))

    def call(x: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the explainers' own
            return {"probabilities": model.predict_proba(x), "attribution": explain(x)}

    target = Metered(CallableTarget(call, Exposure.of(["probabilities", "attribution"], 2), box), BUDGET)
    points, inside = uniform(box, seed), np.clip(rest, box.low, box.high)
    for found in AttributionRegression().run(target, ArrayPool(pool), np.random.default_rng(seed)):
        if found.substitute is not None:
            agreed = [float((found.substitute.query(x).labels() == model.predict(x)).mean()) for x in (inside, points)]
            yield found.spent, *agreed, found.verdict.value


def explainers() -> None:
    print(
        heading(
            "explanations",
            "queries, each run's first at 0.99 of real rows",
            "queries at the end",
            "real rows",
            "uniform",
            "verdicts",
            "bar",
            "",
        )
    )
    for name, make in EXPLAINERS.items():
        first, ends, real, spread, verdicts = [], [], [], [], []
        for seed in SEEDS:
            runs = list(copies(make, seed))
            first.append(next((spent for spent, agreed, *_ in runs if agreed >= 0.99), None))
            spent, agreed, even, said = runs[-1] if runs else (BUDGET, 0.0, 0.0, "none")
            ends.append(spent), real.append(agreed), spread.append(even), verdicts.append(said)
        met = verdict(all(agreed >= 0.99 for agreed in real))
        shown = ", ".join("never" if n is None else str(n) for n in first)
        told = ", ".join(sorted(set(verdicts)))
        print(
            row(name, shown, ", ".join(map(str, ends)), percent(real), percent(spread), told, "0.99 at 100", met),
            flush=True,
        )


def gradients() -> None:
    from understudy.attacks.gradient_solving import GradientSolving
    from understudy.testing import explained, network
    from understudy.testing.models import EmptyPool
    from understudy.wrappers import Metered

    print(heading("ReLU network", "parameters", "queries, each run", "exact", "largest error of a probability"))
    for widths in ((20, 10, 2), (64, 32, 10), (784, 32, 10), (784, 128, 10)):
        spent, worst, exact = [], 0.0, 0
        for seed in SEEDS:
            target = explained(network(seed, widths=widths), ["probabilities", "attribution"])
            meter, runs = Metered(target, 20 * widths[1] + 500), GradientSolving()
            found = list(runs.run(meter, EmptyPool(target.space), np.random.default_rng(seed)))
            spent.append(meter.spent)
            if found and found[-1].substitute is not None:
                exact += 1
                points = uniform(target.space, seed)[:2000]
                ours = found[-1].substitute.query(points)["probabilities"]
                model = network(seed, widths=widths).query(points)["probabilities"]
                worst = max(worst, float(np.abs(ours - model).max()))
        size = (widths[0] + 1) * widths[1] + (widths[1] + 1) * widths[2]
        shown = "-".join(map(str, widths))
        print(row(shown, size, ", ".join(map(str, spent)), f"{exact} of {len(SEEDS)}", f"{worst:.0e}"), flush=True)


if __name__ == "__main__":
    one_thread()
    explainers()
    print()
    gradients()
