"""Two-condition scores of time courses that fill the window: every stimulus is clean at every position.

A pair is then defined where neither profile is constant, so that numbers of pairs follow from numbers of stimuli. One
label vector needs only the pairs it compares: those within a condition and those across are blocks of correlations, one
matrix product each, summed on the spot. Silent profiles are left out before anything is computed, and features that
cannot be valid before their pairs are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from neurosae.rsa.common_positions import CONSTANT_PROFILE, CONSTANT_SPREAD
from neurosae.rsa.pairs import PairSums, compared, point_biserial
from neurosae.rsa.results import FeatureScores, Reason, explained, in_threads, index_blocks

DENSE_SHARE = 1 / 4  # of non-zero responses, above which silent profiles are treated like the others
BLOCKS_READ = 8  # blocks of features read at a time, to find some that are active for similar numbers of stimuli
SMALL = 1e-100  # features of this magnitude, or of its inverse, are scaled before their squares lose digits
MASKED = {"discriminative": "foil", "categorical": "across", "category": None}  # pairs that a kind does not compare


class Comparison(NamedTuple):
    """What is compared, and what a feature needs; the names are those of `neurosae.rsa.score_profiles`."""

    target_A: np.ndarray
    """Stimuli of the target condition, at least as many as `kind` needs."""
    foil_B: np.ndarray
    """Stimuli of the foil condition."""
    kind: str
    form: str
    measure: str
    min_stimuli: int
    min_pairs: int


class Profiles(NamedTuple):
    """Profiles of f features: K rows each, those of the target in front; silent ones are rows of zeros or left out."""

    features_f: np.ndarray
    X_fKW: np.ndarray
    n_target: int


def score_full_windows(P_SWF: np.ndarray, comparison: Comparison, block_size: int, n_jobs: int) -> FeatureScores:
    """Score every feature for one label vector; arrays [1, F].

    Pairs are computed for `block_size` features at a time if they are active for all stimuli, for more if not.
    """
    n_features = P_SWF.shape[2]
    sums_9F = np.zeros((9, n_features))

    def sums(columns_f: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        blocks = _profiles(np.ascontiguousarray(P_SWF[:, :, columns_f[0] : columns_f[-1] + 1]), comparison, block_size)
        return [(columns_f[features_f], _sums(X_fKW, n_target, comparison)) for features_f, X_fKW, n_target in blocks]

    for parts in in_threads(sums, index_blocks(np.arange(n_features), BLOCKS_READ * block_size), n_jobs):
        for features_f, sums_9f in parts:
            sums_9F[:, features_f] = sums_9f
    return _scores(sums_9F, comparison)


def _profiles(P_SWf: np.ndarray, comparison: Comparison, block_size: int) -> Iterator[Profiles]:
    """Blocks of often active features as they lie, then the others without the stimuli they are silent for."""
    n_stimuli, n_positions, n_features = P_SWf.shape
    P_Nf = P_SWf.reshape(-1, n_features)
    active_Nf = P_Nf != 0
    count_f = np.add.reduce(active_Nf.view(np.uint8), axis=0, dtype=np.min_scalar_type(len(P_Nf)))
    often_f = count_f > DENSE_SHARE * len(P_Nf)
    order_K = np.concatenate([comparison.target_A, comparison.foil_B])
    in_order = np.array_equal(order_K, np.arange(n_stimuli))
    for features_f in index_blocks(np.flatnonzero(often_f), block_size):
        columns = slice(features_f[0], features_f[-1] + 1) if np.ptp(features_f) < len(features_f) else features_f
        X_fSW = P_Nf[:, columns].T.astype(np.float64, order="C").reshape(-1, n_stimuli, n_positions)
        yield Profiles(features_f, X_fSW if in_order else X_fSW.take(order_K, axis=1), len(comparison.target_A))
    if not often_f.all():
        active_Nf[:, often_f] = False
        yield from _rare_profiles(P_SWf, active_Nf, np.flatnonzero(~often_f), comparison, block_size)


def _rare_profiles(
    P_SWf: np.ndarray, active_Nf: np.ndarray, rare_R: np.ndarray, comparison: Comparison, block_size: int
) -> Iterator[Profiles]:
    """Blocks of features that are active for similar numbers of stimuli, no larger in memory than any other block."""
    n_stimuli, n_positions, n_features = P_SWf.shape
    at_N = np.flatnonzero(active_Nf)
    position_N, feature_N = np.divmod(at_N, n_features)
    stimulus_N, position_N = np.divmod(position_N, n_positions)
    value_N = P_SWf.reshape(-1)[at_N]
    active_fS = np.zeros((n_features, n_stimuli), dtype=bool)
    active_fS[feature_N, stimulus_N] = True
    # the row of an active stimulus: how many of its condition are active before it
    row_fS = np.full((n_features, n_stimuli), -1)
    count_2f = np.zeros((2, n_features), dtype=np.intp)
    for g, members in enumerate((comparison.target_A, comparison.foil_B)):
        before_fG = np.cumsum(active_fS[:, members], axis=1)
        row_fS[:, members] = before_fG - 1
        count_2f[g] = before_fG[:, -1]
    is_foil_S = np.isin(np.arange(n_stimuli), comparison.foil_B)
    row_N, is_foil_N = row_fS[feature_N, stimulus_N], is_foil_S[stimulus_N]
    n_used = len(comparison.target_A) + len(comparison.foil_B)
    for features_f in _similar(rare_R, count_2f.sum(axis=0)[rare_R], block_size, n_used, n_positions):
        n_target, n_foil = count_2f[:, features_f].max(axis=1)
        place_f = np.full(n_features, -1)
        place_f[features_f] = np.arange(len(features_f))
        here_N = np.flatnonzero((place_f[feature_N] >= 0) & (row_N >= 0))
        X_fKW = np.zeros((len(features_f), n_target + n_foil, n_positions))
        row_n = row_N[here_N] + n_target * is_foil_N[here_N]
        X_fKW[place_f[feature_N[here_N]], row_n, position_N[here_N]] = value_N[here_N]
        yield Profiles(features_f, X_fKW, n_target)


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
    few_stimuli_f, few_pairs_f, _ = _too_few(sums_9f[1], sums_9f[2], comparison)
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
    counts = _numbers_of_pairs(a_F, b_F)
    sums = [PairSums(n_F, z_F, z2_F, z2_F) for n_F, z_F, z2_F in zip(counts, z_3F[:3], z_3F[3:], strict=True)]
    r_F, spread_F = point_biserial(*compared(comparison.kind, *sums))
    few_stimuli_F, few_pairs_F, n_pairs_F = _too_few(a_F, b_F, comparison)
    _, _, n_all_1 = _too_few(np.array([len(comparison.target_A)]), np.array([len(comparison.foil_B)]), comparison)
    problems = [
        (Reason.SILENT, is_active_F == 0),
        (Reason.TOO_FEW_STIMULI, few_stimuli_F),
        (Reason.TOO_FEW_PAIRS, few_pairs_F),
        (Reason.CONSTANT, spread_F < CONSTANT_SPREAD),
    ]
    return explained(r_F[None], problems, (n_pairs_F / np.maximum(n_all_1, 1))[None])


def _too_few(a_f: np.ndarray, b_f: np.ndarray, comparison: Comparison) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Given targets and foils whose profile varies: too few stimuli, too few pairs, number of compared pairs; [f]."""
    stimuli = compared(comparison.kind, a_f * (a_f > 1), b_f * (b_f > 1), (a_f + b_f) * ((a_f > 0) & (b_f > 0)))
    n_similar_f, n_dissimilar_f = compared(comparison.kind, *_numbers_of_pairs(a_f, b_f))
    few_stimuli_f = np.minimum(*stimuli) < comparison.min_stimuli
    return few_stimuli_f, np.minimum(n_similar_f, n_dissimilar_f) < comparison.min_pairs, n_similar_f + n_dissimilar_f


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


def _numbers_of_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs within target, within foil and across for `a` and `b` stimuli."""
    return a * (a - 1) / 2, b * (b - 1) / 2, a * b


def _similarities(left_fAW: np.ndarray, right_fBW: np.ndarray) -> np.ndarray:
    """z of every pair of profiles of length 1, each pair once; 0 for a profile of zeros."""
    n_features, n_rows, n_positions = left_fAW.shape
    r_fP = (left_fAW @ right_fBW.swapaxes(1, 2)).reshape(n_features, n_rows * right_fBW.shape[1])
    if left_fAW is right_fBW:
        r_fP = r_fP.take(np.flatnonzero(np.triu(np.ones((n_rows, n_rows)), k=1)), axis=1)
    bound = 1 - 1 / n_positions
    return np.arctanh(np.clip(r_fP, -bound, bound, out=r_fP), out=r_fP)
