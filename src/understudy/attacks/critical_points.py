"""ReLU networks from scores: find where answers bend, and solve for the units that bend them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from understudy.attacks._agreed import agreement
from understudy.attacks._bought import Spent
from understudy.attacks._frame import Frame
from understudy.attacks._lines import walled
from understudy.attacks._one_layer import Limits, OneLayer
from understudy.attacks._relu_net import Net, misfit
from understudy.attacks._rounded import Growing, fresh, quanta, unfit
from understudy.attacks._scores import Scores
from understudy.attacks._star import Star
from understudy.attacks._unseen import unseen
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.types import Floats, Signal

_BASES, _STEP = 8, 1e-4  # places and steps of the first look: straight nearly everywhere, and bent at all?
_LONGEST, _WIDEST = 5e-3, 0.1  # steps for coarse answers: those that cross few kinks, so that other bends show; any
_COARSE = 5  # times as many checks of coarse answers
_EXACT = 2.0**-20  # largest relative error on check answers of a network that is called exact
_USABLE = (
    0.9  # share of check answers with the same class (of values: explained) that makes an inexact copy worth having
)
_MISSED = "units that no query switched may be missing; where they switch the copy is wrong"


@dataclass(frozen=True)
class CriticalPoints:
    """A ReLU network is linear between hyperplanes: its kinks along a line give its units away, one by one.

    Extracts:
        Networks with one hidden layer of ReLU units and any number of outputs: all weights and biases, units in any
        order and scaled (rows of the first layer have unit length); from probabilities, scores but for a common
        constant. From rounded and float32 answers, to the step of their grid.

    Needs:
        Logits, values or full probabilities; rounded probabilities are refused. Best where inputs are unbounded; inside
        a box, rows of the attacker's, because a unit that no synthetic input switches leaves no trace in any answer.
        What the notes say of units unseen is an estimate from those that few tests switched.

    Cost:
        About 11 queries per unit for two lines, and d + 1 for every k units that share a Jacobian, k the scores per
        answer (probabilities: classes - 1): 1.3 times parameters / k for 784-128-10. Inside a box 1.2 to 3 times
        that. A target that is not piecewise linear is refused after 24 queries. `checks` fresh queries certify the
        result; inside a box it is exact only if `units`, the number there are, is known and all of them were found.
        Rounded or float32 answers: four to six times parameters / k, 500 more, and five times as many checks; up to
        4,500 entries in the first layer, because each step of the fit takes (units x inputs)^2 x answers.

    Reference:
        Jagielski et al., USENIX Security 2020, section 4; Carlini, Jagielski and Mironov, CRYPTO 2020; signs of the
        last hidden layer by linear equations: Canales-Martinez et al., EUROCRYPT 2024. Coarse answers: variable
        projection, Golub and Pereyra, SIAM Journal on Numerical Analysis 1973.

    Differs from the paper:
        The papers read one number per answer and find each weight by second differences at each critical point. Here
        the vector of jumps at a kink is the unit's outgoing column; Jacobians are bought only between blocks of as many
        units as there are scores, and solved jointly; signs need no queries; a second line confirms every unit. Lines
        are scanned on a tangent scale, and kinks that fell into a slope's probe are put right. Inside a box, rays from
        one point run to where the network found so far is wrong: the attacker's rows, corners along its gradients.
        Coarse answers do not show single kinks, and need not: a layer is fitted to all answers at once, and widened
        until only their grid is left over.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset({"round"})
    checks: int = 20
    units: int | None = None

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """One extraction at most: the network, or the reason why there is none."""
        scores = Scores(target, Frame.of(target, pool, rng))
        try:
            reason = unfit(scores) or refusal(scores, rng, coarse=True)
            if reason is not None:
                yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason})
                return
            if scores.coarse:
                yield from self._fitted(scores, rng)
                return
            attack = Star(scores) if walled(scores) else OneLayer(scores, Limits())
            scores.reserve = self.checks
            with suppress(Spent):
                attack.run(rng)
            if attack.net is not None:
                yield self._certified(scores, attack.net, attack, {"lines": len(attack.traces)}, rng)
        except Spent:
            return

    def _fitted(self, scores: Scores, rng: Generator) -> Iterator[Extraction]:
        """What rounded or float32 answers give."""
        scores.reserve = _COARSE * self.checks
        attack = Growing(scores)
        net = attack.run(rng)
        if net is not None:
            told = {"fitted_to": len(scores.u), "residual_in_noise": attack.residual}
            yield self._certified(scores, net, attack, told, rng)

    def _certified(self, scores: Scores, net: Net, attack: object, told: dict[str, Any], rng: Generator) -> Extraction:
        """Judge the network on fresh answers: of the space and, half of them, of the attacker's rows."""
        target, n = scores.target, min(scores.reserve, scores.target.remaining)
        u = fresh(scores, n, rng) if scores.coarse else scores.frame.sample(n, rng)
        y = scores.ask(u, keep=False)
        off = quanta(net, u, y, scores) if scores.coarse else misfit(net, u, y, scores.noise_at(u, y))
        held = np.isfinite(y).all(1)
        shown = int(held.sum())  # what is withheld or vanishes proves nothing
        worst = float(off.max()) if shown > len(u) // 2 else np.inf
        agreed = agreement(net.predict(u[held]) @ scores.basis, y[held] @ scores.basis, scores.signal is Signal.VALUE)
        data = bool(len(scores.frame.data))
        seen_all = self.units is not None and len(net.units) == self.units
        notes: dict[str, Any] = {
            "family": "one hidden ReLU layer",
            "precision": str(scores.precision),
            "units_found": len(net.units),
            **told,
            "check_queries": shown,
            "check_error_in_quanta" if scores.coarse else "check_error": worst,
            "tested_on": "the attacker's rows and the space" if data else "the space",
            "fidelity": agreed,
        }
        exact, failed = worst <= (1.0 if scores.coarse else _EXACT), False
        if walled(scores):
            notes |= {"units_folded_into_a_linear_term_at_least": _folded(net)}
            exact &= seen_all  # no check shows a unit that is silent on it
        if isinstance(attack, Star):
            notes |= unseen(attack, self.units, rng)
            exact &= not attack.unexplained().any()
            failed = attack.failed
        elif walled(scores):
            notes |= {"possibly_missed": _MISSED}
        if not exact and (agreed < _USABLE or failed):
            left = {k: v for k, v in notes.items() if k != "fidelity"}
            why = "piecewise linear, but no single hidden layer explains the answers"
            return Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, left | {"reason": why})
        copy = net.target(scores.frame, scores.basis, scores.signal is Signal.VALUE)
        verdict = Verdict.EXACT if exact else Verdict.APPROXIMATE
        return Extraction(copy, target.spent, verdict, copy.parameters, notes)


def _folded(net: Net) -> int:
    """Units that were never silent are a linear term: as many as its rank, or more."""
    return 0 if net.skip is None else int(np.linalg.matrix_rank(net.skip, tol=1e-6 * np.linalg.norm(net.skip)))


def refusal(scores: Scores, rng: Generator, coarse: bool = False) -> str | None:
    """Why the target cannot be solved here, or None: looks at the slope in one direction at a few places.

    `coarse`: whether rounded and float32 answers will do.
    """
    if not scores.k:
        return "one class: its probability says nothing"
    d = scores.frame.d
    sample, half = 0.7 * scores.frame.sample(_BASES, rng), _BASES // 2
    # in long runs of equal signs: where many inputs are summed, independent ones hardly leave the middle
    turns = np.where(rng.random((half, d)) < 2 / np.sqrt(d), -1.0, 1.0)
    sample[-half:] = 0.9 * rng.choice([-1.0, 1.0], (half, 1)) * np.cumprod(turns, axis=1)
    bases = np.clip(sample, scores.low + _WIDEST, scores.high - _WIDEST)
    middle = scores.ask(bases)
    length = _STEP
    if scores.coarse and (shown := np.isfinite(middle).all(1)).any():  # so that what bends shows above the grid
        relative = scores.noise_at(bases[shown], middle[shown]) / np.maximum(np.abs(middle[shown]).max(1), 1e-300)
        length = float(np.clip(np.sqrt(10 * np.median(relative)), _STEP, _WIDEST))
    step = length * rng.choice([-1.0, 1.0], d)
    u = np.concatenate([bases - step, bases, bases + step])
    y = np.concatenate([middle, scores.ask(np.concatenate([bases - step, bases + step]))])
    y = y[np.r_[_BASES : 2 * _BASES, :_BASES, 2 * _BASES : 3 * _BASES]].reshape(3, _BASES, -1)
    held = np.asarray(np.isfinite(y).all((0, 2)))
    if scores.coarse and (not coarse or unfit(scores)):
        return unfit(scores) if coarse else f"answers of {scores.precision} are too coarse"
    if not held.any():
        return "some scores are withheld, or vanish everywhere"
    tell = length <= _LONGEST
    if tell and not _straight(scores, u, y, held) and not scores.logs and scores.outputs > 1:
        scores.centre()
        y = y @ scores.basis.T
    if tell and not _straight(scores, u, y, held):
        return "answers bend everywhere: a smooth function"
    if not scores.coarse:
        scores.learn_noise(bases[held], y[:, held])
    slopes = (y[2] - y[0])[held] / (2 * length)
    noise = scores.noise_at(bases[held], y[1][held]).max() / length
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
