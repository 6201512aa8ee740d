"""One query as a record: what is spilled to disk, sorted there, and read back as `Queries`.

On disk a record has a fixed width; a text lies in a file beside the records, which say where and how long it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np

from understudy.errors import AnswerError
from understudy.manifest import Manifest, exposure
from understudy.targets.callable import checked
from understudy.types import EXPLANATIONS, Answers, Array, Bools, Exposure, Floats, Grain, Signal, Text
from understudy.watch import Queries

_SOME, _NUMBERS = 16_384, 2**21  # records, and numbers of their inputs, that are held at once
INPUTS, MARGIN, FIRST = 1, 2, 4  # bits of a record's `kind`: what it holds; FIRST is the first signal's


class Who(NamedTuple):
    """Whose queries they are."""

    principal: str
    party: str
    segment: str | None = None


@dataclass(frozen=True)
class Layout:
    """`width`: numbers of one input; `missing`: those that may be NaN; `exposure`: every signal an answer may hold;
    `text`: the space of texts, where inputs are texts.

    Explanations are left out: no detector looks at them.

    A grain says only what is needed to judge a logged answer: whether entries may be withheld, and how few decimals
    the coarsest tier receives.
    """

    width: int
    exposure: Exposure
    missing: tuple[int, ...] = ()
    text: Text | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> Layout:
        """What any tier's answers, and the model's own, fit into."""
        sections = [manifest.target.signals, *(tier.signals for tier in manifest.tiers)]
        grades = {s: [part[s] for part in sections if s in part] for s in Signal if s not in EXPLANATIONS}
        grains = {}
        for signal, found in grades.items():
            if found:
                kept = [g.top_k for g in found if g.top_k is not None]
                decimals = [g.decimals for g in found if g.decimals is not None]
                grains[signal] = Grain(min(kept, default=None), min(decimals, default=None))
        space = manifest.space.space()
        shown = Exposure(grains, manifest.target.outputs)
        return cls(prod(space.shape), shown, tuple(manifest.space.missing), space if isinstance(space, Text) else None)

    @property
    def inputs(self) -> str:
        """What an input is to be, for complaints."""
        return f"{self.width} numbers" if self.text is None else "a text"

    @cached_property
    def some(self) -> int:
        """How many records are held at once, as Python objects too."""
        return 2048 if self.text is not None else max(1, min(_SOME, _NUMBERS // max(self.width, 1)))

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """Of a record in memory, where a text is an object."""
        return self._dtype([("inputs", "O")] if self.text else [("inputs", "<f8", (self.width,))])

    @cached_property
    def stored(self) -> np.dtype[np.void]:
        """Of a record on disk."""
        return self._dtype([("start", "<i8"), ("size", "<i4")]) if self.text else self.dtype

    def _dtype(self, inputs: list[Any]) -> np.dtype[np.void]:
        fields: list[Any] = [("who", "<i4"), ("kind", "u1"), ("at", "<f8"), ("margin", "<f8"), *inputs]
        for signal in self.exposure.grains:
            if signal is Signal.LABEL:
                fields.append((signal.value, "<i8"))
            else:
                size = (self.exposure.outputs,)
                fields += [(signal.value, "<f8", size), (f"given:{signal.value}", "?", size)]
        return np.dtype(fields)

    def unfit(self, inputs: Array) -> dict[int, str]:
        """What is amiss with each of inputs (n, *shape) that holds no number where it must, or is no text to ask."""
        if self.text is not None:
            return {row: f"an input {why}" for row, why in self.text.faults(inputs.tolist()).items()}
        return dict.fromkeys(np.flatnonzero(~self._usable(inputs)).tolist(), "an input is NaN or infinite")

    def _usable(self, inputs: Floats) -> Bools:
        found = np.isfinite(inputs)
        flat = found.reshape(len(inputs), -1)
        if self.missing:
            columns = list(self.missing)
            flat[:, columns] |= np.isnan(inputs.reshape(len(inputs), -1)[:, columns])
        return np.asarray(flat.all(1))

    def pack(
        self, n: int, at: Any, inputs: Array | None, answers: Answers | None, margin: Floats | None = None
    ) -> Array:
        """(n,) records; `who` is filled in by the spill. Raises ValueError where inputs (n, *shape) are of another kind
        or width.
        """
        made = np.zeros(n, self.dtype)
        made["at"] = at
        if inputs is not None:
            if (inputs.dtype == object) != (self.text is not None):
                raise ValueError(f"an input is not {self.inputs}")
            made["inputs"] = inputs if self.text else inputs.reshape(n, self.width)
            made["kind"] |= INPUTS
        if margin is not None:
            made["margin"] = margin
            made["kind"] |= MARGIN
        for place, signal in enumerate(self.exposure.grains):
            if answers is None or signal not in answers:
                continue
            made[signal.value] = answers[signal]
            if signal is not Signal.LABEL:
                made[f"given:{signal.value}"] = answers.mask(signal)
            made["kind"] |= FIRST << place
        return made

    def queries(self, rows: Array, names: Sequence[Who]) -> Iterator[Queries]:
        """Sorted records as runs of one principal's, of one kind each. `rows` are read once, column by column."""
        if not len(rows):
            return
        who, kind = rows["who"], rows["kind"]
        starts = np.flatnonzero(
            np.diff(who, prepend=-1).astype(bool) | (np.diff(kind.astype(np.int16), prepend=-1) != 0)
        )
        columns = {name: np.ascontiguousarray(rows[name]) for name in self.dtype.names or ()}
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            run, holds = slice(start, end), int(kind[start])
            given = [s for place, s in enumerate(self.exposure.grains) if holds & FIRST << place]
            values = {s: columns[s.value][run] for s in given}
            masks = {s: columns[f"given:{s.value}"][run] for s in given if s is not Signal.LABEL}
            present: dict[Signal, Array] = {s: m for s, m in masks.items() if not m.all()}
            name = names[who[start]]
            yield Queries(
                name.principal,
                name.party,
                columns["at"][run],
                columns["inputs"][run] if holds & INPUTS else None,
                Answers(values, self.exposure.outputs, present),
                columns["margin"][run] if holds & MARGIN else None,
                segment=name.segment,
            )


def body_exposure(manifest: Manifest, signals: Sequence[Signal] | None) -> Exposure:
    """What the bodies of a log answer: `signals` of the target's, or all of them."""
    served = exposure(manifest.target.signals, manifest.target.outputs)
    if signals is None:
        signals = tuple(served.grains)
    return Exposure({s: served.grains.get(s, Grain()) for s in signals if s not in EXPLANATIONS}, served.outputs)


def sound(raw: dict[str, Any], n: int, shown: Exposure) -> tuple[Answers | None, dict[int, str]]:
    """Raw arrays as answers, with the reason for each row that cannot be one; those rows hold nothing of use.

    Looks at all rows at once; where that fails, at halves of them: few bad rows cost little.
    """
    bad: dict[int, str] = {}

    def parts(start: int, end: int) -> Iterator[tuple[int, Answers]]:
        try:
            yield start, checked({name: value[start:end] for name, value in raw.items()}, end - start, shown)
        except AnswerError as error:
            if end - start == 1:
                bad[start] = error.told
                return
            middle = (start + end) // 2
            yield from parts(start, middle)
            yield from parts(middle, end)

    found = list(parts(0, n))
    if not found:
        return None, bad
    if not bad:
        return Answers.concat([answers for _, answers in found]), bad
    whole = {s: np.zeros((n, *v.shape[1:]), v.dtype) for s, v in found[0][1].values.items()}
    masks: dict[Signal, Array] = {s: np.zeros(v.shape, np.bool_) for s, v in whole.items() if s is not Signal.LABEL}
    for start, answers in found:
        for signal, value in answers.values.items():
            whole[signal][start : start + len(value)] = value
            if signal in masks:
                masks[signal][start : start + len(value)] = answers.mask(signal)
    return Answers(whole, shown.outputs, masks), bad
