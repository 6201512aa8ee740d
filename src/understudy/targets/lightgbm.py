"""A LightGBM model as a target, from the text file that it saves."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np

from understudy.errors import ManifestError, MissingExtra
from understudy.targets._booster import BoosterTarget, exposed, unreadable
from understudy.types import Array, Floats, Signal, Space


class LightgbmTarget(BoosterTarget):
    """Boosted trees of LightGBM. Inputs are compared as float64; NaN is missing."""

    @classmethod
    def load(cls, path: Path, space: Space, signals: Iterable[Signal] | None = None) -> Self:
        """A model that `save_model` wrote (.txt). `signals`: what it shall answer (default: all it can).

        Raises ManifestError for anything else, for other numbers of columns than the space's, for objectives that are
        neither probabilities nor values (ranking), and for signals the model cannot give.
        """
        try:
            import lightgbm
        except ModuleNotFoundError:
            raise MissingExtra("LightGBM models need it installed: pip install 'understudy[lightgbm]'") from None
        try:
            text = path.read_text(encoding="utf-8")
            if not _whole(text):  # the library ends the process over some files that are no model, or a part of one
                raise ValueError("it does not begin as one, or a part is missing")
        except (ValueError, OSError) as error:
            raise unreadable(path, "LightGBM", error) from None
        objective = _objective(text)
        if objective in ("lambdarank", "rank_xendcg", "multiclassova", "none"):
            raise ManifestError(f"{path} has the objective {objective}: neither probabilities of classes nor values")
        try:
            booster = lightgbm.Booster(model_str=text)
        except (lightgbm.basic.LightGBMError, ValueError) as error:
            raise unreadable(path, "LightGBM", error) from None
        d = int(np.prod(space.shape))
        if booster.num_feature() != d:
            raise ManifestError(f"{path} takes {booster.num_feature()} columns; the space has {d}")
        classes = {"binary": 2, "multiclass": booster.num_model_per_iteration()}.get(objective, 0)

        def predict(x: Floats) -> Array:
            return np.asarray(booster.predict(x, validate_features=False))

        def margins(x: Floats) -> Array:
            return np.asarray(booster.predict(x, raw_score=True, validate_features=False))

        return cls(predict, margins, exposed(str(path), classes, 1, signals), space)


def _whole(text: str) -> bool:
    """Whether a file begins as a model's, every tree is where its head says, and the settings at its end are all there.

    Not whether what the trees hold makes sense.
    """
    head, _, rest = text.partition("\n\n")
    sizes = next((line[11:].split() for line in head.splitlines() if line.startswith("tree_sizes=")), [])
    if not head.startswith("tree\n") or not sizes or not all(size.isdecimal() for size in sizes):
        return False
    body, starts = rest.lstrip("\n").encode(), [0, *accumulate(map(int, sizes))]
    marks = [b"Tree=%d\n" % i for i in range(len(sizes))] + [b"end of trees\n"]
    there = all(body.startswith(mark, at) for at, mark in zip(starts, marks, strict=True))
    return there and ("\nend of parameters\n" in text or "\nparameters:" not in text)


def _objective(text: str) -> str:
    """What was trained for; "none" where the file does not say, or a function did."""
    said = next((line[10:].split() for line in text.splitlines() if line.startswith("objective=")), [])
    return said[0] if said else "none"
