"""ReLU networks with two hidden layers from scores: peel off the first layer, then solve what lies behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from understudy.attacks._behind import Behind, Inner, polished
from understudy.attacks._bought import Spent
from understudy.attacks._frame import Frame
from understudy.attacks._lines import walled
from understudy.attacks._one_layer import Limits
from understudy.attacks._peel import First, Peel
from understudy.attacks._relu_net import Net, misfit
from understudy.attacks._scores import Scores
from understudy.attacks.critical_points import refusal
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.network import NetworkTarget
from understudy.types import Box, Floats, Signal

_REACHES = (2000.0, 60.0, 20.0, 6.0, 2.0)  # largest hidden values to ask for, in units of the first layer's offsets
_JUST_ON = 1e-7  # smallest, in the same units: a sum of 0 would lie on a kink
_SCALES = (0.3, 1.0, 3.0, 10.0)  # spreads of the points that a network is tested on
_EXACT, _CLOSE = 2.0**-24, 2.0**-20  # largest relative errors there: of an exact network, and of one worth handing back
_GIVE_UP = 20  # lines of one attempt at the layer behind
_KINKS = 8  # on one of its lines: a scan that finds no end is not worth much
_THROUGH = 3  # lines through points that the network is wrong at, per round


@dataclass(frozen=True)
class CriticalPointsDeep:
    """Kinks on one hyperplane everywhere are the first layer's; behind it lies a network that can be asked too.

    Extracts:
        Networks with two hidden layers of ReLU units: all weights and biases, units in any order and scaled (rows of
        the first layer have unit length), scores of classes but for a common constant.

    Needs:
        Logits, values or full probabilities, two numbers per answer or more, as float64, at inputs without bounds. No
        more units in the first layer than inputs.

    Cost:
        With d inputs, h units in the first layer and k scores: three lines of about 8 queries per kink; d + 6 queries
        for every k - 1 kinks of one line, the second layer's included; 4 h for signs; then one hidden layer of h inputs
        (see `critical-points`); `checks` at the end. All of it again where a unit is seen too rarely, up to `peels`
        times `attempts`. Widths are found, not told.

    Reference:
        Carlini, Jagielski and Mironov, CRYPTO 2020 (layer by layer, from critical points); Rolnick and Kording, ICML
        2020 (hyperplanes that do not bend belong to the first layer).

    Differs from the paper:
        The papers follow the bent boundaries of deeper units through the input space. Here the inverse of the first
        layer turns any h >= 0 into an input that brings it about, so what lies behind is solved as a network of its
        own, with one layer less and few inputs. Signs of the first layer are read off as well: on its silent side a
        unit can be moved and nothing changes. That nothing changes where no unit found does is what says that all were
        found. A network with units that were never seen to switch (a linear term, made of units that pass h on) is not
        called exact, however well it answers.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset()
    checks: int = 200
    lines: int = 20
    quiet: int = 8
    peels: int = 2
    attempts: int = 4

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """One extraction, exact or refused; nothing where the budget ends before."""
        scores = Scores(target, Frame.of(target, pool, rng))
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # errors of pieces that no point lies on are infinite
                found = self._solve(scores, rng)
        except Spent:
            return
        yield found

    def _solve(self, scores: Scores, rng: Generator) -> Extraction:
        reason = refusal(scores, rng)
        if reason is None and walled(scores):
            reason = "inputs are bounded; two layers are solved where they are not"
        if reason is None and scores.k < 2:
            reason = "answers hold one score; this needs two or more"
        if reason is not None:
            return Extraction(None, scores.target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason})
        folded: Extraction | None = None
        notes: dict[str, Any] = {"reason": "no first layer explains the kinks"}
        for _ in range(self.peels):
            peel = Peel(scores, rng)
            told = peel.run(self.lines)
            notes["units_found"] = [len(peel.first)]
            for _ in range(self.attempts if told else 0):
                deep, worst = self._behind(scores, peel.first, rng)
                if deep is not None and worst <= _CLOSE:
                    found = deep.extraction(scores, worst)
                    if found.verdict is Verdict.EXACT:
                        return found
                    folded = found
                notes |= {"reason": "no layer behind the first explains the answers", "check_error": worst}
        if folded is not None:
            return replace(folded, spent=scores.target.spent)
        return Extraction(None, scores.target.spent, Verdict.NOT_OF_FAMILY, None, notes)

    def _behind(self, scores: Scores, first: First, rng: Generator) -> tuple[_Deep | None, float]:
        """The whole network, and its largest relative error on fresh points and on all that was bought."""
        unit = 1 + float(np.median(np.abs(first.offsets)))
        low, high = np.full(len(first), _JUST_ON * unit), np.full(len(first), _reach(scores, first, unit, rng))
        behind = Behind(scores, first, Box(low, high))
        inside = Scores(behind, Frame.of(behind, _NoPool(behind.space), rng))
        inner = Inner(inside, Limits(first=4, lines=_GIVE_UP, quiet=self.quiet, kinks=_KINKS))
        deep, worst = None, np.inf
        while len(inner.traces) < _GIVE_UP:
            net = inner.run(rng)
            if net is None:
                break
            deep = _Deep(first, polished(net, inside.u, inside.y, inside.noise_at(inside.u, inside.y)), inside)
            fresh = self._fresh(scores, rng)
            u = np.vstack([scores.u, fresh])
            told = scores.ask(fresh, keep=False)
            error = deep.misfit(u, np.vstack([scores.y, told]))
            seen = np.isfinite(told).all(1).mean() > 0.5  # answers that vanish certify nothing
            worst = float(error.max()) if seen else np.inf
            if worst <= _EXACT:
                break
            wrong = rng.permutation(np.flatnonzero(error > _EXACT))[:_THROUGH]
            inner.through += list(deep.hidden(u[wrong]))
            for _ in wrong:
                inner.scan(rng)
        return deep, worst

    def _fresh(self, scores: Scores, rng: Generator) -> Floats:
        """`checks` points of every scale, the attacker's rows among them."""
        normal = rng.standard_normal((self.checks, scores.frame.d))
        normal *= np.resize(_SCALES, self.checks)[:, None]
        rows = scores.frame.data[rng.permutation(len(scores.frame.data))[: self.checks // 4]]
        normal[: len(rows)] = rows
        return normal


def _reach(scores: Scores, first: First, unit: float, rng: Generator) -> float:
    """The largest hidden value to ask for: as far as answers are not saturated."""
    for reach in _REACHES:
        h = reach * unit * rng.uniform(size=(8, len(first)))
        if np.isfinite(scores.ask((h - first.offsets) @ first.inverse().T, keep=False)).all():
            break
    return float(reach * unit)


@dataclass(frozen=True, eq=False)
class _NoPool:
    space: Box

    def draw(self, n: int, rng: Generator) -> Floats:
        return np.zeros((0, *self.space.shape))


@dataclass(frozen=True, eq=False)
class _Deep:
    """A first layer and the network behind it, in that one's frame."""

    first: First
    net: Net
    inside: Scores

    def hidden(self, u: Floats) -> Floats:
        """Hidden values of points, in the frame of the network behind."""
        h = np.maximum(u @ self.first.rows.T + self.first.offsets, 0)
        return (h - self.inside.frame.middle) / self.inside.frame.half

    def misfit(self, u: Floats, y: Floats) -> Floats:
        """(n,) relative errors."""
        h = self.hidden(u)
        return misfit(self.net, h, y, self.inside.noise_at(h, y))

    def extraction(self, scores: Scores, worst: float) -> Extraction:
        """The network on inputs, certified."""
        value = scores.signal is Signal.VALUE
        behind = self.net.target(self.inside.frame, scores.basis, value)
        (a, b), (w, c) = behind.layers
        if behind.skip is not None:  # h >= 0, so a unit that passes each of them on makes a linear term
            h = len(self.first)
            (a, b), w = (np.vstack([a, np.eye(h)]), np.append(b, np.zeros(h))), np.hstack([w, behind.skip])
        first = scores.frame.weights(self.first.rows, self.first.offsets)
        copy = NetworkTarget((first, (a, b), (w, c)), scores.frame.space, link=behind.link)
        notes: dict[str, Any] = {
            "family": "two hidden ReLU layers",
            "precision": str(scores.precision),
            "units_found": [len(self.first), len(self.net.units)],
            "linear_term": behind.skip is not None,
            "check_error": worst,
            "fidelity": 1.0,
        }
        exact = worst <= _EXACT and self.net.skip is None  # a unit that was never seen to switch may yet
        verdict = Verdict.EXACT if exact else Verdict.APPROXIMATE
        return Extraction(copy, scores.target.spent, verdict, copy.parameters, notes)
