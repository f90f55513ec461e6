"""Time courses that fill the window: the shortcut gives what tables of all pairs give, for any block and thread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosae.errors import UserError
from neurosae.rsa import KINDS, Reason, profile_similarity, score_model, score_profiles, score_similarity

few_examples = settings(max_examples=20, deadline=None)
ENOUGH = {"min_stimuli": 5, "min_pairs": 20}


def courses(rng, n_stimuli=30, n_positions=8, n_features=40):
    """From never to always active, in all stimuli or few; silent, constant, flat, far from zero, tiny and huge."""
    P_SWF = rng.normal(size=(n_stimuli, n_positions, n_features))
    P_SWF *= rng.random(P_SWF.shape) < rng.random(n_features) ** 2
    P_SWF *= rng.random((n_stimuli, 1, n_features)) < np.sqrt(rng.random(n_features))
    P_SWF[..., :3] = rng.normal(size=(n_stimuli, n_positions, 3))
    P_SWF[..., 3], P_SWF[..., 4], P_SWF[..., 5] = 0, 0.1, rng.random((n_stimuli, 1))
    P_SWF[..., 0] += 1000
    P_SWF[..., 1] *= 1e-170
    P_SWF[..., 2] *= 1e170
    return P_SWF


@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    form=st.sampled_from(["aligned", "sorted"]),
    measure=st.sampled_from(["correlation", "cosine"]),
)
@few_examples
def test_full_windows_score_like_tables_of_all_pairs(seed, kind, form, measure):
    rng = np.random.default_rng(seed)
    P_SWF, everywhere = courses(rng), np.ones((30, 8), dtype=bool)
    codes_S = rng.choice([-1, 0, 1], 30)
    codes_S[:18] = [1, -1] * 9
    scores = score_profiles(P_SWF, everywhere, codes_S, kind, form=form, measure=measure, **ENOUGH)
    tables = profile_similarity(P_SWF, everywhere, form=form, measure=measure)
    expected = score_similarity(*tables, codes_S, kind, **ENOUGH)
    np.testing.assert_allclose(scores.value, expected.value, atol=1e-9)
    np.testing.assert_allclose(scores.defined_share, expected.defined_share, atol=1e-12)
    heard_F = P_SWF[codes_S != 0].any(axis=(0, 1))
    np.testing.assert_array_equal(scores.reason, np.where(heard_F, expected.reason, Reason.SILENT))
    assert scores.valid.any() and not scores.valid.all()


@given(seed=st.integers(0, 10_000), block_size=st.integers(1, 12))
@few_examples
def test_neither_blocks_nor_neighbours_nor_silent_stimuli_matter(seed, block_size):
    rng = np.random.default_rng(seed)
    P_SWF, everywhere, labels = courses(rng), np.ones((30, 8), dtype=bool), rng.permutation(np.arange(30) < 15)
    reference = score_profiles(P_SWF, everywhere, labels, **ENOUGH)

    def same(scores, columns=slice(None)):
        np.testing.assert_allclose(scores.value, reference.value[columns], atol=1e-10)
        np.testing.assert_array_equal(scores.reason, reference.reason[columns])

    same(score_profiles(P_SWF, everywhere, labels, block_size=block_size, **ENOUGH))
    columns, order = rng.permutation(40)[:17], rng.permutation(30)
    same(score_profiles(P_SWF[..., columns], everywhere, labels, **ENOUGH), columns)
    same(score_profiles(P_SWF[order], everywhere, labels[order], **ENOUGH))
    silent = np.concatenate([P_SWF, np.zeros((4, 8, 40))])
    same(score_profiles(silent, np.ones((34, 8)), np.append(labels, [True, False] * 2), **ENOUGH))


@pytest.mark.parametrize("gaps", [False, True])
def test_threads_change_no_bit(gaps):
    rng = np.random.default_rng(0)
    P_SWF, defined_SW, labels = courses(rng), rng.random((30, 8)) < (0.9 if gaps else 2), np.arange(30) < 15
    one, three = (score_profiles(P_SWF, defined_SW, labels, block_size=2, n_jobs=n_jobs, **ENOUGH) for n_jobs in (1, 3))
    np.testing.assert_array_equal(one.value, three.value)
    np.testing.assert_array_equal(one.reason, three.reason)
    model_SS = np.abs(np.subtract.outer(np.arange(30.0), np.arange(30)))
    for comparator in ("kendall", "spearman"):
        one, three = (
            score_model(P_SWF[:, 0], model_SS, comparator=comparator, block_size=3, n_jobs=n).value for n in (1, 3)
        )
        np.testing.assert_array_equal(one, three)


def test_left_out_stimuli_may_have_gaps_and_others_are_named():
    rng = np.random.default_rng(1)
    P_SWF, defined_SW, codes_S = (
        rng.normal(size=(31, 8, 90)),
        np.ones((31, 8), dtype=bool),
        np.repeat([1, -1, 0], [15, 15, 1]),
    )
    reference = score_profiles(P_SWF, defined_SW, codes_S)
    P_SWF[30, 2], defined_SW[30, 2] = np.nan, False
    np.testing.assert_array_equal(score_profiles(P_SWF, defined_SW, codes_S).value, reference.value)
    P_SWF[7, 3, 80] = np.inf
    with pytest.raises(UserError, match="stimulus 7, feature 80"):
        score_profiles(P_SWF, defined_SW, codes_S)
    largest = np.full((30, 8, 1), 1e308) * rng.random((30, 8, 1))
    assert score_profiles(largest, np.ones((30, 8)), codes_S[:30]).valid.all()  # a sum that overflows is no error


def test_integers_and_single_precision_are_profiles_too():
    rng = np.random.default_rng(2)
    P_SWF, everywhere, labels = rng.integers(0, 9, size=(30, 8, 6)), np.ones((30, 8), dtype=bool), np.arange(30) < 15
    reference = score_profiles(P_SWF.astype(float), everywhere, labels).value
    for dtype in (np.int64, np.float32):
        np.testing.assert_array_equal(score_profiles(P_SWF.astype(dtype), everywhere, labels).value, reference)
