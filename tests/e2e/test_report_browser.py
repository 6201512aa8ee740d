"""The report in a real browser, as its readers meet it: on a desk, on a phone, in the dark, on paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from sample_report import report
from understudy.renderers import html

pytestmark = pytest.mark.slow

DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--no-pdf-header-footer",
    "--virtual-time-budget=5000",
    "--enable-logging=stderr",
    "--window-size=1600,1200",
]

# Runs outside the report, which allows no script: the report sits in a frame of the wanted width.
PROBE = """<!doctype html><meta charset="utf-8"><iframe id="frame" style="border:0;width:WIDTHpx;height:900px"></iframe>
<pre id="found"></pre><script>
const frame = document.getElementById('frame');
frame.onload = () => {
  const doc = frame.contentDocument, view = frame.contentWindow, root = doc.documentElement;
  const seen = e => e.getClientRects().length > 0;
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const charts = [...doc.querySelectorAll('svg')].filter(seen).map(svg => {
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    return {box: box(svg), label: svg.getAttribute('aria-label'), texts: [...svg.querySelectorAll('text')].map(t => (
      {text: t.textContent, box: box(t), size: parseFloat(view.getComputedStyle(t).fontSize) * scale,
       colour: view.getComputedStyle(t).fill}))};
  });
  const plain = e => ({colour: view.getComputedStyle(e).color, text: e.textContent.slice(0, 40)});
  document.getElementById('found').textContent = JSON.stringify({
    overflow: root.scrollWidth - root.clientWidth, width: root.clientWidth, charts,
    requests: view.performance.getEntriesByType('resource').map(e => e.name),
    ground: view.getComputedStyle(doc.querySelector('.card')).backgroundColor,
    figure: view.getComputedStyle(doc.querySelector('figure')).backgroundColor,
    words: [...doc.querySelectorAll('.card p, .card dt, .card .tag, .card a, .card li')].map(plain),
    text: doc.body.innerText, title: doc.title, links: [...doc.querySelectorAll('.numbers a')].map(
      a => [a.textContent, doc.getElementById(a.hash.slice(1))?.innerText ?? '']),
  });
};
frame.srcdoc = REPORT;
</script>"""

Browser = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """Headless Chromium with a profile of its own."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is not on the PATH; .ci/run installs it (apt-get install chromium)")

    def run(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        profile = tmp_path_factory.mktemp("profile")
        command = [program, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    return run


@pytest.fixture(scope="module")
def page() -> str:
    return html.render(report())


def look(browser: Browser, page: str, folder: Path, width: int, scheme: str = LIGHT) -> dict[str, Any]:
    """What the browser made of the page at `width` pixels."""
    probe = folder / "probe.html"
    held = json.dumps(page).replace("</", "<\\/")
    probe.write_text(PROBE.replace("WIDTH", str(width)).replace("REPORT", held), encoding="utf-8")
    done = browser(probe, "--dump-dom", scheme)
    assert "Content Security Policy" not in done.stderr
    answer = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert answer, "the browser did not show the report"
    found: dict[str, Any] = json.loads(unescape(answer[1]))
    return found


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def overlap(a: list[float], b: list[float]) -> float:
    """The share of the smaller box that the other one covers."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return max(wide, 0) * max(high, 0) / max(min(areas), 1)


def test_the_first_page_is_there_to_read(browser: Browser, page: str, tmp_path: Path) -> None:
    found = look(browser, page, tmp_path, 1280)
    assert found["title"] == "loan-score 3.2.0: extraction audit"
    for tier in report().tiers:
        assert tier.headline in found["text"]
    for text in (
        "What was not tested",
        "Whether anybody would notice: the manifest has no monitor section.",
        "USD 6.55",
        "range 820 to 2,460",
    ):
        assert text in found["text"]
    assert found["requests"] == []
    links = dict(found["links"])
    assert links["33"].startswith("partner: queries to fidelity 0.95")
    assert links["1,310"].startswith("standard: queries to fidelity 0.95")
    assert "under the tier's allowance" in links["unknown"]


@pytest.mark.parametrize("width", [390, 760, 761, 1280])
def test_charts_can_be_read_and_nothing_sticks_out(browser: Browser, page: str, tmp_path: Path, width: int) -> None:
    found = look(browser, page, tmp_path, width)
    assert found["width"] == width
    assert found["overflow"] <= 0
    assert len(found["charts"]) == 4  # one form each of the ladder and three tiers
    for chart in found["charts"]:
        assert chart["label"].startswith(("Cost curve", "Exposure ladder"))
        left, top, right, bottom = chart["box"]
        texts = [t for t in chart["texts"] if t["text"].strip()]
        assert len(texts) > 5
        for t in texts:
            assert t["size"] >= 9.9, t
            assert t["box"][0] >= left - 1 and t["box"][2] <= right + 1, t  # noqa: PT018 - one fact: inside
            assert t["box"][1] >= top - 1 and t["box"][3] <= bottom + 1, t  # noqa: PT018
        pairs = [(a, b) for i, a in enumerate(texts) for b in texts[:i] if overlap(a["box"], b["box"]) > 0.15]
        assert [(a["text"], b["text"]) for a, b in pairs] == []


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_words_stand_out_from_their_ground(browser: Browser, page: str, tmp_path: Path, scheme: str) -> None:
    found = look(browser, page, tmp_path, 1280, scheme)
    assert (luminance(found["ground"]) < 0.2) == (scheme == DARK)
    for word in found["words"]:
        assert contrast(word["colour"], found["ground"]) >= 4.5, word
    for text in (t for chart in found["charts"] for t in chart["texts"]):
        assert contrast(text["colour"], found["figure"]) >= 4.5, text


def test_the_board_gets_one_sheet_of_paper(browser: Browser, page: str, tmp_path: Path) -> None:
    first = tmp_path / "first.html"
    first.write_text(page[: page.index('<h2 id="tiers">')] + "</main></body></html>", encoding="utf-8")
    sheet = tmp_path / "first.pdf"
    browser(first, f"--print-to-pdf={sheet}")
    assert len(re.findall(rb"/Type /Page\b", sheet.read_bytes())) == 1


def test_the_file_opens_by_itself(browser: Browser, page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    picture = tmp_path / "report.png"
    done = browser(file, f"--screenshot={picture}")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 30_000  # a blank page of this size is under 10,000 bytes
    assert "Refused to" not in done.stderr
