"""The report on a terminal: a column a tier, so that the figures to compare stand side by side."""

from __future__ import annotations

from rich.box import ASCII, ROUNDED, Box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from understudy.records import Finding, Outcome, Report, TierReport
from understudy.renderers import _words as words

_STYLE = {Outcome.REACHED: "bold red", Outcome.NOT_REACHED: "", Outcome.NOT_ASSESSED: "bold yellow"}


def render(report: Report, console: Console) -> None:
    """Print the headline figures, the sentences behind them, the gates, and what was not tested.

    The strongest finding of each goal is shown. Names from a manifest are printed as they are: neither markup nor
    control characters in them do anything, and a console that knows ASCII only is sent ASCII only.
    """
    by_id = {f.id: f for f in report.findings}
    rows: list[dict[str, Text]] = []
    for tier in report.tiers:
        strongest: dict[str, Finding] = {}
        for f in (by_id[name] for name in tier.findings):
            strongest.setdefault(f.goal, f)
        rows += [_cells(console, tier, f) for f in strongest.values()]
    _line(console, f"{report.endpoint} {report.model_version}: {report.summary}", "bold")
    side_by_side = max(1, (console.width - 15) // 21)
    for i in range(0, len(rows), side_by_side):
        console.print(_table(console, rows[i : i + side_by_side]))
    for tier in report.tiers:
        _line(console, f"- {tier.headline}")
    for gate in report.gates:
        state = "FIRED" if gate.fired else ("did not fire" if gate.assessed else "NOT ASSESSED")
        _line(console, f"Gate {gate.condition}: {state} - {gate.reason}")
    _line(console, "What was not tested:", "bold")
    for gap in report.not_tested:
        _line(console, f"- {gap}")


def _cells(console: Console, tier: TierReport, f: Finding) -> dict[str, Text]:
    """The figures of one finding, by name."""
    at = "" if f.best_queries is None else f", {words.count(f.best_queries)} queries"
    queries = words.ranged(f.queries, words.count)
    queries += "" if f.queries.estimate is not None else f" in {words.count(f.threat_model.budget)}"
    party = f"{words.ranged(f.days_party, words.duration, 'no allowance')}, {f.threat_model.accounts} accounts"
    cells = {
        "tier": tier.tier,
        "receives": tier.exposure,
        "goal": f"{f.metric} {'>=' if f.higher_is_closer else '<='} {f.threshold:g}",
        "verdict": words.OUTCOME[f.outcome].upper(),
        "queries": queries,
        "time": words.ranged(f.days_one, words.duration, "no allowance"),
        "as a party": party if f.threat_model.accounts > 1 else "one account only",
        "money": words.ranged_money(f.money, tier.currency),
        "closest": words.interval(f.best) + at,
        "noticed": words.noticed(f),
        "floor": "not measured" if f.floor is None else words.share(f.floor.value),
        "ceiling": "not measured" if f.ceiling is None else words.share(f.ceiling.value),
    }
    shown = {name: Text(_printable(console, cell)) for name, cell in cells.items()}
    shown["verdict"].stylize(_STYLE[f.outcome])
    return shown


def _table(console: Console, rows: list[dict[str, Text]]) -> Table:
    """A column a finding."""
    first, *others = rows[0]
    table = Table(first, *(Column(cells[first], overflow="fold") for cells in rows), box=box(console))
    for name in others:
        table.add_row(name, *(cells[name] for cells in rows))
    return table


def box(console: Console) -> Box:
    """Lines for a table: letters only where nobody looks at a screen."""
    return ASCII if not console.is_terminal or console.options.ascii_only else ROUNDED


def _line(console: Console, text: str, style: str = "") -> None:
    """One paragraph; where nobody reads along (a pipe, a log) it is one line."""
    console.print(Text(_printable(console, text)), style=style or None, soft_wrap=not console.is_terminal)


def _printable(console: Console, text: str) -> str:
    """Without control characters, so that a name cannot steer the terminal; ASCII where that is all there is."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text.encode("ascii", "backslashreplace").decode() if console.options.ascii_only else text
