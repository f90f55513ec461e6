"""RSA scores of scalar patterns: one pooled response per stimulus, distance (x_i - x_j)^2."""

from __future__ import annotations

from typing import Any

import numpy as np

from neurosae.rsa.pairs import PairSums, compared, enough_stimuli, indicators, label_codes, point_biserial
from neurosae.rsa.results import (
    FeatureScores,
    Reason,
    Table,
    as_table,
    collect,
    column,
    explained,
    mixed_blocks,
    standardise,
)

ILL_CONDITIONED = 1e-6  # below this relative spread the power sums keep fewer than ten digits: visit the pairs instead
CONSTANT_SPREAD = 1e-14  # below this relative spread the distances are equal but for rounding


def score_scalar(
    X_SF: Any, labels: Any, kind: str = "discriminative", *, block_size: int | None = None
) -> FeatureScores:
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
    block_size : int, optional
        Features held at a time; memory grows with block_size x (S + B). Default: about 8 MB per array.

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
        raw_Sf, X_Sf = X_Sf, standardise(X_Sf)
        sums = _pair_sums(X_Sf, target_BS, foil_BS)
        r_Bf, spread_Bf = point_biserial(*compared(kind, *sums))
        scale_Bf = sums[0].scale + sums[1].scale + sums[2].scale
        for b, f in np.argwhere(enough_B1 & (spread_Bf < ILL_CONDITIONED) & (scale_Bf > 0)):
            r_Bf[b, f], spread_Bf[b, f] = _visit_pairs(column(X_Sf, f), codes_BS[b], kind)
        constant_Bf = spread_Bf <= CONSTANT_SPREAD
        silent_Bf, maybe_f = np.zeros_like(constant_Bf), np.flatnonzero(constant_Bf.any(axis=0))
        silent_Bf[:, maybe_f] = (target_BS + foil_BS) @ (raw_Sf[:, maybe_f] != 0).astype(np.float64) == 0
        few_B1 = ~enough_B1
        return explained(
            r_Bf, [(Reason.TOO_FEW_STIMULI, few_B1), (Reason.SILENT, silent_Bf), (Reason.CONSTANT, constant_Bf)]
        )

    n_vectors, n_stimuli = codes_BS.shape
    blocks = mixed_blocks(X_SF, block_size, n_stimuli + n_vectors, 8 * n_vectors)
    skipped_B1 = np.where(enough_B1, Reason.SILENT, Reason.TOO_FEW_STIMULI)
    scores = collect(blocks, (n_vectors, X_SF.shape[1]), score, skipped_B1)
    return scores if np.ndim(labels) == 2 else scores.row(0)


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
