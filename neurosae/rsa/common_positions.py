"""Similarities of time courses position by position, over the positions that are clean in both stimuli.

Stimuli for which a feature is silent have no defined pair: they are left out before anything is computed.
"""

from __future__ import annotations

import numpy as np

CONSTANT_SPREAD = 1e-10  # variance relative to mean square below which a profile is constant but for rounding
CONSTANT_PROFILE = 1e-13  # the same for the largest deviation from the mean, relative to the largest value


def similarity_of_active(
    P_FSW: np.ndarray, defined_SW: np.ndarray, form: str, measure: str, min_positions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare the profiles of the stimuli for which a feature is not silent; the others have no defined pair.

    Returns
    -------
    member_FK : int array [F, K]
        Stimuli, K = the most any of the features is active for; silent ones fill the rows of the others.
    Z_FKK, ok_FKK : arrays [F, K, K]
        As in `profile_similarity`.
    """
    n_features, n_stimuli, n_positions = P_FSW.shape
    P_FSW = np.where(defined_SW, P_FSW, 0)
    active_FS = P_FSW.any(axis=2)
    n_members = int(active_FS.sum(axis=1).max(initial=0))
    everyone_FS = np.broadcast_to(np.arange(n_stimuli), (n_features, n_stimuli))
    packed = n_members < n_stimuli
    member_FK = np.argsort(~active_FS, axis=1, kind="stable")[:, :n_members] if packed else everyone_FS
    mask_FKW = defined_SW[member_FK] if packed else defined_SW[None]
    P_FKW = (np.take_along_axis(P_FSW, member_FK[:, :, None], axis=1) if packed else P_FSW).astype(np.float64)
    if form == "sorted":
        # undefined positions sort behind every value and are cut off again by the new mask
        P_FKW = -np.sort(np.where(mask_FKW, -P_FKW, np.inf), axis=2)
        mask_FKW = np.arange(n_positions) < mask_FKW.sum(axis=2, keepdims=True)
        P_FKW = np.where(mask_FKW, P_FKW, 0.0)
    r_FKK, ok_FKK = _common_correlation(P_FKW, mask_FKW.astype(np.float64), measure == "correlation", min_positions)
    bound = 1 - 1 / n_positions
    np.clip(r_FKK, -bound, bound, out=r_FKK)
    return member_FK, np.arctanh(r_FKK, out=r_FKK), ok_FKK


def _common_correlation(
    P_FKW: np.ndarray, mask_FKW: np.ndarray, centred: bool, min_positions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation (or cosine) of all pairs of profiles over their common positions, 0 where not ok; and ok; [F, K, K].

    `mask_FKW` may be [1, K, W]. Every sum is over the common positions of profiles i (row) and j (column).
    """
    X_FKW = _standardise(P_FKW, mask_FKW, centred)
    itself = np.arange(X_FKW.shape[1])
    if mask_FKW.all():
        squares_FK1 = np.einsum("fkw,fkw->fk", X_FKW, X_FKW)[:, :, None]
        varies_FK1 = (squares_FK1 > 0) & (X_FKW.shape[2] >= min_positions)
        X_FKW *= np.where(varies_FK1, 1 / np.sqrt(np.where(varies_FK1, squares_FK1, 1)), 0)
        r_FKK, ok_FKK = X_FKW @ X_FKW.swapaxes(1, 2), varies_FK1 & varies_FK1.swapaxes(1, 2)
        r_FKK[:, itself, itself], ok_FKK[:, itself, itself] = 0, False
        return r_FKK, ok_FKK
    other_FWK = mask_FKW.swapaxes(1, 2)
    n_FKK = mask_FKW @ other_FWK
    squares_FKK, product_FKK = (X_FKW * X_FKW) @ other_FWK, X_FKW @ X_FKW.swapaxes(1, 2)
    if centred:  # in place: allocating these tables takes longer than filling them
        sum_FKK = X_FKW @ other_FWK
        product_FKK *= n_FKK
        product_FKK -= sum_FKK * sum_FKK.swapaxes(1, 2)
        squares_FKK *= n_FKK
        least_FKK = CONSTANT_SPREAD * squares_FKK
        squares_FKK -= np.multiply(sum_FKK, sum_FKK, out=sum_FKK)
        varies_FKK = squares_FKK > least_FKK
    else:
        varies_FKK = squares_FKK > 0
    ok_FKK = varies_FKK & varies_FKK.swapaxes(1, 2) & (n_FKK >= min_positions)
    ok_FKK[:, itself, itself] = False
    squares_FKK[~ok_FKK] = 1
    product_FKK[~ok_FKK] = 0
    np.sqrt(squares_FKK, out=squares_FKK)
    product_FKK /= squares_FKK
    product_FKK /= squares_FKK.swapaxes(1, 2)
    return product_FKK, ok_FKK


def _standardise(P_FKW: np.ndarray, mask_FKW: np.ndarray, centred: bool) -> np.ndarray:
    """Scale every profile to magnitude 1, centred over its clean positions if asked; no similarity changes.

    What is constant but for rounding becomes exactly 0.
    """
    largest_FK1 = np.abs(P_FKW).max(axis=2, keepdims=True, initial=0)
    X_FKW = P_FKW / np.where(largest_FK1 > 0, largest_FK1, 1)
    if centred:
        X_FKW -= X_FKW.sum(axis=2, keepdims=True) / np.maximum(mask_FKW.sum(axis=2, keepdims=True), 1)
        X_FKW *= mask_FKW
        spread_FK1 = np.abs(X_FKW).max(axis=2, keepdims=True, initial=0)
        X_FKW *= np.where(spread_FK1 > CONSTANT_PROFILE, 1 / np.where(spread_FK1 > 0, spread_FK1, 1), 0)
    return X_FKW
