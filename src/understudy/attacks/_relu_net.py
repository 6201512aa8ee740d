"""One hidden ReLU layer as it is being recovered: units, what they predict, their orientation, the whole network."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from understudy.attacks._frame import Frame
from understudy.attacks._jacobians import Jacobian
from understudy.attacks._kinks import Line
from understudy.targets.network import NetworkTarget
from understudy.types import Bools, Floats

_BINARY = 0.25  # an orientation found by least squares may be so far from 0 or 1
_CLOSED = 1e-4  # a linear rest of so little, relative to the slopes, is none


@dataclass(frozen=True, eq=False)
class Units:
    """m hidden units: direction (m, k) of unit length x relu(row (m, d) . u + offset (m,)).

    Which side of its hyperplane a unit is silent on is not seen where it bends: that is a linear term, recovered last.
    """

    directions: Floats
    rows: Floats
    offsets: Floats

    @classmethod
    def none(cls, k: int, d: int) -> Units:
        return cls(np.zeros((0, k)), np.zeros((0, d)), np.zeros(0))

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, which: np.ndarray) -> Units:
        return Units(self.directions[which], self.rows[which], self.offsets[which])

    def join(self, other: Units) -> Units:
        return Units(
            *(np.concatenate([getattr(self, f), getattr(other, f)]) for f in ("directions", "rows", "offsets"))
        )

    def on(self, u: Floats) -> Bools:
        """(n, m) which units are active at points (n, d), as they are turned now."""
        return np.asarray(u @ self.rows.T + self.offsets > 0)

    def slopes(self, u: Floats) -> Floats:
        """(k, d) slopes of all units together at one point (d,)."""
        return np.asarray((self.directions * (self.rows @ u + self.offsets > 0)[:, None]).T @ self.rows)

    def values(self, u: Floats) -> Floats:
        """(n, k) sum of all units at points (n, d)."""
        return np.asarray(np.maximum(u @ self.rows.T + self.offsets, 0) @ self.directions)

    def crossings(self, line: Line) -> tuple[Floats, Floats]:
        """Where each unit bends a line: t (m,), and the jump (m, k) of the slope there."""
        rate = self.rows @ line.direction
        t = -(self.rows @ line.origin + self.offsets) / np.where(rate == 0, 1e-300, rate)
        return t, self.directions * np.abs(rate)[:, None]


@dataclass(frozen=True, eq=False)
class Net:
    """Units, each oriented, a linear rest `skip` (k, d) or None, and a constant (k,). `clean`: orientations were plain.

    `rest`: size of the linear rest relative to the slopes, before it was dropped as nothing.
    """

    units: Units
    skip: Floats | None
    constant: Floats
    clean: bool
    rest: float

    def predict(self, u: Floats) -> Floats:
        """(n, k) scores."""
        y = self.units.values(u) + self.constant
        return y if self.skip is None else y + u @ self.skip.T

    def target(self, frame: Frame, basis: Floats, value: bool) -> NetworkTarget:
        """The network on inputs, with all outputs, in normal form: rows of the first layer have unit length."""
        rows, offsets = frame.weights(self.units.rows, self.units.offsets)
        size = np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
        outer, constant, skip = (self.units.directions * size[:, None]).T, self.constant, None
        if self.skip is not None:
            linear, constant = frame.weights(self.skip, constant)
            skip = basis.T @ linear
        layers = ((rows / size[:, None], offsets / size), (basis.T @ outer, basis.T @ constant))
        return NetworkTarget(layers, frame.space, link="identity" if value else "softmax", skip=skip)


def orient(units: Units, seen: Jacobian) -> tuple[Units, Floats, bool, float]:
    """Turn each unit to the side it is active on: (units, linear rest (k, d), whether that was plain, the rest's size).

    A unit guessed the wrong way round leaves a linear term: relu(z) = relu(-z) + z. So the slopes that the units do not
    explain at one point are -sum p_i direction_i row_i with p_i in {0, 1}: linear least squares, rounded.
    """
    left = seen.matrix - units.slopes(seen.u)
    size = np.maximum(np.linalg.norm(units.rows, axis=1), 1e-300)
    scaled = units.rows / size[:, None]
    gram = (units.directions @ units.directions.T) * (scaled @ scaled.T)
    right = -np.einsum("ik,kd,id->i", units.directions, left, scaled)
    p = np.linalg.lstsq(gram, right, rcond=1e-12)[0] / size
    turned = p > 0.5
    rest = left + (units.directions * turned[:, None]).T @ units.rows
    sign = np.where(turned, -1.0, 1.0)
    total = np.sqrt((units.directions**2).sum(1) @ size**2) if len(units) else 1.0
    relative = float(np.linalg.norm(rest) / max(total, float(np.linalg.norm(seen.matrix)), 1e-300))
    clean = bool((np.abs(p - turned) <= _BINARY).all())
    return Units(units.directions, units.rows * sign[:, None], units.offsets * sign), rest, clean, relative


def assemble(units: Units, seen: Jacobian, u: Floats, y: Floats, noise: Floats, closed: float = _CLOSED) -> Net:
    """The network of these units that has the slopes seen at one point and fits the finest of the answers (u, y)."""
    turned, rest, clean, relative = orient(units, seen)
    skip = None if clean and relative <= closed else rest
    net = Net(turned, skip, np.zeros(y.shape[1]), clean, relative)
    known = np.isfinite(y).all(1)
    u, y, noise = u[known], y[known], noise[known]
    near = noise <= max(4 * float(noise.min()), float(np.quantile(noise, 0.05)))
    left, weight = y[near] - net.predict(u[near]), 1 / noise[near] ** 2
    return replace(net, constant=np.asarray(weight @ left / weight.sum()))


def misfit(net: Net, u: Floats, y: Floats, noise: Floats) -> Floats:
    """(n,) largest error of each answer, relative to the largest score of its row or the typical one."""
    known = np.isfinite(y).all(1)
    size = np.abs(y).max(1)
    typical = float(np.median(size[known])) if known.any() else 1.0
    error = np.abs(net.predict(u) - y).max(1) / np.maximum(np.maximum(size, 0.1 * typical), 1e-300)
    return np.where(known, error, 0.0)
