"""RSA scores of profile patterns: the activation over window positions, one time course per stimulus and feature.

Similarities do not involve labels. They are computed once per block of features, and every fold, permutation or
bootstrap is a masked sum over them.

A warning that belongs to the method: in sentences most (stimulus, latent) cells of a sparse autoencoder hold a single
active token, so few pairs are defined, and those mostly reflect *where* the token stood. Compare with the scalar form
and with the forms that do not ask when, and look at `defined_share`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from neurosae.errors import UserError, unknown_name
from neurosae.rsa import position_free
from neurosae.rsa.common_positions import CONSTANT_SPREAD, similarity_of_active
from neurosae.rsa.full_windows import BLOCKS_READ, score_full_windows
from neurosae.rsa.pairs import (
    Comparison,
    PairSums,
    compared,
    enough_stimuli,
    indicators,
    label_codes,
    point_biserial,
)
from neurosae.rsa.profile_tables import dense_profiles, sparse_profiles
from neurosae.rsa.results import (
    FeatureScores,
    Reason,
    Table,
    collect,
    columns_of,
    explained,
    index_blocks,
    is_sparse,
)
from neurosae.rsa.targets import check_tables

FORMS = ("aligned", "sorted", "lagged", "warped", "energy")
MEASURES = ("correlation", "cosine")
MIN_POSITIONS = 5
POSITION_FREE = {"lagged": position_free.lagged, "warped": position_free.warped, "energy": position_free.energy}


def profile_similarity(
    P_SWF: Any,
    defined_SW: Any,
    *,
    form: str = "aligned",
    measure: str = "correlation",
    min_positions: int = MIN_POSITIONS,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the similarity of all pairs of profiles, by default z = arctanh(r) with |r| clipped to 1 - 1/W.

    r is the Pearson correlation (or the cosine) over the positions that are clean in both stimuli.

    Parameters
    ----------
    P_SWF : array [S, W, F]
        Responses at W window positions; values at undefined positions are ignored (NaN allowed).
    defined_SW : bool array [S, W]
        Which positions are clean tokens.
    form : {"aligned", "sorted", "lagged", "warped", "energy"}
        What is compared. `aligned`: the profiles position by position. The others ignore the moment of firing:
        `sorted` puts each profile's clean values in descending order first; `lagged` takes the largest
        cross-correlation over lags (z as above); `warped` is minus the dynamic time warping distance, `energy` minus
        the energy distance of the clean values, both in the units of the responses (`neurosae.rsa.position_free`).
    measure : {"correlation", "cosine"}
        For `aligned` and `sorted`. The cosine is not blind to the level of a profile.
    min_positions : int, default 5
        Clean positions a pair needs: common ones for `aligned` and `sorted`, else in each stimulus.

    Returns
    -------
    similarity_FSS : float array [F, S, S]
        Similarities, 0 where not defined and on the diagonal.
    ok_FSS : bool array [F, S, S]
        True where defined: two different stimuli, enough positions and, for a correlation, neither profile constant
        (for the cosine: zero) on them.

    Raises
    ------
    UserError
        Shapes that do not fit, values at clean positions that are not finite, unknown form or measure.

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
    _check_names(form, measure)
    P_SWF, defined_SW = dense_profiles(P_SWF, np.asarray(defined_SW, dtype=bool))
    n_stimuli, _, n_features = P_SWF.shape
    if form in POSITION_FREE:
        return POSITION_FREE[form](np.where(defined_SW[:, :, None], P_SWF, 0.0), defined_SW, min_positions)
    P_FSW = np.ascontiguousarray(np.moveaxis(P_SWF, -1, 0))
    member_FK, Z_FKK, ok_FKK = similarity_of_active(P_FSW, defined_SW, form, measure, min_positions)
    if member_FK.shape[1] == n_stimuli:
        return Z_FKK, ok_FKK
    shape, place = (n_features, n_stimuli, n_stimuli), np.arange(n_features)[:, None, None]
    Z_FSS, ok_FSS = np.zeros(shape), np.zeros(shape, dtype=bool)
    Z_FSS[place, member_FK[:, :, None], member_FK[:, None, :]] = Z_FKK
    ok_FSS[place, member_FK[:, :, None], member_FK[:, None, :]] = ok_FKK
    return Z_FSS, ok_FSS


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
    everyone_1S = np.arange(Z_FSS.shape[-1])[None]
    scores = _score_pairs(everyone_1S, Z_FSS, ok_FSS, codes_BS, kind, min_stimuli, min_pairs)
    return scores if np.ndim(labels) == 2 else scores.row(0)


def score_similarity_model(
    Z_FSS: np.ndarray, ok_FSS: np.ndarray, model_RDM: Any, *, min_stimuli: int = 10, min_pairs: int = 100
) -> FeatureScores:
    """Compare pairwise similarities that exist already with graded model RDMs.

    Minus the Pearson correlation of similarity and the model's dissimilarity over the unmasked, defined pairs.

    Parameters
    ----------
    Z_FSS, ok_FSS : arrays [F, S, S]
        From `profile_similarity`.
    model_RDM : array [S, S] or [M, S, S], or (sequence of) `ModelRDM`
        Symmetric dissimilarities; NaN masks a pair.
    min_stimuli, min_pairs : int, default 10 and 100
        Stimuli with at least one compared pair, and compared pairs, that a feature needs.

    Returns
    -------
    FeatureScores
        Arrays [F], or [M, F] for an array of models; larger = the similarities follow the model more.

    Examples
    --------
    >>> import numpy as np
    >>> time_S, everything = np.arange(5.0), ~np.eye(5, dtype=bool)[None]
    >>> model_RDM = np.abs(time_S[:, None] - time_S)
    >>> score_similarity_model(-model_RDM[None], everything, model_RDM, min_stimuli=5, min_pairs=10).value.round(6)
    array([1.])
    """
    n_stimuli = Z_FSS.shape[-1]
    i_P, j_P = np.triu_indices(n_stimuli, k=1)
    models_MP = check_tables(model_RDM, n_stimuli, "model RDM")[:, i_P, j_P]
    mask_MP = (~np.isnan(models_MP)).astype(np.float64)
    centre_M1 = np.nansum(models_MP, axis=1, keepdims=True) / np.maximum(mask_MP.sum(axis=1, keepdims=True), 1)
    models_MP = np.nan_to_num(models_MP - centre_M1)
    ok_PF, z_PF = ok_FSS[:, i_P, j_P].T.astype(np.float64), Z_FSS[:, i_P, j_P].T
    n_MF = mask_MP @ ok_PF
    per_MF = 1 / np.maximum(n_MF, 1)
    z_MF, z2_MF, m_MF, m2_MF = mask_MP @ z_PF, mask_MP @ z_PF**2, models_MP @ ok_PF, models_MP**2 @ ok_PF
    variance_MF, model_variance_MF = z2_MF - z_MF**2 * per_MF, m2_MF - m_MF**2 * per_MF
    varies_MF = (variance_MF > CONSTANT_SPREAD * z2_MF) & (model_variance_MF > CONSTANT_SPREAD * m2_MF)
    norm_MF = np.sqrt(np.where(varies_MF, variance_MF * model_variance_MF, 1))
    value_MF = np.clip(-(models_MP @ z_PF - z_MF * m_MF * per_MF) / norm_MF, -1, 1)
    pair_PS = np.zeros((len(i_P), n_stimuli))
    pair_PS[np.arange(len(i_P)), i_P] = pair_PS[np.arange(len(i_P)), j_P] = 1
    stimuli_MF = np.stack([((ok_PF * mask_P[:, None]).T @ pair_PS > 0).sum(axis=1) for mask_P in mask_MP])
    scores = explained(
        value_MF,
        [
            (Reason.TOO_FEW_STIMULI, stimuli_MF < min_stimuli),
            (Reason.TOO_FEW_PAIRS, n_MF < min_pairs),
            (Reason.CONSTANT, ~varies_MF),
        ],
        n_MF / np.maximum(mask_MP.sum(axis=1), 1)[:, None],
    )
    return scores if np.ndim(model_RDM) == 3 else scores.row(0)


def score_profiles(
    P: Any,
    defined_SW: Any,
    labels: Any,
    kind: str = "discriminative",
    *,
    form: str = "aligned",
    measure: str = "correlation",
    min_stimuli: int = 10,
    min_pairs: int = 100,
    block_size: int = 16,
    n_jobs: int = 1,
) -> FeatureScores:
    """Score how much more alike the target condition's time courses are, for every feature and label vector.

    What `profile_similarity` and `score_similarity` give (same parameters and errors), for blocks of `block_size`
    features; memory grows with block_size x S x (S + B + W) for each of `n_jobs` threads, where only stimuli that a
    feature is active for count as S in the forms `aligned` and `sorted`. Features that are zero at every clean position
    of the stimuli used are reported as silent. The result is bitwise the same for any `n_jobs`.

    Parameters
    ----------
    P : array [S, W, F], or scipy sparse array [S*W, F]
        Responses at W window positions. The rows of a sparse table are those of one stimulus after the other: position
        w of stimulus s is row s*W + w. It is dense for one block of features at a time, or never: one label vector, all
        stimuli clean at all positions and the form `aligned` cost O(non-zeros) for features that are rarely active.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> P_SWF = rng.normal(size=(40, 8, 2))
    >>> P_SWF[:20, :, 1] += 3 * np.sin(np.arange(8))
    >>> score_profiles(P_SWF, np.ones((40, 8), dtype=bool), np.arange(40) < 20).value.round(1) + 0
    array([0. , 0.8])
    """
    _check_names(form, measure)
    defined_SW = np.asarray(defined_SW, dtype=bool)
    P, defined_SW = (sparse_profiles if is_sparse(P) else dense_profiles)(P, defined_SW)
    (n_stimuli, n_positions), n_features = defined_SW.shape, P.shape[-1]
    codes_BS = label_codes(labels, n_stimuli)
    enough = enough_stimuli(kind, *indicators(codes_BS)).all()
    full = defined_SW[(codes_BS != 0).any(axis=0)].all() and n_positions >= MIN_POSITIONS
    sides = np.flatnonzero(codes_BS[0] == 1), np.flatnonzero(codes_BS[0] == -1)
    comparison = Comparison(*sides, kind, form, measure, min_stimuli, min_pairs)
    if full and enough and len(codes_BS) == 1 and form not in POSITION_FREE:
        scores = score_full_windows(P, n_positions, comparison, block_size, n_jobs)
        return scores if np.ndim(labels) == 2 else scores.row(0)

    def similarity(P_fSW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if form not in POSITION_FREE:
            return similarity_of_active(P_fSW, defined_SW, form, measure, MIN_POSITIONS)
        everyone_1S = np.arange(n_stimuli)[None]
        return everyone_1S, *profile_similarity(np.moveaxis(P_fSW, 0, -1), defined_SW, form=form)

    def score(P_f: Table) -> FeatureScores:
        P_SWf = P_f.toarray().reshape(n_stimuli, n_positions, -1) if is_sparse(P_f) else P_f
        return _score_tables(P_SWf, defined_SW, codes_BS, comparison, similarity, block_size)

    def columns(start: int, stop: int) -> Table:
        return columns_of(P, start, stop) if is_sparse(P) else P[:, :, start:stop]

    chunks = index_blocks(np.arange(n_features), BLOCKS_READ * block_size)
    blocks = ((columns_f, columns(columns_f[0], columns_f[-1] + 1)) for columns_f in chunks)
    scores = collect(blocks, (len(codes_BS), n_features), score, n_jobs=n_jobs)
    return scores if np.ndim(labels) == 2 else scores.row(0)


def _score_tables(
    P_SWf: np.ndarray,
    defined_SW: np.ndarray,
    codes_BS: np.ndarray,
    comparison: Comparison,
    similarity: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    block_size: int,
) -> FeatureScores:
    """Score label vectors on tables of similarities of all active stimuli; [B, f].

    Features of a block are active for similar numbers of stimuli: the most active one sets the work.
    """
    kind, min_stimuli, min_pairs = comparison.kind, comparison.min_stimuli, comparison.min_pairs
    P_fSW = np.where(defined_SW, np.moveaxis(P_SWf, -1, 0), 0)
    active_fS = P_fSW.any(axis=2)

    def score(P_bSW: np.ndarray) -> FeatureScores:
        return _score_pairs(*similarity(P_bSW), codes_BS, kind, min_stimuli, min_pairs)

    order_f = np.argsort(active_fS.sum(axis=1), kind="stable")
    blocks = ((rows, P_fSW[rows]) for rows in index_blocks(order_f, block_size))
    scores = collect(blocks, (len(codes_BS), len(P_fSW)), score)
    target_BS, foil_BS = indicators(codes_BS)
    silent_Bf = enough_stimuli(kind, target_BS, foil_BS)[:, None] & ((target_BS + foil_BS) @ active_fS.T == 0)
    reason_Bf = np.where(silent_Bf, np.int8(Reason.SILENT), scores.reason)
    return FeatureScores(scores.value, reason_Bf, scores.defined_share)


def _check_names(form: str, measure: str) -> None:
    if form not in FORMS:
        raise unknown_name("profile form", form, FORMS)
    if measure not in MEASURES:
        raise unknown_name("profile measure", measure, MEASURES)
    if measure != "correlation" and form in POSITION_FREE:
        raise UserError(f"measure '{measure}' with form '{form}'", allowed="aligned, sorted")


def _score_pairs(
    member_FK: np.ndarray,
    Z_FKK: np.ndarray,
    ok_FKK: np.ndarray,
    codes_BS: np.ndarray,
    kind: str,
    min_stimuli: int,
    min_pairs: int,
) -> FeatureScores:
    """Score label vectors on the similarities of the stimuli `member_FK` (or [1, K]); [B, F]."""
    target_BS, foil_BS = indicators(codes_BS)
    target_FKB, foil_FKB = (np.ascontiguousarray(group_BS.T)[member_FK] for group_BS in (target_BS, foil_BS))
    both_FKG = np.concatenate([target_FKB, foil_FKB], axis=2)

    def within_and_across(to_FKG: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums over ordered pairs, from the sums of every stimulus with either group."""
        to_target_FKB, to_foil_FKB = np.split(to_FKG, 2, axis=2)
        return (
            np.einsum("fkb,fkb->bf", target_FKB, to_target_FKB),
            np.einsum("fkb,fkb->bf", foil_FKB, to_foil_FKB),
            np.einsum("fkb,fkb->bf", foil_FKB, to_target_FKB) + np.einsum("fkb,fkb->bf", target_FKB, to_foil_FKB),
        )

    defined_FKG = ok_FKK.astype(np.float64) @ both_FKG
    counts = [both / 2 for both in within_and_across(defined_FKG)]
    totals = [both / 2 for both in within_and_across(Z_FKK @ both_FKG)]
    squares = [both / 2 for both in within_and_across(Z_FKK**2 @ both_FKG)]
    sums = [PairSums(n, z, z2, z2) for n, z, z2 in zip(counts, totals, squares, strict=True)]
    r_BF, spread_BF = point_biserial(*compared(kind, *sums))

    n_similar, n_dissimilar = compared(kind, *counts)
    s_similar, s_dissimilar = compared(kind, *within_and_across((defined_FKG > 0).astype(np.float64)))
    n_a, n_b = target_BS.sum(axis=1), foil_BS.sum(axis=1)
    all_similar, all_dissimilar = compared(kind, n_a * (n_a - 1) / 2, n_b * (n_b - 1) / 2, n_a * n_b)
    few_stimuli_BF = ~enough_stimuli(kind, target_BS, foil_BS)[:, None] | (
        np.minimum(s_similar, s_dissimilar) < min_stimuli
    )
    return explained(
        r_BF,
        [
            (Reason.TOO_FEW_STIMULI, few_stimuli_BF),
            (Reason.TOO_FEW_PAIRS, np.minimum(n_similar, n_dissimilar) < min_pairs),
            (Reason.CONSTANT, spread_BF < CONSTANT_SPREAD),
        ],
        (n_similar + n_dissimilar) / np.maximum(all_similar + all_dissimilar, 1)[:, None],
    )
