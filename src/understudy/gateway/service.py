"""A manifest compiled for serving: its route, what each tier is granted, how much each may ask. Opens nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from understudy import fitting, registry
from understudy.endpoint import defences
from understudy.errors import ManifestError, UsageError
from understudy.guard import Allowance, Grant
from understudy.history import warnings as disabled_by
from understudy.manifest import GuardPart, Http, Limits, Manifest, Tier, exposure
from understudy.manifest import load as load_manifest
from understudy.texts import blank
from understudy.types import EXPLANATIONS, Exposure, Grain, Signal, Space, digest
from understudy.wire import Asked, Card, Message


@dataclass(frozen=True)
class Served:
    """One tier, compiled."""

    id: str
    grant: Grant
    allowance: Allowance
    party: Allowance


@dataclass(frozen=True, eq=False)
class Service:
    """One endpoint, compiled. `version`: sixteen digits of the manifest's digest; recorded with every decision."""

    path: Path
    manifest: Manifest
    guard: GuardPart
    http: Http
    version: str
    route: str
    cards: Mapping[str, Message]
    codec: Any
    space: Space
    exposure: Exposure
    tiers: Mapping[str, Served]
    everybody: Allowance
    warnings: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.manifest.metadata.id

    @property
    def folder(self) -> Path:
        """Where keys, allowances and history are kept."""
        return self.path.resolve().parent / self.guard.folder / self.id

    def fitted(self) -> Service:
        """The service with its defences fitted; the owner's data are asked for once in the life of the folder.

        Raises UsageError, TargetError or AnswerError where they have to be asked for and cannot be.
        """
        chains = fitting.kept(self.path, self.folder)
        tiers = {
            name: replace(tier, grant=replace(tier.grant, defences=chains[name])) if name in chains else tier
            for name, tier in self.tiers.items()
        }
        return replace(self, tiers=tiers)


def compile_service(path: Path, today: dt.date | None = None) -> Service:
    """Read a manifest and work out all that serving needs. Raises ManifestError; asks nothing, opens nothing else."""
    manifest = load_manifest(path)
    guard, http, today = manifest.guard or GuardPart(), manifest.target.http, today or dt.datetime.now(dt.UTC).date()
    if http is None:
        raise ManifestError(f"{path}: target: the gateway stands in front of a model server: give target.http")
    box = manifest.space
    served = exposure(manifest.target.signals, manifest.target.outputs)
    codec = registry.create("protocols", http.protocol, **http.options)
    kept = guard.logging.inputs
    lost = disabled_by(kept, manifest.monitor is not None)
    warnings = [f"guard.logging.inputs is {kept}: {text}" for text in lost]
    tiers = {tier.id: _tier(tier, manifest, guard, served, today, warnings, path) for tier in manifest.tiers}
    warnings += monitor_warnings(manifest)
    if sum(tier.unauthenticated for tier in manifest.tiers) > 1:
        raise ManifestError(f"{path}: tiers: at most one tier can be unauthenticated")
    route = guard.path or urlsplit(http.url).path or "/"
    card = Card(manifest.metadata.id, None, tuple(box.shape), served)
    try:
        codec.request(blank(1, box.shape), served.signals)  # what this codec cannot ask for, or write, is found
        cards = codec.routes(route, card)
        for tier in tiers.values():  # now, not by a customer
            codec.respond(Asked(blank(1, box.shape)), tier.grant.exposure.nothing(1, box.shape), card.name)
    except UsageError as error:
        raise ManifestError(f"{path}: target.http: {error}") from None
    return Service(
        path=path,
        manifest=manifest,
        guard=guard,
        http=http,
        version=digest(repr(manifest.model_dump(mode="json", by_alias=True)))[:16],
        route=route,
        cards=cards,
        codec=codec,
        space=box.space(),
        exposure=served,
        tiers=tiers,
        everybody=allowance(guard.limits) if guard.limits else Allowance(),
        warnings=tuple(warnings),
    )


def monitor_warnings(manifest: Manifest) -> list[str]:
    """What the monitor section cannot do by what tiers may ask."""
    if manifest.monitor is None:
        return []
    found = list[str]()
    steps = manifest.monitor.response
    for name in manifest.monitor.leak_budget:
        if not any(s.when.leak_budget and (s.tiers is None or name in s.tiers) and s.to_tier != name for s in steps):
            found.append(f"monitor: nothing is done when the leak budget of tier {name} is reached: no step names it")
    free = [tier.id for tier in manifest.tiers if not any((tier.limits.per_minute, tier.limits.per_day))]
    for i, step in enumerate(steps):
        for name in free:
            if step.do == "throttle" and (step.tiers is None or name in step.tiers):
                step_name = manifest.monitor.name(i)
                found.append(f"monitor: {step_name} slows tier {name} only over 30 days: it has no shorter limits")
    return found


def allowance(limits: Limits) -> Allowance:
    """A manifest's limits as the guard knows them."""
    return Allowance(limits.per_minute, limits.per_day, limits.per_30d)


def _tier(
    tier: Tier, manifest: Manifest, guard: GuardPart, served: Exposure, today: dt.date, warnings: list[str], path: Path
) -> Served:
    granted = exposure(tier.signals, manifest.target.outputs)
    for signal, grain in granted.grains.items():
        if signal is Signal.LOGITS and grain.top_k is not None:
            raise ManifestError(
                f"{path}: tiers.{tier.id}.signals.logits: a withheld logit cannot be told from 0 on the wire; "
                "grant probabilities, or all logits"
            )
    grant = Grant.of(served, defences(tier), granted)
    shown = grant.exposure.grains
    coarse = [s.value for s, grain in shown.items() if s not in EXPLANATIONS and grain != Grain()]
    if coarse and (told := [s.value for s in shown if s in EXPLANATIONS]):
        warnings.append(
            f"tier {tier.id} receives {' and '.join(told)} whole beside {' and '.join(coarse)} made coarse: "
            "explanations give away what that hides; withhold them, or audit the tier as it is"
        )
    mine, within = allowance(tier.limits), tier.limits.within(30)
    most = guard.broad_access.per_30d
    if within is None or within > most:
        in_force = tier.review is not None and tier.review.on <= today <= tier.review.until
        if not in_force:
            mine = mine.capped(most)
            why = "its review has ended" if tier.review else "it has no recorded review"
            warnings.append(f"tier {tier.id} is capped to {most:,} rows in 30 days: {why}")
    return Served(tier.id, grant, mine, mine.times(tier.limits.accounts_per_party))
