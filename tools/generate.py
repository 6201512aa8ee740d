"""Write what is generated: JSON Schemas (schemas/) and reference pages (docs/reference/). `--check` only compares."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

from understudy import alerts, manifest, records, registry, survey

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "attacks": "Attacks",
    "defences": "Defences",
    "detectors": "Detectors",
    "learners": "Learners",
    "metrics": "Metrics",
}
MORE = {"targets": "Targets", "protocols": "Protocols"}


def pages() -> dict[Path, str]:
    """Every generated file and its text."""
    schemas = {
        "alert": alerts.Alert.model_json_schema(),
        "survey": survey.Survey.model_json_schema(),
        "manifest": manifest.schema(),
        "run": records.Run.model_json_schema(),
        "finding": records.Finding.model_json_schema(),
        "report": records.Report.model_json_schema(),
    }
    made = {ROOT / "schemas" / f"{name}.json": json.dumps(body, indent=1) + "\n" for name, body in schemas.items()}
    for kind, title in {**KINDS, **MORE}.items():
        made[ROOT / "docs" / "reference" / f"{kind}.md"] = _page(kind, title)
    return made


def _page(kind: str, title: str) -> str:
    parts = [f"# {title}\n", "Generated from the docstrings by `make generate`; do not edit.\n"]
    for name in registry.names(kind):
        plugin = registry.load(kind, name)
        parts.append(f"## {name}\n\n{inspect.getdoc(plugin)}\n")
        options = [f"`{name}`" for name in registry.options_of(plugin)]
        parts.append(f"Options: {', '.join(options) or 'none'}.\n")
    return "\n".join(parts)


def main() -> int:
    """Write the pages, or with --check list those that differ."""
    stale = []
    for path, text in pages().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"out of date, run make generate: {', '.join(stale)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
