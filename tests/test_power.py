"""Power of t-tests, and the bootstrap over items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats._resampling import BootstrapResult
from statsmodels.stats.power import TTestIndPower, TTestPower

from neurosae.errors import UserError
from neurosae.inference import bootstrap_interval, pairs_needed, power_of, resampling_weights


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 2), st.integers(3, 300), st.sampled_from([0.05, 0.01]), st.sampled_from([1, 100]))
def test_power_is_statsmodels(d: float, n: int, alpha: float, n_tests: int) -> None:
    for design, theirs in (("pairs", TTestPower()), ("unpaired", TTestIndPower())):
        expected = theirs.power(d, n, alpha / n_tests)
        if np.isnan(expected):  # theirs fails where the probability of the wrong sign is too small
            expected = theirs.power(d, n, alpha / n_tests / 2, alternative="larger")
        np.testing.assert_allclose(power_of(-d, n, alpha=alpha, n_tests=n_tests, design=design), expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.02, 5), st.floats(0.2, 0.99), st.integers(1, 10**6), st.sampled_from(["pairs", "unpaired"]))
def test_pairs_needed_is_the_smallest_number_that_reaches_the_power(
    d: float, power: float, n_tests: int, design: str
) -> None:
    n = pairs_needed(d, power, n_tests=n_tests, design=design)
    assert power_of(d, n, n_tests=n_tests, design=design) >= power
    assert n == 2 or power_of(d, n - 1, n_tests=n_tests, design=design) < power


def test_pairs_needed_agrees_with_statsmodels_and_with_simulated_experiments(rng: np.random.Generator) -> None:
    for d in (0.2, 0.5, 0.8):
        assert pairs_needed(d) == np.ceil(TTestPower().solve_power(d, power=0.8, alpha=0.05))
        assert pairs_needed(d, design="unpaired") == np.ceil(TTestIndPower().solve_power(d, power=0.8, alpha=0.05))
    n, trials = pairs_needed(0.6, n_tests=20), 4000
    found = stats.ttest_1samp(rng.normal(0.6, size=(n, trials)), 0).pvalue <= 0.05 / 20
    low, high = stats.binom.interval(0.999, trials, power_of(0.6, n, n_tests=20))
    assert low <= found.sum() <= high


def test_what_has_no_power_is_refused() -> None:
    with pytest.raises(UserError, match="more than a billion"):
        pairs_needed(0.0)
    for bad in ({"d": np.nan}, {"d": 0.5, "alpha": 0.0}, {"d": 0.5, "n_tests": 0}):
        with pytest.raises(UserError):
            pairs_needed(**bad)
    with pytest.raises(UserError, match="power is 1"):
        pairs_needed(0.5, power=1.0)
    with pytest.raises(UserError, match="n = 1"):
        power_of(0.5, 1)
    with pytest.raises(UserError, match="Did you mean 'pairs'"):
        power_of(0.5, 10, design="pair")


def mean_of(x_S: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda weights_BS: weights_BS @ x_S / weights_BS.sum(axis=1)


def test_groups_are_resampled_whole_and_a_draw_depends_on_seed_and_number_only() -> None:
    groups_S = np.array(["b", "a", "c", "a", "b", "d"])
    weights_BS = resampling_weights(groups_S, 500, seed=3)
    assert np.array_equal(weights_BS[:, 0], weights_BS[:, 4])
    assert np.array_equal(weights_BS[:, 1], weights_BS[:, 3])
    assert (weights_BS[:, [0, 1, 2, 5]].sum(axis=1) == 4).all()
    assert np.array_equal(resampling_weights(groups_S, 20, seed=3), weights_BS[:20])
    np.testing.assert_allclose(weights_BS.mean(axis=0), 1, atol=0.15)


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_intervals_of_the_same_draws_are_scipys(rng: np.random.Generator, method: str, level: float) -> None:
    x_S = rng.exponential(size=25)

    def variance(weights_BS: np.ndarray) -> np.ndarray:
        mean_B = mean_of(x_S)(weights_BS)
        return mean_of(x_S**2)(weights_BS) - mean_B**2

    ours = bootstrap_interval(variance, np.arange(25), n=999, level=level, method=method)
    draws = BootstrapResult(None, ours.draws_B, 0.0)
    scipys = stats.bootstrap(
        (x_S,), np.var, n_resamples=0, bootstrap_result=draws, confidence_level=level, method=method
    ).confidence_interval
    np.testing.assert_allclose([ours.low, ours.high], scipys, rtol=1e-9)
    np.testing.assert_allclose(ours.estimate, x_S.var())


def test_statistics_of_any_shape_are_many_single_ones(rng: np.random.Generator) -> None:
    x_SK, groups_S = rng.gamma(1, size=(40, 6)), np.repeat(np.arange(20), 2)

    def means(weights_BS: np.ndarray) -> np.ndarray:
        return (weights_BS @ x_SK / weights_BS.sum(axis=1, keepdims=True)).reshape(-1, 2, 3)

    together = bootstrap_interval(means, groups_S, n=300, block_size=7)
    assert together.low.shape == (2, 3)
    for k in range(6):
        alone = bootstrap_interval(mean_of(x_SK[:, k]), groups_S, n=300)
        np.testing.assert_allclose(together.low.ravel()[k], alone.low)
        np.testing.assert_allclose(together.high.ravel()[k], alone.high)


def test_intervals_cover_the_mean_of_a_skewed_population() -> None:
    rng, hits, trials = np.random.default_rng(0), 0, 300
    for seed in range(trials):
        interval = bootstrap_interval(mean_of(rng.exponential(size=40)), np.arange(40), n=400, seed=seed)
        hits += interval.low <= 1 <= interval.high
    assert hits >= stats.binom.ppf(0.001, trials, 0.92)  # nominally .95; BCa is a little short at n = 40
    assert hits <= stats.binom.ppf(0.999, trials, 0.96)


def test_groups_that_vary_together_widen_the_interval(rng: np.random.Generator) -> None:
    x_S = np.repeat(rng.normal(size=15), 10)
    by_item = bootstrap_interval(mean_of(x_S), np.repeat(np.arange(15), 10), n=500)
    by_row = bootstrap_interval(mean_of(x_S), np.arange(150), n=500)
    assert by_item.high - by_item.low > 2 * (by_row.high - by_row.low)


def test_what_cannot_be_resampled_is_refused_or_counted(rng: np.random.Generator) -> None:
    x_S = rng.normal(size=20)
    with pytest.raises(UserError, match="7 groups"):
        bootstrap_interval(mean_of(x_S[:7]), np.arange(7))

    def among_few(n: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda w_BS: np.where(w_BS[:, :n].sum(axis=1) > 0, mean_of(x_S)(w_BS), np.nan)

    assert 0 < bootstrap_interval(among_few(4), np.arange(20), n=500).n_undefined < 25
    with pytest.raises(UserError, match=r"undefined for \d+ of 500 resamples"):
        bootstrap_interval(among_few(2), np.arange(20), n=500)
    with pytest.raises(UserError, match="one group is left out"):
        bootstrap_interval(lambda w_BS: np.where(w_BS[:, 0] == 0, np.nan, 1.0), np.arange(20), n=300, level=0.5)
    with pytest.raises(UserError, match="the items themselves"):
        bootstrap_interval(lambda w_BS: np.full(len(w_BS), np.nan), np.arange(20))
    with pytest.raises(UserError, match="level"):
        bootstrap_interval(mean_of(x_S), np.arange(20), level=95)
    with pytest.raises(UserError, match="Did you mean 'percentile'"):
        bootstrap_interval(mean_of(x_S), np.arange(20), method="percent")
    constant = bootstrap_interval(lambda w_BS: np.full(len(w_BS), 0.3), np.arange(20), n=50)
    assert (constant.low, constant.estimate, constant.high) == (0.3, 0.3, 0.3)
