"""Logistic regressions copied through the explanations of shap and lime, and networks through gradients: every run.

    python benchmarks/exact_explanations.py

scikit-learn's logistic regression on its breast-cancer data (30 columns, scaled by the model). Half of the rows trained
it and are the explainer's; the attacker has 100 of the others, without truth; copies are judged on the rest and on
20,000 uniform points within the data's range. Labels that are equal to the model's, in per cent.
"""

from __future__ import annotations

import contextlib
import io
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


def two_classes(name: str) -> Any:
    """Model, rows of the owner, of the attacker, and those that judge."""
    from sklearn.datasets import load_breast_cancer, load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neural_network import MLPClassifier

    x, y = load_breast_cancer(return_X_y=True) if name == "breast cancer" else load_digits(return_X_y=True)
    y = y if name == "breast cancer" else y // 5
    owned, mine, rest = np.array_split(np.random.default_rng(7).permutation(len(x)), 3)
    if name == "breast cancer":
        model: Any = RandomForestClassifier(50, max_depth=6, random_state=0)
    else:
        model = MLPClassifier((32,), max_iter=300, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x[owned], y[owned]), x[owned], x[mine], x[rest]


def unlike(model: Any, owned: Any) -> Any:
    """The nearest row of the owner's that is answered otherwise."""
    known, spread = model.predict(owned), np.where(owned.std(0) > 0, owned.std(0), 1)

    def call(x: Any) -> Any:
        labels = model.predict(x)
        others = [owned[known != label] for label in labels]
        near = [o[(((o - row) / spread) ** 2).sum(1).argmin()] for o, row in zip(others, x, strict=True)]
        return {"label": labels, "counterfactual": np.array(near)}

    return call


def dice(model: Any, owned: Any) -> Any:
    """A counterfactual of DiCE, method random."""
    import dice_ml
    import pandas as pd

    names = [f"c{i}" for i in range(owned.shape[1])]
    frame = pd.DataFrame(owned, columns=names).assign(y=model.predict(owned))
    data = dice_ml.Data(dataframe=frame, continuous_features=names, outcome_name="y")
    explainer = dice_ml.Dice(data, dice_ml.Model(model=model, backend="sklearn"), method="random")

    def call(x: Any) -> Any:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # the explainer's own, and its bar
            made = explainer.generate_counterfactuals(
                pd.DataFrame(x, columns=names), total_CFs=1, desired_class="opposite", random_seed=0, verbose=False
            )
        shown = [e.final_cfs_df for e in made.cf_examples_list]
        found = [
            s[names].to_numpy(float)[0] if s is not None and len(s) else np.full(len(names), np.nan) for s in shown
        ]
        return {"label": model.predict(x), "counterfactual": np.array(found)}

    return call


def training() -> None:
    """Fidelity of copies trained on the same answers, counterfactuals clamped, as labels, unused; the attack's."""
    from understudy.attacks._clamped import Clamped
    from understudy.attacks.counterfactual_training import CounterfactualTraining
    from understudy.endpoint import ArrayPool
    from understudy.targets.callable import CallableTarget
    from understudy.types import Box, Exposure
    from understudy.wrappers import Metered

    ways = ("clamped", "as labels", "unused")
    print(heading("model", "explainer", "queries", "rows", *ways, "the attack's choice"))
    for name, make in (("breast cancer", unlike), ("breast cancer", dice), ("digits", unlike)):
        model, owned, mine, rest = two_classes(name)
        both, call = np.concatenate([owned, mine]), make(model, owned)
        box = Box(both.min(0) - 1e-9, both.max(0))  # some pixels are never inked
        space = Box(-np.inf, np.inf, box.shape)
        for queries in (20, 60, 160) if make is unlike else (60,):
            found: dict[str, dict[str, list[float]]] = {"real": {}, "uniform": {}}
            for seed in SEEDS:
                order = np.random.default_rng([seed, 8]).permutation(len(mine))
                x = np.clip(mine[order[:queries]], box.low, box.high)
                told = call(x)
                there = np.isfinite(told["counterfactual"]).all(1)
                judges = {"real": rest, "uniform": box.sample(5000, np.random.default_rng([seed, 9]))}
                copies = {
                    way: Clamped().fit(
                        *(x, told["label"], told["counterfactual"][there], 1 - told["label"][there]),
                        *(way, space, np.random.default_rng(seed)),
                    )
                    for way in ways
                }
                target = Metered(CallableTarget(call, Exposure.of(["label", "counterfactual"], 2), box), queries)
                *_, last = CounterfactualTraining().run(target, ArrayPool(x), np.random.default_rng(seed))
                for kind, rows in judges.items():
                    truth = model.predict(rows)
                    for way, copy in [*copies.items(), ("chosen", last.substitute)]:
                        agreed = float((copy.scores(rows).argmax(1) == truth).mean())
                        found[kind].setdefault(way, []).append(agreed)
            for kind, shares in found.items():
                told = [f"{np.median(s):.3f} ({min(s):.3f})" for s in shares.values()]
                print(row(name, make.__name__, queries, kind, *told), flush=True)


if __name__ == "__main__":
    one_thread()
    explainers()
    print()
    gradients()
    print()
    training()
