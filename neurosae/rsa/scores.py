"""RSA scores of scalar patterns: one pooled response per stimulus, distance (x_i - x_j)^2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse

from neurosae.errors import UserError
from neurosae.rsa.pairs import PairSums, compared, enough_stimuli, indicators, label_codes, point_biserial
from neurosae.rsa.results import (
    FeatureScores,
    Reason,
    Table,
    as_table,
    collect,
    dense_blocks,
    explained,
    index_blocks,
    is_sparse,
)

ILL_CONDITIONED = 1e-6  # below this relative spread the power sums keep fewer than ten digits: visit the pairs instead
CONSTANT_SPREAD = 1e-14  # below this relative spread the distances are equal but for rounding


def score_scalar(X_SF: Any, labels: Any, kind: str = "discriminative", *, block_size: int = 1024) -> FeatureScores:
    """Score how much more coherent the target condition is, for every feature and label vector.

    The score is the point-biserial correlation between pairwise similarity, -(x_i - x_j)^2, and the masked two-level
    model RDM that `kind` stands for, over the unmasked pairs. Pairs are never visited: power sums up to the fourth, per
    condition, suffice, so a batch of label vectors costs one matrix product.

    Parameters
    ----------
    X_SF : array or scipy sparse array [S, F]
        One response per stimulus and feature. The cost for sparse input grows with the number of non-zeros.
    labels : array [S] or [B, S]
        Booleans (True = target) or +1 target, -1 foil, 0 left out (not in this training set).
    kind : {"discriminative", "categorical", "category"}
        Pairs compared: within target against across; within target against within foil; within either against across.
        *categorical* compares two variances and is blind to means: a feature that fires only for the foil can win it.
    block_size : int, default 1024
        Features held at a time; memory grows with block_size x (S + B).

    Returns
    -------
    FeatureScores
        Arrays [F] or [B, F] like `labels`; value in [-1, 1], larger = target more coherent. Not valid: silent features,
        features whose distances are all equal, label vectors with fewer than 2 stimuli in a condition whose pairs
        are used.

    Raises
    ------
    UserError
        Values that are not finite, malformed labels, unknown kind.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), Frontiers in Systems Neuroscience 2:4.

    Examples
    --------
    >>> import numpy as np
    >>> X_SF = np.array([[1.0, 0.0], [1.1, 0.0], [5.0, 0.0], [9.0, 0.0]])
    >>> scores = score_scalar(X_SF, [True, True, False, False])
    >>> scores.value.round(2), scores.valid
    (array([0.59, 0.  ]), array([ True, False]))
    """
    X_SF = as_table(X_SF)
    codes_BS = label_codes(labels, X_SF.shape[0])
    target_BS, foil_BS = indicators(codes_BS)
    enough_B1 = enough_stimuli(kind, target_BS, foil_BS)[:, None]

    def score(X_Sf: Table) -> FeatureScores:
        fires_Bf = (target_BS + foil_BS) @ (X_Sf != 0).astype(np.float64) > 0
        X_Sf = _standardise(X_Sf)
        sums = _pair_sums(X_Sf, target_BS, foil_BS)
        r_Bf, spread_Bf = point_biserial(*compared(kind, *sums))
        scale_Bf = sums[0].scale + sums[1].scale + sums[2].scale
        for b, f in np.argwhere(enough_B1 & (spread_Bf < ILL_CONDITIONED) & (scale_Bf > 0)):
            r_Bf[b, f], spread_Bf[b, f] = _visit_pairs(_column(X_Sf, f), codes_BS[b], kind)
        return explained(
            r_Bf,
            [
                (Reason.TOO_FEW_STIMULI, ~enough_B1),
                (Reason.SILENT, ~fires_Bf),
                (Reason.CONSTANT, spread_Bf <= CONSTANT_SPREAD),
            ],
        )

    scores = collect(_blocks(X_SF, block_size), (len(codes_BS), X_SF.shape[1]), score)
    return scores if np.ndim(labels) == 2 else scores.row(0)


def score_model(X_SF: Any, model_RDM: Any, *, block_size: int = 1024) -> FeatureScores:
    """Correlate the RDM of every feature with any graded model RDM.

    Pearson correlation over all pairs of stimuli between (x_i - x_j)^2 and the model's dissimilarity, from the graph
    Laplacian of the model and two moments of the feature; pairs are never visited.

    Parameters
    ----------
    X_SF : array or scipy sparse array [S, F]
        One response per stimulus and feature.
    model_RDM : array [S, S]
        Symmetric dissimilarities; the diagonal is ignored.
    block_size : int, default 1024
        Features held at a time.

    Returns
    -------
    FeatureScores
        Arrays [F]; value in [-1, 1], larger = the feature's RDM resembles the model's.

    Raises
    ------
    UserError
        Values that are not finite; a model that is not a symmetric [S, S] table, or predicts the same for every pair.

    References
    ----------
    Nili et al. (2014), PLoS Computational Biology 10:e1003553.

    Examples
    --------
    >>> import numpy as np
    >>> position = np.array([0.0, 1.0, 3.0, 7.0])
    >>> model_RDM = (position[:, None] - position) ** 2
    >>> score_model(np.column_stack([position, position[::-1], np.zeros(4)]), model_RDM).value.round(2)
    array([1.  , 0.48, 0.  ])
    """
    X_SF = as_table(X_SF)
    n = X_SF.shape[0]
    n_pairs = n * (n - 1) / 2
    model_SS = _centred_model(model_RDM, n)
    laplacian_SS = np.diag(model_SS.sum(axis=1)) - model_SS
    model_norm = np.sqrt((model_SS**2).sum() / 2)

    def score(X_Sf: np.ndarray) -> FeatureScores:
        varies_f = X_Sf.max(axis=0) > X_Sf.min(axis=0)
        fires_f = (X_Sf != 0).any(axis=0)
        X_Sf = X_Sf - X_Sf.mean(axis=0)
        X_Sf /= np.where(varies_f, np.abs(X_Sf).max(axis=0), 1)
        s2_f, s4_f = (X_Sf**2).sum(axis=0), (X_Sf**4).sum(axis=0)
        covariance_f = (X_Sf * (laplacian_SS @ X_Sf)).sum(axis=0)
        distance_norm_f = np.sqrt(n * s4_f + 3 * s2_f**2 - (n * s2_f) ** 2 / n_pairs)
        with np.errstate(divide="ignore", invalid="ignore"):
            r_f = np.clip(covariance_f / (distance_norm_f * model_norm), -1, 1)
        return explained(r_f[None], [(Reason.SILENT, ~fires_f), (Reason.CONSTANT, ~varies_f)])

    return collect(dense_blocks(X_SF, block_size), (1, X_SF.shape[1]), score).row(0)


def _blocks(X_SF: Table, block_size: int) -> Iterator[tuple[np.ndarray, Table]]:
    """Yield blocks of features: sparse where at least half of a feature is zero, dense otherwise (then O(nnz) too)."""
    if not is_sparse(X_SF):
        yield from dense_blocks(X_SF, block_size)
        return
    X_SF = X_SF.astype(np.float64)
    mostly_zero_F = 2 * np.diff(X_SF.indptr) <= X_SF.shape[0]
    for columns in index_blocks(np.flatnonzero(mostly_zero_F), block_size):
        yield columns, X_SF[:, columns]
    for columns in index_blocks(np.flatnonzero(~mostly_zero_F), block_size):
        yield columns, X_SF[:, columns].toarray()


def _standardise(X_Sf: Table) -> Table:
    """Centre each feature at its lower median and divide by the largest magnitude; neither changes a score.

    The median, unlike the mean, makes the zeros of a constant feature exact and leaves a mostly-zero one alone.
    """
    if is_sparse(X_Sf):
        largest_f = abs(X_Sf).max(axis=0).toarray().ravel()
        scale_f = np.where(largest_f > 0, largest_f, 1)
        data = X_Sf.data / np.repeat(scale_f, np.diff(X_Sf.indptr))
        return sparse.csc_array((data, X_Sf.indices, X_Sf.indptr), shape=X_Sf.shape)
    middle = (X_Sf.shape[0] - 1) // 2
    X_Sf = X_Sf - np.partition(X_Sf, middle, axis=0)[middle]
    largest_f = np.abs(X_Sf).max(axis=0)
    return X_Sf / np.where(largest_f > 0, largest_f, 1)


def _pair_sums(X_Sf: Table, target_BS: np.ndarray, foil_BS: np.ndarray) -> tuple[PairSums, PairSums, PairSums]:
    """Sum similarity over the pairs within target, within foil and across, from power sums per condition."""
    group_GS = np.concatenate([target_BS, foil_BS])
    power_Sf, powers = X_Sf, []
    for _ in range(4):
        powers.append(np.split(group_GS @ power_Sf, 2))
        power_Sf = power_Sf * X_Sf  # elementwise, for sparse arrays too
    (a1, b1), (a2, b2), (a3, b3), (a4, b4) = powers
    n_a, n_b = target_BS.sum(axis=1)[:, None], foil_BS.sum(axis=1)[:, None]
    across = PairSums(
        count=n_a * n_b,
        total=-(n_b * a2 + n_a * b2 - 2 * a1 * b1),
        squares=n_b * a4 - 4 * a3 * b1 + 6 * a2 * b2 - 4 * a1 * b3 + n_a * b4,
        scale=n_b * a4 + 4 * np.abs(a3 * b1) + 6 * a2 * b2 + 4 * np.abs(a1 * b3) + n_a * b4,
    )
    return _within(n_a, a1, a2, a3, a4), _within(n_b, b1, b2, b3, b4), across


def _within(n: np.ndarray, p1: np.ndarray, p2: np.ndarray, p3: np.ndarray, p4: np.ndarray) -> PairSums:
    """Sum similarity over the pairs within one condition of n stimuli."""
    return PairSums(
        count=n * (n - 1) / 2,
        total=-(n * p2 - p1**2),
        squares=n * p4 - 4 * p1 * p3 + 3 * p2**2,
        scale=n * p4 + 4 * np.abs(p1 * p3) + 3 * p2**2,
    )


def _visit_pairs(x_S: np.ndarray, code_S: np.ndarray, kind: str) -> tuple[float, float]:
    """Score one feature for one label vector by the definition; (score, spread) like `point_biserial`."""
    i, j = np.triu_indices(len(x_S), k=1)
    similarity_P = -((x_S[i] - x_S[j]) ** 2)
    sides = []
    for members_P in (code_S[i] + code_S[j] == 2, code_S[i] + code_S[j] == -2, code_S[i] * code_S[j] == -1):
        s = similarity_P[members_P]
        sides.append(PairSums(np.array(s.size), s.sum(), s @ s, s @ s))
    similar, dissimilar = compared(kind, *sides)
    r, spread = point_biserial(similar, dissimilar)
    return float(r), float(spread)


def _column(X_Sf: Table, f: int) -> np.ndarray:
    """Return one feature as a dense array [S]."""
    return X_Sf[:, [f]].toarray().ravel() if is_sparse(X_Sf) else X_Sf[:, f]


def _centred_model(model_RDM: Any, n: int) -> np.ndarray:
    """Check a model RDM; return it minus its mean over pairs, with a zero diagonal."""
    model_SS = np.asarray(model_RDM, dtype=np.float64)
    if model_SS.shape != (n, n) or not np.isfinite(model_SS).all() or not np.allclose(model_SS, model_SS.T):
        raise UserError(
            f"the model RDM has shape {model_SS.shape} for {n} stimuli",
            allowed=f"a symmetric table [{n}, {n}] of finite dissimilarities",
        )
    off_diagonal_SS = ~np.eye(n, dtype=bool)
    pairs = model_SS[off_diagonal_SS]
    if n < 3 or np.ptp(pairs) == 0:
        raise UserError("the model RDM predicts the same dissimilarity for every pair", suggestion="Nothing can fit it")
    return np.where(off_diagonal_SS, (model_SS + model_SS.T) / 2 - pairs.mean(), 0.0)
