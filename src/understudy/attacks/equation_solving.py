"""Linear models from scores: each answer is an equation, so solve instead of train."""

from __future__ import annotations

from collections.abc import Generator as Steps
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from understudy.attacks._agreed import agreement
from understudy.attacks._bought import Bought, find_base, widen
from understudy.attacks._frame import Frame
from understudy.attacks._solvers import (
    Family,
    Fit,
    fit,
    least_squares,
    link_of,
    log_ratios,
    normalised_sigmoids,
    predict,
)
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.linear import LinearTarget
from understudy.types import Bools, Floats, Signal

#: Answers per answer needed at which a model is fitted again, where one answer does not settle an equation.
_ROUNDS = (0.12, 0.2, 0.3, 0.45, 0.65, 0.85, 1.1, 1.4, 1.8, 2.5, 4, 6, 10, 16, 25, 40)
_TELLING, _PLENTY = 1.4, 6.0  # as many answers can tell one family from another; so many leave a fit no excuse
_POLISH = 6  # fits in a row, each with the ridge that suits the weights found so far
_USABLE = 0.95  # a copy that agrees with more check answers than this is worth having, whatever the model is
_FREE = 10_000  # points on which successive substitutes are compared; they cost nothing
_NAMES = {"softmax": "softmax", "one-vs-rest": "one-vs-rest", "linear": "linear", "centred": "linear"}


@dataclass(frozen=True)
class EquationSolving:
    """Log-ratios of probabilities are linear in the inputs: d + 1 queries fix a softmax model.

    Extracts:
        Weights and biases of binary and multinomial logistic models, one-vs-rest models with normalised scores, and
        linear regression. The scores of a softmax are fixed but for a common constant.

    Needs:
        Probabilities, logits or values: full, top-k (label and confidence included), rounded, or both. Inputs
        anywhere inside the space; rows of the attacker's help where the box is much wider than the data.

    Cost:
        Full float answers: d + 1 queries, one repeated query (determinism), and up to `checks` fresh ones that
        certify the result; one-vs-rest 1.5 to 6 times c (d + 1) / (c - 1). Top-k, rounded or noisy answers: a curve,
        fitted anew at 0.12 to 40 times as many answers as there are unknowns per informative entry, and a tenth as
        many check queries (2 to 50). It ends when the budget does, when a float model is certified, or when nothing
        is left to gain: every check query has the target's class and the last round changed the class of less than
        a share `settled` of 10,000 free points.

    Reference:
        Tramer, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016, section 4.1; extract-and-test, section 4.3.

    Differs from the paper:
        The paper minimises a regularised logistic loss for softmax, with c (d + 1) queries; here the ratios make it
        linear. Rounded answers are fitted by least squares on the probabilities, where rounding noise is the same for
        every entry and entries rounded to 0 or 1 are intervals. Queries are adaptive: points far out that the last
        fit says are answered with unsaturated probabilities. Precision, determinism and model class are learned from
        the answers. A model that does not fit is refused: a linear model leaves no more than the rounding unexplained.
        Where some answers are withheld, rounded or noisy, one that leaves more is refused only if it also agrees with
        less than 95 % of check answers at 6 times as many answers as there are unknowns per informative entry, or at
        the end of the budget: very saturated answers are fitted slowly.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
    adapts_to: ClassVar[frozenset[str]] = frozenset({"round", "top-k"})
    checks: int = 10
    settled: float = 3e-4

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """One extraction where answers are exact; a curve of them where they are rounded, withheld or noisy."""
        frame = Frame.of(target, pool, rng)
        if target.remaining < 3:
            return
        bought = Bought(target, frame)
        bought.repeat(np.zeros((1, frame.d)))
        if bought.outputs == 1 and not bought.linear:
            why = "one class: its probability says nothing"
            yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": why})
            return
        ended = False
        if bought.full:
            ended = yield from self._closed(bought, rng)
        if not ended:
            yield from self._rounds(bought, rng)

    # every class, as floats: closed forms

    def _closed(self, bought: Bought, rng: Generator) -> Steps[Extraction, None, bool]:
        """Solve from one point and a step along each axis; returns whether that settled it."""
        base = bought.u[:1]
        if not bought.linear:
            base = find_base(bought, 1 - 1e-5 if bought.outputs == 2 else 1 - 1e-9, rng)
            if not bought.usable()[np.flatnonzero((bought.u == base).all(1))].any():
                return False  # saturated everywhere: ratios of such answers are no equations
        axes, step = np.arange(bought.frame.d), 1.0
        while len(axes):
            if bought.target.remaining < len(axes) + 1 or step < 1e-7 or not bought.full:
                return False
            before = len(bought.u)
            bought.ask(bought.inside(_axes(base, step)[axes]))
            if bought.linear:
                break
            axes, step = axes[~bought.usable()[before:]], step / 4
        if not bought.full or bought.quantum:  # the first answers looked finer than they are
            return False
        x, y, _ = bought.rows()
        n = min(self.checks, bought.target.remaining)
        families: list[tuple[Family, Floats]]
        if bought.linear:
            families = [("linear", least_squares(x, y, False))]
            if not bought.value:
                families.append(("centred", least_squares(x, y, True)))
            checked = bought.check(bought.spread(n, rng))
        else:
            families = [("softmax", log_ratios(x, y, absolute)) for absolute in (bought.outputs == 2, True)]
            checked = bought.check(self._probes(bought, families[0][1], "softmax", n, rng))
        if not len(checked[0]):
            return False
        solved = min((Fit(theta, family, _error(theta, family, checked)) for family, theta in families), key=_rms)
        if not bought.linear and bought.outputs > 2:
            for surplus in (1.5, 3.0, 6.0):
                extra = int(np.ceil(surplus * bought.outputs * len(x[0]) / (bought.outputs - 1))) - len(bought.u)
                if solved.rms <= _tolerance(bought) or extra > bought.target.remaining:
                    break
                bought.ask(bought.near(base, max(extra, 0), rng))
                theta = normalised_sigmoids(*bought.rows()[:2])
                solved = min(solved, Fit(theta, "one-vs-rest", _error(theta, "one-vs-rest", checked)), key=_rms)
        notes = self._notes(bought) | {"family": _NAMES[solved.family], "residual": solved.rms}
        if solved.rms <= _tolerance(bought):
            yield self._extraction(bought, solved, True, notes)
        else:
            yield Extraction(None, bought.target.spent, Verdict.NOT_OF_FAMILY, None, notes | {"family": "none"})
        return True

    def _probes(self, bought: Bought, theta: Floats, family: Family, n: int, rng: Generator) -> Floats:
        """Points that test a float model where it can be wrong: half contested, half anywhere."""
        half = bought.contested(theta, n - n // 2, (0.5, 2.0), family != "one-vs-rest", rng)
        return np.concatenate([half, bought.spread(n // 2, rng)])

    # rounded, truncated or noisy answers

    def _rounds(self, bought: Bought, rng: Generator) -> Iterator[Extraction]:
        """Fits on ever more answers, asked for where they say most."""
        if not bought.deterministic:
            bought.repeat(bought.spread(min(8, bought.target.remaining // 8), rng))
        unit, reserve = _unit(bought), int(np.clip((bought.target.remaining + len(bought.u)) // 20, 2, 50))
        free = bought.frame.sample(_FREE, rng)
        held = (np.zeros((0, bought.frame.d)), np.zeros((0, bought.outputs)), np.zeros((0, bought.outputs), np.bool_))
        best: Fit | None = None
        seen: Floats | None = None
        for n in _counts(unit, len(bought.u), bought.target.remaining + len(bought.u) - reserve):
            wanted = int(np.clip(n // 8, 4, reserve)) - len(held[0])
            held = _join(held, bought.check(bought.inside(bought.frame.sample(max(wanted, 0), rng))))
            if not bought.ask(self._next(bought, best, n, unit, rng)) and best is not None:
                return
            best = self._fitted(bought, best, n >= _TELLING * unit, rng)
            if not len(held[0]):
                return
            notes = self._notes(bought) | {"family": _NAMES[best.family], "residual": best.rms}
            misfit, agreed = best.rms > _noise(bought), _agreed(best, held, bought.value)
            enough = _PLENTY if bought.target.remaining else _TELLING
            if misfit and agreed < _USABLE and n >= enough * unit:
                yield Extraction(None, bought.target.spent, Verdict.NOT_OF_FAMILY, None, notes | {"family": "none"})
                return
            exact = not misfit and n >= unit and not bought.quantum and bought.deterministic
            if exact:
                probes = self._probes(bought, best.theta, best.family, self.checks, rng)
                error = _error(best.theta, best.family, _join(held, bought.check(probes)))
                exact = error <= _tolerance(bought)
                notes = self._notes(bought) | {"family": _NAMES[best.family], "residual": error}
            yield self._extraction(bought, best, exact, notes if exact else notes | {"fidelity": agreed})
            now = predict(best.theta, widen(free), best.family)
            enough = _TELLING if bought.quantum or not bought.deterministic else _PLENTY  # floats may yet be exact
            settled = seen is not None and _changed(seen, now) < self.settled and agreed >= 1 - self.settled
            if exact or (settled and n >= enough * unit):
                return
            seen = now if bought.value else now.argmax(1)

    def _next(self, bought: Bought, best: Fit | None, n: int, unit: float, rng: Generator) -> Floats:
        """The points that bring the equations to `n`."""
        more = max(n - len(bought.u), 0)
        if bought.linear and bought.mask.all():
            return bought.inside(bought.frame.corners(more, rng))  # farthest out, where noise counts least
        if best is None:
            return bought.spread(more, rng)
        widths = (0.5, 2.0) if n < 2.5 * unit else (0.5, 4.0)
        return bought.contested(best.theta, more, widths, best.family != "one-vs-rest", rng)

    def _fitted(self, bought: Bought, best: Fit | None, telling: bool, rng: Generator) -> Fit:
        """The family that explains the answers best: the last one, unless there is enough to tell that it does not."""
        families = _families(bought)
        if best is None or best.family not in families:
            best = Fit(np.zeros((bought.outputs, bought.frame.d + 1)), families[0], np.inf)
        rows, args = bought.rows(), (bought.quantum, bought.precision.relative, bought.noise)
        found = fit(best.theta, *rows, best.family, *args)
        if telling and found.rms > _noise(bought) and not bought.deterministic:
            bought.repeat(self._probes(bought, found.theta, found.family, min(8, bought.target.remaining // 4), rng))
            rows, args = bought.rows(), (bought.quantum, bought.precision.relative, bought.noise)
        for start in (None, *families) if telling else ():
            if found.rms <= _noise(bought):
                break
            # go on from there, then from nothing: the last start may have led astray
            tried = found if start is None else fit(np.zeros_like(best.theta), *rows, start, *args)
            for _ in range(_POLISH):
                better = fit(tried.theta, *rows, tried.family, *args)
                gained, tried = tried.rms - better.rms, min(tried, better, key=_rms)
                if gained < 0.02 * tried.rms:
                    break
            found = min(found, tried, key=_rms)
        return found

    # what is said of it

    def _notes(self, bought: Bought) -> dict[str, Any]:
        return {
            "precision": str(bought.precision),
            "deterministic": bought.deterministic,
            "logits_called_probabilities": bought.mislabelled,
            "check_queries": bought.checks,
            "solve_queries": len(bought.u),
        }

    def _extraction(self, bought: Bought, found: Fit, exact: bool, notes: dict[str, Any]) -> Extraction:
        weights, bias = bought.frame.weights(found.theta[:, :-1], found.theta[:, -1])
        copy = LinearTarget(weights, bias, bought.target.space, link_of(found.family, bought.value))
        verdict = Verdict.EXACT if exact else Verdict.APPROXIMATE
        return Extraction(copy, bought.target.spent, verdict, copy.parameters, {"fidelity": 1.0, **notes})


_Checked = tuple[Floats, Floats, Bools]


def _rms(found: Fit) -> float:
    return found.rms


def _axes(base: Floats, step: float) -> Floats:
    """The base moved along one axis at a time, towards the farther side of the box: (d, d)."""
    return np.asarray(base + np.diag(np.where(base[0] > 0, -step, step)))


def _families(bought: Bought) -> tuple[Family, ...]:
    """What the model may be, the likeliest first."""
    if bought.linear:
        return ("linear",) if bought.value or bought.shown == 1 else ("linear", "centred")
    return ("softmax",) if bought.outputs == 2 else ("softmax", "one-vs-rest")


def _unit(bought: Bought) -> float:
    """Answers that hold as many informative entries as the model has unknowns."""
    c, width = bought.outputs, bought.frame.d + 1
    if bought.linear:
        return c * width / bought.shown
    return (c - 1) * width / min(bought.shown, c - 1)


def _counts(unit: float, had: int, total: int) -> list[int]:
    """Sizes above `had` at which to fit again, the last one the whole budget unless that is beyond any use."""
    counts = sorted({max(int(np.ceil(r * unit)), 4) for r in _ROUNDS})
    within = [n for n in counts if had < n <= total]
    if total < counts[-1] and total >= 2:
        within = [n for n in within if n <= 0.95 * total] + [total]
    return within


def _noise(bought: Bought) -> float:
    """The largest residual (root mean square) that a model of the family leaves: of rounding, its own share exactly."""
    if not bought.deterministic:
        return 3 * bought.noise
    return 1.3 * bought.quantum / np.sqrt(12) if bought.quantum else _tolerance(bought)


def _tolerance(bought: Bought) -> float:
    """How far check answers may lie from those of a model that is called exact."""
    relative = bought.precision.relative
    if bought.linear:
        return float(1e4 * relative * np.sqrt(bought.frame.d + 1) * np.abs(bought.y).max())
    return 1e-9 if relative < 1e-12 else 2e-5


def _error(theta: Floats, family: Family, checked: _Checked) -> float:
    """The largest difference between a model and check answers."""
    u, answered, given = checked
    if not len(u):
        return float("inf")
    r = np.where(given, predict(theta, widen(u), family) - answered, 0.0)
    if family == "centred":
        r = np.where(given, r - r.sum(1, keepdims=True) / given.sum(1, keepdims=True), 0.0)
    return float(np.abs(r).max())


def _join(a: _Checked, b: _Checked) -> _Checked:
    return (np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]]), np.concatenate([a[2], b[2]]))


def _changed(before: Floats, now: Floats) -> float:
    """Share of points with another class; of values, the relative change."""
    if before.ndim == 1:
        return float((before != now.argmax(1)).mean())
    return float(np.linalg.norm(before - now)) / max(float(np.linalg.norm(now - now.mean(0))), 1e-300)


def _agreed(found: Fit, checked: _Checked, value: bool) -> float:
    """How well the fit agrees with check answers; scores that were not given are never the largest."""
    u, answered, given = checked
    return agreement(predict(found.theta, widen(u), found.family), np.where(given, answered, -np.inf), value)
