"""When accounts ask: volume, cadence, hours; what is left where inputs are not kept; what was declared; drift."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import portfolio
from portfolio import START, Asked
from test_monitor import found, history, monitor
from understudy import registry
from understudy.alerts import BENIGN
from understudy.calibrating import learn
from understudy.cli import main
from understudy.errors import UsageError
from understudy.types import Answers, Floats, Signal
from understudy.views import Clock
from understudy.watch import Calibration, Queries, State, Watch

LIFE = 64
DAY = 86_400.0
MIDNIGHT = START - START % DAY


def office(rng: np.random.Generator, n: int = LIFE) -> Floats:
    """Times of people: a few sittings in office hours, pauses of all lengths."""
    sittings = MIDNIGHT + DAY * rng.integers(0, 20, 6) + 3600 * rng.normal(13, 2, 6)
    pauses = rng.lognormal(3, 1.2, n)
    starts = np.sort(rng.choice(6, n))
    return np.sort(sittings[starts] + np.cumsum(pauses)).round(3)


def rows(rng: np.random.Generator, n: int = LIFE) -> Floats:
    mine = portfolio.digits()[2]
    return mine[rng.integers(len(mine), size=n)]


def asked(name: str, at: Floats, x: Floats | None, like: Floats | None = None) -> Queries:
    answers = Answers({Signal.PROBABILITIES: portfolio.predict(like if x is None else x)}, 10)
    return Queries(name, name, at, x, answers)


def scored(name: str, at: Floats, **options: Any) -> Floats:
    clock = Clock()
    nothing = np.zeros(len(at))
    view = clock.view(at, nothing.astype(np.int64), nothing).beside(np.zeros((0, 2), np.float32))
    return registry.create("detectors", name, **options).score(view)


def test_volume_is_the_rate_of_the_latest() -> None:
    at = START + np.concatenate([np.arange(100) * 60.0, 99 * 60 + 1 + np.arange(100) * 0.5])
    found = scored("volume", at)
    assert np.isnan(found[:16]).all()
    np.testing.assert_allclose(np.exp(found[50]), 1 / 60, rtol=1e-2)
    np.testing.assert_allclose(np.exp(found[-1]), 2, rtol=1e-2)


def test_cadence_tells_a_timer_from_people_and_counts_requests_not_rows() -> None:
    rng = np.random.default_rng(0)
    timer = np.repeat(START + np.arange(40) * 30.0, 3) + rng.normal(0, 0.05, 40).repeat(3)
    people = office(rng, 120)
    assert scored("cadence", np.sort(timer))[-1] > -0.02
    assert scored("cadence", people)[-1] < -0.7
    assert np.isnan(scored("cadence", np.full(200, START))).all()  # one request of 200 rows has no pause


def test_hours_tell_day_and_night_from_office_hours() -> None:
    flat = START + np.linspace(0, 3 * DAY, 200)
    assert scored("round-the-clock", flat)[-1] == pytest.approx(np.log2(24), abs=0.05)
    assert scored("round-the-clock", office(np.random.default_rng(1), 200))[-1] < 3.6


@pytest.mark.parametrize("name", ["volume", "cadence", "round-the-clock"])
def test_unknown_times_score_nothing(name: str) -> None:
    assert np.isnan(scored(name, np.full(100, np.nan))).all()


@cache
def calibrated(traffic: bool, kept: bool = True) -> Calibration:
    rng = np.random.default_rng(3)
    owner = portfolio.digits()[1]
    answers = Answers({Signal.PROBABILITIES: portfolio.predict(owner)}, 10)
    log = []
    for i in range(260):
        x = rows(rng)
        log.append(asked(f"a{i}", office(rng), x if kept else None, x))
    learnt = learn(
        owner, answers, log, rng, made=START, model="1", level=0.02, horizon=LIFE, leak=False, traffic=traffic
    )
    assert learnt.refused is None
    return learnt.calibration


def followed(known: Calibration, queries: Queries) -> State:
    watch = Watch(known)
    return watch.advance(watch.fresh(queries.principal, queries.party), queries)


def test_a_script_that_asks_benign_rows_is_seen_by_its_pace_alone() -> None:
    rng = np.random.default_rng(9)
    script = asked("script", START + np.arange(LIFE) * 0.5, rows(rng))
    assert followed(calibrated(False), script).alarmed_at is None
    state = followed(calibrated(True), script)
    assert state.alarmed_at is not None
    loudest = Watch(calibrated(True)).standing(state).scores[0][0]
    assert loudest in ("volume", "cadence")


def test_new_benign_accounts_keep_the_level_with_the_clock_too() -> None:
    rng = np.random.default_rng(10)
    alarmed = sum(
        followed(calibrated(True), asked(f"n{i}", office(rng), rows(rng))).alarmed_at is not None for i in range(100)
    )
    # 2 of 100 are expected of an average calibration with 156 ranks; more than 10 come with probability < 1e-3
    assert alarmed <= 10


def test_a_state_with_a_clock_survives_a_file_and_parts() -> None:
    rng = np.random.default_rng(11)
    queries = asked("someone", office(rng), rows(rng))
    known = Calibration.from_bytes(calibrated(True).to_bytes())
    watch, whole = Watch(known), followed(known, queries)
    state = watch.fresh("someone", "someone")
    for i in range(0, LIFE, 7):
        state = State.from_bytes(watch.advance(state, queries.take(slice(i, i + 7))).to_bytes())
    assert state.clock.shape == (LIFE, 2)
    np.testing.assert_allclose(state.best, whole.best)


def crowd(watch: Watch, lives: list[Queries], sizes: list[int]) -> list[State]:
    """Many accounts in turn, as a live watcher meets them: features of all at once, then each one's own queries."""
    states = [watch.fresh(life.principal, life.party) for life in lives]
    start = 0
    for size in sizes:
        batch = [life.take(slice(start, start + size)) for life in lives]
        features, at = watch.features(batch), 0
        for state, part in zip(states, batch, strict=True):
            watch.advance(state, part, features[at : at + len(part)])
            at += len(part)
        start += size
    return states


@pytest.mark.parametrize("kept", [True, False])
def test_a_crowd_is_followed_like_each_account_alone(kept: bool) -> None:
    watch = Watch(calibrated(kept, kept))
    lives = []
    for i in range(3):
        rng = np.random.default_rng([13, i])
        requests = START + np.cumsum(rng.exponential(60, 30)).repeat(40)  # few pauses within 512 queries
        at = requests if i else np.sort(office(rng, len(requests)))
        x = rows(rng, len(at))
        lives.append(asked(f"c{i}", at, x if kept else None, x))
    sizes = [*np.random.default_rng(14).integers(1, 60, 20), 10_000]
    for life, state in zip(lives, crowd(watch, lives, sizes), strict=True):
        alone = followed(watch.calibration, life)
        np.testing.assert_allclose(state.purse.log, alone.purse.log, rtol=1e-3, atol=1e-6)  # rounding moves a rank
        np.testing.assert_allclose(state.best, alone.best, rtol=1e-3)
        np.testing.assert_array_equal(state.tails[0], alone.tails[0])
        np.testing.assert_array_equal(state.clock, alone.clock)
        assert (state.counts, state.alarmed_at, state.n) == (alone.counts, alone.alarmed_at, alone.n)


@given(st.lists(st.integers(1, 200), max_size=20))
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
def test_times_score_the_same_however_queries_are_batched(sizes: list[int]) -> None:
    scorer = calibrated(False, kept=False).scorer
    at = START + np.cumsum(np.random.default_rng(15).exponential(60, 30)).repeat(40)
    answers = Answers({Signal.LABEL: np.zeros(len(at), np.int64)}, 10)
    whole, clock, found = Queries("a", "a", at, None, answers), np.zeros((0, 2), np.float32), []
    for some in np.split(np.arange(len(at)), np.minimum(np.cumsum(sizes, dtype=int), len(at))):
        scored = scorer.scores(np.zeros((0, 64), np.float32), clock, whole.take(some), None)
        clock = scored.clock
        found.append(scored.scores)
    once = scorer.scores(np.zeros((0, 64), np.float32), np.zeros((0, 2), np.float32), whole, None).scores
    np.testing.assert_array_equal(np.concatenate(found), once)
    assert np.isnan(once[:, scorer.names.index("cadence")]).all()  # 13 pauses among the latest 512 queries


def test_every_detector_has_an_innocent_explanation() -> None:
    assert set(registry.names("detectors")) <= set(BENIGN)


def test_a_detector_that_is_named_twice_bets_once() -> None:
    rng = np.random.default_rng(16)
    owner = portfolio.digits()[1]
    answers = Answers({Signal.PROBABILITIES: portfolio.predict(owner)}, 10)
    log = [asked(f"a{i}", office(rng, 16), rows(rng, 16)) for i in range(30)]
    options: dict[str, Any] = {"made": START, "model": "1", "level": 0.1, "horizon": 16, "leak": False}
    learnt = learn(owner, answers, log, rng, traffic=True, also=["volume", "novelty"], **options)
    names = learnt.calibration.scorer.names
    assert len(set(names)) == len(names)


def test_without_inputs_margins_and_times_are_ranked() -> None:
    known = calibrated(False, kept=False)
    assert known.scorer.names == ("margin", "volume", "cadence", "round-the-clock")
    rng = np.random.default_rng(12)
    x = rows(rng)
    assert followed(known, asked("script", START + np.arange(LIFE) * 0.5, None, x)).alarmed_at is not None
    state = followed(known, asked("person", office(rng), None, x))
    assert state.alarmed_at is None
    assert state.counts["unseen"] == 0


def people(accounts: int, seed: int) -> list[Asked]:
    rng = np.random.default_rng(seed)
    return [Asked(f"key:p{seed}-{i}", office(rng), rows(rng)) for i in range(accounts)]


def test_a_log_of_hashes_is_calibrated_and_watched(tmp_path: Path) -> None:
    path = portfolio.manifest(tmp_path)
    np.save(tmp_path / "digits.npy", portfolio.digits()[1])
    past = history(tmp_path / "past", people(260, 20), kept="hash")
    done = CliRunner().invoke(main, ["calibrate", str(path), str(past), "--level", "0.02", "--horizon", "64"])
    assert done.exit_code == 0, done.output
    assert "no inputs are on record: accounts are ranked by their margins, and by when they ask" in done.output
    script = Asked("key:script", START + np.arange(LIFE) * 0.5, rows(np.random.default_rng(21)))
    now = history(tmp_path / "now", [*people(20, 22), script], kept="hash")
    done = monitor(path, now)
    assert done.exit_code == 1
    survey, alerts = found(tmp_path / "out")
    assert survey.parties[0].party == "key:script"
    assert any("by margin, volume, cadence, round-the-clock alone" in gap for gap in survey.gaps)
    assert survey.quality.out_of_range is None
    assert {(a.repeats, a.out_of_range) for p in survey.parties for a in p.accounts} == {(None, None)}
    for text in (done.output.replace("\n", " "), (tmp_path / "out" / "monitor.html").read_text()):
        assert "not known: nobody looked at inputs" in text
        assert "0 %" not in text
    assert (alerts[0].inputs.kept, alerts[0].inputs.seen, alerts[0].inputs.repeats) == ("none", 0, None)
    assert any("scheduler" in reason or "batch job" in reason for reason in alerts[0].benign)


def test_who_asks_more_than_was_declared_is_said_and_not_accused(tmp_path: Path) -> None:
    accounts = people(5, 30)
    busy, other = accounts[0].principal, accounts[1].principal
    path = portfolio.manifest(tmp_path, declared={busy: 3, other: 100_000})
    done = monitor(path, history(tmp_path / "history", accounts))
    survey, _ = found(tmp_path / "out")
    (excess,) = survey.quality.excess
    assert (excess.principal, excess.declared) == (busy, 3)
    assert excess.busiest_day == np.unique(accounts[0].at // DAY, return_counts=True)[1].max()
    assert "on its busiest day, 3 declared" in done.output
    assert busy in (tmp_path / "out" / "monitor.html").read_text()


def test_traffic_that_drifts_within_a_log_is_told(tmp_path: Path) -> None:
    owner = portfolio.digits()[1]
    answers = Answers({Signal.PROBABILITIES: portfolio.predict(owner)}, 10)

    def notes(moved: float) -> str:
        rng = np.random.default_rng(40)
        log = []
        for i in range(200):
            x = rows(rng)
            late = i >= 100
            x = np.clip(x + moved * late * rng.uniform(0, 1, x.shape), 0, 1)
            log.append(asked(f"a{i}", START + i * 3600 + np.arange(LIFE) * 60.0, x))
        learnt = learn(owner, answers, log, rng, made=START, model="1", level=0.02, horizon=LIFE, leak=False)
        return "\n".join(learnt.notes)

    # without drift a score is told with a probability under 1e-3: 60 late accounts, 13 or more beyond a tenth
    assert "drifts within this log" not in notes(0)
    assert "drifts within this log: in" in notes(0.3)


def test_another_detector_may_bet_too_if_it_reads_such_inputs() -> None:
    rng = np.random.default_rng(3)
    texts = np.array([f"please sort {w} and {v}" for w in "abcdefghij" for v in "klmnopqrst"], object)
    answers = Answers({Signal.LABEL: np.arange(100) % 2}, 2)
    options: dict[str, Any] = {"made": 0.0, "model": "1", "level": 0.1, "horizon": 40, "leak": False}

    def one(i: int) -> Queries:
        mine = texts[rng.integers(100, size=40)]
        return Queries(f"a{i}", f"a{i}", np.arange(40.0), mine, answers.take(np.arange(40)))

    learnt = learn(texts, answers, [one(i) for i in range(60)], rng, also=["template-entropy"], **options)
    assert "template-entropy" in learnt.calibration.scorer.names
    owner = portfolio.digits()[1]
    told = Answers({Signal.LABEL: portfolio.predict(owner).argmax(1)}, 10)
    with pytest.raises(UsageError, match="detector template-entropy reads text, not tabular inputs"):
        learn(owner, told, [], rng, also=["template-entropy"], **options)
