"""A world to watch: real tables, a model, customers who behave like customers, and thieves.

Customers draw rows from a mix of 12 clusters of their own and do what customers do: ask again, correct a field, send
sorted batches, drift, try what-ifs, test their integration, send faulty data. The mix is invented; it is a stress test,
never a calibration to ship. Rows of the model's training, of calibration customers, of test customers, of the thief and
of the hold-out are disjoint.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

CACHE = Path(".bench/monitor")
PACKAGES = {"letters": ("r-cran-mlbench", "LetterRecognition"), "spam": ("r-cran-kernlab", "spam")}
PACKAGES |= {"ticdata": ("r-cran-kernlab", "ticdata"), "satellite": ("r-cran-mlbench", "Satellite")}
SHARES = {"training": 0.27, "calibration": 0.265, "test": 0.265, "thief": 0.12, "held": 0.08}
CLUSTERS, UNSEEN = 12, 2

#: behaviour: (share of the portfolio, the segment such a customer would declare)
PORTFOLIO: dict[str, tuple[float, str | None]] = {
    "iid": (0.05, None),
    "mix": (0.27, None),
    "one-cluster": (0.08, None),
    "retries": (0.10, None),
    "corrections": (0.10, "corrections"),
    "sorted": (0.10, "batch"),
    "drift": (0.10, None),
    "what-if": (0.07, "interactive"),
    "constants": (0.05, "integration-test"),
    "faults": (0.08, None),
}
OUTSIDE = ("unseen-clusters", "other-units")


def table(name: str) -> tuple[Any, Any]:
    """Inputs and classes of a real table: scikit-learn's, or from a Debian package, which is kept in .bench/.

    Raises SystemExit where a package is out of reach.
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        return x / 16, y
    kept = CACHE / f"{name}.npz"
    if not kept.exists():
        import pandas
        import pyreadr

        package, data = PACKAGES[name]
        folder = CACHE / package
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if not list(folder.rglob(f"{data}.rda")):
                subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
                subprocess.run(["dpkg", "-x", next(folder.glob("*.deb")).name, "."], cwd=folder, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"{name}: the Debian package {package} cannot be fetched: {error}") from None
        frame = next(iter(pyreadr.read_r(str(next(folder.rglob(f"{data}.rda")))).values()))
        target = {"letters": "lettr", "spam": "type", "ticdata": "CARAVAN", "satellite": "classes"}[name]
        inputs = frame.drop(columns=target)
        coded = [
            pandas.factorize(inputs[c], sort=True)[0]
            if inputs[c].dtype == object or str(inputs[c].dtype) == "category"
            else inputs[c].to_numpy()
            for c in inputs
        ]
        np.savez_compressed(
            kept, x=np.array(coded, float).T, y=pandas.factorize(frame[target], sort=True)[0].astype(int)
        )
    held = np.load(kept)
    return held["x"], held["y"]


def model(kind: str, seed: int = 0) -> Any:
    """An unfitted scikit-learn model."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made = {
        "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
        "boosting": lambda: HistGradientBoostingClassifier(max_iter=40, random_state=seed),
        "forest": lambda: RandomForestClassifier(60, min_samples_leaf=2, random_state=seed),
        "balanced-forest": lambda: RandomForestClassifier(  # of 6 % of the rows, which a forest else never answers
            60, min_samples_leaf=10, class_weight="balanced", random_state=seed
        ),
        "mlp": lambda: make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=60, random_state=seed)),
    }
    return made[kind]()


@dataclass
class World:
    """A table, its split, and the model that is served."""

    name: str
    kind: str
    shares = SHARES

    def __post_init__(self) -> None:
        x, y = self.table()
        rng = np.random.default_rng(20)
        order = rng.permutation(len(x))
        cuts = np.cumsum([round(share * len(x)) for share in self.shares.values()])[:-1]
        parts = np.split(order, cuts)
        self.rows: dict[str, Any] = {name: x[part] for name, part in zip(self.shares, parts, strict=True)}
        self.truth: dict[str, Any] = {name: y[part] for name, part in zip(self.shares, parts, strict=True)}
        self.d, self.outputs = x.shape[1], int(y.max()) + 1
        self.low, self.high, self.sd = x.min(0), x.max(0), np.maximum(x.std(0), 1e-9)
        self.values = [np.unique(column) for column in x.T]  # what a customer can type into a field

    def table(self) -> tuple[Any, Any]:
        """Inputs and classes."""
        return table(self.name)

    @cached_property
    def served(self) -> Any:
        return model(self.kind).fit(self.rows["training"], self.truth["training"])

    def probabilities(self, x: Any) -> Any:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self.served.predict_proba(x)
        if found.shape[1] < self.outputs:
            wide = np.zeros((len(x), self.outputs))
            wide[:, self.served.classes_] = found
            return wide
        return found

    def answers(self, x: Any, label_only: bool = False) -> Any:
        from understudy.types import Answers, Signal

        p = self.probabilities(x)
        return Answers({Signal.LABEL: p.argmax(1)} if label_only else {Signal.PROBABILITIES: p}, self.outputs)

    @cached_property
    def clusters(self) -> dict[str, list[Any]]:
        """Rows of each cluster, per part of the split."""
        from sklearn.cluster import KMeans

        scaled = {part: (x - self.rows["training"].mean(0)) / self.sd for part, x in self.rows.items()}
        made = KMeans(CLUSTERS, n_init=1, random_state=0).fit(np.clip(scaled["training"], -8, 8))
        order = np.argsort(-np.bincount(made.labels_, minlength=CLUSTERS), kind="stable")
        near = {part: np.argsort(order)[made.predict(np.clip(x, -8, 8))] for part, x in scaled.items()}
        return {
            part: [x[near[part] == k] if (near[part] == k).any() else x[:1] for k in range(CLUSTERS)]
            for part, x in self.rows.items()
        }

    def on_grid(self, x: Any) -> Any:
        """Each value replaced by the nearest that its column really has."""
        found = np.empty_like(x, dtype=float)
        for j, values in enumerate(self.values):
            at = np.clip(np.searchsorted(values, x[:, j]), 1, max(len(values) - 1, 1))
            low, high = values[at - 1], values[np.minimum(at, len(values) - 1)]
            found[:, j] = np.where(x[:, j] - low <= high - x[:, j], low, high)
        return found


# customers


def drawn(world: World, part: str, mix: Any, n: int, rng: Any) -> Any:
    """Rows of clusters in the proportions of `mix` (one row, or one per query)."""
    pools = world.clusters[part]
    edges = np.cumsum(np.broadcast_to(mix, (n, len(pools))), 1)
    chosen = np.minimum((rng.random((n, 1)) * edges[:, -1:] > edges).sum(1), len(pools) - 1)
    found = np.empty((n, world.d))
    for k in np.unique(chosen):
        mine = np.flatnonzero(chosen == k)
        found[mine] = pools[k][rng.integers(len(pools[k]), size=len(mine))]
    return found


def a_mix(rng: Any, among: Any = None) -> Any:
    """An account's own mix of the clusters that customers of the portfolio have."""
    mix = np.zeros(CLUSTERS)
    among = np.r_[0 : CLUSTERS - UNSEEN - 1, CLUSTERS - 1] if among is None else among
    mix[among] = rng.dirichlet(np.full(len(among), 0.3))
    return mix


def customer(world: World, part: str, behaviour: str, n: int, rng: Any) -> Any:
    """(n, d) queries of one customer."""
    x = drawn(world, part, a_mix(rng), n, rng)
    return _BEHAVIOURS.get(behaviour, lambda w, p, x, r: x)(world, part, x, rng)


def _iid(world: World, part: str, x: Any, rng: Any) -> Any:
    rows = np.concatenate([c for k, c in enumerate(world.clusters[part]) if k not in unseen()])
    return rows[rng.integers(len(rows), size=len(x))]


def unseen() -> tuple[int, ...]:
    """The clusters that no calibration customer has."""
    return tuple(range(CLUSTERS - UNSEEN - 1, CLUSTERS - 1))


def _one_cluster(world: World, part: str, x: Any, rng: Any) -> Any:
    known = [k for k in range(CLUSTERS) if k not in unseen()]
    return drawn(world, part, np.eye(CLUSTERS)[rng.choice(known)], len(x), rng)


def _unseen_clusters(world: World, part: str, x: Any, rng: Any) -> Any:
    return drawn(world, part, a_mix(rng, np.array(unseen())), len(x), rng)


def _retries(world: World, part: str, x: Any, rng: Any) -> Any:
    for i in range(1, len(x)):
        u = rng.random()
        if u < 0.28:
            x[i] = x[i - 1] if u < 0.2 else x[rng.integers(i)]
    return x


def _corrections(world: World, part: str, x: Any, rng: Any) -> Any:
    share = rng.uniform(0.3, 0.7)
    for i in range(1, len(x)):
        if rng.random() < share:
            fields = rng.choice(world.d, rng.integers(1, 4), replace=False)
            fresh = x[i].copy()
            x[i] = x[rng.integers(max(0, i - 20), i)]
            x[i, fields] = fresh[fields]
    return x


def _sorted(world: World, part: str, x: Any, rng: Any) -> Any:
    start = 0
    while start < len(x):
        batch = slice(start, start + int(rng.integers(50, 200)))
        x[batch] = x[batch][np.argsort(x[batch, rng.integers(world.d)], kind="stable")]
        start = batch.stop
    return x


def _drift(world: World, part: str, x: Any, rng: Any) -> Any:
    t = np.linspace(0, 1, len(x))[:, None]
    x = drawn(world, part, (1 - t) * a_mix(rng) + t * a_mix(rng), len(x), rng)
    columns = rng.choice(world.d, max(1, world.d // 10), replace=False)
    x[:, columns] *= 1 + 0.15 * t
    return world.on_grid(x)


def _what_if(world: World, part: str, x: Any, rng: Any) -> Any:
    i = 0
    while i < len(x):
        record = x[i].copy()
        for field in rng.choice(world.d, rng.integers(1, min(6, world.d + 1)), replace=False):
            steps = np.sort(rng.choice(world.values[field], rng.integers(3, 11)))
            for value in steps:
                if i < len(x):
                    x[i] = record
                    x[i, field] = value
                    i += 1
    return x


def _constants(world: World, part: str, x: Any, rng: Any) -> Any:
    constant = (np.zeros(world.d), np.ones(world.d), x[0].copy())[rng.integers(3)]
    x[rng.random(len(x)) < rng.choice([0.05, 0.3, 0.95])] = constant
    return x


def _faults(world: World, part: str, x: Any, rng: Any) -> Any:
    rows = np.flatnonzero(rng.random(len(x)) < rng.choice([0.01, 0.05, 0.15]))
    fault = rng.integers(4)
    for i in rows:
        fields = rng.choice(world.d, rng.integers(1, 4), replace=False)
        x[i, fields] = (np.full(len(fields), -999.0), x[i, fields] * 10, x[i, fields] * 0.1, np.zeros(len(fields)))[
            fault
        ]
    return x


def _other_units(world: World, part: str, x: Any, rng: Any) -> Any:
    columns = rng.choice(world.d, max(1, world.d // 8), replace=False)
    x[:, columns] *= rng.uniform(1.2, 1.6)
    return x


_BEHAVIOURS: dict[str, Callable[[World, str, Any, Any], Any]] = {
    "iid": _iid,
    "one-cluster": _one_cluster,
    "retries": _retries,
    "corrections": _corrections,
    "sorted": _sorted,
    "drift": _drift,
    "what-if": _what_if,
    "constants": _constants,
    "faults": _faults,
    "unseen-clusters": _unseen_clusters,
    "other-units": _other_units,
}


def behaviours(n: int, rng: Any) -> list[str]:
    """`n` behaviours in the portfolio's proportions."""
    names = list(PORTFOLIO)
    return [names[k] for k in rng.choice(len(names), n, p=[PORTFOLIO[name][0] for name in names])]


def queries(world: World, name: str, x: Any, segment: str | None = None) -> Any:
    """The rows as queries of one account, a minute apart."""
    from understudy.watch import Queries

    return Queries(name, name, 1.7e9 + 60.0 * np.arange(len(x)), x, world.answers(x), segment=segment)


# thieves


def knockoff(world: World, n: int, rng: Any) -> Any:
    """Rows like the owner's."""
    rows = world.rows["thief"]
    return rows[rng.integers(len(rows), size=n)]


def foreign(world: World, n: int, rng: Any) -> Any:
    """Rows of another table, mapped onto the columns by their quantiles."""
    other = table("spam" if world.name != "spam" else "letters")[0]
    rows = other[rng.integers(len(other), size=n)]
    found = np.empty((n, world.d))
    for j in range(world.d):
        column, asked = np.sort(other[:, j % other.shape[1]]), rows[:, j % other.shape[1]]
        low, high = (np.searchsorted(column, asked, side) for side in ("left", "right"))
        rank = (low + rng.random(n) * (high - low)) / len(column)  # equal values are spread over their ranks
        found[:, j] = np.quantile(world.rows["thief"][:, j], np.clip(rank, 0, 1), method="nearest")
    return found


def uniform(world: World, n: int, rng: Any) -> Any:
    return rng.uniform(world.low, world.high, (n, world.d))


def uniform_on_grid(world: World, n: int, rng: Any) -> Any:
    return world.on_grid(uniform(world, n, rng))


def marginals(world: World, n: int, rng: Any) -> Any:
    """Every column drawn by itself."""
    return np.stack([rng.choice(column, n) for column in world.rows["thief"].T], 1)


def smote(world: World, n: int, rng: Any) -> Any:
    """Between a row and one of its neighbours, on the grid."""
    rows = world.rows["thief"]
    one, others = rows[rng.integers(len(rows), size=n)], rows[rng.integers(len(rows), size=(n, 40))]
    apart = (((others - one[:, None]) / world.sd) ** 2).sum(2)
    mate = others[np.arange(n), np.where(apart > 0, apart, np.inf).argmin(1)]
    return world.on_grid(one + rng.random((n, 1)) * (mate - one))


def equations(world: World, n: int, rng: Any) -> Any:
    """The origin, unit vectors, steps of one sd, then Gaussian rows."""
    fixed = np.concatenate([np.zeros((1, world.d)), np.eye(world.d), np.diag(world.sd)])
    mean = world.rows["thief"].mean(0)
    return np.concatenate([fixed, mean + world.sd * rng.standard_normal((n, world.d))])[:n]


def bisection(world: World, n: int, rng: Any) -> Any:
    """Between rows of different classes, twelve halvings each."""
    rows, steps = world.rows["thief"], 12
    labels = world.probabilities(rows).argmax(1)
    pairs = -(-n // (steps + 2))
    one = rng.integers(len(rows), size=pairs)
    other = np.array([rng.choice(np.flatnonzero(labels != labels[i])) for i in one])
    low, high, asked = rows[one], rows[other], [rows[one], rows[other]]
    for _ in range(steps):
        middle = (low + high) / 2
        asked.append(middle)
        same = (world.probabilities(middle).argmax(1) == labels[one])[:, None]
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return np.stack(asked, 1).reshape(-1, world.d)[:n]


def tree_paths(world: World, n: int, rng: Any) -> Any:
    """One field at a time to both ends of its range, then halved towards where the answer changes."""
    asked: list[Any] = []
    while sum(map(len, asked)) < n:
        record = world.rows["thief"][rng.integers(len(world.rows["thief"]))]
        label = world.probabilities(record[None]).argmax(1)[0]
        rows = np.repeat(record[None], world.d, 0)
        per_field: list[list[Any]] = [[] for _ in range(world.d)]
        for end in (world.low, world.high):
            far, each = record.copy() * 1.0, rows.copy()
            np.fill_diagonal(each, end)
            changed = world.probabilities(each).argmax(1) != label
            near, far = record.copy(), end.copy()
            for j in range(world.d):
                per_field[j].append(each[j])
            for _ in range(8):
                middle = (near + far) / 2
                each = rows.copy()
                np.fill_diagonal(each, middle)
                same = world.probabilities(each).argmax(1) == label
                for j in np.flatnonzero(changed):
                    per_field[j].append(each[j])
                near, far = np.where(same, middle, near), np.where(same, far, middle)
        asked.append(np.concatenate([record[None], *[np.array(p) for p in per_field]]))
    return np.concatenate(asked)[:n]


def jacobian(world: World, n: int, rng: Any, on_grid: bool = False) -> Any:
    """60 real seeds, then steps along the sign of a substitute's gradient (Papernot et al. 2017)."""
    from sklearn.linear_model import LogisticRegression

    x = knockoff(world, min(60, n), rng)
    step = np.maximum(0.5 * world.sd, 1e-9) if on_grid else 0.1 * world.sd
    while len(x) < n:
        labels = world.probabilities(x).argmax(1)
        if len(np.unique(labels)) < 2:
            return np.concatenate([x, knockoff(world, n - len(x), rng)])
        copy = LogisticRegression(max_iter=60, tol=1e-2).fit((x - x.mean(0)) / world.sd, labels)
        slopes = copy.coef_ if len(copy.coef_) > 1 else np.concatenate([-copy.coef_, copy.coef_])
        sign = np.sign(slopes[np.searchsorted(copy.classes_, labels)])
        made = x + step * sign
        x = np.concatenate([x, world.on_grid(made) if on_grid else made])
    return x[:n]


def jacobian_on_grid(world: World, n: int, rng: Any) -> Any:
    return jacobian(world, n, rng, on_grid=True)


def active(world: World, n: int, rng: Any) -> Any:
    """Real rows and SMOTE, those that a forest of the thief's is least certain of."""
    from sklearn.ensemble import ExtraTreesClassifier

    x, size = knockoff(world, min(50, n), rng), 50
    while len(x) < n:
        labels = world.probabilities(x).argmax(1)
        offered = np.concatenate([knockoff(world, 4 * size, rng), smote(world, 4 * size, rng)])
        told = np.sort(ExtraTreesClassifier(20, random_state=0).fit(x, labels).predict_proba(offered), 1)
        doubt = told[:, -1] - (told[:, -2] if told.shape[1] > 1 else 0)
        x, size = np.concatenate([x, offered[np.argsort(doubt, kind="stable")[:size]]]), 2 * size
    return x[:n]


#: name: (queries of it, whether made-up rows of that family trained the structure score, whether it is blatant)
THIEVES: dict[str, tuple[Callable[[World, int, Any], Any], bool, bool]] = {
    "in-distribution knockoff": (knockoff, False, False),
    "foreign pool, mapped": (foreign, False, True),
    "uniform, continuous": (uniform, True, True),
    "uniform, on grid": (uniform_on_grid, True, True),
    "independent marginals": (marginals, True, False),
    "SMOTE, on grid": (smote, True, False),
    "equation solving": (equations, False, True),
    "bisection": (bisection, False, True),
    "tree path-finding": (tree_paths, False, True),
    "JBDA, continuous": (jacobian, False, False),
    "JBDA, on grid": (jacobian_on_grid, False, False),
    "active learning": (active, False, False),
}


def diluted(world: World, asked: Any, benign_per_attack: int, life: int, rng: Any) -> tuple[Any, Any]:
    """An account's life of attack queries among a customer's own, and which of them are the attack's."""
    if not benign_per_attack:
        return asked[:life], np.ones(min(life, len(asked)), bool)
    attack = rng.random(life) < 1 / (1 + benign_per_attack)
    x = customer(world, "test", "mix", life, rng)
    x[attack] = asked[: int(attack.sum())]
    return x, attack
