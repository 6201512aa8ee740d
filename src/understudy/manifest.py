"""The endpoint manifest: one YAML file that says what a model is worth, what each tier receives, how much it may ask.

`load` reads and checks it; every complaint gives file, line, the field's path, what was found, what is allowed and
the nearest valid name. Nothing is imported, opened or asked here: `endpoint.py` makes it live.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from understudy.errors import ManifestError
from understudy.types import Exposure, Grain, Signal

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Count = Annotated[int, Field(gt=0)]
_OBJECT = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"


class Part(BaseModel):
    """Base of every part: unknown fields are refused, nothing is coerced silently from text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class FromEnvironment(Part):
    """A header's value: never in the manifest, always from an environment variable."""

    env: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    prefix: str = ""


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


class Grade(Part):
    """How much of one signal: absent = all of it."""

    top_k: Count | None = None
    decimals: Annotated[int, Field(ge=0, le=17)] | None = None


Signals = dict[Signal, Grade]


class TargetPart(Part):
    """How to reach the model: exactly one of python, skops and http."""

    python: str | None = Field(None, pattern=_OBJECT, description="module:object, called with (n, ...) inputs")
    skops: str | None = Field(None, description="a scikit-learn model saved with skops, relative to the manifest")
    trusted: list[str] = Field(default_factory=list, description="types a skops file may hold beyond the usual")
    http: Http | None = None
    signals: Signals = Field(description="what the model itself answers, before any tier's reduction")
    outputs: Count = Field(description="number of classes, or of predicted values")
    batch: Count = Field(1000, description="rows in one request at most")
    concurrency: Count = 1
    pace: float | None = Field(None, gt=0, description="requests per second at most, over the whole audit")

    @model_validator(mode="after")
    def _one(self) -> TargetPart:
        if sum(x is not None for x in (self.python, self.skops, self.http)) != 1:
            raise ValueError("give exactly one of python, skops and http")
        if not self.signals:
            raise ValueError("signals is empty: name at least one")
        return self


class Box(Part):
    """Bounds per coordinate, numbers or lists; infinite where the API takes any number (.inf in YAML)."""

    low: float | list[float]
    high: float | list[float]
    shape: list[Count] = Field(min_length=1)


class Data(Part):
    """Inputs, and labels where there are any: a .npy/.npz/.csv file, or module:object that returns them."""

    data: str = Field(description="file relative to the manifest, or module:object giving inputs or (inputs, truth)")
    truth_column: str | None = Field(None, description="in a CSV file: the column that holds the truth")


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


class Tier(Part):
    """A class of customer: who, how much, at what price, and exactly which signals."""

    id: Name
    who: str
    limits: Limits = Limits()
    price: Price | None = None
    signals: Signals
    defences: list[dict[str, Any]] = Field(default_factory=list, description="further defences: {name: ..., options}")
    terms: str | None = None


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
    space: Box
    pool: PoolPart | None = None
    knowledge: Knowledge = Knowledge()
    evaluation: Data
    goals: list[Goal] = Field(min_length=1)
    tiers: list[Tier] = Field(min_length=1)
    audit: AuditPart = AuditPart()
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


def exposure(signals: Mapping[Signal, Grade], outputs: int) -> Exposure:
    """The exposure that a signals section describes."""
    return Exposure({s: Grain(g.top_k, g.decimals) for s, g in signals.items()}, outputs)


def schema() -> dict[str, Any]:
    """The JSON Schema of a manifest."""
    return Manifest.model_json_schema(by_alias=True)


def load(path: Path) -> Manifest:
    """Read and check a manifest. Raises ManifestError listing every fault with its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_lines((), node)) if node else {}
        body = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ManifestError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{path}: not valid YAML: {error}") from None
    except _Twice as error:
        raise ManifestError(f"{path}:{error.line}: {error}") from None
    if not isinstance(body, dict):
        raise ManifestError(f"{path}:1: a manifest is a mapping (apiVersion, kind, metadata, ...)")
    try:
        return Manifest.model_validate(body)
    except ValidationError as error:
        faults = sorted(_fault(dict(e), lines) for e in error.errors())
        raise ManifestError("\n".join(f"{path}:{line}: {message}" for line, message in faults)) from None


class _Twice(Exception):
    line = 0


def _lines(path: tuple[Any, ...], node: yaml.Node) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Every path in a YAML document with its line; a key given twice is refused."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: dict[Any, int] = {}
        for key, value in node.value:
            if key.value in seen:
                twice = _Twice(
                    f"{'.'.join(map(str, (*path, key.value)))} is given twice (first on line {seen[key.value]})"
                )
                twice.line = key.start_mark.line + 1
                raise twice
            seen[key.value] = key.start_mark.line + 1
            for deeper, line in _lines((*path, key.value), value):
                yield deeper, (key.start_mark.line + 1 if deeper == (*path, key.value) else line)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _lines((*path, i), item)


def _fault(error: dict[str, Any], lines: Mapping[tuple[Any, ...], int]) -> tuple[int, str]:
    """One pydantic error as (line, message)."""
    where = tuple(x for x in error["loc"] if x != "[key]")
    message, context = str(error["msg"]).removeprefix("Value error, "), error.get("ctx", {})
    moved = re.match(r"^((?:\w+\.)+\w+): ", message)
    if error["type"] == "value_error" and moved:
        where, message = tuple(int(p) if p.isdigit() else p for p in moved[1].split(".")), message[moved.end() :]
    found = error.get("input")
    known = where
    while known and known not in lines:
        known = known[:-1]
    shown = (
        f", found {found!r}"
        if isinstance(found, str | int | float | bool | None) and error["type"] != "missing"
        else ""
    )
    if error["type"] == "extra_forbidden":
        allowed = _fields(where[:-1])
        message = "unknown field" + _nearest(str(where[-1]), allowed)
        shown = ""
    elif error["type"] in {"enum", "literal_error"}:
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        message = "not allowed" + _nearest(str(found), allowed)
    elif error["type"] == "missing":
        message = "is required and missing"
    return lines.get(known, 1), f"{'.'.join(map(str, where)) or 'manifest'}: {message}{shown}"


def _nearest(word: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(word, allowed, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f" (allowed: {', '.join(allowed)}){hint}" if allowed else hint


def _fields(path: tuple[Any, ...]) -> list[str]:
    """The fields allowed at a path of the manifest."""
    part: Any = Manifest
    for step in path:
        if isinstance(part, type) and issubclass(part, Part):
            named = {(f.alias or name): f.annotation for name, f in part.model_fields.items()}
            part = named.get(step)
        else:
            part = next((a for a in reversed(get_args(part)) if a is not type(None)), None)
        while part is not None and not isinstance(part, type) and type(None) in get_args(part):
            part = next(a for a in get_args(part) if a is not type(None))
    if isinstance(part, type) and issubclass(part, Part):
        return [f.alias or name for name, f in part.model_fields.items()]
    return []
