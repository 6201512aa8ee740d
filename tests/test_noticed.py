"""An audit says whether the monitor would have noticed: probing is, asking like a customer is not; both are printed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

import portfolio
import understudy as us
from understudy.noticed import WAYS, _mixed, random_steps, ways_of
from understudy.records import Detection, Report
from understudy.stats import clopper_pearson


def audited(folder: Path, **changes: object) -> Report:
    """Two attacks on the digits endpoint: solving, and training on rows like everybody's."""
    path = portfolio.manifest(folder, response=[{"when": {"p_value": 0.005}, "do": "alert"}])
    rows = portfolio.digits()[2]
    np.save(folder / "digits.npy", rows[:400])
    np.save(folder / "pool.npy", rows[400:])
    body = yaml.safe_load(path.read_text(encoding="utf-8"))
    body["pool"] = {"data": "pool.npy", "provenance": "rows of customers"}
    body["tiers"][0]["limits"] = {"per_30d": 400}
    body["audit"] = {"attacks": ["equation-solving", {"name": "retraining", "learners": ["logistic"]}], "seeds": 3}
    path.write_text(yaml.safe_dump(body | changes), encoding="utf-8")
    return us.run_audit(path, folder / "run", jobs=1)


def looked(report: Report, attack: str) -> Detection:
    finding = next(f for f in report.findings if f.attack.startswith(attack))
    assert finding.detection is not None
    return finding.detection


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return audited(tmp_path_factory.mktemp("noticed"))


def test_solving_is_noticed_early_and_told_beside_every_way_of_asking(report: Report) -> None:
    found = looked(report, "equation-solving")
    assert found.assessed
    assert (found.accounts, found.calibrated, found.level) == (240, "2026-09-21", 0.005)
    by_way = {n.way: n for n in found.ways}
    assert [name for name in (way.name for way in WAYS) if name in by_way] == list(by_way)
    assert {way.name for way in WAYS} - {"in random steps"} <= set(by_way)
    plain = by_way["as it was run"]
    assert plain.alarmed == plain.of == 3
    assert (plain.low, plain.high) == clopper_pearson(3, 3)
    assert plain.delay is not None
    assert plain.delay <= 20
    assert plain.share == pytest.approx(plain.delay / plain.queries, abs=0.05)
    assert by_way["diluted 1:9"].queries == 10 * plain.queries
    assert by_way["split over 5 accounts"].queries == plain.queries
    assert plain.chance == pytest.approx(0.005)  # the level: 0.5 %
    assert by_way["split over 5 accounts"].chance == pytest.approx(1 - 0.995**5)
    slow = by_way["slowly, one query a day"]
    assert slow == plain.model_copy(update={"way": slow.way})


def test_an_attacker_who_asks_like_a_customer_is_not_noticed_and_the_report_says_so(report: Report) -> None:
    found = looked(report, "retraining")
    assert found.assessed
    assert all(n.alarmed == 0 for n in found.ways[:4])  # one account at 0.5 %: 12 lives go unalarmed in 94 of 100 runs
    assert all(n.delay is None and n.low == 0 for n in found.ways[:4])
    assert "in random steps" not in {n.way for n in found.ways}
    assert any("does not apply" in limit for limit in found.limits)


def test_what_is_not_assessed_is_said_with_its_reason(tmp_path: Path) -> None:
    def reason(report: Report) -> str:
        found = looked(report, "equation-solving")
        assert not found.assessed
        assert not found.ways
        assert any(found.reason in gap for gap in report.not_tested)
        return found.reason

    for name in "abc":
        (tmp_path / name).mkdir()
    attack = {"audit": {"attacks": ["equation-solving"], "seeds": 1}}
    assert "no monitor section" in reason(audited(tmp_path / "a", monitor=None, **attack))
    assert "nobody has calibrated" in reason(audited(tmp_path / "b", monitor={"calibration": "none.bin"}, **attack))
    assert "for model 1, not 2" in reason(audited(tmp_path / "c", model={"version": "2"}, **attack))


def test_random_steps_keep_to_the_fields_and_the_grid_of_the_attacks_own() -> None:
    rng, rows = np.random.default_rng(2), portfolio.digits()[2] * 16
    lines = np.repeat(rows[:20], 8, 0)
    lines[np.arange(160), np.repeat(np.arange(20) + 20, 8)] = np.tile(np.arange(1.0, 17.0, 2), 20)
    decimals = np.zeros(64, np.int64)
    drawn = random_steps(lines, rows, decimals, rng)
    assert drawn is not None
    moved = (drawn != lines).any(1)
    assert 0.3 < moved.mean() < 0.9
    assert ((drawn.reshape(20, 8, 64) != drawn.reshape(20, 8, 64)[:, :1]).any(1).sum(1) == 1).all()  # one field a line
    assert (drawn == np.round(drawn)).all()
    assert (drawn.min(), drawn.max()) == (lines.min(), lines.max())
    fine = random_steps(lines + 0.25, rows, decimals, rng)  # an attack off the grid stays off it
    assert fine is not None
    lengths = np.diff(fine.reshape(20, 8, 64), axis=1)
    assert len(np.unique(lengths[lengths != 0])) > 100
    assert random_steps(rows[:200], rows[200:], decimals, rng) is None  # rows like everybody's: no steps to draw


def test_a_thief_in_a_declared_segment_is_a_way_of_its_own() -> None:
    known = portfolio.calibration()
    assert [way.name for way in ways_of(known)] == [way.name for way in WAYS]
    with_segment = dataclasses.replace(known, segments={"tools": known.common})
    assert ways_of(with_segment)[-1].segment == "tools"


def test_dilution_keeps_the_attack_in_order_and_mixes_as_many_benign_rows_as_it_says() -> None:
    order, attack = _mixed(50, 4, 30, np.random.default_rng(0))
    assert len(order) == 250
    assert order[attack].tolist() == list(range(50))
    assert np.isin(order[~attack], np.arange(50, 80)).all()
    assert attack.reshape(50, 5).sum(1).tolist() == [1] * 50


def test_the_exact_interval_of_a_proportion_is_clopper_and_pearsons() -> None:
    from scipy.stats import beta

    for hits, n in ((0, 3), (3, 3), (1, 10), (7, 20), (50, 99)):
        low, high = clopper_pearson(hits, n)
        assert low == pytest.approx(beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0, abs=1e-9)
        assert high == pytest.approx(beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0, abs=1e-9)
    assert clopper_pearson(0, 0) == (0.0, 1.0)
