"""The leak meter: how much of the model could a party have learned from what it received?

Sums over (features of an input, what was released for it) are kept per account; sums of accounts add, so a party is
judged exactly, without its logs. Read out, they are the substitute that ridge regression makes of those answers, and
its agreement with the model on the owner's hold-out is the meter. It measures exposure, not intent: an honest heavy
user of a small model has learned it too. Three sums: random ReLU features and the leaves of the owner's own trees
(labels suffice), and log-odds on the columns themselves (only where probabilities were released; for a linear model
that *is* equation solving).

Kesarwani, Mukhoty, Arya and Mehta (ACSAC 2018) ask the question for trees; sums that merge are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.random import Generator

from understudy.errors import UsageError
from understudy.forest import flatten, leaves
from understudy.store import frame, unframe
from understudy.types import Answers, Array, Estimate, Floats, Signal
from understudy.views import Floats32, Scale, labels

KEPT = 50  # queries that are kept as they are before they are summed
_RIDGES = {"relu": (1e-3, 1e-2, 1e-1), "leaves": (1e-3, 1e-2, 1e-1), "columns": (1e-9, 1e-6, 1e-3, 1e-1)}
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


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    """What meter readings turned out to be worth: an isotonic map, and its error on families it was not fitted to."""

    meter: Floats
    real: Floats
    error: float

    def read(self, value: float) -> float:
        return float(np.interp(value, self.meter, self.real))


@dataclass(frozen=True, eq=False)
class LeakMeter:
    """Feature maps and the hold-out of one model, fixed once, and what readings are worth.

    `features`: random ReLU features; `trees` of `tree_leaves` leaves each. `truths`: per bracket ("label",
    "probability"), once `calibrated`.
    """

    scale: Scale
    outputs: int
    arrays: Mapping[str, Array]
    truths: Mapping[str, _Truth] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        reference: Floats,
        answers: Answers,
        rng: Generator,
        *,
        held_out: tuple[Floats, Answers] | None = None,
        features: int | None = None,
        trees: int = 15,
        tree_leaves: int = 16,
    ) -> Self:
        """Maps from the owner's rows (n, d) and the model's answers to them. A fifth of the rows is held out, at most
        5,000, unless `held_out` are given. Raises UsageError where no class is answered.
        """
        from sklearn.ensemble import RandomForestClassifier

        if not any(s in answers for s in _CLASSES) or answers.outputs < 2:
            raise UsageError("the leak meter needs answers that hold a class")
        if held_out is None:
            order = rng.permutation(len(reference))
            cut = min(max(len(order) // 5, 1), 5000)
            held_out = (reference[order[:cut]], answers.take(order[:cut]))
            reference, answers = reference[order[cut:]], answers.take(order[cut:])
        scale = Scale.fit(reference)
        own = scale.own(np.asarray(reference, np.float64).reshape(len(reference), -1))
        size = features or (256 if answers.outputs <= 10 else 512)
        d = own.shape[1]
        forest = RandomForestClassifier(
            trees, max_leaf_nodes=tree_leaves, random_state=int(rng.integers(2**31 - 1))
        ).fit(own, labels(answers))
        maps: dict[str, Array] = {
            "weights": (rng.standard_normal((d, size)) / np.sqrt(d)).astype(np.float32),
            "bias": rng.uniform(-1, 1, size).astype(np.float32),
        }
        flat = flatten(forest.estimators_, lambda tree: np.zeros(tree.node_count))
        leaf = flat["child"][:, 0] == np.arange(len(flat["child"]))
        flat["value"] = (np.cumsum(leaf) - 1).astype(np.float32)  # the column of each leaf
        maps |= {f"forest/{name}": a for name, a in flat.items()}
        rows, told = held_out
        maps["held/inputs"] = scale.own(np.asarray(rows, np.float64).reshape(len(rows), -1))
        maps["held/labels"] = labels(told)
        return cls(scale, answers.outputs, maps)

    @property
    def held(self) -> tuple[Floats, Array]:
        """The hold-out: inputs (n, d) as asked, up to float32, and the model's classes."""
        return self.arrays["held/inputs"] * self.scale.spread + self.scale.centre, self.arrays["held/labels"]

    def sketch(self) -> LeakSketch:
        """An empty sketch of this meter."""
        return LeakSketch(self)

    def maps(self, own: Floats32, soft: bool) -> dict[str, Floats32]:
        """Features by name, (n, size) each, of inputs in own units."""
        z = np.concatenate([np.ones((len(own), 1), np.float32), self._relu(own)], 1)
        found = {"relu": z, "leaves": self._leaves(own)}
        if soft:
            found["columns"] = np.concatenate([np.ones((len(own), 1), np.float32), own], 1)
        return found

    def _relu(self, own: Floats32) -> Floats32:
        found: Floats32 = np.maximum(self.scale.z(own) @ self.arrays["weights"] + self.arrays["bias"], 0)
        return found

    def _leaves(self, own: Floats32) -> Floats32:
        forest = {name: self.arrays[f"forest/{name}"] for name in ("feature", "threshold", "child", "roots", "depth")}
        column = self.arrays["forest/value"].astype(np.int64)
        found = np.zeros((len(own), int(column[-1]) + 1), np.float32)
        found[np.arange(len(own))[:, None], column[leaves(forest, own)]] = 1
        return found

    def raw(self, sketch: LeakSketch) -> dict[str, float]:
        """The meter before calibration, per bracket: agreement of the ridge copy on the hold-out."""
        held, truth = self.arrays["held/inputs"], self.arrays["held/labels"]
        maps, found = self.maps(held, sketch.soft), {}
        for name, (gram, cross) in sketch.sums().items():
            level, best = np.trace(gram) / len(gram), 0.0
            for ridge in _RIDGES[name]:
                weights = np.linalg.lstsq(gram + max(ridge * level, 1e-12) * np.eye(len(gram)), cross, rcond=None)[0]
                best = max(best, float(((maps[name] @ weights).argmax(1) == truth).mean()))
            found[name] = best
        label = max(found["relu"], found["leaves"])
        return {"label": label} | ({"probability": max(label, found["columns"])} if "columns" in found else {})

    def read(self, sketch: LeakSketch) -> Leak:
        """What the account (or the party whose sketches were merged) could have learned."""
        return Leak(**{name: self._estimate(name, value, sketch.n) for name, value in self.raw(sketch).items()})

    def _estimate(self, bracket: str, value: float, n: int) -> Estimate:
        truth = self.truths.get(bracket)
        if truth is None:  # not held against trained substitutes: nothing is known of its error
            return Estimate(value, 0.0, 1.0, n)
        real = truth.read(value)
        return Estimate(real, max(0.0, real - 1.645 * truth.error), min(1.0, real + 1.645 * truth.error), n)

    def calibrated(
        self, readings: Sequence[Mapping[str, float]], real: Sequence[Mapping[str, float]], families: Sequence[str]
    ) -> Self:
        """Held against really trained substitutes: raw `readings`, what the best substitutes agreed with the model on
        the hold-out, per bracket, and the family of queries each came from. The error is that on families left out of
        the fit, one at a time.
        """
        from sklearn.isotonic import IsotonicRegression

        truths, family = {}, np.asarray(families)
        for bracket in ("label", "probability"):
            have = np.array([bracket in r and bracket in t for r, t in zip(readings, real, strict=True)], bool)
            if have.sum() < 5 or len(set(family[have])) < 2:
                continue
            kept = np.flatnonzero(have).tolist()
            x, y = (np.array([told[i][bracket] for i in kept]) for told in (readings, real))
            kind = family[have]
            wrong = np.zeros(len(x))
            for name in set(kind):
                out = kind == name
                model = IsotonicRegression(out_of_bounds="clip").fit(x[~out], y[~out])
                wrong[out] = model.predict(x[out]) - y[out]
            model = IsotonicRegression(out_of_bounds="clip").fit(x, y)
            truths[bracket] = _Truth(
                model.X_thresholds_.astype(float), model.y_thresholds_.astype(float), float(np.sqrt((wrong**2).mean()))
            )
        return replace(self, truths=truths)

    def parts(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """The meter as arrays by name and a header of plain values."""
        arrays = {f"scale/{n}": a for n, a in self.scale.arrays().items()} | dict(self.arrays)
        for bracket, truth in self.truths.items():
            arrays |= {f"truth/{bracket}/meter": truth.meter, f"truth/{bracket}/real": truth.real}
        return arrays, {"outputs": self.outputs, "errors": {b: t.error for b, t in self.truths.items()}}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], head: Mapping[str, Any]) -> Self:
        """The inverse of `parts`."""
        scale = Scale.of({n.removeprefix("scale/"): a for n, a in arrays.items() if n.startswith("scale/")})
        truths = {
            b: _Truth(arrays[f"truth/{b}/meter"], arrays[f"truth/{b}/real"], e) for b, e in head["errors"].items()
        }
        rest = {n: a for n, a in arrays.items() if not n.startswith(("scale/", "truth/"))}
        return cls(scale, int(head["outputs"]), rest, truths)


class LeakSketch:
    """Sums of one account under one meter. The first 50 queries are kept as they are: most accounts stay that small."""

    def __init__(self, meter: LeakMeter) -> None:
        self.meter, self.n, self.soft = meter, 0, False
        self._rows: list[tuple[Floats32, Floats, bool]] = []
        self._sums: dict[str, tuple[Array, Array]] = {}

    def add(self, inputs: Floats, answers: Answers) -> None:
        """Add queries (n, d) and what was released for them. Rows without a released class are left out."""
        if not len(inputs) or not any(s in answers for s in _CLASSES):
            return
        own = self.meter.scale.own(np.asarray(inputs, np.float64).reshape(len(inputs), -1))
        told, soft = _told(answers)
        self.n += len(own)
        self.soft |= soft
        self._rows.append((own, told, soft))
        if self._sums or self.n > KEPT:
            self._fold()

    def merge(self, other: LeakSketch) -> LeakSketch:
        """The sketch of both accounts together: that of their queries in one account, up to float32 rounding."""
        both = LeakSketch(self.meter)
        both.n, both.soft = self.n + other.n, self.soft or other.soft
        both._rows = [*self._rows, *other._rows]
        both._sums = {name: tuple(a.copy() for a in parts) for name, parts in self._sums.items()}  # type: ignore[misc]
        for name, parts in other._sums.items():
            both._plus(name, *parts)
        if both._sums or both.n > KEPT:
            both._fold()
        return both

    def sums(self) -> dict[str, tuple[Floats, Floats]]:
        """(features x features, features x classes) by name of the map."""
        whole = LeakSketch(self.meter).merge(self)
        whole._fold()
        return {name: (_square(gram), cross.astype(np.float64)) for name, (gram, cross) in whole._sums.items()}

    def _fold(self) -> None:
        for own, told, soft in self._rows:
            for name, phi in self.meter.maps(own, soft).items():
                exact = name == "columns"  # equations are solved with it: float32 would not do
                f = phi.astype(np.float64) if exact else phi
                y = np.log(np.where(told > 0, told, _NONE)) if exact else told.astype(np.float32)
                y = y - y.mean(1, keepdims=True) if exact else y - np.float32(1 / self.meter.outputs)
                self._plus(name, _packed(f.T @ f), f.T @ y)
        self._rows = []

    def _plus(self, name: str, gram: Array, cross: Array) -> None:
        if name in self._sums:
            held = self._sums[name]
            held = (held[0] + gram, held[1] + cross)
            self._sums[name] = held
        else:
            self._sums[name] = (gram, cross)

    def to_bytes(self) -> bytes:
        """The sketch as bytes, without the meter."""
        arrays: dict[str, Array] = {}
        for name, (gram, cross) in self._sums.items():
            arrays |= {f"{name}/gram": gram, f"{name}/cross": cross}
        for i, (own, told, _) in enumerate(self._rows):
            arrays |= {f"row/{i}/own": own, f"row/{i}/told": told}
        return frame(arrays, n=self.n, soft=self.soft, sums=list(self._sums), rows=[soft for *_, soft in self._rows])

    @classmethod
    def from_bytes(cls, blob: bytes, meter: LeakMeter) -> LeakSketch:
        """The inverse of `to_bytes`."""
        arrays, head = unframe(blob)
        made = cls(meter)
        made.n, made.soft = int(head["n"]), bool(head["soft"])
        made._sums = {name: (arrays[f"{name}/gram"], arrays[f"{name}/cross"]) for name in head["sums"]}
        made._rows = [(arrays[f"row/{i}/own"], arrays[f"row/{i}/told"], s) for i, s in enumerate(head["rows"])]
        return made


def _told(answers: Answers) -> tuple[Floats, bool]:
    """(n, classes) what a thief would train on, and whether it holds probabilities. Withheld mass is spread evenly."""
    if Signal.PROBABILITIES in answers:
        given, told = answers.mask(Signal.PROBABILITIES), answers[Signal.PROBABILITIES]
        told = np.where(given & np.isfinite(told), told, 0.0)
        hidden = (~given).sum(1, keepdims=True)
        rest = np.maximum(1 - told.sum(1, keepdims=True), 0) / np.maximum(hidden, 1)
        return np.where(given, told, rest), True
    if Signal.LOGITS in answers:
        scores = np.where(answers.mask(Signal.LOGITS), answers[Signal.LOGITS], -np.inf)
        powers = np.exp(scores - scores.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True), True
    return np.eye(answers.outputs)[answers.labels()], False


def _packed(square: Array) -> Array:
    return square[np.triu_indices(len(square))]


def _square(packed: Array) -> Floats:
    size = int((np.sqrt(8 * len(packed) + 1) - 1) / 2)
    found = np.zeros((size, size))
    found[np.triu_indices(size)] = packed
    return found + np.triu(found, 1).T
