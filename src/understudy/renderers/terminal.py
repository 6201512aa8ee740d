"""The report as one table on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from understudy.records import Finding, Report, TierReport
from understudy.renderers import _words as words

_OUTCOME = {"reached": "COPIED", "not-reached": "not demonstrated", "not-assessed": "NOT ASSESSED"}


def render(report: Report, console: Console) -> None:
    """Print the headline table, the sentences behind it, the gates, and what was not tested."""
    by_id = {f.id: f for f in report.findings}
    table = Table(title=f"{escape(report.endpoint)} {escape(report.model_version)}", title_justify="left", expand=False)
    for name in ("tier", "receives", "goal", "verdict", "queries", "time", "money", "fidelity", "floor - ceiling"):
        table.add_column(name, overflow="fold")
    for tier in report.tiers:
        seen: set[str] = set()
        for finding in (by_id[name] for name in tier.findings):
            if finding.goal not in seen:
                seen.add(finding.goal)
                table.add_row(*_row(tier, finding))
    console.print(table)
    for tier in report.tiers:
        console.print(f"- {escape(tier.headline)}", highlight=False)
    for gate in report.gates:
        state = "FIRED" if gate.fired else ("passed" if gate.assessed else "NOT ASSESSED")
        console.print(f"Gate {escape(gate.condition)}: {state} - {escape(gate.reason)}", highlight=False)
    console.print("Not tested: " + escape(" ".join(report.not_tested)), highlight=False)


def _row(tier: TierReport, f: Finding) -> list[str]:
    sign = ">=" if f.higher_is_closer else "<="
    ceiling = "not measured" if f.ceiling is None else words.share(f.ceiling.value)
    cells = [
        tier.tier,
        tier.exposure,
        f"{f.metric} {sign} {f.threshold:g}",
        _OUTCOME[f.outcome.value],
        words.ranged(f.queries, words.count),
        words.ranged(f.days_one, words.duration, "no allowance"),
        words.ranged(f.money, lambda v: words.money(v, tier.currency), "no price"),
        words.interval(f.best) + ("" if f.best_queries is None else f" at {words.count(f.best_queries)}"),
        f"{'not measured' if f.floor is None else words.share(f.floor.value)} - {ceiling}",
    ]
    return [escape(cell) for cell in cells]
