"""RSA scores of profile patterns: the activation over window positions, one time course per stimulus and feature.

Similarities do not involve labels. They are computed once per block of features, and every fold, permutation or
bootstrap is a masked sum over them.

A warning that belongs to the method: in sentences most (stimulus, latent) cells of a sparse autoencoder hold a single
active token, so few pairs are defined, and those mostly reflect *where* the token stood. Compare with the scalar form
and with `form="sorted"`, and look at `defined_share`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from neurosae.errors import UserError, unknown_name
from neurosae.rsa.pairs import PairSums, compared, enough_stimuli, indicators, label_codes, point_biserial
from neurosae.rsa.results import FeatureScores, Reason, collect, explained, index_blocks, refuse_value

FORMS = ("aligned", "sorted")
CONSTANT_SPREAD = 1e-10  # variance relative to mean square below which a profile is constant but for rounding


def profile_similarity(
    P_SWF: Any, defined_SW: Any, *, form: str = "aligned", min_positions: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the similarity of all pairs of profiles: z = arctanh(r), with |r| clipped to 1 - 1/W.

    r is the Pearson correlation over the positions that are clean in both stimuli.

    Parameters
    ----------
    P_SWF : array [S, W, F]
        Responses at W window positions; values at undefined positions are ignored (NaN allowed).
    defined_SW : bool array [S, W]
        Which positions are clean tokens.
    form : {"aligned", "sorted"}
        `sorted` puts each profile's clean values in descending order first, so that the moment of firing is ignored.
    min_positions : int, default 5
        Common clean positions a pair needs.

    Returns
    -------
    Z_FSS : float array [F, S, S]
        Similarities, 0 where not defined and on the diagonal.
    ok_FSS : bool array [F, S, S]
        True where defined: two different stimuli, enough common positions, neither profile constant on them.

    Raises
    ------
    UserError
        Shapes that do not fit, values at clean positions that are not finite, unknown form.

    Examples
    --------
    >>> import numpy as np
    >>> rise = np.arange(6.0)
    >>> Z_FSS, ok_FSS = profile_similarity(np.stack([rise, 2 * rise, rise[::-1]])[:, :, None], np.ones((3, 6)))
    >>> Z_FSS[0].round(2)
    array([[ 0. ,  1.2, -1.2],
           [ 1.2,  0. , -1.2],
           [-1.2, -1.2,  0. ]])
    """
    P_SWF, defined_SW = _check(P_SWF, defined_SW, form)
    n_stimuli, n_positions, _ = P_SWF.shape
    P_SWF = np.where(defined_SW[:, :, None], P_SWF, 0.0).astype(np.float64)
    if form == "sorted":
        # undefined positions sort behind every value and are cut off again by the new mask
        P_SWF = -np.sort(np.where(defined_SW[:, :, None], -P_SWF, np.inf), axis=1)
        defined_SW = np.arange(n_positions) < defined_SW.sum(axis=1)[:, None]
        P_SWF[~defined_SW] = 0.0
    mask_SW = defined_SW.astype(np.float64)
    X_FSW = np.moveaxis(_standardise(P_SWF, mask_SW), -1, 0)

    n_SS = mask_SW @ mask_SW.T  # every sum below is over the common positions of profiles i (row) and j (column)
    sum_FSS = X_FSW @ mask_SW.T
    squares_FSS = X_FSW**2 @ mask_SW.T
    variance_FSS = n_SS * squares_FSS - sum_FSS**2
    varies_FSS = variance_FSS > CONSTANT_SPREAD * n_SS * squares_FSS
    ok_FSS = varies_FSS & varies_FSS.swapaxes(1, 2) & (n_SS >= min_positions) & ~np.eye(n_stimuli, dtype=bool)

    covariance_FSS = n_SS * (X_FSW @ X_FSW.swapaxes(1, 2)) - sum_FSS * sum_FSS.swapaxes(1, 2)
    norm_FSS = np.sqrt(np.where(ok_FSS, variance_FSS * variance_FSS.swapaxes(1, 2), 1.0))
    bound = 1 - 1 / n_positions
    return np.arctanh(np.where(ok_FSS, np.clip(covariance_FSS / norm_FSS, -bound, bound), 0.0)), ok_FSS


def score_similarity(
    Z_FSS: np.ndarray,
    ok_FSS: np.ndarray,
    labels: Any,
    kind: str = "discriminative",
    *,
    min_stimuli: int = 10,
    min_pairs: int = 100,
) -> FeatureScores:
    """Score label vectors on pairwise similarities that exist already.

    The score is the point-biserial correlation between similarity and the masked two-level model RDM that `kind` stands
    for, over the unmasked, defined pairs.

    Parameters
    ----------
    Z_FSS, ok_FSS : arrays [F, S, S]
        From `profile_similarity`. Memory grows with F x S x (S + B): pass a block of features.
    labels : array [S] or [B, S]
        Booleans (True = target) or +1 target, -1 foil, 0 left out.
    kind : {"discriminative", "categorical", "category"}
        Pairs compared: within target against across; within target against within foil; within either against across.
    min_stimuli, min_pairs : int, default 10 and 100
        What each side of the comparison needs: stimuli with at least one defined pair, and defined pairs.

    Returns
    -------
    FeatureScores
        Arrays [F] or [B, F] like `labels`; value in [-1, 1], larger = target more coherent; `defined_share` is the
        share of compared pairs that are defined.

    Examples
    --------
    >>> import numpy as np
    >>> Z_FSS = np.array([[[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0.5], [0, 0, 0.5, 0]]])
    >>> ok_FSS = ~np.eye(4, dtype=bool)[None]
    >>> score_similarity(Z_FSS, ok_FSS, [True, True, False, False], "category", min_stimuli=2, min_pairs=2).value
    array([0.9258201])
    """
    codes_BS = label_codes(labels, Z_FSS.shape[-1])
    target_BS, foil_BS = indicators(codes_BS)

    squares = _sum_pairs(Z_FSS**2, target_BS, foil_BS)
    counts = _sum_pairs(ok_FSS.astype(np.float64), target_BS, foil_BS)
    totals = _sum_pairs(Z_FSS, target_BS, foil_BS)
    sums = [PairSums(n, z, z2, z2) for n, z, z2 in zip(counts, totals, squares, strict=True)]
    r_BF, spread_BF = point_biserial(*compared(kind, *sums))

    n_similar, n_dissimilar = compared(kind, *counts)
    s_similar, s_dissimilar = compared(kind, *_contributing(ok_FSS, target_BS, foil_BS))
    n_a, n_b = target_BS.sum(axis=1), foil_BS.sum(axis=1)
    all_similar, all_dissimilar = compared(kind, n_a * (n_a - 1) / 2, n_b * (n_b - 1) / 2, n_a * n_b)
    few_stimuli_BF = ~enough_stimuli(kind, target_BS, foil_BS)[:, None] | (
        np.minimum(s_similar, s_dissimilar) < min_stimuli
    )
    share_BF = (n_similar + n_dissimilar) / np.maximum(all_similar + all_dissimilar, 1)[:, None]
    scores = explained(
        r_BF,
        [
            (Reason.TOO_FEW_STIMULI, few_stimuli_BF),
            (Reason.TOO_FEW_PAIRS, np.minimum(n_similar, n_dissimilar) < min_pairs),
            (Reason.CONSTANT, spread_BF < CONSTANT_SPREAD),
        ],
        share_BF,
    )
    return scores if np.ndim(labels) == 2 else scores.row(0)


def score_profiles(
    P_SWF: Any,
    defined_SW: Any,
    labels: Any,
    kind: str = "discriminative",
    *,
    form: str = "aligned",
    min_stimuli: int = 10,
    min_pairs: int = 100,
    block_size: int = 64,
) -> FeatureScores:
    """Score how much more alike the target condition's time courses are, for every feature and label vector.

    `profile_similarity` and `score_similarity` over blocks of `block_size` features (same parameters and errors);
    memory grows with block_size x S x (S + B). Features that are zero at every clean position of the stimuli used are
    reported as silent.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> P_SWF = rng.normal(size=(40, 8, 2))
    >>> P_SWF[:20, :, 1] += 3 * np.sin(np.arange(8))
    >>> score_profiles(P_SWF, np.ones((40, 8), dtype=bool), np.arange(40) < 20).value.round(1) + 0
    array([0. , 0.8])
    """
    P_SWF, defined_SW = _check(P_SWF, defined_SW, form)
    codes_BS = label_codes(labels, len(P_SWF))
    target_BS, foil_BS = indicators(codes_BS)
    used_BS, enough_B1 = target_BS + foil_BS, enough_stimuli(kind, target_BS, foil_BS)[:, None]

    def score(P_SWf: np.ndarray) -> FeatureScores:
        Z_fSS, ok_fSS = profile_similarity(P_SWf, defined_SW, form=form)
        scores = score_similarity(Z_fSS, ok_fSS, codes_BS, kind, min_stimuli=min_stimuli, min_pairs=min_pairs)
        active_Sf = ((P_SWf != 0) & defined_SW[:, :, None]).any(axis=1)
        silent_Bf = enough_B1 & (used_BS @ active_Sf == 0)
        return FeatureScores(scores.value, np.where(silent_Bf, Reason.SILENT, scores.reason), scores.defined_share)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for columns in index_blocks(np.arange(P_SWF.shape[2]), block_size):
            yield columns, P_SWF[:, :, columns]

    scores = collect(blocks(), (len(codes_BS), P_SWF.shape[2]), score)
    return scores if np.ndim(labels) == 2 else scores.row(0)


def _check(P_SWF: Any, defined_SW: Any, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Return profiles and mask as arrays, or say what is wrong with them."""
    if form not in FORMS:
        raise unknown_name("profile form", form, FORMS)
    P_SWF, defined_SW = np.asarray(P_SWF), np.asarray(defined_SW, dtype=bool)
    if P_SWF.ndim != 3 or defined_SW.shape != P_SWF.shape[:2]:
        raise UserError(
            f"profiles have shape {P_SWF.shape} and their mask {defined_SW.shape}",
            allowed="[stimuli, positions, features] and [stimuli, positions]",
        )
    bad_SWF = ~np.isfinite(P_SWF) & defined_SW[:, :, None]
    if bad_SWF.any():
        s, w, f = np.argwhere(bad_SWF)[0]
        refuse_value(P_SWF[s, w, f], s, f)
    return P_SWF, defined_SW


def _standardise(P_SWF: np.ndarray, mask_SW: np.ndarray) -> np.ndarray:
    """Centre every profile over its clean positions and scale it to magnitude 1; no correlation changes."""
    n_S1 = np.maximum(mask_SW.sum(axis=1), 1)[:, None]
    mean_SF = P_SWF.sum(axis=1) / n_S1
    X_SWF = (P_SWF - mean_SF[:, None, :]) * mask_SW[:, :, None]
    largest_SF = np.abs(X_SWF).max(axis=1)
    return X_SWF / np.where(largest_SF > 0, largest_SF, 1)[:, None, :]


def _sum_pairs(
    Q_FSS: np.ndarray, target_BS: np.ndarray, foil_BS: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum a symmetric, zero-diagonal quantity over pairs within target, within foil and across; each [B, F]."""
    to_target_FSB, to_foil_FSB = Q_FSS @ target_BS.T, Q_FSS @ foil_BS.T
    within_target = np.einsum("bs,fsb->bf", target_BS, to_target_FSB) / 2
    within_foil = np.einsum("bs,fsb->bf", foil_BS, to_foil_FSB) / 2
    return within_target, within_foil, np.einsum("bs,fsb->bf", foil_BS, to_target_FSB)


def _contributing(
    ok_FSS: np.ndarray, target_BS: np.ndarray, foil_BS: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the stimuli with at least one defined pair within target, within foil and across; each [B, F]."""
    ok_FSS = ok_FSS.astype(np.float64)
    meets_target_FSB = (ok_FSS @ target_BS.T > 0).astype(np.float64)
    meets_foil_FSB = (ok_FSS @ foil_BS.T > 0).astype(np.float64)

    def count(group_BS: np.ndarray, meets_FSB: np.ndarray) -> np.ndarray:
        return np.einsum("bs,fsb->bf", group_BS, meets_FSB)

    across = count(target_BS, meets_foil_FSB) + count(foil_BS, meets_target_FSB)
    return count(target_BS, meets_target_FSB), count(foil_BS, meets_foil_FSB), across
