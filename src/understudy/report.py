"""A run folder -> report.json: headline, derivation, what was not tested. Renderers show this and nothing else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from understudy.audit import GateSpec, versions
from understudy.endpoint import behind
from understudy.errors import RecordError
from understudy.findings import MIN_SEEDS, days
from understudy.manifest import Manifest, Tier, exposure
from understudy.records import Cost, Derivation, Finding, Gate, Integrity, Outcome, Range, Report, Run, TierReport
from understudy.store import Store

GLOSSARY = {
    "accuracy": "agreement of a model with the truth",
    "fidelity": "agreement of the substitute with the target, also where the target is wrong",
    "functional equivalence": "the same answer to every input; no finite test shows it, solved parameters come close",
    "substitute": "the copy that an attack makes",
    "floor": "the best that is reached without a single query",
    "ceiling": "what the owner's own recipe reaches when it is trained anew with another seed",
    "budget": "queries offered to each attack",
    "allowance": "queries one account of the tier may ask in the review window",
    "exact": "the solved parameters reproduce fresh answers to their full precision",
    "not assessed": "the test was too small to conclude anything; never a sign of safety",
    "interval": "95 %, over repetitions and evaluation rows",
}


def build(folder: Path, gates: Sequence[GateSpec] = (), command: str = "") -> Report:
    """The report of a finished run. Raises RecordError when there are no findings yet."""
    store = Store.open(folder)
    try:
        run = Run.read(store.read("run.json"), folder / "run.json")
        try:
            lines = store.read("findings.jsonl").splitlines()
        except RecordError:
            lines = []
        if not lines:
            raise RecordError(f"{folder} has no findings yet: go on with understudy audit MANIFEST --resume {folder}")
        findings = [Finding.read(line, folder / "findings.jsonl") for line in lines]
        integrity = _integrity(store)
    finally:
        store.close()
    try:
        manifest = Manifest.model_validate(run.manifest)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise RecordError(
            f"{folder / 'run.json'}: the manifest in it is of another version ({place}): audit again"
        ) from None
    tiers = [_tier(tier, manifest, findings) for tier in manifest.tiers if any(f.tier == tier.id for f in findings)]
    return Report(
        tool=f"understudy {versions()['understudy']}",
        run=run.id,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        endpoint=run.endpoint,
        owner=manifest.metadata.owner,
        contact=manifest.metadata.contact,
        kind=manifest.metadata.kind,
        model_version=manifest.model.version,
        assets=[a.model_dump(mode="json", by_alias=True) for a in manifest.assets],
        verdict=_verdict(findings),
        summary=_summary(manifest, tiers, findings),
        hero=min(findings, key=_rank).id,
        tiers=tiers,
        findings=findings,
        not_tested=_not_tested(manifest, run, findings),
        derivations=[_derivation(_find(findings, t.findings[0]), manifest) for t in tiers],
        gates=[_gate(g, findings) for g in gates],
        integrity=integrity,
        versions=run.versions,
        command=command,
        glossary=GLOSSARY,
    )


def exit_code(report: Report) -> int:
    """0 pass, 1 a gate fired, 3 something was not assessed (1 beats 3)."""
    if any(g.fired for g in report.gates):
        return 1
    unassessed = any(not g.assessed for g in report.gates)
    return 3 if unassessed or report.verdict == Outcome.NOT_ASSESSED else 0


def _find(findings: Sequence[Finding], name: str) -> Finding:
    return next(f for f in findings if f.id == name)


def _verdict(findings: Sequence[Finding]) -> str:
    """Not assessed beats not reached; reached counts where every open question is answered."""
    outcomes = {f.outcome for f in _strongest(findings)}
    for outcome in (Outcome.NOT_ASSESSED, Outcome.REACHED, Outcome.NOT_REACHED):
        if outcome in outcomes:
            return outcome.value
    return Outcome.NOT_ASSESSED.value


def _strongest(findings: Sequence[Finding]) -> list[Finding]:
    """Per tier and goal the finding of the attack that got furthest."""
    cases = dict.fromkeys((f.tier, f.goal) for f in findings)
    return [min((f for f in findings if (f.tier, f.goal) == case), key=_rank) for case in cases]


def _rank(f: Finding) -> tuple[int, float, float]:
    """Reached first and cheapest first; then whatever came closest."""
    place = {Outcome.REACHED: 0, Outcome.NOT_ASSESSED: 1, Outcome.NOT_REACHED: 2}[f.outcome]
    best = f.best.value if f.best else float("-inf") * (1 if f.higher_is_closer else -1)
    return place, f.queries.estimate or 0.0, -best if f.higher_is_closer else best


def _tier(tier: Tier, manifest: Manifest, findings: Sequence[Finding]) -> TierReport:
    mine = sorted((f for f in findings if f.tier == tier.id), key=_rank)
    limits = tier.limits
    windows = ((limits.per_minute, "minute"), (limits.per_day, "day"), (limits.per_30d, "30 days"))
    caps = [f"{cap:,} per {word}" for cap, word in windows if cap]
    price = "not given"
    if tier.price is not None:
        price = f"{tier.price.currency} {tier.price.per_1k_queries:g} per 1,000 queries"
        price += f", the first {tier.price.free_queries:,} free" if tier.price.free_queries else ""
    return TierReport(
        tier=tier.id,
        who=tier.who,
        exposure=f"{exposure(tier.signals, manifest.target.outputs)}{behind(tier)}",
        allowance=", ".join(caps) or "unlimited",
        price=price,
        currency=tier.price.currency if tier.price else None,
        accounts=limits.accounts_per_party,
        headline=headline(mine[0], tier),
        scale=_scale(tier, mine[0]),
        findings=[f.id for f in mine],
    )


def _scale(tier: Tier, f: Finding) -> list[Cost]:
    """Tenfold steps up to the largest number of queries that a chart of the tier shows, and the allowance."""
    model, limits = f.threat_model, tier.limits
    last = max(model.budget, model.allowance or 0, model.allowance_party or 0)
    steps = {10**k for k in range(1, len(str(last)))} | ({model.allowance} if model.allowance else set())
    return [
        Cost(
            queries=q,
            money=tier.price.of(q) if tier.price else None,
            days_one=days(q, limits),
            days_party=days(q, limits, limits.accounts_per_party),
        )
        for q in sorted(steps)
    ]


def headline(f: Finding, tier: Tier) -> str:
    """One sentence for a board member."""
    goal = f"{f.metric} {'at least' if f.higher_is_closer else 'at most'} {f.threshold:g}"
    if f.outcome is Outcome.NOT_ASSESSED:
        return f"Not assessed for a {tier.id} customer: {f.reason}."
    if f.outcome is Outcome.NOT_REACHED:
        return f"Copying to the owner's threshold ({goal}) was {f.reason}, each of them as a {tier.id} customer."
    if "floor" in f.reason:
        return f"A copy to the owner's threshold ({goal}) takes no query at all: {f.reason}."
    exact = all(s.verdict == "exact" for s in f.seeds)
    what = "copy this model exactly" if exact else f"copy this model to the owner's threshold ({goal})"
    sentence = f"A single {tier.id} customer could {what} with {_queries(f.queries)}"
    if f.days_one is not None and f.days_one.estimate is not None:
        sentence += f": {duration(f.days_one.estimate)} at the tier's allowance"
    if f.money is not None and f.money.estimate is not None and tier.price is not None:
        sentence += f", for {money(f.money.estimate, tier.price.currency)}"
    return sentence + "."


def _queries(r: Range) -> str:
    """The range in words; the low end is where the upper edge of the interval first touches the threshold."""
    if r.low == r.estimate == r.high:
        return f"{r.estimate:,.0f} queries"
    high = "more than was tested" if r.high is None else f"{r.high:,.0f}"
    return f"{r.estimate:,.0f} queries (range {r.low:,.0f} to {high})"


def duration(value: float) -> str:
    """Days as a person says them."""
    minutes = value * 1440
    if minutes < 1:
        return "under a minute"
    if minutes < 90:
        return f"{minutes:.0f} minute{'s' if round(minutes) != 1 else ''}"
    return f"{value * 24:.1f} hours".replace(".0 ", " ") if value < 2 else f"{value:.1f} days".replace(".0 ", " ")


def money(value: float, currency: str) -> str:
    """An amount as a person writes it."""
    if value == 0:
        return "nothing"
    return f"under {currency} 0.01" if value < 0.01 else f"{currency} {value:,.2f}"


def _summary(manifest: Manifest, tiers: Sequence[TierReport], findings: Sequence[Finding]) -> str:
    """The whole report in two or three sentences."""
    strongest = _strongest(findings)
    count = {o: sum(f.outcome is o for f in strongest) for o in Outcome}
    cases = "tiers" if len(strongest) == len(tiers) else "combinations of tier and goal"
    parts = [f"Copied to the owner's threshold in {count[Outcome.REACHED]} of {len(strongest)} {cases}."]
    if count[Outcome.NOT_REACHED]:
        parts.append(f"Not demonstrated within the allowance in {count[Outcome.NOT_REACHED]}.")
    if count[Outcome.NOT_ASSESSED]:
        parts.append(f"Not assessed in {count[Outcome.NOT_ASSESSED]}.")
    cheapest = min(strongest, key=_rank)
    if cheapest.queries.estimate is not None:
        tier = next(t for t in manifest.tiers if t.id == cheapest.tier)
        costs = []
        if cheapest.days_one is not None and cheapest.days_one.estimate is not None:
            costs.append(duration(cheapest.days_one.estimate))
        if cheapest.money is not None and cheapest.money.estimate is not None and tier.price is not None:
            costs.append(money(cheapest.money.estimate, tier.price.currency))
        rest = f" ({', '.join(costs)})" if costs else ""
        parts.append(f"Fewest queries: {cheapest.queries.estimate:,.0f}{rest}, as a {tier.id} customer.")
    for cost in (a.rebuild_cost for a in manifest.assets if a.kind == "model"):
        if cost is not None:
            parts.append(
                f"Building the model anew costs {cost.currency} {cost.low:,.0f} to {cost.high:,.0f} ({cost.basis})."
            )
    return " ".join(parts)


def _derivation(f: Finding, manifest: Manifest) -> Derivation:
    tier = next(t for t in manifest.tiers if t.id == f.tier)
    sign = "at or above" if f.higher_is_closer else "at or below"
    rows = f.best.n if f.best else 0
    steps = [
        f"Goal {f.goal}: {f.metric} {sign} {f.threshold:g} on {rows:,} evaluation rows.",
        f"Attack {f.attack} ran {len(f.seeds)} time(s) with {f.threat_model.budget:,} queries offered, "
        f"seeing {f.threat_model.access}.",
        "Per repetition the threshold was first met at: "
        + ", ".join("not met" if s.reached_at is None else f"{s.reached_at:,}" for s in f.seeds)
        + " queries.",
        f"The mean curve over repetitions meets it at {_or_budget(f.queries.estimate, f)}; the upper edge of its 95 % "
        f"interval at {_or_budget(f.queries.low, f)}, the lower edge at {_or_budget(f.queries.high, f)} "
        "(hierarchical bootstrap over repetitions and evaluation rows, widened to Wilson's interval).",
    ]
    if f.queries.estimate is not None:
        if f.days_one is not None and f.days_one.estimate is not None:
            steps.append(
                f"Time: {f.queries.estimate:,.0f} queries at {_allowances(tier)}: {duration(f.days_one.estimate)} "
                f"(what decides: {f.binding})."
            )
        if f.money is not None and tier.price is not None and f.money.estimate is not None:
            steps.append(
                f"Money: ({f.queries.estimate:,.0f} - {tier.price.free_queries:,} free) x "
                f"{tier.price.currency} {tier.price.per_1k_queries:g} / 1,000 = "
                f"{money(f.money.estimate, tier.price.currency)}."
            )
    if f.floor:
        steps.append(f"Floor {f.floor.value:.3f}: {f.floor.how}.")
    steps.append(f"Ceiling {f.ceiling.value:.3f}: {f.ceiling.how}." if f.ceiling else "Ceiling: not measured.")
    return Derivation(figure=f"{f.tier}: queries to {f.metric} {f.threshold:g}", finding=f.id, steps=steps)


def _allowances(tier: Tier) -> str:
    limits = tier.limits
    windows = ((limits.per_minute, "minute"), (limits.per_day, "day"), (limits.per_30d, "30 days"))
    return ", ".join(f"{cap:,} per {word}" for cap, word in windows if cap)


def _or_budget(value: float | None, f: Finding) -> str:
    return f"more than {f.threat_model.budget:,}" if value is None else f"{value:,.0f}"


def _not_tested(manifest: Manifest, run: Run, findings: Sequence[Finding]) -> list[str]:
    """As prominent as the verdict."""
    gaps = [
        "Attacks other than those listed. A failed attack is no proof of safety.",
        "Several accounts or parties working together, beyond adding up their allowances.",
    ]
    unseen = sorted({f.detection.reason if f.detection else "not looked for" for f in findings if not watched(f)})
    gaps += [f"Whether anybody would notice: {why}." for why in unseen]
    untested = [t.id for t in manifest.tiers if not any(f.tier == t.id for f in findings)]
    if untested:
        gaps.insert(0, f"Tiers: {', '.join(untested)}.")
    if any(not f.threat_model.adaptive for f in findings):
        gaps.append("An attacker who knows every defence: at least one attack is not adapted to a defence in its way.")
    if manifest.pool is None:
        gaps.append("An attacker with data of their own: no pool was given.")
    if not any(f.ceiling for f in findings):
        gaps.append("The ceiling: the owner's recipe was not given, so nobody knows how close an honest rival comes.")
    if manifest.model.digest is None:
        gaps.append("That the model tested is the one served: the manifest gives no digest.")
    if run.seeds < MIN_SEEDS:
        gaps.append(f"Enough repetitions: {run.seeds} of the {MIN_SEEDS} that a conclusion needs.")
    gaps.append("What a copy would be used for: evasion, resale, recovery of training data.")
    return gaps


def watched(f: Finding) -> bool:
    """Whether detectors were held against this attack's queries."""
    return f.detection is not None and f.detection.assessed


def _gate(gate: GateSpec, findings: Sequence[Finding]) -> Gate:
    """Fires when the interval's far end reaches the threshold within the stated queries; else assessed or not."""
    mine = [f for f in findings if f.metric == gate.metric]
    for f in sorted(mine, key=_rank):
        for p in f.curve:
            edge = p.high if gate.higher_is_closer else p.low
            if p.queries <= gate.queries and (
                edge >= gate.threshold if gate.higher_is_closer else edge <= gate.threshold
            ):
                reason = f"{f.tier}, {f.attack}: {p.value:.4g} ({p.low:.4g} to {p.high:.4g}) at {p.queries:,} queries"
                return Gate(condition=gate.text, fired=True, assessed=True, reason=reason)
    if not mine:
        return Gate(condition=gate.text, fired=False, assessed=False, reason=f"no goal measures {gate.metric}")
    short = [f for f in mine if f.threat_model.budget < gate.queries]
    if short:
        reason = f"{short[0].tier} was tested with {short[0].threat_model.budget:,} queries only"
        return Gate(condition=gate.text, fired=False, assessed=False, reason=reason)
    poor = [f for f in mine if f.outcome is Outcome.NOT_ASSESSED]
    if poor:
        return Gate(condition=gate.text, fired=False, assessed=False, reason=poor[0].reason)
    return Gate(condition=gate.text, fired=False, assessed=True, reason="no interval reaches it")


def _integrity(store: Store) -> Integrity:
    try:
        store.verify()
        chain = "every hash chain is whole"
    except RecordError as error:
        chain = str(error)
    cells = store.counts()
    return Integrity(
        chain=chain,
        cells=cells,
        asked_again=sum(c["asked_again"] for c in cells.values()),
        failures=[f"{cell}, batch {batch}: {reason}" for cell, batch, reason in store.failures()],
        marks=[f"{cell}, batch {batch}: {what}" for cell, batch, what in store.marks()],
    )
