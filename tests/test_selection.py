"""Selectors: agreement with scipy and scikit-learn, planted signals, validity, batches, the estimator."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurosae import rsa
from neurosae.decoding import selection
from neurosae.decoding.selection import PLANTED, SELECTORS, Selector, scores, top_k
from neurosae.errors import UserError
from neurosae.inference.linear import T_CAP
from neurosae.rsa import FeatureScores, Reason

N_STIMULI, N_POSITIONS, N_FEATURES, N_PLANTED = 60, 16, 150, 3
LABELS = np.arange(N_STIMULI) % 2 == 0
BLOCKS = np.arange(N_STIMULI) // 2
SIGNALS = ("mean_shift", "variance", "profile_shape", "rare_firing")


def planted(signal, seed):
    """Pooled responses, profiles with their mask, and the features that carry `signal`; noise has unit scale."""
    rng = np.random.default_rng(seed)
    P_SWF = rng.normal(size=(N_STIMULI, 1, N_FEATURES)) + rng.normal(size=(N_STIMULI, N_POSITIONS, N_FEATURES)) / 2
    features = rng.choice(N_FEATURES, N_PLANTED, replace=False)
    for f in features:
        if signal == "mean_shift":
            P_SWF[LABELS, :, f] += 2.5
        elif signal == "variance":
            P_SWF[LABELS, :, f] *= 0.1
        elif signal == "profile_shape":
            P_SWF[LABELS, :, f] += 1.5 * np.sin(2 * np.pi * np.arange(N_POSITIONS) / N_POSITIONS)
        elif signal == "rare_firing":
            fires = rng.choice(np.flatnonzero(LABELS), LABELS.sum() // 3, replace=False)
            P_SWF[fires, :, f] += 8
    return P_SWF.mean(axis=1), (P_SWF, np.ones((N_STIMULI, N_POSITIONS), dtype=bool)), features


def recall(name, signal, seeds, k=8):
    found = []
    for seed in seeds:
        X_SF, profiles, features = planted(signal, seed)
        chosen = top_k(scores(name, X_SF, LABELS, profiles=profiles, rng_seed=seed), k)
        found.append(np.isin(features, chosen).mean())
    return np.mean(found)


def messy(rng, n_features=12, n_stimuli=24):
    """Ties, offsets, sparse, silent and constant features."""
    X_SF = rng.normal(size=(n_stimuli, n_features)).round(1)
    X_SF[:, 1] = np.maximum(X_SF[:, 1] - 1, 0)
    X_SF[:, 2] += 1e5
    X_SF[:, 3], X_SF[:, 4] = 0, 0.1
    return X_SF


def messy_codes(rng, n_vectors=6, n_stimuli=24):
    """Label vectors over pairs: whole pairs are left out, each pair kept has one target and one foil."""
    flips = rng.choice([-1, 0, 1], size=(n_vectors, n_stimuli // 2), p=[0.4, 0.2, 0.4])
    flips[:, :3] = 1
    return np.stack([flips, -flips], axis=2).reshape(n_vectors, n_stimuli).astype(np.int8)


USABLE = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]


# ---------------------------------------------------------------- independent implementations


def groups(X_SF, code_S):
    return X_SF[code_S == 1][:, USABLE], X_SF[code_S == -1][:, USABLE]


def expected_max_activation(X_SF, code_S):
    return X_SF[code_S != 0][:, USABLE].max(axis=0)


def expected_target_max(X_SF, code_S):
    return groups(X_SF, code_S)[0].max(axis=0)


def expected_mean_difference(X_SF, code_S):
    target, foil = groups(X_SF, code_S)
    return np.abs(target.mean(axis=0) - foil.mean(axis=0))


def expected_t(X_SF, code_S):
    return np.abs(stats.ttest_ind(*groups(X_SF, code_S), equal_var=False).statistic)


def expected_auroc(X_SF, code_S):
    kept = code_S != 0
    return [2 * abs(roc_auc_score(code_S[kept] == 1, X_SF[kept, f]) - 0.5) for f in USABLE]


def expected_l1(X_SF, code_S):
    kept = code_S != 0
    model = LogisticRegression(l1_ratio=1, C=1, solver="liblinear", random_state=0)
    return np.abs(make_pipeline(StandardScaler(), model).fit(X_SF[kept][:, USABLE], code_S[kept])[-1].coef_[0])


@pytest.mark.parametrize("name", ["max_activation", "target_max", "mean_difference", "t", "auroc", "l1"])
def test_agrees_with_an_independent_implementation_for_every_label_vector(name):
    rng = np.random.default_rng(0)
    X_SF, codes_BS = messy(rng), messy_codes(rng)
    result = scores(name, X_SF, codes_BS)
    for b, code_S in enumerate(codes_BS):
        expected = globals()[f"expected_{name}"](X_SF, code_S)
        np.testing.assert_allclose(result.value[b, USABLE], expected, rtol=1e-7, atol=1e-6 if name == "l1" else 1e-9)
    assert (result.reason[:, 3] == Reason.SILENT).all() and (result.reason[:, 4] == Reason.CONSTANT).all()
    assert (result.value[:, [3, 4]] == 0).all() and result.valid[:, USABLE].all()


def test_paired_t_agrees_with_scipy_for_every_label_vector():
    rng = np.random.default_rng(1)
    order = rng.permutation(24)  # the partner is not the neighbour
    X_SF, codes_BS, blocks_S = messy(rng), messy_codes(rng)[:, order], np.repeat(np.arange(12), 2)[order]
    result = scores("t", X_SF, codes_BS, blocks_S=blocks_S.astype(str))
    for b, code_S in enumerate(codes_BS):
        by_block = [X_SF[members][np.argsort(blocks_S[members])] for members in (code_S == 1, code_S == -1)]
        expected = np.abs(stats.ttest_rel(*by_block).statistic)[USABLE]
        np.testing.assert_allclose(result.value[b, USABLE], expected, rtol=1e-7, atol=1e-12)


def test_t_is_welch_unless_every_block_is_a_pair():
    rng = np.random.default_rng(2)
    X_SF, codes_BS = messy(rng), messy_codes(rng)
    welch = scores("t", X_SF, codes_BS).value
    families = np.arange(24) // 4
    np.testing.assert_array_equal(scores("t", X_SF, codes_BS, blocks_S=families).value, welch)
    not_split = codes_BS.copy()
    not_split[0, [0, 1, 2, 3]] = [1, 1, -1, -1]
    pairs = np.arange(24) // 2
    unpaired = scores("t", X_SF, not_split).value
    np.testing.assert_array_equal(scores("t", X_SF, not_split, blocks_S=pairs).value, unpaired)
    assert np.abs(scores("t", X_SF, codes_BS, blocks_S=pairs).value - welch)[:, USABLE].max() > 0.1


@pytest.mark.parametrize("kind", rsa.KINDS)
def test_rsa_selectors_are_the_rsa_scores(kind):
    X_SF, (P_SWF, defined_SW), _ = planted("profile_shape", 0)
    np.testing.assert_array_equal(scores(f"rsa_{kind}", X_SF, LABELS).value, rsa.score_scalar(X_SF, LABELS, kind).value)
    np.testing.assert_array_equal(
        scores(f"rsa_{kind}_profile", X_SF, LABELS, profiles=(P_SWF, defined_SW)).value,
        rsa.score_profiles(P_SWF, defined_SW, LABELS, kind).value,
    )


# ---------------------------------------------------------------- every selector


def test_the_registry_the_constant_and_the_table_agree():
    assert set(PLANTED) == set(SELECTORS)
    table = selection.__doc__
    columns = {signal: table.index(signal) - table.rindex("\n", 0, table.index(signal)) for signal in SIGNALS}
    for name, signals in PLANTED.items():
        label = "rsa_*_profile" if name.endswith("_profile") else name
        line = "\n" + re.search(rf"^`{re.escape(label)}`.*$", table, re.MULTILINE).group()
        assert {signal for signal, at in columns.items() if line[at : at + 1] == "x"} == signals


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("name", [name for name in SELECTORS if PLANTED[name]])
def test_finds_the_planted_signals_it_must_find(name, signal):
    if signal in PLANTED[name]:
        assert recall(name, signal, range(4)) >= 0.9


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("t", "variance"),
        ("auroc", "variance"),
        ("mean_difference", "profile_shape"),
        ("rsa_categorical", "mean_shift"),
        ("rsa_discriminative", "profile_shape"),
        ("rsa_discriminative", "rare_firing"),
        ("rsa_discriminative_profile", "mean_shift"),
        ("rsa_category_profile", "variance"),
    ],
)
def test_is_blind_to_what_it_cannot_see(name, signal):
    assert recall(name, signal, range(4)) <= 0.25


@pytest.mark.parametrize("signal", SIGNALS)
def test_random_finds_nothing(signal):
    """Found by chance: hypergeometric with mean 8 x 3 / 150 = 0.16 of 3 features per data set."""
    n = 60
    found = recall("random", signal, range(n)) * N_PLANTED * n
    assert stats.binom.sf(found - 1, n * N_PLANTED, 8 / N_FEATURES) > 1e-4


def test_categorical_can_be_won_by_a_latent_that_fires_only_for_the_foil():
    """Documented behaviour: it compares variances and is blind to means, and silence is perfectly coherent."""
    rng = np.random.default_rng(3)
    X_SF = np.maximum(rng.normal(size=(N_STIMULI, N_FEATURES)), 0)
    X_SF[:, 7] = np.where(LABELS, 0, rng.exponential(size=N_STIMULI))
    assert top_k(scores("rsa_categorical", X_SF, LABELS), 1).tolist() == [7]
    assert Selector("rsa_categorical", k=1).fit(X_SF, LABELS).direction_[7] == -1


@pytest.mark.parametrize("name", SELECTORS)
def test_a_label_vector_scores_the_same_alone_in_a_batch_sparse_and_without_the_left_out(name):
    rng = np.random.default_rng(4)
    X_SF = messy(rng, n_stimuli=60)
    P_SWF, mask_SW = X_SF[:, None, :] + rng.normal(size=(60, 8, 12)), rng.random((60, 8)) < 0.9
    codes_BS, blocks_S = messy_codes(rng, 3, 60), np.repeat(np.arange(30), 2)
    batch = scores(name, X_SF, codes_BS, blocks_S=blocks_S, profiles=(P_SWF, mask_SW))
    from_sparse = scores(name, sparse.csr_array(X_SF), codes_BS, blocks_S=blocks_S, profiles=(P_SWF, mask_SW))
    np.testing.assert_allclose(from_sparse.value, batch.value, atol=1e-9)
    assert np.isfinite(batch.value).all() and (batch.value[~batch.valid] == 0).all() and batch.valid.any()
    for b, code_S in enumerate(codes_BS):
        kept = code_S != 0
        alone = scores(
            name, X_SF[kept], code_S[kept] == 1, blocks_S=blocks_S[kept], profiles=(P_SWF[kept], mask_SW[kept])
        )
        np.testing.assert_allclose(alone.value, batch.value[b], atol=1e-8)
        np.testing.assert_array_equal(alone.reason, batch.reason[b])


@pytest.mark.parametrize("name", ["mean_difference", "t", "auroc", "rsa_discriminative", "rsa_category"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_direction_does_not_matter(name, seed):
    rng = np.random.default_rng(seed)
    X_SF, codes_BS = messy(rng), messy_codes(rng)
    np.testing.assert_allclose(scores(name, -X_SF, codes_BS).value, scores(name, X_SF, codes_BS).value, atol=1e-8)


@pytest.mark.parametrize("name", [n for n in SELECTORS if not n.endswith("_profile")])
def test_one_stimulus_in_a_condition_is_too_few(name):
    result = scores(name, messy(np.random.default_rng(5)), np.array([[1, *[-1] * 22, 0], [1] * 12 + [-1] * 12]))
    assert (result.reason[0] == Reason.TOO_FEW_STIMULI).all() and result.valid[1].any()


def test_results_do_not_depend_on_the_block_size(monkeypatch):
    X_SF, codes_BS = messy(np.random.default_rng(6)), messy_codes(np.random.default_rng(7))
    rivals = ["max_activation", "target_max", "mean_difference", "t", "auroc", "random"]
    whole = [scores(name, X_SF, codes_BS) for name in rivals]
    monkeypatch.setattr(selection, "BLOCK_SIZE", 5)
    for name, reference in zip(rivals, whole, strict=True):
        blocked = scores(name, X_SF, codes_BS)
        np.testing.assert_allclose(blocked.value, reference.value, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(top_k(blocked, 5), top_k(reference, 5))


# ---------------------------------------------------------------- degenerate statistics


def test_a_perfect_separation_ranks_first_and_is_finite():
    rng = np.random.default_rng(8)
    X_SF = rng.normal(size=(24, 200))
    labels = np.arange(24) % 2 == 0
    X_SF[:, 100:] = np.where(labels[:, None], rng.normal(size=100), rng.normal(size=100))
    for blocks_S in (None, np.arange(24) // 2):
        result = scores("t", X_SF, labels, blocks_S=blocks_S)
        assert (result.reason[100:] == Reason.PERFECT_SEPARATION).all() and result.valid.all()
        assert (result.value[100:] == T_CAP).all() and (result.value[:100] < T_CAP).all()
        assert top_k(result, 3).tolist() == [100, 101, 102]


def test_identical_pair_differences_are_a_perfect_separation_and_zero_ones_are_constant():
    rng = np.random.default_rng(9)
    level = rng.integers(0, 9, size=12).repeat(2).astype(float)
    labels = np.arange(24) % 2 == 0
    X_SF = np.column_stack([level + labels, level, rng.normal(size=24)])
    result = scores("t", X_SF, labels, blocks_S=np.arange(24) // 2)
    assert result.reason.tolist() == [Reason.PERFECT_SEPARATION, Reason.CONSTANT, Reason.OK]
    assert result.value[0] == T_CAP and result.value[1] == 0 and top_k(result, 3).tolist() == [0, 2, 1]


# ---------------------------------------------------------------- random and ranking


def test_random_depends_on_the_seed_only():
    rng = np.random.default_rng(10)
    X_SF, codes_BS = rng.normal(size=(24, 50)), messy_codes(rng)
    first = top_k(scores("random", X_SF, codes_BS, rng_seed=1), 50)
    assert (first == first[0]).all() and sorted(first[0]) == list(range(50))
    np.testing.assert_array_equal(first, top_k(scores("random", X_SF + 1, codes_BS, rng_seed=1), 50))
    assert (first != top_k(scores("random", X_SF, codes_BS, rng_seed=2), 50)).any()


def test_top_k_puts_invalid_features_last_and_breaks_ties_by_index():
    value = np.array([[-0.5, 0.0, 0.3, 0.3 + 1e-16, 0.9], [0.0, 0.0, 0.0, 0.0, 0.0]])
    reason = np.array([[0, Reason.SILENT, 0, 0, 0], [0, 0, Reason.CONSTANT, 0, 0]], dtype=np.int8)
    assert top_k(FeatureScores(value, reason), 5).tolist() == [[4, 2, 3, 0, 1], [0, 1, 3, 4, 2]]
    assert top_k(FeatureScores(value[0], reason[0]), 2).tolist() == [4, 2]


def test_duplicate_features_keep_their_order():
    X_SF = np.repeat(np.random.default_rng(11).normal(size=(30, 7)), 3, axis=1)
    for name in ("t", "mean_difference", "auroc", "rsa_discriminative"):
        ranking = top_k(scores(name, X_SF, np.arange(30) < 15), 21).reshape(7, 3)
        np.testing.assert_array_equal(ranking, ranking[:, :1] + np.arange(3))


# ---------------------------------------------------------------- mistakes of users


def test_mistakes_in_the_arguments_are_refused():
    X_SF, labels = np.arange(8.0).reshape(4, 2), [True, False, True, False]
    with pytest.raises(UserError, match="Did you mean 'auroc'"):
        scores("auroca", X_SF, labels)
    with pytest.raises(UserError, match="number of features, 2"):
        Selector("t", k=3).fit(X_SF, labels)
    with pytest.raises(UserError, match="k is 0"):
        top_k(scores("t", X_SF, labels), 0)
    with pytest.raises(UserError, match="needs profiles"):
        scores("rsa_category_profile", X_SF, labels)
    with pytest.raises(UserError, match="profiles have shape"):
        scores("rsa_category_profile", X_SF, labels, profiles=(np.zeros((4, 6, 3)), np.ones((4, 6))))
    with pytest.raises(UserError, match="blocks have shape"):
        scores("t", X_SF, labels, blocks_S=[0, 0, 1])
    with pytest.raises(UserError, match="3 classes"):
        Selector("t", k=1).fit(X_SF, ["a", "b", "c", "a"])
    X_SF[1, 1] = np.inf
    for name in ("t", "l1", "random", "rsa_category"):
        with pytest.raises(UserError, match="stimulus 1, feature 1"):
            scores(name, X_SF, labels)


# ---------------------------------------------------------------- the estimator


def test_selector_keeps_the_top_k_and_explains_itself():
    X_SF, profiles, features = planted("mean_shift", 1)
    X_SF[:, features[0]] *= -1
    selector = Selector("t", k=N_PLANTED).fit(X_SF, np.where(LABELS, "success", "failure"), blocks=BLOCKS)
    reference = scores("t", X_SF, LABELS, blocks_S=BLOCKS)
    assert selector.classes_.tolist() == ["failure", "success"]
    np.testing.assert_array_equal(selector.get_support(indices=True), np.sort(features))
    np.testing.assert_array_equal(selector.transform(X_SF), X_SF[:, np.sort(features)])
    np.testing.assert_array_equal(selector.scores_, reference.value)
    np.testing.assert_array_equal(selector.ranking_, top_k(reference, N_FEATURES))
    assert selector.direction_[features].tolist() == [-1, 1, 1]
    assert selector.valid_.all() and (selector.reason_ == Reason.OK).all()
    with_profiles = Selector("rsa_category_profile", k=2).fit(X_SF, LABELS, profiles=profiles)
    assert with_profiles.transform(X_SF).shape == (N_STIMULI, 2)


@pytest.mark.parametrize("layout", [sparse.csr_array, sparse.csc_matrix])
def test_selector_takes_sparse_responses(layout):
    X_SF = np.maximum(planted("mean_shift", 2)[0], 0)
    dense = Selector("rsa_category", k=5).fit(X_SF, LABELS)
    from_sparse = Selector("rsa_category", k=5).fit(layout(X_SF), LABELS)
    np.testing.assert_array_equal(from_sparse.get_support(), dense.get_support())
    np.testing.assert_array_equal(from_sparse.direction_, dense.direction_)
    np.testing.assert_array_equal(from_sparse.transform(layout(X_SF)).toarray(), dense.transform(X_SF))


def test_clone_copies_the_parameters_and_not_the_fit():
    X_SF, _, _ = planted("mean_shift", 3)
    fitted = Selector("auroc", k=4, random_state=5).fit(X_SF, LABELS)
    copy = clone(fitted)
    assert copy.get_params() == {"name": "auroc", "k": 4, "random_state": 5}
    with pytest.raises(NotFittedError):
        copy.get_support()


@pytest.mark.parametrize("name", ["t", "auroc", "l1", "rsa_discriminative"])
def test_a_pipeline_with_logistic_regression_decodes_held_out_stimuli(name):
    X_SF, _, _ = planted("mean_shift", 4)
    train = np.arange(N_STIMULI) < 40
    pipeline = make_pipeline(StandardScaler(), Selector(name, k=3), LogisticRegression())
    pipeline.fit(X_SF[train], LABELS[train])
    assert roc_auc_score(LABELS[~train], pipeline.decision_function(X_SF[~train])) > 0.9
    pipeline.fit(X_SF[train], LABELS[train], selector__blocks=BLOCKS[train])
    assert pipeline[1].selected_.shape == (3,)
