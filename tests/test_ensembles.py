"""Linear ensembles against scikit-learn, in batches and one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from neurosae.decoding.ensembles import (
    ENSEMBLES,
    LinearEnsemble,
    fit_lda,
    fit_logistic,
    fit_mean_difference,
    haufe_patterns,
    standardisation,
)
from neurosae.errors import UserError


def batch(n_batch: int, n_rows: int, n_features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.where(rng.random((n_batch, n_rows)) < 0.5, 1, -1).astype(np.int8)
    y[:, :2] = [1, -1]
    return rng.normal(size=(n_batch, n_rows, n_features)) + 0.4 * y[..., None], y


def reference(X: np.ndarray, y: np.ndarray, C: float) -> tuple[np.ndarray, float]:
    model = LogisticRegression(C=C, tol=1e-12, max_iter=100_000, solver="newton-cholesky").fit(X, y)
    return model.coef_[0], model.intercept_[0]


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("n_features", [1, 4, 30])
def test_batched_logistic_is_scikit_learns(n_features: int, C: float) -> None:
    X_BNK, y_BN = batch(5, 40, n_features)
    w_BK, b_B = fit_logistic(X_BNK, y_BN, C=C)
    for b in range(5):
        w, intercept = reference(X_BNK[b], y_BN[b], C)
        np.testing.assert_allclose(w_BK[b], w, atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(b_B[b], intercept, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("C", [1.0, 1e6])
def test_separable_data_converge_to_the_penalised_optimum(C: float) -> None:
    x = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 5.0])[:, None]
    y = np.sign(x[:, 0]).astype(np.int8)
    w_BK, b_B = fit_logistic(x[None], y[None], C=C)
    miss = 1 / (1 + np.exp(y * (x[:, 0] * w_BK[0] + b_B[0])))
    assert abs(w_BK[0, 0] / C - np.sum(x[:, 0] * y * miss)) < 1e-9
    assert abs(np.sum(y * miss)) < 1e-9
    assert w_BK[0, 0] > 0


def test_rows_of_weight_zero_are_left_out() -> None:
    X_BNK, y_BN = batch(3, 30, 4)
    weight_BN = np.random.default_rng(1).random((3, 30)) < 0.7
    weight_BN[:, :2] = True
    for fit in ENSEMBLES.values():
        w_BK, b_B = fit(X_BNK, y_BN, weight_BN, 1.0)
        for b in range(3):
            rows = weight_BN[b]
            w, intercept = fit(X_BNK[b : b + 1, rows], y_BN[b : b + 1, rows], None, 1.0)
            np.testing.assert_allclose(w_BK[b], w[0], atol=1e-8)
            np.testing.assert_allclose(b_B[b], intercept[0], atol=1e-8)


def test_more_features_than_rows_and_one_matrix_for_all_labels() -> None:
    X_BNK, y_BN = batch(4, 12, 50)
    w_BK, b_B = fit_logistic(X_BNK[:1], y_BN)
    for b in range(4):
        w, intercept = reference(X_BNK[0], y_BN[b], 1.0)
        np.testing.assert_allclose(w_BK[b], w, atol=1e-6)
        np.testing.assert_allclose(b_B[b], intercept, atol=1e-6)


@pytest.mark.parametrize("kind", ["logistic_l2", "mean_difference"])
def test_a_batch_gives_the_same_bits_as_one_at_a_time(kind: str) -> None:
    X_BNK, y_BN = batch(6, 21, 5)
    w_BK, b_B = ENSEMBLES[kind](X_BNK, y_BN, None, 1.0)
    for b in range(6):
        w, intercept = ENSEMBLES[kind](X_BNK[b : b + 1], y_BN[b : b + 1], None, 1.0)
        assert np.array_equal(w_BK[b], w[0])
        assert b_B[b] == intercept[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 1000.0))
def test_logistic_solution_has_no_gradient_and_is_odd_in_the_labels(seed: int, C: float) -> None:
    X_BNK, y_BN = batch(2, 25, 3, seed)
    w_BK, b_B = fit_logistic(X_BNK, y_BN, C=C)
    pull_BN = y_BN / (1 + np.exp(y_BN * (np.einsum("bnk,bk->bn", X_BNK, w_BK) + b_B[:, None])))
    assert np.abs(w_BK / C - np.einsum("bnk,bn->bk", X_BNK, pull_BN)).max() < 1e-7
    assert np.abs(pull_BN.sum(axis=1)).max() < 1e-7
    flipped_w_BK, flipped_b_B = fit_logistic(X_BNK, -y_BN, C=C)
    np.testing.assert_allclose(flipped_w_BK, -w_BK, atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(flipped_b_B, -b_B, atol=1e-6, rtol=1e-6)


def test_mean_difference_puts_the_threshold_midway() -> None:
    w_BK, b_B = fit_mean_difference(np.array([[[0.0], [2.0], [5.0], [7.0]]]), np.array([[-1, -1, 1, 1]], np.int8))
    assert w_BK.tolist() == [[5.0]]
    assert -b_B[0] / w_BK[0, 0] == 3.5


def test_lda_is_scikit_learns_and_refuses_a_covariance_too_large() -> None:
    X_BNK, y_BN = batch(2, 30, 4)
    w_BK, b_B = fit_lda(X_BNK, y_BN)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X_BNK[1], y_BN[1])
    np.testing.assert_allclose(w_BK[1], model.coef_[0])
    np.testing.assert_allclose(b_B[1], model.intercept_[0])
    with pytest.raises(UserError, match="logistic_l2"):
        fit_lda(np.zeros((1, 4, 1001)), np.array([[1, 1, -1, -1]], np.int8))


@pytest.mark.parametrize("kind", ENSEMBLES)
def test_one_class_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match="both classes"):
        ENSEMBLES[kind](np.ones((1, 4, 2)), np.ones((1, 4), np.int8), None, 1.0)


@pytest.mark.parametrize("kind", ENSEMBLES)
def test_estimator_ignores_the_units_of_features_and_silent_ones(kind: str) -> None:
    X_BNK, y_BN = batch(1, 40, 3)
    X, y = X_BNK[0], np.where(y_BN[0] > 0, "target", "foil")
    plain = LinearEnsemble(kind).fit(X, y)
    scaled = LinearEnsemble(kind).fit(X * [1.0, 1e-6, 1e5] + [0.0, 3.0, -7.0], y)
    np.testing.assert_allclose(scaled.coef_, plain.coef_, atol=1e-5)
    np.testing.assert_allclose(scaled.patterns_, plain.patterns_, atol=1e-5)
    silent = LinearEnsemble(kind).fit(np.column_stack([X, np.zeros(40), np.full(40, 0.1)]), y)
    assert silent.scale_[3:].tolist() == [1.0, 1.0]
    assert np.abs(silent.coef_[0, 3:]).max() < 1e-9
    assert np.isfinite(silent.decision_function(np.column_stack([X, X[:, :2]]))).all()


def test_estimator_is_a_scaler_and_a_logistic_regression() -> None:
    X_BNK, y_BN = batch(1, 40, 3)
    X, y = X_BNK[0], y_BN[0]
    scaler = StandardScaler().fit(X)
    model = LogisticRegression(tol=1e-12, solver="newton-cholesky").fit(scaler.transform(X), y)
    ours = LinearEnsemble().fit(X, y)
    np.testing.assert_allclose(ours.decision_function(X), model.decision_function(scaler.transform(X)), atol=1e-6)
    assert (ours.predict(X) == model.predict(scaler.transform(X))).all()


def test_standardisation_sees_through_rounding_error() -> None:
    mean_F, scale_F = standardisation(np.column_stack([np.full(50, 0.1), np.arange(50.0), np.zeros(50)]))
    np.testing.assert_allclose(mean_F, [0.1, 24.5, 0.0])
    np.testing.assert_allclose(scale_F, [1.0, np.arange(50.0).std(), 1.0])


def test_pattern_of_a_noise_canceller_is_zero_although_its_weight_is_not() -> None:
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(size=(2, 5000))
    noise -= signal * (signal @ noise) / (signal @ signal)
    X = np.column_stack([signal + noise, noise])
    patterns = haufe_patterns(X[None], np.array([[1.0, -1.0]]))
    np.testing.assert_allclose(patterns, [[1.0, 0.0]], atol=0.05)
    covariance = np.cov(X.T)
    output = X @ [1.0, -1.0]
    np.testing.assert_allclose(patterns[0], covariance @ [1.0, -1.0] / output.var(ddof=1))
    assert haufe_patterns(X[None], np.zeros((1, 2))).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("kind", ["logistic_l2", "mean_difference"])
def test_estimator_follows_scikit_learns_conventions(kind: str) -> None:
    check_estimator(LinearEnsemble(kind))


def test_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="logistic_l2"):
        LinearEnsemble("logistic").fit([[0.0], [1.0]], [0, 1])
