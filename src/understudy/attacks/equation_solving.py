"""Linear models from scores: each answer is an equation, so solve instead of train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
from numpy.random import Generator

from understudy.attacks._bought import Bought, find_base
from understudy.attacks._frame import Frame
from understudy.attacks._solvers import Link, cross_entropy, gauss_newton, log_ratios, logit_start, probabilities
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.linear import LinearTarget
from understudy.types import Floats, Signal

_ROUNDS = (1.15, 1.6, 2.5, 4, 6, 10, 16, 25, 40)  # equations per unknown at which rounded answers are solved again
_MISFIT = 3.0  # residuals of a solved model in units of the answers' own noise; linear models stay near 1


@dataclass(frozen=True)
class EquationSolving:
    """Log-ratios of probabilities are linear in the inputs: d + 1 queries fix a softmax model.

    Extracts:
        Weights and biases of binary and multinomial logistic models, one-vs-rest models with normalised scores, and
        linear regression, in the gauge where the first class is zero (softmax).

    Needs:
        Probabilities, logits or values: full, top-k (label and confidence included), rounded, or both. Inputs
        anywhere inside the space.

    Cost:
        Full float answers: d + 1 queries, plus one repeated query (determinism) and `checks` fresh ones that certify
        the result. One-vs-rest: c (d + 1) / (c - 1). Top-k or rounded answers: rounds of 1.15 to 40 equations per
        unknown, until two rounds running answer every check query with the target's class, or the budget ends.

    Reference:
        Tramer, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016, section 4.1; extract-and-test, section 4.3.

    Differs from the paper:
        The paper minimises a regularised logistic loss for softmax, with c (d + 1) queries; here the ratios make it
        linear. Rounded and truncated answers are fitted by least squares on the probabilities, where rounding noise
        is the same for every entry and entries rounded to zero are intervals, from a soft cross-entropy start.
        Precision, determinism and model class are learned from the answers. A model that does not fit is refused.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset({"round", "top-k"})
    checks: int = 10

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """One extraction where answers are exact; a curve of them where they are rounded or withheld."""
        frame = Frame.of(target, pool, rng)
        if target.remaining < 3:
            return
        bought = Bought(target, frame)
        base = np.zeros((1, frame.d))
        bought.ask(np.repeat(base, 2, 0))
        if bought.linear:
            yield from self._scores(bought, rng)
            return
        certain = 1 - 1e-5 if bought.outputs == 2 else 1 - 1e-9
        base = find_base(bought, certain if bought.full else 0.9, rng)
        if bought.full:
            yield from self._ratios(bought, base, rng)
            return
        yield from self._rounds(bought, base, rng)

    # scores that are linear as they stand

    def _scores(self, bought: Bought, rng: Generator) -> Iterator[Extraction]:
        """Regression values and logits: ordinary least squares, class by class over the rows that show it."""
        d, target = bought.frame.d, bought.target
        for round_ in (1.0, *_ROUNDS[1:]):
            want = int(np.ceil((d + 1) * round_)) + 1 - len(bought.u)
            checks = min(self.checks, target.remaining - want)
            if checks < 1:
                return
            bought.ask(_axes(np.zeros((1, d)), 1.0)[:want] if round_ == 1.0 else bought.sample(want, rng))
            x, y, mask = bought.rows()
            if (mask.sum(0) < d + 1).any():
                continue  # top-k: a class that few rows show has too few equations
            solved = [scipy.linalg.lstsq(x[mask[:, k]], y[mask[:, k], k])[0] for k in range(y.shape[1])]
            theta = np.array(solved)
            fresh = bought.sample(checks, rng)
            z, seen = bought.check(fresh)
            predicted = np.hstack([fresh, np.ones((checks, 1))]) @ theta.T
            scale = float(np.abs(y[mask]).max()) + 1e-300
            error = float(np.abs(np.where(seen, predicted - z, 0)).max())
            notes = self._notes(bought, checks) | {"family": "linear", "residual": error}
            exact = bought.deterministic and bought.precision.is_float
            noise = max(scale * bought.precision.relative * 1e3 * np.sqrt(d + 1), 3 * bought.precision.quantum)
            if error <= noise and exact:
                yield self._extraction(bought, theta, "identity" if bought.value else "softmax", True, notes)
                return
            spread = float(np.std(z[seen])) + 1e-300
            if bought.deterministic and (exact or error > _MISFIT * 4 * noise) and error > 1e-6 * spread:
                yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, notes)
                return
            notes["fidelity"] = _agreement(predicted, z, seen, bought.value)
            yield self._extraction(bought, theta, "identity" if bought.value else "softmax", False, notes)

    # full float probabilities

    def _ratios(self, bought: Bought, base: Floats, rng: Generator) -> Iterator[Extraction]:
        """Softmax in closed form, then one-vs-rest, each held against fresh answers."""
        target, d, c = bought.target, bought.frame.d, bought.outputs
        axes, step = np.arange(d), 1.0
        while len(axes):
            if target.remaining < len(axes) + 1:
                return
            before = len(bought.u)
            bought.ask(_axes(base, step)[axes])
            axes, step = axes[~bought.usable()[before:]], step / 4
            if step < 1e-7:
                yield from self._rounds(bought, base, rng)
                return
        if not bought.full:  # the first answers looked finer than they are, or were saturated
            yield from self._rounds(bought, base, rng)
            return
        checks = min(self.checks, target.remaining)
        fresh = bought.sample(checks, rng)
        answered, _ = bought.check(fresh)
        x, y, mask = bought.rows()
        tolerance = 1e-9 if bought.precision.relative < 1e-12 else 2e-5
        tries: list[tuple[Floats, Link]] = [(log_ratios(x, y, absolute), "softmax") for absolute in (c == 2, c > 2)]
        theta, link = min(tries, key=lambda t: _error(t[0], fresh, answered, t[1]))
        error = _error(theta, fresh, answered, link)
        if error > tolerance and c > 2:
            for surplus in (1.5, 4.0, 6.0):
                extra = int(np.ceil(surplus * c * (d + 1) / (c - 1))) - len(bought.u)
                if extra > target.remaining or error <= tolerance:
                    break
                bought.ask(bought.near(base, max(extra, 0), 1.0, rng))
                x, y, mask = bought.rows()
                fit = gauss_newton(logit_start(x, y), x, y, mask, "one-vs-rest", 0.0, 100, logs=True)
                other = _error(fit.theta, fresh, answered, "one-vs-rest")
                if other < error:
                    theta, link, error = fit.theta, "one-vs-rest", other
        notes = self._notes(bought, checks) | {"family": link, "residual": error}
        if error <= tolerance and checks and bought.deterministic:
            yield self._extraction(bought, theta, link, True, notes)
        elif bought.deterministic and checks:
            yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, notes)
        elif not bought.deterministic:
            yield from self._rounds(bought, base, rng)

    # rounded, truncated or noisy probabilities

    def _rounds(self, bought: Bought, base: Floats, rng: Generator) -> Iterator[Extraction]:
        """Least squares on ever more answers, asked for where they say most."""
        target, d, c = bought.target, bought.frame.d, bought.outputs
        per_answer = max(1, min(bought.shown, c) - (bought.shown >= c))
        unit = (c - 1) * (d + 1) / per_answer
        reserve = min(5 * self.checks, target.remaining // 25)
        total = target.remaining + len(bought.u) - reserve
        if total < unit:
            return
        counts = [n for r in _ROUNDS if (n := int(np.ceil(r * unit))) <= total]
        if not counts or (counts[-1] < 0.95 * total and total < _ROUNDS[-1] * unit):
            counts.append(total)
        fresh = np.concatenate(
            [bought.frame.sample(reserve - reserve // 2, rng), bought.near(base, reserve // 2, 1.0, rng)]
        )
        answered, seen = bought.check(fresh)
        withheld = bought.shown < c
        balanced = c > 2  # every class must be contested somewhere
        if balanced:
            bought.ask(bought.near(np.zeros_like(base), int(0.3 * unit) + 1, 1.0, rng))
            theta: Floats | None = cross_entropy(*bought.rows())
        else:
            theta, radius = None, bought.pilot(base, min(int(unit / 8) + 1, 8), rng)
        link: Link = "softmax"
        calm = 0
        for n in counts:
            more = max(n - len(bought.u), 0)
            if not more and n != counts[-1]:
                continue
            if balanced and theta is not None:
                bought.ask(bought.informative(theta, link, more, rng))
            else:
                bought.ask(bought.near(base, more, radius, rng))
            x, y, mask = bought.rows()
            quantum = bought.precision.quantum
            start = theta if theta is not None and calm else cross_entropy(x, y, mask)
            best = gauss_newton(start, x, y, mask, link, quantum, 25 if quantum else 60)
            noise = max(quantum / np.sqrt(12), bought.noise, 1e-3 if withheld else 1e-9)
            honest = best.rms / np.sqrt(max(best.surplus, 0.05))
            notes = self._notes(bought, reserve) | {"family": best.link, "residual": best.rms}
            if best.surplus > 0.1 and honest > _MISFIT * noise and link == "softmax" and c > 2 and n >= 2 * unit:
                other = gauss_newton(cross_entropy(x, y, mask), x, y, mask, "one-vs-rest", quantum, 60)
                if other.rms < 0.7 * best.rms:
                    best, link = other, "one-vs-rest"
                    honest = best.rms / np.sqrt(max(best.surplus, 0.05))
            if best.surplus > 0.1 and honest > _MISFIT * noise:
                if n >= 2 * unit or n == counts[-1]:
                    yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, notes)
                    return
                continue
            theta = best.theta
            predicted = probabilities(theta, np.hstack([fresh, np.ones((len(fresh), 1))]), best.link)
            error = float(np.abs(np.where(seen, predicted - answered, 0)).max()) if reserve else 1.0
            exact = bought.precision.is_float and bought.deterministic and reserve > 0 and error <= 1e-9
            notes["fidelity"] = _agreement(predicted, answered, seen, False)
            notes["check_residual"] = error
            yield self._extraction(bought, theta, best.link, exact, notes)
            calm = calm + 1 if notes["fidelity"] == 1.0 else 0
            if exact or (calm >= 2 and n >= 10 * unit):
                return
            radius = bought.best_radius(base, theta, best.link, rng) if not balanced else 1.0

    # what is said of it

    def _notes(self, bought: Bought, checks: int) -> dict[str, Any]:
        return {
            "precision": str(bought.precision),
            "deterministic": bought.deterministic,
            "logits_called_probabilities": bought.mislabelled,
            "check_queries": checks + 1,
            "solve_queries": bought.target.spent - checks - 1,
        }

    def _extraction(self, bought: Bought, theta: Floats, link: Any, exact: bool, notes: dict[str, Any]) -> Extraction:
        weights, bias = bought.frame.weights(theta[:, :-1], theta[:, -1])
        copy = LinearTarget(weights, bias, bought.target.space, link)
        notes = {"fidelity": 1.0, **notes} if exact else notes
        verdict = Verdict.EXACT if exact else Verdict.APPROXIMATE
        return Extraction(copy, bought.target.spent, verdict, copy.parameters, notes)


def _axes(base: Floats, step: float) -> Floats:
    """The base moved along one axis at a time, towards the farther side of the box: (d, d)."""
    return np.asarray(base + np.diag(np.where(base[0] > 0, -step, step)))


def _error(theta: Floats, u: Floats, answered: Floats, link: Link) -> float:
    if not len(u):
        return float("inf")
    return float(np.abs(probabilities(theta, np.hstack([u, np.ones((len(u), 1))]), link) - answered).max())


def _agreement(predicted: Floats, answered: Floats, seen: Any, value: bool) -> float:
    """Share of check answers with the same class; for values the share of variance explained."""
    if not len(predicted):
        return float("nan")
    if value:
        return float(1 - ((predicted - answered) ** 2).sum() / max(((answered - answered.mean(0)) ** 2).sum(), 1e-300))
    return float(np.mean(predicted.argmax(1) == np.where(seen, answered, -np.inf).argmax(1)))
