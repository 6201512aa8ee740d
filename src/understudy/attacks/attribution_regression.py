"""Linear models through SHAP and LIME: attributions say how the weights compare, scores say the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from understudy.attacks._agreed import agreement
from understudy.attacks._bought import Spent
from understudy.attacks._frame import Frame
from understudy.attacks._slopes import Raw, Seen, Slopes, beside
from understudy.protocols import Extraction, Metered, Pool, Verdict
from understudy.targets.linear import LinearTarget
from understudy.types import Floats, Signal

_EXACT = 1e-7  # largest error of a fresh score, relative to the scores' size
_USABLE = 0.9  # a copy that agrees with fewer fresh answers is not handed back
_BELONGS = 0.95  # where scores alone would settle a linear model, one that agrees with fewer is none


@dataclass(frozen=True)
class AttributionRegression:
    """Attributions of a linear model are nearly linear in its weights: regress on them, and let scores correct it.

    Extracts:
        Weights and bias of logistic, softmax and linear regression models.

    Needs:
        SHAP or LIME attributions, with values, logits or probabilities beside them. Rows of the attacker's help where
        LIME scales the columns: their spread stands for that of the explainer's data.

    Cost:
        SHAP of log-odds or values: 2 queries, and `checks` fresh ones that certify it. Others: a copy after 2, 12, 22,
        ... queries, each judged on `checks` fresh ones that the next is fitted to as well. Exact at the latest when
        there are more answers than inputs, if scores are floats; it ends at twice as many.

    Reference:
        Oksuz, Halimi and Ayday, AUTOLYCUS, PETS 2024 (the interface); regression on attributions is ours.

    Differs from the paper:
        The paper perturbs samples along their top attributions and trains on labels. Here three readings are tried of
        what attributions are: additive (SHAP, and LIME's bins: a slope per column), additive on probabilities
        (KernelSHAP: each row is scaled until it sums to log-odds), and local slopes (LIME's continuous mode, on
        columns as they come or divided by their spread). Each is scaled to the scores (or taken as
        it is), and corrected by what it leaves
        of them, in proportion to the weights; fresh answers choose. A target of another family is refused once there
        are enough answers to settle a linear model.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.ATTRIBUTION})
    adapts_to: ClassVar[frozenset[str]] = frozenset()
    checks: int = 10

    def opening(self, space: Any, outputs: int) -> int:
        """Queries before the first substitute."""
        return 2 + self.checks

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """Better and better copies; the last one is exact, or the model is refused, or the budget has ended."""
        signal = beside(target.exposure)
        if signal is None:
            reason = "attributions alone leave biases open: values, logits or all probabilities are needed beside them"
            yield Extraction(None, target.spent, Verdict.NOT_OF_FAMILY, None, {"reason": reason})
            return
        scores = Slopes(target, Frame.of(target, pool, rng), signal)
        try:
            yield from self._rounds(scores, rng)
        except Spent:
            return

    def _rounds(self, scores: Slopes, rng: Generator) -> Iterator[Extraction]:
        frame, most = scores.frame, 2 * (scores.frame.d + 2)
        raw = scores.buy(_spread(frame, 2, rng))
        while True:
            known = scores.read(raw, "scores")
            readings = _readings(scores, raw, known)
            thetas = {name: _settled(weights, known, None) for name, weights in readings.items()}
            thetas["additive, as given"] = _settled(readings["additive"], known, 1.0)
            thetas["additive, of log-odds"] = _settled(readings["additive"], known, 0.5)
            bought = scores.buy(_spread(frame, self.checks, rng))
            fresh = scores.read(bought, "scores")
            name = min(thetas, key=lambda name: _error(thetas[name], fresh))
            usable = int(np.isfinite(known.noise).sum())
            error, agreed = _error(thetas[name], fresh), _agreed(thetas[name], fresh, scores)
            notes = {"reading": name, "residual": error, "fidelity": agreed, "fitted_to": len(raw.u)}
            spent, enough = scores.target.spent, usable >= frame.d + 2
            exact = error <= _EXACT and scores.relative < 1
            if exact or agreed >= (_BELONGS if enough else _USABLE):
                copy = _copy(thetas[name], scores)
                verdict = Verdict.EXACT if exact else Verdict.APPROXIMATE
                yield Extraction(copy, spent, verdict, copy.parameters, notes)
            elif enough:
                yield Extraction(None, spent, Verdict.NOT_OF_FAMILY, None, {"reason": "no linear model fits", **notes})
                return
            if exact or usable > most:
                return
            raw = Raw(*(np.concatenate(parts) for parts in zip(raw, bought, strict=True)))


def _spread(frame: Frame, n: int, rng: Generator) -> Floats:
    """Points over the space, half of them the attacker's rows, some drawn in towards the middle."""
    return np.asarray(frame.sample(n, rng) * rng.choice([1.0, 0.5, 0.25], (n, 1)))


def _readings(scores: Slopes, raw: Raw, known: Seen) -> Mapping[str, Floats]:
    """Weights (m, d) per reading, each up to a common factor."""
    frame = scores.frame
    given = np.einsum("mc,ncd->nmd", scores.basis, raw.attributions / frame.half)
    found: dict[str, Floats] = {"additive": _slope(raw.u, given), "local": given.sum(0) * frame.half}
    if len(frame.data) > 1:
        spread = frame.data.std(0)
        found["local, by spread"] = given.sum(0) / np.where(spread > 0, spread, 1.0)
    if scores.signal is Signal.PROBABILITIES and len(scores.basis) == 1:
        p = raw.answers[:, 1]
        base = p - raw.attributions[:, 1].dot(1 / frame.half)
        ok = np.isfinite(known.noise) & (np.abs(p - base) > 1e-9) & (base > 1e-9) & (base < 1 - 1e-9)
        if ok.sum() > 1:
            q = base[ok]
            factor = (np.log(p[ok] / (1 - p[ok])) - np.log(q / (1 - q))) / (p[ok] - q)
            found["additive, in log-odds"] = _slope(raw.u[ok], given[ok] * factor[:, None, None])
    return found


def _slope(u: Floats, given: Floats) -> Floats:
    """(m, d) slope of each column's attributions along that column."""
    away = u - u.mean(0)
    total = (away**2).sum(0)
    return np.asarray(np.einsum("nd,nmd->md", away, given) / np.where(total > 0, total, 1.0))


def _settled(weights: Floats, known: Seen, scale: float | None) -> Floats:
    """(m, d + 1): weights scaled to the scores (by `scale` where it is known), and corrected by what is left of them.

    The correction is the least that explains every usable score, where each weight may change by as much as it weighs;
    a column nobody attributed anything to stays small.
    """
    use = np.isfinite(known.noise)
    x, y, made = known.u[use], known.y[use], list[Floats]()
    for w, s in zip(weights, y.T, strict=True):
        if not len(x):
            made.append(np.append(w, 0.0))
            continue
        z = x @ w
        away = z - z.mean()
        by = float(away @ s) / max(float(away @ away), 1e-300) if scale is None else scale
        theta = np.append(by * w, s.mean() - by * z.mean())
        size = theta[:-1] ** 2
        prior = np.append(size + 1e-2 * size.mean() + 1e-300, max(float(s.var()), float(size.sum()), 1e-300))
        wide = np.hstack([x, np.ones((len(x), 1))]) * np.sqrt(prior)
        left = np.linalg.lstsq(wide, s - x @ theta[:-1] - theta[-1], rcond=1e-13)[0]
        made.append(theta + left * np.sqrt(prior))
    return np.array(made)


def _predict(theta: Floats, u: Floats) -> Floats:
    return np.asarray(u @ theta[:, :-1].T + theta[:, -1])


def _error(theta: Floats, fresh: Seen) -> float:
    """The largest error of a usable score beyond rounding, relative to the largest score; infinite without any."""
    use = np.isfinite(fresh.noise)
    if not use.any():
        return np.inf
    off = np.abs(_predict(theta, fresh.u[use]) - fresh.y[use]).max(1) - 30 * fresh.noise[use]
    return float(max(off.max(), 0.0) / max(float(np.abs(fresh.y[use]).max()), 1e-300))


def _agreed(theta: Floats, fresh: Seen, scores: Slopes) -> float:
    """How well a reading agrees with usable check answers."""
    use = np.isfinite(fresh.noise)
    ours, theirs = _predict(theta, fresh.u[use]) @ scores.basis, fresh.y[use] @ scores.basis
    return agreement(ours, theirs, scores.signal is Signal.VALUE)


def _copy(theta: Floats, scores: Slopes) -> LinearTarget:
    weights, bias = scores.frame.weights(theta[:, :-1], theta[:, -1])
    link: Any = "identity" if scores.signal is Signal.VALUE else "softmax"
    return LinearTarget(scores.basis.T @ weights, scores.basis.T @ bias, scores.frame.space, link)
