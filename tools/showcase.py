"""Write the README's table and picture anew, from real audits of the demo's endpoints. Needs chromium."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

import understudy as us
from understudy.records import Report
from understudy.renderers import html, terminal

ROOT = Path(__file__).resolve().parent.parent
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "images" / "report.png"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--blink-settings=preferredColorScheme=1",
]


def table(report: Report) -> str:
    """What a terminal of 100 columns shows, down to the table."""
    out = io.StringIO()
    terminal.render(report, Console(file=out, width=100, force_terminal=True, no_color=True))
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    return "\n".join(line.rstrip() for line in text[: text.index("- A single")].splitlines())


def picture(report: Report, folder: Path) -> None:
    """The first page of the report, cut to what is on it, in 64 colours."""
    page = html.render(report)
    first, shot = folder / "first.html", folder / "first.png"
    first.write_text(page[: page.index('<h2 id="tiers">')] + "</main></body></html>", encoding="utf-8")
    program = shutil.which("chromium") or "chromium"
    profile = f"--user-data-dir={folder / 'profile'}"
    size = ("--window-size=1080,2000", "--force-device-scale-factor=1.25", f"--screenshot={shot}")
    subprocess.run([program, *FLAGS, profile, *size, first.as_uri()], check=True, capture_output=True, timeout=120)
    image = Image.open(shot).convert("RGB")
    pixels = np.asarray(image)
    drawn = np.flatnonzero((pixels != pixels[-1, 0]).any(axis=(1, 2)))
    image = image.crop((0, 0, image.width, min(int(drawn[-1]) + 30, image.height)))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(64, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


def main() -> None:
    """Audit, then write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        risk = us.run_audit(ROOT / "examples" / "demo" / "risk_score.yaml", folder / "risk")
        digits = us.run_audit(ROOT / "examples" / "demo" / "digit_reader.yaml", folder / "digits")
        picture(digits, folder)
    text = README.read_text(encoding="utf-8")
    head, mark, rest = text.partition("```text\n")
    README.write_text(head + mark + table(risk) + "\n```" + rest.partition("```")[2], encoding="utf-8")


if __name__ == "__main__":
    main()
