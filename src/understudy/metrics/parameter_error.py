"""How far apart two sets of parameters are, where the truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from understudy.errors import UsageError
from understudy.metrics._network_form import matched, network_form
from understudy.protocols import Target
from understudy.targets.network import NetworkTarget
from understudy.types import EXPLANATIONS, Floats, Signal


@dataclass(frozen=True)
class ParameterError:
    """Largest absolute difference of the parameters of two models, in a normal form that answers can fix.

    Linear models: adding the same weights and bias to every class changes no softmax and no class, so models that
    answer classes are centred over the classes; a positive factor changes no class, so where the substitute was made
    from labels alone, both are scaled to unit length (all weights and biases as one vector). Models that answer values
    have nothing to choose and are compared as they are. For a one-vs-rest model the centring forgets the part that all
    classes share, so there the figure bounds the error from below.

    Networks with one hidden layer: units are put in the same order, turned to the same side, and a ReLU's weights and
    bias scaled to length one, as none of this changes an answer. A unit that one of the two lacks counts as zeros.

    Reference:
        Tramer et al., USENIX Security 2016, section 4.1; Carlini et al., CRYPTO 2020, section 7 (largest difference
        after normalisation).
    """

    against: ClassVar[str] = "target"
    higher_is_closer: ClassVar[bool] = False
    needs: ClassVar[frozenset[Signal]] = frozenset(Signal) - EXPLANATIONS

    def measure(self, substitute: Target, reference: Target, inputs: Floats) -> Floats:
        """One value per parameter: of linear models c (d + 1), weights row by row, then biases; of networks unit by
        unit (d + 1 + c each), then the linear part. `inputs` are not asked.

        Raises UsageError where either model shows no parameters, or they are of different kinds or sizes.
        """
        copy, model = _network(substitute), _network(reference)
        if copy is not None and model is not None:
            return _networks(copy, model)
        mine, theirs = _normal(substitute, "substitute"), _normal(reference, "reference")
        if mine.shape != theirs.shape:
            raise UsageError(f"parameters of shape {mine.shape} and {theirs.shape} cannot be compared")
        if substitute.exposure.signals == {Signal.LABEL}:
            mine, theirs = _unit(mine), _unit(theirs)
        error = np.abs(mine - theirs)
        return np.concatenate([error[:, :-1].ravel(), error[:, -1]])

    def summary(self, values: Floats) -> float:
        """The largest."""
        return float(values.max()) if len(values) else math.nan


def _network(target: Target) -> NetworkTarget | None:
    found = target if isinstance(target, NetworkTarget) else getattr(target, "network", None)
    return found if isinstance(found, NetworkTarget) else None


def _networks(substitute: NetworkTarget, reference: NetworkTarget) -> Floats:
    mine, theirs = network_form(substitute, "substitute"), network_form(reference, "reference")
    if mine.linear.shape != theirs.linear.shape or substitute.activation != reference.activation:
        raise UsageError("networks of different inputs, outputs or activations cannot be compared")
    a, b = matched(mine, theirs)
    return np.concatenate([np.abs(a - b).ravel(), np.abs(mine.linear - theirs.linear).ravel()])


def _normal(target: Target, whose: str) -> Floats:
    """(c, d + 1): weights and bias side by side, centred over the classes where there are classes."""
    given = getattr(target, "parameters", None)
    if not given or not {"weights", "bias"} <= given.keys():
        raise UsageError(f"parameter-error needs the weights and bias of both models; the {whose} shows none")
    bias = np.asarray(given["bias"], np.float64)
    both = np.column_stack([np.asarray(given["weights"], np.float64).reshape(len(bias), -1), bias])
    return both if target.exposure.signals == {Signal.VALUE} else both - both.mean(0)


def _unit(parameters: Floats) -> Floats:
    length = float(np.linalg.norm(parameters))
    return parameters / length if length else parameters
