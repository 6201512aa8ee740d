"""The manifest's monitor section: what was learned of benign accounts, and what happens to the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from understudy.manifest_logs import LogsPart
from understudy.manifest_parts import Count, Duration, FromEnvironment, Name, Part
from understudy.types import Exposure

Do = Literal["note", "alert", "throttle", "reduce", "reverify", "suspend"]
Share = Annotated[float, Field(gt=0, le=1)]
#: Steps that the customer meets.
TOUCHING = frozenset({"throttle", "reduce", "reverify", "suspend"})


class Segment(Part):
    """Accounts that use the endpoint in a way of their own: judged beside each other where there are enough."""

    principals: list[str] = Field(default_factory=list, description="as the record names them: key:acme-1, jwt:...")
    parties: list[str] = Field(default_factory=list)


class When(Part):
    """A condition of the ladder: everything that is named must hold."""

    p_value: Share | None = Field(None, description="of the account among the benign ones, at most this")
    leak: Share | None = Field(None, description="share of the model that could have been learned, at least this")
    leak_budget: bool = Field(False, description="the leak has reached the tier's leak budget")
    queries: Count | None = Field(None, description="asked by the account so far, at least this many")
    declared: float | None = Field(
        None, gt=0, description="asked in the last day, at least so many times what the customer declared"
    )

    @model_validator(mode="after")
    def _some(self) -> When:
        named = (self.p_value, self.leak, self.queries, self.declared)
        if all(one is None for one in named) and not self.leak_budget:
            raise ValueError("name at least one of p_value, leak, leak_budget, queries and declared")
        return self


class Step(Part):
    """One step of the ladder. A suspension waits for a named human; every step ends by itself."""

    id: Name | None = Field(None, description="what records call it; its action and place where absent")
    when: When
    do: Do
    whom: Literal["principal", "party"] = Field("principal", description="the account, or all accounts of its party")
    tiers: list[Name] | None = Field(None, description="customers of these tiers only; all whom it fits where absent")
    factor: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="throttle: share of the allowances left, 0.1 where absent"
    )
    to_tier: Name | None = Field(None, description="reduce: the tier whose exposure is given instead")
    expires: Duration = Field("7d", description="until it ends by itself, or until a suspension is no longer proposed")
    cool_down: Duration = Field("1d", description="how long after its end the step cannot act again")

    @model_validator(mode="after")
    def _whole(self) -> Step:
        if (self.to_tier is not None) != (self.do == "reduce"):
            raise ValueError("to_tier belongs to reduce, and reduce needs it")
        if self.factor is not None and self.do != "throttle":
            raise ValueError("factor belongs to throttle")
        if self.do in ("reverify", "suspend") and self.when.p_value is None:
            raise ValueError(
                f"{self.do} accuses somebody, so its condition needs a p_value: a leak or a volume is none"
            )
        return self

    @property
    def touches(self) -> bool:
        """Whether the customer meets it."""
        return self.do in TOUCHING


class Webhook(Part):
    """Where alerts are posted: JSON, signed with HMAC-SHA256 over time and body."""

    url: str = Field(pattern=r"^https?://[^\s@]+$", description="no credentials in it")
    secret: FromEnvironment | None = Field(None, description="signs each alert; unsigned where absent")
    timeout_s: float = Field(5, gt=0, le=60)
    tries: Annotated[int, Field(ge=1, le=20)] = 8


class Sinks(Part):
    """Where alerts go. Files are relative to the endpoint's part of the guard folder."""

    file: str | None = Field("alerts.jsonl", description="one alert a line")
    ocsf: str | None = Field(None, description="one OCSF Detection Finding a line, for a SIEM")
    webhook: Webhook | None = None


class MonitorPart(Part):
    """Who is copying the model, and what is done about it."""

    calibration: str = Field(
        "calibration.bin", description="what `understudy calibrate` wrote, relative to the manifest"
    )
    level: Annotated[float, Field(gt=0, le=0.1)] = Field(
        0.01, description="share of benign accounts that may ever be alarmed within the horizon"
    )
    horizon: Count = Field(1024, description="queries of one account that the level covers")
    traffic: bool = Field(
        False, description="also rank when and how fast accounts ask; busy honest customers come nearer to an alarm"
    )
    also: list[Name] = Field([], description="detectors that bet beside the usual ones: `understudy list detectors`")
    segments: dict[Name, Segment] = Field(default_factory=dict)
    declared: dict[str, Count] = Field(
        default_factory=dict, description="queries a day that a principal or a party said it would ask"
    )
    leak_budget: dict[Name, Share] = Field(
        default_factory=dict, description="per tier: the share of the model that one party may be able to learn"
    )
    response: list[Step] = Field(default_factory=list)
    sinks: Sinks = Sinks()
    logs: LogsPart | None = Field(None, description="where logs that are not the gateway's own say who asked what")

    @field_validator("segments")
    @classmethod
    def _apart(cls, segments: dict[str, Segment]) -> dict[str, Segment]:
        named = [name for segment in segments.values() for name in (*segment.principals, *segment.parties)]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is in two segments")
        return segments

    @model_validator(mode="after")
    def _sound(self) -> MonitorPart:
        names = [self.name(i) for i in range(len(self.response))]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"monitor.response: ids must differ; {', '.join(twice)} is given twice")
        for i, step in enumerate(self.response):
            if step.touches and step.when.p_value is not None and step.when.p_value > self.level:
                raise ValueError(
                    f"monitor.response.{i}.when.p_value: {step.do} touches customers, so it may not be above "
                    f"monitor.level ({self.level:g}), the share of benign accounts that may be alarmed"
                )
        return self

    def name(self, step: int) -> str:
        """What records call a step."""
        return self.response[step].id or f"{step + 1}-{self.response[step].do}"

    def promised(self, principal: str, party: str) -> int | None:
        """Queries a day that an account's customer declared; of an account's own figure and its party's the former."""
        return self.declared.get(principal, self.declared.get(party))

    def segment(self, principal: str, party: str) -> str | None:
        """The declared segment of an account."""
        for name, segment in self.segments.items():
            if principal in segment.principals or party in segment.parties:
                return name
        return None


def monitor_fits(monitor: MonitorPart, tiers: Mapping[str, Exposure]) -> None:
    """Hold the section against what each tier receives. Raises ValueError that begins with the field at fault."""
    for i, step in enumerate(monitor.response):
        if step.when.declared is not None and not monitor.declared:
            raise ValueError(f"monitor.response.{i}.when.declared: nobody declared anything; give monitor.declared")

    def known(name: str, field: str) -> None:
        if name not in tiers:
            raise ValueError(f"monitor.{field}: no tier is called {name!r} (tiers: {', '.join(tiers)})")

    for name in monitor.leak_budget:
        known(name, "leak_budget")
    for i, step in enumerate(monitor.response):
        for name in step.tiers or ():
            known(name, f"response.{i}.tiers")
        if step.when.leak_budget and not monitor.leak_budget:
            raise ValueError(f"monitor.response.{i}.when.leak_budget: no tier has one; give monitor.leak_budget")
        if step.to_tier is None:
            continue
        known(step.to_tier, f"response.{i}.to_tier")
        for name in step.tiers or tiers:
            if not tiers[step.to_tier].reveals_at_most(tiers[name]):
                raise ValueError(
                    f"monitor.response.{i}.to_tier: {step.to_tier} receives {tiers[step.to_tier]}, which is not within "
                    f"the {tiers[name]} of {name}; choose another, or name the tiers that the step is for"
                )
