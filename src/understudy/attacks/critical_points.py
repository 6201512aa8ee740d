"""ReLU networks from scores: find where answers bend, and solve for the units that bend them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from understudy.attacks._bought import Spent
from understudy.attacks._frame import Frame
from understudy.attacks._lines import walled
from understudy.attacks._one_layer import Limits, OneLayer
from understudy.attacks._relu_net import Net, misfit
from understudy.attacks._scores import Scores
from understudy.attacks._star import Star
from understudy.attacks._unseen import unseen
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.types import Floats, Signal

_BASES, _STEP = (
    8,
    1e-4,
)  # places and steps of the first look: is the function straight nearly everywhere, and bent at all?
_EXACT = 2.0**-20  # largest relative error on check answers of a network that is called exact
_USABLE = (
    0.9  # share of check answers with the same class (of values: explained) that makes an inexact copy worth having
)


@dataclass(frozen=True)
class CriticalPoints:
    """A ReLU network is linear between hyperplanes: its kinks along a line give its units away, one by one.

    Extracts:
        Networks with one hidden layer of ReLU units and any number of outputs: all weights and biases, units in any
        order and scaled (rows of the first layer have unit length); from probabilities, scores but for a common
        constant.

    Needs:
        Logits, values or full probabilities, as float64 (coarser answers are refused). Best where inputs are
        unbounded; inside a box, rows of the attacker's, because a unit that no synthetic input switches leaves no
        trace in any answer. What the notes say of units unseen is an estimate from those that few tests switched.

    Cost:
        About 11 queries per unit for two lines, and d + 1 for every k units that share a Jacobian, k the scores per
        answer (probabilities: classes - 1): 1.3 times parameters / k for 784-128-10. Inside a box 1.2 to 3 times
        that. A target that is not piecewise linear is refused after 24 queries. `checks` fresh queries certify the
        result; inside a box it is exact only if `units`, the number there are, is known and all of them were found.

    Reference:
        Jagielski et al., USENIX Security 2020, section 4; Carlini, Jagielski and Mironov, CRYPTO 2020; signs of the
        last hidden layer by linear equations: Canales-Martinez et al., EUROCRYPT 2024.

    Differs from the paper:
        The papers read one number per answer and find each weight by second differences at each critical point. Here
        the vector of jumps at a kink is the unit's outgoing column; Jacobians are bought only between blocks of as many
        units as there are scores, and solved jointly; signs need no queries; a second line confirms every unit. Lines
        are scanned on a tangent scale, and kinks that fell into a slope's probe are put right. Inside a box, rays from
        one point run to where the network found so far is wrong: the attacker's rows, corners along its gradients.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset()
    checks: int = 20
    units: int | None = None

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """One extraction at most: the network, or the reason why there is none."""
        scores = Scores(target, Frame.of(target, pool, rng))
        try:
            reason = refusal(scores, rng)
            if reason is not None:
                yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason})
                return
            attack = Star(scores) if walled(scores) else OneLayer(scores, Limits())
            scores.reserve = self.checks
            with suppress(Spent):
                attack.run(rng)
            if attack.net is not None:
                yield self._certified(scores, attack.net, attack, rng)
        except Spent:
            return

    def _certified(self, scores: Scores, net: Net, attack: OneLayer, rng: Generator) -> Extraction:
        """Judge the network on fresh answers: of the space and, half of them, of the attacker's rows."""
        target = scores.target
        u = scores.frame.sample(min(self.checks, target.remaining), rng)
        y = scores.ask(u, keep=False)
        worst = float(misfit(net, u, y, scores.noise_at(u, y)).max()) if len(u) else np.inf
        agreed = _agreement(net.predict(u), y, scores.signal is Signal.VALUE) if len(u) else 0.0
        data = bool(len(scores.frame.data))
        seen_all = self.units is not None and len(net.units) == self.units
        notes: dict[str, Any] = {
            "family": "one hidden ReLU layer",
            "precision": str(scores.precision),
            "units_found": len(net.units),
            "lines": len(attack.traces),
            "check_queries": len(u),
            "check_error": worst,
            "tested_on": "the attacker's rows and the space" if data else "the space",
            "fidelity": agreed,
        }
        exact = worst <= _EXACT
        if isinstance(attack, Star):
            notes |= unseen(attack, self.units, rng) | {"units_folded_into_a_linear_term_at_least": _folded(net)}
            exact &= seen_all and not attack.unexplained().any()  # no check shows a unit that is silent on it
        if not exact and (agreed < _USABLE or (isinstance(attack, Star) and attack.failed)):
            left = {k: v for k, v in notes.items() if k != "fidelity"}
            why = "piecewise linear, but no single hidden layer explains the answers"
            return Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, left | {"reason": why})
        copy = net.target(scores.frame, scores.basis, scores.signal is Signal.VALUE)
        verdict = Verdict.EXACT if exact else Verdict.APPROXIMATE
        return Extraction(copy, target.spent, verdict, copy.parameters, notes)


def _folded(net: Net) -> int:
    """Units that were never silent are a linear term: as many as its rank, or more."""
    return 0 if net.skip is None else int(np.linalg.matrix_rank(net.skip, tol=1e-6 * np.linalg.norm(net.skip)))


def refusal(scores: Scores, rng: Generator) -> str | None:
    """Why the target cannot be solved here, or None: looks at the slope in one direction at a few places."""
    d = scores.frame.d
    sample, half = 0.7 * scores.frame.sample(_BASES, rng), _BASES // 2
    # in long runs of equal signs: where many inputs are summed, independent ones hardly leave the middle
    turns = np.where(rng.random((half, d)) < 2 / np.sqrt(d), -1.0, 1.0)
    sample[-half:] = 0.9 * rng.choice([-1.0, 1.0], (half, 1)) * np.cumprod(turns, axis=1)
    bases = np.clip(sample, scores.low + _STEP, scores.high - _STEP)
    step = _STEP * rng.choice([-1.0, 1.0], d)
    u = np.concatenate([bases - step, bases, bases + step])
    y = scores.ask(u).reshape(3, _BASES, -1)
    held = np.asarray(np.isfinite(y).all((0, 2)))
    if not held.any():
        return "some scores are withheld, or vanish everywhere"
    if not scores.precision.is_float or scores.precision.relative > 1e-10:
        return f"answers of {scores.precision} are too coarse"
    if not _straight(scores, u, y, held) and not scores.logs and scores.outputs > 1:
        scores.centre()
        y = y @ scores.basis.T
    if not _straight(scores, u, y, held):
        return "answers bend everywhere: a smooth function"
    scores.learn_noise(bases[held], y[:, held])
    slopes = (y[2] - y[0])[held] / (2 * _STEP)
    noise = scores.noise_at(bases[held], y[1][held]).max() / _STEP
    if np.abs(slopes).max() <= 4 * noise:
        return "answers are constant almost everywhere: a function of steps"
    if len(slopes) > 2 and np.ptp(slopes, axis=0).max() <= 8 * noise:
        return "the slope is the same wherever it was looked at: a linear model"
    return None


def _straight(scores: Scores, u: Floats, y: Floats, held: np.ndarray) -> bool:
    """Whether most places show no bend."""
    bend = np.abs(y[0] - 2 * y[1] + y[2]).max(1)
    noise = scores.noise_at(u, y.reshape(len(u), -1)).reshape(3, -1).sum(0)
    return bool(np.mean((bend <= 6 * noise)[held]) > 0.5)


def _agreement(ours: Floats, theirs: Floats, value: bool) -> float:
    """Share of check answers with the same class; for values the share of variance explained. 0 to 1."""
    held = np.isfinite(theirs).all(1)
    ours, theirs = ours[held], theirs[held]
    if not len(ours):
        return 0.0
    if value:
        spread = max(float(((theirs - theirs.mean(0)) ** 2).sum()), 1e-300)
        return float(np.clip(1 - float(((ours - theirs) ** 2).sum()) / spread, 0, 1))
    return float((ours.argmax(1) == theirs.argmax(1)).mean())
