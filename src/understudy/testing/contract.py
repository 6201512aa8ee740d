"""What all laws share: the law itself, the truth of an exposure, and the shared generators nobody may draw from."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.types import Answers, Exposure, Signal


def demand(kept: object, finding: str) -> None:
    """Raise AssertionError with `finding` unless `kept`; unlike assert, also under python -O."""
    if not kept:
        raise AssertionError(finding)


@dataclass(frozen=True)
class Law:
    """A law: its name, and the function that raises AssertionError when a bench breaks it."""

    name: str
    holds: Callable[[Any], None]

    def fault(self, bench: Any) -> str | None:
        """What is wrong, or None. A plug-in that raises breaks the law too."""
        try:
            self.holds(bench)
        except AssertionError as error:
            return str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def __str__(self) -> str:
        return self.name


def check_answers(answers: Answers, exposure: Exposure, n: int, slack: float = 0.0, shape: Sequence[int] = ()) -> None:
    """Raise AssertionError unless `answers` are `n` rows of what `exposure` declares, and no more.

    `slack` is the rounding error that is forgiven, relative to max(1, |value|): a server that computes in float32
    cannot hold 0.12 to the last bit. `shape` of one input: explanations have as many numbers.
    """
    declared, held = exposure.signals, frozenset(answers.values)
    demand(held == declared, f"{sorted(declared)} declared, {sorted(held)} answered")
    demand(answers.outputs == exposure.outputs, f"{exposure.outputs} outputs declared, {answers.outputs} answered")
    for signal, grain in exposure.grains.items():
        values, mask = answers[signal], answers.mask(signal)
        if signal is Signal.LABEL:
            demand(values.shape == (n,) and values.dtype == np.int64, f"label: {values.dtype} of shape {values.shape}")
            demand(((values >= 0) & (values < exposure.outputs)).all(), f"a label outside 0 to {exposure.outputs - 1}")
            continue
        expected = exposure.nothing(n, shape)[signal].shape
        demand(values.shape == expected == mask.shape, f"{signal.value}: shape {values.shape}, expected {expected}")
        demand(values.dtype == np.float64 and mask.dtype == np.bool_, f"{signal.value}: {values.dtype}, not float64")
        demand((values[~mask] == 0).all(), f"{signal.value}: a withheld entry holds a number")
        if grain.top_k is not None:
            most = int(mask.sum(1).max(initial=0))
            demand(most <= grain.top_k, f"{signal.value}: top-{grain.top_k} declared, {most} entries shown")
        if grain.decimals is not None:
            off = np.abs(values - np.round(values, grain.decimals)) > slack * np.maximum(1, np.abs(values))
            demand(not off.any(), f"{signal.value}: more than {grain.decimals} decimals are shown")
            signed = np.signbit(values) & (values == 0)
            demand(not signed.any(), f"{signal.value}: a rounded zero still shows its sign")
        if grain.levels is not None:
            shown = len(np.unique(values[mask]))
            demand(shown <= grain.levels, f"{signal.value}: {grain.levels} levels declared, {shown} shown")


def same(a: Answers, b: Answers, rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Whether two answers hold the same signals, masks and (to a tolerance) numbers."""
    return a.values.keys() == b.values.keys() and all(
        a[s].shape == b[s].shape
        and np.array_equal(a.mask(s), b.mask(s))
        and np.allclose(a[s], b[s], rtol=rtol, atol=atol, equal_nan=True)
        for s in a.values
    )


def random_state() -> str:
    """The state of the generators that everybody shares, to see whether a plug-in draws from them."""
    return repr((random.getstate(), [str(part) for part in np.random.get_state()]))  # noqa: NPY002


def stores_only_parameters(bench: Any) -> None:
    """A frozen dataclass whose constructor stores what it is given, whatever that is, and does nothing else."""
    kind = type(bench.subject)
    demand(dataclasses.is_dataclass(kind), f"{kind.__name__} is not a dataclass")
    demand(kind.__dataclass_params__.frozen, f"{kind.__name__} is not a frozen dataclass")
    given = {field.name: object() for field in dataclasses.fields(kind) if field.init}
    made = kind(**given)
    changed = [name for name, value in given.items() if getattr(made, name) is not value]
    demand(not changed, f"the constructor changes: {', '.join(changed)}")
    extra = getattr(made, "__dict__", given).keys() - given.keys()
    demand(not extra, f"the constructor stores more than its parameters: {', '.join(sorted(extra))}")


def says(bench: Any, headings: Sequence[str]) -> None:
    """The docstring has every heading, with something under it."""
    anywhere = r"^\s*(" + "|".join(map(re.escape, headings)) + "):"
    found = re.split(anywhere, type(bench.subject).__doc__ or "", flags=re.MULTILINE)
    sections = dict(zip(found[1::2], found[2::2], strict=True))
    missing = [heading for heading in headings if not sections.get(heading, "").strip()]
    demand(not missing, f"the docstring says nothing under: {', '.join(missing)}")


def names_signals(subject: Any) -> None:
    """`needs` is a frozenset of signals, and not empty."""
    needs = getattr(type(subject), "needs", None)
    declared = isinstance(needs, frozenset) and needs and all(isinstance(signal, Signal) for signal in needs)
    demand(declared, f"`needs` is {needs!r}, not a frozenset of Signal with at least one in it")
