"""From weights and training data to hyper-parameters, each with its interval and condition, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from understudy.errors import InputError, UsageError
from understudy.stationarity import hinge
from understudy.stationarity.losses import Loss, Slope, logistic, squared_hinge, squares
from understudy.types import Floats

Scaling = Literal["none", "standard", "min-max"]
Kernel = Callable[[Floats, Floats], Floats]

#: Objectives, the simplest first: of several that explain a model, the first is taken.
OBJECTIVES = (
    "ridge",
    "lasso",
    "logistic-l2",
    "logistic-l1",
    "squared-hinge",
    "hinge",
    "elastic-net",
    "logistic-elastic-net",
    "kernel-ridge",
)
_LOSSES: Mapping[str, Loss] = {
    "ridge": squares,
    "lasso": squares,
    "elastic-net": squares,
    "logistic-l2": logistic,
    "logistic-l1": logistic,
    "logistic-elastic-net": logistic,
    "squared-hinge": squared_hinge,
}
#: A common shift of the scores changes no answer, so training takes the one with the smallest penalty.
_SMALLEST: Mapping[str, Callable[[Floats], Floats]] = {
    "logistic-l2": lambda weights: weights.mean(0),
    "logistic-l1": lambda weights: np.median(weights, 0),
    "logistic-elastic-net": lambda weights: np.zeros(weights.shape[1]),  # see `_elastic`
}
_SCALINGS: tuple[Scaling, ...] = ("none", "standard", "min-max")
_ZERO = 1e-8  # a weight that small beside the largest, per standard deviation of its column, is zero
_CONVERGED = 1e-6  # an unexplained share of the gradient above which training had not come to its end
_FAR = 3.0  # the part of the error that cannot be seen is taken for that many times the part that can
_SHIFTS = 50  # rounds in which the mix of two penalties and the shift of the scores settle on each other
_EXPLAINS = 0.5  # an unexplained share above which an objective explains nothing


@dataclass(frozen=True)
class Hyperparameters:
    """What a model was trained with, in scikit-learn's terms: `alpha`, `l1_ratio`, `C`.

    `low` and `high`: what the unexplained part of the equations leaves open. `condition`: how many times a relative
    error of the weights comes back in each. `residual`: share of the loss's gradient that the regulariser does not
    explain, 0 where training converged. `equations` that were solved for as many unknowns as there are values.
    `reason`: why a value is uncertain or cannot be known; empty where nothing is in its way.
    """

    objective: str
    scaling: Scaling
    values: Mapping[str, float] = field(default_factory=dict)
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)
    condition: Mapping[str, float] = field(default_factory=dict)
    residual: float = 1.0
    equations: int = 0
    intercept: str = "unknown"
    reason: str = ""

    @property
    def identified(self) -> bool:
        """Whether every value is a single number, certain but for rounding."""
        return bool(self.values) and not self.reason


def hyperparameters(
    parameters: Mapping[str, ArrayLike],
    inputs: ArrayLike,
    truth: ArrayLike,
    objective: str = "auto",
    scaling: str = "auto",
    kernel: Kernel | None = None,
) -> Hyperparameters:
    """What a model was trained with, from its parameters and the data it was trained on.

    `parameters`: `weights` (outputs, d) and `bias` (outputs,) of a linear model, as `Extraction.parameters` holds them
    (two rows of a binary model count as their difference), or `dual` (n,) or (n, outputs) of kernel ridge, with its
    `kernel(a, b)` -> (len(a), len(b)). `inputs` (n, d) and `truth`: values (n,) or (n, outputs), or classes (n,) from
    0. `objective`: one of OBJECTIVES, or "auto": the simplest that explains the model about as well as any. `scaling`:
    what was done to the columns before training: "none", "standard", "min-max", or "auto".

    Hyper-parameters are those of scikit-learn. Where nothing explains the model, `values` is empty and `reason` says
    so. Source: Wang and Gong, IEEE S&P 2018, sections 3 and 4. Raises UsageError for an unknown objective or scaling
    and for parameters that do not fit the objective; InputError where shapes do not fit each other.
    """
    x, y = np.asarray(inputs, np.float64), np.asarray(truth)
    x = x.reshape(len(x), -1)
    if len(y) != len(x) or not len(x):
        raise InputError(f"{len(x)} rows of training data and {len(y)} truths")
    if objective not in ("auto", *OBJECTIVES):
        raise UsageError(f"no objective is called {objective!r} (known: auto, {', '.join(OBJECTIVES)})")
    if scaling not in ("auto", *_SCALINGS):
        raise UsageError(f"no scaling is called {scaling!r} (known: auto, {', '.join(_SCALINGS)})")
    if "dual" in parameters or objective == "kernel-ridge":
        return _kernel_ridge(parameters, x, y, kernel)
    if not {"weights", "bias"} <= parameters.keys():
        raise UsageError(f"{objective} needs weights and bias; there are: {', '.join(parameters) or 'none'}")
    bias = np.atleast_1d(np.asarray(parameters["bias"], np.float64))
    weights = np.asarray(parameters["weights"], np.float64).reshape(len(bias), -1)
    if weights.shape[1] != x.shape[1]:
        raise InputError(f"weights for {weights.shape[1]} columns, and data of {x.shape[1]}")
    wanted = _fitting(y) if objective == "auto" else (objective,)
    found = [
        solved
        for way in (_SCALINGS if scaling == "auto" else (scaling,))
        for name in wanted
        for solved in _solved(name, *_scaled(x, weights, bias, way), y, way)  # type: ignore[arg-type]
    ]
    if not found:
        return Hyperparameters(objective, "none", reason=f"none of {', '.join(wanted)} explains these weights")
    least = max(min(solved.residual for solved in found), 1e-9)
    likely = [solved for solved in found if solved.residual <= 10 * least]
    simplest = min(likely, key=lambda solved: OBJECTIVES.index(solved.objective)).objective
    alike = [solved for solved in likely if solved.objective == simplest]
    least = max(min(solved.residual for solved in alike), least)
    return _against(next(solved for solved in alike if solved.residual <= 1.01 * least), alike)


def _against(best: Hyperparameters, alike: list[Hyperparameters]) -> Hyperparameters:
    """The best, and what else it may be: where columns are about as wide as each other, scaling them changes little."""
    for other in alike:
        if any(not value * 0.999 < other.values.get(key, value) < value * 1.001 for key, value in best.values.items()):
            values = ", ".join(f"{key} = {value:.6g}" for key, value in other.values.items())
            also = f"scaling {other.scaling!r} explains it about as well, with {values}"
            return replace(best, reason=f"{best.reason}; {also}" if best.reason else also)
    return best


def _fitting(truth: Any) -> tuple[str, ...]:
    """Objectives for this kind of truth: whole numbers from 0 are classes, but may also be values."""
    classes = truth.ndim == 1 and np.isin(truth, np.arange(1000)).all() and len(np.unique(truth)) <= 0.1 * len(truth)
    linear = OBJECTIVES[:-1]
    return linear if classes else tuple(name for name in linear if _LOSSES.get(name) is squares)


def _scaled(x: Floats, weights: Floats, bias: Floats, scaling: str) -> tuple[Floats, Floats, Floats]:
    """The data and the model in the columns that training saw."""
    if scaling == "none":
        return x, weights, bias
    centre = x.mean(0) if scaling == "standard" else x.min(0)
    size = x.std(0) if scaling == "standard" else np.ptp(x, 0)
    size = np.where(size > 0, size, 1.0)
    return (x - centre) / size, weights * size, bias + weights @ centre


def _solved(name: str, x: Floats, weights: Floats, bias: Floats, y: Any, scaling: Scaling) -> Iterator[Hyperparameters]:
    """The solution for one objective, if it explains the weights at all."""
    made = _model(name, x, weights, bias, y)
    if made is None:
        return
    weights, bias, truth = made
    if name == "hinge":
        solved = _hinge(x, weights, bias, truth, scaling)
    else:
        slope = _LOSSES[name](x, x @ weights.T + bias, truth)
        solved = _linear(name, x, weights, bias, slope, scaling)
        if name == "logistic-elastic-net" and len(bias) > 1:
            solved = _elastic(x, weights, bias, slope, scaling, solved)
    if solved is not None and (solved.residual <= _EXPLAINS or not solved.values):
        yield solved


def _model(name: str, x: Floats, weights: Floats, bias: Floats, y: Any) -> tuple[Floats, Floats, Floats] | None:
    """Weights, bias and truth (n, k) in the gauge that training leaves them in; None where they do not fit."""
    if _LOSSES.get(name) is squares:
        truth = np.asarray(y, np.float64).reshape(len(x), -1)
        return (weights, bias, truth) if truth.shape[1] == len(bias) else None
    labels = np.asarray(y).reshape(-1)
    if len(labels) != len(x) or not np.isin(labels, np.arange(max(len(bias), 2))).all():
        return None
    if len(bias) <= 2:
        if len(bias) == 2:
            weights, bias = weights[1:] - weights[:1], bias[1:] - bias[:1]
        return weights, bias, (labels == 1).astype(np.float64)[:, None]
    if name == "hinge":
        return None
    if name.startswith("logistic"):
        weights, bias = weights - _SMALLEST[name](weights), bias - bias.mean()
    return weights, bias, (labels[:, None] == np.arange(len(bias))).astype(np.float64)


def _linear(
    name: str, x: Floats, weights: Floats, bias: Floats, slope: Slope, scaling: Scaling
) -> Hyperparameters | None:
    """Solve b + A lambda = 0 by least squares; at weights of zero an L1 penalty gives no equation."""
    reach = np.abs(weights) * x.std(0)
    support = reach > _ZERO * reach.max(initial=0.0)
    if not support.any():
        return _all_zero(name, slope, scaling)
    l1, l2 = np.sign(weights) * support, weights
    penalties = {"lasso": [l1], "logistic-l1": [l1], "elastic-net": [l1, l2], "logistic-elastic-net": [l1, l2]}
    columns = penalties.get(name, [l2])
    used = support if columns[0] is l1 else np.ones_like(support)
    a, b = np.stack([c[used] for c in columns], 1), slope.gradient[used]
    back = np.linalg.pinv(a)
    strengths = -back @ b
    if name == "lasso" and len(b) > 1:  # coordinate descent left the equation of its last step without any error
        strengths = np.array([-b[-1] / a[-1, 0]])
    misfit = b + a @ strengths
    size = float(np.linalg.norm(b))
    if (strengths <= 0).any() or not size:
        return None
    values, chain = _named(name, strengths, len(x))
    ways = chain @ back  # change of each value per change of an equation
    curved = strengths[-1] if columns[-1] is l2 else 0.0
    condition, low, high = {}, {}, {}
    for (key, value), way in zip(values.items(), ways, strict=True):
        direction = np.zeros_like(weights)
        direction[used] = way
        moved = (slope.hessian(direction) + curved * direction)[used]
        condition[key] = float(np.linalg.norm(moved) * np.linalg.norm(weights) / abs(value))
        open_ = _FAR * float(np.linalg.norm(misfit) * np.linalg.norm(way))
        low[key], high[key] = max(value - open_, 0.0), value + open_
    residual = float(np.linalg.norm(misfit)) / size
    reason = ""
    if len(b) <= len(strengths):
        reason = f"{len(b)} equation(s) for {len(strengths)} unknown(s): nothing tests that this was the objective"
    elif residual > _CONVERGED and name != "lasso":
        reason = f"{residual:.0e} of the gradient is left: training had not converged, or it was another objective"
    return Hyperparameters(
        name,
        scaling,
        values,
        low,
        high,
        condition,
        residual,
        len(b),
        _intercept(slope, weights, bias, l1 if columns[0] is l1 else l2, strengths, residual),
        reason,
    )


def _all_zero(name: str, slope: Slope, scaling: Scaling) -> Hyperparameters | None:
    """Nothing but a bound: an L1 penalty as strong as the steepest slope, or stronger, leaves no weight."""
    least = float(np.abs(slope.gradient).max())
    if name not in ("lasso", "logistic-l1") or not least:
        return None
    bound = f"alpha from {least / len(slope.inputs):.6g} up" if name == "lasso" else f"C up to {1 / least:.6g}"
    return Hyperparameters(name, scaling, residual=0.0, reason=f"every weight is zero: any {bound} gives this model")


def _elastic(
    x: Floats, weights: Floats, bias: Floats, slope: Slope, scaling: Scaling, best: Hyperparameters | None
) -> Hyperparameters | None:
    """The mix of penalties says which common shift of the scores training took, and the shift tells the mix."""
    mix = 1.0
    for _ in range(_SHIFTS):
        if best is not None and best.residual <= 1e-3 * _CONVERGED:
            break
        weights = weights + _smallest(weights, mix)
        found = _linear("logistic-elastic-net", x, weights, bias, slope, scaling)
        if found is None or not found.values:
            break
        mix = found.values["l1_ratio"] / max(1 - found.values["l1_ratio"], 1e-12)
        best = min(best or found, found, key=lambda solved: solved.residual)
    return best


def _smallest(weights: Floats, mix: float) -> Floats:
    """Per column the shift t (d,) with the least sum over classes of mix |w + t| + (w + t)^2 / 2."""
    k = len(weights)
    signs = np.arange(-k, k + 1, 2)[:, None]  # sum of the signs between two kinks
    shifts = np.concatenate([-weights, -(weights.sum(0) + mix * signs) / k])
    moved = weights + shifts[:, None]
    cost = (mix * np.abs(moved) + moved * moved / 2).sum(1)
    return np.asarray(np.take_along_axis(shifts, cost.argmin(0)[None], 0)[0])


def _named(name: str, strengths: Floats, n: int) -> tuple[dict[str, float], Floats]:
    """Penalty strengths as scikit-learn's hyper-parameters, and the derivatives of these by those."""
    first, total = float(strengths[0]), float(strengths.sum())
    if name == "ridge":
        return {"alpha": first}, np.eye(1)
    if name == "lasso":
        return {"alpha": first / n}, np.eye(1) / n
    if len(strengths) == 1:
        return {"C": 1 / first}, np.eye(1) / -(first**2)
    ratio = first / total
    mixed = np.array([1 - ratio, -ratio]) / total
    if name == "elastic-net":
        return {"alpha": total / n, "l1_ratio": ratio}, np.stack([np.full(2, 1 / n), mixed])
    return {"C": 1 / total, "l1_ratio": ratio}, np.stack([np.full(2, -1 / total**2), mixed])


def _intercept(slope: Slope, weights: Floats, bias: Floats, penalty: Floats, strengths: Floats, residual: float) -> str:
    """What training did with the intercept: `free`, `penalised` (as liblinear does), `none`, or `unknown`."""
    pull, slack = slope.bias, max(10 * residual, 1e-6) * np.abs(slope.per_row).sum(0)
    own = np.sign(bias) if np.isin(penalty, (-1.0, 0.0, 1.0)).all() else bias
    if (np.abs(pull) <= slack).all():
        return "free"
    if (np.abs(pull + strengths[0] * own) <= slack).all():
        return "penalised"
    return "none" if not (np.abs(bias) > 1e-9 * np.abs(weights).max()).any() else "unknown"


def _hinge(x: Floats, weights: Floats, bias: Floats, truth: Floats, scaling: Scaling) -> Hyperparameters | None:
    sign = 2 * truth[:, 0] - 1
    found = hinge.solve(x, (x @ weights.T + bias)[:, 0], sign, weights[0], float(bias[0]))
    if found is None or not found.low > 0:
        return None
    reason = ""
    if found.high > found.low:
        upto = f"{found.high:.6g}" if np.isfinite(found.high) else "any"
        why = (
            f"{found.on} rows on the margin hold this model in place" if found.inside else "no row is within the margin"
        )
        reason = f"{why}: every C from {found.low:.6g} to {upto} gives it"
    elif found.residual > _CONVERGED:
        reason = f"training had not converged: {found.residual:.0e} of the weights is left"
    steep = float(found.amplification * np.linalg.norm(weights) / found.value)
    solved = Hyperparameters("hinge", scaling, {"C": found.value}, {"C": found.low}, {"C": found.high}, {"C": steep})
    return replace(solved, residual=found.residual, equations=weights.size + 1, reason=reason)


def _kernel_ridge(parameters: Mapping[str, ArrayLike], x: Floats, y: Any, kernel: Kernel | None) -> Hyperparameters:
    """(K + alpha) dual = y: alpha is what is left of y, over the dual coefficients."""
    if kernel is None or "dual" not in parameters:
        raise UsageError("kernel-ridge needs `dual` among the parameters, and the kernel")
    gram = np.asarray(kernel(x, x), np.float64)
    dual, target = (np.asarray(v, np.float64).reshape(len(x), -1) for v in (parameters["dual"], y))
    left, size = target - gram @ dual, float((dual * dual).sum())
    alpha = float((dual * left).sum()) / size if size else 0.0
    misfit = float(np.linalg.norm(left - alpha * dual) / max(float(np.linalg.norm(left)), 1e-300))
    if alpha <= 0 or misfit > _EXPLAINS:
        why = "every dual coefficient is zero" if not size else "no penalty explains these dual coefficients"
        return Hyperparameters("kernel-ridge", "none", residual=misfit, reason=why)
    steep = float(np.linalg.norm(gram @ dual + alpha * dual)) / (alpha * size**0.5)
    open_ = _FAR * misfit * alpha
    return Hyperparameters(
        "kernel-ridge",
        "none",
        {"alpha": alpha},
        {"alpha": max(alpha - open_, 0.0)},
        {"alpha": alpha + open_},
        {"alpha": steep},
        misfit,
        dual.size,
        "none",
        ""
        if misfit <= _CONVERGED
        else f"{misfit:.0e} of the residual is not explained: another kernel, or not converged",
    )
