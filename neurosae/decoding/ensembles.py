"""Small linear ensembles: a few selected features combined linearly into one decision.

Each kind is a function in `ENSEMBLES` that fits many problems at once, one for every label vector (the observed labels
and their permutations). `LinearEnsemble` wraps one problem as a scikit-learn classifier.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from neurosae.errors import UserError, unknown_name

Array = NDArray[np.float64]
Fit = Callable[[Array, NDArray[np.int8], NDArray[np.bool_] | None, float], tuple[Array, Array]]

MAX_ITERATIONS = 100
GRADIENT_TOLERANCE = 1e-10
LDA_MAX_FEATURES = 1000


def standardisation(X_NF: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the columns; 1 instead of a deviation that is only rounding error.

    Returns
    -------
    mean_F, scale_F : arrays [F]
    """
    mean_F, scale_F = X_NF.mean(axis=0), X_NF.std(axis=0)
    rounding_F = 10 * np.finfo(np.float64).eps * np.sqrt(len(X_NF)) * np.abs(X_NF).max(axis=0)
    return mean_F, np.where(scale_F > rounding_F, scale_F, 1.0)


def fit_logistic(
    X_BNK: Array, y_BN: NDArray[np.int8], weight_BN: NDArray[np.bool_] | None = None, C: float = 1.0
) -> tuple[Array, Array]:
    """L2-penalised logistic regression for many label vectors at once.

    Minimises the sum of the log losses plus ||w||^2 / (2C), intercept unpenalised: the objective of scikit-learn's
    ``LogisticRegression(C=C)``. Newton's method with step halving, to a gradient norm of 1e-10 relative to the
    start. With more features than rows the problem is rotated into the span of the rows, which changes nothing but
    the cost, as the penalty is invariant to rotation.

    Parameters
    ----------
    X_BNK : array [B or 1, N, K]
        Features of the rows; one matrix may serve all label vectors.
    y_BN : array of int8 [B, N]
        Labels +1 and -1.
    weight_BN : array [B, N], optional
        1 for rows that take part, 0 for rows left out; all rows by default.
    C : float, default 1.0
        Inverse strength of the penalty.

    Returns
    -------
    w_BK, b_B : arrays [B, K] and [B]
        Weights and intercepts.

    Raises
    ------
    UserError
        A label vector has only one class among the rows that take part.

    Examples
    --------
    >>> w_BK, b_B = fit_logistic(np.array([[[-1.0], [1.0]]]), np.array([[-1, 1]], dtype=np.int8))
    >>> w_BK.shape, abs(b_B[0]) < 1e-9
    ((1, 1), np.True_)
    """
    _require_both_classes(y_BN, weight_BN)
    used_BN = np.ones(y_BN.shape) if weight_BN is None else weight_BN.astype(np.float64)
    n_rows, n_features = X_BNK.shape[1:]
    if n_features <= n_rows:
        return _newton(X_BNK, y_BN, used_BN, C)
    basis_BKN, R_BNN = np.linalg.qr(X_BNK.swapaxes(1, 2))
    w_BN, b_B = _newton(np.ascontiguousarray(R_BNN.swapaxes(1, 2)), y_BN, used_BN, C)
    return np.matmul(basis_BKN, w_BN[..., None])[..., 0], b_B


def _newton(X_BNK: Array, y_BN: NDArray[np.int8], weight_BN: Array, C: float) -> tuple[Array, Array]:
    """Newton's method on the batch; label vectors that have converged drop out."""
    n_batch = len(y_BN)
    X_BNP = np.concatenate([X_BNK, np.ones((*X_BNK.shape[:2], 1))], axis=2)
    X_BNP = np.broadcast_to(X_BNP, (n_batch, *X_BNP.shape[1:]))
    penalty_P = np.append(np.full(X_BNK.shape[2], 1 / C), 0.0)
    theta_BP = np.zeros((n_batch, len(penalty_P)))
    tolerance_B = np.zeros(n_batch)
    todo = np.arange(n_batch)
    for iteration in range(MAX_ITERATIONS):
        X, y, weight, theta = X_BNP[todo], y_BN[todo].astype(np.float64), weight_BN[todo], theta_BP[todo]
        miss = expit(-y * _times(X, theta))
        gradient = penalty_P * theta - _times(X.swapaxes(1, 2), weight * y * miss)
        norm = np.linalg.norm(gradient, axis=1)
        if iteration == 0:
            tolerance_B = GRADIENT_TOLERANCE * np.maximum(1.0, norm)
        left = norm > tolerance_B[todo]
        if not left.any():
            break
        todo, X, y, weight, theta, miss, gradient = (a[left] for a in (todo, X, y, weight, theta, miss, gradient))
        curvature = weight * miss * (1 - miss)
        hessian = np.matmul(X.swapaxes(1, 2), curvature[..., None] * X)
        diagonal = np.arange(len(penalty_P))
        hessian[:, diagonal, diagonal] += penalty_P
        hessian[:, -1, -1] += 1e-12 + 1e-12 * hessian[:, -1, -1]  # no row may be left with any curvature
        step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        theta_BP[todo] = _halve_until_lower(X, y, weight, penalty_P, theta, step, gradient)
    else:
        warnings.warn(f"{len(todo)} logistic fits did not converge", ConvergenceWarning, stacklevel=3)
    return theta_BP[:, :-1], theta_BP[:, -1]


def _halve_until_lower(
    X: Array, y: Array, weight: Array, penalty_P: Array, theta: Array, step: Array, gradient: Array
) -> Array:
    """Newton steps, each halved until it lowers its objective (Armijo)."""

    def objective(at: Array) -> Array:
        losses = np.logaddexp(0.0, -y * _times(X, at))
        return (weight * losses).sum(axis=1) + 0.5 * (penalty_P * at**2).sum(axis=1)

    before, slope = objective(theta), (gradient * step).sum(axis=1)
    size = np.ones(len(theta))
    for _ in range(40):
        after = objective(theta + size[:, None] * step)
        too_long = after > before + 1e-4 * size * slope + 1e-12 * np.abs(before)
        if not too_long.any():
            break
        size[too_long] /= 2
    return theta + size[:, None] * step


def fit_mean_difference(
    X_BNK: Array, y_BN: NDArray[np.int8], weight_BN: NDArray[np.bool_] | None = None, C: float = 1.0
) -> tuple[Array, Array]:
    """Difference of the class means as weights, with the threshold midway between them; `C` has no meaning here.

    Arguments and results as in `fit_logistic`.
    """
    _require_both_classes(y_BN, weight_BN)
    weight_BN = np.ones(y_BN.shape, dtype=bool) if weight_BN is None else weight_BN.astype(bool)
    means = []
    for label in (1, -1):
        share_BN = ((y_BN == label) & weight_BN).astype(np.float64)
        share_BN /= share_BN.sum(axis=1, keepdims=True)
        means.append(_times(X_BNK.swapaxes(1, 2), share_BN))
    w_BK = means[0] - means[1]
    return w_BK, -0.5 * (w_BK * (means[0] + means[1])).sum(axis=1)


def fit_lda(
    X_BNK: Array, y_BN: NDArray[np.int8], weight_BN: NDArray[np.bool_] | None = None, C: float = 1.0
) -> tuple[Array, Array]:
    """Linear discriminant analysis with Ledoit-Wolf shrinkage (scikit-learn); `C` has no meaning here.

    Arguments and results as in `fit_logistic`. Refuses more than 1000 features, whose covariance would be too large.
    """
    if X_BNK.shape[2] > LDA_MAX_FEATURES:
        raise UserError(
            f"lda on {X_BNK.shape[2]} features",
            allowed=f"at most {LDA_MAX_FEATURES}",
            suggestion="Use logistic_l2 for many features",
        )
    return _fit_each(lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"), X_BNK, y_BN, weight_BN)


def fit_logistic_l1(
    X_BNK: Array, y_BN: NDArray[np.int8], weight_BN: NDArray[np.bool_] | None = None, C: float = 1.0
) -> tuple[Array, Array]:
    """L1-penalised logistic regression (scikit-learn, liblinear, which penalises the intercept too).

    Arguments and results as in `fit_logistic`.
    """
    return _fit_each(
        lambda: LogisticRegression(l1_ratio=1.0, C=C, solver="liblinear", random_state=0), X_BNK, y_BN, weight_BN
    )


ENSEMBLES: dict[str, Fit] = {
    "logistic_l2": fit_logistic,
    "logistic_l1": fit_logistic_l1,
    "lda": fit_lda,
    "mean_difference": fit_mean_difference,
}
"""How selected features are combined, by name."""


def get_ensemble(name: str) -> Fit:
    """The batched fit of a kind of ensemble.

    Raises
    ------
    UserError
        Unknown name.

    Examples
    --------
    >>> get_ensemble("lda") is fit_lda
    True
    """
    if name not in ENSEMBLES:
        raise unknown_name("ensemble", name, ENSEMBLES)
    return ENSEMBLES[name]


def haufe_patterns(X_BNK: Array, w_BK: Array) -> Array:
    """Activation patterns of linear decisions: covariance of the features with the output, over the output's variance.

    A weight may cancel noise and be large on a feature that says nothing of the condition; the pattern shows how a
    feature moves with the decision (Haufe et al. 2014, NeuroImage 87). All zero where the output is constant.

    Parameters
    ----------
    X_BNK : array [B or 1, N, K]
    w_BK : array [B, K]

    Returns
    -------
    array [B, K]
        Units of the feature per unit of output.

    Examples
    --------
    >>> haufe_patterns(np.array([[[1.0, 2.0], [-1.0, -2.0]]]), np.array([[1.0, 0.0]])).tolist()
    [[1.0, 2.0]]
    """
    X_BNK = X_BNK - X_BNK.mean(axis=1, keepdims=True)
    output_BN = _times(X_BNK, w_BK)
    power_B1 = (output_BN**2).sum(axis=1, keepdims=True)
    return _times(X_BNK.swapaxes(1, 2), output_BN) / np.where(power_B1 > 0, power_B1, 1.0)


class LinearFit(NamedTuple):
    """A linear decision on standardised features, and what moves with it.

    Attributes
    ----------
    mean_K, scale_K : float64 arrays [K]
        The standardisation.
    weights_K : float64 array [K]
        Of the *standardised* features.
    intercept : float
    patterns_K : float64 array [K]
        Haufe patterns, standard deviations of the feature per unit of output.
    direction_K : int8 array [K]
        +1 where the feature is larger for the target condition, -1 where smaller.
    """

    mean_K: Array
    scale_K: Array
    weights_K: Array
    intercept: float
    patterns_K: Array
    direction_K: NDArray[np.int8]


def described(
    Z_SK: Array, labels_S: NDArray[np.int8], mean_K: Array, scale_K: Array, weights_K: Array, intercept: float
) -> LinearFit:
    """Add to the weights of standardised features what moves with their decision, and which side they are larger on."""
    difference_K = Z_SK[labels_S > 0].mean(axis=0) - Z_SK[labels_S < 0].mean(axis=0)
    patterns_K = haufe_patterns(Z_SK[None], weights_K[None])[0]
    return LinearFit(mean_K, scale_K, weights_K, intercept, patterns_K, np.sign(difference_K).astype(np.int8))


def fit_on(X_SK: Array, labels_S: NDArray[np.int8], ensemble: str | Fit = "logistic_l2", C: float = 1.0) -> LinearFit:
    """Standardise selected features and fit an ensemble to all of these stimuli.

    Parameters
    ----------
    X_SK : float64 array [S, K]
        Training stimuli.
    labels_S : int8 array [S]
        +1 target, -1 foil.
    ensemble : str or callable, default 'logistic_l2'
        One of `ENSEMBLES`.
    C : float, default 1.0
        Inverse strength of the penalty of the logistic kinds.

    Examples
    --------
    >>> fit_on(np.array([[1.0], [3.0], [2.0], [4.0]]), np.array([-1, 1, -1, 1], dtype=np.int8)).direction_K.tolist()
    [1]
    """
    fit = get_ensemble(ensemble) if isinstance(ensemble, str) else ensemble
    mean_K, scale_K = standardisation(X_SK)
    Z_SK = (X_SK - mean_K) / scale_K
    w_1K, b_1 = fit(Z_SK[None], labels_S[None], None, C)
    return described(Z_SK, labels_S, mean_K, scale_K, w_1K[0], float(b_1[0]))


class LinearEnsemble(ClassifierMixin, BaseEstimator):
    """Linear classifier for two classes on a few selected features, standardised on the training rows.

    Parameters
    ----------
    kind : str, default 'logistic_l2'
        One of `ENSEMBLES`.
    C : float, default 1.0
        Inverse strength of the penalty of the logistic kinds.

    Attributes
    ----------
    coef_ : array [1, K]
        Weights of the *standardised* features; divide by `scale_` for weights of activations.
    intercept_ : array [1]
    patterns_ : array [1, K]
        Haufe patterns in standard deviations of the feature per unit of output; multiply by `scale_` for activations.
    mean_, scale_ : arrays [K]
        Standardisation; a constant feature has scale 1.
    classes_ : array [2]
        The second class has positive decisions.

    Examples
    --------
    >>> LinearEnsemble().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]).predict([[5.0]]).tolist()
    [1]
    """

    def __init__(self, kind: str = "logistic_l2", C: float = 1.0) -> None:
        self.kind = kind
        self.C = C

    def fit(self, X: ArrayLike, y: ArrayLike) -> LinearEnsemble:
        """Fit to rows [N, K] and two classes [N]."""
        fit = get_ensemble(self.kind)
        X_NK, y_N = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y_N)
        self.classes_, code_N = np.unique(y_N, return_inverse=True)
        if len(self.classes_) > 2:
            raise ValueError(f"Only binary classification is supported. y has {len(self.classes_)} classes.")
        if len(self.classes_) < 2:
            raise ValueError("A classifier needs rows of two classes, y has 1 class.")
        fitted = fit_on(X_NK, (2 * code_N - 1).astype(np.int8), fit, self.C)
        self.mean_, self.scale_ = fitted.mean_K, fitted.scale_K
        self.coef_, self.intercept_ = fitted.weights_K[None], np.array([fitted.intercept])
        self.patterns_ = fitted.patterns_K[None]
        return self

    def decision_function(self, X: ArrayLike) -> Array:
        """Signed decisions [N], positive for ``classes_[1]``."""
        check_is_fitted(self)
        X_NK = validate_data(self, X, dtype=np.float64, reset=False)
        return ((X_NK - self.mean_) / self.scale_) @ self.coef_[0] + self.intercept_[0]

    def predict(self, X: ArrayLike) -> NDArray:
        """Predicted class of every row [N]."""
        decision_N = self.decision_function(X)
        return self.classes_[(decision_N > 0).astype(int)]

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that there are two classes only."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _times(A_BNK: Array, v_BK: Array) -> Array:
    """Batched matrix times vector, [B, N]."""
    return np.matmul(A_BNK, v_BK[..., None])[..., 0]


def _require_both_classes(y_BN: NDArray[np.int8], weight_BN: NDArray[np.bool_] | None) -> None:
    used_BN = y_BN if weight_BN is None else np.where(weight_BN, y_BN, 0)
    if not ((used_BN > 0).any(axis=1) & (used_BN < 0).any(axis=1)).all():
        raise UserError("An ensemble needs rows of both classes to learn from, but got only one class")


def _fit_each(
    make: Callable[[], BaseEstimator], X_BNK: Array, y_BN: NDArray[np.int8], weight_BN: NDArray[np.bool_] | None
) -> tuple[Array, Array]:
    """One scikit-learn fit per label vector."""
    _require_both_classes(y_BN, weight_BN)
    n_batch = len(y_BN)
    X_BNK = np.broadcast_to(X_BNK, (n_batch, *X_BNK.shape[1:]))
    w_BK, b_B = np.empty((n_batch, X_BNK.shape[2])), np.empty(n_batch)
    for b in range(n_batch):
        rows = slice(None) if weight_BN is None else weight_BN[b].astype(bool)
        model = make().fit(X_BNK[b][rows], y_BN[b][rows])
        w_BK[b], b_B[b] = model.coef_[0], model.intercept_[0]
    return w_BK, b_B
