"""Canvas and ink: matplotlib figures as inline SVG that take their colours from the page and repeat byte for byte."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Each drawn colour names a variable of the page, so one drawing serves light, dark and print. The values are the light
# scheme's: hues of the Okabe-Ito palette, darkened until text in them reads on white (contrast 4.5 or more).
INK = {
    "ink": "#1b2430",
    "soft": "#5b6675",
    "line": "#d9dee5",
    "card": "#fefefe",
    "unknown": "#e6e9ee",
    "blue": "#0072b2",
    "red": "#b34700",
    "green": "#00734f",
    "amber": "#8a5f00",
    "thin1": "#8f4a7a",
    "thin2": "#3d7ea6",
    "thin3": "#6b6b00",
    "thin4": "#7a7a7a",
}

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "understudy",
    "text.parse_math": False,
    "text.color": INK["ink"],
    "axes.labelcolor": INK["ink"],
    "axes.edgecolor": INK["soft"],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": INK["soft"],
    "ytick.color": INK["soft"],
    "xtick.labelcolor": INK["ink"],
    "ytick.labelcolor": INK["ink"],
    "figure.constrained_layout.h_pad": 0.06,
    "hatch.color": INK["card"],
    "hatch.linewidth": 1.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@contextmanager
def style() -> Iterator[None]:
    """The look of every chart; a figure is made, filled and saved within it."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # a name may hold letters that the measuring font lacks; the reader's own font draws them
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes, in inches; called within `style`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def log_ticks(axes: Any, left: float, right: float, most: int) -> None:
    """A log axis of queries with whole numbers a person reads, at most about `most` of them."""
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    decades = range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
    ticks = [m * 10**d for d in decades for m in (1, 2, 5) if d >= 0 and left <= m * 10**d <= right]
    if len(ticks) > most:
        ticks = [t for t in ticks if str(t)[0] == "1"]
        ticks = ticks[:: math.ceil(len(ticks) / most)]
    axes.set_xticks(ticks, [f"{t:,}" if t < 1e6 else f"{t / 1e6:,.0f} million" for t in ticks])
    axes.set_xticks([], minor=True)


def save(figure: Any, title: str) -> str:
    """The figure as one accessible, scalable `<svg>` element: no size, no date, no metadata, colours as variables."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = re.sub(r"<!--.*?-->\n?", "", out.getvalue(), flags=re.DOTALL)
    head, _, body = text[text.index("<svg") :].partition(">")
    view = re.search(r'viewBox="[^"]*"', head)
    for name, colour in INK.items():
        body = body.replace(colour, f"var(--{name})")
    label = html.escape(title)
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg role="img" aria-label="{label}" {view[0] if view else ""} {space}><title>{label}</title>{body}'


def unique(svgs: Sequence[str]) -> list[str]:
    """The same drawings with ids that differ, so that several fit in one page."""
    return [re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>c{i}-", svg) for i, svg in enumerate(svgs)]
