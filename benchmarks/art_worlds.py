"""What ART's thieves attack in art_noticed.py: two models of small pictures, their customers, the thieves' pools."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portfolio import CACHE, World, behaviours, customer

SEEDS, ATTACKS = (0, 1, 2), ("KnockoffNets", "CopycatCNN")
FAR = (100, 250, 500, 1000, 2000, 4000, 8000)
KNOWN, NEW, LIFE, LEVEL = 400, 60, 128, 0.01
#: the pools with which each model is attacked, and how many queries
BUDGETS = {
    "digits": {"uniform": FAR, "fashion": FAR, "digits": (50, 100, 200, 390)},
    "clothes": {"clothes": (50, 100, 400)},
}
FAR_POOLS = ("uniform", "fashion")
FEW = 390  # queries up to which our copies are trained on the same answers
PARTS = {"training": 0.24, "owner": 0.2, "calibration": 0.13, "test": 0.08, "thief": 0.22, "held": 0.13}


class Run(NamedTuple):
    """One run of one attack, which is one account of the guard."""

    attack: str
    pool: str
    seed: int
    budget: int

    @property
    def party(self) -> str:
        return f"{self.attack}-{self.pool}-{self.seed}-{self.budget}"

    @property
    def converges(self) -> bool:
        """Whether it is trained on until it has converged: where nobody but the meter can speak of it."""
        return self.pool not in FAR_POOLS


def runs(world: str) -> list[Run]:
    """Every run against one model: those that train on until they have converged, then small budgets before large."""
    pools = BUDGETS[world].items()
    found = [Run(a, p, seed, b) for a in ATTACKS for p, budgets in pools for seed in SEEDS for b in budgets]
    return sorted(found, key=lambda run: (not run.converges, run.budget))


class Pictures(World):
    """Pictures of 8 x 8 in [0, 1] on 17 grey levels, and a network of 64 ReLU units."""

    shares = PARTS

    def __init__(self, name: str) -> None:
        super().__init__(name, "network")

    def table(self) -> tuple[Any, Any]:
        if self.name == "digits":
            return super().table()
        x, y = clothes("train")
        return x[:20_000], y[:20_000]

    @cached_property
    def served(self) -> Any:
        from sklearn.neural_network import MLPClassifier

        made = MLPClassifier((64,), max_iter=1000, random_state=0)
        return made.fit(self.rows["training"], self.truth["training"])

    def pools(self) -> dict[str, Any]:
        """The rows that thieves have, but for noise, which they draw; and the hold-out with the model's classes."""
        held = self.rows["held"]
        found = {"held": held, "answered": self.probabilities(held).argmax(1), self.name: self.rows["thief"]}
        return found | ({"fashion": clothes("t10k")[0]} if self.name == "digits" else {})


def clothes(part: str) -> tuple[Any, Any]:
    """(n, 64) clothes that look like digits, and their classes: `part` train or t10k of Fashion-MNIST, from a Debian
    package, kept in .bench/.
    """
    package = "dataset-fashion-mnist"
    folder = CACHE / package
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not list(folder.rglob("t10k-images*")):
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
            subprocess.run(["dpkg", "-x", next(folder.glob("*.deb")).name, "."], cwd=folder, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"the Debian package {package} cannot be fetched: {error}") from None

    def unpacked(kind: str, offset: int) -> Any:
        path: Path = next(folder.rglob(f"{part}-{kind}*"))
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)

    images = unpacked("images", 16).reshape(-1, 28, 28)[:, 2:26, 2:26]
    grey = np.round(images.reshape(-1, 8, 3, 8, 3).mean((2, 4)) / 255 * 16)
    return grey.reshape(-1, 64) / 16, unpacked("labels", 8).astype(int)


def customers(world: World, part: str, n: int, seed: int) -> Iterator[Any]:
    """(LIFE, 64) queries of each customer of the portfolio. None sends faulty values: the guard refuses them."""
    rng = np.random.default_rng([seed, 6])
    kinds = [kind for kind in behaviours(2 * n, rng) if kind != "faults"]
    for kind in kinds[:n]:
        yield np.clip(customer(world, part, kind, LIFE, rng), 0, 1)
