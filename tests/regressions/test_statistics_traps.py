"""Traps that other packages fell into; test_peers.py shows some of them at work.

Elsewhere: selection before the split and pairs in different folds (test_decoding_mistakes.py), NaN from silent stimuli
(test_rsa_mistakes.py), batches of the forward pass (test_capture.py).
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neurosae import rsa
from neurosae.decoding import decode, make_design
from neurosae.decoding.selection import SELECTORS, scores
from neurosae.errors import UserError
from neurosae.inference import (
    adjust,
    arrangements,
    bootstrap_interval,
    corrected_resampled_test,
    max_t,
    null_statistics,
    permutation_p,
    test_contrast,
)
from neurosae.inference.heldout import summarise_held_out
from neurosae.inference.linear import T_CAP
from neurosae.rdms import crossnobis, noise_ceiling
from neurosae.rsa import Reason

LABELS, PAIR, FAMILY = np.array([1, -1, -1, 1] * 6), np.repeat(np.arange(12), 2), np.repeat(np.arange(6), 4)
BLOCKS = {"unpaired": None, "pairs": PAIR, "families": FAMILY, "interaction": FAMILY}


@pytest.mark.parametrize("design", BLOCKS)
@pytest.mark.parametrize("scale", [1.0, 1 / 3, 1e-7, 1e9])
def test_trap_a_feature_identical_to_the_regressor_is_the_strongest_effect(
    rng: np.random.Generator, design: str, scale: float
) -> None:
    """Elsewhere its t was NaN, so that it looked null."""
    Y_SF = np.column_stack([scale * LABELS, 0.1 - scale * LABELS, rng.normal(size=(24, 3))])
    result = max_t(Y_SF, LABELS, BLOCKS[design], design, n=99)
    assert result.observed.t[:2].tolist() == [T_CAP, -T_CAP]
    assert result.observed.reason[:2].tolist() == [Reason.PERFECT_SEPARATION] * 2
    assert (result.p_fwe[:2] == result.smallest_p).all()
    assert (result.p_fwe[2:] > result.smallest_p).all()
    assert all(np.isfinite(values).all() for values in (result.null_max_B, result.p, result.observed.p))


def test_trap_a_rating_identical_to_a_feature(rng: np.random.Generator) -> None:
    for n in range(10, 60):
        rating_S = rng.normal(size=n)
        test = test_contrast(rating_S[:, None], rating_S, rng.normal(size=(n, 2)))
        assert test.t[0] == T_CAP
        assert test.effect[0] == pytest.approx(1)


@pytest.mark.parametrize("design", BLOCKS)
@pytest.mark.parametrize("level", [2.0, 0.1, 1 / 3, 1e5 + 0.1, 1e-12])
def test_trap_a_constant_column_is_no_test(rng: np.random.Generator, design: str, level: float) -> None:
    """Elsewhere its t was 1, or whatever the rounding of its mean left."""
    Y_SF = np.full((24, 1), level)
    for nuisance_SP in (None, rng.normal(size=24)):
        test = test_contrast(Y_SF, LABELS, nuisance_SP, blocks_S=BLOCKS[design], design=design)
        assert (test.t[0], test.effect[0], test.p[0], test.reason[0]) == (0, 0, 1, Reason.CONSTANT)
        result = max_t(Y_SF, LABELS, BLOCKS[design], design, nuisance_SP=nuisance_SP, n=19)
        assert result.p_fwe[0] == result.p[0] == 1


@pytest.mark.parametrize("design", BLOCKS)
def test_trap_silent_and_constant_columns_change_no_other_p_value(rng: np.random.Generator, design: str) -> None:
    """Elsewhere one silent column made every p-value of the family NaN, or 0."""
    Y_SF = rng.normal(size=(24, 5)) + 0.5 * np.outer(LABELS, np.arange(5))
    others_SF = np.column_stack([np.zeros((24, 2)), np.full(24, 0.1)])
    alone, among = (
        max_t(columns_SF, LABELS, BLOCKS[design], design, n=99)
        for columns_SF in (Y_SF, np.column_stack([others_SF, Y_SF]))
    )
    np.testing.assert_allclose(among.null_max_B, alone.null_max_B, rtol=1e-10)
    np.testing.assert_array_equal(among.p_fwe[3:], alone.p_fwe)
    np.testing.assert_array_equal(among.p[3:], alone.p)
    assert (among.p_fwe[:3] == 1).all()
    for method in ("bonferroni", "holm", "fdr"):
        adjusted_F = adjust(among.observed.p, method, valid_F=among.observed.valid)
        np.testing.assert_allclose(adjusted_F[3:], adjust(alone.observed.p, method), rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in SELECTORS if name != "random"])
def test_trap_silent_and_constant_columns_change_no_score(rng: np.random.Generator, name: str) -> None:
    P_SWF = rng.normal(size=(60, 8, 6))
    among_SWF = np.concatenate([np.zeros((60, 8, 1)), np.full((60, 8, 1), 0.1), P_SWF], axis=2)
    labels_S, clean_SW = np.tile([1, -1], 30), np.ones((60, 8), dtype=bool)
    alone, among = (
        scores(name, columns_SWF.mean(axis=1), labels_S, profiles=(columns_SWF, clean_SW))
        for columns_SWF in (P_SWF, among_SWF)
    )
    np.testing.assert_allclose(among.value[2:], alone.value, rtol=1e-10)
    assert alone.valid.all()
    assert not among.valid[:2].any()


@pytest.mark.parametrize("design", BLOCKS)
def test_trap_the_null_distribution_does_not_depend_on_the_number_of_jobs(
    rng: np.random.Generator, design: str
) -> None:
    Y_SF = rng.normal(size=(24, 37))
    covariate = rng.normal(size=24)
    one, *others = (
        max_t(Y_SF, LABELS, BLOCKS[design], design, nuisance_SP=covariate, n=301, n_jobs=n_jobs, block_size=5)
        for n_jobs in (1, 2, 3, 5)
    )
    for other in others:
        for name in ("null_max_B", "p", "p_fwe"):
            assert np.array_equal(getattr(other, name), getattr(one, name))


@pytest.mark.parametrize("tail", ["greater", "less"])
def test_trap_a_one_sided_test_has_a_one_sided_null(rng: np.random.Generator, tail: str) -> None:
    """Family-wise p of several features from scipy's list of arrangements; max|t| as the null would double it."""
    Y_SF, labels_S = rng.normal(size=(9, 3)), np.repeat([1, -1], [5, 4])
    sign = 1 if tail == "greater" else -1
    result = max_t(Y_SF, labels_S, None, "unpaired", n=1000, tail=tail)
    assert result.exhaustive

    def largest(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.max(sign * stats.ttest_ind(Y_SF[a.astype(int)], Y_SF[b.astype(int)]).statistic))

    null_B = stats.permutation_test((np.arange(5), np.arange(5, 9)), largest, vectorized=False).null_distribution
    assert len(null_B) == 126
    t_F = sign * result.observed.t
    np.testing.assert_allclose(result.p_fwe, (null_B[:, None] >= t_F - 1e-9).mean(axis=0))
    two_sided = max_t(Y_SF, labels_S, None, "unpaired", n=1000)
    assert result.p_fwe[np.argmax(t_F)] < two_sided.p_fwe[np.argmax(t_F)]


def test_trap_float32_data_with_an_offset_keep_their_distances(rng: np.random.Generator) -> None:
    """|a|^2 + |b|^2 - 2 a'b in float32 loses every digit of a distance of 1 at an offset of 10,000."""
    X_SF = (rng.normal(size=(24, 4)) + 1e4).astype(np.float32)
    exact_SF = X_SF.astype(np.float64) - 1e4  # exact: the difference of neighbouring numbers
    i_P, j_P = np.triu_indices(24, 1)
    x_S = X_SF[:, 0]
    trick_P = x_S[i_P] ** 2 + x_S[j_P] ** 2 - 2 * x_S[i_P] * x_S[j_P]
    true_P = (exact_SF[i_P, 0] - exact_SF[j_P, 0]) ** 2
    assert stats.pearsonr(trick_P, true_P).statistic < 0.9
    rating_RDM = np.abs(np.subtract.outer(np.arange(24.0), np.arange(24.0)))
    for value, expected in (
        (rsa.score_scalar(X_SF, LABELS).value, rsa.score_scalar(exact_SF, LABELS).value),
        (rsa.score_model(X_SF, rating_RDM).value, rsa.score_model(exact_SF, rating_RDM).value),
        (test_contrast(X_SF, LABELS).t, stats.ttest_ind(exact_SF[LABELS > 0], exact_SF[LABELS < 0]).statistic),
        (scores("t", X_SF, LABELS).value, scores("t", exact_SF, LABELS).value),
        (crossnobis(X_SF, LABELS, FAMILY).table_CC, crossnobis(exact_SF, LABELS, FAMILY).table_CC),
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        rsa.score_model(X_SF, rating_RDM).value[0], stats.pearsonr(rating_RDM[i_P, j_P], true_P).statistic, rtol=1e-6
    )


def test_trap_an_unbiased_distance_stays_squared_and_may_be_negative(rng: np.random.Generator) -> None:
    """Without a difference it is 0 on average, so that a root would be NaN for about half of the data."""
    distances = np.array([crossnobis(rng.normal(size=(24, 6)), LABELS, FAMILY).table_CC[0, 1] for _ in range(400)])
    assert np.isfinite(distances).all()
    assert abs(distances.mean()) < 4 * distances.std(ddof=1) / 20
    assert 0.4 < (distances < 0).mean() < 0.75


def test_trap_one_rdm_has_no_noise_ceiling(rng: np.random.Generator) -> None:
    one_SS = np.abs(np.subtract.outer(*2 * [rng.normal(size=6)]))
    with pytest.raises(UserError, match=r"\[1, 1\]"):
        noise_ceiling(one_SS[None])


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_trap_a_bootstrap_of_few_items_is_refused_or_finite(method: str) -> None:
    """Resamples that drew a single condition have no value; they are counted, and never become NaN."""
    outcomes = []
    for n in range(2, 16):
        y_S, target_S = np.random.default_rng(n).normal(size=n), np.arange(n) % 2 == 0

        def difference(w_BS: np.ndarray, y_S: np.ndarray = y_S, target_S: np.ndarray = target_S) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                sides = [(w_BS * side_S) @ y_S / (w_BS @ side_S.astype(float)) for side_S in (target_S, ~target_S)]
            return sides[0] - sides[1]

        try:
            interval = bootstrap_interval(difference, np.arange(n), n=400, method=method)
        except UserError as error:
            assert n < 8, error
            continue
        outcomes.append(interval.n_undefined)
        assert np.isfinite([interval.low, interval.high]).all()
        assert len(interval.draws_B) == 400 - interval.n_undefined
    assert max(outcomes) > 0
    assert len(outcomes) == 8


def test_trap_a_p_value_is_never_nan() -> None:
    assert corrected_resampled_test(np.full((2, 5), 0.1), 0.8).p == 0
    assert corrected_resampled_test(np.zeros((2, 5)), 0.8).p == 1
    for call in (
        lambda: permutation_p(np.nan, np.zeros(9)),
        lambda: permutation_p(0.0, [0.0, np.nan]),
        lambda: adjust([0.1, np.nan]),
        lambda: corrected_resampled_test([0.1, np.nan], 0.8),
    ):
        with pytest.raises(UserError):
            call()


def test_trap_one_permuted_run_is_no_chance_band(rng: np.random.Generator) -> None:
    pair_S, labels_S = np.repeat(np.arange(15), 2), np.tile([1, -1], 15)
    design = make_design(labels_S, pair_S, pair_S, "pairs", n_repeats=1, n_permutations=100)
    X_SF = rng.normal(size=(30, 5)) + labels_S[:, None]
    once, often = (decode(X_SF, design, "t", [2], "mean_difference", n_permutations=n)[0] for n in (1, 100))
    assert np.isnan([once.auroc.chance_low, once.auroc.chance_high]).all()
    assert "100 permutations, there are 1" in once.auroc.chance_reason
    assert once.auroc.p == once.smallest_p == 0.5
    assert often.auroc.chance_low < 0.5 < often.auroc.chance_high
    assert summarise_held_out(np.full((1, 5), 0.7), np.full((99, 5), 0.5)).chance_reason
    assert not summarise_held_out(np.full((1, 5), 0.7), np.full((100, 5), 0.5)).chance_reason


def test_mistake_6_the_number_of_tests_is_controlled_for(rng: np.random.Generator) -> None:
    """The original tested thousands of latents at .05 each."""
    Y_SF = rng.normal(size=(24, 1000))
    result = max_t(Y_SF, LABELS, PAIR, "pairs", n=199)
    assert 20 < (result.p <= 0.05).sum() < 100  # a "finding" in every twentieth
    for p_F in (result.p_fwe, *(adjust(result.observed.p, method) for method in ("bonferroni", "fdr"))):
        assert (p_F > 0.05).all()


def test_mistake_6_null_statistics_are_over_items_not_pairs_of_stimuli(rng: np.random.Generator) -> None:
    """The same items written twice are no more evidence: the block is the unit, whatever its size."""
    y_S = rng.normal(size=24) + 0.4 * LABELS
    twice_S, labels_S, family_S = np.repeat(y_S, 2), np.repeat(LABELS, 2), np.repeat(PAIR, 2)
    once = test_contrast(y_S[:, None], LABELS, blocks_S=PAIR, design="pairs")
    twice = test_contrast(twice_S[:, None], labels_S, blocks_S=family_S, design="interaction")
    np.testing.assert_allclose([twice.t, twice.p, twice.df], [once.t, once.p, once.df])
    assert test_contrast(twice_S[:, None], labels_S).df[0] == 46  # what treating them as independent would claim
    rows_BS = arrangements(labels_S, family_S, 50, 0, "interaction")
    [(_, t_Bf)] = null_statistics(twice_S[:, None], labels_S, rows_BS, blocks_S=family_S, design="interaction")
    assert (rows_BS[:, ::2] == rows_BS[:, 1::2]).all()
    assert np.isfinite(t_Bf).all()
