"""A LightGBM model as a target, from the text file that it saves."""

from __future__ import annotations

from collections.abc import Iterable
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
            if not text.startswith("tree"):  # the library ends the process over some files that are no model
                raise ValueError("it does not begin as one")
            booster = lightgbm.Booster(model_str=text)
        except (lightgbm.basic.LightGBMError, ValueError, OSError) as error:
            raise unreadable(path, "LightGBM", error) from None
        d = int(np.prod(space.shape))
        if booster.num_feature() != d:
            raise ManifestError(f"{path} takes {booster.num_feature()} columns; the space has {d}")
        objective = next((line[10:].split()[0] for line in text.splitlines() if line.startswith("objective=")), "none")
        if objective in ("lambdarank", "rank_xendcg", "multiclassova", "none"):
            raise ManifestError(f"{path} has the objective {objective}: neither probabilities of classes nor values")
        classes = {"binary": 2, "multiclass": booster.num_model_per_iteration()}.get(objective, 0)

        def predict(x: Floats) -> Array:
            return np.asarray(booster.predict(x, validate_features=False))

        def margins(x: Floats) -> Array:
            return np.asarray(booster.predict(x, raw_score=True, validate_features=False))

        return cls(predict, margins, exposed(str(path), classes, 1, signals), space)
