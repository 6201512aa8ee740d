"""A scikit-learn model as a target, from a skops file. Pickles are refused: loading one runs code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from understudy.errors import ManifestError, MissingExtra
from understudy.targets.callable import checked
from understudy.targets.network import ACTIVATIONS, NetworkTarget
from understudy.texts import plain
from understudy.types import Answers, Ask, Exposure, Floats, Signal, Space

_METHODS = {
    Signal.PROBABILITIES: "predict_proba",
    Signal.LOGITS: "decision_function",
    Signal.LABEL: "predict",
    Signal.VALUE: "predict",
}


@dataclass(frozen=True, eq=False)
class SklearnTarget:
    """A scikit-learn model. `model`: a fitted estimator; classes are answered as indices into its `classes_`."""

    model: Any
    exposure: Exposure
    space: Space

    @classmethod
    def load(
        cls, path: Path, space: Space, signals: Iterable[Signal] | None = None, trusted: Iterable[str] = ()
    ) -> Self:
        """A model from a skops file.

        `signals`: what it shall answer (default: all it can). `trusted`: names of types the file may hold beyond those
        that skops trusts. Raises ManifestError for anything else than a skops file, for untrusted types, and for
        signals the model cannot give.
        """
        try:
            import skops.io
        except ModuleNotFoundError:
            raise MissingExtra("scikit-learn models need skops: pip install skops") from None
        try:
            head = path.read_bytes()[:2]
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read: {error.strerror}") from None
        if path.suffix in {".pkl", ".pickle", ".joblib"} or head[:1] == b"\x80":
            raise ManifestError(
                f"{path} is a pickle: loading one runs whatever code is in it. Convert it where you trust it: "
                f"import joblib, skops.io; "
                f"skops.io.dump(joblib.load({path.name!r}), {path.with_suffix('.skops').name!r})"
            )
        try:
            unknown = sorted(set(skops.io.get_untrusted_types(file=path)) - set(trusted))
            if unknown:
                raise ManifestError(f"{path} holds types that are not trusted: {', '.join(unknown)} (target.trusted)")
            model = skops.io.load(path, trusted=list(trusted))
        except ManifestError:
            raise
        except Exception as error:
            raise ManifestError(f"{path} is not a skops file that can be loaded: {error}") from None
        return cls.of(model, space, signals)

    @classmethod
    def of(cls, model: Any, space: Space, signals: Iterable[Signal] | None = None) -> Self:
        """A fitted estimator as a target. Raises ManifestError for signals it cannot give."""
        can = [s for s, method in _METHODS.items() if hasattr(model, method)]
        classes = getattr(model, "classes_", None)
        can = [s for s in can if (s is Signal.VALUE) == (classes is None)]
        wanted = [Signal(s) for s in signals] if signals is not None else can
        missing = [s.value for s in wanted if s not in can]
        if missing:
            name = type(model).__name__
            raise ManifestError(f"{name} cannot give {', '.join(missing)}; it gives {', '.join(can) or 'nothing'}")
        outputs = len(classes) if classes is not None else int(np.size(getattr(model, "intercept_", 0.0))) or 1
        return cls(model, Exposure.of([s.value for s in wanted], outputs), space)

    @property
    def parameters(self) -> dict[str, Floats] | None:
        """Weights (outputs, d) and bias (outputs,) of a linear model, scaling steps folded in; a network's, layer by
        layer; None for any other model.
        """
        last = self._last
        if not hasattr(last, "coef_") or not hasattr(last, "intercept_"):
            network = self.network
            return None if network is None else network.parameters
        found = self._unscaled(np.atleast_2d(np.asarray(last.coef_, np.float64)), np.asarray(last.intercept_))
        if found is None:
            return None
        weights, bias = found
        if self.exposure.outputs == 2 and len(bias) == 1:
            weights, bias = np.vstack([0 * weights, weights]), np.concatenate([[0.0], bias])
        return {"weights": weights, "bias": bias}

    @property
    def network(self) -> NetworkTarget | None:
        """A multi-layer perceptron as a network, scaling steps folded in; None for any other model."""
        last = self._last
        if not hasattr(last, "coefs_") or last.activation not in ACTIVATIONS:
            return None
        layers = [
            (np.asarray(w, np.float64).T, np.asarray(b, np.float64))
            for w, b in zip(last.coefs_, last.intercepts_, strict=True)
        ]
        first = self._unscaled(*layers[0])
        if first is None:
            return None
        weights, bias = layers[-1]
        if last.out_activation_ == "logistic":
            if len(bias) > 1:
                return None  # labels of their own, each yes or no
            weights, bias = np.vstack([0 * weights, weights]), np.concatenate([[0.0], bias])
        link: Literal["softmax", "identity"] = "identity" if last.out_activation_ == "identity" else "softmax"
        return NetworkTarget((first, *layers[1:-1], (weights, bias)), self.space, last.activation, link)

    @property
    def _last(self) -> Any:
        return getattr(self.model, "steps", [("model", self.model)])[-1][1]

    def _unscaled(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats] | None:
        """Weights and bias on the inputs as they are asked; None behind steps that are not linear."""
        bias = np.atleast_1d(np.asarray(bias, np.float64))
        for _, step in reversed(getattr(self.model, "steps", [])[:-1]):
            if hasattr(step, "mean_") and hasattr(step, "scale_"):
                scale = 1.0 if step.scale_ is None else step.scale_
                mean = 0.0 if step.mean_ is None else step.mean_
                bias, weights = bias - (weights / scale) @ (mean * np.ones(weights.shape[1])), weights / scale
            elif hasattr(step, "min_") and hasattr(step, "scale_"):
                bias, weights = bias + weights @ step.min_, weights * step.scale_
            else:
                return None
        return weights, bias

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Every exposed signal, held against the exposure."""
        x = self.space.check(inputs)
        if not len(x):
            return self.exposure.nothing(0, self.space.shape)
        flat = plain(x.reshape(len(x), -1) if self.space.shape else x)
        raw: dict[str, Any] = {signal: getattr(self.model, _METHODS[signal])(flat) for signal in self.exposure.grains}
        if Signal.LABEL in raw:
            raw[Signal.LABEL] = np.searchsorted(self.model.classes_, raw[Signal.LABEL])
        answers = checked(raw, len(x), self.exposure, self.space.shape)
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)
