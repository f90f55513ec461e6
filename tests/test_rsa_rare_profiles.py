"""Sparse tables of time courses: closed form and blocks give what dense profiles give."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from neurosae.errors import UserError
from neurosae.rsa import FORMS, KINDS, Reason, profile_similarity, score_profiles, score_similarity
from neurosae.rsa.pairs import Comparison
from neurosae.rsa.rare_profiles import closed_form_sums, rare_profiles
from neurosae.rsa.results import weighted_blocks

few_examples = settings(max_examples=20, deadline=None)
ENOUGH = {"min_stimuli": 5, "min_pairs": 20}


def courses(rng, n_stimuli=40, n_positions=25, n_features=48):
    """Rare features, some with ties, equal, constant or single-token profiles, either sign, tiny, huge, or not rare."""
    shape = (n_stimuli, n_positions, n_features)
    active_SWF = rng.random(shape) < 0.002 + 0.06 * rng.random(n_features)
    active_SWF &= rng.random((n_stimuli, 1, n_features)) < np.where(rng.random(n_features) < 0.3, 0.4, 1)
    P_SWF = np.where(active_SWF, rng.exponential(size=shape), 0)
    P_SWF[..., :8] = active_SWF[..., :8]  # ties
    P_SWF[..., 8:12] *= rng.choice([-1, 1], (n_stimuli, n_positions, 4))
    P_SWF[:12, :, 12:16] = P_SWF[:1, :, 12:16]  # equal profiles
    P_SWF[:6, :, 16:18] = 0.1  # constant profiles that are not silent
    P_SWF[..., 18:22] += rng.random(4)  # offsets
    P_SWF[..., 22:24] = np.eye(n_positions)[rng.integers(0, n_positions, (n_stimuli, 2))].swapaxes(1, 2)
    P_SWF[..., 24] = np.eye(n_stimuli, n_positions)  # single tokens that never meet
    P_SWF[..., 25], P_SWF[..., 26] = 1e-170 * P_SWF[..., 30], 1e170 * P_SWF[..., 31]
    P_SWF[..., 27], P_SWF[..., 28], P_SWF[..., 29] = 0, 0.1, rng.normal(size=shape[:2])
    return P_SWF


def as_rows(P_SWF):
    return sparse.csc_array(P_SWF.reshape(-1, P_SWF.shape[2]))


def codes_with_some_left_out(rng, n_stimuli=40):
    codes_S = rng.choice([-1, 0, 1], n_stimuli, p=[0.45, 0.1, 0.45])
    codes_S[:24] = [1, -1] * 12
    return codes_S


@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS), measure=st.sampled_from(["correlation", "cosine"]))
@few_examples
def test_the_closed_form_scores_like_tables_of_all_pairs(seed, kind, measure):
    rng = np.random.default_rng(seed)
    P_SWF, codes_S, everywhere = courses(rng), codes_with_some_left_out(rng), np.ones((40, 25), dtype=bool)
    tables = profile_similarity(P_SWF, everywhere, measure=measure)
    expected = score_similarity(*tables, codes_S, kind, **ENOUGH)
    heard_F = P_SWF[codes_S != 0].any(axis=(0, 1))
    for profiles in (as_rows(P_SWF), P_SWF):
        scores = score_profiles(profiles, everywhere, codes_S, kind, measure=measure, **ENOUGH)
        np.testing.assert_allclose(scores.value, expected.value, atol=1e-10)
        np.testing.assert_allclose(scores.defined_share, expected.defined_share, atol=1e-12)
        np.testing.assert_array_equal(scores.reason, np.where(heard_F, expected.reason, Reason.SILENT))
    assert scores.valid.any() and not scores.valid.all()


@given(seed=st.integers(0, 10_000), measure=st.sampled_from(["correlation", "cosine"]))
@settings(max_examples=5, deadline=None)
def test_closed_form_sums_are_those_of_a_loop_over_pairs(seed, measure):
    rng = np.random.default_rng(seed)
    P_SWF, codes_S = courses(rng), codes_with_some_left_out(rng)
    sides = np.flatnonzero(codes_S == 1), np.flatnonzero(codes_S == -1)
    comparison = Comparison(*sides, "category", "aligned", measure, 5, 20)
    done_F, sums_9F = closed_form_sums(rare_profiles(as_rows(P_SWF), 25, comparison), comparison, 100)
    assert done_F[22:25].all() and not done_F[29] and (sums_9F[3:][:, done_F] != 0).any(axis=0).sum() >= 8
    for f in np.flatnonzero(done_F & (sums_9F[3:] != 0).any(axis=0)):
        expected = []
        for left, right in ((0, 0), (1, 1), (0, 1)):
            pairs = [(i, j) for i in sides[left] for j in sides[right] if left != right or i < j]
            X_SW = P_SWF[..., f] / np.abs(P_SWF[..., f]).max()
            X_SW = X_SW - (measure == "correlation") * X_SW.mean(axis=1, keepdims=True)
            norm_S = np.linalg.norm(X_SW, axis=1) * (X_SW.std(axis=1) > 1e-12)
            r = [X_SW[i] @ X_SW[j] / (norm_S[i] * norm_S[j]) for i, j in pairs if norm_S[i] * norm_S[j] > 0]
            z = np.arctanh(np.clip(r, -1 + 1 / 25, 1 - 1 / 25))
            expected.append((z.sum(), (z**2).sum()))
        np.testing.assert_allclose(sums_9F[3:, f], np.transpose(expected).ravel(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gaps", [False, True])
def test_a_sparse_table_scores_like_dense_profiles(form, gaps):
    rng = np.random.default_rng(3)
    P_SWF, defined_SW = (
        np.delete(courses(rng, n_features=32)[:, :12], [25, 26], axis=2),
        rng.random((40, 12)) < (0.9 if gaps else 2),
    )
    codes_BS = np.stack([codes_with_some_left_out(rng) for _ in range(3)])
    if gaps:
        P_SWF[~defined_SW] = np.nan
    for codes in (codes_BS, codes_BS[0], codes_BS[:1]):
        dense, rows = (
            score_profiles(P, defined_SW, codes, form=form, block_size=3, **ENOUGH) for P in (P_SWF, as_rows(P_SWF))
        )
        np.testing.assert_allclose(rows.value, dense.value, atol=1e-10)
        np.testing.assert_allclose(rows.defined_share, dense.defined_share, atol=1e-12)
        np.testing.assert_array_equal(rows.reason, dense.reason)
        assert dense.valid.any()


@given(seed=st.integers(0, 10_000), block_size=st.integers(1, 40))
@few_examples
def test_neither_blocks_threads_neighbours_nor_silent_stimuli_matter(seed, block_size):
    rng = np.random.default_rng(seed)
    P_SWF, everywhere, labels = courses(rng), np.ones((40, 25), dtype=bool), rng.permutation(np.arange(40) < 20)
    reference = score_profiles(as_rows(P_SWF), everywhere, labels, **ENOUGH)

    def same(P_SWF, labels, columns=slice(None), **options):
        everywhere = np.ones(P_SWF.shape[:2], dtype=bool)
        scores = score_profiles(as_rows(P_SWF), everywhere, labels, **options, **ENOUGH)
        np.testing.assert_allclose(scores.value, reference.value[columns], atol=1e-10)
        np.testing.assert_array_equal(scores.reason, reference.reason[columns])
        return scores.value

    one, three = (same(P_SWF, labels, block_size=block_size, n_jobs=n_jobs) for n_jobs in (1, 3))
    np.testing.assert_array_equal(one, three)
    columns, order, positions = rng.permutation(48)[:17], rng.permutation(40), rng.permutation(25)
    same(P_SWF[..., columns], labels, columns)
    same(P_SWF[order][:, positions], labels[order])
    same(np.concatenate([P_SWF, np.zeros((4, 25, 48))]), np.append(labels, [True, False] * 2))
    same(P_SWF * rng.uniform(1e-3, 1e3, size=48), labels)


def test_single_tokens_that_never_meet_are_all_equally_unlike():
    P_SWF = np.eye(40)[:, :, None] * np.ones(3)
    P_SWF[1, :, 1] = P_SWF[0, :, 1]  # but for one pair of the target condition
    P_SWF[21, :, 2] = P_SWF[0, :, 2]  # or one across
    scores = score_profiles(as_rows(P_SWF), np.ones((40, 40)), np.arange(40) < 20)
    assert scores.reason.tolist() == [Reason.CONSTANT, Reason.OK, Reason.OK]
    assert scores.value[1] > 0 > scores.value[2]


def test_every_sparse_format_and_number_type_is_read_and_left_as_it_was():
    rng = np.random.default_rng(4)
    P_SWF, everywhere, labels = np.round(8 * courses(rng)[..., 30:]), np.ones((40, 25), dtype=bool), np.arange(40) < 20
    rows = as_rows(P_SWF)
    reference = score_profiles(P_SWF, everywhere, labels, **ENOUGH).value
    coo = sparse.coo_array(rows)
    twice = sparse.coo_array((np.tile(coo.data / 2, 2), tuple(np.tile(c, 2) for c in coo.coords)), shape=rows.shape)
    zeros = rows.copy()
    zeros.data = np.append(zeros.data, 0.0)
    zeros.indices, zeros.indptr = np.append(zeros.indices, 999), np.append(zeros.indptr[:-1], rows.nnz + 1)
    inputs = [rows, rows.tocsr(), coo, twice, zeros, rows.astype(np.float32), rows.astype(np.int64), rows.tolil()]
    for P in inputs:
        before = P.copy()
        np.testing.assert_allclose(score_profiles(P, everywhere, labels, **ENOUGH).value, reference, atol=1e-10)
        assert P.nnz == before.nnz and abs(P - before).max() == 0
    old = sparse.csr_matrix(rows)
    np.testing.assert_allclose(score_profiles(old, everywhere, labels, **ENOUGH).value, reference, atol=1e-10)


def test_a_wide_table_is_never_dense():
    rng, (n_stimuli, n_positions, n_features) = np.random.default_rng(5), (100, 50, 40_000)
    count_F = np.where(np.arange(n_features) % 20 == 0, 60, 0)
    rows = np.concatenate([rng.choice(n_stimuli * n_positions, n, replace=False) for n in count_F[count_F > 0]])
    table = (rng.exponential(size=len(rows)), rows, np.append(0, np.cumsum(count_F)))
    P_NF = sparse.csc_array(table, shape=(n_stimuli * n_positions, n_features))
    tracemalloc.start()
    scores = score_profiles(P_NF, np.ones((n_stimuli, n_positions)), np.arange(n_stimuli) < 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # dense: 1.6e9
    np.testing.assert_array_equal(scores.reason == Reason.SILENT, count_F == 0)
    assert scores.valid.sum() > 1000


def test_wrong_shapes_and_values_are_named():
    rng = np.random.default_rng(6)
    rows, everywhere, labels = as_rows(courses(rng)), np.ones((40, 25), dtype=bool), np.arange(40) < 20
    for table, mask in ((rows[:-1], everywhere), (rows, everywhere[:, :5]), (rows, everywhere.ravel())):
        with pytest.raises(UserError, match="one row per stimulus and position"):
            score_profiles(table, mask, labels)
    rows = rows.tolil()
    rows[7 * 25 + 3, 40] = np.nan
    with pytest.raises(UserError, match="stimulus 7, feature 40"):
        score_profiles(rows, everywhere, labels)
    everywhere[7, 3] = False
    assert np.isfinite(score_profiles(rows, everywhere, labels, **ENOUGH).value).all()
    left_out = score_profiles(rows, everywhere, np.where(np.arange(40) == 7, 0, np.where(labels, 1, -1)), **ENOUGH)
    assert np.isfinite(left_out.value).all() and left_out.valid.any()
    with pytest.raises(UserError, match="block_size is 0"):
        score_profiles(rows, everywhere, labels, block_size=0)


@given(weights=st.lists(st.integers(0, 9), max_size=30), limit=st.integers(0, 20))
def test_weighted_blocks_hold_every_feature_once_and_as_many_as_fit(weights, limit):
    blocks = [block.tolist() for block in weighted_blocks(np.array(weights, dtype=int), limit)]
    assert [f for block in blocks for f in block] == list(range(len(weights)))
    for n, block in enumerate(blocks):
        total = sum(weights[f] for f in block)
        assert total <= limit or len(block) == 1
        assert n == len(blocks) - 1 or total + weights[blocks[n + 1][0]] > limit
