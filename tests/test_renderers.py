"""Renderings: they show what the report says, say no more than it, escape everything and repeat byte for byte."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from sample_report import report
from understudy.records import Measured, Outcome, Range, Report
from understudy.renderers import _svg, charts, html, terminal
from understudy.renderers import _words as words

NASTY = "<script>alert(1)</script> & $x_1$ \"q\" 'p' --> {{ 7*7 }}"


class Page(HTMLParser):
    """What a reader gets: ids, links, visible text, and everything that could ask the network for something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "xlink:href") and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
                self.loads.append((tag, value or ""))

    def handle_data(self, data: str) -> None:
        if self.get_starttag_text() is None or not (self.get_starttag_text() or "").startswith("<style"):
            self.text.append(data.strip())

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def sample() -> Report:
    return report()


@pytest.fixture(scope="module")
def page(sample: Report) -> str:
    return html.render(sample)


def on_terminal(r: Report, **options: Any) -> str:
    out = io.StringIO()
    terminal.render(r, Console(file=out, **options))
    return out.getvalue()


def changed(r: Report, **fields: Any) -> Report:
    return Report.model_validate(r.model_dump() | fields)


def test_the_page_says_what_the_report_says(sample: Report, page: str) -> None:
    said = Page(page).words
    for tier in sample.tiers:
        assert tier.headline in said
        assert tier.who in said
    for line in (*sample.not_tested, *sample.glossary.values(), *(s for d in sample.derivations for s in d.steps)):
        assert line in said
    for figure in ("1,310", "range 820 to 2,460", "USD 6.55", "2.6 days", "range 39.4 hours to 4.9 days", "> 0.9999"):
        assert figure in said
    assert sample.command in said
    assert "ceiling: not measured" in said
    assert "equation-solving was exact first" in said
    assert "untested against an informed attacker" in said
    assert "public/auto/1, batch 4: half an answer" in said


def test_the_page_says_what_the_monitor_would_have_noticed_and_where_nobody_looked(page: str) -> None:
    for text in ("3 of 3 (29 to 100 %)", "4 (12 % of the attack)", "0 of 3 (0 to 71 %)", "1,080 benign accounts"):
        assert text in page
    assert page.count("Not assessed: this version did not look.") == 3


def test_what_was_not_concluded_is_not_dressed_up_as_a_bound(sample: Report) -> None:
    by_id = {f.id: f for f in sample.findings}
    assert words.figure_queries(by_id["c3"]) == ("unknown", "not assessed; 2,000 were offered")
    assert words.figure_queries(by_id["c4"]) == ("> 15,000", "not demonstrated within what was tested")
    assert words.figure_time(by_id["c3"]) == ("unknown", "not assessed")
    assert words.figure_money(by_id["c3"], None) == ("unknown", "no price is given")
    assert words.figure_queries(by_id["a1"]) == ("33", "")
    assert words.figure_time(by_id["b2"]) == ("2.6 days", "range 39.4 hours to 4.9 days; 21 hours with 3 accounts")


def test_no_rendering_promises_anything(sample: Report, page: str) -> None:
    claims = re.compile(
        r"\b(secure|resistant|safe|unbreakable|guarantee\w*|impossible|protected|passed)\b", re.IGNORECASE
    )
    for text in (Page(page).words, on_terminal(sample, width=200), on_terminal(sample, width=80)):
        assert not claims.findall(text)


def test_every_headline_figure_links_to_its_derivation_and_no_link_dangles(page: str) -> None:
    read = Page(page)
    assert len(read.ids) == len(set(read.ids))
    assert {link.removeprefix("#") for link in read.links} <= set(read.ids)
    assert all(link.startswith("#") for link in read.links)
    for figure, anchor in (
        ("33", "d-1"),
        ("USD 0.66", "d-1"),
        ("1,310", "d-2"),
        ("2.6 days", "d-2"),
        ("unknown", "f-c3"),
    ):
        assert f'<a href="#{anchor}">{figure}</a>' in page


def test_the_page_asks_nobody_for_anything(page: str) -> None:
    read = Page(page)
    assert read.tags.isdisjoint({"script", "link", "iframe", "img", "object", "embed", "form", "base"})
    assert all(tag == "use" and value.startswith("#") for tag, value in read.loads)
    assert not re.findall(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_the_same_report_gives_the_same_bytes(sample: Report, page: str) -> None:
    code = "import sample_report as s; from understudy.renderers import html; print(html.render(s.report()), end='')"
    again = subprocess.run(
        [sys.executable, "-c", code], cwd=__file__.rpartition("/")[0], capture_output=True, check=True
    )
    assert again.stdout.decode() == page
    assert len(page) < 1_500_000


def test_names_are_text_wherever_they_appear() -> None:
    evil = report(NASTY, NASTY)
    read = Page(html.render(evil))
    assert "script" not in read.tags
    assert f"How easily can {NASTY} be copied?" in read.words
    assert f"{NASTY}: anybody with an e-mail address" in read.words
    assert "49" not in re.findall(r"\{\{[^}]*\}\}|\b49\b", read.words)


def test_a_name_in_a_drawing_is_drawn_as_it_is() -> None:
    drawn = ET.fromstring(charts.ladder(report(tier="$x_1$ & <b>"), narrow=False))
    assert any("$x_1$ & <b>: receives" in "".join(e.itertext()) for e in drawn.iter("{http://www.w3.org/2000/svg}text"))


def test_a_name_cannot_steer_the_terminal() -> None:
    out = on_terminal(report("a\x1b]0;owned\x07[red]b[/red]\n:smile:", "[bold]tier[/bold]"), width=200)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[red]b[/red]?:smile:" in out
    assert "[bold]tier" in out


def test_a_console_that_knows_ascii_is_sent_ascii() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    terminal.render(report("café", "日本"), Console(file=out, width=90, force_terminal=True, no_color=True))
    out.flush()
    assert b"caf\\xe9" in raw.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120, 170])
def test_the_terminal_shows_every_figure_at_every_width(sample: Report, width: int) -> None:
    out = on_terminal(sample, width=width)
    flat = re.sub(r"[\s|+-]+", "", out)
    for figure in ("33", "1,310", "2,460", "0.9991", "0.643", "NOTASSESSED", "COPIED", "notmeasured", "USD6.55"):
        assert figure in flat
    assert out.isascii()
    assert all(len(line) <= width for line in out.splitlines() if line[:1] in "|+")
    assert sample.tiers[1].headline in out  # in a pipe a sentence stays on one line


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", ["a1", "b2", "c3", "c4"])
def test_a_cost_curve_is_an_accessible_drawing_with_words(sample: Report, name: str, narrow: bool) -> None:
    finding = next(f for f in sample.findings if f.id == name)
    tier = next(t for t in sample.tiers if t.tier == finding.tier)
    drawn = ET.fromstring(charts.cost_curve(finding, tier, narrow))
    text = " ".join("".join(e.itertext()) for e in drawn.iter("{http://www.w3.org/2000/svg}text"))
    assert drawn.get("role") == "img"
    assert tier.headline in (drawn.get("aria-label") or "")
    assert drawn.get("width") is None
    for word in ("unknown: not tested", "threshold", "allowance, one account", finding.metric, "95 % band"):
        assert word in text
    assert ("floor: not measured" in text) == (finding.floor is None)
    assert ("ceiling: not measured" in text) == (finding.ceiling is None)
    assert ("USD" in text) == (finding.money is not None)
    for line in finding.suite:
        assert (line.attack in text) == bool(line.queries)


def test_the_ladder_says_what_was_censored(sample: Report) -> None:
    drawn = charts.ladder(sample, narrow=False)
    for text in (
        ">33 queries, ",
        ">1,310 queries (820 to 2,460), 2.6 days, USD 6.55<",
        "&gt; 2,000 queries: not assessed",
    ):
        assert text in drawn


def test_every_colour_of_a_chart_is_given_for_light_and_dark(page: str) -> None:
    used = set(re.findall(r"var\(--(\w+)\)", page))
    light, dark = re.findall(r":root \{(.*?)\}", page)
    assert set(_svg.INK) <= used | {"thin3", "thin4"}
    for scheme in (light, dark):
        assert used <= set(re.findall(r"--(\w+):", scheme))
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}\b", drawings.replace("#000000", ""))


def test_a_report_with_nothing_to_draw_is_still_a_page(sample: Report) -> None:
    """No curve, no price, no allowance, no derivation, one tier: the poorest report an audit can write."""
    f = sample.findings[0].model_dump() | {
        "outcome": Outcome.NOT_ASSESSED,
        "queries": Range(low=None, estimate=None, high=None),
        "money": None,
        "days_one": None,
        "days_party": None,
        "best": None,
        "best_queries": None,
        "curve": [],
        "suite": [],
        "seeds": [],
        "measures": {},
        "floor": None,
        "ceiling": None,
    }
    f["threat_model"] |= {"allowance": None, "allowance_party": None}
    poor = changed(sample, findings=[f], tiers=[sample.tiers[0]], derivations=[], gates=[], assets=[], command="")
    said = Page(html.render(poor)).words
    assert "no attack made a copy" in said
    assert "allowance: none is declared" in said
    assert "NOT ASSESSED" in on_terminal(poor, width=100)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1"),
        (0.9999999999999994, "1"),
        (0.99996, "> 0.9999"),
        (0.9998, "0.9998"),
        (0.99896, "0.9990"),
        (0.9504, "0.950"),
        (0.0, "0.000"),
        (0.00004, "4.0e-05"),
        (2.26e-15, "2.3e-15"),
    ],
)
def test_a_share_is_never_rounded_up_to_one_or_down_to_nothing(value: float, shown: str) -> None:
    assert words.share(value) == shown


def test_numbers_read_as_a_person_writes_them() -> None:
    assert words.count(1234567) == "1,234,567"
    assert words.duration(26 / 1440) == "26 minutes"
    assert words.duration(4.2) == "4.2 days"
    assert words.money(1.25, "USD") == "USD 1.25"
    assert words.money(0.004, "USD") == "under USD 0.01"
    assert words.interval(Measured(value=0.9998, low=0.9991, high=0.99999, n=9)) == "0.9998 (0.9991 to > 0.9999)"
    assert words.ranged(Range(low=10, estimate=20, high=None), words.count) == "20 (10 to more than was tested)"


def test_matplotlib_is_imported_by_nothing_but_a_drawing() -> None:
    code = "import sys, understudy.renderers.terminal, understudy.report; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
