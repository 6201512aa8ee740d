"""From a response and what is known of an account to the alert that people and SIEMs read."""

from __future__ import annotations

from typing import Literal

from understudy.alerts import (
    Action,
    Alert,
    CalibrationNote,
    Score,
    explanations,
    moment,
)
from understudy.alerts import Leak as LeakRecord
from understudy.gateway.leaks import Held
from understudy.gateway.service import Service
from understudy.gateway.tally import Tally
from understudy.manifest_monitor import MonitorPart
from understudy.records import Range
from understudy.response import Response, Seen
from understudy.types import Estimate, digest
from understudy.watch import Calibration, Standing

Kind = Literal["extraction", "leak", "volume"]


class Reporter:
    """Alerts of one endpoint. `sinks`: names of those that the manifest asks for."""

    def __init__(self, service: Service, monitor: MonitorPart, calibration: Calibration) -> None:
        self._service, self._monitor, self._calibration = service, monitor, calibration
        wanted = monitor.sinks.model_dump()
        self.sinks = [name for name in ("file", "ocsf", "webhook") if wanted[name] is not None]
        self._kinds: dict[str, Kind] = {}
        for i, step in enumerate(monitor.response):
            when = step.when
            kind: Kind = "extraction" if when.p_value is not None else "leak"
            self._kinds[monitor.name(i)] = kind if when.p_value or when.leak or when.leak_budget else "volume"

    def alert(
        self,
        response: Response,
        standing: Standing,
        tally: Tally,
        seen: Seen,
        held: Held | None,
        party_queries: int | None,
        now: float,
    ) -> Alert:
        """The alert of one response."""
        service, calibration = self._service, self._calibration
        kind = self._kinds[response.step]
        tier = service.tiers.get(tally.tier)
        scores = [Score(detector=name, value=value) for name, value in standing.scores if value > -1e9]
        networks, clients = tally.most()
        return Alert(
            id=digest(response.id, standing.principal)[:16],
            at=moment(now),
            kind=kind,
            source="live",
            message=self._message(kind, standing, seen, held),
            endpoint=service.id,
            route=tally.route,
            model_version=service.manifest.model.version,
            manifest_version=tally.version,
            principal=standing.principal,
            party=standing.party,
            tier=tally.tier,
            exposure=None if tier is None else str(tier.grant.exposure),
            volumes=tally.volumes(now, party_queries),
            inputs=tally.statistics(service.guard.logging.inputs, standing.quality),
            networks=networks,
            clients=clients,
            detectors=scores,
            p_value=standing.p_value if standing.n else None,
            alarmed_at=standing.alarmed_at,
            calibration=CalibrationNote(
                made=moment(calibration.made),
                accounts=standing.accounts,
                level=calibration.level,
                horizon=calibration.horizon,
                threshold=calibration.limit(standing.segment),
                segment=standing.segment if standing.segment in calibration.segments else None,
            ),
            leak=self._leak(held, tally.tier),
            benign=explanations(scores if kind == "extraction" else [], leak=kind == "leak"),
            action=Action(
                id=response.id,
                step=response.step,
                do=response.do,
                proposed=response.state(now) == "proposed",
                until=moment(response.until),
            ),
        )

    def _message(self, kind: Kind, standing: Standing, seen: Seen, held: Held | None) -> str:
        if kind == "volume":
            much = "" if seen.declared is None else f", in the last day {seen.declared:.2g} times what was declared"
            return f"{standing.principal} has asked {seen.queries:,} queries{much}"
        if kind == "leak":
            who = standing.party if held is not None and held.together else standing.principal
            return f"{who}: {'what it could have learned is not known' if held is None else held.leak}"
        return (
            f"{standing.principal} asks unlike benign accounts: p = {standing.p_value:.3g} among {standing.accounts:,}"
            f"{'' if standing.alarmed_at is None else f', alarm at its query {standing.alarmed_at:,}'}"
            f"{'' if held is None else f'; {held.leak}'}"
        )

    def _leak(self, held: Held | None, tier: str) -> LeakRecord | None:
        if held is None:
            return None
        return LeakRecord(
            labels=_range(held.leak.label),
            probabilities=None if held.leak.probability is None else _range(held.leak.probability),
            of="party" if held.together else "principal",
            budget=self._monitor.leak_budget.get(tier),
        )


def _range(estimate: Estimate) -> Range:
    return Range(low=estimate.low, estimate=estimate.value, high=estimate.high)
