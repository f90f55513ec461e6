"""Feature selectors: RSA and its rivals behind one protocol, a registry by name.

`scores` computes a selector's statistic for every feature and a whole batch of label vectors (folds, permutations);
`top_k` turns it into a ranking; `Selector` is the same as a scikit-learn estimator. Selectors see training stimuli
only: a label code of 0 leaves a stimulus out. Where a statistic has a direction it is used two-sided, because RSA is
blind to direction; the fitted `Selector.direction_` says which condition is higher. A feature that does not vary over
the training stimuli is never valid, and a condition needs two stimuli.

What each selector must find (`PLANTED`; the tests hold them to it):

=================================  ==========  ========  =============  ===========
selector                           mean_shift  variance  profile_shape  rare_firing
=================================  ==========  ========  =============  ===========
`max_activation`                   x                                    x
`target_max`                       x                                    x
`mean_difference`                  x                                    x
`t`                                x                                    x
`auroc`                            x
`l1`                               x
`rsa_discriminative`               x           x
`rsa_categorical`                              x
`rsa_category`                     x                                    x
`rsa_*_profile` (all three kinds)                        x
`random`
=================================  ==========  ========  =============  ===========

mean_shift: the target condition is higher. variance: same mean, the target varies less. profile_shape: same pooled
response, a time course that only the target has. rare_firing: fires strongly, for a third of the target stimuli only.
Features have equal scales there; `max_activation` and `target_max` prefer large scales to any signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted, validate_data

from neurosae.errors import UserError, unknown_name
from neurosae.inference.linear import T_CAP
from neurosae.rsa.pairs import KINDS, indicators, label_codes
from neurosae.rsa.profiles import score_profiles
from neurosae.rsa.results import FeatureScores, Reason, Table, as_table, collect, dense_blocks, explained, is_sparse
from neurosae.rsa.scores import score_scalar

BLOCK_SIZE = 1024  # features held at a time
ZERO_VARIANCE = 1e-12  # sum of squares, relative to the uncentred one, that is only rounding

ALL, PCA = "all", "pca"
UNSELECTED = (ALL, PCA)
"""Rivals without selection: all features, and the first k principal components."""

PLANTED: dict[str, set[str]] = {
    "max_activation": {"mean_shift", "rare_firing"},
    "target_max": {"mean_shift", "rare_firing"},
    "mean_difference": {"mean_shift", "rare_firing"},
    "t": {"mean_shift", "rare_firing"},
    "auroc": {"mean_shift"},
    "l1": {"mean_shift"},
    "rsa_discriminative": {"mean_shift", "variance"},
    "rsa_categorical": {"variance"},
    "rsa_category": {"mean_shift", "rare_firing"},
    "rsa_discriminative_profile": {"profile_shape"},
    "rsa_categorical_profile": {"profile_shape"},
    "rsa_category_profile": {"profile_shape"},
    "random": set(),
}
"""Signals that each selector must find."""


@dataclass(frozen=True)
class Training:
    """What a selector may look at; fields as in `scores`, checked."""

    X_SF: Table
    codes_BS: np.ndarray
    blocks_S: np.ndarray | None
    profiles: tuple[Any, Any] | None
    rng_seed: int


ScoreFunction = Callable[[Training], FeatureScores]
Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


def scores(
    name: str,
    X_SF: Any,
    labels_BS: Any,
    *,
    blocks_S: Any = None,
    profiles: tuple[Any, Any] | None = None,
    rng_seed: int = 0,
) -> FeatureScores:
    """Compute a selector's statistic for every feature and every label vector; larger = selected first.

    Parameters
    ----------
    name : str
        A key of `SELECTORS`.
    X_SF : array or scipy sparse array [S, F]
        Pooled responses.
    labels_BS : array [S] or [B, S]
        Booleans (True = target) or +1 target, -1 foil, 0 left out of training.
    blocks_S : array [S], optional
        Block of each stimulus. `t` is paired if in every label vector every block has one target and one foil, or is
        left out.
    profiles : (array [S, W, F], bool array [S, W]), optional
        Responses over window positions and their clean-token mask; the `_profile` selectors need them.
    rng_seed : int, default 0
        Seed of `random` (one draw for all label vectors).

    Returns
    -------
    FeatureScores
        Arrays [F] or [B, F] like `labels_BS`.

    Raises
    ------
    UserError
        Unknown selector, malformed or non-finite input, missing profiles.

    Examples
    --------
    >>> import numpy as np
    >>> X_SF = np.array([[3.0, 1.0], [4.0, 2.0], [0.0, 1.0], [1.0, 2.0]])
    >>> scores("mean_difference", X_SF, [True, True, False, False]).value
    array([3., 0.])
    """
    if name not in SELECTORS:
        raise unknown_name("selector", name, SELECTORS)
    X_SF = as_table(X_SF)
    codes_BS = label_codes(labels_BS, X_SF.shape[0])
    if blocks_S is not None:
        blocks_S = np.asarray(blocks_S)
        if blocks_S.shape != (X_SF.shape[0],):
            raise UserError(f"blocks have shape {blocks_S.shape} for {X_SF.shape[0]} stimuli", where="blocks")
    result = SELECTORS[name](Training(X_SF, codes_BS, blocks_S, profiles, rng_seed))
    return result if np.ndim(labels_BS) == 2 else result.row(0)


def top_k(feature_scores: FeatureScores, k: int) -> np.ndarray:
    """Return the indices of the k best features, best first: int array [k] or [B, k].

    Invalid features come last; ties (equal to 12 digits) go to the lower feature index.

    Parameters
    ----------
    feature_scores : FeatureScores
        Arrays [F] or [B, F].
    k : int
        From 1 to F.

    Raises
    ------
    UserError
        k out of range.

    Examples
    --------
    >>> import numpy as np
    >>> top_k(FeatureScores(np.array([-0.1, 0.0, 0.3, 0.3]), np.array([0, Reason.SILENT, 0, 0])), 4)
    array([2, 3, 0, 1])
    """
    n_features = feature_scores.value.shape[-1]
    if not 1 <= k <= n_features:
        raise UserError(f"k is {k}", where="k", allowed=f"integers from 1 to the number of features, {n_features}")
    # duplicate features may differ in the last bit; without rounding their order would depend on the block size
    mantissa, exponent = np.frexp(feature_scores.value)
    value = np.ldexp(np.round(mantissa * 2**40) / 2**40, exponent)
    key = np.where(feature_scores.valid, -value, np.inf)
    return np.argsort(key, axis=-1, kind="stable")[..., :k]


class Selector(SelectorMixin, BaseEstimator):
    """Keep the k best features by one of the `SELECTORS`.

    Parameters
    ----------
    name : str, default "rsa_discriminative"
        A key of `SELECTORS`.
    k : int, default 8
        Features to keep.
    random_state : int, default 0
        Seed of `random`.

    Attributes
    ----------
    scores_, valid_, reason_ : arrays [F]
        The statistic, whether it means something, and a `Reason`.
    ranking_, selected_ : int arrays [F], [k]
        Feature indices, best first; the k that are kept.
    direction_ : int array [F]
        +1 where the target's mean is higher (or equal), -1 where the foil's is.
    classes_ : array [2]
        Foil and target level: the target is the one that sorts last, as in scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> X_SF = np.array([[0.0, 3.0], [1.0, 4.0], [0.0, 1.0], [1.0, 0.0]])
    >>> Selector("auroc", k=1).fit(X_SF, [1, 1, 0, 0]).get_support()
    array([False,  True])
    """

    def __init__(self, name: str = "rsa_discriminative", k: int = 8, random_state: int = 0) -> None:
        self.name = name
        self.k = k
        self.random_state = random_state

    def fit(self, X: Any, y: Any, blocks: Any = None, profiles: tuple[Any, Any] | None = None) -> Selector:
        """Score the features on training stimuli.

        `X` are pooled responses [S, F], dense or sparse; `y` [S] holds two classes; `blocks` and `profiles` as in
        `scores`. Raises `UserError` as `scores` and `top_k` do, and if there are not exactly two classes.
        """
        X = validate_data(self, X, accept_sparse=("csr", "csc"), ensure_all_finite=False)
        y = np.asarray(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            raise UserError(f"y has {len(self.classes_)} classes", where="y", allowed="two classes")
        labels_S = y == self.classes_[1]
        result = scores(self.name, X, labels_S, blocks_S=blocks, profiles=profiles, rng_seed=self.random_state)
        self.selected_, self.ranking_ = top_k(result, self.k), top_k(result, X.shape[1])
        self.scores_, self.valid_, self.reason_ = result.value, result.valid, result.reason
        codes_S = np.where(labels_S, 1 / labels_S.sum(), -1 / (~labels_S).sum())
        self.direction_ = np.where(codes_S @ X >= 0, 1, -1)
        return self

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        return np.isin(np.arange(self.n_features_in_), self.selected_)


def _rival(statistic: Statistic) -> ScoreFunction:
    """Turn a statistic over dense blocks of features into a score function.

    The statistic may return inf (a perfect separation) and nan (undefined); what is wrong with the feature itself is
    found here, by the same rules for every rival.
    """

    def score(training: Training) -> FeatureScores:
        def score_block(X_Sf: np.ndarray) -> FeatureScores:
            with np.errstate(divide="ignore", invalid="ignore"):
                value_Bf = statistic(X_Sf, training.codes_BS, training.blocks_S)
            undefined, infinite = (Reason.CONSTANT, np.isnan(value_Bf)), (Reason.PERFECT_SEPARATION, np.isinf(value_Bf))
            value_Bf[infinite[1]] = T_CAP
            return explained(value_Bf, [*_problems(X_Sf, training.codes_BS), undefined, infinite])

        shape = (len(training.codes_BS), training.X_SF.shape[1])
        return collect(dense_blocks(training.X_SF, BLOCK_SIZE), shape, score_block)

    return score


def _problems(X_Sf: np.ndarray, codes_BS: np.ndarray) -> list[tuple[Reason, np.ndarray]]:
    """Find features without enough stimuli, or without variation over the training stimuli."""
    few_B = np.minimum((codes_BS == 1).sum(axis=1), (codes_BS == -1).sum(axis=1)) < 2
    highest_Bf, lowest_Bf = _masked_max(X_Sf, codes_BS != 0), -_masked_max(-X_Sf, codes_BS != 0)
    constant_Bf = highest_Bf == lowest_Bf
    return [
        (Reason.TOO_FEW_STIMULI, few_B[:, None]),
        (Reason.SILENT, constant_Bf & (highest_Bf == 0)),
        (Reason.CONSTANT, constant_Bf),
    ]


_usable = _rival(lambda X_Sf, codes_BS, _: np.zeros((len(codes_BS), X_Sf.shape[1])))  # validity alone


def _distinct(mask_BS: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows, mask [S]) for every distinct mask: all permutations of one training set share the work."""
    masks, which_B = np.unique(mask_BS, axis=0, return_inverse=True)
    for m, mask_S in enumerate(masks):
        yield np.flatnonzero(which_B == m), mask_S


def _masked_max(X_Sf: np.ndarray, mask_BS: np.ndarray) -> np.ndarray:
    """Return the maximum over the stimuli in each mask [B, f] (-inf over none)."""
    highest_Bf = np.empty((len(mask_BS), X_Sf.shape[1]))
    for rows, mask_S in _distinct(mask_BS):
        highest_Bf[rows] = X_Sf[mask_S].max(axis=0, initial=-np.inf)
    return highest_Bf


def _mean_difference(X_Sf: np.ndarray, codes_BS: np.ndarray, blocks_S: np.ndarray | None) -> np.ndarray:
    target_BS, foil_BS = indicators(codes_BS)
    return np.abs(_mean(target_BS, X_Sf) - _mean(foil_BS, X_Sf))


def _mean(group_BS: np.ndarray, X_Sf: np.ndarray) -> np.ndarray:
    return group_BS @ X_Sf / group_BS.sum(axis=1)[:, None]


def _auroc(X_Sf: np.ndarray, codes_BS: np.ndarray, blocks_S: np.ndarray | None) -> np.ndarray:
    """Distance of the area under the ROC curve from chance, 2 |AUROC - 1/2|, from midranks (Mann-Whitney)."""
    target_BS, foil_BS = indicators(codes_BS)
    auroc_Bf = np.empty((len(codes_BS), X_Sf.shape[1]))
    for rows, mask_S in _distinct(codes_BS != 0):
        rank_sum = target_BS[np.ix_(rows, mask_S)] @ stats.rankdata(X_Sf[mask_S], axis=0)
        n_a, n_b = target_BS[rows].sum(axis=1)[:, None], foil_BS[rows].sum(axis=1)[:, None]
        auroc_Bf[rows] = (rank_sum - n_a * (n_a + 1) / 2) / (n_a * n_b)
    return 2 * np.abs(auroc_Bf - 0.5)


def _t(X_Sf: np.ndarray, codes_BS: np.ndarray, blocks_S: np.ndarray | None) -> np.ndarray:
    """Absolute t: paired where every label vector splits every block into one target and one foil, else Welch's."""
    pairs = None if blocks_S is None else _pairs(codes_BS, blocks_S)
    if pairs is None:
        return _welch_t(X_Sf, codes_BS)
    first, second = pairs
    return _paired_t(X_Sf[first] - X_Sf[second], codes_BS[:, first])


def _pairs(codes_BS: np.ndarray, blocks_S: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the indices of first and second stimulus of every pair [P], or None if the blocks are not pairs."""
    used = np.flatnonzero((codes_BS != 0).any(axis=0))
    _, block_of, size = np.unique(blocks_S[used], return_inverse=True, return_counts=True)
    if (size != 2).any():
        return None
    first, second = used[np.argsort(block_of, kind="stable")].reshape(-1, 2).T
    return None if (codes_BS[:, first] + codes_BS[:, second]).any() else (first, second)


def _paired_t(D_Pf: np.ndarray, flips_BP: np.ndarray) -> np.ndarray:
    """|t| of pair differences under the sign flips (+1, -1; 0 = pair left out) of each label vector."""
    flips_BP = flips_BP.astype(np.float64)
    n = np.abs(flips_BP).sum(axis=1)[:, None]
    mean_Bf = flips_BP @ D_Pf / n
    squares_Bf = np.abs(flips_BP) @ D_Pf**2
    return np.abs(mean_Bf) / np.sqrt(_variance(n, mean_Bf, squares_Bf) / n)


def _welch_t(X_Sf: np.ndarray, codes_BS: np.ndarray) -> np.ndarray:
    X_Sf = X_Sf - np.median(X_Sf, axis=0)  # sums of squares lose no digits to an offset
    means, errors = [], []
    for group_BS in indicators(codes_BS):
        n = group_BS.sum(axis=1)[:, None]
        means.append(_mean(group_BS, X_Sf))
        errors.append(_variance(n, means[-1], group_BS @ X_Sf**2) / n)
    return np.abs(means[0] - means[1]) / np.sqrt(errors[0] + errors[1])


def _variance(n: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Unbiased variance from n, the mean and the sum of squares; exactly 0 where only rounding is left."""
    centred = squares - n * mean**2
    return np.where(centred > ZERO_VARIANCE * squares, centred, 0.0) / (n - 1)


def _l1(training: Training) -> FeatureScores:
    """Absolute coefficients of an L1-penalised logistic regression on standardised features (ties at 0 are common)."""
    usable = _usable(training)
    X_SF = training.X_SF.toarray() if is_sparse(training.X_SF) else training.X_SF
    value_BF = np.zeros(usable.value.shape)
    for code_S, valid_F, value_F in zip(training.codes_BS, usable.valid, value_BF, strict=True):
        if valid_F.any():
            X = X_SF[np.ix_(code_S != 0, valid_F)].astype(np.float64)
            model = LogisticRegression(l1_ratio=1.0, C=1.0, solver="liblinear", random_state=0)
            model.fit((X - X.mean(axis=0)) / X.std(axis=0), code_S[code_S != 0])
            value_F[valid_F] = np.abs(model.coef_[0])
    return FeatureScores(value_BF, usable.reason)


def _random(training: Training) -> FeatureScores:
    """One seeded permutation of the features, whatever the labels."""
    usable = _usable(training)
    order_F = np.random.default_rng(training.rng_seed).permutation(training.X_SF.shape[1])
    return FeatureScores(np.where(usable.valid, order_F, 0.0), usable.reason)


def _rsa_scalar(kind: str, training: Training) -> FeatureScores:
    return score_scalar(training.X_SF, training.codes_BS, kind)


def _rsa_profile(kind: str, training: Training) -> FeatureScores:
    if training.profiles is None:
        raise UserError("a profile selector needs profiles", where="profiles", allowed="(P_SWF, defined_SW)")
    P_SWF, defined_SW = training.profiles
    if np.shape(P_SWF)[-1] != training.X_SF.shape[1]:
        raise UserError(f"profiles have shape {np.shape(P_SWF)}, pooled responses {training.X_SF.shape}")
    return score_profiles(P_SWF, defined_SW, training.codes_BS, kind)


PROFILE_SELECTORS: dict[str, ScoreFunction] = {f"rsa_{kind}_profile": partial(_rsa_profile, kind) for kind in KINDS}
"""Those that compare time courses; they need `profiles`."""
SELECTORS: dict[str, ScoreFunction] = {
    "max_activation": _rival(lambda X_Sf, codes_BS, _: _masked_max(X_Sf, codes_BS != 0)),
    "target_max": _rival(lambda X_Sf, codes_BS, _: _masked_max(X_Sf, codes_BS == 1)),
    "mean_difference": _rival(_mean_difference),
    "t": _rival(_t),
    "auroc": _rival(_auroc),
    "l1": _l1,
    **{f"rsa_{kind}": partial(_rsa_scalar, kind) for kind in KINDS},
    **PROFILE_SELECTORS,
    "random": _random,
}
"""Score functions by name."""
