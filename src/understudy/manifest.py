"""The endpoint manifest: one YAML file that says what a model is worth, what each tier receives, how much it may ask.

`load` reads and checks it; every complaint gives file, line, the field's path, what was found, what is allowed and
the nearest valid name. Nothing is imported, opened or asked here: `endpoint.py` makes it live.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from understudy import faults
from understudy.manifest_monitor import MonitorPart, monitor_fits
from understudy.manifest_parts import Count, FromEnvironment, Grade, Name, Part, Signals
from understudy.manifest_space import Space, texts_fit
from understudy.types import Exposure, Grain, Signal

__all__ = ["Count", "FromEnvironment", "Manifest", "MonitorPart", "Name", "Part", "exposure", "load", "schema"]

_OBJECT = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"


class Level(StrEnum):
    """A sensitivity."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Metadata(Part):
    """Whose endpoint this is."""

    id: Name
    owner: str
    contact: str = Field(description="who hears of a finding")
    kind: Literal["classification", "regression"] = "classification"


class Model(Part):
    """Which model is served."""

    version: str
    digest: str | None = None
    recipe: str | None = Field(
        None, pattern=_OBJECT, description="module:function(seed) that trains the owner's recipe anew: the ceiling"
    )


class Sensitivity(Part):
    """Three axes: a fraud model is security-sensitive even where it is commercially dull."""

    commercial: Level
    security: Level
    privacy: Level


class Money(Part):
    """A cost, low to high, and where the figures come from."""

    low: float = Field(ge=0)
    high: float = Field(ge=0)
    currency: str = "USD"
    basis: str

    @model_validator(mode="after")
    def _ordered(self) -> Money:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Asset(Part):
    """Something a thief would have."""

    id: Name
    kind: Literal["model", "output", "training_data", "embedding", "prompt", "evaluation_trace"] = Field(alias="class")
    sensitivity: Sensitivity
    rebuild_cost: Money | None = None


class Http(Part):
    """A prediction server and how to speak to it."""

    url: str = Field(pattern=r"^https?://[^\s@]+$", description="the whole route; no credentials in it")
    protocol: Name = Field(description="a name from `understudy list protocols`")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the protocol's codec")
    headers: dict[str, FromEnvironment] = Field(default_factory=dict)
    owner_headers: dict[str, FromEnvironment] | None = Field(
        None, description="credential for evaluation queries; headers where absent"
    )
    timeout_s: float = Field(30, gt=0)
    retries: int = Field(4, ge=0, le=10)
    ca_file: str | None = None


class TargetPart(Part):
    """How to reach the model: exactly one of python, skops, xgboost, lightgbm and http."""

    python: str | None = Field(None, pattern=_OBJECT, description="module:object, called with (n, ...) inputs")
    skops: str | None = Field(None, description="a scikit-learn model saved with skops, relative to the manifest")
    trusted: list[str] = Field(default_factory=list, description="types a skops file may hold beyond the usual")
    xgboost: str | None = Field(None, description="a model that XGBoost saved (.json, .ubj), relative to the manifest")
    lightgbm: str | None = Field(None, description="a model that LightGBM saved (.txt), relative to the manifest")
    http: Http | None = None
    signals: Signals = Field(description="what the model itself answers, before any tier's reduction")
    outputs: Count = Field(description="number of classes, or of predicted values")
    batch: Count = Field(1000, description="rows in one request at most")
    concurrency: Count = 1
    pace: float | None = Field(None, gt=0, description="requests per second at most, over the whole audit")

    @model_validator(mode="after")
    def _one(self) -> TargetPart:
        ways = ("python", "skops", "xgboost", "lightgbm", "http")
        if sum(getattr(self, way) is not None for way in ways) != 1:
            raise ValueError("give exactly one of python, skops, xgboost, lightgbm and http")
        if not self.signals:
            raise ValueError("signals is empty: name at least one")
        return self


class Data(Part):
    """Inputs, and labels where there are any: a .npy/.npz/.csv file, or module:object that returns them.

    Texts: a .txt file of one a line, a column of a .csv, .jsonl or .parquet file, or module:object.
    """

    data: str = Field(description="file relative to the manifest, or module:object giving inputs or (inputs, truth)")
    column: str | None = Field(None, description="in a table of texts: the column that holds them")
    truth_column: str | None = Field(None, description="in a table: the column that holds the truth")


class PoolPart(Data):
    """Inputs the attacker has."""

    provenance: str = Field(description="where an attacker would get them")
    labelled: bool = Field(False, description="whether the attacker also has the truth for them")


class Knowledge(Part):
    """What else the attacker knows."""

    family: str | None = None
    training_data: str | None = None
    base_model: str | None = None


class Anchor(Part):
    """A declared floor or ceiling, with its reason."""

    value: float
    basis: str


class Goal(Part):
    """What success means for an attacker, fixed before testing."""

    id: Name
    metric: Name = "fidelity"
    threshold: float
    basis: str = Field(description="why this threshold")
    floor: Anchor | None = Field(None, description="measured where absent")
    ceiling: Anchor | None = Field(None, description="measured from model.recipe where absent")


class Limits(Part):
    """What one account may ask. null = no limit."""

    per_minute: Count | None = None
    per_day: Count | None = None
    per_30d: Count | None = None
    accounts_per_party: Count = 1

    def within(self, days: int) -> int | None:
        """Queries one account may ask in a review window of `days`, under every limit together; None = no limit."""
        windows = ((self.per_30d, 30.0), (self.per_day, 1.0), (self.per_minute, 1 / 1440))
        return min((int(cap * max(days / length, 1)) for cap, length in windows if cap), default=None)


class Price(Part):
    """What a query costs the customer."""

    per_1k_queries: float = Field(ge=0)
    currency: str = "USD"
    free_queries: int = Field(0, ge=0)

    def of(self, queries: float, accounts: int = 1) -> float:
        """Price of `queries`, the free ones of each account taken off."""
        return max(queries - self.free_queries * accounts, 0) * self.per_1k_queries / 1000


class Review(Part):
    """A recorded decision that a tier may have broad access, and until when."""

    by: str
    on: dt.date
    until: dt.date
    reason: str


class Tier(Part):
    """A class of customer: who, how much, at what price, and exactly which signals."""

    id: Name
    who: str
    unauthenticated: bool = Field(False, description="serve callers without a credential as this tier, by address")
    review: Review | None = Field(None, description="leave for an allowance above guard.broad_access")
    limits: Limits = Limits()
    price: Price | None = None
    signals: Signals
    defences: list[dict[str, Any]] = Field(default_factory=list, description="further defences: {name: ..., options}")
    terms: str | None = None


class Jwt(Part):
    """Tokens that a trusted issuer signed. Algorithms are pinned; `none` and shared secrets are not among them."""

    jwks: str = Field(description="file relative to the manifest, or https URL, of the issuer's public keys")
    issuer: str
    audience: str
    algorithms: list[Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]] = Field(
        ["RS256"], min_length=1
    )
    principal: str = Field("sub", description="claim that names the caller")
    party: str | None = Field(
        None, description="claim that names the caller's organisation; the caller alone where absent"
    )
    tier: str | None = Field("tier", description="claim that names a tier; null: default_tier for everybody")
    default_tier: Name | None = None


class Trusted(Part):
    """Identity headers from a front proxy, believed only on connections from its declared addresses."""

    addresses: list[str] = Field(
        min_length=1, description="of the proxy, as networks: 10.0.0.0/24, 127.0.0.1/32, ::1/128"
    )
    principal: str = Field("x-principal", description="header that names the caller")
    party: str | None = Field(None, description="header that names the caller's organisation")
    tier: str | None = Field(None, description="header that names a tier; null: default_tier for everybody")
    default_tier: Name | None = None


class IdentityPart(Part):
    """How the gateway learns who asks. API keys (`understudy keys`) always work."""

    key_header: str = Field("x-api-key", description="header for keys; Authorization: Bearer works too")
    jwt: Jwt | None = None
    trusted: Trusted | None = None


class Broad(Part):
    """From which allowance on a tier needs a recorded review; without one in force it is capped to this."""

    per_30d: Count = 100_000


class Logging(Part):
    """What is kept of each exchange."""

    inputs: Literal["whole", "sketch", "hash", "none"] = "whole"
    retention_days: Count = 120
    when_unavailable: Literal["refuse", "release"] = Field(
        "refuse", description="release: answers go out although nothing is kept of them"
    )


class GuardPart(Part):
    """The gateway in front of the endpoint."""

    path: str | None = Field(
        None, pattern=r"^/[^\s?#]*$", description="the route customers use; that of target.http.url where absent"
    )
    host: str | None = Field(None, description="answer only requests to this host name")
    folder: str = Field("guard", description="keys, allowances and history, relative to the manifest")
    identity: IdentityPart = IdentityPart()
    limits: Limits | None = Field(None, description="allowances of all customers together")
    broad_access: Broad = Broad()
    asks: Literal["clamp", "refuse"] = Field("clamp", description="what becomes of a request for more than is granted")
    logging: Logging = Logging()
    state_away: Literal["refuse", "lease"] = Field(
        "refuse", description="shared state out of reach: refuse, or spend the last lease first"
    )
    max_body: Count = Field(2**20, description="bytes of a request")
    max_answer: Count = Field(8 * 2**20, description="bytes of an upstream answer")
    max_rows: Count = 1000
    max_in_flight: Count = Field(
        256, description="requests at the upstream at once, per worker; more are refused with 503"
    )
    body_timeout_s: float = Field(15, gt=0)
    hooks: bool = Field(False, description="answer a proxy's questions at /-/admit, and record its copies at /-/mirror")


class AuditPart(Part):
    """How hard to try."""

    attacks: list[Name | dict[str, Any]] = Field(default=["auto"], min_length=1)
    budget: Count | None = Field(None, description="queries offered to each attack; the tier's allowance where absent")
    seeds: Count = 3
    seed: int = Field(0, ge=0)
    review_days: Count = 30


class Authorisation(Part):
    """Leave to attack a target that is not on this machine."""

    by: str
    scope: str
    until: dt.date


class Manifest(Part):
    """One endpoint."""

    api_version: Literal["understudy/v1"] = Field(alias="apiVersion")
    kind: Literal["Endpoint"]
    metadata: Metadata
    model: Model
    assets: list[Asset] = Field(default_factory=list)
    target: TargetPart
    space: Space
    pool: PoolPart | None = None
    knowledge: Knowledge = Knowledge()
    evaluation: Data
    goals: list[Goal] = Field(min_length=1)
    tiers: list[Tier] = Field(min_length=1)
    audit: AuditPart = AuditPart()
    guard: GuardPart | None = None
    monitor: MonitorPart | None = None
    authorisation: Authorisation | None = None

    @field_validator("goals", "tiers", "assets")
    @classmethod
    def _distinct(cls, items: list[Any]) -> list[Any]:
        ids = [item.id for item in items]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"ids must differ; {', '.join(twice)} is given twice")
        return items

    @model_validator(mode="after")
    def _tiers_fit(self) -> Manifest:
        served = exposure(self.target.signals, self.target.outputs)
        for i, tier in enumerate(self.tiers):
            granted = exposure(tier.signals, self.target.outputs)
            if not granted.grains:
                raise ValueError(f"tiers.{i}.signals: empty; grant at least one signal")
            if not granted.reveals_at_most(served):
                raise ValueError(f"tiers.{i}.signals: grants {granted}, but the target only answers {served}")
        return self

    @model_validator(mode="after")
    def _texts_fit(self) -> Manifest:
        texts_fit(self.space, self.target.signals, self.monitor.logs if self.monitor else None)
        return self

    @model_validator(mode="after")
    def _monitor_fits(self) -> Manifest:
        if self.monitor is not None:
            monitor_fits(self.monitor, {t.id: exposure(t.signals, self.target.outputs) for t in self.tiers})
        return self


def exposure(signals: Mapping[Signal, Grade], outputs: int) -> Exposure:
    """The exposure that a signals section describes."""
    return Exposure({s: Grain(g.top_k, g.decimals) for s, g in signals.items()}, outputs)


def schema() -> dict[str, Any]:
    """The JSON Schema of a manifest."""
    return Manifest.model_json_schema(by_alias=True)


def load(path: Path) -> Manifest:
    """Read and check a manifest. Raises ManifestError listing every fault with its line."""
    return faults.read(path, Manifest, "a manifest")
