"""Linear tests of every feature, their null statistics and max-T."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from neurosae.errors import UserError
from neurosae.inference import arrangements, max_t, null_statistics, permutation_p, test_contrast
from neurosae.inference.least_squares import permutations
from neurosae.inference.linear import T_CAP, LinearTest
from neurosae.rsa import Reason

UNPAIRED = np.repeat([1, -1], [14, 10])
PAIRED, PAIR = np.array([1, -1, -1, 1] * 6), np.repeat(np.arange(12), 2)
FAMILY = np.repeat(np.arange(6), 4)
DESIGNS = {
    "unpaired": (UNPAIRED, None),
    "pairs": (PAIRED, PAIR),
    "families": (PAIRED, FAMILY),
    "interaction": (PAIRED, FAMILY),
}


def latents(rng: np.random.Generator, n: int = 24, n_features: int = 30) -> np.ndarray:
    """Rare and frequent non-negative features, none of them silent."""
    Y_SF = rng.gamma(1.0, size=(n, n_features)) * (rng.random((n, n_features)) < np.linspace(0.06, 1, n_features))
    Y_SF[rng.integers(0, n, n_features), np.arange(n_features)] += 1
    return Y_SF


def same(ours: LinearTest, theirs: LinearTest, rtol: float = 1e-9) -> None:
    for name in ("effect", "se", "t", "df", "d", "p"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=rtol, atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(ours.reason, theirs.reason)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_unpaired_is_the_t_test_of_two_samples(rng: np.random.Generator, offset: float) -> None:
    Y_SF = rng.normal(size=(24, 8)) + offset
    a_SF, b_SF = Y_SF[UNPAIRED > 0], Y_SF[UNPAIRED < 0]
    for variance, equal_var in (("pooled", True), ("welch", False)):
        test, scipy_test = (
            test_contrast(Y_SF, UNPAIRED, variance=variance),
            stats.ttest_ind(a_SF, b_SF, equal_var=equal_var),
        )
        np.testing.assert_allclose(test.t, scipy_test.statistic, rtol=1e-7)
        np.testing.assert_allclose(test.p, scipy_test.pvalue, rtol=1e-7)
        np.testing.assert_allclose(test.df, scipy_test.df, rtol=1e-7)
        np.testing.assert_allclose(test.effect, a_SF.mean(axis=0) - b_SF.mean(axis=0), atol=1e-8)
        np.testing.assert_allclose(test.se, test.effect / test.t)
        a_F, b_F = a_SF.var(axis=0, ddof=1), b_SF.var(axis=0, ddof=1)
        s_F = np.sqrt((13 * a_F + 9 * b_F) / 22 if equal_var else (a_F + b_F) / 2)
        np.testing.assert_allclose(test.d, test.effect / s_F, rtol=1e-7)


def test_pairs_are_the_paired_t_test_however_they_are_written(rng: np.random.Generator) -> None:
    Y_SF = rng.normal(size=(24, 8)) + rng.normal(size=12)[PAIR, None]
    difference_PF = Y_SF[PAIRED > 0] - Y_SF[PAIRED < 0]
    expected = stats.ttest_1samp(difference_PF, 0)
    dummies_SP = (PAIR[:, None] == np.arange(12)).astype(float)
    by_design = test_contrast(Y_SF, PAIRED, blocks_S=PAIR, design="pairs")
    for test in (by_design, test_contrast(Y_SF, PAIRED, dummies_SP), test_contrast(Y_SF, PAIRED, dummies_SP[:, 1:])):
        np.testing.assert_allclose(test.t, expected.statistic)
        np.testing.assert_allclose(test.p, expected.pvalue)
        np.testing.assert_allclose(test.effect, difference_PF.mean(axis=0))
        assert (test.df == 11).all()
    np.testing.assert_allclose(by_design.d, difference_PF.mean(axis=0) / difference_PF.std(axis=0, ddof=1))


@pytest.mark.parametrize("design", ["unpaired", "pairs", "families"])
@pytest.mark.parametrize("regressor", ["labels", "rating"])
def test_covariates_are_columns_of_ordinary_least_squares(
    rng: np.random.Generator, design: str, regressor: str
) -> None:
    labels_S, blocks_S = DESIGNS[design]
    if regressor == "rating" and design == "pairs":
        with pytest.raises(UserError, match=r"\+1 \(target\) and -1"):
            test_contrast(rng.normal(size=(24, 2)), rng.normal(size=24), blocks_S=blocks_S, design=design)
        return
    x_S = labels_S if regressor == "labels" else labels_S + rng.normal(size=24)
    covariates_SP = np.column_stack([rng.normal(size=24) + 0.8 * labels_S, 1e5 + rng.gamma(2, size=24)])
    Y_SF = latents(rng) + 0.3 * covariates_SP[:, :1]
    test = test_contrast(Y_SF, x_S, covariates_SP, blocks_S=blocks_S, design=design)
    scale = 2 if regressor == "labels" else 1
    for f in range(Y_SF.shape[1]):
        fitted = sm.OLS(Y_SF[:, f], np.column_stack([x_S, dummies(blocks_S), covariates_SP - [0, 1e5]])).fit()
        np.testing.assert_allclose(test.t[f], fitted.tvalues[0], rtol=1e-8)
        np.testing.assert_allclose(test.p[f], fitted.pvalues[0], rtol=1e-8)
        np.testing.assert_allclose(test.effect[f], scale * fitted.params[0], rtol=1e-8)
        np.testing.assert_allclose(test.se[f], scale * fitted.bse[0], rtol=1e-8)
        assert test.df[f] == fitted.df_resid
        if regressor == "labels" and design != "pairs":
            np.testing.assert_allclose(test.d[f], 2 * fitted.params[0] / np.sqrt(fitted.mse_resid), rtol=1e-8)


def test_a_rating_is_linear_regression(rng: np.random.Generator) -> None:
    x_S, Y_SF = rng.gamma(2, size=24), rng.normal(size=(24, 5))
    test = test_contrast(Y_SF, x_S)
    expected = [stats.linregress(x_S, y_S) for y_S in Y_SF.T]
    np.testing.assert_allclose(test.effect, [line.slope for line in expected])
    np.testing.assert_allclose(test.se, [line.stderr for line in expected])
    np.testing.assert_allclose(test.p, [line.pvalue for line in expected])
    r_F = np.array([line.rvalue for line in expected])
    np.testing.assert_allclose(test.d, 2 * r_F / np.sqrt(1 - r_F**2))


def test_an_interaction_is_the_t_test_of_the_families_values(rng: np.random.Generator) -> None:
    Y_SF = rng.normal(size=(24, 5))
    value_GF = (PAIRED[:, None] * Y_SF).reshape(6, 4, 5).sum(axis=1) / 2
    test = test_contrast(Y_SF, PAIRED, blocks_S=FAMILY, design="interaction")
    np.testing.assert_allclose(test.t, stats.ttest_1samp(value_GF, 0).statistic)
    np.testing.assert_allclose(test.effect, value_GF.mean(axis=0))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csc_array, np.float32])
def test_sparse_features_and_blocks_change_nothing(rng: np.random.Generator, design: str, form: type) -> None:
    labels_S, blocks_S = DESIGNS[design]
    Y_SF = latents(rng).astype(np.float32)
    Y_SF[:, 3] = 0
    z_S = rng.normal(size=24)
    expected = test_contrast(Y_SF.astype(np.float64), labels_S, z_S, blocks_S=blocks_S, design=design)
    same(test_contrast(form(Y_SF), labels_S, z_S, blocks_S=blocks_S, design=design, block_size=7), expected)


def test_features_that_trip_others_up() -> None:
    ulps_S = np.where(np.arange(24) % 3, 0.3, 0.1 + 0.2)  # constant but for rounding, as means of a constant are
    Y_SF = np.column_stack(
        [
            np.zeros(24),
            np.full(24, 0.1),
            ulps_S,
            1e3 * PAIR,  # constant within pairs
            PAIRED,
            7.0 - 1e-3 * PAIRED,
            np.arange(24) % 5,
        ]
    )
    test = test_contrast(Y_SF, PAIRED, blocks_S=PAIR, design="pairs")
    perfect = Reason.PERFECT_SEPARATION
    expected = [Reason.SILENT, Reason.CONSTANT, Reason.CONSTANT, Reason.CONSTANT, perfect, perfect, Reason.OK]
    assert test.reason.tolist() == expected
    assert test.t[[4, 5]].tolist() == [T_CAP, -T_CAP]
    assert test.p[:4].tolist() == [1.0] * 4
    assert (test.p[4:6] < 1e-20).all()
    assert all(np.isfinite(getattr(test, name)).all() for name in ("effect", "se", "t", "df", "d", "p"))
    np.testing.assert_allclose(test.t[6], stats.ttest_rel(Y_SF[PAIRED > 0, 6], Y_SF[PAIRED < 0, 6]).statistic)
    for variance in ("pooled", "welch"):
        unpaired = test_contrast(Y_SF, PAIRED, variance=variance)
        assert unpaired.reason.tolist() == [*expected[:3], Reason.OK, perfect, perfect, Reason.OK]
        assert np.isfinite(unpaired.d).all()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(DESIGNS)), st.integers(0, 1000), st.floats(1e-6, 1e6), st.floats(-1e3, 1e3), st.booleans()
)
def test_t_depends_on_neither_order_nor_scale_nor_offset(
    design: str, seed: int, scale: float, offset: float, is_sparse: bool
) -> None:
    rng = np.random.default_rng(seed)
    labels_S, blocks_S = DESIGNS[design]
    Y_SF, z_S = latents(rng, n_features=6), rng.normal(size=24)
    test = test_contrast(Y_SF, labels_S, z_S, blocks_S=blocks_S, design=design)
    order = rng.permutation(24)
    moved_SF = np.column_stack([scale * Y_SF[order] + (0 if is_sparse else offset * scale), np.zeros(24)])
    moved = test_contrast(
        sparse.csr_array(moved_SF) if is_sparse else moved_SF,
        labels_S[order],
        np.column_stack([z_S, 3 * z_S - 1])[order],  # a column that depends on another
        blocks_S=None if blocks_S is None else blocks_S[order],
        design=design,
    )
    np.testing.assert_allclose(moved.t[:-1], test.t, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(moved.effect[:-1], scale * test.effect, rtol=1e-6, atol=1e-8 * scale)
    assert moved.reason[-1] == Reason.SILENT
    flipped = test_contrast(Y_SF, -labels_S, z_S, blocks_S=blocks_S, design=design)
    np.testing.assert_allclose(flipped.t, -test.t, rtol=1e-9)


def dummies(blocks_S: np.ndarray | None) -> np.ndarray:
    return np.ones((24, 1)) if blocks_S is None else (blocks_S[:, None] == np.unique(blocks_S)).astype(float)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_without_covariates_null_statistics_are_tests_of_arranged_labels(
    rng: np.random.Generator, design: str, form: type
) -> None:
    labels_S, blocks_S = DESIGNS[design]
    Y_SF = latents(rng)
    Y_SF[:, [2, 9]] = 0, 5
    Y_SF[:, 20] += 1e5  # dense even where the others are sparse
    labels_BS = arrangements(labels_S, np.zeros(24) if blocks_S is None else blocks_S, 12, 0, design)
    t_BF = np.full((12, 30), np.nan)
    for features, t_Bf in null_statistics(
        form(Y_SF), labels_S, labels_BS, blocks_S=blocks_S, design=design, block_size=7
    ):
        t_BF[:, features] = t_Bf
    expected_BF = [test_contrast(Y_SF, row_S, blocks_S=blocks_S, design=design).t for row_S in labels_BS]
    np.testing.assert_allclose(t_BF, expected_BF, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("design", ["unpaired", "families", "pairs"])
def test_with_covariates_null_statistics_are_refits_of_permuted_residuals(
    rng: np.random.Generator, design: str
) -> None:
    labels_S, blocks_S = DESIGNS[design]
    Y_SF, z_SP = latents(rng, n_features=10), rng.normal(size=(24, 2)) + 0.5 * labels_S[:, None]
    code_S = np.zeros(24, dtype=int) if blocks_S is None else blocks_S
    labels_BS = arrangements(labels_S, code_S, 9, 0, design)
    t_BF = np.zeros((9, 10))
    for features, t_Bf in null_statistics(
        sparse.csr_array(Y_SF), labels_S, labels_BS, z_SP, blocks_S=blocks_S, design=design, seed=3, block_size=4
    ):
        t_BF[:, features] = t_Bf
    nuisance_SQ = np.column_stack([dummies(blocks_S), z_SP])
    residual_SF = Y_SF - nuisance_SQ @ np.linalg.pinv(nuisance_SQ) @ Y_SF
    if design == "pairs":  # flipping a pair exchanges its two stimuli
        partner_S = np.arange(24) ^ 1
        from_BS = np.where(labels_BS == labels_S, np.arange(24), partner_S)
    else:
        from_BS = permutations(labels_S, labels_BS, code_S, seed=3)
    for b in range(9):
        y_SF = np.empty_like(residual_SF)
        y_SF[from_BS[b]] = residual_SF  # the permutation that takes the labels there takes the residuals back
        refit = test_contrast(y_SF, labels_S, nuisance_SQ)
        np.testing.assert_allclose(t_BF[b], refit.t, rtol=1e-7, atol=1e-9)


def test_families_of_any_size_are_flipped_whole(rng: np.random.Generator) -> None:
    labels_S, family_S = np.repeat([1, -1, 1, -1, 1, -1], [7, 3, 1, 6, 2, 5]), np.repeat([0, 1, 2], [10, 7, 7])
    Y_SF = rng.normal(size=(24, 3))
    result = max_t(Y_SF, labels_S, family_S, "interaction", n=100)
    value_GF = np.array(
        [
            Y_SF[(family_S == g) & (labels_S > 0)].mean(0) - Y_SF[(family_S == g) & (labels_S < 0)].mean(0)
            for g in range(3)
        ]
    )
    np.testing.assert_allclose(result.observed.t, stats.ttest_1samp(value_GF, 0).statistic)
    assert len(result.null_max_B) == 7


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["unpaired", "families"]))
def test_permutations_stay_within_blocks_and_lead_to_the_arrangement(seed: int, design: str) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(24)
    labels_S, code_S = PAIRED[order], FAMILY[order] if design == "families" else np.zeros(24, dtype=int)
    labels_BS = arrangements(labels_S, code_S, 20, seed, design)
    from_BS = permutations(labels_S, labels_BS, code_S, seed)
    assert (np.sort(from_BS, axis=1) == np.arange(24)).all()
    assert np.array_equal(labels_S[from_BS], labels_BS)
    assert np.array_equal(code_S[from_BS], np.tile(code_S, (20, 1)))
    assert np.array_equal(permutations(labels_S, labels_BS[:5], code_S, seed), from_BS[:5])


def test_among_equal_labels_every_permutation_is_as_likely() -> None:
    rows_BS = np.tile([1, 1, 1, -1], (6000, 1))
    counts = np.unique(permutations(rows_BS[0], rows_BS, np.zeros(4, dtype=int), 0)[:, :3], axis=0, return_counts=True)
    assert len(counts[1]) == 6
    assert stats.chisquare(counts[1]).pvalue > 1e-3


def test_arrangements_of_something_else_are_refused(rng: np.random.Generator) -> None:
    Y_SF = rng.normal(size=(24, 2))
    with pytest.raises(UserError, match="in another order"):
        next(null_statistics(Y_SF, UNPAIRED, np.ones((1, 24))))
    with pytest.raises(UserError, match="flip whole blocks"):
        next(null_statistics(Y_SF, PAIRED, [np.ones(24)], blocks_S=PAIR, design="pairs"))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("tail", ["two-sided", "greater", "less"])
def test_max_t_is_the_p_value_of_the_largest_statistic(rng: np.random.Generator, design: str, tail: str) -> None:
    labels_S, blocks_S = DESIGNS[design]
    Y_SF = latents(rng)
    Y_SF[:, 4] += 3 + 2 * labels_S
    Y_SF[:, [7, 8]] = 0, 3
    n = 63 if design in ("pairs", "interaction") else 200
    result = max_t(sparse.csr_array(Y_SF), labels_S, blocks_S, design, n=n, tail=tail, alpha=0.1)
    labels_BS = arrangements(labels_S, np.zeros(24) if blocks_S is None else blocks_S, n, 0, design)
    t_BF = np.zeros((len(labels_BS), 30))
    for features, t_Bf in null_statistics(Y_SF, labels_S, labels_BS, blocks_S=blocks_S, design=design):
        t_BF[:, features] = t_Bf
    extreme = {"two-sided": np.abs, "greater": lambda t: t, "less": lambda t: -t}[tail]
    valid_F = result.observed.valid
    assert np.flatnonzero(~valid_F).tolist() == [7, 8]
    np.testing.assert_allclose(result.null_max_B, extreme(t_BF[:, valid_F]).max(axis=1), rtol=1e-9)
    t_F = result.observed.t
    expected_F = permutation_p(extreme(t_F), extreme(t_BF[:, valid_F]).max(axis=1)[:, None])
    np.testing.assert_allclose(result.p_fwe, np.where(valid_F, expected_F, 1))
    np.testing.assert_allclose(result.p, np.where(valid_F, permutation_p(t_F, t_BF, tail), 1))
    np.testing.assert_array_equal(
        (result.p_fwe <= 0.1)[valid_F], (extreme(t_F) > result.threshold * (1 + 1e-9))[valid_F]
    )
    mirrored = tail == "two-sided" and (labels_BS == -np.asarray(labels_S)).all(axis=1).any()
    assert result.smallest_p == (1 + mirrored) / (len(labels_BS) + 1)
    assert result.exhaustive == (design == "interaction")


@pytest.mark.parametrize(("tail", "expected"), [("two-sided", 2 / 64), ("greater", 1 / 64)])
def test_smallest_p_is_what_a_clear_effect_reaches_when_all_sign_flips_are_tried(tail: str, expected: float) -> None:
    labels_S, pair_S = np.tile([1, -1], 6), np.repeat(np.arange(6), 2)
    Y_SF = np.outer(labels_S, [1.0]) + 0.01 * np.random.default_rng(0).normal(size=(12, 1))
    result = max_t(Y_SF, labels_S, pair_S, "pairs", tail=tail)
    assert result.smallest_p == result.p_fwe[0] == expected


@pytest.mark.parametrize("tail", ["two-sided", "greater", "less"])
def test_one_feature_is_scipys_exact_permutation_test(rng: np.random.Generator, tail: str) -> None:
    y_S, labels_S = rng.normal(size=9), np.repeat([1, -1], [5, 4])
    result = max_t(y_S[:, None], labels_S, None, "unpaired", n=1000, tail=tail)
    statistic = lambda a, b, axis: stats.ttest_ind(a, b, axis=axis).statistic  # noqa: E731
    exact = stats.permutation_test(
        (y_S[labels_S > 0], y_S[labels_S < 0]),
        (lambda a, b, axis: np.abs(statistic(a, b, axis))) if tail == "two-sided" else statistic,
        alternative="greater" if tail == "two-sided" else tail,
        vectorized=True,
    )
    assert result.exhaustive
    np.testing.assert_allclose([result.p[0], result.p_fwe[0]], exact.pvalue)


def test_max_t_is_the_same_for_any_number_of_jobs_and_any_block_size(rng: np.random.Generator) -> None:
    Y_SF = sparse.csr_array(latents(rng, n_features=90))
    results = [
        max_t(Y_SF, PAIRED, PAIR, "pairs", n=300, n_jobs=n_jobs, block_size=block_size, nuisance_SP=np.arange(24.0))
        for n_jobs, block_size in ((1, 8), (3, 8), (1, 64))
    ]
    for name in ("null_max_B", "p_fwe", "p"):
        one, three, other_blocks = (getattr(result, name) for result in results)
        assert np.array_equal(one, three)
        np.testing.assert_allclose(other_blocks, one, rtol=1e-10)
    longer = max_t(Y_SF, PAIRED, PAIR, "pairs", n=400, block_size=8, nuisance_SP=np.arange(24.0))
    assert np.array_equal(longer.null_max_B[:256], results[0].null_max_B[:256])


def test_invalid_features_never_enter_the_maximum(rng: np.random.Generator) -> None:
    Y_SF = rng.normal(size=(24, 5))
    alone = max_t(Y_SF, PAIRED, PAIR, "pairs", n=100)
    among_SF = np.column_stack([np.zeros((24, 3)), Y_SF, np.full(24, 2.0), PAIR, PAIR / 3])
    among = max_t(among_SF, PAIRED, PAIR, "pairs", n=100)
    np.testing.assert_allclose(among.null_max_B, alone.null_max_B)
    np.testing.assert_allclose(among.p_fwe[3:8], alone.p_fwe)
    nothing = max_t(np.zeros((24, 2)), PAIRED, PAIR, "pairs", n=100)
    assert nothing.p_fwe.tolist() == nothing.p.tolist() == [1.0, 1.0]


def test_family_wise_error_under_the_null() -> None:
    """Skewed, rare features in 300 data sets: at most the binomial bound of false alarms."""
    rng, alarms = np.random.default_rng(1), 0
    for seed in range(300):
        alarms += max_t(latents(rng, n_features=12), UNPAIRED, None, "unpaired", n=99, seed=seed).p_fwe.min() <= 0.05
    assert alarms <= stats.binom.ppf(0.999, 300, 0.05)


@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_level_with_a_covariate_that_is_correlated_with_the_contrast(rate: float) -> None:
    """Labels follow a skewed covariate (r about .6) that drives the responses; noise is rare or heavy-tailed."""
    rng, p_F, naive_p_F = np.random.default_rng(2), [], []
    for seed in range(60):
        z_S = rng.gamma(1.0, size=40)
        labels_S = np.where(z_S + 0.5 * rng.normal(size=40) > np.median(z_S), 1, -1)
        Y_SF = z_S[:, None] + rng.standard_t(4, size=(40, 100)) * (rng.random((40, 100)) < rate)
        result = max_t(Y_SF, labels_S, None, "unpaired", nuisance_SP=z_S, n=99, seed=seed)
        p_F.append(result.p[result.observed.valid])
        naive_p_F.append(max_t(Y_SF[:, :5], labels_S, None, "unpaired", n=99, seed=seed).p)
    p_F, naive_p_F = np.concatenate(p_F), np.concatenate(naive_p_F)
    for level in (0.01, 0.05):
        assert (p_F <= level).sum() <= stats.binom.ppf(0.999, len(p_F), level)
    assert np.mean(p_F <= 0.05) > 0.03  # nor does it waste its level
    assert np.mean(naive_p_F <= 0.05) > 0.5  # without the covariate most features are effects


def test_a_planted_effect_is_found_and_nothing_else(rng: np.random.Generator) -> None:
    Y_SF = rng.normal(size=(24, 500)) + 3 * rng.normal(size=12)[PAIR, None]
    Y_SF[:, [17, 400]] += 1.5 * np.outer(PAIRED, [1, -1])
    result = max_t(Y_SF, PAIRED, PAIR, "pairs", n=999)
    assert np.flatnonzero(result.p_fwe <= 0.05).tolist() == [17, 400]
    assert result.observed.effect[17] > 0 > result.observed.effect[400]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regressor_S": np.ones(24)}, "does not vary"),
        ({"regressor_S": UNPAIRED[:-1]}, "regressor: shape"),
        ({"regressor_S": np.where(np.arange(24) == 5, np.nan, 1)}, "regressor, stimulus 5"),
        ({"nuisance_SP": np.where(np.arange(24) == 7, np.inf, 1)}, "nuisance, stimulus 7, column 0"),
        ({"nuisance_SP": np.column_stack([UNPAIRED, np.arange(24)])}, "does not vary beside"),
        ({"nuisance_SP": np.eye(24)[:, :22]}, "no degree of freedom"),
        ({"design": "pairs"}, "no blocks"),
        ({"design": "pairs", "blocks_S": PAIR}, "not one target and one foil"),
        ({"design": "pears"}, "Did you mean 'pairs'"),
        ({"variance": "welsh"}, "Did you mean 'welch'"),
        ({"variance": "welch", "nuisance_SP": np.arange(24)}, "Welch's test is not possible"),
        ({"variance": "welch", "regressor_S": np.where(np.arange(24) == 0, 1, -1)}, "two stimuli or more"),
        ({"block_size": 0}, "block_size is 0"),
    ],
)
def test_what_cannot_be_tested_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        test_contrast(**{"Y_SF": np.random.default_rng(0).normal(size=(24, 2)), "regressor_S": UNPAIRED} | arguments)


def test_a_response_that_is_not_finite_is_named(rng: np.random.Generator) -> None:
    Y_SF = rng.normal(size=(24, 3))
    Y_SF[4, 2] = np.nan
    with pytest.raises(UserError, match="stimulus 4, feature 2"):
        test_contrast(Y_SF, UNPAIRED)
    with pytest.raises(UserError, match="tail"):
        max_t(Y_SF[:, :2], UNPAIRED, None, "unpaired", tail="both")
    with pytest.raises(UserError, match="alpha"):
        max_t(Y_SF[:, :2], UNPAIRED, None, "unpaired", alpha=5)
