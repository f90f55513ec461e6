"""Agreement with scipy, statsmodels, nilearn, MNE and rsatoolbox where they are right, and where they are not.

A test named `..._elsewhere` shows another package's mistake in the version that is installed; should it fail, the
mistake was mended there, and the test can go.
"""

from __future__ import annotations

import warnings

import joblib
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from neurosae.inference import arrangements, cluster_test, max_t, permutation_p, sign_flips, test_contrast
from neurosae.inference.linear import T_CAP
from neurosae.rsa import KINDS, Reason, profile_similarity, score_profiles, score_scalar

LABELS = np.repeat([1, -1], [14, 10])


def nilearn_ols(Y_SF: np.ndarray, x_S: np.ndarray = LABELS, n: int = 99, **options: object) -> dict[str, np.ndarray]:
    """t and family-wise p [F] of nilearn, and its null distribution."""
    mass_univariate = pytest.importorskip("nilearn.mass_univariate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = mass_univariate.permuted_ols(
            x_S[:, None].astype(float), Y_SF, n_perm=n, random_state=0, output_type="dict", **options
        )
    return {"t": found["t"][0], "p": 10 ** -found["logp_max_t"][0], "null": found["h0_max_t"][0]}


# ---------------------------------------------------------------- nilearn


@pytest.mark.parametrize("tail", ["two-sided", "greater"])
@pytest.mark.parametrize("n_covariates", [0, 2])
def test_max_t_is_nilearns(rng: np.random.Generator, tail: str, n_covariates: int) -> None:
    """Same t; family-wise p from other draws. nilearn permutes as Freedman & Lane do."""
    z_SP = rng.normal(size=(24, 2))[:, :n_covariates] + 0.3 * LABELS[:, None]
    Y_SF = rng.gamma(1.0, size=(24, 6)) + 0.3 * np.outer(LABELS, np.arange(6))
    theirs = nilearn_ols(
        Y_SF, n=2000, two_sided_test=tail == "two-sided", confounding_vars=z_SP if n_covariates else None
    )
    nuisance_SP = z_SP if n_covariates else None
    ours = max_t(Y_SF, LABELS, None, "unpaired", nuisance_SP=nuisance_SP, n=2000, tail=tail)
    np.testing.assert_allclose(ours.observed.t, theirs["t"], rtol=1e-6)
    error_F = np.sqrt(2 * ours.p_fwe * (1 - ours.p_fwe) / 2000)
    assert (np.abs(ours.p_fwe - theirs["p"]) <= 4 * error_F + 1e-3).all()
    assert (ours.p_fwe < 0.05).any()
    assert (ours.p_fwe > 0.2).any()


def test_a_feature_identical_to_the_regressor_looks_null_elsewhere() -> None:
    """nilearn: t is NaN for some regressors, depending on rounding, and then p is 1."""
    rng, lost = np.random.default_rng(0), 0
    for n in range(10, 40):
        x_S = rng.normal(size=n)
        Y_SF = np.column_stack([x_S, rng.normal(size=n)])
        theirs = nilearn_ols(Y_SF, x_S, n=19)
        lost += bool(np.isnan(theirs["t"][0]) and theirs["p"][0] == 1)
        assert test_contrast(Y_SF, x_S).t[0] == T_CAP
    assert lost > 3


def test_a_constant_column_has_a_t_elsewhere(rng: np.random.Generator) -> None:
    """nilearn: the t of what rounding left of a constant column after the intercept."""
    Y_SF = np.column_stack([np.full(24, 2.0), rng.normal(size=24)])
    x_S = np.where(np.arange(24) < 8, 1, -1)
    assert abs(nilearn_ols(Y_SF, x_S)["t"][0]) > 1
    ours = max_t(Y_SF, x_S, None, "unpaired", n=99)
    assert (ours.observed.t[0], ours.p_fwe[0], ours.observed.reason[0]) == (0, 1, Reason.CONSTANT)


def test_a_silent_column_no_longer_spoils_nilearns_other_p_values(rng: np.random.Generator) -> None:
    """Mended in the installed version: only its own t is NaN."""
    Y_SF = rng.normal(size=(24, 3))
    alone, among = nilearn_ols(Y_SF), nilearn_ols(np.column_stack([Y_SF, np.zeros(24)]))
    np.testing.assert_allclose(among["p"][:3], alone["p"])
    assert np.isnan(among["t"][3])


def test_the_null_distribution_depends_on_the_number_of_jobs_elsewhere(rng: np.random.Generator) -> None:
    Y_SF = rng.normal(size=(24, 3))
    with joblib.parallel_config("threading"):
        one, two = (nilearn_ols(Y_SF, n_jobs=n_jobs)["null"] for n_jobs in (1, 2))
    assert not np.array_equal(np.sort(one), np.sort(two))
    ours = [max_t(Y_SF, LABELS, None, "unpaired", n=99, n_jobs=n_jobs).null_max_B for n_jobs in (1, 2)]
    assert np.array_equal(*ours)


# ---------------------------------------------------------------- MNE

N_PAIRS = 9
PAIR_LABELS, PAIR = np.tile([1, -1], N_PAIRS), np.repeat(np.arange(N_PAIRS), 2)
ONE_SHORT = 2 / 2**N_PAIRS  # MNE's list of all sign flips lacks one of them


def halves(difference_PF: np.ndarray) -> np.ndarray:
    """Responses [S, F] of pairs with these differences."""
    return np.repeat(difference_PF, 2, axis=0) * PAIR_LABELS[:, None] / 2


def test_max_t_over_all_sign_flips_is_mnes(rng: np.random.Generator) -> None:
    mne_stats = pytest.importorskip("mne.stats")
    D_PF = rng.normal(size=(N_PAIRS, 4)) + np.arange(4) / 3
    t_F, p_F, _ = mne_stats.permutation_t_test(D_PF, n_permutations="all", verbose=False)
    ours = max_t(halves(D_PF), PAIR_LABELS, PAIR, "pairs", n=1000)
    assert ours.exhaustive
    np.testing.assert_allclose(ours.observed.t, t_F)
    np.testing.assert_allclose(ours.p_fwe, p_F, atol=ONE_SHORT)


def test_a_one_sided_p_is_twice_too_large_elsewhere(rng: np.random.Generator) -> None:
    """MNE's permutation_t_test compares t with max|t| whatever the tail."""
    mne_stats = pytest.importorskip("mne.stats")
    D_P = rng.normal(0.5, 1, N_PAIRS)
    exact = stats.permutation_test((D_P,), np.mean, permutation_type="samples", alternative="greater").pvalue
    ours = max_t(halves(D_P[:, None]), PAIR_LABELS, PAIR, "pairs", n=1000, tail="greater")
    theirs = mne_stats.permutation_t_test(D_P[:, None], n_permutations="all", tail=1, verbose=False)[1]
    assert ours.p[0] == ours.p_fwe[0] == pytest.approx(exact)
    assert theirs[0] == pytest.approx(2 * exact, abs=ONE_SHORT)


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value)")
def test_a_silent_column_makes_every_p_value_zero_elsewhere(rng: np.random.Generator) -> None:
    """MNE's permutation_t_test: the null distribution is NaN throughout, and no NaN reaches any t."""
    mne_stats = pytest.importorskip("mne.stats")
    D_PF = np.column_stack([rng.normal(size=(N_PAIRS, 3)), np.zeros(N_PAIRS)])
    _, p_F, null_B = mne_stats.permutation_t_test(D_PF, n_permutations="all", verbose=False)
    assert np.isnan(null_B).all()
    assert (p_F == 0).all()
    ours = max_t(halves(D_PF), PAIR_LABELS, PAIR, "pairs", n=1000)
    alone = max_t(halves(D_PF[:, :3]), PAIR_LABELS, PAIR, "pairs", n=1000)
    np.testing.assert_array_equal(ours.p_fwe, [*alone.p_fwe, 1])


@pytest.mark.parametrize(("tail", "theirs"), [("two-sided", 0), ("greater", 1), ("less", -1)])
def test_cluster_p_values_are_mnes(rng: np.random.Generator, tail: str, theirs: int) -> None:
    mne_stats = pytest.importorskip("mne.stats")
    D_PLW = rng.normal(size=(N_PAIRS, 4, 6))
    D_PLW[:, :2, :3] += 1
    D_PLW[:, 2:, 4:] -= 0.7
    flips_BP = np.vstack([np.ones(N_PAIRS), sign_flips(N_PAIRS, 1000, 0)])
    t_BLW = stats.ttest_1samp(flips_BP[:, :, None, None] * D_PLW, 0, axis=1).statistic
    ours = cluster_test(t_BLW[0], t_BLW[1:], 1.5, tail=tail).table
    masses, clusters, p, _ = mne_stats.permutation_cluster_1samp_test(
        D_PLW,
        threshold=-1.5 if theirs < 0 else 1.5,
        n_permutations="all",
        tail=theirs,
        out_type="mask",
        stat_fun=lambda D_PC: stats.ttest_1samp(D_PC, 0).statistic,
        verbose=False,
    )
    expected = sorted((float(masses[mask].sum()), value) for mask, value in zip(clusters, p, strict=True))
    found = sorted(zip(ours["mass"], ours["p_fwe"], strict=True))
    assert len(found) > 1
    np.testing.assert_allclose([mass for mass, _ in found], [mass for mass, _ in expected])
    np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], atol=ONE_SHORT)


# ---------------------------------------------------------------- statsmodels, scipy, rsatoolbox


@pytest.mark.parametrize(("variance", "usevar"), [("pooled", "pooled"), ("welch", "unequal")])
def test_effect_and_error_give_the_interval_of_statsmodels(
    rng: np.random.Generator, variance: str, usevar: str
) -> None:
    Y_SF = rng.lognormal(size=(24, 5))
    test = test_contrast(Y_SF, LABELS, variance=variance)
    half_F = stats.t.isf(0.025, test.df) * test.se
    means = CompareMeans(DescrStatsW(Y_SF[LABELS > 0]), DescrStatsW(Y_SF[LABELS < 0]))
    np.testing.assert_allclose((test.effect - half_F, test.effect + half_F), means.tconfint_diff(usevar=usevar))


@pytest.mark.parametrize("kind", KINDS)
def test_an_rsa_score_under_all_arrangements_is_scipys_permutation_test(rng: np.random.Generator, kind: str) -> None:
    x_S, labels_S = rng.normal(size=9), np.repeat([1, -1], [5, 4])
    value_B = score_scalar(
        x_S[:, None], np.vstack([labels_S, arrangements(labels_S, np.zeros(9), 1000, 0, "unpaired")]), kind
    ).value[:, 0]

    def correlation(target: np.ndarray, foil: np.ndarray) -> float:
        i_P, j_P = np.triu_indices(9, 1)
        x, side = np.concatenate([target, foil]), labels_S
        within_P = {1: side[i_P] + side[j_P] == 2, -1: side[i_P] + side[j_P] == -2, 0: side[i_P] != side[j_P]}
        similar_P = within_P[1] | within_P[-1] if kind == "category" else within_P[1]
        other_P = within_P[-1] if kind == "categorical" else within_P[0]
        used_P = similar_P | other_P
        return float(stats.pearsonr(-((x[i_P] - x[j_P]) ** 2)[used_P], similar_P[used_P]).statistic)

    exact = stats.permutation_test(
        (x_S[:5], x_S[5:]), correlation, vectorized=False, alternative="greater", n_resamples=np.inf
    )
    assert value_B[0] == pytest.approx(exact.statistic)
    assert permutation_p(value_B[0], value_B[1:]) == pytest.approx(exact.pvalue)


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value)")
def test_one_constant_pattern_makes_entries_nan_elsewhere(rng: np.random.Generator) -> None:
    """rsatoolbox: a correlation distance to a constant pattern is NaN, and so is any comparison with the RDM."""
    rsatoolbox = pytest.importorskip("rsatoolbox")
    P_SWF = rng.normal(size=(40, 8, 1))
    P_SWF[3] = 1.0
    labels_S, clean_SW = np.tile([1, -1], 20), np.ones((40, 8), dtype=bool)
    rdm = rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(P_SWF[:, :, 0]), method="correlation")
    assert np.isnan(rdm.get_matrices()[0][3]).sum() == 39
    Z_FSS, ok_FSS = profile_similarity(P_SWF, clean_SW)
    assert np.isfinite(Z_FSS).all()
    assert not ok_FSS[0, 3].any()
    others = np.arange(40) != 3
    scored = score_profiles(P_SWF, clean_SW, labels_S)
    assert scored.valid[0]
    assert scored.value[0] == pytest.approx(score_profiles(P_SWF[others], clean_SW[others], labels_S[others]).value[0])
    with np.errstate(all="ignore"):
        r = np.corrcoef(P_SWF[others][:, :, 0])
    np.testing.assert_allclose(1 - rdm.get_matrices()[0][np.ix_(others, others)], r, atol=1e-9)
