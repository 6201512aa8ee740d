"""From accounts to a survey: parties, data quality, what is not assessed, and an alert for each account alarmed."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from understudy.alerts import Alert, CalibrationNote, InputStatistics, Score, Volumes, explanations, moment
from understudy.alerts import Leak as LeakRecord
from understudy.leak import Leak
from understudy.logs import Tally
from understudy.manifest import Manifest
from understudy.manifest_monitor import MonitorPart
from understudy.monitor.follow import Seen
from understudy.records import Range
from understudy.survey import Account, Drift, Excess, Fault, Party, Quality, Survey, counted
from understudy.types import Estimate
from understudy.watch import Calibration
from understudy.watch.drift import drifted
from understudy.watch.learning import refuse

_LISTED = 8  # accounts of a party
_FAULTY, _FAULTS = 0.05, 20  # share of queries out of range from which an account is listed, and how many are
_OLD = 120  # days of a calibration


@dataclass(frozen=True)
class Group:
    """All accounts of a party, the least like benign ones first."""

    party: str
    accounts: tuple[Seen, ...]

    @property
    def assessed(self) -> list[Seen]:
        return [a for a in self.accounts if a.unseen < 1]

    @property
    def alarmed(self) -> list[Seen]:
        return [a for a in self.assessed if a.standing.alarmed_at is not None]

    @property
    def p_value(self) -> float | None:
        """The smallest of its accounts' times how many there are (Bonferroni)."""
        found = self.assessed
        return min(1.0, len(found) * found[0].standing.p_value) if found else None

    @property
    def queries(self) -> int:
        return sum(a.standing.n for a in self.accounts)


def groups(seen: Sequence[Seen]) -> list[Group]:
    """Accounts by party, the least like benign ones first."""
    by_party: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        by_party[one.standing.party].append(one)
    made = [Group(party, tuple(sorted(found, key=_oddest))) for party, found in by_party.items()]
    return sorted(made, key=lambda g: (not g.alarmed, 2.0 if g.p_value is None else g.p_value, -g.queries, g.party))


def _oddest(seen: Seen) -> tuple[bool, bool, float, float, str]:
    s = seen.standing
    return seen.unseen >= 1, s.alarmed_at is None, s.p_value, -s.z, s.principal


def shown(found: Sequence[Group], most: int) -> list[Group]:
    """The alarmed, the `most` least like benign ones, and the `most` busiest, in the order of `found`."""
    busiest = sorted(found, key=lambda g: -g.queries)[:most]
    wanted = {g.party for g in [*[g for g in found if g.alarmed], *found[:most], *busiest]}
    return [g for g in found if g.party in wanted]


def conclude(
    manifest: Manifest,
    calibration: Calibration,
    found: Sequence[Group],
    listed: Sequence[Group],
    leaks: Mapping[str, Leak],
    tally: Tally,
    sources: Sequence[str],
    now: float,
) -> tuple[Survey, list[Alert]]:
    """The survey of a log, and its alerts."""
    accounts = [a for g in found for a in g.accounts]
    assessed = [a for a in accounts if a.unseen < 1]
    alarmed = [a for a in assessed if a.standing.alarmed_at is not None]
    reason = refuse(calibration)
    gaps = _gaps(manifest, calibration, accounts, assessed, now)
    verdict, summary = _verdict(found, accounts, assessed, alarmed, calibration, reason)
    survey = Survey(
        tool=_tool(),
        created=moment(now),
        endpoint=manifest.metadata.id,
        owner=manifest.metadata.owner,
        contact=manifest.metadata.contact,
        model_version=manifest.model.version,
        logs=list(sources),
        verdict=verdict,
        summary=summary,
        gaps=gaps,
        calibration=_note(calibration, None),
        queries=sum(a.standing.n for a in accounts),
        accounts=len(accounts),
        assessed=len(assessed),
        alarmed=len(alarmed),
        expected=None if reason else calibration.level * len(assessed),
        since=moment(min(a.standing.since for a in accounts)) if accounts else None,
        until=moment(max(a.standing.until for a in accounts)) if accounts else None,
        parties=[_party(g, leaks.get(g.party)) for g in listed],
        unlisted=len(found) - len(listed),
        quality=_quality(manifest, calibration, accounts, assessed, tally),
    )
    alerts = [_alert(manifest, calibration, g, a, leaks.get(g.party), now) for g in listed for a in g.alarmed]
    return survey, alerts


def _tool() -> str:
    try:
        return f"understudy {version('understudy')}"
    except PackageNotFoundError:  # run from a source tree
        return "understudy"


def _verdict(
    found: Sequence[Group],
    accounts: Sequence[Seen],
    assessed: Sequence[Seen],
    alarmed: Sequence[Seen],
    calibration: Calibration,
    reason: str | None,
) -> tuple[str, str]:
    of = f"{counted(len(accounts), 'account')} of {len(found):,} part{'y' if len(found) == 1 else 'ies'}"
    if not accounts:
        return "not-assessed", "Not assessed: the log holds no queries."
    if alarmed:
        names, chance = len({a.standing.party for a in alarmed}), calibration.level * len(assessed)
        by_chance = f"{chance:,.0f}" if chance >= 10 else f"{chance:.2g}"
        return "alarmed", (
            f"{len(alarmed):,} of {of} ask in a way that benign accounts hardly ever do ({names:,} of the parties); if "
            f"all of them were benign, about {by_chance} would be alarmed by chance at the stated "
            f"{100 * calibration.level:g} %. Each alarm needs a human look."
        )
    if reason is not None:
        return "not-assessed", f"Not assessed: {reason}. The ranks below are a hint, not a finding."
    if not assessed:
        return "not-assessed", f"Not assessed: the log holds no inputs of any of {of}."
    return "nothing", (
        f"None of {of} asks in a way that benign accounts hardly ever do. What looks like ordinary traffic is not seen "
        "by these detectors; what could have been learned from it is under 'could have learned'."
    )


def _gaps(
    manifest: Manifest, calibration: Calibration, accounts: Sequence[Seen], assessed: Sequence[Seen], now: float
) -> list[str]:
    gaps = []
    days = (now - calibration.made) / 86_400
    if calibration.model and calibration.model != manifest.model.version:
        gaps.append(
            f"the calibration is of model version {calibration.model}, this is {manifest.model.version}: calibrate anew"
        )
    wanted = (manifest.monitor or MonitorPart()).level
    if not math.isclose(wanted, calibration.level):
        gaps.append(
            f"the manifest asks for a level of {100 * wanted:g} %, the calibration was made for "
            f"{100 * calibration.level:g} %, which is what holds here"
        )
    if days > _OLD:
        gaps.append(f"the calibration is {days:.0f} days old: what benign accounts do may have changed")
    blind = len(accounts) - len(assessed)
    if blind:
        gaps.append(f"no inputs were kept of {counted(blind, 'account')}: not assessed")
    partly = sum(0 < a.unseen < 1 for a in accounts)
    if partly:
        gaps.append(f"inputs were kept only in part of {counted(partly, 'account')}: the rest is not assessed")
    beyond = sum(a.standing.beyond for a in assessed)
    if beyond:
        gaps.append(
            f"{counted(beyond, 'account')} asked more than the calibration's horizon of {calibration.horizon:,} "
            "queries: what came after is not assessed"
        )
    if calibration.scorer.blind:
        names = ", ".join(calibration.scorer.names)
        gaps.append(f"inputs were not kept: accounts are held against benign ones by {names} alone")
    if calibration.leak is None:
        gaps.append("the calibration holds no leak meter: what parties could have learned is not known")
    elif not calibration.leak.truths:
        gaps.append("the leak meter was not held against trained copies: how far it is off is not known")
    worst = calibration.worst_segment()
    if worst is not None:
        name, over, total = worst
        gaps.append(f"in calibration, the segment accused most was {name!r}: {over} of {total} benign accounts")
    return gaps


def _note(calibration: Calibration, segment: str | None) -> CalibrationNote:
    return CalibrationNote(
        made=moment(calibration.made),
        accounts=calibration.cohort(segment).ranking.accounts,
        level=calibration.level,
        horizon=calibration.horizon,
        threshold=calibration.limit(segment),
        segment=segment if segment in calibration.segments else None,
    )


def _scores(seen: Seen) -> list[Score]:
    return [Score(detector=name, value=round(value, 3)) for name, value in seen.standing.scores if np.isfinite(value)]


def _party(group: Group, leak: Leak | None) -> Party:
    return Party(
        party=group.party,
        p_value=group.p_value,
        alarmed=len(group.alarmed),
        queries=group.queries,
        size=len(group.accounts),
        accounts=[_account(a) for a in group.accounts[:_LISTED]],
        leak=_leak(leak),
        benign=explanations(_scores(group.alarmed[0]), leak is not None) if group.alarmed else [],
    )


def _account(seen: Seen) -> Account:
    s = seen.standing
    return Account(
        principal=s.principal,
        segment=s.segment,
        queries=s.n,
        since=moment(s.since),
        until=moment(s.until),
        p_value=s.p_value if seen.unseen < 1 else None,
        alarmed_at=s.alarmed_at,
        beyond=s.beyond,
        scores=_scores(seen),
        repeats=s.quality.get("repeats"),
        out_of_range=s.quality.get("out_of_range"),
    )


def _leak(leak: Leak | None) -> LeakRecord | None:
    if leak is None:
        return None
    soft = leak.probability
    return LeakRecord(labels=_range(leak.label), probabilities=None if soft is None else _range(soft), of="party")


def _range(estimate: Estimate) -> Range:
    return Range(low=estimate.low, estimate=estimate.value, high=estimate.high)


def _quality(
    manifest: Manifest, calibration: Calibration, accounts: Sequence[Seen], assessed: Sequence[Seen], tally: Tally
) -> Quality:
    looked = [(a.standing.quality["out_of_range"], a.standing) for a in accounts if a.standing.looked]
    faults = sorted((-share * s.looked, s.principal, share, s.looked) for share, s in looked if share > _FAULTY)
    total = sum(s.looked for _, s in looked)
    return Quality(
        out_of_range=sum(share * s.looked for share, s in looked) / total if total else None,
        faults=[Fault(principal=name, out_of_range=share, queries=n) for _, name, share, n in faults[:_FAULTS]],
        excess=_excess(manifest.monitor or MonitorPart(), accounts),
        drift=[
            Drift(detector=d.detector, share=d.share.value, low=d.share.low, high=d.share.high, accounts=d.share.n)
            for d in drifted(calibration.tails, np.array([a.tail for a in assessed]), calibration.scorer.names)
        ],
        rejected=dict(tally.rejected.most_common()),
        aside=dict(tally.aside.most_common()),
    )


def _excess(monitor: MonitorPart, accounts: Sequence[Seen]) -> list[Excess]:
    """Accounts that asked more on a day than was declared, the furthest beyond first."""
    told = [(a, monitor.promised(a.standing.principal, a.standing.party)) for a in accounts]
    over = [(a.busiest / much, a.standing.principal, a.busiest, much) for a, much in told if much and a.busiest > much]
    return [Excess(principal=who, busiest_day=n, declared=much) for _, who, n, much in sorted(over, reverse=True)]


def _alert(
    manifest: Manifest, calibration: Calibration, group: Group, seen: Seen, leak: Leak | None, now: float
) -> Alert:
    s, scores = seen.standing, _scores(seen)
    named = f"{manifest.metadata.id} {s.principal} {s.alarmed_at} {calibration.made} {s.since}"
    learnt = "" if leak is None else f" {str(leak)[0].upper()}{str(leak)[1:]}."
    return Alert(
        id=hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        at=moment(now),
        kind="extraction",
        source="log",
        message=(
            f"{s.principal} asked in a way that a share of {s.p_value:.2g} of {s.accounts:,} benign accounts would; "
            f"alarmed at query {s.alarmed_at:,} of {s.n:,}.{learnt}"
        ),
        endpoint=manifest.metadata.id,
        model_version=manifest.model.version,
        principal=s.principal,
        party=group.party,
        tier=None,
        exposure=" + ".join(seen.signals) or None,
        volumes=Volumes(queries=s.n, party_queries=group.queries, since=moment(s.since), until=moment(s.until)),
        inputs=_statistics(seen),
        detectors=scores,
        p_value=s.p_value,
        alarmed_at=s.alarmed_at,
        calibration=_note(calibration, s.segment),
        leak=_leak(leak),
        benign=explanations(scores, leak is not None),
    )


def _statistics(seen: Seen) -> InputStatistics:
    """What the inputs add up to that were looked at."""
    s = seen.standing
    if not s.looked:
        return InputStatistics(kept="none")
    return InputStatistics(
        kept="whole" if s.looked == s.n else "partly",
        seen=s.looked,
        repeats=s.quality.get("repeats"),
        out_of_range=s.quality.get("out_of_range"),
        mean=None if seen.mean is None else seen.mean[:64].tolist(),
        spread=None if seen.spread is None else seen.spread[:64].tolist(),
    )
