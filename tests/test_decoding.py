"""Cross-validated decoding against a naive loop of scikit-learn pipelines, planted truth and invariances."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurosae.decoding import (
    DecodingResult,
    Design,
    auroc,
    balanced_accuracy,
    decode,
    leave_one_domain_out,
    make_design,
    make_folds,
)
from neurosae.errors import UserError

LOGISTIC = LogisticRegression(tol=1e-12, solver="newton-cholesky")


def paired(n_pairs: int = 20, n_features: int = 30, shift: float = 0.0, **options: int) -> tuple[np.ndarray, Design]:
    """Responses whose first three features are shifted for the target, in shuffled pairs of five domains."""
    rng = np.random.default_rng(7)
    pair_S = rng.permutation(np.repeat(np.arange(n_pairs), 2))
    labels_S = np.where(np.arange(2 * n_pairs) == np.array([np.argmax(pair_S == p) for p in pair_S]), 1, -1)
    X_SF = rng.normal(size=(2 * n_pairs, n_features))
    X_SF[:, :3] += shift * labels_S[:, None]
    settings = {"n_repeats": 2, "n_permutations": 10, **options}
    return X_SF, make_design(labels_S, pair_S, pair_S, "pairs", domains_S=pair_S % 5, **settings)


def paired_t(X_SF: np.ndarray, labels_S: np.ndarray, pair_S: np.ndarray) -> np.ndarray:
    target, foil = (np.flatnonzero(labels_S == label) for label in (1, -1))
    target, foil = target[np.argsort(pair_S[target])], foil[np.argsort(pair_S[foil])]
    return stats.ttest_rel(X_SF[target], X_SF[foil]).statistic


def same(a: DecodingResult, b: DecodingResult) -> bool:
    """Equality to the last bit of everything that is computed."""
    return (
        a.fold_scores.equals(b.fold_scores)
        and a.domain_scores.equals(b.domain_scores)
        and a.selection_counts.equals(b.selection_counts)
        and np.array_equal(a.auroc.null_B, b.auroc.null_B)
        and np.array_equal(a.balanced_accuracy.null_B, b.balanced_accuracy.null_B)
        and np.array_equal(a.full_weights, b.full_weights)
        and a.stability == b.stability
    )


def test_folds_hold_out_whole_pairs_each_once_and_are_balanced() -> None:
    pair_S = np.repeat(np.arange(23), 2)
    folds_RS = make_folds([1, -1] * 23, pair_S, n_splits=5, n_repeats=4, seed=1)
    assert folds_RS.shape == (4, 46)
    assert np.array_equal(folds_RS[:, ::2], folds_RS[:, 1::2])
    for fold_S in folds_RS:
        assert set(np.bincount(fold_S)) <= {8, 10}
    assert len(np.unique(folds_RS, axis=0)) == 4
    assert np.array_equal(make_folds([1, -1] * 23, pair_S, n_splits=5, n_repeats=2, seed=1), folds_RS[:2])


def test_folds_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(UserError, match="Fewer pairs than folds"):
        make_folds([1, -1] * 4, np.repeat(np.arange(4), 2), n_splits=5)
    with (
        pytest.raises(UserError, match="one class only"),
        pytest.warns(UserWarning, match="least populated"),
    ):
        make_folds([1, 1, -1, -1, -1, -1, -1], np.arange(7), n_splits=3)
    with pytest.raises(UserError, match="leak"):
        make_design([1, -1] * 10, np.arange(20), np.repeat(np.arange(10), 2), "pairs")


def test_a_domain_is_held_out_at_a_time() -> None:
    names, fold_S = leave_one_domain_out(["sport", "law", "sport", "art"])
    assert names[fold_S].tolist() == ["sport", "law", "sport", "art"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 20))
def test_scores_are_scikit_learns(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels_BN = rng.permuted(np.tile(np.where(np.arange(n) < n // 2 + 1, 1, -1), (3, 1)), axis=1).astype(np.int8)
    decision_BN = rng.normal(size=(3, n)).round(1)
    for b in range(3):
        assert np.isclose(auroc(decision_BN, labels_BN)[b], roc_auc_score(labels_BN[b], decision_BN[b]))
        accuracy = balanced_accuracy_score(labels_BN[b], np.where(decision_BN[b] > 0, 1, -1))
        assert np.isclose(balanced_accuracy(decision_BN, labels_BN)[b], accuracy)


def test_rounding_error_is_a_tie() -> None:
    assert auroc(np.array([[1.0, 1.0 + 1e-15]]), np.array([[1, -1]], np.int8)).tolist() == [0.5]


def test_held_out_scores_are_those_of_a_naive_loop() -> None:
    X_SF, design = paired(shift=0.4)
    result = decode(X_SF, design, "t", [4], "logistic_l2", n_permutations=10)[0]

    def naive(labels_S: np.ndarray, train: np.ndarray) -> tuple[float, float]:
        best = np.argsort(-np.abs(paired_t(X_SF[train], labels_S[train], design.blocks_S[train])))[:4]
        model = make_pipeline(StandardScaler(), LOGISTIC).fit(X_SF[train][:, best], labels_S[train])
        decision = model.decision_function(X_SF[~train][:, best])
        accuracy = balanced_accuracy_score(labels_S[~train], np.sign(decision))
        return accuracy, roc_auc_score(labels_S[~train], decision)

    for row in result.fold_scores.itertuples():
        expected = naive(design.labels_S, design.folds_RS[row.repeat] != row.fold)
        np.testing.assert_allclose((row.balanced_accuracy, row.auroc), expected, atol=1e-6)
    for b, labels_S in enumerate(design.arrangements_BS):
        expected = np.mean([naive(labels_S, design.folds_RS[b % 2] != fold) for fold in range(5)], axis=0)
        np.testing.assert_allclose(result.balanced_accuracy.null_B[b], expected[0], atol=1e-6)
        np.testing.assert_allclose(result.auroc.null_B[b], expected[1], atol=1e-6)
    for row in result.domain_scores.itertuples():
        expected = naive(design.labels_S, design.domains_S != row.domain)
        np.testing.assert_allclose((row.balanced_accuracy, row.auroc), expected, atol=1e-6)


def test_all_features_and_principal_components_are_those_of_scikit_learn() -> None:
    X_SF, design = paired(shift=0.4)
    ceiling = decode(X_SF, design, "all", [], "logistic_l2", n_permutations=0)
    components = decode(X_SF, design, "pca", [2, 5], "logistic_l2", n_permutations=0)
    assert [result.k for result in ceiling + components] == [30, 2, 5]
    models = [
        make_pipeline(StandardScaler(), LOGISTIC),
        make_pipeline(PCA(2, svd_solver="full"), StandardScaler(), LOGISTIC),
        make_pipeline(PCA(5, svd_solver="full"), StandardScaler(), LOGISTIC),
    ]
    for result, model in zip(ceiling + components, models, strict=True):
        assert result.stability.reason
        for row in result.fold_scores.itertuples():
            train = design.folds_RS[row.repeat] != row.fold
            decision = model.fit(X_SF[train], design.labels_S[train]).decision_function(X_SF[~train])
            np.testing.assert_allclose(row.auroc, roc_auc_score(design.labels_S[~train], decision), atol=1e-6)


def test_planted_features_are_found_scored_and_described() -> None:
    X_SF, design = paired(shift=1.5, n_permutations=100)
    X_SF[:, 1] *= -1
    three = decode(X_SF, design, "t", [3], "logistic_l2")[0]
    assert three.k == 3
    assert three.auroc.mean > 0.95
    assert three.auroc.p == three.smallest_p == 1 / 101
    assert three.auroc.chance_low < 0.5 < three.auroc.chance_high < three.auroc.ci_low
    assert three.stability.value > 0.95
    drawn = decode(X_SF, design, "random", [3], "logistic_l2", n_permutations=0)[0]
    assert abs(drawn.stability.value) < 0.3
    assert three.selection_counts["feature"][:3].tolist() == [0, 1, 2]
    assert three.selection_counts["count"].sum() == 3 * 10
    assert (three.domain_scores["auroc"] > 0.8).all()
    assert sorted(three.full_features) == [0, 1, 2]
    direction = dict(zip(three.full_features, three.full_direction, strict=True))
    assert direction == {0: 1, 1: -1, 2: 1}
    assert (np.sign(three.full_patterns) == three.full_direction).all()
    assert three.mean_valid_features == 30


def test_p_values_of_noise_are_not_too_small() -> None:
    rng = np.random.default_rng(0)
    X_SF, design = paired(n_pairs=10, n_features=8, n_permutations=19, n_repeats=1)
    p = [
        decode(rng.normal(size=X_SF.shape), design, "t", [2], "mean_difference", n_permutations=19)[0].auroc.p
        for _ in range(200)
    ]
    assert np.mean(np.array(p) <= 0.1) <= stats.binom.ppf(0.999, 200, 0.1) / 200


@pytest.mark.parametrize("selector", ["t", "l1", "random", "rsa_discriminative", "pca"])
def test_results_do_not_depend_on_blocks_other_k_or_storage(selector: str) -> None:
    X_SF, design = paired(shift=0.5)
    X_SF[X_SF < 0.5] = 0
    plain = decode(X_SF, design, selector, [2, 5], "logistic_l2", n_permutations=10)
    for other in (
        decode(X_SF, design, selector, [2, 5], "logistic_l2", n_permutations=10, block_size=1),
        decode(sparse.csr_array(X_SF), design, selector, [2, 5], "logistic_l2", n_permutations=10),
    ):
        assert all(same(a, b) for a, b in zip(plain, other, strict=True))
    if selector != "pca":
        assert same(plain[0], decode(X_SF, design, selector, [2], "logistic_l2", n_permutations=10)[0])


@pytest.mark.parametrize("ensemble", ["logistic_l1", "lda", "mean_difference"])
def test_every_ensemble_decodes_a_planted_signal(ensemble: str) -> None:
    X_SF, design = paired(shift=1.5)
    result = decode(X_SF, design, "t", [3], ensemble, n_permutations=5)[0]
    assert result.auroc.mean > 0.95
    assert result.auroc.null_B.mean() < 0.8


def test_held_out_values_never_touch_selection_or_scaling() -> None:
    X_SF, design = paired(shift=0.5, n_repeats=1)
    before = decode(X_SF, design, "t", [3], "logistic_l2", n_permutations=0, transform=StandardScaler())[0]
    changed_SF = X_SF.copy()
    held_out_S = design.folds_RS[0] == 0
    changed_SF[held_out_S] = 1000 * changed_SF[held_out_S, ::-1]
    after = decode(changed_SF, design, "t", [3], "logistic_l2", n_permutations=0, transform=StandardScaler())[0]
    train_S = ~held_out_S
    best = np.argsort(-np.abs(paired_t(X_SF[train_S], design.labels_S[train_S], design.blocks_S[train_S])))[:3]
    model = make_pipeline(StandardScaler(), LOGISTIC).fit(X_SF[train_S][:, best], design.labels_S[train_S])
    for result, values_SF in ((before, X_SF), (after, changed_SF)):
        expected = roc_auc_score(design.labels_S[held_out_S], model.decision_function(values_SF[held_out_S][:, best]))
        np.testing.assert_allclose(result.fold_scores["auroc"][0], expected)


def test_a_transform_is_fitted_in_every_training_set() -> None:
    X_SF, design = paired(shift=0.5)
    whitened = decode(X_SF, design, "all", [], "mean_difference", n_permutations=0, transform=PCA(6, whiten=True))[0]
    assert whitened.k == 6
    for row in whitened.fold_scores.itertuples():
        train = design.folds_RS[row.repeat] != row.fold
        model = make_pipeline(PCA(6, whiten=True), StandardScaler()).fit(X_SF[train])
        Z_SF, labels_S = model.transform(X_SF), design.labels_S
        weights = Z_SF[train & (labels_S > 0)].mean(axis=0) - Z_SF[train & (labels_S < 0)].mean(axis=0)
        np.testing.assert_allclose(row.auroc, roc_auc_score(labels_S[~train], Z_SF[~train] @ weights))


def test_a_domain_that_shares_a_family_trains_on_the_other_families_only() -> None:
    rng = np.random.default_rng(0)
    family_S = np.repeat(np.arange(12), 2)
    labels_S, domain_S = np.array([1, -1] * 12), np.where(family_S < 6, "a", "b")
    domain_S[0] = "b"
    design = make_design(labels_S, family_S, family_S, "pairs", domains_S=domain_S, n_splits=3, n_repeats=1)
    X_SF = rng.normal(size=(24, 4))
    X_SF[0] *= 100  # in domain b, but its pair is held out with domain a
    scores = decode(X_SF, design, "all", [], "mean_difference", n_permutations=0)[0].domain_scores
    train = family_S >= 6
    mean, scale = X_SF[train].mean(axis=0), X_SF[train].std(axis=0)
    Z_SF = (X_SF - mean) / scale
    weights = Z_SF[train & (labels_S > 0)].mean(axis=0) - Z_SF[train & (labels_S < 0)].mean(axis=0)
    expected = roc_auc_score(labels_S[domain_S == "a"], Z_SF[domain_S == "a"] @ weights)
    np.testing.assert_allclose(scores.set_index("domain").loc["a", "auroc"], expected)
    assert scores["n"].tolist() == [11, 13]


def test_missing_scores_have_reasons() -> None:
    X_SF, design = paired()
    alone = dataclasses.replace(design, domains_S=None)
    result = decode(X_SF, alone, "t", [2], "logistic_l2", n_permutations=10)[0]
    assert result.domain_scores.empty
    assert result.domain_reason
    assert np.isnan(result.auroc.chance_low)
    assert "100 permutations" in result.auroc.chance_reason
    one_sided = dataclasses.replace(design, domains_S=design.labels_S)
    for selector in ("t", "pca"):
        table = decode(X_SF, one_sided, selector, [2], "logistic_l2", n_permutations=0)[0].domain_scores
        assert table["auroc"].isna().all()
        assert (table["reason"] != "").all()


def test_small_unpaired_sets_survive_permutations_that_empty_a_class() -> None:
    rng = np.random.default_rng(0)
    labels_S = np.array([1] * 4 + [-1] * 16)
    design = make_design(labels_S, np.arange(20), np.arange(20), "unpaired", n_splits=4, n_repeats=2)
    held_out_BS = design.arrangements_BS[::2, design.folds_RS[0] == 0]
    assert (held_out_BS == -1).all(axis=1).any()
    result = decode(rng.normal(size=(20, 5)), design, "t", [2], "logistic_l2")[0]
    assert len(result.auroc.null_B) == 100
    assert np.isfinite(result.auroc.null_B).all()


@pytest.mark.parametrize(
    ("selector", "ks", "ensemble", "message"),
    [
        ("tt", [2], "logistic_l2", "Unknown selector"),
        ("t", [2], "logistic", "Unknown ensemble"),
        ("t", [], "logistic_l2", "k is"),
        ("t", [0], "logistic_l2", "k is"),
        ("t", [31], "logistic_l2", "k is 31"),
        ("pca", [30], "logistic_l2", "principal components"),
    ],
)
def test_malformed_requests_are_refused(selector: str, ks: list[int], ensemble: str, message: str) -> None:
    X_SF, design = paired(n_pairs=15)
    with pytest.raises(UserError, match=message):
        decode(X_SF, design, selector, ks, ensemble, n_permutations=0)


def test_malformed_responses_are_refused() -> None:
    X_SF, design = paired()
    with pytest.raises(UserError, match="shape"):
        decode(X_SF[:-1], design, "t", [2], "logistic_l2")
    X_SF[0, 0] = np.nan
    with pytest.raises(UserError, match="finite"):
        decode(X_SF, design, "t", [2], "logistic_l2")
