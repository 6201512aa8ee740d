"""Nouns on disk: the run, its findings and its report. Versioned; JSON Schemas are generated into `schemas/`.

A change of meaning raises VERSION, adds an upgrade and keeps a golden file of the old form.
Numbers that are not known are null, never zero; a threshold that was not reached has a null estimate.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from understudy.errors import RecordError

VERSION = 1


class Record(BaseModel):
    """Base of everything on disk: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")

    @classmethod
    def read(cls, text: str, path: Path) -> Self:
        """What a file holds. Raises RecordError naming the file and the first fault."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            message = f"{path} is damaged, or of another version: {f'{where}: ' if where else ''}{fault['msg']}"
            raise RecordError(message) from None


class Outcome(StrEnum):
    """What one finding concludes."""

    REACHED = "reached"
    NOT_REACHED = "not-reached"
    NOT_ASSESSED = "not-assessed"


class Run(Record):
    """run.json: what was to be done, by what, with whose leave. Written before anything is asked."""

    v: Literal[1] = 1
    id: str
    started: str = Field(description="UTC, ISO 8601")
    endpoint: str
    manifest: dict[str, Any] = Field(description="the manifest as it was read, defaults filled in; holds no secrets")
    manifest_digest: str
    seed: int
    seeds: int
    authorisation: dict[str, Any] | None
    data: dict[str, str] = Field(description="SHA-256 of each data set used, by role")
    versions: dict[str, str]


class Range(Record):
    """An estimate with its interval. `high` null = censored: not reached within what was tested."""

    low: float | None
    estimate: float | None
    high: float | None


class Measured(Record):
    """A measured proportion or error with its 95 % interval and the number of evaluation rows."""

    value: float
    low: float
    high: float
    n: int
    how: str = ""


class Cost(Record):
    """What a number of queries costs a customer of one tier."""

    queries: int
    money: float | None = Field(description="in the tier's currency; null where the manifest gives no price")
    days_one: float | None = Field(description="days at one account's allowances; null = no allowance is declared")
    days_party: float | None = Field(description="days at the allowances of a party's accounts together")


class Point(Cost):
    """One point of a cost curve."""

    value: float
    low: float
    high: float


class Line(Record):
    """The curve of one attack of a suite, with what it said of itself."""

    attack: str
    verdict: str
    queries: list[int]
    values: list[float]
    note: str = ""


class SeedResult(Record):
    """One repetition: the same attack with another seed."""

    seed: int
    spent: int
    asked_again: int
    verdict: str
    reached_at: int | None
    final: float | None
    attack: str
    measures: dict[str, float]
    notes: dict[str, Any]
    error: str | None = None


class ThreatModel(Record):
    """The conditions under which a figure holds."""

    access: str = Field(description="what the attacker receives")
    pool: str = Field(description="inputs the attacker has, and where they come from")
    knows: str = Field(description="what else the attacker knows")
    budget: int = Field(description="queries offered to each attack")
    allowance: int | None = Field(description="queries one account may ask in the review window; null = unlimited")
    accounts: int = Field(description="accounts one party may hold")
    allowance_party: int | None = Field(description="what those accounts may ask together")
    seeds: int
    adaptive: bool = Field(description="whether the attack knows the defences in its way")


class Noticed(Record):
    """One way of asking, over the repetitions of an attack: how many the monitor's detectors alarm on, and how soon."""

    way: str
    alarmed: int = Field(description="repetitions that were alarmed before the copy was made")
    of: int
    low: float = Field(description="95 %, exact")
    high: float
    delay: float | None = Field(description="attack queries asked at the alarm, median of those alarmed")
    share: float | None = Field(description="of the attack's queries, median of those alarmed")
    queries: int = Field(description="asked in all this way, benign ones included, median")
    chance: float | None = Field(
        None, description="at most this share of benign customers with as many accounts would be alarmed too"
    )


class Detection(Record):
    """Whether the manifest's calibrated detectors would have noticed the attack; alarms within the horizon only."""

    assessed: bool
    reason: str
    level: float | None = Field(None, description="share of benign accounts that may ever be alarmed")
    accounts: int | None = Field(None, description="benign accounts ranked")
    calibrated: str | None = Field(None, description="date, UTC")
    horizon: int | None = Field(None, description="queries of one account that are assessed")
    detectors: list[str] = []
    ways: list[Noticed] = []
    limits: list[str] = []


class Finding(Record):
    """A conclusion with its evidence: one tier, one goal, one attack, all seeds."""

    v: Literal[1] = 1
    id: str = Field(description="stable over runs: endpoint, tier, goal, attack and signals, no measured value")
    run: str
    at: str
    endpoint: str
    tier: str
    goal: str
    metric: str
    higher_is_closer: bool
    threshold: float
    attack: str
    outcome: Outcome
    reason: str
    queries: Range = Field(description="queries to the threshold; low = first point whose interval touches it")
    money: Range | None
    days_one: Range | None
    days_party: Range | None
    binding: str = Field(description="the allowance that decides the time")
    best: Measured | None = Field(description="closest point of the curve within the budget")
    best_queries: int | None
    curve: list[Point]
    suite: list[Line] = Field(description="every attack that ran within this finding, and those set aside")
    seeds: list[SeedResult]
    measures: dict[str, Measured] = Field(description="other metrics, of the best substitutes")
    floor: Measured | None
    ceiling: Measured | None
    threat_model: ThreatModel
    detection: Detection | None = Field(None, description="null in reports of versions that did not look")


class TierReport(Record):
    """One tier on the first page."""

    tier: str
    who: str
    exposure: str
    allowance: str
    price: str
    currency: str | None
    accounts: int
    headline: str = Field(description="one sentence a board member understands")
    scale: list[Cost] = Field(description="what round numbers of queries cost, and what the allowance itself does")
    findings: list[str] = Field(description="ids, strongest first; the first one is the headline's")


class Gate(Record):
    """One --fail-if condition and what became of it."""

    condition: str
    fired: bool
    assessed: bool
    reason: str


class Derivation(Record):
    """How a headline figure came about, one step a line."""

    figure: str
    finding: str
    steps: list[str]


class Integrity(Record):
    """What the record holds, and what must be known about it."""

    chain: str
    cells: dict[str, dict[str, int]]
    asked_again: int
    failures: list[str]
    marks: list[str]


class Report(Record):
    """report.json: the only source of every rendering."""

    v: Literal[1] = 1
    tool: str
    run: str
    created: str
    endpoint: str
    owner: str
    contact: str
    kind: str
    model_version: str
    assets: list[dict[str, Any]]
    verdict: str = Field(description="the whole run in one word: reached, not-reached or not-assessed")
    summary: str
    hero: str = Field(description="id of the finding on the first page: the cheapest copy, else the closest")
    tiers: list[TierReport]
    findings: list[Finding]
    not_tested: list[str]
    derivations: list[Derivation]
    gates: list[Gate]
    integrity: Integrity
    versions: dict[str, str]
    command: str
    glossary: dict[str, str]
