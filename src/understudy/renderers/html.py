"""The report as one HTML file: offline, no script, three doors (board, security reviewer, engineer)."""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from understudy.records import Report
from understudy.renderers import _words as words
from understudy.renderers import charts
from understudy.renderers._page import css, environment
from understudy.renderers._svg import unique


def render(report: Report) -> str:
    """The page, the same bytes for the same report. Everything from a manifest or a target is escaped.

    Args:
        report: what report.json holds; nothing else is read, and nothing is computed from it.

    Returns:
        One HTML document with its styles and drawings inside: no script, no request to anywhere.
    """
    env = environment()
    env.globals["words"] = words
    env.filters["notes"] = _notes
    by_id = {f.id: f for f in report.findings}
    hero = by_id[report.hero]
    drawn = [charts.ladder(report, narrow) for narrow in (False, True)]
    for tier in report.tiers:
        drawn += [charts.cost_curve(by_id[tier.findings[0]], tier, narrow) for narrow in (False, True)]
    pairs = [Markup(svg) for svg in unique(drawn)]  # matplotlib escapes the words that it draws
    # a figure without a derivation of its own points to its finding
    origin = {f.id: f"f-{f.id}" for f in report.findings}
    origin |= {d.finding: f"d-{i}" for i, d in reversed([*enumerate(report.derivations, 1)])}
    return env.get_template("report.html.j2").render(
        r=report,
        css=css(),
        by_id=by_id,
        hero=hero,
        ladder_chart=pairs[0:2],
        tier_charts=[pairs[i : i + 2] for i in range(2, len(pairs), 2)],
        origin=origin,
        currency={t.tier: t.currency for t in report.tiers},
    )


def _notes(notes: dict[str, Any]) -> str:
    """Facts an attack gave, as text."""
    return "; ".join(f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in notes.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(v)}" for key, v in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
