"""Two-condition scores of time courses that fill the window: every stimulus is clean at every position.

A pair is then defined where neither profile is constant, so that numbers of pairs follow from numbers of stimuli. One
label vector needs only the pairs it compares: those within a condition and those across are blocks of correlations, one
matrix product each, summed on the spot. Silent profiles are left out before anything is computed, and features that
cannot be valid before their pairs are. Features that are rarely active need no pairs but those that share a position:
`neurosae.rsa.rare_profiles`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse

from neurosae.rsa.common_positions import CONSTANT_PROFILE, CONSTANT_SPREAD
from neurosae.rsa.pairs import Comparison, PairSums, compared, numbers_of_pairs, point_biserial, too_few
from neurosae.rsa.rare_profiles import SMALL, closed_form_sums, packed, rare_profiles
from neurosae.rsa.results import (
    FeatureScores,
    Reason,
    Table,
    columns_of,
    explained,
    in_threads,
    index_blocks,
    is_sparse,
    weighted_blocks,
)

DENSE_SHARE = 1 / 4  # of non-zero responses, above which silent profiles are treated like the others
BLOCKS_READ = 8  # blocks of features read at a time, to find some that are active for similar numbers of stimuli
ROWS_AT_A_TIME = 512  # of a transposition
SPARSE_SHARE = 2  # parts of a block's numbers that the non-zeros of sparse features read at a time may take
ENTRIES_PER_FEATURE = 8  # that a sparse feature counts as, beside its own
MASKED = {"discriminative": "foil", "categorical": "across", "category": None}  # pairs that a kind does not compare


def score_full_windows(P: Any, n_positions: int, comparison: Comparison, block_size: int, n_jobs: int) -> FeatureScores:
    """Score every feature for one label vector; arrays [1, F].

    `P` is an array [S, W, F], or in CSC format [S*W, F] without explicit zeros. Pairs are computed for `block_size`
    features at a time if they are active for all stimuli, for more if not.
    """
    n_features = P.shape[-1]
    if is_sparse(P):
        held = P.shape[0] * block_size // SPARSE_SHARE
        chunks = weighted_blocks(np.diff(P.indptr) + ENTRIES_PER_FEATURE, held)
    else:
        chunks = index_blocks(np.arange(n_features), BLOCKS_READ * block_size)
    sums_9F = np.zeros((9, n_features))

    def sums(columns_f: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        start, stop = columns_f[0], columns_f[-1] + 1
        P_Nf = columns_of(P, start, stop) if is_sparse(P) else _rows(P[:, :, start:stop])
        blocks = _sums_of_chunk(P_Nf, n_positions, comparison, block_size)
        return [(columns_f[features_f], sums_9f) for features_f, sums_9f in blocks]

    for parts in in_threads(sums, chunks, n_jobs):
        for features_f, sums_9f in parts:
            sums_9F[:, features_f] = sums_9f
    return _scores(sums_9F, comparison)


def _rows(P_SWf: np.ndarray) -> np.ndarray:
    """One row per stimulus and position, as in a sparse table; [S*W, f]."""
    return np.ascontiguousarray(P_SWf).reshape(-1, P_SWf.shape[2])


def _sums_of_chunk(
    P_Nf: Table, n_positions: int, comparison: Comparison, block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (features, sums over their pairs): often active features as they lie, then the others."""
    n_rows = P_Nf.shape[0]
    if is_sparse(P_Nf):
        count_f = np.diff(P_Nf.indptr)
    else:
        active_Nf = P_Nf != 0
        count_f = np.add.reduce(active_Nf.view(np.uint8), axis=0, dtype=np.min_scalar_type(n_rows))
    often_f = count_f > DENSE_SHARE * n_rows
    order_K = np.concatenate([comparison.target_A, comparison.foil_B])
    n_stimuli, n_target = n_rows // n_positions, len(comparison.target_A)
    in_order = np.array_equal(order_K, np.arange(n_stimuli))
    for features_f in index_blocks(np.flatnonzero(often_f), block_size):
        columns = slice(features_f[0], features_f[-1] + 1) if np.ptp(features_f) < len(features_f) else features_f
        X_Nf = P_Nf[:, columns].toarray() if is_sparse(P_Nf) else P_Nf[:, columns]
        X_fSW = _features_first(X_Nf).reshape(-1, n_stimuli, n_positions)
        yield features_f, _sums(X_fSW if in_order else X_fSW.take(order_K, axis=1), n_target, comparison)
    rare_R = np.flatnonzero(~often_f)
    if not len(rare_R):
        return
    if is_sparse(P_Nf):
        X_NR = P_Nf[:, rare_R] if often_f.any() else P_Nf
    else:
        active_Nf[:, often_f] = False
        X_NR = _sparse(P_Nf, active_Nf)[:, rare_R]
    for features_f, sums_9f in _sums_of_rare(X_NR, n_positions, comparison, block_size):
        yield rare_R[features_f], sums_9f


def _sparse(X_Nf: np.ndarray, active_Nf: np.ndarray) -> Table:
    """Keep the active responses, in CSC format; to look for them among bytes is quicker than among numbers."""
    at_n = np.flatnonzero(active_Nf)
    row_n, feature_n = np.divmod(at_n, X_Nf.shape[1])
    start_N = np.append(0, np.cumsum(np.bincount(row_n, minlength=len(X_Nf))))
    return sparse.csr_array((X_Nf.ravel()[at_n], feature_n, start_N), shape=X_Nf.shape).tocsc()


def _features_first(X_Nf: np.ndarray) -> np.ndarray:
    """Transpose into a new float64 array, a few rows at a time: those stay in the processor's first cache."""
    X_fN = np.empty(X_Nf.shape[::-1])
    for start in range(0, len(X_Nf), ROWS_AT_A_TIME):
        X_fN[:, start : start + ROWS_AT_A_TIME] = X_Nf[start : start + ROWS_AT_A_TIME].T
    return X_fN


def _sums_of_rare(
    X_NR: Table, n_positions: int, comparison: Comparison, block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """In closed form where possible; else blocks of features without the stimuli they are silent for.

    Features of a block are active for similar numbers of stimuli; none is larger in memory than any other block.
    """
    profiles = rare_profiles(X_NR, n_positions, comparison)
    done_R = np.zeros(X_NR.shape[1], dtype=bool)
    if comparison.form == "aligned":
        done_R, sums_9R = closed_form_sums(profiles, comparison, block_size * X_NR.shape[0])
        yield np.flatnonzero(done_R), sums_9R[:, done_R]
    left_R = np.flatnonzero(~done_R)
    count_R = np.bincount(profiles.feature_K, minlength=len(done_R))[left_R]
    n_used = len(comparison.target_A) + len(comparison.foil_B)
    for features_f in _similar(left_R, count_R, block_size, n_used, n_positions):
        yield features_f, _sums(*packed(profiles, features_f), comparison)


def _similar(
    rare_R: np.ndarray, count_R: np.ndarray, block_size: int, n_stimuli: int, n_positions: int
) -> Iterator[np.ndarray]:
    """Cut features into blocks of similar counts; one of few stimuli holds more features."""
    order_R = np.argsort(-count_R, kind="stable")
    start = 0
    while start < len(rare_R):
        most = count_R[order_R[start]]
        work, full_work = most * (most + n_positions), n_stimuli * (n_stimuli + n_positions)
        stop = start + block_size * full_work // max(work, 1)
        yield rare_R[order_R[start:stop]]
        start = stop


def _sums(X_fKW: np.ndarray, n_target: int, comparison: Comparison) -> np.ndarray:
    """Sum over the pairs of a block of profiles, which are overwritten; [9, f].

    Rows: is a feature active at all; targets and foils whose profile varies; sum of z over the pairs within target,
    within foil and across; sum of z^2 likewise. Sums are 0 where a kind masks the pairs or the feature is not valid.
    """
    if comparison.form == "sorted":
        X_fKW.sort(axis=2)
    sums_9f = np.zeros((9, len(X_fKW)))
    sums_9f[0], varies_fK = _to_unit_length(X_fKW, comparison.measure == "correlation")
    sums_9f[1], sums_9f[2] = varies_fK[:, :n_target].sum(axis=1), varies_fK[:, n_target:].sum(axis=1)
    few_stimuli_f, few_pairs_f, _ = too_few(sums_9f[1], sums_9f[2], comparison)
    scored_f = np.flatnonzero(~few_stimuli_f & ~few_pairs_f)
    X_fKW = X_fKW if len(scored_f) == len(X_fKW) else X_fKW[scored_f]
    target_fAW, foil_fBW = X_fKW[:, :n_target], X_fKW[:, n_target:]
    sides = {"target": (target_fAW, target_fAW), "foil": (foil_fBW, foil_fBW), "across": (target_fAW, foil_fBW)}
    for row, (name, (left, right)) in enumerate(sides.items(), 3):
        if name != MASKED[comparison.kind]:
            z_fP = _similarities(left, right)
            sums_9f[row, scored_f], sums_9f[row + 3, scored_f] = z_fP.sum(axis=1), np.vecdot(z_fP, z_fP)
    return sums_9f


def _scores(sums_9F: np.ndarray, comparison: Comparison) -> FeatureScores:
    """Turn sums over pairs into scores; [1, F]."""
    is_active_F, a_F, b_F, *z_3F = sums_9F
    counts = numbers_of_pairs(a_F, b_F)
    sums = [PairSums(n_F, z_F, z2_F, z2_F) for n_F, z_F, z2_F in zip(counts, z_3F[:3], z_3F[3:], strict=True)]
    r_F, spread_F = point_biserial(*compared(comparison.kind, *sums))
    few_stimuli_F, few_pairs_F, n_pairs_F = too_few(a_F, b_F, comparison)
    _, _, n_all_1 = too_few(np.array([len(comparison.target_A)]), np.array([len(comparison.foil_B)]), comparison)
    problems = [
        (Reason.SILENT, is_active_F == 0),
        (Reason.TOO_FEW_STIMULI, few_stimuli_F),
        (Reason.TOO_FEW_PAIRS, few_pairs_F),
        (Reason.CONSTANT, spread_F < CONSTANT_SPREAD),
    ]
    return explained(r_F[None], problems, (n_pairs_F / np.maximum(n_all_1, 1))[None])


def _to_unit_length(X_fKW: np.ndarray, centred: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scale profiles in place to length 1, centred if asked; those that are constant but for rounding become 0.

    Returns
    -------
    active_f : bool array [f]
        Features with a response.
    varies_fK : bool array [f, K]
        Profiles that are not constant (not zero, if not centred).
    """
    n_features, n_rows, n_positions = X_fKW.shape
    X_fN = X_fKW.reshape(n_features, -1)
    largest_f = np.maximum(X_fN.max(axis=1, initial=0), -X_fN.min(axis=1, initial=0))
    if not ((largest_f > SMALL) & (largest_f < 1 / SMALL)).all():
        X_fN /= np.where(largest_f > 0, largest_f, 1)[:, None]
    level_fK = np.zeros((n_features, n_rows))
    if centred:
        mean_fK = X_fKW @ np.full(n_positions, 1 / n_positions)
        X_fKW -= mean_fK[:, :, None]
        level_fK = n_positions * mean_fK**2
    squares_fK = np.vecdot(X_fKW, X_fKW)
    varies_fK = squares_fK > CONSTANT_PROFILE**2 * level_fK
    X_fKW *= np.where(varies_fK, 1 / np.sqrt(np.where(varies_fK, squares_fK, 1)), 0)[:, :, None]
    return largest_f > 0, varies_fK


def _similarities(left_fAW: np.ndarray, right_fBW: np.ndarray) -> np.ndarray:
    """z of every pair of profiles of length 1, each pair once; 0 for a profile of zeros."""
    n_features, n_rows, n_positions = left_fAW.shape
    r_fP = (left_fAW @ right_fBW.swapaxes(1, 2)).reshape(n_features, n_rows * right_fBW.shape[1])
    if left_fAW is right_fBW:
        r_fP = r_fP.take(_above_diagonal(n_rows), axis=1)
    bound = 1 - 1 / n_positions
    return np.arctanh(np.clip(r_fP, -bound, bound, out=r_fP), out=r_fP)


@functools.lru_cache(maxsize=8)
def _above_diagonal(n: int) -> np.ndarray:
    """Where a raveled table of n x n has its upper triangle."""
    return np.flatnonzero(np.triu(np.ones((n, n), dtype=bool), k=1))
