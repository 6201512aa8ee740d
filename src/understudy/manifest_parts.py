"""What the sections of a manifest are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from understudy.types import EXPLANATIONS, Signal

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Count = Annotated[int, Field(gt=0, strict=True)]
#: A number and a unit, as 90m, 24h or 30d
Duration = Annotated[str, Field(pattern=r"^[1-9]\d{0,5}[smhdw]$")]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(duration: str) -> float:
    """The length of a `Duration`."""
    return float(int(duration[:-1]) * _SECONDS[duration[-1]])


class Part(BaseModel):
    """Base of every part: unknown fields are refused, nothing is coerced silently from text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FromEnvironment(Part):
    """A header's value: never in the manifest, always from an environment variable."""

    env: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    prefix: str = ""


class Grade(Part):
    """How much of one signal: absent = all of it."""

    top_k: Count | None = None
    decimals: Annotated[int, Field(ge=0, le=17)] | None = None


def _whole(signals: dict[Signal, Grade]) -> dict[Signal, Grade]:
    for signal in sorted(EXPLANATIONS & signals.keys()):
        if signals[signal] != Grade():
            raise ValueError(f"{signal.value} is given whole or not at all: it takes no top_k and no decimals")
    return signals


Signals = Annotated[dict[Signal, Grade], AfterValidator(_whole)]
