"""Intervals cover what they say they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.stats import curve_interval, first_crossing, mean_interval, paired_interval, wilson, wilson_of_mean
from understudy.types import Floats

# Wilson: exact, by summing the binomial distribution


def binomial(n: int, p: float) -> Floats:
    k = np.arange(n + 1)
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    return np.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p))


def coverage(n: int, p: float) -> float:
    covered = np.array([wilson(k, n).low <= p <= wilson(k, n).high for k in range(n + 1)])
    return float(binomial(n, p)[covered].sum())


@pytest.mark.parametrize("n", [10, 50, 200])
def test_wilson_covers_95_percent_on_average_and_never_much_less(n: int) -> None:
    covered = [coverage(n, p) for p in np.linspace(0.005, 0.995, 199)]
    assert np.mean(covered) > 0.945
    assert min(covered) > 0.83  # the known dips near 0 and 1 (Brown, Cai and DasGupta 2001)


@pytest.mark.parametrize("n", [50, 200])
def test_wilson_hardly_dips_away_from_the_ends(n: int) -> None:
    assert min(coverage(n, p) for p in np.linspace(0.1, 0.9, 161)) > 0.92


def test_wilson_agrees_with_a_published_value() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17:857, table I, method 3)."""
    found = wilson(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


@given(st.integers(1, 500), st.data())
def test_wilson_is_an_interval_around_the_share(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    found, mirrored = wilson(hits, n), wilson(n - hits, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high > found.low
    assert mirrored.low == pytest.approx(1 - found.high, abs=1e-12)
    whole = wilson_of_mean(hits / n, n)
    assert (whole.low, whole.high) == pytest.approx((found.low, found.high), abs=1e-12)


def test_nothing_counted_is_nothing_known() -> None:
    found = wilson(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0, 1)
    assert math.isnan(mean_interval(np.zeros(0)).value)


def test_agreement_gets_wilson_and_other_means_the_normal_interval() -> None:
    assert mean_interval(np.array([1.0, 1.0, 1.0, 1.0])) == wilson(4, 4)
    values = np.array([0.5, 0.7, 0.6, 0.6])
    half = 1.959963984540054 * values.std(ddof=1) / 2
    found = mean_interval(values)
    assert (found.low, found.value, found.high) == pytest.approx((0.6 - half, 0.6, 0.6 + half))
    assert mean_interval(np.array([0.3])).high == math.inf


# curves over seeds and test points


def covered(runs: int, draw: object, truth: float) -> int:
    rng = np.random.default_rng(20)
    hits = 0
    for _ in range(runs):
        _, low, high = curve_interval(draw(rng), rng, 200)  # type: ignore[operator]
        hits += int(low[0] <= truth <= high[0])
    return hits


def test_a_curve_covers_when_seeds_agree_up_to_sampling() -> None:
    """3 seeds, 200 shared test points, 90 % agreement.

    Measured coverage is 0.97 or more. If it were only 0.95, fewer than 255 of 300 would have probability < 1e-10.
    """
    assert covered(300, lambda rng: (rng.random((3, 1, 200)) < rng.beta(9, 1, 200)).astype(float), 0.9) >= 255


def test_a_curve_covers_when_seeds_differ() -> None:
    """10 seeds whose own means differ by 0.4, several times the sampling error of one.

    Measured coverage is 0.92. If it were 0.90, fewer than 235 of 300 would have probability < 1e-8. With 3 seeds the
    bootstrap is known to cover less (0.90 measured where seeds differ by 0.2, 0.81 by 0.5): three cannot tell more.
    """

    def draw(rng: np.random.Generator) -> Floats:
        return rng.standard_normal((1, 1, 200)) + 0.4 * rng.standard_normal((10, 1, 1)) + rng.normal(size=(10, 1, 200))

    assert covered(300, draw, 0.0) >= 235


def test_a_curve_at_one_keeps_the_doubt_of_its_test_points() -> None:
    mean, low, high = curve_interval(np.ones((3, 2, 100)), np.random.default_rng(0), 50)
    assert mean.tolist() == high.tolist() == [1.0, 1.0]
    assert low == pytest.approx(wilson(100, 100).low)


def test_a_curve_interval_holds_its_mean_and_repeats_with_its_seed() -> None:
    values = np.random.default_rng(1).random((3, 4, 30))
    one, two = (curve_interval(values, np.random.default_rng(5), 100) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    mean, low, high = one
    assert mean == pytest.approx(values.mean((0, 2)))
    assert (low <= mean).all()
    assert (mean <= high).all()
    assert (low < high).all()


def test_a_wider_level_is_wider() -> None:
    values = np.random.default_rng(1).random((5, 1, 30))
    _, low, high = curve_interval(values, np.random.default_rng(5), 500, level=0.99)
    _, inner_low, inner_high = curve_interval(values, np.random.default_rng(5), 500, level=0.8)
    assert low < inner_low
    assert inner_high < high


def test_first_crossing_is_the_first_and_none_is_censored() -> None:
    assert first_crossing([10, 20, 30], np.array([False, True, True])) == 20
    assert first_crossing([10, 20, 30], np.array([False, False, False])) is None


# pairs


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_paired_differences_are_covered(n: int) -> None:
    """Normal differences, 400 times. At a coverage of 0.93, fewer than 340 have probability 1e-8."""
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(400):
        found = paired_interval(rng.normal(0.1, 1, n).tolist(), [0.0] * n, rng, 1000)
        hits += int(found.low <= 0.1 <= found.high)
    assert hits >= 340


def test_one_pair_says_nothing_of_the_spread() -> None:
    found = paired_interval([0.9], [0.8], np.random.default_rng(0))
    assert found.value == pytest.approx(0.1)
    assert (found.low, found.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_equal_differences_leave_no_doubt(n: int) -> None:
    found = paired_interval([0.75] * n, [0.25] * n, np.random.default_rng(0))
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)
