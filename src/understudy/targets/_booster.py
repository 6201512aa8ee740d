"""What saved boosted trees have in common as targets: margins, and what they say of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from understudy.errors import ManifestError
from understudy.targets.callable import checked
from understudy.types import Answers, Array, Ask, Exposure, Floats, Signal, Space


@dataclass(frozen=True, eq=False)
class BoosterTarget:
    """Boosted trees. `predict`: (n, d) -> what the library answers, probabilities of classes or values; `margins`:
    (n, d) -> the sums over the trees.
    """

    predict: Callable[[Floats], Array]
    margins: Callable[[Floats], Array]
    exposure: Exposure
    space: Space

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Every exposed signal, held against the exposure."""
        x = self.space.check(inputs)
        if not len(x):
            return self.exposure.nothing(0, self.space.shape)
        flat, wanted, raw = x.reshape(len(x), -1), self.exposure.signals, dict[str, Array]()
        if Signal.VALUE in wanted:
            raw[Signal.VALUE] = self.predict(flat)
        if Signal.LOGITS in wanted:
            raw[Signal.LOGITS] = self.margins(flat)
        if wanted & {Signal.PROBABILITIES, Signal.LABEL}:
            p = _two(self.predict(flat))
            if Signal.PROBABILITIES in wanted:
                raw[Signal.PROBABILITIES] = p
            if Signal.LABEL in wanted:
                raw[Signal.LABEL] = p.argmax(1)
        answers = checked(raw, len(x), self.exposure, self.space.shape)
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)


def exposed(name: str, classes: int, outputs: int, signals: Iterable[Signal] | None) -> Exposure:
    """What a model answers: of `classes` (0: it predicts values) what was asked for, else all it can.

    Raises ManifestError for signals it cannot give.
    """
    can = [Signal.PROBABILITIES, Signal.LOGITS, Signal.LABEL] if classes else [Signal.VALUE]
    wanted = [Signal(s) for s in signals] if signals is not None else can
    missing = [s.value for s in wanted if s not in can]
    if missing:
        what = f"a classifier of {classes} classes" if classes else "a regression"
        raise ManifestError(f"{name} is {what}: it cannot give {', '.join(missing)}; it gives {', '.join(can)}")
    return Exposure.of([s.value for s in wanted], classes or outputs)


def unreadable(path: Path, kind: str, error: Exception) -> ManifestError:
    """Why a file is no model, in one line."""
    if not path.is_file():
        return ManifestError(f"{path}: there is no such file")
    head = str(error).strip().splitlines()
    return ManifestError(f"{path} is not a model that {kind} can load: {head[0] if head else type(error).__name__}")


def _two(p: Array) -> Array:
    """Both classes' probabilities, in the precision that one came in: that of the libraries' own classifiers."""
    return np.stack([1 - p, p], 1) if p.ndim == 1 else p
