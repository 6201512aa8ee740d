"""Charts as inline SVG: the cost curve of one finding, and the exposure ladder over tiers.

Everything drawn is a figure of the report. Drawn on white, with the Okabe-Ito palette, and with words beside lines, so
that they read in print and without colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from understudy.records import Finding, Report, TierReport
from understudy.renderers import _words as words

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6b7280"
_THIN = ("#56B4E9", "#CC79A7", "#8c8c00", "#999999")
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "understudy",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
}


def cost_curve(f: Finding, tier: TierReport, narrow: bool) -> str:
    """Fidelity against queries, with time and money above; floor, threshold, ceiling, allowances, and the unknown."""
    figure, axes = _canvas((4.1, 4.4) if narrow else (8.6, 4.3))
    queries = [p.queries for p in f.curve]
    budget, allowance = f.threat_model.budget, f.threat_model.allowance
    left = max(min([*queries, budget]) / 2, 0.8)
    right = 2.2 * max(budget, f.threat_model.allowance_party or budget)
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.axvspan(budget, right, facecolor="#e5e7eb", hatch="//", edgecolor="#ffffff", linewidth=0, zorder=0)
    axes.text(budget * 1.06, 0.03, "unknown:\nnot tested", transform=axes.get_xaxis_transform(), color=GREY, size=8)
    if queries:
        ends = [*queries, budget]
        for name, alpha in (("low", 0.0), ("high", 0.0)):
            axes.plot(queries, [getattr(p, name) for p in f.curve], color=BLUE, alpha=alpha)
        axes.fill_between(
            queries, [p.low for p in f.curve], [p.high for p in f.curve], color=BLUE, alpha=0.18, step="post", lw=0
        )
        axes.step(queries, [p.value for p in f.curve], where="post", color=BLUE, lw=2.2, label=f"{f.attack} (95 %)")
        axes.plot(ends[-2:], [f.curve[-1].value] * 2, color=BLUE, lw=1.2, ls=":")
        axes.plot(queries[-1:], [f.curve[-1].value], "o", color=BLUE, ms=4)
    for line, colour in zip([s for s in f.suite if s.queries and s.attack != f.attack], _THIN, strict=False):
        axes.plot(line.queries, line.values, color=colour, lw=1, marker=".", ms=3, label=line.attack)
    _levels(axes, f)
    for value, text in ((allowance, "1 account"), (f.threat_model.allowance_party, f"{tier.accounts} accounts")):
        if value is not None and not (text != "1 account" and tier.accounts == 1):
            axes.axvline(value, color=ORANGE, lw=1.2, ls="--")
            axes.text(
                value,
                0.30,
                f" allowance, {text}",
                transform=axes.get_xaxis_transform(),
                rotation=90,
                size=7.5,
                color="#8a5f00",
                ha="right",
                va="bottom",
            )
    axes.set_xlabel("queries (log scale)")
    axes.set_ylabel(f.metric)
    axes.legend(loc="center left", frameon=False, fontsize=7.5)
    _plain_ticks(axes)
    _above(axes, f, tier, 2 if narrow else 5)
    return _svg(figure, f"Cost curve of tier {tier.tier}: {f.metric} against queries. {tier.headline}")


def _levels(axes: Any, f: Finding) -> None:
    """Floor, threshold and ceiling as labelled horizontal lines, and the limits of the vertical axis."""
    shown = [p.value for p in f.curve] + [p.low for p in f.curve] + [f.threshold]
    for measured, name, colour in ((f.floor, "floor, no query", GREY), (f.ceiling, "ceiling, owner's recipe", GREEN)):
        if measured is not None:
            shown.append(measured.value)
            axes.axhline(measured.value, color=colour, lw=1.2, ls="-.")
            axes.text(
                0.01,
                measured.value,
                f"{name} {words.share(measured.value)}",
                transform=axes.get_yaxis_transform(),
                size=7.5,
                color=colour,
                va="bottom",
            )
    axes.axhline(f.threshold, color=RED, lw=1.4)
    axes.text(
        0.01,
        f.threshold,
        f"owner's threshold {f.threshold:g}",
        transform=axes.get_yaxis_transform(),
        size=7.5,
        color=RED,
        va="top",
    )
    low, high = min(shown), max([*shown, *(p.high for p in f.curve)])
    room = 0.08 * max(high - low, 1e-3)
    axes.set_ylim(low - room, high + room)


def _above(axes: Any, f: Finding, tier: TierReport, most: int) -> None:
    """Time and money of some points of the curve, over the top of the chart."""
    told = [p for p in f.curve if p.days_one is not None or p.money is not None]
    if not told:
        return
    step = max(1, -(-len(told) // most))
    some = told[::-1][::step][::-1]
    top = axes.secondary_xaxis("top")
    top.set_ticks([p.queries for p in some])
    top.set_ticks([], minor=True)
    top.set_xticklabels(
        [f"{words.duration(p.days_one)}\n{words.money(p.money, tier.currency)}" for p in some], fontsize=7.5
    )
    top.tick_params(axis="x", which="minor", length=0)


def ladder(report: Report, narrow: bool) -> str:
    """Queries to the threshold per tier, on one axis: which signal is worth removing."""
    by_id = {f.id: f for f in report.findings}
    rows = [(tier, by_id[tier.findings[0]]) for tier in report.tiers]
    figure, axes = _canvas((4.1, 0.8 * len(rows) + 1.3) if narrow else (8.6, 0.62 * len(rows) + 1.2))
    axes.set_xscale("log")
    for y, (_, f) in enumerate(reversed(rows)):
        q, budget = f.queries, f.threat_model.budget
        if q.estimate is None:
            axes.annotate("", (budget * 2.2, y), (budget, y), arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1.6})
            axes.plot([budget], [y], "|", color=GREY, ms=12)
            axes.text(
                budget, y + 0.16, f"> {words.count(budget)} {f.outcome.value.replace('-', ' ')}", size=8, color=GREY
            )
        else:
            high = q.high if q.high is not None else budget
            axes.plot([q.low, high], [y, y], color=BLUE, lw=2.2, ls="-")
            axes.plot([q.estimate], [y], "o", color=BLUE, ms=7)
            axes.text(q.estimate, y + 0.16, words.count(q.estimate), size=8, ha="center")
            if q.high is None:
                axes.annotate("", (budget * 1.6, y), (budget, y), arrowprops={"arrowstyle": "->", "color": BLUE})
    labels = [f"{tier.tier}\n{tier.exposure}" if not narrow else tier.tier for tier, _ in reversed(rows)]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.35)
    axes.set_xlabel(f"queries to {rows[0][1].metric} {rows[0][1].threshold:g} (log scale)")
    _plain_ticks(axes)
    axes.grid(axis="x", color="#e5e7eb")
    return _svg(figure, "Exposure ladder: queries to the threshold per tier")


def _plain_ticks(axes: Any) -> None:
    """Query counts written out, at whole powers of ten and a few steps between."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _canvas(size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.add_subplot()


def _svg(figure: Any, title: str) -> str:
    """The figure as an accessible, scalable, reproducible SVG element."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"\1\2", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{_attribute(title)}" ', 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def unique(svgs: Sequence[str]) -> list[str]:
    """The same drawings with ids that differ, so that several fit in one page."""
    return [re.sub(r'(id="|url\(#|href="#)', rf"\g<1>c{i}-", svg) for i, svg in enumerate(svgs)]
