"""RSA scores: identity with the definition, agreement with rsatoolbox, invariances, validity, planted truth."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from neurosae.errors import UserError
from neurosae.rsa import (
    KINDS,
    Reason,
    profile_similarity,
    score_model,
    score_profiles,
    score_scalar,
    score_similarity,
)

few_examples = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)


SIDES = {"discriminative": ([(1, 1)], [(-1, 1)]), "categorical": ([(1, 1)], [(-1, -1)])}
SIDES["category"] = ([(1, 1), (-1, -1)], [(-1, 1)])


def pair_sides(code_S, kind):
    """Every pair of the comparison, with True where it should be similar."""
    similar, dissimilar = SIDES[kind]
    for i in range(len(code_S)):
        for j in range(i + 1, len(code_S)):
            pair = tuple(sorted((code_S[i], code_S[j])))
            if pair in similar + dissimilar:
                yield i, j, pair in similar


def naive_scalar(x_S, code_S, kind):
    similarity, similar = zip(*((-((x_S[i] - x_S[j]) ** 2), s) for i, j, s in pair_sides(code_S, kind)), strict=True)
    return stats.pointbiserialr(similar, similarity).statistic


def naive_z(P_SW, defined_SW, i, j, min_positions=5):
    """Similarity of two profiles, or None."""
    common = defined_SW[i] & defined_SW[j]
    a, b = P_SW[i, common], P_SW[j, common]
    if common.sum() < min_positions or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    bound = 1 - 1 / P_SW.shape[1]
    return np.arctanh(np.clip(np.corrcoef(a, b)[0, 1], -bound, bound))


def random_codes(rng, n_vectors, n_stimuli):
    codes_BS = rng.choice([-1, 0, 1], size=(n_vectors, n_stimuli))
    codes_BS[:, :6] = [1, -1, 1, -1, 1, -1]
    return codes_BS


def relu_table(rng, n_stimuli, n_features):
    """Sparse non-negative responses; features differ in how often they fire, and the last ones are never zero."""
    X_SF = np.maximum(rng.normal(size=(n_stimuli, n_features)) - np.linspace(-1, 1.5, n_features), 0)
    X_SF[:, -2:] = 1000 + rng.random((n_stimuli, 2))
    return X_SF


# ---------------------------------------------------------------- scalar patterns


@pytest.mark.parametrize("kind", KINDS)
def test_scalar_score_is_the_point_biserial_correlation_over_pairs(kind):
    rng = np.random.default_rng(0)
    X_SF = rng.normal(size=(15, 7)) * 10.0 ** np.arange(-3, 4) + rng.normal(size=7) * 100
    codes_BS = random_codes(rng, 5, 15)
    expected_BF = [[naive_scalar(x_S, code_S, kind) for x_S in X_SF.T] for code_S in codes_BS]
    scores = score_scalar(X_SF, codes_BS, kind)
    assert scores.valid.all()
    np.testing.assert_allclose(scores.value, expected_BF, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
def test_sparse_equals_dense_and_the_definition(kind, layout):
    rng = np.random.default_rng(1)
    X_SF = relu_table(rng, 24, 12)
    codes_BS = random_codes(rng, 4, 24)
    dense, from_sparse = score_scalar(X_SF, codes_BS, kind), score_scalar(layout(X_SF), codes_BS, kind)
    np.testing.assert_allclose(from_sparse.value, dense.value, atol=1e-9)
    np.testing.assert_array_equal(from_sparse.reason, dense.reason)
    for b, f in np.argwhere(dense.valid):
        assert dense.value[b, f] == pytest.approx(naive_scalar(X_SF[:, f], codes_BS[b], kind), abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", [1e2, 1e4, 1e6])
def test_conditions_far_apart_lose_no_digits(kind, distance):
    rng = np.random.default_rng(2)
    labels = np.arange(20) < 10
    x_S = rng.integers(0, 50, size=20) + distance * labels * 16  # exact in float64
    expected = naive_scalar(x_S.astype(float), np.where(labels, 1, -1), kind)
    assert score_scalar(x_S[:, None], labels, kind).value[0] == pytest.approx(expected, abs=1e-8)


def test_an_outlier_among_left_out_stimuli_does_not_matter():
    rng = np.random.default_rng(3)
    X_SF = rng.normal(size=(21, 3))
    codes_S = np.append(np.where(np.arange(20) < 10, 1, -1), 0)
    X_SF[-1] = 1e7
    for table in (X_SF, sparse.csr_array(X_SF)):
        np.testing.assert_allclose(
            score_scalar(table, codes_S).value, score_scalar(X_SF[:-1], codes_S[:-1]).value, atol=1e-8
        )


@given(seed=seeds, kind=st.sampled_from(KINDS), block_size=st.integers(1, 12))
@few_examples
def test_scalar_invariances(seed, kind, block_size):
    rng = np.random.default_rng(seed)
    X_SF = relu_table(rng, 18, 8)
    codes_BS = random_codes(rng, 3, 18)
    reference = score_scalar(X_SF, codes_BS, kind)

    def same(scores, columns=slice(None)):
        np.testing.assert_allclose(scores.value[:, columns], reference.value, atol=1e-8)
        np.testing.assert_array_equal(scores.reason[:, columns] == Reason.OK, reference.reason == Reason.OK)

    order = rng.permutation(18)
    same(score_scalar(X_SF[order], codes_BS[:, order], kind))
    same(score_scalar(X_SF * rng.choice([-1e6, -3, 1e-6, 7], size=8), codes_BS, kind))
    same(score_scalar(X_SF + rng.normal(size=8) * 10, codes_BS, kind))
    same(score_scalar(np.insert(X_SF, 3, 0, axis=1), codes_BS, kind), [0, 1, 2, 4, 5, 6, 7, 8])
    same(score_scalar(X_SF, codes_BS, kind, block_size=block_size))
    same(score_scalar(sparse.csr_array(X_SF), codes_BS, kind, block_size=block_size))


@given(seed=seeds)
@few_examples
def test_swapping_the_conditions(seed):
    rng = np.random.default_rng(seed)
    X_SF, labels = rng.exponential(size=(20, 5)), rng.permutation(np.arange(20) < 10)
    for kind, sign in (("category", 1), ("categorical", -1)):
        np.testing.assert_allclose(
            score_scalar(X_SF, ~labels, kind).value, sign * score_scalar(X_SF, labels, kind).value, atol=1e-12
        )
    swapped, straight = (score_scalar(X_SF, y, "discriminative").value for y in (~labels, labels))
    assert np.abs(swapped - straight).min() > 1e-9


def test_a_label_vector_scores_the_same_alone_and_in_a_batch_and_booleans_are_codes():
    rng = np.random.default_rng(4)
    X_SF, labels_BS = rng.normal(size=(12, 4)), np.array([rng.permutation(np.arange(12) < 6) for _ in range(3)])
    batch = score_scalar(X_SF, np.where(labels_BS, 1, -1))
    for b, labels in enumerate(labels_BS):
        alone = score_scalar(X_SF, labels)
        assert alone.value.shape == (4,)
        np.testing.assert_allclose(alone.value, batch.row(b).value, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_scalar_validity_has_reasons_and_never_nan(kind):
    x_S = np.arange(8.0)
    held_out_only = np.where(np.arange(8) == 7, 5.0, 0.0)
    X_SF = np.column_stack([np.zeros(8), np.full(8, 0.1), held_out_only, x_S, np.where(np.arange(8) == 7, 3.0, 0.1)])
    codes_BS = np.array([[1, 1, 1, -1, -1, -1, -1, 0], [1, -1, 0, 0, 0, 0, 0, 0]])
    scores = score_scalar(X_SF, codes_BS, kind)
    expected = [Reason.SILENT, Reason.CONSTANT, Reason.SILENT, Reason.OK, Reason.CONSTANT]
    assert scores.reason[0].tolist() == expected
    assert (scores.reason[1] == Reason.TOO_FEW_STIMULI).all()
    assert np.isfinite(scores.value).all() and (scores.value[~scores.valid] == 0).all()
    np.testing.assert_array_equal(score_scalar(sparse.csr_array(X_SF), codes_BS, kind).reason, scores.reason)


def test_equal_nonzero_distances_are_constant():
    scores = score_scalar(np.array([[0.0], [1.0], [5.0], [6.0]]), [True, True, False, False], "categorical")
    assert scores.reason.tolist() == [Reason.CONSTANT]


def test_one_foil_is_enough_where_pairs_within_the_foil_are_masked():
    X_SF, labels = np.array([[0.0], [1.0], [3.0]]), [True, True, False]
    assert score_scalar(X_SF, labels, "discriminative").valid.all()
    assert not score_scalar(X_SF, labels, "categorical").valid.any()
    assert not score_scalar(X_SF, labels, "category").valid.any()


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array, sparse.csc_array])
def test_values_that_are_not_finite_are_refused_by_name(convert):
    X_SF = np.arange(12.0).reshape(4, 3)
    X_SF[2, 1] = np.nan
    with pytest.raises(UserError, match="stimulus 2, feature 1"):
        score_scalar(convert(X_SF), [True, True, False, False])


def test_mistakes_in_the_arguments_are_refused():
    X_SF = np.ones((4, 2))
    with pytest.raises(UserError, match="left out"):
        score_scalar(X_SF, [1, 1, 0, 0])
    with pytest.raises(UserError, match="shape"):
        score_scalar(X_SF, [True, False])
    with pytest.raises(UserError, match="Did you mean 'category'"):
        score_scalar(X_SF, [True, True, False, False], "catgory")
    with pytest.raises(UserError, match="block_size"):
        score_scalar(X_SF, [True, True, False, False], block_size=0)


def test_planted_scalar_signals_have_the_sign_and_kind_they_should():
    rng = np.random.default_rng(5)
    target = np.arange(200) < 100
    x_SF = rng.normal(size=(200, 3))
    x_SF[target, 0] += 4
    x_SF[target, 1] *= 0.1
    discriminative, categorical, category = (score_scalar(x_SF, target, kind).value for kind in KINDS)
    assert discriminative[0] > 0.5 and category[0] > 0.5 and abs(categorical[0]) < 0.2
    assert discriminative[1] > 0.3 and categorical[1] > 0.3 and category[1] < discriminative[1]
    assert np.abs([discriminative[2], categorical[2], category[2]]).max() < 0.1
    assert score_scalar(x_SF, ~target, "categorical").value[1] < -0.3


def test_random_labels_score_zero_on_average():
    rng = np.random.default_rng(6)
    X_SF = rng.exponential(size=(40, 20))
    labels_BS = np.array([rng.permutation(np.arange(40) < 20) for _ in range(400)])
    for kind in KINDS:
        value_BF = score_scalar(X_SF, labels_BS, kind).value
        error_F = value_BF.std(axis=0) / np.sqrt(len(labels_BS))
        assert (np.abs(value_BF.mean(axis=0)) < 5 * error_F + 0.02).all()


# ---------------------------------------------------------------- model RDMs


def random_model(rng, n):
    upper = np.triu(rng.random((n, n)), 1)
    return upper + upper.T


def test_model_score_is_the_correlation_over_pairs():
    rng = np.random.default_rng(7)
    X_SF, model_RDM = relu_table(rng, 14, 6), random_model(rng, 14)
    pairs = np.triu_indices(14, 1)
    expected = [np.corrcoef(((x[:, None] - x) ** 2)[pairs], model_RDM[pairs])[0, 1] for x in X_SF.T]
    for table in (X_SF, sparse.csr_array(X_SF)):
        np.testing.assert_allclose(score_model(table, model_RDM, block_size=4).value, expected, atol=1e-9)


def test_model_score_agrees_with_rsatoolbox():
    rsatoolbox = pytest.importorskip("rsatoolbox")
    rng = np.random.default_rng(8)
    X_SF, model_RDM = rng.normal(size=(12, 5)) + 3, random_model(rng, 12)
    model = rsatoolbox.rdm.RDMs(model_RDM[np.triu_indices(12, 1)][None])
    for f, score in enumerate(score_model(X_SF, model_RDM).value):
        rdm = rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(X_SF[:, [f]]), method="euclidean")
        assert score == pytest.approx(rsatoolbox.rdm.compare(rdm, model, method="corr")[0, 0], abs=1e-9)


@given(seed=seeds)
@few_examples
def test_category_is_the_model_of_zeros_within_and_ones_across(seed):
    rng = np.random.default_rng(seed)
    X_SF, labels = rng.normal(size=(16, 5)), rng.permutation(np.arange(16) < rng.integers(4, 12))
    across = (labels[:, None] != labels).astype(float)
    expected = score_scalar(X_SF, labels, "category").value
    np.testing.assert_allclose(score_model(X_SF, across).value, expected, atol=1e-9)
    np.testing.assert_allclose(score_model(X_SF * -5 + 100, 3 * across + 2).value, expected, atol=1e-9)


def test_model_score_finds_its_own_model_and_explains_the_rest():
    x_S = np.random.default_rng(9).normal(size=10)
    scores = score_model(np.column_stack([x_S, np.zeros(10), np.full(10, 0.1)]), (x_S[:, None] - x_S) ** 2)
    assert scores.value[0] == pytest.approx(1)
    assert scores.reason.tolist() == [Reason.OK, Reason.SILENT, Reason.CONSTANT]


@pytest.mark.parametrize("bad", [np.ones((3, 3)), np.ones((4, 4)), np.arange(16.0).reshape(4, 4)])
def test_models_nothing_can_fit_are_refused(bad):
    with pytest.raises(UserError, match="model RDM"):
        score_model(np.arange(8.0).reshape(4, 2), bad)


# ---------------------------------------------------------------- profiles


def masked_profiles(seed, n_stimuli=12, n_positions=9, n_features=5):
    """Noise, sparse spikes, offsets, a silent and a constant feature; undefined positions hold NaN."""
    rng = np.random.default_rng(seed)
    P_SWF = rng.normal(size=(n_stimuli, n_positions, n_features))
    P_SWF[..., 1] = np.maximum(P_SWF[..., 1] - 1, 0)
    P_SWF[..., 2] += 1000
    P_SWF[..., 3], P_SWF[..., 4] = 0, 0.1
    defined_SW = rng.random((n_stimuli, n_positions)) < 0.85
    P_SWF[~defined_SW] = np.nan
    return P_SWF, defined_SW


@pytest.mark.parametrize("seed", range(3))
def test_profile_similarity_is_the_clipped_fisher_z_over_common_positions(seed):
    P_SWF, defined_SW = masked_profiles(seed)
    Z_FSS, ok_FSS = profile_similarity(P_SWF, defined_SW)
    for f in range(P_SWF.shape[2]):
        for i in range(len(P_SWF)):
            for j in range(len(P_SWF)):
                z = naive_z(P_SWF[..., f], defined_SW, i, j) if i != j else None
                assert ok_FSS[f, i, j] == (z is not None)
                assert Z_FSS[f, i, j] == pytest.approx(0 if z is None else z, abs=1e-7)
    assert ok_FSS[0].any() and ok_FSS[1].any() and not ok_FSS[1].all() and not ok_FSS[3:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_profile_score_is_the_point_biserial_correlation_over_defined_pairs(kind):
    P_SWF, defined_SW = masked_profiles(4, n_stimuli=16)
    codes_BS = random_codes(np.random.default_rng(5), 3, 16)
    scores = score_profiles(P_SWF, defined_SW, codes_BS, kind, min_stimuli=2, min_pairs=2, block_size=2)
    for b, code_S in enumerate(codes_BS):
        for f in range(3):
            pairs = [(naive_z(P_SWF[..., f], defined_SW, i, j), similar) for i, j, similar in pair_sides(code_S, kind)]
            defined = [(z, similar) for z, similar in pairs if z is not None]
            z, similar = zip(*defined, strict=True)
            assert scores.value[b, f] == pytest.approx(stats.pointbiserialr(similar, z).statistic, abs=1e-7)
            assert scores.defined_share[b, f] == pytest.approx(len(defined) / len(pairs))
    assert scores.reason[:, 3].tolist() == [Reason.SILENT] * 3
    assert not scores.valid[:, 4].any() and np.isfinite(scores.value).all()


def test_similarities_serve_any_number_of_label_vectors():
    P_SWF, defined_SW = masked_profiles(6, n_stimuli=20)
    codes_BS = random_codes(np.random.default_rng(7), 6, 20)
    Z_FSS, ok_FSS = profile_similarity(P_SWF, defined_SW)
    batch = score_similarity(Z_FSS, ok_FSS, codes_BS, min_stimuli=2, min_pairs=2)
    for b, code_S in enumerate(codes_BS):
        kept = code_S != 0
        refit = score_profiles(P_SWF[kept], defined_SW[kept], code_S[kept], min_stimuli=2, min_pairs=2)
        np.testing.assert_allclose(batch.value[b], refit.value, atol=1e-9)
        np.testing.assert_allclose(batch.defined_share[b], refit.defined_share, atol=1e-12)


@given(seed=seeds, kind=st.sampled_from(KINDS), form=st.sampled_from(["aligned", "sorted"]))
@few_examples
def test_profile_invariances(seed, kind, form):
    rng = np.random.default_rng(seed)
    P_SWF, defined_SW = masked_profiles(seed, n_stimuli=14)
    codes_BS = random_codes(rng, 2, 14)

    def score(P_SWF, defined_SW, codes_BS, **options):
        return score_profiles(P_SWF, defined_SW, codes_BS, kind, form=form, min_stimuli=2, min_pairs=2, **options).value

    reference = score(P_SWF, defined_SW, codes_BS)
    order, positions = rng.permutation(14), rng.permutation(9)
    np.testing.assert_allclose(score(P_SWF[order], defined_SW[order], codes_BS[:, order]), reference, atol=1e-7)
    np.testing.assert_allclose(score(P_SWF[:, positions], defined_SW[:, positions], codes_BS), reference, atol=1e-7)
    gain_S11, offset_S11 = rng.uniform(0.5, 2, (14, 1, 1)), rng.normal(size=(14, 1, 1))
    rescaled = score(P_SWF[..., :3] * gain_S11 + offset_S11, defined_SW, codes_BS)
    np.testing.assert_allclose(rescaled, reference[:, :3], atol=1e-7)
    np.testing.assert_allclose(score(P_SWF, defined_SW, codes_BS, block_size=1), reference, atol=1e-12)


def test_sorted_profiles_ignore_the_moment_of_firing_and_aligned_ones_do_not():
    rng = np.random.default_rng(8)
    P_SWF = rng.exponential(size=(30, 8, 2))
    shuffled = np.take_along_axis(P_SWF, rng.permuted(np.tile(np.arange(8), (30, 1)), axis=1)[:, :, None], axis=1)
    everywhere, labels = np.ones((30, 8), dtype=bool), np.arange(30) < 15
    by_form = {
        form: [score_profiles(P, everywhere, labels, form=form).value for P in (P_SWF, shuffled)]
        for form in ("aligned", "sorted")
    }
    np.testing.assert_allclose(*by_form["sorted"], atol=1e-12)
    assert np.abs(by_form["aligned"][0] - by_form["aligned"][1]).max() > 1e-3


def test_sorted_profiles_compare_the_largest_clean_values():
    P_SWF = np.array([[5.0, 9, 1, 7, 3, 99], [2, 1, 8, 4, 6, 3]])[:, :, None]
    defined_SW = np.array([[True] * 5 + [False], [True] * 6])
    Z_FSS, ok_FSS = profile_similarity(P_SWF, defined_SW, form="sorted")
    r = np.corrcoef([9, 7, 5, 3, 1], [8, 6, 4, 3, 2])[0, 1]
    assert ok_FSS[0, 0, 1] and Z_FSS[0, 0, 1] == pytest.approx(np.arctanh(min(r, 5 / 6)))


def test_a_profile_score_needs_pairs_and_stimuli():
    rng = np.random.default_rng(9)
    P_SWF, everywhere = rng.normal(size=(40, 6, 1)), np.ones((40, 6), dtype=bool)

    def reason(n_target, n_foil, kind, **options):
        codes_S = np.repeat([1, -1, 0], [n_target, n_foil, 40 - n_target - n_foil])
        return score_profiles(P_SWF, everywhere, codes_S, kind, **options).reason[0]

    assert reason(15, 15, "categorical") == Reason.OK  # 105 pairs on each side
    assert reason(14, 20, "categorical") == Reason.TOO_FEW_PAIRS  # 91 pairs within the target
    assert reason(15, 6, "discriminative") == Reason.TOO_FEW_PAIRS  # 90 pairs across
    assert reason(15, 7, "discriminative") == Reason.OK
    assert reason(10, 9, "categorical", min_pairs=1) == Reason.TOO_FEW_STIMULI
    assert reason(9, 10, "categorical", min_pairs=1) == Reason.TOO_FEW_STIMULI
    assert reason(10, 10, "categorical", min_pairs=1) == Reason.OK
    assert reason(1, 30, "discriminative", min_pairs=0, min_stimuli=0) == Reason.TOO_FEW_STIMULI


def test_constant_profiles_are_constant_whatever_the_rounding_of_their_mean():
    P_SWF = np.broadcast_to(np.random.default_rng(11).normal(size=200), (40, 13, 200))
    scores = score_profiles(P_SWF, np.ones((40, 13)), np.arange(40) < 20)
    assert not scores.valid.any() and (scores.defined_share == 0).all()


def test_silent_profiles_are_reported_like_silent_scalars():
    P_SWF, codes_BS = np.zeros((40, 6, 1)), np.array([[1, -1] * 20, [1, -1] + [0] * 38])
    for scores in (score_profiles(P_SWF, np.ones((40, 6)), codes_BS), score_scalar(P_SWF[:, 0], codes_BS)):
        assert scores.reason[:, 0].tolist() == [Reason.SILENT, Reason.TOO_FEW_STIMULI]


def test_latents_with_single_spikes_are_reported_not_scored():
    """A latent active in a handful of stimuli has few defined pairs; they say where the token stood."""
    P_SWF = np.zeros((60, 16, 1))
    P_SWF[np.arange(6), np.arange(6)] = 1
    labels = np.arange(60) < 30
    scores = score_profiles(P_SWF, np.ones((60, 16), dtype=bool), labels)
    assert not scores.valid[0] and scores.value[0] == 0
    assert scores.defined_share[0] == pytest.approx(15 / (30 * 29 / 2 + 900))
    Z_FSS, ok_FSS = profile_similarity(P_SWF, np.ones((60, 16), dtype=bool))
    np.testing.assert_allclose(np.tanh(Z_FSS[ok_FSS]), -1 / 15)


def test_planted_time_course():
    rng = np.random.default_rng(10)
    labels = np.arange(60) < 30
    P_SWF = rng.normal(size=(60, 12, 2))
    P_SWF[labels, :, 1] += 2 * np.sin(np.arange(12))
    for kind, least in zip(KINDS, (0.7, 0.6, 0.3), strict=True):
        noise, planted = score_profiles(P_SWF, np.ones((60, 12)), labels, kind).value
        assert planted > least and abs(noise) < 0.2


def test_profiles_with_values_that_are_not_finite_or_do_not_fit_are_refused():
    P_SWF, defined_SW = np.zeros((4, 6, 2)), np.ones((4, 6), dtype=bool)
    labels = [True, True, False, False]
    with pytest.raises(UserError, match="their mask"):
        score_profiles(P_SWF, defined_SW[:, :5], labels)
    with pytest.raises(UserError, match="profile form"):
        score_profiles(P_SWF, defined_SW, labels, form="sort")
    P_SWF[3, 2, 1] = np.inf
    with pytest.raises(UserError, match="stimulus 3, feature 1"):
        score_profiles(P_SWF, defined_SW, labels)
    defined_SW[3, 2] = False
    assert np.isfinite(score_profiles(P_SWF, defined_SW, labels).value).all()


def test_importing_rsa_is_light():
    heavy = "'torch', 'transformers', 'sklearn', 'pandas'"
    check = f"import sys, neurosae.rsa; raise SystemExit(sum(m in sys.modules for m in ({heavy})))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
