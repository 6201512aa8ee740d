"""The manifest's monitor.logs section: where a log that is not the gateway's own says who asked what."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from understudy.manifest_parts import Name, Part
from understudy.types import Signal

Path = str | list[str]
_WHERE = "a column, a dotted path, or a JMESPath expression"


class LogsPart(Part):
    """What is where in a log. Each place is a column, a dotted path (`metadata.user`), or a JMESPath expression."""

    format: Literal["kserve", "litellm", "sagemaker", "table"] | None = Field(
        None, description="told from the first record where absent; the gateway's own history needs none"
    )
    principal: str | None = Field(None, description=f"who asked: {_WHERE}; the format's own place where absent")
    party: str | None = Field(None, description="whose account that is; the principal alone where absent")
    segment: str | None = Field(None, description="declared use of the account; monitor.segments where absent")
    time: str | None = Field(
        None, description="when: ISO 8601, or seconds, milli-, micro- or nanoseconds since 1970, told by their size"
    )
    id: str | None = Field(None, description="of the record: one that comes again soon is left out")
    inputs: Path | None = Field(
        None, description="format table: what was asked, as one place that holds the row, or a column per coordinate"
    )
    answers: dict[Signal, Path] = Field(
        default_factory=dict, description="format table: each released signal's place, or its columns"
    )
    margin: str | None = Field(None, description="owner's side: gap of the two largest scores")
    classes: list[str] = Field(default_factory=list, description="names of the classes, where labels are text")
    encode: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$",
        description="module:function that makes rows of numbers, (n, d), of a list of what the log holds as inputs",
    )
    protocol: Name | None = Field(
        None, description="of the bodies in kserve and sagemaker logs; target.http's where absent"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of that protocol's codec")
    signals: list[Signal] | None = Field(None, description="what those bodies answer; target.signals where absent")
    audits: list[str] = Field(default_factory=list, description="principals of the owner's own audits: left out")

    @field_validator("inputs", "answers")
    @classmethod
    def _named(cls, value: Any) -> Any:
        places = value.values() if isinstance(value, dict) else [value]
        if any(place in ("", []) for place in places):
            raise ValueError("name a place, or columns")
        return value

    @model_validator(mode="after")
    def _sound(self) -> LogsPart:
        if self.options and self.protocol is None:
            raise ValueError("options belong to a protocol: name it")
        return self
