"""Linear models from labels alone: queries and what they buy, beside training on as many labels.

    python benchmarks/boundary_nullspace.py

Targets: scikit-learn's softmax on raw digits, inputs in [0, 16]; logistic regression and a linear SVM on breast cancer
and on spam, each column scaled to [-1, 1] as in Tramer et al. 2016. Copies are judged on 20,000 fresh uniform points;
the attack has no data. The trained peer is the paper's best for binary models, adaptive retraining, as `retraining`
does it. Spam comes from the Debian package r-cran-kernlab and is read by pyreadr, both fetched into .bench/spam when
absent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import SEEDS, heading, last, meter, one_thread, percent, row, uniform, verdict

SPAM = Path(".bench/spam")
READ = """
import sys, numpy, pyreadr
table = pyreadr.read_r(sys.argv[1])["spam"]
numpy.savez(sys.argv[2], x=table.drop(columns="type").to_numpy(float), y=(table["type"] == "spam").to_numpy())
"""


def spam() -> tuple[Any, Any]:
    """4,601 e-mails x 57; raises where it cannot be fetched."""
    made = SPAM / "spam.npz"
    if not made.exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise RuntimeError("apt-get and dpkg fetch it and are not here")
        SPAM.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", "lib"]
        _do(["apt-get", "download", "r-cran-kernlab"])
        _do([*pip, "pyreadr", "pandas"])
        _do(["dpkg", "-x", next(SPAM.glob("r-cran-kernlab*.deb")).name, "package"])
        table = "package/usr/lib/R/site-library/kernlab/data/spam.rda"
        _do([sys.executable, "-c", READ, table, made.name], PYTHONPATH="lib")
    held = np.load(made)
    return held["x"], held["y"].astype(int)


def _do(command: list[str], **variables: str) -> None:
    ran = subprocess.run(command, cwd=SPAM, env={**os.environ, **variables}, capture_output=True, text=True)
    if ran.returncode:
        told = (ran.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"{command[0]} failed: {told}")


def unit(inputs: Any) -> Any:
    """Scaled to [-1, 1] per column."""
    low, high = inputs.min(0), inputs.max(0)
    return 2 * (inputs - low) / np.where(high > low, high - low, 1) - 1


def runs(attack: Any, call: Any, outputs: int, box: Any, budget: int) -> tuple[list[float], int]:
    """Agreement for each seed, and the most queries that were spent."""
    agreed, spent = [], 0
    for seed in SEEDS:
        target = meter(call, "label", outputs, box, budget)
        found = last(attack, target, seed)
        points = uniform(box, seed)
        agreed.append(float((found.substitute.query(points).labels() == call(points)).mean()))
        spent = max(spent, target.spent)
    return agreed, spent


def line(name: str, call: Any, outputs: int, box: Any, budget: int, bar: float, published: str) -> str:
    from understudy import registry

    ours, spent = runs(registry.create("attacks", "boundary-nullspace"), call, outputs, box, budget)
    trainer = registry.create("attacks", "retraining", learners=("logistic",), sampling="adaptive")
    theirs, _ = runs(trainer, call, outputs, box, budget)
    met = verdict(min(ours) >= bar and spent <= budget)
    return row(name, spent, percent(ours), f"{100 * bar:g} % at {budget:,}", met, percent(theirs), published)


def main() -> None:
    from sklearn.datasets import load_breast_cancer, load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    import understudy as us

    print("Labels only, five seeds; every query is counted.\n")
    print(heading("target", "spent", "labels", "bar, each seed", "", "trained on as many", "published"))
    inputs, truth = load_digits(return_X_y=True)
    model, box = LogisticRegression(max_iter=5000).fit(inputs, truth), us.Box(0, 16, shape=(64,))
    for budget, bar in ((14_600, 0.99995), (7_500, 0.995)):
        print(line("softmax digits 65 x 10", model.predict, 10, box, budget, bar, "> 99.9 % at 65,000"), flush=True)
    sets: list[tuple[str, Any, float]] = [("breast cancer d = 30", load_breast_cancer(return_X_y=True), 0.999)]
    try:
        sets.append(("spam d = 57", spam(), 0.99))
    except RuntimeError as error:
        print(f"spam is not measured: {error}", file=sys.stderr)
    for name, (inputs, truth), bar in sets:
        for kind, estimator in (("logistic", LogisticRegression(max_iter=5000)), ("linear SVM", LinearSVC())):
            predict = estimator.fit(unit(inputs), truth).predict
            box = us.Box(-1, 1, shape=(inputs.shape[1],))
            beside = "> 99 % at 827, exact at 2,050 on average"
            print(line(f"{kind}, {name}", predict, 2, box, 827, bar, beside), flush=True)


if __name__ == "__main__":
    one_thread()
    main()
