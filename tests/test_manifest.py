"""A wrong manifest gives file, line, path, what was found, what is allowed and the nearest valid name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from understudy import manifest
from understudy.errors import ManifestError
from understudy.types import Mixed

DEMO = Path(__file__).parent.parent / "examples" / "demo"
GOOD = (DEMO / "risk_score.yaml").read_text(encoding="utf-8")


def complaint(tmp_path: Path, text: str) -> str:
    path = tmp_path / "endpoint.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        manifest.load(path)
    return str(caught.value)


def line_of(text: str, part: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize("name", ["risk_score.yaml", "digit_reader.yaml"])
def test_the_examples_are_good(name: str) -> None:
    assert manifest.load(DEMO / name).tiers[0].id == "public"


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("  outputs: 2", "  output: 2", ["target.output: unknown field", "did you mean 'outputs'?"]),
        ("commercial: high", "commercial: hihg", ["assets.0.sensitivity.commercial", "'hihg'", "did you mean 'high'?"]),
        ("probabilities: {top_k: 1", "probabilites: {top_k: 1", ["tiers.1.signals", "did you mean 'probabilities'?"]),
        ("threshold: 0.95", "threshold: much", ["goals.0.threshold", "found 'much'"]),
        ("per_minute: 20", "per_minute: -1", ["tiers.0.limits.per_minute", "greater than 0", "found -1"]),
        ("python: models:risk_score", "python: models.risk_score", ["target.python", "found 'models.risk_score'"]),
        ("  - id: standard", "  - id: public", ["tiers: ids must differ; public is given twice"]),
        ("metadata: {id: risk-score, ", "metadata: {", ["metadata.id: is required and missing"]),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, old: str, new: str, wanted: list[str]) -> None:
    text = GOOD.replace(old, new, 1)
    said = complaint(tmp_path, text)
    for part in wanted:
        assert part in said
    if "is given twice" not in said and "missing" not in said:
        assert f"endpoint.yaml:{line_of(text, new.split(':')[0].strip())}:" in said or f":{line_of(text, new)}:" in said


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    said = complaint(tmp_path, GOOD.replace("outputs: 2", "output: 2").replace("threshold: 0.95", "threshold: x"))
    assert len(said.splitlines()) >= 3


def test_a_tier_cannot_grant_what_the_target_does_not_answer(tmp_path: Path) -> None:
    said = complaint(tmp_path, GOOD.replace("      probabilities: {}\n", "      logits: {}\n"))
    assert "tiers.2.signals: grants" in said
    assert "the target only answers probabilities" in said


def test_exactly_one_way_to_reach_the_target(tmp_path: Path) -> None:
    said = complaint(
        tmp_path, GOOD.replace("  python: models:risk_score", "  skops: a.skops\n  python: models:risk_score")
    )
    assert "target: give exactly one of python, skops, xgboost, lightgbm and http" in said


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("- 1", "a manifest is a mapping"),
        ("", "a manifest is a mapping"),
        ("kind: Endpoint\nkind: Endpoint\n", "endpoint.yaml:2: kind is given twice (first on line 1)"),
        ("kind: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_what_is_no_manifest_at_all(tmp_path: Path, text: str, wanted: str) -> None:
    assert wanted in complaint(tmp_path, text)


def test_a_secret_has_no_place_in_a_manifest(tmp_path: Path) -> None:
    http = "  http:\n    url: https://user:pass@host/x\n    protocol: json\n"
    said = complaint(tmp_path, GOOD.replace("  python: models:risk_score\n", http))
    assert "target.http.url" in said


def test_the_schema_accepts_the_examples() -> None:
    import jsonschema

    for name in ("risk_score.yaml", "digit_reader.yaml"):
        jsonschema.validate(yaml.safe_load((DEMO / name).read_text()), json.loads(json.dumps(manifest.schema())))


def test_the_allowance_is_what_every_limit_allows_together() -> None:
    limits = manifest.Limits(per_minute=20, per_day=500)
    assert limits.within(30) == 15_000
    assert manifest.Limits(per_day=500, per_30d=9_000).within(30) == 9_000
    assert manifest.Limits(per_30d=9_000).within(60) == 18_000
    assert manifest.Limits().within(30) is None


def test_a_table_describes_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.yaml"
    columns = "space:\n  integer: [1]\n  categories: {2: 5}\n  missing: [0]\n"
    path.write_text(GOOD.replace("space:\n", columns, 1), encoding="utf-8")
    space = manifest.load(path).space.space()
    assert isinstance(space, Mixed)
    assert (space.integer.sum(), space.missing.sum(), space.categories.sum()) == (1, 1, 5)
    assert (space.low[2], space.high[2]) == (0, 4)
