"""Noise that cannot be averaged away by asking again."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from hashlib import shake_256
from math import prod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from understudy.errors import AnswerError, UsageError
from understudy.types import Answers, Bools, Exposure, Floats, Signal

_SCORES = frozenset({Signal.PROBABILITIES, Signal.LOGITS, Signal.VALUE})
_PROJECTIONS = 8
_MIN_KEY = 32  # characters


@dataclass(frozen=True)
class Noise:
    """Moves scores by an amount that depends on a secret key and on where the input lies, and on nothing else.

    Space is cut into cells: 8 secret directions of the standardised input, each cut at every `cell` standard
    deviations from a secret offset. One HMAC-SHA256 of the cell's number gives the noise of all its inputs, for
    `everyone` or for each `principal` on its own. Log-odds (probabilities and logits alike) move by `scale` nats,
    values by `scale` of their standard deviation on the owner's data; never by more than 1.74 times that. The largest
    score stays the largest: where the noise would change it, it is reduced for that row. Probabilities stay
    probabilities, and sum to one.

    The key is read from the environment variable `key_env`: 32 characters or more, e.g. of `openssl rand -hex 32`.

    Hides:
        The digits of a score below `scale`, from those who ask the same, or nearly the same, again and again.
    Costs the honest user:
        Scores off by `scale`, always the same way for one input; a jump where a small change crosses a cell's border.
    Broken by:
        Averaging over distinct inputs: whoever fits one model to many answers averages over as many cells. Differences
        within one cell: the noise is the same on both sides, so local slopes are exact; `round` behind it blunts them.
        Attacks on labels alone, which are untouched. With `per: principal`, several accounts that pool answers.
    Reference:
        Randomness must be a function of the input: fresh noise, as in Dubinski et al., Bucks for Buckets, NeurIPS
        2023, is averaged away by repeats. Cells: Datar, Immorlica, Indyk and Mirrokni, Locality-sensitive hashing
        scheme based on p-stable distributions, SCG 2004.
    """

    scale: float = 0.1
    per: str = "everyone"
    cell: float = 1.0
    key_env: str = "UNDERSTUDY_NOISE_KEY"
    fitted: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False)  # centre, spread, spread of values

    keeps_label: ClassVar[bool] = True

    def reveals(self, exposure: Exposure) -> Exposure:
        """What was there: noise withholds nothing.

        Raises UsageError where there are no scores or only coarse ones, for options out of range, and without a key.
        """
        if self.per not in ("everyone", "principal"):
            raise UsageError(f"noise: per is {self.per!r}; allowed: everyone, principal")
        if not (0 < self.scale < np.inf and 0 < self.cell < np.inf):
            raise UsageError(f"noise: scale and cell must be above 0, not {self.scale} and {self.cell}")
        scores = [exposure.grains[signal] for signal in _SCORES & exposure.signals]
        if not scores:
            raise UsageError(f"noise needs scores; this endpoint answers {exposure or 'nothing'}")
        if any(grain.decimals is not None or grain.levels is not None for grain in scores):
            raise UsageError(f"noise comes before rounding and bins; it is given {exposure}")
        self._key()
        return exposure

    def fit(self, inputs: Floats, answers: Answers) -> Self:
        """Centre and spread of the owner's inputs, and of the values answered. Raises UsageError without any rows."""
        if inputs.dtype == object:
            raise UsageError("noise moves answers by where an input lies among numbers; these inputs are texts")
        if not len(inputs):
            raise UsageError("noise cannot be fitted to no rows")
        x = _flat(inputs)
        spread, moved = x.std(0), np.zeros(0)
        if Signal.VALUE in answers:
            v = answers[Signal.VALUE]
            v = v[np.isfinite(v).all(1)]
            moved = v.std(0) if len(v) else np.ones(answers.outputs)
        parts = (x.mean(0), np.where(spread > 0, spread, 1.0), np.where(moved > 0, moved, 1.0))
        return replace(self, fitted=tuple(tuple(part.tolist()) for part in parts))

    def apply(self, inputs: Floats, answers: Answers, principal: str) -> Answers:
        """The answers with every score moved. Raises UsageError before `fit` or without a key, AnswerError for
        probabilities that are none.
        """
        cells = self._cells
        whose = principal.encode() if self.per == "principal" else b""
        g = self.scale * cells.noise(_flat(inputs), answers.outputs, whose)
        if Signal.PROBABILITIES in answers:
            p, mask = answers[Signal.PROBABILITIES], answers.mask(Signal.PROBABILITIES)
            answers = answers.replace(
                Signal.PROBABILITIES, _probabilities(p, mask, g), answers.present.get(Signal.PROBABILITIES)
            )
        if Signal.LOGITS in answers:
            z, mask = answers[Signal.LOGITS], answers.mask(Signal.LOGITS)
            moved = np.where(mask, z + _mild(z, mask, g), 0.0)
            answers = answers.replace(Signal.LOGITS, _same_top(z, moved, mask), answers.present.get(Signal.LOGITS))
        if Signal.VALUE in answers:
            v, mask = answers[Signal.VALUE], answers.mask(Signal.VALUE)
            moved = np.where(mask, v + g * cells.spread, 0.0)
            answers = answers.replace(Signal.VALUE, moved, answers.present.get(Signal.VALUE))
        return answers

    def _key(self) -> bytes:
        key = os.environ.get(self.key_env, "")
        if not key:
            raise UsageError(f"noise takes its key from the environment variable {self.key_env}, which is not set")
        if len(key) < _MIN_KEY:
            raise UsageError(f"noise: the key in {self.key_env} is shorter than {_MIN_KEY} characters")
        return key.encode()

    @cached_property
    def _cells(self) -> _Cells:
        if self.fitted is None:
            raise UsageError("noise is not fitted: it needs the owner's data to know how far inputs spread")
        return _Cells(self._key(), self.cell, *self.fitted)

    def __getstate__(self) -> dict[str, Any]:
        """The parameters alone: the key is in no pickle and no copy."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class _Cells:
    """A key and the cells it cuts. Holds the secret; shows none of it."""

    def __init__(
        self, key: bytes, width: float, centre: tuple[float, ...], spread: tuple[float, ...], values: tuple[float, ...]
    ) -> None:
        d = len(centre)
        drawn = shake_256(hmac.digest(key, b"directions", "sha256")).digest(d + 8 * _PROJECTIONS)
        signs = np.unpackbits(np.frombuffer(drawn[:d], np.uint8)).reshape(d, _PROJECTIONS) * 2.0 - 1
        offsets = np.frombuffer(drawn[d:], "<u8") / 2.0**64
        # of independent coordinates each projection has the variance of one: moving all a little moves it as little
        self._slope = signs / (np.asarray(spread)[:, None] * np.sqrt(d) * width)
        self._offset = offsets - np.asarray(centre) @ self._slope
        self.spread = np.asarray(values) if values else 1.0
        self._secret = key

    def noise(self, x: Floats, outputs: int, whose: bytes) -> Floats:
        """(n, outputs) uniform numbers of variance one: the same wherever in a cell `x` (n, d) lies."""
        with np.errstate(over="ignore", invalid="ignore"):
            cells = np.floor(x @ self._slope + self._offset) + 0.0  # no -0.0: it has other bytes than 0.0
        body, step, size = cells.tobytes(), 8 * _PROJECTIONS, 2 * outputs
        key, start = self._secret, b"noise" + len(whose).to_bytes(4, "big") + whose
        digests = [hmac.digest(key, start + body[at : at + step], "sha256") for at in range(0, len(body), step)]
        if size > 32:  # an HMAC holds 16 numbers; more are drawn out of it
            digests = [shake_256(digest).digest(size) for digest in digests]
        numbers = np.frombuffer(b"".join(digests), "<u2").reshape(len(x), max(outputs, 16))[:, :outputs]
        return np.asarray((numbers * (2 / 65535) - 1) * np.sqrt(3))


def _flat(inputs: Floats) -> Floats:
    return inputs.reshape(len(inputs), prod(inputs.shape[1:]))


def _probabilities(p: NDArray[Any], mask: Bools, g: Floats) -> Floats:
    """Probabilities with their log-odds moved; what is withheld is one more entry, that stays."""
    if not ((p >= 0) & (p <= 1)).all():
        raise AnswerError("noise: probabilities outside 0 to 1; if these are scores, declare the signal 'logits'")
    given = mask
    if p.shape[1] == 2:
        p, mask = np.where(mask, p, np.where(mask[:, ::-1], 1 - p[:, ::-1], 0)), mask | mask[:, ::-1]
    p = np.ascontiguousarray(p, np.float64)
    rest = np.where(mask.all(1), 0.0, np.maximum(1 - p.sum(1), 0))[:, None]
    q = p * np.exp(_mild(np.log(np.maximum(p, 1e-300)), mask, g))
    total = q.sum(1, keepdims=True) + rest
    q = _same_top(p, q / np.where(total > 0, total, 1.0), mask)
    return q if given is mask else np.where(given, q, 0.0)


def _mild(scores: NDArray[Any], mask: Bools, g: Floats) -> Floats:
    """The noise, reduced in rows where it would lift another score to the largest: to half the way there."""
    held = np.where(mask, scores, -np.inf)
    rows, top = np.arange(len(held)), held.argmax(1) if held.shape[1] else np.zeros(len(held), np.intp)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap, pull = held[rows, top][:, None] - held, g - g[rows, top][:, None]
        most = np.where(mask & (pull > 0), gap / pull, np.inf).min(1, initial=np.inf)
    return np.asarray(g * np.where(most <= 1, most / 2, 1.0)[:, None])


def _same_top(before: NDArray[Any], after: Floats, mask: Bools) -> Floats:
    """`after`, save in rows where rounding errors changed which score is the largest: there what was before."""
    tops = (np.where(mask, scores, -np.inf).argmax(1) for scores in (before, after))
    changed = np.not_equal(*tops)
    return np.where(changed[:, None], before, after) if changed.any() else after
