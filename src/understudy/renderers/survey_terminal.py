"""A survey on a terminal: parties by p-value, what they could have learned, and what to rule out."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from understudy.renderers import _survey_words as words
from understudy.renderers.terminal import box
from understudy.survey import Survey, counted


def render(survey: Survey, console: Console) -> None:
    """Print the summary, the parties, what to rule out beside each that is alarmed, gaps and data quality.

    Names from a log are printed as they are: neither markup nor control characters in them do anything.
    """
    _line(console, f"{survey.endpoint} {survey.model_version}: {survey.summary}", "bold")
    numbers = ("accounts", "queries", "p-value")
    columns = [Column("party", overflow="fold"), *(Column(n, justify="right") for n in numbers)]
    table = Table(*columns, "alarm", "could have learned", "loudest detectors", box=box(console))
    for party in survey.parties:
        style = "bold red" if party.alarmed else ""
        cells = [_plain(party.party), f"{party.size:,}", f"{party.queries:,}", words.p(party.p_value)]
        cells += [words.state(party), words.leak(party.leak), words.loudest(party.accounts[0])]
        table.add_row(*(Text(cell, style) for cell in cells))
    console.print(table)
    if survey.unlisted:
        _line(console, f"{survey.unlisted:,} more parties, none of them alarmed.")
    for party in survey.parties:
        if party.alarmed:
            _line(console, f"{_plain(party.party)}: rule out first", "bold")
            for reason in party.benign:
                _line(console, f"- {reason}")
    _line(console, f"The p-values rest on {words.basis(survey)}.")
    for gap in survey.gaps:
        _line(console, f"- {gap}")
    quality = survey.quality
    _line(console, "Data quality (accuses nobody):", "bold")
    _line(console, f"- {words.ranges(survey)}")
    for fault in quality.faults[:5]:
        _line(
            console, f"- {_plain(fault.principal)}: {words.share(fault.out_of_range)} of {fault.queries:,} queries do"
        )
    for excess in quality.excess[:5]:
        much = f"{excess.busiest_day:,} queries on its busiest day, {excess.declared:,} declared"
        _line(console, f"- {_plain(excess.principal)}: {much}")
    for drift in quality.drift:
        _line(
            console,
            f"- {drift.detector}: {words.share(drift.share)} of {drift.accounts:,} accounts are beyond what 10 % of "
            "the calibration's were: traffic has drifted, calibrate anew",
        )
    for title, counts in (("rejected", quality.rejected), ("left out", quality.aside)):
        for reason, count in counts.items():
            _line(console, f"- {counted(count, 'record')} {title}: {reason}")


def _plain(text: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=False)
