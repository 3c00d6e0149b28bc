"""Statistics over runs: numbers worked out by hand, and agreement with scipy."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from rlox.errors import ConfigError
from rlox.runs import aggregate
from rlox.runs.aggregate import (
    difference,
    improvement_interval,
    iqm,
    mean,
    probability_of_improvement,
    stratified_bootstrap,
    summarize,
)

FIVE = [-151.2, -143.9, -170.4, -160.0, -149.5]
OTHER = [-165.0, -158.1, -149.5, -181.3, -172.2]


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([3.0], 3.0),
        ([1.0, 2.0, 6.0], 3.0),  # fewer than four: nothing is left out
        ([4.0, 1.0, 100.0, 3.0], 3.5),
        ([1.0, 2.0, 3.0, 4.0, 100.0], 3.0),
        ([8, 1, 2, 3, 4, 5, 6, 7], 4.5),
        ([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3.0),
    ],
)
def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end(scores, expected):
    assert iqm(scores) == pytest.approx(expected)


@pytest.mark.parametrize("n", range(1, 40))
def test_the_interquartile_mean_is_scipys_trimmed_mean(n):
    scores = np.random.default_rng(n).normal(size=(3, n))
    np.testing.assert_allclose(iqm(scores), stats.trim_mean(scores, 0.25, axis=1))
    np.testing.assert_allclose(iqm(scores, axis=0), stats.trim_mean(scores, 0.25, axis=0))


def every_resample(scores):
    """All n^n resamples of a few scores: the exact distribution that a bootstrap draws from."""
    return np.array(list(itertools.product(scores, repeat=len(scores))))


def test_the_interval_is_that_of_all_resamples():
    exact = np.quantile(iqm(every_resample(FIVE)), [0.025, 0.975])
    np.testing.assert_allclose(stratified_bootstrap([FIVE], n_resamples=200_000), exact, atol=0.15)


def test_with_two_scores_the_interval_ends_at_them():
    assert stratified_bootstrap([[1.0, 5.0]]) == (1.0, 5.0)
    assert stratified_bootstrap([[1.0, 5.0]], level=0.4) == (3.0, 3.0)  # half of the resamples have one of each


@pytest.mark.parametrize("statistic", [iqm, mean])
@pytest.mark.parametrize("n", [5, 10, 37])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_agrees_with_scipys_bootstrap(statistic, n, level):
    scores = np.random.default_rng(n).normal(-150, 12, size=n)
    theirs = stats.bootstrap(
        (scores,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis) if statistic is iqm else x.mean(axis),
        n_resamples=20_000, confidence_level=level, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    ours = stratified_bootstrap([scores], statistic, level=level, n_resamples=20_000)
    np.testing.assert_allclose(ours, [theirs.low, theirs.high], atol=0.02 * scores.std() + 0.1)


def test_runs_are_resampled_within_their_environment_only():
    # In either environment all runs are equal: whatever is drawn, the statistic is the same.
    assert stratified_bootstrap([[0.0, 0.0, 0.0], [10.0, 10.0, 10.0]], mean) == (5.0, 5.0)
    low, high = stratified_bootstrap([[0.0, 0.0, 0.0, 10.0, 10.0, 10.0]], mean)
    assert low < 2.0 and high > 8.0


def test_strata_agree_with_a_bootstrap_written_out():
    strata = [np.array(FIVE), np.array([3.0, 9.0, 4.0]), np.array([1.0])]
    draws = np.random.default_rng(5)
    values = [
        stats.trim_mean(np.concatenate([draws.choice(s, len(s)) for s in strata]), 0.25) for _ in range(20_000)
    ]
    theirs = np.quantile(values, [0.025, 0.975])
    np.testing.assert_allclose(stratified_bootstrap(strata, n_resamples=50_000), theirs, atol=1.0)


def test_a_seed_gives_the_same_interval_and_another_a_near_one():
    scores = [np.random.default_rng(0).normal(size=9)]
    assert stratified_bootstrap(scores) == stratified_bootstrap(scores)
    assert stratified_bootstrap(scores) != stratified_bootstrap(scores, seed=1)
    np.testing.assert_allclose(stratified_bootstrap(scores), stratified_bootstrap(scores, seed=1), atol=0.05)


def test_a_large_group_is_drawn_in_blocks(monkeypatch):
    scores = [np.random.default_rng(0).normal(size=50)]
    whole = stratified_bootstrap(scores, n_resamples=300), improvement_interval(scores, [FIVE], n_resamples=300)
    monkeypatch.setattr(aggregate, "_BLOCK", 1000)
    assert sum(aggregate._blocks(300, 50)) == 300
    in_blocks = stratified_bootstrap(scores, n_resamples=300), improvement_interval(scores, [FIVE], n_resamples=300)
    np.testing.assert_allclose(in_blocks[0], whole[0], atol=0.1)
    np.testing.assert_allclose(in_blocks[1], whole[1], atol=0.05)


def test_one_run_has_no_interval():
    for interval in (stratified_bootstrap([[3.0]]), stratified_bootstrap([[3.0], [4.0]]),
                     improvement_interval([[1.0]], [[2.0]]), difference([[1.0]], [[2.0]])[1:]):  # fmt: skip
        assert all(map(math.isnan, interval))


@pytest.mark.parametrize(
    "x, y, expected",
    [
        ([1.0], [0.0], 1.0),
        ([0.0], [1.0], 0.0),
        ([2.0], [2.0], 0.5),
        ([1.0, 3.0], [2.0, 3.0], 0.375),  # 3 > 2, 3 = 3: (1 + 1/2) / 4
        ([1.0, 2.0, 3.0], [2.5, 0.5], 4 / 6),
    ],
)
def test_the_probability_of_improvement_counts_pairs_and_half_the_ties(x, y, expected):
    assert probability_of_improvement([x], [y]) == pytest.approx(expected)
    assert probability_of_improvement([y], [x]) == pytest.approx(1 - expected)


@pytest.mark.parametrize("seed", range(10))
def test_the_probability_of_improvement_is_scipys_mann_whitney(seed):
    draws = np.random.default_rng(seed)
    x, y = draws.integers(0, 6, draws.integers(1, 20)), draws.integers(0, 6, draws.integers(1, 20))  # with ties
    u = stats.mannwhitneyu(x, y, method="asymptotic").statistic
    assert probability_of_improvement([x], [y]) == pytest.approx(u / (len(x) * len(y)))


def test_the_probability_of_improvement_is_averaged_over_environments():
    x, y = [[1.0, 3.0], [10.0] * 50], [[2.0, 3.0], [9.0]]
    assert probability_of_improvement(x, y) == pytest.approx((0.375 + 1.0) / 2)  # not weighted by runs


def test_the_interval_of_the_probability_is_that_of_all_resamples():
    x, y = [1.0, 3.0, 4.0], [2.0, 3.0, 3.5]
    exact = [
        probability_of_improvement([a], [b]) for a in every_resample(x) for b in every_resample(y)
    ]  # 729 pairs of resamples
    expected = np.quantile(exact, [0.025, 0.975])
    np.testing.assert_allclose(improvement_interval([x], [y], n_resamples=100_000), expected, atol=0.03)


def test_the_interval_of_the_probability_agrees_with_scipys_bootstrap():
    def share(x, y, axis):
        u = stats.mannwhitneyu(x, y, axis=axis, method="asymptotic").statistic
        return u / (x.shape[-1] * y.shape[-1])

    theirs = stats.bootstrap((np.array(FIVE), np.array(OTHER)), share, n_resamples=20_000, method="percentile",
                             rng=np.random.default_rng(2)).confidence_interval  # fmt: skip
    assert improvement_interval([FIVE], [OTHER]) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_separated_groups_have_a_certain_improvement():
    assert improvement_interval([[5.0, 6.0]], [[1.0, 2.0]]) == (1.0, 1.0)


def test_the_difference_agrees_with_scipys_bootstrap():
    def apart(x, y, axis):
        return stats.trim_mean(x, 0.25, axis=axis) - stats.trim_mean(y, 0.25, axis=axis)

    draws = np.random.default_rng(3)
    x, y = draws.normal(0, 1, 12), draws.normal(1, 2, 15)
    theirs = stats.bootstrap((x, y), apart, n_resamples=20_000, method="percentile", rng=draws).confidence_interval
    point, low, high = difference([x], [y], n_resamples=20_000)
    assert point == pytest.approx(stats.trim_mean(x, 0.25) - stats.trim_mean(y, 0.25))
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.06)


def test_the_difference_is_that_of_the_interquartile_means():
    point, low, high = difference([FIVE], [OTHER])
    assert point == pytest.approx(np.mean([-151.2, -160.0, -149.5]) - np.mean([-165.0, -158.1, -172.2]))
    assert low < point < high
    swapped = difference([OTHER], [FIVE])
    assert swapped[0] == pytest.approx(-point)


def test_a_summary_has_the_figures_of_its_runs():
    s = summarize([FIVE])
    assert (s.n, s.mean, s.median) == (5, pytest.approx(-155.0), -151.2)
    assert s.std == pytest.approx(math.sqrt((3.8**2 + 11.1**2 + 15.4**2 + 5.0**2 + 5.5**2) / 4))
    assert s.iqm == pytest.approx((-151.2 - 160.0 - 149.5) / 3)
    assert (s.low, s.high) == stratified_bootstrap([FIVE])
    assert math.isnan(summarize([[1.0]]).std)


@pytest.mark.parametrize("bad", [[], [[]], [[1.0], []], [[[1.0, 2.0]]]])
def test_scores_that_are_no_rows_are_refused(bad):
    with pytest.raises(ConfigError, match="must be one row of at least one score"):
        stratified_bootstrap(bad)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(value):
    for call in (stratified_bootstrap, lambda s: probability_of_improvement(s, [[1.0]]), summarize):
        with pytest.raises(ConfigError, match="1 scores that are NaN or infinite"):
            call([[1.0, value]])


def test_groups_of_different_environments_are_refused():
    with pytest.raises(ConfigError, match="x has 2 environments and y has 1"):
        probability_of_improvement([[1.0], [2.0]], [[1.0]])


def test_levels_and_numbers_out_of_range_are_refused():
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="level is"):
            stratified_bootstrap([FIVE], level=level)
    with pytest.raises(ConfigError, match="n_resamples is 0"):
        difference([FIVE], [OTHER], n_resamples=0)


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(aggregate).failed == 0
