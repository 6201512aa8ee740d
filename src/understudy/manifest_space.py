"""The manifest's space section: what may be asked, numbers or texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from understudy import types
from understudy.manifest_logs import LogsPart
from understudy.manifest_parts import Count, Part
from understudy.types import EXPLANATIONS, Signal


class Box(Part):
    """Bounds per coordinate, numbers or lists, infinite where any number will do (.inf); a table's kinds of columns."""

    low: float | list[float]
    high: float | list[float]
    shape: list[Count] = Field(min_length=1)
    integer: list[int] = Field([], description="columns of whole numbers, counted from 0")
    categories: dict[int, Count] = Field({}, description="columns of codes: {column: number of categories}")
    missing: list[int] = Field([], description="columns that may be missing (NaN)")

    def space(self) -> types.Box:
        """The space itself. Raises InputError."""
        kinds = {name: getattr(self, name) for name in ("integer", "categories", "missing")}
        made = types.Mixed if any(kinds.values()) else types.Box
        return made(self.low, self.high, self.shape, **{name: kind for name, kind in kinds.items() if kind})


class TextOptions(Part):
    """Which texts."""

    longest: Count = Field(2000, description="characters of a text at most")
    empty: bool = Field(False, description="whether the empty text may be asked")


class TextSpace(Part):
    """Texts: one input is one text."""

    text: TextOptions

    @property
    def shape(self) -> list[int]:
        """A text has no axes."""
        return []

    @property
    def missing(self) -> list[int]:
        """It is there or not: nothing of it can be missing."""
        return []

    def space(self) -> types.Text:
        """The space itself."""
        return types.Text(self.text.longest, self.text.empty)


def _kind(section: Any) -> str:
    text = isinstance(section, TextSpace) or (isinstance(section, dict) and "text" in section)
    return "[texts]" if text else "[numbers]"


Space = Annotated[Annotated[Box, Tag("[numbers]")] | Annotated[TextSpace, Tag("[texts]")], Discriminator(_kind)]


def texts_fit(space: Box | TextSpace, signals: Iterable[Signal], logs: LogsPart | None) -> None:
    """Hold a space of texts against the rest. Raises ValueError that begins with the field at fault."""
    if isinstance(space, Box):
        return
    for signal in sorted(EXPLANATIONS.intersection(signals)):
        raise ValueError(
            f"target.signals.{signal.value}: it is a number per coordinate of an input, and texts have none"
        )
    if logs is not None and logs.encode is not None:
        raise ValueError("monitor.logs.encode: it makes numbers of texts, and this endpoint's inputs are texts")
    if logs is not None and isinstance(logs.inputs, list):
        raise ValueError("monitor.logs.inputs: a text is at one place; name that, not a list")
