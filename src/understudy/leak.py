"""The leak meter: how much of the model could a party have learned from what it received?

What an account received is kept as sums over (features of an input, what was released for it) and as a bounded sample
with as many rows of each class. Both add, so a party is judged exactly, without its logs. Read out, they are copies of
the model, and the largest agreement of one with the model on the owner's hold-out is the meter. It measures exposure,
not intent: an honest heavy user of a small model has learned it too.

From labels: a logistic model and a forest trained on the sample (exactly what a thief would do, while all rows fit in),
and from the sums, which hold every query, the linear discriminant of random ReLU features. From probabilities also
log-odds on the columns themselves: for a linear model that *is* equation solving.

Classes are balanced in the sample because far from the model's data nearly all answers are of one class: whoever
asks there is short of the others (case-control sampling; Prentice and Pyke, Biometrika 66, 1979). A ridge regression to
labels ignores rare classes; the discriminant, made of the same sums, does not (Hastie, Tibshirani and Buja, Flexible
Discriminant Analysis by Optimal Scoring, JASA 89, 1994).

Kesarwani, Mukhoty, Arya and Mehta (ACSAC 2018) ask the question for trees; sums that merge are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.random import Generator

from understudy.balanced import Balanced, new_key
from understudy.copies import discriminants, solved, trained
from understudy.errors import UsageError
from understudy.held_against import PARTS, Truth
from understudy.store import frame, unframe
from understudy.types import Answers, Array, Estimate, Floats, Signal
from understudy.views import Floats32, Scale, TextScale, labels

KEPT = 50  # queries that are kept as they are before they are summed
SAMPLE = 512  # rows of the balanced sample
_CLASSES = (Signal.LABEL, Signal.PROBABILITIES, Signal.LOGITS)
_NONE = 1e-9  # what a probability of 0 is taken at before its log: rounding made it, or the floating point


@dataclass(frozen=True, slots=True)
class Leak:
    """Estimated agreement with the model of the best copy that the answers allow, with 90 % intervals.

    `label`: from labels alone; `probability`: also from the probabilities, None where none were released.
    """

    label: Estimate
    probability: Estimate | None = None

    @property
    def worst(self) -> Estimate:
        """The larger of the two."""
        return self.label if self.probability is None or self.probability.value < self.label.value else self.probability

    def __str__(self) -> str:
        e = self.worst
        return (
            f"from what it received, this party could have learned an estimated {e.value:.2f} of the model "
            f"({e.low:.2f}-{e.high:.2f})"
        )


class Received(NamedTuple):
    """Queries as a sketch keeps them: inputs `own` (n, d), classes `told` (n,), and probabilities `soft` (n, classes)
    where they were released.
    """

    own: Floats32
    told: Array
    soft: Floats | None

    def part(self, rows: slice) -> Received:
        """Some of them, in memory of their own."""
        soft = None if self.soft is None else self.soft[rows].copy()
        return Received(self.own[rows].copy(), self.told[rows].copy(), soft)


@dataclass(frozen=True, eq=False)
class LeakMeter:
    """Random features, the sample's key and the hold-out of one model, fixed once, and what readings are worth.

    `truths`: per bracket ("label", "probability"), once `calibrated`. `texts`: the hold-out's, until it goes to a file.
    """

    form: Scale | TextScale
    outputs: int
    arrays: Mapping[str, Array]
    truths: Mapping[str, Truth] = field(default_factory=dict)
    texts: Array | None = field(default=None, repr=False)

    @classmethod
    def fit(
        cls,
        reference: Array,
        answers: Answers,
        rng: Generator,
        *,
        held_out: tuple[Array, Answers] | None = None,
        features: int | None = None,
    ) -> Self:
        """Maps from the owner's rows (n, d), or texts (n,), and the model's answers to them. A fifth of them is held
        out, at most 5,000, unless `held_out` are given. `features`: random ReLU features, 256 for up to ten classes,
        else 512; 128 of the embedding of texts.
        Raises UsageError where no class is answered.
        """
        if not any(s in answers for s in _CLASSES) or answers.outputs < 2:
            raise UsageError("the leak meter needs answers that hold a class")
        if held_out is None:
            order = rng.permutation(len(reference))
            cut = min(max(len(order) // 5, 1), 5000)
            held_out = (reference[order[:cut]], answers.take(order[:cut]))
            reference = reference[order[cut:]]
        texts = reference.dtype == object
        form = TextScale.fit(reference, rng) if texts else Scale.fit(reference)
        size = features or (128 if texts else 256 if answers.outputs <= 10 else 512)
        rows, told = held_out
        held = _numbers(form, rows)
        d = held.shape[1]
        arrays: dict[str, Array] = {
            "weights": (rng.standard_normal((d, size)) / np.sqrt(d)).astype(np.float32),
            "bias": rng.uniform(-1, 1, size).astype(np.float32),
            "key": new_key(d, rng),
            "held/inputs": held,
            "held/labels": labels(told),
        }
        return cls(form, answers.outputs, arrays, texts=np.asarray(rows, object) if texts else None)

    @property
    def held(self) -> tuple[Array, Array]:
        """The hold-out: inputs (n, d) as asked, up to float32, or texts (n,), and the model's classes. Of texts only
        their embeddings go to a file: raises UsageError once it was read from one.
        """
        held, classes = self.arrays["held/inputs"], self.arrays["held/labels"]
        if isinstance(self.form, Scale):
            return held * self.form.spread + self.form.centre, classes
        if self.texts is None:
            raise UsageError("the texts that were held out are not kept")
        return self.texts, classes

    def numbers(self, inputs: Array) -> Floats32:
        """(n, d) of inputs: columns in own units, or the embedding of texts."""
        return _numbers(self.form, inputs)

    def received(self, inputs: Array, answers: Answers) -> Received | None:
        """What counts of queries (n, d), or texts (n,), of any number of accounts; None where no class was answered."""
        if not any(s in answers for s in _CLASSES):
            return None
        return Received(self.numbers(inputs), answers.labels(), _soft(answers))

    @property
    def most(self) -> int:
        """Rows of each class that a sample holds."""
        return max(2, SAMPLE // self.outputs)

    def sketch(self) -> LeakSketch:
        """An empty sketch of this meter."""
        return LeakSketch(self)

    def relu(self, own: Floats32) -> Floats32:
        """(n, 1 + features) of inputs in own units."""
        z = self.form.z(own) if isinstance(self.form, Scale) else own
        found = np.maximum(z @ self.arrays["weights"] + self.arrays["bias"], 0)
        return _with_one(found)

    @cached_property
    def _held_relu(self) -> Floats32:
        return self.relu(self.arrays["held/inputs"])

    def raw(self, sketch: LeakSketch) -> dict[str, float]:
        """The meter before calibration, per bracket: the best copy's agreement on the hold-out."""
        held, truth = self.arrays["held/inputs"], self.arrays["held/labels"]
        sample, sums = sketch.sums()
        copies = [*discriminants(*sums["relu"], self._held_relu), *trained(sample, held)]
        found = {"label": max(float((copy == truth).mean()) for copy in copies)}
        if "columns" in sums:
            fits = solved(*sums["columns"], _with_one(held))
            found["probability"] = max(found["label"], *(float((copy == truth).mean()) for copy in fits))
        return found

    def read(self, sketch: LeakSketch) -> Leak:
        """What the account (or the party whose sketches were merged) could have learned."""
        return Leak(**{name: self._estimate(name, value, sketch.n) for name, value in self.raw(sketch).items()})

    def _estimate(self, bracket: str, value: float, n: int) -> Estimate:
        truth = self.truths.get(bracket)
        # not held against trained substitutes: nothing is known of its error
        held = len(self.arrays["held/labels"])
        return Estimate(value, 0.0, 1.0, n) if truth is None else truth.read(value, n, held)

    def calibrated(
        self,
        readings: Sequence[Mapping[str, float]],
        real: Sequence[Mapping[str, float]],
        sizes: Sequence[int],
        families: Sequence[str],
    ) -> Self:
        """Held against really trained substitutes: raw `readings`, what the best substitutes agreed with the model on
        the hold-out, per bracket, from how many queries, and the family that they came from.
        """
        truths, family, n = {}, np.asarray(families), np.asarray(sizes, np.float64)
        for bracket in ("label", "probability"):
            have = [i for i, told in enumerate(zip(readings, real, strict=True)) if all(bracket in t for t in told)]
            if len(have) >= 5 and len(set(family[have])) > 1:
                x, y = (np.array([told[i][bracket] for i in have]) for told in (readings, real))
                truths[bracket] = Truth.learn(y - x, n[have], family[have])
        return replace(self, truths=truths)

    def parts(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """The meter as arrays by name and a header of plain values."""
        arrays = {f"form/{n}": a for n, a in self.form.arrays().items()} | dict(self.arrays)
        for bracket, truth in self.truths.items():
            arrays |= {f"truth/{bracket}/{name}": getattr(truth, name) for name in PARTS}
        errors = {b: t.error for b, t in self.truths.items()}
        return arrays, {"form": self.form.kind, "outputs": self.outputs, "errors": errors}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], head: Mapping[str, Any]) -> Self:
        """The inverse of `parts`."""
        kept = {n.removeprefix("form/"): a for n, a in arrays.items() if n.startswith("form/")}
        form = TextScale.of(kept) if head["form"] == "text" else Scale.of(kept)
        truths = {
            b: Truth(**{name: arrays[f"truth/{b}/{name}"] for name in PARTS}, error=e)
            for b, e in head["errors"].items()
        }
        rest = {n: a for n, a in arrays.items() if not n.startswith(("form/", "truth/"))}
        return cls(form, int(head["outputs"]), rest, truths)


class LeakSketch:
    """What one account received, under one meter. The first 50 queries are kept as they are: most accounts stay so."""

    def __init__(self, meter: LeakMeter) -> None:
        self.meter, self.n = meter, 0
        self._rows: list[Received] = []
        self._sums: dict[str, tuple[Array, Array]] = {}
        self._sample: Balanced | None = None

    def add(self, inputs: Array, answers: Answers) -> None:
        """Add queries (n, d), or texts (n,), and what was released for them. Those without a class are left out.

        Raises UsageError on other classes than the meter's.
        """
        if len(inputs) and (received := self.meter.received(inputs, answers)) is not None:
            self.take(received.part(slice(None)))

    def take(self, received: Received) -> None:
        """Add what `LeakMeter.received` makes of queries. Raises UsageError on other classes than the meter's."""
        told, soft, k = received.told, received.soft, self.meter.outputs
        if not 0 <= told.min() <= told.max() < k or (soft is not None and soft.shape[1] != k):
            raise UsageError(f"the leak meter was made for {k} classes; these answers hold others")
        self.n += len(told)
        self._rows.append(received)
        if self._sums or self.n > KEPT:
            self._fold()

    def merge(self, other: LeakSketch) -> LeakSketch:
        """The sketch of both accounts together: that of their queries in one account, up to float32 rounding."""
        both = LeakSketch(self.meter)
        both.n = self.n + other.n
        both._rows = [*self._rows, *other._rows]
        both._sums, both._sample = dict(self._sums), self._sample
        both._plus(other._sums, other._sample)
        if both._sums or both.n > KEPT:
            both._fold()
        return both

    def sums(self) -> tuple[Balanced, dict[str, tuple[Floats, Floats]]]:
        """The balanced sample, and (features x features, features x classes) by name of the map."""
        whole = LeakSketch(self.meter).merge(self)
        whole._fold()
        assert whole._sample is not None, "an empty sketch holds nothing to read"
        return whole._sample, {
            name: (_square(gram), cross.astype(np.float64)) for name, (gram, cross) in whole._sums.items()
        }

    def _fold(self) -> None:
        outputs = self.meter.outputs
        for own, told, soft in self._rows:
            f = self.meter.relu(own)
            found: dict[str, tuple[Array, Array]] = {
                "relu": (_packed(f.T @ f), f.T @ np.eye(outputs, dtype=np.float32)[told])
            }
            if soft is not None:  # equations are solved with it: float32 would not do
                x, y = _with_one(own).astype(np.float64), np.log(np.where(soft > 0, soft, _NONE))
                found["columns"] = _packed(x.T @ x), x.T @ (y - y.mean(1, keepdims=True))
            self._plus(found, Balanced.of(own, told, self.meter.arrays["key"], self.meter.most))
        self._rows = []

    def _plus(self, sums: Mapping[str, tuple[Array, Array]], sample: Balanced | None) -> None:
        for name, (gram, cross) in sums.items():
            held = self._sums.get(name)
            self._sums[name] = (gram, cross) if held is None else (held[0] + gram, held[1] + cross)
        if sample is not None:
            self._sample = sample if self._sample is None else self._sample.plus(sample, self.meter.most)

    def to_bytes(self) -> bytes:
        """The sketch as bytes, without the meter."""
        arrays: dict[str, Array] = {}
        for name, (gram, cross) in self._sums.items():
            arrays |= {f"{name}/gram": gram, f"{name}/cross": cross}
        if self._sample is not None:
            arrays |= {f"sample/{name}": getattr(self._sample, name) for name in Balanced.__slots__}
        for i, (own, told, soft) in enumerate(self._rows):
            arrays |= {f"row/{i}/own": own, f"row/{i}/told": told}
            arrays |= {} if soft is None else {f"row/{i}/soft": soft}
        return frame(arrays, n=self.n, sums=list(self._sums), rows=len(self._rows))

    @classmethod
    def from_bytes(cls, blob: bytes, meter: LeakMeter) -> LeakSketch:
        """The inverse of `to_bytes`."""
        arrays, head = unframe(blob)
        made = cls(meter)
        made.n = int(head["n"])
        made._sums = {name: (arrays[f"{name}/gram"], arrays[f"{name}/cross"]) for name in head["sums"]}
        if made._sums:
            made._sample = Balanced(*(arrays[f"sample/{name}"] for name in Balanced.__slots__))
        made._rows = [
            Received(arrays[f"row/{i}/own"], arrays[f"row/{i}/told"], arrays.get(f"row/{i}/soft"))
            for i in range(head["rows"])
        ]
        return made


def _numbers(form: Scale | TextScale, inputs: Array) -> Floats32:
    """(n, d) of inputs: columns in own units, or the embedding of texts."""
    if isinstance(form, TextScale):
        return form.numbers(inputs)
    return form.own(np.asarray(inputs, np.float64).reshape(len(inputs), -1))


def _with_one(features: Floats32) -> Floats32:
    return np.concatenate([np.ones((len(features), 1), np.float32), features], 1)


def _soft(answers: Answers) -> Floats | None:
    """(n, classes) probabilities, None where none were released. Withheld mass is spread evenly."""
    if Signal.PROBABILITIES in answers:
        given, told = answers.mask(Signal.PROBABILITIES), answers[Signal.PROBABILITIES]
        told = np.where(given & np.isfinite(told), told, 0.0)
        hidden = (~given).sum(1, keepdims=True)
        rest = np.maximum(1 - told.sum(1, keepdims=True), 0) / np.maximum(hidden, 1)
        return np.where(given, told, rest)
    if Signal.LOGITS in answers:
        scores = np.where(answers.mask(Signal.LOGITS), answers[Signal.LOGITS], -np.inf)
        powers = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))
    return None


def _packed(square: Array) -> Array:
    return square[np.triu_indices(len(square))]


def _square(packed: Array) -> Floats:
    size = int((np.sqrt(8 * len(packed) + 1) - 1) / 2)
    found = np.zeros((size, size))
    found[np.triu_indices(size)] = packed
    return found + np.triu(found, 1).T
