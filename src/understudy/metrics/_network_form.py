"""Networks with one hidden layer, freed of everything that changes no answer: order, scale and side of units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from understudy.errors import UsageError
from understudy.targets.network import NetworkTarget
from understudy.types import Floats


@dataclass(frozen=True, eq=False)
class Form:
    """`units` (h, d + 1 + c): weights, bias, and what a unit adds to each output; `linear` (c, d + 1): the rest."""

    units: Floats
    linear: Floats


def network_form(network: NetworkTarget, whose: str) -> Form:
    """One form of all networks that answer alike, but for the order of units.

    A ReLU's weights and bias get length one, the outputs take the factor. Units that face the other way say the same
    with a linear term beside them (relu(z) = relu(-z) + z, tanh(z) = -tanh(-z), sigma(z) = 1 - sigma(-z)), so each is
    turned until its largest weight is positive. Outputs are centred where they are scores of classes. Raises UsageError
    for more hidden layers than one.
    """
    if len(network.layers) != 2:
        raise UsageError(f"parameter-error compares networks with one hidden layer; the {whose} has another number")
    (weights, bias), (out, last) = network.layers
    d, rows = weights.shape[1], np.column_stack([weights, bias])
    skip = np.zeros((len(last), d)) if network.skip is None else network.skip
    columns, linear = out.copy(), np.column_stack([skip, last])
    if network.link == "softmax":
        columns, linear = columns - columns.mean(0), linear - linear.mean(0)
    if network.activation == "relu":
        length = np.linalg.norm(rows, axis=1)
        scale = np.where(length > 0, length, 1.0)
        rows, columns = rows / scale[:, None], columns * scale
    largest = np.abs(rows[:, :d]).argmax(1)
    turned = rows[np.arange(len(rows)), largest] < 0
    if network.activation == "relu":
        linear = linear + columns[:, turned] @ rows[turned]
    elif network.activation == "logistic":
        linear[:, -1] += columns[:, turned].sum(1)
    rows[turned] *= -1
    if network.activation != "relu":
        columns[:, turned] *= -1
    return Form(np.column_stack([rows, columns.T]), linear)


def matched(mine: Form, theirs: Form) -> tuple[Floats, Floats]:
    """Units of both in one order, the nearest side by side; zeros stand for those that one of them lacks."""
    from scipy.optimize import linear_sum_assignment

    most = max(len(mine.units), len(theirs.units))
    a, b = (np.vstack([f.units, np.zeros((most - len(f.units), f.units.shape[1]))]) for f in (mine, theirs))
    apart = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    order, place = linear_sum_assignment(apart)
    return a[order], b[place]
