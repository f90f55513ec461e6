"""Rank comparators: agreement with scipy and rsatoolbox, naive tau-a, ties, ranks themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from neurosae.rsa import score_model
from neurosae.rsa.ranks import average_ranks, dense_ranks, tau_a

few_examples = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 10_000)


def random_model(rng, n, n_levels):
    upper = np.triu(rng.integers(0, n_levels, (n, n)), 1).astype(float)
    return upper + upper.T


def naive_tau_a(a, b):
    agreement = sum(np.sum(np.sign(a[k] - a[k + 1 :]) * np.sign(b[k] - b[k + 1 :])) for k in range(len(a)))
    return agreement / (len(a) * (len(a) - 1) / 2)


@given(seed=seeds, n_levels=st.sampled_from([2, 5, 10_000]), share_zero=st.sampled_from([0.0, 0.5, 0.9]))
@few_examples
def test_rank_comparators_are_exact_with_ties_in_feature_and_model(seed, n_levels, share_zero):
    rng = np.random.default_rng(seed)
    X_SF = rng.integers(1, 9, (15, 4)) * (rng.random((15, 4)) >= share_zero).astype(float)
    X_SF[0], X_SF[1] = 1, 2
    model_SS = random_model(rng, 15, n_levels)
    model_SS[0, 1] = model_SS[1, 0] = n_levels
    i, j = np.triu_indices(15, 1)
    by = {name: score_model(X_SF, model_SS, comparator=name).value for name in ("spearman", "kendall")}
    for f, x_S in enumerate(X_SF.T):
        d_P, m_P = (x_S[i] - x_S[j]) ** 2, model_SS[i, j]
        assert by["spearman"][f] == pytest.approx(stats.spearmanr(d_P, m_P).statistic, abs=1e-12)
        assert by["kendall"][f] == pytest.approx(naive_tau_a(d_P, m_P), abs=1e-12)


def test_agreement_with_rsatoolbox():
    rsatoolbox = pytest.importorskip("rsatoolbox")
    rng = np.random.default_rng(0)
    X_SF, model_SS = rng.integers(0, 6, (20, 5)).astype(float), random_model(rng, 20, 7)
    model = rsatoolbox.rdm.RDMs(model_SS[np.triu_indices(20, 1)][None])
    names = {"pearson": "corr", "cosine": "cosine", "spearman": "spearman", "kendall": "tau-a"}
    for ours, theirs in names.items():
        value_F = score_model(sparse.csr_array(X_SF), model_SS, comparator=ours).value
        for f, value in enumerate(value_F):
            rdm = rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(X_SF[:, [f]]), method="euclidean")
            assert value == pytest.approx(rsatoolbox.rdm.compare(rdm, model, method=theirs)[0, 0], abs=1e-9)


def test_ranks_do_not_see_monotone_changes_of_the_model_or_the_distance():
    rng = np.random.default_rng(1)
    X_SF, model_SS = rng.normal(size=(14, 6)), random_model(rng, 14, 1000)
    for comparator in ("spearman", "kendall"):
        reference = score_model(X_SF, model_SS, comparator=comparator).value
        changed = score_model(X_SF, np.exp(model_SS / 300), comparator=comparator, distance="absolute").value
        np.testing.assert_allclose(changed, reference, atol=1e-12)
        np.testing.assert_allclose(score_model(X_SF, -model_SS, comparator=comparator).value, -reference, atol=1e-12)


@given(seed=seeds)
@few_examples
def test_duplicated_stimuli_leave_the_rank_of_a_perfect_model(seed):
    rng = np.random.default_rng(seed)
    x_S = np.repeat(rng.permutation(8), 2).astype(float)
    model_SS = np.abs(x_S[:, None] - x_S)
    assert score_model(x_S[:, None], model_SS, comparator="spearman").value[0] == pytest.approx(1)
    assert 0 < score_model(x_S[:, None], model_SS, comparator="kendall").value[0] < 1  # ties cannot be concordant


@pytest.mark.parametrize("n", [2, 70, 2000])
def test_tau_a_has_the_numerator_of_scipys_tau_b(n):
    rng = np.random.default_rng(n)
    D_FP, models_MP = rng.integers(0, 30, (3, n)).astype(float), rng.normal(size=(2, n))
    D_FP[:, :2] = [0, 1]
    value_MF = tau_a(D_FP, models_MP)
    for m, f in np.ndindex(2, 3):
        ties = sum(c * (c - 1) / 2 for c in np.unique(D_FP[f], return_counts=True)[1])
        shrink = np.sqrt(1 - ties / (n * (n - 1) / 2))  # tau-b = numerator / sqrt(untied x total)
        assert value_MF[m, f] == pytest.approx(stats.kendalltau(D_FP[f], models_MP[m]).statistic * shrink, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-310, 1.0, 1e300])
def test_ranks_are_exact_for_neighbouring_floats_and_outliers(scale):
    rng = np.random.default_rng(2)
    value_NP = rng.choice([1.0, np.nextafter(1, 2), 1 + 1e-9, 5, -3], (4, 300)) * scale
    value_NP[0, 7] = 1e7 * scale
    value_NP[3] = scale
    for value_P, dense_P, average_P in zip(value_NP, dense_ranks(value_NP), average_ranks(value_NP), strict=True):
        np.testing.assert_array_equal(dense_P, stats.rankdata(value_P, "dense") - 1)
        np.testing.assert_array_equal(average_P, stats.rankdata(value_P))
