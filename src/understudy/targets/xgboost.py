"""An XGBoost model as a target, from the JSON or UBJSON file that it saves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np

from understudy.errors import ManifestError, MissingExtra
from understudy.targets._booster import BoosterTarget, exposed, unreadable
from understudy.targets.linear import softmax
from understudy.types import Array, Floats, Signal, Space


class XgboostTarget(BoosterTarget):
    """Boosted trees of XGBoost. Inputs are compared as float32; NaN is missing."""

    @classmethod
    def load(cls, path: Path, space: Space, signals: Iterable[Signal] | None = None) -> Self:
        """A model that `save_model` wrote (.json, .ubj). `signals`: what it shall answer (default: all it can).

        Raises ManifestError for anything else, for other numbers of columns than the space's, for objectives that are
        neither classes nor values (ranking, survival), and for signals the model cannot give.
        """
        try:
            import xgboost
        except ModuleNotFoundError:
            raise MissingExtra("XGBoost models need it installed: pip install 'understudy[xgboost]'") from None
        booster = xgboost.Booster()
        try:
            booster.load_model(path)
        except (xgboost.core.XGBoostError, ValueError, OSError) as error:
            raise unreadable(path, "XGBoost", error) from None
        d = int(np.prod(space.shape))
        if booster.num_features() != d:
            raise ManifestError(f"{path} takes {booster.num_features()} columns; the space has {d}")
        learner: Any = json.loads(booster.save_config())["learner"]
        objective, count = learner["objective"]["name"], int(learner["learner_model_param"]["num_class"])
        if objective in ("binary:logistic", "multi:softprob", "multi:softmax"):
            classes = max(count, 2)
        elif objective.startswith("reg:") or objective in ("count:poisson", "binary:logitraw"):
            classes = 2 if objective == "binary:logitraw" else 0
        else:
            raise ManifestError(f"{path} has the objective {objective}: neither classes nor values")
        outputs = int(learner["learner_model_param"].get("num_target", 1))

        def margins(x: Floats) -> Array:
            return np.asarray(booster.predict(xgboost.DMatrix(x), output_margin=True, validate_features=False))

        def predict(x: Floats) -> Array:
            if objective in ("multi:softmax", "binary:logitraw"):  # answers a class, or the margin
                z = margins(x).astype(np.float64)
                return softmax(z if z.ndim > 1 else np.stack([0 * z, z], 1))
            return np.asarray(booster.predict(xgboost.DMatrix(x), validate_features=False))

        return cls(predict, margins, exposed(str(path), classes, outputs, signals), space)
