"""Permutation within blocks, corrected resampling, Holm and stability."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from neurosae.errors import UserError
from neurosae.inference import (
    arrangements,
    corrected_resampled_test,
    count_arrangements,
    holm,
    nogueira_stability,
    permutation_p,
    sign_flips,
    smallest_p,
)

PAIRS = np.array([1, -1] * 20), np.repeat(np.arange(20), 2)


def stimuli(design: str, n_blocks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and blocks that suit a design, in random order."""
    rng = np.random.default_rng(seed)
    size = 2 if design == "pairs" else 4
    labels = np.concatenate([rng.permutation([1, -1] * (size // 2)) for _ in range(n_blocks)])
    order = rng.permutation(len(labels))
    return labels[order], np.repeat([f"block {i}" for i in range(n_blocks)], size)[order]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["pairs", "families", "interaction", "unpaired"]), st.integers(1, 12), st.integers(0, 100))
def test_arrangements_respect_their_blocks(design: str, n_blocks: int, seed: int) -> None:
    labels_S, blocks_S = stimuli(design, n_blocks, seed)
    rows_BS = arrangements(labels_S, blocks_S, 30, seed, design)
    assert rows_BS.dtype == np.int8
    assert np.isin(rows_BS, (-1, 1)).all()
    assert len(rows_BS) == min(30, count_arrangements(labels_S, blocks_S, design) - 1)
    if design == "unpaired":
        assert (rows_BS.sum(axis=1) == labels_S.sum()).all()
        return
    for block in np.unique(blocks_S):
        inside = rows_BS[:, blocks_S == block]
        assert (inside.sum(axis=1) == 0).all()
        if design == "interaction":
            agree = inside == labels_S[blocks_S == block]
            assert (agree.all(axis=1) | ~agree.any(axis=1)).all()


@pytest.mark.parametrize("design", ["pairs", "families", "interaction", "unpaired"])
def test_a_draw_depends_on_the_seed_and_its_number_only(design: str) -> None:
    labels_S, blocks_S = PAIRS
    long = arrangements(labels_S, blocks_S, 50, 3, design)
    assert np.array_equal(arrangements(labels_S, blocks_S, 20, 3, design), long[:20])
    assert not np.array_equal(arrangements(labels_S, blocks_S, 50, 4, design), long)


@pytest.mark.parametrize(
    ("design", "size", "n_blocks", "total"),
    [("pairs", 2, 5, 2**5), ("interaction", 4, 5, 2**5), ("families", 4, 3, 6**3), ("unpaired", 4, 2, math.comb(8, 4))],
)
def test_few_arrangements_are_enumerated_once_without_the_observed(
    design: str, size: int, n_blocks: int, total: int
) -> None:
    labels_S, blocks_S = np.array([1, -1] * (size * n_blocks // 2)), np.repeat(np.arange(n_blocks), size)
    assert count_arrangements(labels_S, blocks_S, design) == total
    rows_BS = arrangements(labels_S, blocks_S, total - 1, 0, design)
    assert len(np.unique(rows_BS, axis=0)) == len(rows_BS) == total - 1
    assert not (rows_BS == labels_S).all(axis=1).any()
    assert len(arrangements(labels_S, blocks_S, total - 2, 0, design)) == total - 2


def test_every_arrangement_is_equally_likely() -> None:
    labels_S, blocks_S = np.array([1, -1] * 6), np.repeat(np.arange(6), 2)
    rows_BS = arrangements(labels_S, blocks_S, 60, 0, "pairs")
    assert len(rows_BS) == 60  # fewer than the 63 others, so drawn at random
    many = np.concatenate([arrangements(labels_S, blocks_S, 60, seed, "pairs") for seed in range(60)])
    counts = np.unique(many[:, ::2] @ (2 ** np.arange(6)), return_counts=True)[1]
    assert len(counts) == 64
    assert stats.chisquare(counts).pvalue > 1e-4


def test_families_at_random_hit_every_permutation_of_a_block() -> None:
    labels_S, blocks_S = np.array([1, 1, -1, -1] * 4), np.repeat(np.arange(4), 4)
    rows_BS = arrangements(labels_S, blocks_S, 1200, 0, "families")
    codes, counts = np.unique(rows_BS[:, :4], axis=0, return_counts=True)
    assert len(codes) == 6
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(
    ("design", "labels", "blocks", "message"),
    [
        ("pairs", [1, -1, -1], [0, 0, 0], "one target and one foil"),
        ("interaction", [1, 1, -1, -1], [0, 0, 1, 1], "only targets or only foils"),
        ("families", [1, 1, -1, -1], [0, 0, 1, 1], "nothing can be permuted"),
        ("unpaired", [1, 1], [0, 1], "nothing can be permuted"),
        ("pair", [1, -1], [0, 0], "Did you mean 'pairs'"),
        ("pairs", [1, 0], [0, 0], r"\+1"),
    ],
)
def test_designs_that_do_not_fit_are_refused(design: str, labels: list[int], blocks: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        arrangements(labels, blocks, 10, 0, design)


def test_sign_flips_are_every_one_or_random() -> None:
    assert len(np.unique(sign_flips(8, 10_000, 0), axis=0)) == 255
    assert sign_flips(14, 10_000, 0).shape == (10_000, 14)
    assert np.array_equal(sign_flips(14, 30, 2)[:10], sign_flips(14, 10, 2))


def test_permutation_p_counts_ties_and_never_reaches_zero() -> None:
    assert permutation_p(3.0, [1.0, 2.0, 3.0, 4.0]) == 3 / 5
    assert permutation_p(3.0, [1.0, 2.0, 3.0, 4.0], "less") == 4 / 5
    assert permutation_p(-3.0, [-1.0, 2.0, 3.0, -4.0], "two-sided") == 3 / 5
    assert permutation_p(9.0, np.zeros(99)) == smallest_p(99) == 0.01
    assert permutation_p(0.1 + 0.2, [0.3]) == 1.0
    assert permutation_p(-0.3, [-0.1 - 0.2], "less") == 1.0
    np.testing.assert_allclose(permutation_p([0.0, 9.0], np.zeros((9, 2))), [1.0, 0.1])
    with pytest.raises(UserError, match="finite"):
        permutation_p(np.nan, [0.0])


@pytest.mark.parametrize("tail", ["greater", "less", "two-sided"])
def test_exhaustive_sign_flips_give_the_exact_p(tail: str) -> None:
    values = np.random.default_rng(0).normal(0.4, 1, 9)
    null = sign_flips(9, 10_000, 0) @ values / 9
    exact = stats.permutation_test((values,), np.mean, permutation_type="samples", alternative=tail, n_resamples=np.inf)
    np.testing.assert_allclose(permutation_p(values.mean(), null, tail), exact.pvalue)


def test_corrected_resampled_test_by_hand() -> None:
    deltas = np.random.default_rng(0).normal(0.05, 0.1, (10, 5))
    test = corrected_resampled_test(deltas, 0.8)
    error = np.sqrt(deltas.var(ddof=1) * (1 / 50 + 1 / 4))
    assert test.df == 49
    np.testing.assert_allclose(test.mean, deltas.mean())
    np.testing.assert_allclose(test.p, 2 * stats.t.sf(deltas.mean() / error, 49))
    np.testing.assert_allclose((test.ci_low, test.ci_high), stats.t.interval(0.95, 49, deltas.mean(), error))


def test_corrected_resampled_test_without_spread_and_without_data() -> None:
    assert corrected_resampled_test(np.full((2, 5), 0.1), 0.8)[1:] == (0.1, 0.1, 0.0, 9)
    assert corrected_resampled_test(np.zeros((2, 5)), 0.8) == (0.0, 0.0, 0.0, 1.0, 9)
    with pytest.raises(UserError, match="finite"):
        corrected_resampled_test([0.1, np.nan], 0.8)
    with pytest.raises(UserError, match="share"):
        corrected_resampled_test([0.1, 0.2], 1.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p: list[float]) -> None:
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def published_stability(Z: np.ndarray) -> tuple[float, float]:
    """Estimator and its standard error, term by term as printed in Nogueira et al. 2018."""
    M, d = Z.shape
    p_f = Z.mean(axis=0)
    k_bar, denominator = p_f.sum(), (p_f.sum() / d) * (1 - p_f.sum() / d)
    value = 1 - np.mean(M / (M - 1) * p_f * (1 - p_f)) / denominator
    phi = np.array(
        [
            (
                np.mean(z * p_f)
                - z.sum() * k_bar / d**2
                + value / 2 * (2 * z.sum() * k_bar / d**2 - z.sum() / d - k_bar / d + 1)
            )
            / denominator
            for z in Z
        ]
    )
    return value, np.sqrt(4 / M**2 * np.sum((phi - phi.mean()) ** 2))


def test_stability_is_the_published_formula() -> None:
    rng = np.random.default_rng(0)
    Z = rng.random((12, 30)) < np.linspace(0.02, 0.9, 30)
    value, error = published_stability(Z.astype(float))
    ours = nogueira_stability([np.flatnonzero(z) for z in Z], 30)
    np.testing.assert_allclose(
        [ours.value, ours.ci_low, ours.ci_high], [value, *stats.norm.interval(0.95, value, error)]
    )


def test_stability_of_random_identical_and_undefined_selections() -> None:
    rng = np.random.default_rng(1)
    random = [rng.choice(200, 20, replace=False) for _ in range(200)]
    chance = nogueira_stability(random, 200)
    assert abs(chance.value) < 0.01
    same = nogueira_stability([[3, 5]] * 4, 9)
    np.testing.assert_allclose([same.value, same.ci_low, same.ci_high], 1.0)
    undefined = nogueira_stability([[0, 1]] * 4, 2)
    assert np.isnan(undefined.value)
    assert undefined.reason
    with pytest.raises(UserError, match="at least two"):
        nogueira_stability([[0]], 3)
    with pytest.raises(UserError, match="repeated"):
        nogueira_stability([[0, 0], [1, 2]], 3)
