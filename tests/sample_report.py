"""A report as an audit writes it, with the cases that are hard to show: exact, with an interval, not assessed."""

from __future__ import annotations

from typing import Any

from understudy.records import (
    Cost,
    Derivation,
    Detection,
    Finding,
    Gate,
    Integrity,
    Line,
    Measured,
    Noticed,
    Outcome,
    Point,
    Range,
    Report,
    SeedResult,
    ThreatModel,
    TierReport,
)

PER_DAY = 500


def report(name: str = "loan-score", tier: str = "public") -> Report:
    """Three tiers: reached exactly at 33 queries, reached with an interval, not assessed; `name`, `tier` as given."""
    tiers = [
        _tier("partner", "partners under contract", "label + probabilities", 20.0, 1, PARTNER, ["a1"]),
        _tier("standard", "paying customers", "label + probabilities (top-1, 2 decimals)", 5.0, 3, STANDARD, ["b2"]),
        _tier(tier, "anybody with an e-mail address", "label", None, 10, PUBLIC.format(tier), ["c3", "c4"]),
    ]
    findings = [_partner(), _standard(), _public(tier), _surrogate(tier)]
    return Report(
        tool="understudy 0.1.0",
        run="20261124-101500-7f3a",
        created="2026-11-24T10:16:41+00:00",
        endpoint=name,
        owner="risk-models@example.org",
        contact="security@example.org",
        kind="classifier",
        model_version="3.2.0",
        assets=[{"id": "model", "rebuild_cost": {"low": 40e3, "high": 9e4, "currency": "USD", "basis": "time sheets"}}],
        verdict="not-assessed",
        summary="2 of 4 combinations of tier and goal reached the owner's threshold; 2 could not be assessed.",
        hero="a1",
        tiers=tiers,
        findings=findings,
        not_tested=[
            "Attacks other than those listed. A failed attack is no proof of safety.",
            "Several accounts or parties working together, beyond adding up their allowances.",
            "Whether anybody would notice: the manifest has no monitor section.",
            "That the model tested is the one served: the manifest gives no digest.",
            "What a copy would be used for: evasion, resale, recovery of training data.",
        ],
        derivations=[
            Derivation(figure="partner: queries to fidelity 0.95", finding="a1", steps=["Met at: 33, 33, 33 queries."]),
            Derivation(
                figure="standard: queries to fidelity 0.95",
                finding="b2",
                steps=["Met at: 1,090, 1,310, 1,310 queries.", "Money: 1,310 x USD 5 / 1,000 = USD 6.55."],
            ),
        ],
        gates=[
            Gate(condition="fidelity>=0.95@5000", fired=True, assessed=True, reason="partner, auto: 1 at 33 queries")
        ],
        integrity=Integrity(
            chain="every hash chain is whole",
            cells={"partner/auto/0": {"asked": 33, "answered": 33, "batches": 3, "asked_again": 0}},
            asked_again=64,
            failures=["public/auto/1, batch 4: half an answer"],
            marks=[],
        ),
        versions={"python": "3.11.7", "understudy": "0.1.0", "numpy": "2.4.6"},
        command="understudy audit loan.yaml --fail-if 'fidelity>=0.95@5000'",
        glossary={"fidelity": "agreement of the substitute with the target", "accuracy": "agreement with the truth"},
    )


PARTNER = (
    "A single partner customer could copy this model exactly with 33 queries: 1.6 hours at the tier's allowance, "
    "for USD 0.66."
)
STANDARD = (
    "A single standard customer could copy this model to the owner's threshold (fidelity at least 0.95) with "
    "1,310 queries (range 820 to 2,460): 2.6 days at the tier's allowance, for USD 6.55."
)
PUBLIC = "Not assessed for a {} customer: the budget of 2,000 is under the tier's allowance of 15,000."


def _tier(
    name: str, who: str, exposure: str, price: float | None, accounts: int, headline: str, findings: list[str]
) -> TierReport:
    return TierReport(
        tier=name,
        who=who,
        exposure=exposure,
        allowance="20 per minute, 500 per day",
        price="not given" if price is None else f"USD {price:g} per 1,000 queries",
        currency=None if price is None else "USD",
        accounts=accounts,
        headline=headline,
        scale=[Cost(**_cost(queries, price, accounts)) for queries in (10, 100, 1000, 10_000, 15_000)],
        findings=findings,
    )


def _cost(queries: int, price: float | None, accounts: int) -> dict[str, Any]:
    return {
        "queries": queries,
        "money": None if price is None else queries * price / 1000,
        "days_one": queries / PER_DAY,
        "days_party": queries / PER_DAY / accounts,
    }


def _finding(
    name: str,
    tier: str,
    outcome: Outcome,
    reason: str,
    queries: tuple[int | None, int | None, int | None],
    curve: list[tuple[int, float, float, float]],
    price: float | None,
    accounts: int,
    budget: int = 15_000,
    **changes: Any,
) -> Finding:
    def over(scale: float) -> Range:
        low, estimate, high = (None if q is None else q * scale for q in queries)
        return Range(low=low, estimate=estimate, high=high)

    points = [Point(value=v, low=low, high=high, **_cost(q, price, accounts)) for q, v, low, high in curve]
    last = points[-1]
    fields: dict[str, Any] = {
        "id": name,
        "run": "20261124-101500-7f3a",
        "at": "2026-11-24T10:16:40+00:00",
        "endpoint": "loan-score",
        "tier": tier,
        "goal": "copy",
        "metric": "fidelity",
        "higher_is_closer": True,
        "threshold": 0.95,
        "attack": "auto",
        "outcome": outcome,
        "reason": reason,
        "queries": over(1),
        "money": None if price is None else over(price / 1000),
        "days_one": over(1 / PER_DAY),
        "days_party": over(1 / PER_DAY / accounts),
        "binding": "500 per day",
        "best": Measured(value=last.value, low=last.low, high=last.high, n=4_000),
        "best_queries": last.queries,
        "curve": points,
        "suite": [],
        "seeds": [
            SeedResult(
                seed=i,
                spent=last.queries,
                asked_again=0,
                verdict="approximate",
                reached_at=queries[1],
                final=last.value,
                attack="retraining",
                measures={"accuracy": 0.951},
                notes={"learner": "logistic", "deterministic": True, "scores": {"mlp": 0.94}},
            )
            for i in range(3)
        ],
        "measures": {"accuracy": Measured(value=0.951, low=0.949, high=0.953, n=4_000, how="mean and range over 3")},
        "floor": Measured(value=0.643, low=0.628, high=0.658, n=4_000, how="always the commonest answer"),
        "ceiling": Measured(value=0.984, low=0.979, high=0.987, n=4_000, how="the owner's recipe retrained"),
        "threat_model": ThreatModel(
            access="as the tier gives it",
            pool="142 inputs: another clinic",
            knows="the space and the number of outputs",
            budget=budget,
            allowance=15_000,
            accounts=accounts,
            allowance_party=15_000 * accounts,
            seeds=3,
            adaptive=accounts < 10,
        ),
    }
    return Finding(**(fields | changes))


def _partner() -> Finding:
    suite = [
        Line(attack="equation-solving", verdict="exact", queries=[33], values=[1.0]),
        Line(attack="retraining", verdict="set aside", queries=[], values=[], note="equation-solving was exact first"),
    ]
    return _finding(
        "a1",
        "partner",
        Outcome.REACHED,
        "reached at 33 queries",
        (33, 33, 33),
        [(33, 1.0, 0.999, 1.0)],
        20.0,
        1,
        suite=suite,
        detection=_detection(),
    )


def _detection() -> Detection:
    ways = [
        Noticed(
            way="as it was run", alarmed=3, of=3, low=0.2924, high=1.0, delay=4, share=0.12, queries=33, chance=0.01
        ),
        Noticed(way="diluted 1:9", alarmed=0, of=3, low=0.0, high=0.7076, delay=None, share=None, queries=330),
    ]
    return Detection(
        assessed=True,
        reason="3 repetition(s), each up to the owner's threshold or its end",
        level=0.01,
        accounts=1_080,
        calibrated="2026-09-21",
        horizon=1_024,
        detectors=["novelty", "structure"],
        ways=ways,
        limits=["No score of this calibration reads a clock."],
    )


def _standard() -> Finding:
    curve = [
        (100, 0.71, 0.66, 0.76),
        (240, 0.82, 0.78, 0.86),
        (510, 0.899, 0.872, 0.931),
        (820, 0.938, 0.912, 0.957),
        (1_310, 0.957, 0.938, 0.971),
        (2_460, 0.974, 0.961, 0.983),
        (6_900, 0.99996, 0.9991, 0.99999),
    ]
    suite = [
        Line(
            attack="equation-solving",
            verdict="not-of-family",
            queries=[240],
            values=[0.79],
            note="check queries failed",
        ),
        Line(
            attack="retraining",
            verdict="approximate",
            queries=[100, 510, 1_310, 6_900],
            values=[0.70, 0.88, 0.95, 0.9998],
        ),
    ]
    reason = "reached at 1,310 queries"
    return _finding("b2", "standard", Outcome.REACHED, reason, (820, 1_310, 2_460), curve, 5.0, 3, suite=suite)


def _public(tier: str) -> Finding:
    curve = [(300, 0.66, 0.61, 0.71), (900, 0.74, 0.70, 0.78), (2_000, 0.81, 0.77, 0.85)]
    reason = "the budget of 2,000 is under the tier's allowance of 15,000"
    return _finding("c3", tier, Outcome.NOT_ASSESSED, reason, (None, None, None), curve, None, 10, 2_000, ceiling=None)


def _surrogate(tier: str) -> Finding:
    """A second goal, where lower is closer, not reached within the allowance."""
    curve = [(500, 0.31, 0.28, 0.34), (9_000, 0.12, 0.1, 0.15)]
    reason = "not demonstrated with a budget of 15,000 by the attacks listed"
    odd = {"goal": "scores", "metric": "total-variation", "higher_is_closer": False, "threshold": 0.05}
    return _finding("c4", tier, Outcome.NOT_REACHED, reason, (None, None, None), curve, None, 10, **odd, floor=None)
