"""The report as one HTML file: offline, no script, three doors (board, security reviewer, engineer)."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from understudy.records import Report
from understudy.renderers import _words as words
from understudy.renderers import charts


def render(report: Report) -> str:
    """The page. Everything that comes from a manifest or a target is escaped."""
    env = Environment(
        loader=PackageLoader("understudy.renderers", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals["words"] = words
    env.filters["notes"] = _notes
    by_id = {f.id: f for f in report.findings}
    tiers = {t.tier: t for t in report.tiers}
    hero = by_id[report.hero]
    drawn = [charts.cost_curve(hero, tiers[hero.tier], narrow) for narrow in (False, True)]
    drawn += [charts.ladder(report, narrow) for narrow in (False, True)]
    for tier in report.tiers:
        drawn += [charts.cost_curve(by_id[tier.findings[0]], tier, narrow) for narrow in (False, True)]
    pairs = [Markup(svg) for svg in charts.unique(drawn)]
    return env.get_template("report.html.j2").render(
        r=report,
        by_id=by_id,
        hero=hero,
        hero_tier=tiers[hero.tier],
        hero_chart=pairs[0:2],
        ladder_chart=pairs[2:4],
        tier_charts={t.tier: pairs[4 + 2 * i : 6 + 2 * i] for i, t in enumerate(report.tiers)},
        derivations={d.finding: d for d in report.derivations},
    )


def _notes(notes: dict[str, Any]) -> str:
    """Facts an attack gave, as text."""
    return "; ".join(f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in notes.items())


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
