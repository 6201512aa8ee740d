"""Charts as inline SVG: the cost curve of one finding, and the exposure ladder over tiers.

Everything drawn is a figure of the report; only positions are worked out here. Each chart comes in a wide and a narrow
form, so that its words stay readable on a phone. Lines differ in dash and are named beside it, so that the charts read
in print and without colour.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from understudy.records import Cost, Finding, Report, TierReport
from understudy.renderers import _svg as svg
from understudy.renderers import _words as words
from understudy.renderers._svg import INK

_THIN = ((INK["thin1"], (0, ())), (INK["thin2"], (0, (5, 1))), (INK["thin3"], (0, (2, 1))), (INK["thin4"], (0, (1, 1))))
_SMALL = 8.5
_GROUND: dict[str, Any] = {
    "facecolor": INK["card"],
    "alpha": 0.85,
    "edgecolor": "none",
    "pad": 1,
}  # under words on lines


def cost_curve(f: Finding, tier: TierReport, narrow: bool) -> str:
    """Closeness against queries, with time and money above; floor, threshold, ceiling, allowances, and the unknown."""
    with svg.style():
        rows = 5 + len({line.attack for line in f.suite if line.queries})
        figure, axes = svg.canvas(*((3.55, 3.6 + 0.175 * rows) if narrow else (8.0, 3.5 + 0.18 * math.ceil(rows / 3))))
        budget = f.threat_model.budget
        left = max(min([p.queries for p in f.curve] + [budget]) / 2.5, 0.8)
        known = max(budget, f.threat_model.allowance or 0, f.threat_model.allowance_party or 0)
        right = known * (known / left) ** 0.14
        svg.log_ticks(axes, left, right, 4 if narrow else 9)
        _limits(axes, f)
        key = [*_curve(axes, f, left), *_suite(axes, f), *_levels(axes, f, narrow)]
        key += _allowances(axes, f)
        axes.axvspan(budget, right, facecolor=INK["unknown"], hatch="//", edgecolor=INK["card"], linewidth=0, zorder=0)
        _upright(axes, math.sqrt(known * right), 0.5, "unknown: not tested", INK["soft"], "center")
        axes.set_xlabel("queries (log scale)")
        axes.set_ylabel(f.metric + ("" if f.higher_is_closer else " (lower = closer copy)"))
        _above(axes, f, tier, left, right, narrow)
        _key(figure, key, 1 if narrow else 3)
        return svg.save(figure, f"Cost curve, tier {tier.tier}: {f.metric} against queries. {tier.headline}")


def _key(figure: Any, key: Sequence[tuple[Any, str]], columns: int) -> None:
    """What each line is, under the axes, in as many columns as fit."""
    handles, texts = [handle for handle, _ in key], [_short(text, 52) for _, text in key]
    for ncols in range(columns, 0, -1):
        legend = figure.legend(
            handles,
            texts,
            loc="outside lower left",
            ncols=ncols,
            columnspacing=1.2,
            handlelength=2.2,
            borderaxespad=0.2,
        )
        if ncols == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def ladder(report: Report, narrow: bool) -> str:
    """What a copy costs per tier on one axis of queries: a dot with its interval, or an arrow from what was tested."""
    by_id = {f.id: f for f in report.findings}
    rows = [(tier, by_id[tier.findings[0]]) for tier in report.tiers]
    with svg.style():
        figure, axes = svg.canvas(*((3.55, 0.86 * len(rows) + 1.2) if narrow else (8.0, 0.66 * len(rows) + 1.1)))
        ends = [q for _, f in rows for q in (f.queries.low, f.queries.high, f.threat_model.budget) if q is not None]
        left, right = max(min(ends) / 2.5, 0.8), max(ends) * 2.5
        svg.log_ticks(axes, left, right, 4 if narrow else 9)
        axes.grid(axis="x", color=INK["line"], lw=0.8)
        for y, (tier, f) in enumerate(reversed(rows)):
            name = f"{tier.tier}: {'' if narrow else 'receives '}{tier.exposure}" + (
                f" ({f.goal})" if len({g.goal for _, g in rows}) > 1 else ""
            )
            axes.text(
                0.0,
                y + 0.36,
                _short(name, 54 if narrow else 120),
                transform=axes.get_yaxis_transform(),
                size=_SMALL,
                bbox=_GROUND,
            )
            _rung(axes, f, y, right)
            _told(axes, f, tier, y, narrow)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.5, len(rows) - 0.4)
        axes.set_xlabel("queries to the owner's threshold (log scale)")
        told = "; ".join(f"{tier.tier}: {_reach(f)}" for tier, f in rows)
        return svg.save(figure, f"Exposure ladder, queries to the threshold per tier. {told}")


def _rung(axes: Any, f: Finding, y: float, right: float) -> None:
    """One tier of the ladder."""
    q, budget = f.queries, f.threat_model.budget
    ground = {"facecolor": INK["unknown"], "hatch": "//", "edgecolor": INK["card"], "linewidth": 0, "zorder": 0}
    axes.fill_between([budget, right], y - 0.17, y + 0.17, **ground)
    colour = INK["soft"] if q.estimate is None else INK["blue"]
    if q.high is None:  # censored: the far end lies beyond what was tested
        start = budget if q.low is None else q.low
        axes.plot([start, budget], [y, y], color=colour, lw=2, ls=(0, (3, 2)))
        arrow = {"arrowstyle": "->", "color": colour, "lw": 2, "linestyle": (0, (3, 2)), "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (math.sqrt(budget * right), y), (budget, y), arrowprops=arrow)
        axes.plot([budget], [y], "|", color=colour, ms=11, mew=2)
    else:
        axes.plot([q.low, q.high], [y, y], color=colour, lw=3, solid_capstyle="butt")
        axes.plot([q.low, q.high], [y, y], "|", color=colour, ms=8, mew=2)
    if q.estimate is not None:
        axes.plot([q.estimate], [y], "o", color=colour, ms=7)


def _told(axes: Any, f: Finding, tier: TierReport, y: float, narrow: bool) -> None:
    """The figures of one rung, under its dot: queries with their range, time and money."""
    at, cost = f.queries.estimate, []
    if at is not None:
        cost += [words.figure_time(f)[0]] if f.days_one is not None else []
        cost += [words.figure_money(f, tier.currency)[0]] if f.money is not None else []
    at = f.threat_model.budget if at is None else at
    text = (_reach(f) + ("\n" if narrow and cost else ", " if cost else "")) + ", ".join(cost)
    place = {"textcoords": "offset points", "size": _SMALL, "va": "top", "ha": _side(axes, at)}
    axes.annotate(text, (at, y), (0, -7), bbox=_GROUND, **place)


def _side(axes: Any, at: float) -> str:
    """Where to hang a text on a point so that it stays within the axes."""
    left, right = axes.get_xlim()
    place = math.log(max(at, left) / left) / math.log(right / left)
    return "left" if place < 0.3 else "right" if place > 0.7 else "center"


def _reach(f: Finding) -> str:
    """The figure of one rung in words."""
    if f.queries.estimate is None:
        return f"> {words.count(f.threat_model.budget)} queries: {words.OUTCOME[f.outcome]}"
    count, *between = words.ranged(f.queries, words.count).split(" ", 1)
    return " ".join([count, "queries", *between])


def _limits(axes: Any, f: Finding) -> None:
    """The vertical axis: everything drawn is inside, with a little room."""
    shown = [f.threshold, *(v for p in f.curve for v in (p.value, p.low, p.high))]
    shown += [m.value for m in (f.floor, f.ceiling) if m is not None]
    shown += [v for line in f.suite for v in line.values]
    room = 0.07 * max(max(shown) - min(shown), 1e-3)
    axes.set_ylim(min(shown) - room, max(shown) + room)


def _curve(axes: Any, f: Finding, left: float) -> list[tuple[Any, str]]:
    """The mean of the repetitions with its interval: from the floor, flat after the last better copy."""
    if not f.curve:
        axes.text(0.5, 0.5, "no attack made a copy", transform=axes.transAxes, ha="center", color=INK["soft"])
        return []
    last, budget = f.curve[-1], f.threat_model.budget
    at = [p.queries for p in f.curve] + [budget]
    low, high = ([getattr(p, name) for p in (*f.curve, last)] for name in ("low", "high"))
    axes.fill_between(at, low, high, color=INK["blue"], alpha=0.18, step="post", lw=0)
    axes.vlines(at[:-1], low[:-1], high[:-1], color=INK["blue"], lw=1.2, alpha=0.6)
    start = [] if f.floor is None else [(left, f.floor.value)]
    steps = [*start, *((p.queries, p.value) for p in f.curve)]
    (line,) = axes.step([q for q, _ in steps], [v for _, v in steps], where="post", color=INK["blue"], lw=2.2)
    axes.plot([last.queries, budget], [last.value] * 2, color=INK["blue"], lw=1.5, ls=(0, (1, 1.5)))
    axes.plot(at[:-1], [p.value for p in f.curve], "o", color=INK["blue"], ms=4.5)
    return [(line, f"{f.attack}: mean of {len(f.seeds)} repetitions, 95 % band")]


def _suite(axes: Any, f: Finding) -> list[tuple[Any, str]]:
    """A thin line for each attack that made a copy."""
    key = []
    drawn = [line for line in f.suite if line.queries]
    for line, (colour, dash), marker in zip(drawn, cycle(_THIN), cycle("sv^Dx"), strict=False):
        (handle,) = axes.step(
            line.queries, line.values, where="post", color=colour, lw=1.1, ls=dash, marker=marker, ms=3.5, mew=0.8
        )
        key.append((handle, f"{line.attack}: one repetition"))
    return key


def _levels(axes: Any, f: Finding, narrow: bool) -> list[tuple[Any, str]]:
    """Threshold, ceiling and floor as horizontal lines, named at the right edge."""
    from matplotlib.lines import Line2D

    floor, ceiling = (None if m is None else m.value for m in (f.floor, f.ceiling))
    found = [
        ("threshold", f.threshold, "owner's threshold", INK["red"], "-"),
        (
            "ceiling",
            ceiling,
            "ceiling, recipe retrained",
            INK["green"],
            (0, (6, 1.5, 1, 1.5)),
        ),
        ("floor", floor, "floor, without a query", INK["soft"], (0, (4, 2))),
    ]
    key: list[tuple[Any, str]] = []
    marks: list[tuple[float, str, str]] = []
    for name, value, text, colour, dash in found:
        if value is None:
            key.append((Line2D([], [], color="none"), f"{name}: not measured"))
            continue
        shown = f"{value:g}" if name == "threshold" else words.share(value)
        key.append((axes.axhline(value, color=colour, lw=1.3, ls=dash), f"{text}: {shown}"))
        marks.append((value, name if narrow else f"{name} {shown}", colour))
    low, high = axes.get_ylim()
    marks.sort()
    places = _apart([(value - low) / (high - low) for value, _, _ in marks], 0.065)
    for (value, text, colour), place in zip(marks, places, strict=True):
        true = (value - low) / (high - low)
        axes.plot([1, 1.015], [true, place], transform=axes.transAxes, color=colour, lw=0.8, clip_on=False)
        axes.text(1.02, place, text, transform=axes.transAxes, va="center", size=_SMALL, color=colour)
    return key


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Sorted places moved up, then down, until neighbours are `gap` apart and inside 0..1 (positions, not figures)."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    ceiling = 1.0
    for i in range(len(moved) - 1, -1, -1):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def _allowances(axes: Any, f: Finding) -> list[tuple[Any, str]]:
    """What one account and one party may ask within the review window."""
    from matplotlib.lines import Line2D

    model = f.threat_model
    if model.allowance is None:
        return [(Line2D([], [], color="none"), "allowance: none is declared")]
    lines: list[tuple[int, str, tuple[float, tuple[float, ...]]]] = [(model.allowance, "one account", (0, (5, 2)))]
    if model.allowance_party is not None and model.accounts > 1:
        lines.append((model.allowance_party, f"party of {model.accounts}", (0, (1.5, 1.5))))
    key = []
    for value, who, dash in lines:
        handle = axes.axvline(value, color=INK["amber"], lw=1.4, ls=dash)
        _upright(axes, value, 0.03, f"allowance, {who}", INK["amber"], "bottom")
        key.append((handle, f"allowance, {who}: {words.count(value)}"))
    return key


def _upright(axes: Any, x: float, y: float, text: str, colour: str, anchor: str) -> None:
    """A vertical text on its own ground, left of a vertical line or (centred) on a region."""
    axes.annotate(
        text,
        (x, y),
        (0, 0) if anchor == "center" else (-3, 0),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        rotation=90,
        size=_SMALL,
        color=colour,
        ha="center" if anchor == "center" else "right",
        va=anchor,
        bbox=_GROUND,
    )


def _above(axes: Any, f: Finding, tier: TierReport, left: float, right: float, narrow: bool) -> None:
    """Time and money as further axes: the threshold's point before all others, then round numbers of queries."""
    # a tier without an allowance has no time, one without a price no money: then there is no such axis
    reached = [p for p in f.curve if p.queries == f.queries.estimate]
    costs = [*reached, *(c for c in tier.scale if left <= c.queries <= right)]
    scales: list[tuple[str, list[Cost], Callable[[Cost], str]]] = [
        (
            "time" if narrow else "time, one account",
            [p for p in costs if p.days_one is not None],
            lambda p: words.duration(p.days_one),
        ),
        ("money", [p for p in costs if p.money is not None], lambda p: words.money(p.money, tier.currency)),
    ]
    height = 0
    for name, points, show in scales:
        some = _spaced(points, f.queries.estimate, math.log(right / left) * (0.3 if narrow else 0.12))
        if some:
            top = axes.secondary_xaxis("top")
            top.spines["top"].set_visible(True)
            top.spines["top"].set_position(("outward", height))
            top.set_xticks([p.queries for p in some], [show(p) for p in some])
            top.set_xticks([], minor=True)
            top.tick_params(labelsize=_SMALL, length=3, pad=2)
            axes.annotate(
                name,
                (1, 1),
                (6, height + 9),
                xycoords="axes fraction",
                textcoords="offset points",
                size=_SMALL,
                color=INK["soft"],
                va="center",
            )
            height += 24


def _spaced(points: Sequence[Cost], first: float | None, gap: float) -> list[Cost]:
    """Points to label: the threshold's, the last, the first, then others that leave `gap` (in log queries) free."""
    order = sorted(points, key=lambda p: (p.queries != first, p is not points[-1], p is not points[0]))
    kept: list[Cost] = []
    for p in order:
        if p.queries > 0 and all(abs(math.log(p.queries / k.queries)) >= gap for k in kept):
            kept.append(p)
    return sorted(kept, key=lambda p: p.queries)


def _short(text: str, most: int) -> str:
    return textwrap.shorten(text, most, placeholder=" ...") or text[:most]
