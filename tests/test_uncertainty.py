"""Statistical errors against brute force, scipy and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from hepset.uncertainty import (
    auc,
    auc_value,
    bootstrap,
    distance,
    effective_number,
    efficiency,
    half_width,
    largest_efficiency,
    median,
    roc_curve,
    weighted_mean,
    weighted_quantile,
    wilson_interval,
)


@pytest.mark.parametrize(("passed", "total"), [(0, 10), (3, 10), (10, 10), (50, 1000)])
def test_wilson_is_scipys(passed: int, total: int) -> None:
    level = 2 * stats.norm.cdf(1.0) - 1
    expected = stats.binomtest(passed, total).proportion_ci(level, "wilson")
    assert wilson_interval(passed, total) == pytest.approx((expected.low, expected.high))


def test_efficiency_with_and_without_weights() -> None:
    passed = np.array([True, True, False, False, False])
    assert efficiency(passed).value == 0.4
    assert efficiency(np.zeros(10, bool)).error > 0
    # With weights 1 the formula of weighted events is the binomial one.
    weighted = efficiency(passed, np.ones(5))
    assert weighted.error == pytest.approx(math.sqrt(0.4 * 0.6 / 5))
    # ((1 - e)^2 sum_pass w^2 + e^2 sum_fail w^2) / W^2 with w = 1, 2, 3 and the first passing.
    share = efficiency(np.array([True, False, False]), np.array([1.0, 2.0, 3.0]))
    assert share.value == pytest.approx(1 / 6)
    assert share.error == pytest.approx(math.sqrt((25 / 36 * 1 + 1 / 36 * 13) / 36))


def test_the_error_of_a_mean_counts_events_not_objects() -> None:
    values = np.array([1.0, 2.0, 4.0, 7.0])
    found = weighted_mean(values)
    assert found == pytest.approx((3.5, values.std() / 2))
    copies, events = np.repeat(values, 5), np.repeat(np.arange(4), 5)
    assert weighted_mean(copies, groups=events) == pytest.approx(tuple(found))
    assert weighted_mean(copies).error < found.error / 2


def test_nothing_is_nan_not_an_error() -> None:
    assert math.isnan(weighted_mean(np.zeros(0)).value)
    assert math.isnan(efficiency(np.zeros(0, bool)).value)
    assert math.isnan(median(np.zeros(0)).value)
    assert math.isnan(auc(np.arange(3.0), np.ones(3, bool)).value)


def test_unweighted_quantiles_are_numpys_hazen() -> None:
    x = np.random.default_rng(0).normal(size=101)
    levels = [0.0, 0.16, 0.5, 0.84, 1.0]
    found = weighted_quantile(x, levels)
    np.testing.assert_allclose(found, np.quantile(x, levels, method="hazen"))


def test_an_integer_weight_is_that_many_entries_in_the_limit() -> None:
    random = np.random.default_rng(1)
    x, counts = random.normal(size=4000), random.integers(0, 4, 4000)
    found = weighted_quantile(x, [0.2, 0.5], counts.astype(float))
    np.testing.assert_allclose(found, np.quantile(np.repeat(x, counts), [0.2, 0.5]), atol=2e-3)


def test_quantile_errors_of_a_normal_distribution() -> None:
    x = np.random.default_rng(2).normal(10.0, 3.0, 4000)
    middle, width = median(x), half_width(x)
    assert middle.error == pytest.approx(math.sqrt(math.pi / 2) * 3 / math.sqrt(4000), rel=0.2)
    assert abs(middle.value - 10) < 4 * middle.error
    assert abs(width.value - 3) < 4 * width.error
    # Variance of one quantile p: p (1 - p) / (n f^2); the two are correlated by p / (1 - p).
    p, density = 0.158655, stats.norm.pdf(1.0) / 3
    expected = math.sqrt((p * (1 - p) - p * p) / (2 * 4000)) / density
    assert width.error == pytest.approx(expected, rel=0.2)


SCORES = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.floats(0.1, 3)), min_size=2, max_size=20
)


@settings(deadline=None)
@given(SCORES)
def test_auc_is_the_brute_force_count_of_pairs(
    rows: list[tuple[int, bool, float]],
) -> None:
    score, positive, weight = (np.array(part) for part in zip(*rows, strict=True))
    won = total = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            pair = weight[i] * weight[j]
            won += pair * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
            total += pair
    found = auc_value(score, positive, weight)
    assert math.isnan(found) if total == 0 else found == pytest.approx(won / total)


def two_classes(n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    random = np.random.default_rng(seed)
    positive = random.random(n) < 0.4
    return random.normal(positive * 1.0, 1.0), positive


def test_auc_is_mann_whitneys_and_its_errors_agree_with_the_spread_of_experiments() -> None:
    score, positive = two_classes(500, 3)
    found = auc(score, positive)
    u = stats.mannwhitneyu(score[positive], score[~positive]).statistic
    assert found.value == pytest.approx(u / (positive.sum() * (~positive).sum()))
    spread = np.std([auc(*two_classes(500, 100 + k)).value for k in range(200)])
    assert found.error == pytest.approx(spread, rel=0.2)
    assert auc(score, positive, np.ones(500)).error == pytest.approx(spread, rel=0.25)


def test_the_bootstrap_draws_the_entries_of_an_event_together() -> None:
    values, events = np.repeat([0.0, 1.0, 2.0, 3.0], 10), np.repeat(np.arange(4), 10)
    mean = lambda w: float((w * values).sum() / w.sum()) if w.sum() else math.nan  # noqa: E731
    alone, together = bootstrap(mean, 40), bootstrap(mean, 40, groups=events)
    assert float(together) > 2 * float(alone)


def test_roc_curve_by_hand() -> None:
    background, signal, threshold = roc_curve(
        np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False])
    )
    assert background.tolist() == [0, 0, 0.5, 1]
    assert signal.tolist() == [0, 0.5, 1, 1]
    assert threshold.tolist() == [math.inf, 0.9, 0.8, 0.1]


def test_a_weighted_fraction_of_all_or_none_has_no_known_error() -> None:
    weight = np.array([1.0, 2.0, -0.5])
    for passed, value in ((np.ones(3, bool), 1.0), (np.zeros(3, bool), 0.0)):
        found = efficiency(passed, weight)
        assert found.value == value
        assert math.isnan(found.error)


def test_the_distance_is_kolmogorovs() -> None:
    rng = np.random.default_rng(5)
    chosen, random = rng.normal(0.5, 1, (300, 2)), rng.normal(0, 1, (300, 7))
    chosen[:3, 0] = np.nan
    found = distance(chosen, random)
    expected = stats.ks_2samp(chosen[np.isfinite(chosen)], random.ravel()).statistic
    assert found.value == pytest.approx(expected)
    assert 0.01 < found.error < 0.05
    ties = distance(np.ones((5, 1)), np.ones((5, 2)))
    assert ties.value == 0
    doubled = distance(chosen[:50], random[:50], np.full(50, 2.0))
    assert doubled.value == pytest.approx(distance(chosen[:50], random[:50]).value)
    assert math.isnan(distance(np.full((3, 1), np.nan), np.ones((3, 1))).value)


@pytest.mark.parametrize("total", [3, 50, 100_000])
def test_the_limit_on_an_efficiency_is_clopper_and_pearsons(total: int) -> None:
    exact = stats.binomtest(0, total, alternative="less").proportion_ci(0.95).high
    assert largest_efficiency(total) == pytest.approx(exact)
    assert largest_efficiency(total, 0.9) == pytest.approx(1 - 0.1 ** (1 / total))
    assert largest_efficiency(0) == 1


def test_the_effective_number_counts_events_and_weights() -> None:
    assert effective_number(7) == 7
    assert effective_number(4, np.full(4, 3.0)) == pytest.approx(4)
    assert effective_number(2, np.array([1.0, 3.0])) == pytest.approx(16 / 10)
    assert effective_number(5, groups=np.array([3, 3, 8, 9, 9])) == 3
    assert effective_number(0, np.zeros(0)) == 0
