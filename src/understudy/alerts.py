"""An alert on disk and on the wire: who may be copying which model, how sure, and what else would explain it.

It carries what OWASP AISVS 12.2.4 asks of an extraction alert. Inputs and answers are not in it, only what they add
up to.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import Field

from understudy.records import Range, Record

#: Innocent behaviour that trips a detector: whoever handles an alert rules these out first.
BENIGN = {
    "novelty": "a new population or product line of this customer, or inputs in other units",
    "structure": "generated test data, imputed or shuffled columns in an integration test",
    "margin": "a customer whose cases are hard: appeals, second opinions, a review queue",
    "near-duplicate": "retries, monitoring probes, or a form that asks at every change",
    "line-depth": "a what-if tool or slider that changes one field at a time",
    "sweep-count": "a sensitivity analysis, an explanation tool, or a partial-dependence plot",
    "one-at-a-time": "a sensitivity analysis, or an explanation tool that moves one field after another",
    "probe": "an integration test with empty or default fields",
    "grid": "values in other units, or computed rather than measured",
    "fluency": "lists, tables, code or another language among this customer's texts",
    "word-order": "keywords, headings or a telegraphic style",
    "word-edit": "a writer who corrects a text and asks again, or a form letter",
    "single-word": "a customer who looks words or tags up one by one",
    "unknown-words": "another language, trade or product of this customer, or texts that a converter broke",
    "constant-pair": "a scenario tool that shifts several fields by fixed steps",
    "volume": "a batch job, a migration, a back-fill, or a new customer of the customer",
    "cadence": "a scheduler, or a client that retries at fixed intervals",
    "round-the-clock": "a service that runs day and night, or customers in many time zones",
    "template-entropy": "software of this customer that fills in a form letter",
    "leak": "an old and busy customer: a leak measures what could have been learned, not what was meant",
}
_ALWAYS = "the owner's own audit or a partner's agreed test under a customer's key"


class Volumes(Record):
    """How much was asked."""

    queries: int = Field(description="by this account since it is watched")
    queries_last_hour: int | None = None
    queries_last_day: int | None = None
    party_queries: int | None = Field(None, description="by all accounts of its party")
    since: str = Field(description="UTC, ISO 8601")
    until: str


class InputStatistics(Record):
    """What the inputs add up to; null where they were not kept."""

    kept: Literal["whole", "partly", "sketch", "hash", "none"] = Field(
        description="partly: whole, of some queries only"
    )
    seen: int = Field(0, description="inputs these figures are of: the latest ones")
    repeats: float | None = Field(None, description="share that came before, exactly")
    out_of_range: float | None = Field(None, description="share outside the ranges of the reference data")
    mean: list[float] | None = Field(None, description="per coordinate, the first 64")
    spread: list[float] | None = Field(None, description="standard deviation per coordinate, the first 64")


class Score(Record):
    """One detector and its normalised value, the largest first."""

    detector: str
    value: float


class CalibrationNote(Record):
    """What the p-value rests on."""

    made: str = Field(description="UTC, ISO 8601")
    accounts: int = Field(description="benign accounts that are ranked")
    level: float
    horizon: int
    threshold: float | None = Field(description="null: too few accounts for this level")
    segment: str | None = Field(None, description="the declared segment whose accounts were ranked")


class Leak(Record):
    """What could have been learned from the answers received, as a share of the model: two brackets."""

    labels: Range
    probabilities: Range | None
    of: Literal["principal", "party"] = "principal"
    budget: float | None = None


class Action(Record):
    """What the ladder did about it."""

    id: str
    step: str
    do: str
    proposed: bool = Field(False, description="waits for a named human")
    until: str | None


class Alert(Record):
    """One alert. Nothing in it was told to the customer."""

    v: Literal[1] = 1
    id: str
    at: str = Field(description="UTC, ISO 8601")
    kind: Literal["extraction", "leak", "volume"] = Field(description="what it rests on; leak and volume accuse nobody")
    source: Literal["live", "log", "audit"]
    message: str
    endpoint: str
    route: str | None = None
    model_version: str
    manifest_version: str | None = None
    principal: str
    party: str
    tier: str | None
    exposure: str | None = Field(description="what the account received")
    volumes: Volumes
    inputs: InputStatistics
    networks: list[str] = Field(default_factory=list, description="addresses it asked from, the most frequent first")
    clients: list[str] = Field(default_factory=list, description="client fingerprints, the most frequent first")
    detectors: list[Score] = Field(default_factory=list)
    p_value: float | None
    alarmed_at: int | None = Field(None, description="query of the account at which the alarm was raised")
    calibration: CalibrationNote | None
    leak: Leak | None
    benign: list[str] = Field(description="innocent explanations to rule out")
    action: Action | None = None


def explanations(detectors: list[Score], leak: bool = False, most: int = 3) -> list[str]:
    """What to rule out first, by the detectors that speak loudest."""
    names = [score.detector for score in detectors if score.value > 0][:most] + (["leak"] if leak else [])
    return [*dict.fromkeys(BENIGN[name] for name in names if name in BENIGN), _ALWAYS]


# OCSF 1.3, Detection Finding

_VERSION = "1.3.0"
_SEVERITY = {"Informational": 1, "Low": 2, "Medium": 3, "High": 4, "Critical": 5}
_TYPES = {"extraction": ("Statistical", 3), "leak": ("Behavioral", 2), "volume": ("Behavioral", 2)}


def to_ocsf(alert: Alert, product_version: str) -> dict[str, Any]:
    """The alert as an OCSF Detection Finding (class 2004); what has no place in OCSF is under `unmapped`."""
    at = _milliseconds(alert.at)
    severity = _severity(alert)
    analytic, analytic_id = _TYPES[alert.kind]
    detector = alert.detectors[0].detector if alert.detectors else alert.kind
    observables = [
        {"name": "actor.user.uid", "type": "User", "type_id": 21, "value": alert.principal},
        *(
            {"name": "src_endpoint.ip", "type": "IP Address", "type_id": 2, "value": network}
            for network in alert.networks
        ),
        *(
            {"name": "http_request.user_agent", "type": "Client fingerprint", "type_id": 99, "value": client}
            for client in alert.clients
        ),
    ]
    evidence: dict[str, Any] = {
        "actor": {"user": {"uid": alert.principal, "org": {"uid": alert.party}}},
        "api": {
            "operation": "predict",
            "service": {"uid": alert.endpoint, "name": alert.endpoint, "version": alert.model_version},
        },
        "data": alert.model_dump(mode="json", include={"volumes", "inputs", "detectors", "exposure"}),
    }
    if alert.networks:
        evidence["src_endpoint"] = {"ip": alert.networks[0]}
    return {
        "activity_id": 1,
        "activity_name": "Create",
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "type_uid": 200401,
        "type_name": "Detection Finding: Create",
        "time": at,
        "severity_id": _SEVERITY[severity],
        "severity": severity,
        "status_id": 1,
        "status": "New",
        "is_alert": alert.kind == "extraction",
        "message": alert.message,
        "metadata": {
            "version": _VERSION,
            "uid": alert.id,
            "product": {"name": "Understudy", "vendor_name": "Understudy", "version": product_version},
        },
        "finding_info": {
            "uid": alert.id,
            "title": "Model extraction through the prediction interface",
            "desc": alert.message,
            "created_time": at,
            "first_seen_time": _milliseconds(alert.volumes.since),
            "last_seen_time": _milliseconds(alert.volumes.until),
            "types": [alert.kind],
            "analytic": {"uid": detector, "name": detector, "type": analytic, "type_id": analytic_id},
            "attacks": [
                {
                    "technique": {"name": "Exfiltration via AI Inference API", "uid": "AML.T0024"},
                    "sub_technique": {"name": "Extract AI Model", "uid": "AML.T0024.002"},
                    "version": "ATLAS",
                }
            ],
        },
        "resources": [{"uid": alert.endpoint, "type": "model endpoint", "version": alert.model_version}],
        "evidences": [evidence],
        "observables": observables,
        "remediation": {"desc": "Rule out: " + "; ".join(alert.benign)},
        "unmapped": alert.model_dump(
            mode="json", include={"tier", "p_value", "alarmed_at", "calibration", "leak", "action", "manifest_version"}
        ),
    }


def _severity(alert: Alert) -> str:
    """By what they could hold: an alarm on nothing learned is low, on most of the model critical."""
    if alert.kind == "volume":
        return "Informational"
    brackets = () if alert.leak is None else (alert.leak.labels, alert.leak.probabilities)
    held = max((b.estimate for b in brackets if b is not None and b.estimate is not None), default=None)
    if held is None:
        return "Medium" if alert.kind == "extraction" else "Informational"
    grade = "Low" if held < 0.3 else "Medium" if held < 0.6 else "High" if held < 0.9 else "Critical"
    return grade if alert.kind == "extraction" else "Medium" if held >= 0.6 else "Low"


def _milliseconds(text: str) -> int:
    return round(dt.datetime.fromisoformat(text).timestamp() * 1000)


def moment(at: float) -> str:
    """Unix seconds as records write them."""
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="milliseconds")
