"""The watch on real digits: who is ranked how, what survives a file, what is refused."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from understudy.errors import InputError, RecordError, UsageError
from understudy.leak import LeakMeter
from understudy.types import Answers, Floats, Signal
from understudy.views import Scale
from understudy.watch import Calibration, Queries, State, Watch, calibrate
from understudy.watch.learning import _Account, _own_cohorts, refuse
from understudy.watch.many import benjamini_hochberg, e_benjamini_hochberg, e_value
from understudy.watch.ranking import Ranking, needed, rank_at, spans
from understudy.watch.wealth import Purse, bets, coins

DIGITS, TRUTH = load_digits(return_X_y=True)
OWNED = DIGITS[:700]
LIFE = 64


@cache
def model() -> LogisticRegression:
    return LogisticRegression(max_iter=300).fit(OWNED / 16, TRUTH[:700])


def answer(x: Floats) -> Answers:
    return Answers({Signal.PROBABILITIES: model().predict_proba(x / 16)}, 10)


def account(name: str, x: Floats, segment: str | None = None) -> Queries:
    return Queries(name, "p-" + name, 1e9 + 60.0 * np.arange(len(x)), x, answer(x), segment=segment)


def benign(i: int, n: int = LIFE) -> Floats:
    """Rows of three digits each account cares about, a tenth of them asked again."""
    rng = np.random.default_rng([i, 1])
    rows = np.flatnonzero(np.isin(TRUTH, rng.choice(10, 3, replace=False)))
    rows = rows[rows >= 700]
    asked = DIGITS[rng.choice(rows, n)]
    again = np.flatnonzero(rng.random(n - 1) < 0.1) + 1
    asked[again] = asked[again - 1]
    return asked


@cache
def calibration(level: float = 0.02, with_leak: bool = True) -> Calibration:
    rng = np.random.default_rng(5)
    leak = LeakMeter.fit(OWNED, answer(OWNED), rng, features=64) if with_leak else None
    accounts = [[account(f"b{i}", benign(i), "batch" if i % 4 == 0 else None)] for i in range(150)]
    return calibrate(OWNED, answer(OWNED), accounts, rng, level=level, horizon=LIFE, made=1e9, model="v1", leak=leak)


def noise(n: int = LIFE, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).uniform(0, 16, (n, 64))


def followed(x: Floats, parts: int = 1, name: str = "someone") -> State:
    watch, state = Watch(calibration()), Watch(calibration()).fresh(name, "p-" + name)
    for part in np.array_split(np.arange(len(x)), parts):
        watch.advance(state, account(name, x).take(part))
    return state


def test_noise_is_alarmed_within_twenty_queries_and_benign_accounts_mostly_are_not() -> None:
    watch = Watch(calibration())
    alarmed = watch.standing(followed(noise()))
    assert alarmed.alarmed_at is not None
    assert alarmed.alarmed_at <= 20
    assert alarmed.p_value == pytest.approx(1 / 91)
    stands = [watch.standing(followed(benign(1000 + i), name=f"n{i}")) for i in range(60)]
    assert sum(s.alarmed_at is not None for s in stands) <= 6  # 2 % stated: more than 6 of 60 happens once in 1,400
    assert np.mean([s.p_value <= 0.5 for s in stands]) > 0.2


def test_scores_say_what_was_unusual_largest_first() -> None:
    standing = Watch(calibration()).standing(followed(noise()))
    names, values = zip(*standing.scores, strict=True)
    assert {"novelty", "structure"} <= set(names[:3])
    assert list(values) == sorted(values, reverse=True)
    assert standing.z >= values[0] - 1e-9


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 40), st.booleans())
def test_parts_do_not_matter(parts: int, odd: bool) -> None:
    x = noise(100) if odd else benign(7, 100)
    watch = Watch(calibration())
    whole, split = watch.standing(followed(x)), watch.standing(followed(x, parts))
    assert (whole.alarmed_at, whole.p_value, whole.n) == (split.alarmed_at, split.p_value, split.n)
    assert whole.z == pytest.approx(split.z, rel=1e-6)
    assert whole.quality == split.quality


def test_features_of_many_accounts_at_once_are_those_of_each() -> None:
    watch = Watch(calibration())
    batch = [account("a", benign(1)), account("b", noise(5)), account("c", benign(2, 3))]
    together = watch.features(batch)
    assert together.shape == (LIFE + 8, 10)
    start = 0
    for queries in batch:
        mine = together[start : start + len(queries)]
        start += len(queries)
        given, own = watch.fresh(queries.principal, "p"), watch.fresh(queries.principal, "p")
        watch.advance(given, queries, mine)
        watch.advance(own, queries)
        assert watch.standing(given).z == pytest.approx(watch.standing(own).z, rel=1e-6)


def test_a_state_and_a_calibration_survive_a_file() -> None:
    again = Calibration.from_bytes(calibration().to_bytes())
    assert again.to_bytes() == calibration().to_bytes()
    assert (again.level, again.horizon, again.accounts, again.model) == (0.02, LIFE, 90, "v1")
    assert again.threshold == calibration().threshold
    x, watch = benign(3, 100), Watch(again)
    state = State.from_bytes(followed(x[:60]).to_bytes(), again.leak)
    watch.advance(state, account("someone", x).take(slice(60, 100)))
    there, here = watch.standing(state), Watch(calibration()).standing(followed(x))
    assert (there.p_value, there.quality, there.n) == (here.p_value, here.quality, here.n)
    assert there.z == pytest.approx(here.z, rel=1e-6)
    with pytest.raises(RecordError):
        State.from_bytes(state.to_bytes()[:-1], again.leak)


def test_exact_repeats_bet_nothing() -> None:
    once, again = followed(noise(20)), followed(np.concatenate([noise(20)] * 3))
    assert again.counts["repeats"] == 40
    assert again.peak == pytest.approx(once.peak)


def test_what_lies_outside_the_range_is_a_matter_of_data_quality() -> None:
    x = benign(4)
    assert Watch(calibration()).standing(followed(x)).quality["out_of_range"] < 0.3
    x[:, 20] = -1.0
    assert Watch(calibration()).standing(followed(x)).quality["out_of_range"] == 1


def test_queries_whose_inputs_were_not_kept_are_counted_and_bet_nothing() -> None:
    watch = Watch(calibration())
    state, queries = watch.fresh("k", "p"), account("k", noise())
    blind = Queries("k", "p", queries.at, None, queries.answers)
    standing = watch.standing(watch.advance(state, blind))
    assert (standing.alarmed_at, standing.quality["unseen"], standing.n) == (None, 1.0, LIFE)


def test_beyond_the_horizon_nothing_new_is_said() -> None:
    x = np.concatenate([benign(8, LIFE), noise(100)])
    standing = Watch(calibration()).standing(followed(x))
    assert standing.beyond
    assert standing.alarmed_at is None
    assert standing.p_value == Watch(calibration()).standing(followed(x[:LIFE])).p_value


def test_an_approved_account_starts_anew_and_its_later_theft_is_still_seen() -> None:
    watch = Watch(calibration())
    own = np.concatenate([benign(i) for i in range(20, 24)]) * 0.5  # another unit: alarmed, and harmless
    state = followed(own[:200])
    assert state.alarmed_at is not None
    with pytest.raises(UsageError, match="name of who"):
        watch.rebaseline(state, " ", 2e9)
    watch.rebaseline(state, "Ada", 2e9)
    assert state.approvals[0]["by"] == "Ada"
    watch.advance(state, account("someone", own[200:240]))
    assert watch.standing(state).alarmed_at is None
    restored = State.from_bytes(state.to_bytes(), calibration().leak)
    alarmed = watch.standing(watch.advance(restored, account("someone", noise(24)))).alarmed_at
    assert alarmed is not None
    with pytest.raises(UsageError, match="needs 150"):
        watch.rebaseline(followed(own[:20]), "Ada", 2e9)


def test_a_level_that_the_accounts_cannot_support_gives_no_threshold_and_says_so() -> None:
    small = calibration(0.001, False)
    assert small.threshold is None
    assert refuse(small) == "0.1 % needs 999 accounts; you have 90"
    assert refuse(calibration()) is None
    watch = Watch(small)
    state = watch.advance(watch.fresh("n", "p"), account("n", noise()))
    assert watch.standing(state).alarmed_at is None
    assert watch.standing(state).p_value == pytest.approx(1 / 91)


def test_segments_have_their_rates_and_the_worst_is_named() -> None:
    rates = calibration().rates
    assert set(rates) == {"batch"}
    worst = calibration().worst_segment()
    assert worst is not None
    assert worst[0] == "batch"
    assert worst[1] <= worst[2] <= 38


def what_if(i: int) -> Floats:
    """A tool: eight records, each with one pixel at eight of its values."""
    rng, x = np.random.default_rng([i, 2]), benign(i)
    for start in range(0, LIFE, 8):
        x[start : start + 8] = x[start]
        x[np.arange(start, start + 8), rng.integers(64)] = rng.permutation(17)[:8]
    return x


def line_search(i: int) -> Floats:
    """One pixel in halves, record after record."""
    rng, x = np.random.default_rng([i, 3]), benign(i)
    for start in range(0, LIFE, 8):
        x[start : start + 8] = x[start]
        x[np.arange(start, start + 8), rng.integers(20, 44)] = 16 * 0.5 ** np.arange(8)
    return x


@cache
def with_tools(declared: bool) -> Calibration:
    """500 accounts, 200 of them tools; 300 are ranked."""
    kinds = [(what_if, "tools" if declared else None) if i % 5 < 2 else (benign, None) for i in range(500)]
    accounts = [[account(f"b{i}", asked(i), segment)] for i, (asked, segment) in enumerate(kinds)]
    return calibrate(OWNED, answer(OWNED), accounts, np.random.default_rng(6), level=0.02, horizon=LIFE)


def stands(known: Calibration, x: Floats, name: str, segment: str | None) -> State:
    watch = Watch(known)
    return watch.advance(watch.fresh(name, "p", segment), account(name, x))


def test_each_cohort_keeps_the_level_for_its_own_accounts() -> None:
    known = with_tools(True)
    assert known.accounts + known.segments["tools"].ranking.accounts == 300
    assert known.rates == {"tools": (1, 117)}  # the threshold is rank 116 of 117
    watch = Watch(known)
    for asked, segment in ((benign, None), (what_if, "tools")):
        states = [stands(known, asked(1000 + i), f"n{i}", segment) for i in range(60)]
        p = np.array([watch.standing(state).p_value for state in states])
        assert (p <= 0.1).sum() <= 16  # beta-binomial: 17 or more once in 1,000
        assert 0.35 < p.mean() < 0.65


def test_a_declared_segment_does_not_set_the_threshold_of_all_others() -> None:
    alone = [stands(with_tools(True), line_search(2000 + i), f"t{i}", None).alarmed_at for i in range(10)]
    pooled = [stands(with_tools(False), line_search(2000 + i), f"t{i}", None).alarmed_at for i in range(10)]
    assert all(at is not None and at <= 4 for at in alone)
    assert all(at is None or at >= 6 for at in pooled)
    tools = [stands(with_tools(True), what_if(3000 + i), f"u{i}", None).alarmed_at for i in range(10)]
    assert None not in tools  # what a tool that nobody declares must expect


def test_a_calibration_with_cohorts_survives_a_file() -> None:
    again = Calibration.from_bytes(with_tools(True).to_bytes())
    assert again.to_bytes() == with_tools(True).to_bytes()
    for segment in (None, "tools", "never heard of"):
        there, here = (stands(known, what_if(4000), "f", segment) for known in (again, with_tools(True)))
        assert (there.alarmed_at, there.best.tolist()) == (here.alarmed_at, here.best.tolist())
        assert again.limit(segment) == with_tools(True).limit(segment)
    assert again.limit("never heard of") == again.threshold != again.limit("tools")


def test_how_many_accounts_declare_a_segment_decides_whether_it_is_ranked_by_itself() -> None:
    def own(*segments: str | None) -> list[str]:
        return _own_cohorts([_Account("a", s, np.zeros((1, 9)), np.zeros(1), 0.0) for s in segments], 10)

    assert own(*[None] * 10, *["a"] * 10, *["b"] * 9) == ["a"]
    assert own(*[None] * 9, *["a"] * 30) == []  # too few would be left for the rest
    assert own(*["a"] * 30, *["b"] * 20, *["c"] * 10) == ["a", "b"]


def test_another_accounts_queries_are_refused() -> None:
    watch = Watch(calibration())
    with pytest.raises(UsageError, match="queries of b cannot follow those of a"):
        watch.advance(watch.fresh("a", "p"), account("b", noise(3)))
    with pytest.raises(InputError, match="3 columns"):
        watch.advance(watch.fresh("a", "p"), Queries("a", "p", np.zeros(2), noise(2)[:, :3], answer(noise(2))))


def test_audits_are_not_benign_accounts() -> None:
    audited = Queries("a", "a", np.arange(64.0), noise(), answer(noise()), audit=True)
    with pytest.raises(UsageError, match="too few"):
        calibrate(OWNED, answer(OWNED), [[audited]] * 50, np.random.default_rng(0), horizon=LIFE)


# the arithmetic behind it


@pytest.mark.parametrize(
    ("level", "confidence", "accounts"), [(0.01, None, 99), (0.001, None, 999), (0.01, 0.95, 299), (0.001, 0.95, 2995)]
)
def test_accounts_that_a_level_needs(level: float, confidence: float | None, accounts: int) -> None:
    assert needed(level, confidence) == accounts
    assert rank_at(accounts - 1, level, confidence) is None
    assert rank_at(accounts, level, confidence) == accounts


def test_the_confident_rank_is_the_binomials() -> None:
    from scipy.stats import binom

    for m in (299, 500, 1080, 5000):
        k = rank_at(m, 0.01, 0.95)
        assert k is not None
        assert binom.cdf(m - k, m, 0.01) <= 0.05 < binom.cdf(m - k + 1, m, 0.01)


def test_an_exchangeable_accounts_p_value_is_valid_in_every_epoch() -> None:
    rng = np.random.default_rng(3)
    small = []
    for _ in range(400):
        peaks = np.maximum.accumulate(rng.normal(size=(100, 3)), 1)
        ranking = Ranking.of(list(peaks[:99]), 16)
        small.append(ranking.p_value(peaks[99]) <= 0.1)
    assert ranking.weights == (0.5, 0.25, 0.25)
    assert np.mean(small) <= 0.15  # 10 % at most; more than 60 of 400 happens less than once in 1,000


def test_wealth_is_the_sequential_law() -> None:
    rng = np.random.default_rng(2)
    e = bets(rng.random((300, 4)) ** 2)
    log, purse = Purse.new(4).after(e)
    bet, cash, size = np.full(4, 0.5), np.full(4, 0.5), np.zeros(4)
    for i, row in enumerate(e):
        bet, cash = (0.99 * bet + 0.01 * cash) * row, 0.01 * bet + 0.99 * cash
        total = bet + cash
        bet, cash, size = bet / total, cash / total, size + np.log(total)
        assert log[i] == pytest.approx(size, abs=1e-9)
    assert purse.betting == pytest.approx(bet)


def test_bets_are_fair_and_coins_are_uniform_and_keyed() -> None:
    p = (np.arange(10**6) + 0.5) / 10**6
    assert bets(p).mean() == pytest.approx(1, abs=0.01)
    drawn = coins(7, 0, (5000, 4))
    assert np.array_equal(drawn[100:], coins(7, 100, (4900, 4)))
    assert not np.array_equal(drawn, coins(8, 0, (5000, 4)))
    assert abs(drawn.mean() - 0.5) < 0.01
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.08


def test_spans_cut_queries_at_the_epochs() -> None:
    assert spans(10, 60, 64, 2) == [(0, slice(0, 4)), (1, slice(4, 10))]
    assert spans(10, 200, 64, 2) == []


def test_a_scale_knows_grids_heavy_tails_and_ranges() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 9, 500), np.round(rng.normal(size=500), 2), np.exp(3 * rng.normal(size=500))], 1)
    scale = Scale.fit(x)
    assert scale.decimals.tolist() == [0, 2, -1]
    assert scale.heavy.tolist() == [False, False, True]
    seen = scale.view(np.array([[4, 0, 1.0], [99, 0, 1.0], [4, np.nan, 1.0]]), np.zeros(3, int), np.zeros(3))
    assert scale.outside(seen).tolist() == [False, True, True]
    with pytest.raises(InputError, match="too few"):
        Scale.fit(x[:5])


def test_new_benign_accounts_are_ranked_like_those_of_the_calibration() -> None:
    """Scores that come as fractions tie exactly: one read more finely than its references would look like a record."""
    rng = np.random.default_rng(12)
    mixed, weights = rng.normal(size=(20, 20)) / np.sqrt(20), rng.normal(size=20)

    def one(i: int) -> Queries:
        x = np.round(rng.normal(size=(LIFE, 20)) @ mixed + rng.integers(0, 3, (LIFE, 1)), 3)
        p = np.round(1 / (1 + np.exp(-x @ weights)), 4)
        answers = Answers({Signal.PROBABILITIES: np.column_stack([1 - p, p])}, 2)
        return Queries(f"k{i}", f"k{i}", 1e9 + np.arange(LIFE, dtype=float), x, answers)

    owned = Queries.concat([one(0) for _ in range(10)])
    assert owned.inputs is not None
    learnt = calibrate(owned.inputs, owned.answers, [[one(i)] for i in range(200)], rng, level=0.01, horizon=LIFE)
    watch = Watch(learnt)
    p = np.array([watch.standing(watch.advance(watch.fresh(f"k{i}", ""), one(i))).p_value for i in range(150)])
    assert (p <= 0.1).sum() <= 28  # 15 are expected; 29 or more in one run of 1,500
    assert 0.4 < p.mean() < 0.6


# many accounts


def test_reports_over_many_accounts_keep_their_false_discovery_rate() -> None:
    rng, shares, caught = np.random.default_rng(4), [], []
    for _ in range(300):
        statistics = np.sort(rng.normal(size=400))
        benign, thieves = rng.normal(size=180), rng.normal(size=20) + 6
        p = (1 + len(statistics) - statistics.searchsorted(np.concatenate([benign, thieves]))) / 401
        reported = benjamini_hochberg(p, 0.1)
        shares.append(reported[:180].sum() / max(reported.sum(), 1))
        caught.append(reported[180:].mean())
    assert np.mean(shares) <= 0.1 + 0.02
    assert np.mean(caught) > 0.9


def test_e_values_report_what_p_values_of_the_same_size_would() -> None:
    p = np.array([0.001, 0.005, 0.2, 1.0])
    assert e_value(p).tolist() == [100, 100, 0, 0]
    assert e_benjamini_hochberg(e_value(p), 0.1).tolist() == [True, True, False, False]
    assert e_benjamini_hochberg(np.array([15.0, 0, 0, 0]), 0.1).tolist() == [False] * 4
    assert not benjamini_hochberg(np.zeros(0), 0.1).size
