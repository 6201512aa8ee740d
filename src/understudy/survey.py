"""What one look over a log found, on disk: parties by how unlike benign accounts they are, and what they could hold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from understudy.alerts import CalibrationNote, Leak, Score
from understudy.records import Record


class Account(Record):
    """One account of a log."""

    principal: str
    segment: str | None
    queries: int
    since: str = Field(description="UTC, ISO 8601")
    until: str
    p_value: float | None = Field(description="null: not assessed, since none of its inputs were kept")
    alarmed_at: int | None = Field(description="how many queries it had asked when the alarm was raised")
    beyond: bool = Field(description="asked more than the calibration's horizon: what came after is not assessed")
    scores: list[Score] = Field(description="the detectors that speak loudest, normalised")
    repeats: float | None = Field(description="share of its kept inputs that came before, exactly; null: none was kept")
    out_of_range: float | None = Field(
        description="share of its kept inputs outside the reference's ranges: data quality, not an accusation"
    )


class Party(Record):
    """All accounts of one operator in a log."""

    party: str
    p_value: float | None = Field(description="the smallest of its accounts', times how many it has")
    alarmed: int = Field(description="of its accounts")
    queries: int
    size: int = Field(description="accounts it has in this log")
    accounts: list[Account] = Field(description="the first few by p-value")
    leak: Leak | None = Field(description="what all its accounts together could have learned")
    benign: list[str] = Field(description="innocent explanations to rule out; empty where nothing is alarmed")


class Fault(Record):
    """An account whose inputs leave the reference's ranges."""

    principal: str
    out_of_range: float
    queries: int = Field(description="whose inputs were kept")


class Excess(Record):
    """An account that asked more on a day than its customer declared."""

    principal: str
    busiest_day: int = Field(description="queries on the day (UTC) on which it asked most")
    declared: int = Field(description="queries a day")


class Drift(Record):
    """A score in which this log's accounts look unlike those of the calibration as a crowd."""

    detector: str
    share: float = Field(description="of accounts beyond the calibration's 90 % quantile; 0.1 is expected")
    low: float
    high: float
    accounts: int


class Quality(Record):
    """What is a matter of data quality, and accuses nobody."""

    out_of_range: float | None = Field(
        description="share of all kept inputs outside the reference's ranges; null: nobody looked at inputs"
    )
    faults: list[Fault]
    excess: list[Excess] = Field(default_factory=list)
    drift: list[Drift]
    rejected: dict[str, int] = Field(description="malformed records, by reason")
    aside: dict[str, int] = Field(description="sound records that were left out, by reason")


class Survey(Record):
    """monitor.json: the only source of every rendering of it."""

    v: Literal[1] = 1
    tool: str
    created: str
    endpoint: str
    owner: str
    contact: str
    model_version: str
    logs: list[str]
    verdict: Literal["alarmed", "nothing", "not-assessed"]
    summary: str
    gaps: list[str] = Field(description="why something is not assessed, or to be read with care")
    calibration: CalibrationNote | None
    queries: int
    accounts: int
    assessed: int = Field(description="accounts of which a p-value is known")
    alarmed: int
    expected: float | None = Field(description="accounts that would be alarmed by chance if all were benign")
    since: str | None
    until: str | None
    parties: list[Party] = Field(description="the alarmed, then the least like benign ones, then the busiest")
    unlisted: int = Field(description="parties that are not listed, none of them alarmed")
    quality: Quality


def counted(n: int, what: str) -> str:
    """So many of something, in words."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def exit_code(survey: Survey) -> int:
    """0 nothing alarmed, 1 alarms, 3 not assessed."""
    return {"nothing": 0, "alarmed": 1, "not-assessed": 3}[survey.verdict]
