"""Sums over the pairs of rare features' time courses in closed form, where every stimulus is clean at every position.

Let profile i have mean m and standard deviation s over W positions, a_i = m / s and v_i = x_i / (s sqrt(W)), x_i the
responses. Then r_ij = v_i . v_j - a_i a_j (a = 0 for the cosine), and v_i . v_j is 0 for two profiles that share no
active position. If none did, the sums of z and z^2 over pairs would be power series in a_i a_j, with

    arctanh(u) = sum_n u^(2n+1) / (2n+1),    arctanh(u)^2 = sum_{n>0} u^(2n) (1 + 1/3 + ... + 1/(2n-1)) / n,

and the sum of (a_i a_j)^n over pairs follows from power sums: (p_n^2 - p_2n) / 2 within a condition, p_n q_n across.
The few pairs that share a position are then corrected one by one. Features that are not rare enough are left alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from neurosae.rsa.common_positions import CONSTANT_PROFILE
from neurosae.rsa.pairs import Comparison, too_few
from neurosae.rsa.results import weighted_blocks

LARGEST_PRODUCT = 0.5  # of a_i and a_j, for which the series is used
REMAINDER = 1e-13  # of the series, relative to its value
PAIRS_PER_PRODUCT = 5  # ordered pairs of stimuli that cost as much in a table as one product of two responses here
SMALL = 1e-100  # features of this magnitude, or of its inverse, are scaled before their squares lose digits


class RareProfiles(NamedTuple):
    """The K profiles of f features that are not silent, ordered by feature, then stimulus; N non-zero responses."""

    feature_K: np.ndarray
    group_K: np.ndarray
    """The feature, plus f for a foil: the condition of a feature that the stimulus belongs to."""
    start_K: np.ndarray
    """Where the responses of a profile start; [K + 1]."""
    position_N: np.ndarray
    response_N: np.ndarray
    n_features: int
    n_positions: int

    def of(self, chosen_f: np.ndarray) -> RareProfiles:
        """Keep the profiles of some features (boolean [f]), which are not renumbered."""
        if chosen_f.all():
            return self
        length_K, chosen_K = np.diff(self.start_K), chosen_f[self.feature_K]
        chosen_N = np.repeat(chosen_K, length_K)
        return self._replace(
            feature_K=self.feature_K[chosen_K],
            group_K=self.group_K[chosen_K],
            start_K=np.append(0, np.cumsum(length_K[chosen_K])),
            position_N=self.position_N[chosen_N],
            response_N=self.response_N[chosen_N],
        )

    def per_response(self, value_K: np.ndarray) -> np.ndarray:
        """Repeat a value of each profile for each of its responses; [N]."""
        return np.repeat(value_K, np.diff(self.start_K))

    def per_profile(self, value_N: np.ndarray) -> np.ndarray:
        """Sum over the responses of each profile; [K]."""
        return np.add.reduceat(value_N, self.start_K[:-1]) if len(value_N) else np.zeros(0)

    def per_condition(self, value_K: np.ndarray) -> np.ndarray:
        """Sum over the profiles of each condition and feature; [2, f]."""
        return np.bincount(self.group_K, value_K, 2 * self.n_features).reshape(2, -1)


def rare_profiles(X_Nf: sparse.csc_array, n_positions: int, comparison: Comparison) -> RareProfiles:
    """Read the profiles of compared stimuli out of a table with one row per stimulus and position."""
    condition_S = np.full(X_Nf.shape[0] // n_positions, -1)
    condition_S[comparison.target_A], condition_S[comparison.foil_B] = 0, 1
    feature_N = np.repeat(np.arange(X_Nf.shape[1]), np.diff(X_Nf.indptr))
    stimulus_N = X_Nf.indices // n_positions
    position_N, response_N = X_Nf.indices - stimulus_N * n_positions, X_Nf.data.astype(np.float64)
    if (condition_S < 0).any():
        used_N = condition_S[stimulus_N] >= 0
        feature_N, stimulus_N = feature_N[used_N], stimulus_N[used_N]
        position_N, response_N = position_N[used_N], response_N[used_N]
    size_N = np.abs(response_N)
    if size_N.min(initial=1) < SMALL or size_N.max(initial=1) > 1 / SMALL:
        largest_f = np.zeros(X_Nf.shape[1])
        np.maximum.at(largest_f, feature_N, size_N)
        response_N /= largest_f[feature_N]
    is_first_N = (np.diff(feature_N, prepend=-1) != 0) | (np.diff(stimulus_N, prepend=-1) != 0)
    first_K = np.flatnonzero(is_first_N)
    feature_K = feature_N[first_K]
    return RareProfiles(
        feature_K,
        feature_K + condition_S[stimulus_N[first_K]] * X_Nf.shape[1],
        np.append(first_K, len(feature_N)),
        position_N,
        response_N,
        X_Nf.shape[1],
        n_positions,
    )


def closed_form_sums(
    profiles: RareProfiles, comparison: Comparison, products_held: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sum over pairs for the features that are rare enough, or have too few stimuli or pairs to be scored.

    Memory beyond that of the profiles grows with `products_held`, products of two responses at one position.

    Returns
    -------
    done_f : bool array [f]
        Features whose sums these are.
    sums_9f : array [9, f]
        As in `neurosae.rsa.full_windows`.
    """
    v_N, a_K, varies_K = _standardised(profiles, comparison.measure == "correlation")
    sums_9f = np.zeros((9, profiles.n_features))
    sums_9f[0] = np.bincount(profiles.feature_K, minlength=profiles.n_features) > 0
    sums_9f[1:3] = profiles.per_condition(varies_K)
    few_stimuli_f, few_pairs_f, _ = too_few(sums_9f[1], sums_9f[2], comparison)
    scored_f = ~few_stimuli_f & ~few_pairs_f
    largest_f = np.zeros(profiles.n_features)
    np.maximum.at(largest_f, profiles.feature_K, a_K**2)
    cell_N = profiles.per_response(profiles.feature_K) * profiles.n_positions + profiles.position_N
    at_cell = np.bincount(cell_N, minlength=profiles.n_features * profiles.n_positions)
    products_f = (at_cell**2).reshape(-1, profiles.n_positions).sum(axis=1)
    n_stimuli_f = sums_9f[1] + sums_9f[2]
    rare_f = (largest_f <= LARGEST_PRODUCT) & (PAIRS_PER_PRODUCT * products_f <= n_stimuli_f**2)

    chosen_f = scored_f & rare_f
    chosen_K = chosen_f[profiles.feature_K]
    chosen = profiles._replace(response_N=v_N).of(chosen_f)
    sums_9f[3:] = _sums_without_overlap(chosen, a_K[chosen_K], np.where(chosen_f, largest_f, 0))
    for block in weighted_blocks(np.where(chosen_f, products_f, 0), products_held):
        first, last = np.searchsorted(chosen.feature_K, [block[0], block[-1] + 1])
        sums_9f[3:, block] += _corrections(chosen, a_K[chosen_K], slice(first, last), block)
    return rare_f | ~scored_f, sums_9f


def _standardised(profiles: RareProfiles, centred: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute v [N], a [K] and whether a profile is not constant but for rounding; v = a = 0 if it is."""
    n_positions = profiles.n_positions
    mean_K = profiles.per_profile(profiles.response_N) * (centred / n_positions)
    deviation_N = profiles.response_N - profiles.per_response(mean_K)
    n_zeros_K = n_positions - np.diff(profiles.start_K)
    squares_K = profiles.per_profile(deviation_N**2) + n_zeros_K * mean_K**2
    varies_K = squares_K > CONSTANT_PROFILE**2 * n_positions * mean_K**2
    scale_K = np.where(varies_K, 1 / np.sqrt(np.where(varies_K, squares_K, 1)), 0)
    return profiles.response_N * profiles.per_response(scale_K), np.sqrt(n_positions) * mean_K * scale_K, varies_K


def _sums_without_overlap(profiles: RareProfiles, a_K: np.ndarray, largest_f: np.ndarray) -> np.ndarray:
    """Sum arctanh(-a_i a_j), then its square, over the pairs within target, within foil and across; [6, f].

    `largest_f` is the largest a_i^2 of a feature: the series of a feature ends where its remainder does not count.
    """
    ordered_6f = np.zeros((6, profiles.n_features))
    left, left_K, power_K, harmonic, n = profiles, a_K, np.ones(len(a_K)), 0.0, 0
    while len(left_K):
        n += 1
        power_K *= left_K
        target_f, foil_f = left.per_condition(power_K)
        if n % 2:
            harmonic += 1 / n
            rows, coefficient = range(3), -1 / n
        else:
            rows, coefficient = range(3, 6), 2 * harmonic / n
        for row, product_f in zip(rows, (target_f**2, foil_f**2, target_f * foil_f), strict=True):
            ordered_6f[row] += coefficient * product_f
        if n % 4 == 0:
            on_K = (largest_f**n > REMAINDER)[left.feature_K]
            left = left._replace(feature_K=left.feature_K[on_K], group_K=left.group_K[on_K])
            left_K, power_K = left_K[on_K], power_K[on_K]
    itself_K = np.arctanh(-(a_K**2))
    ordered_6f[:2] = (ordered_6f[:2] - profiles.per_condition(itself_K)) / 2
    ordered_6f[3:5] = (ordered_6f[3:5] - profiles.per_condition(itself_K**2)) / 2
    return ordered_6f


def _corrections(profiles: RareProfiles, a_K: np.ndarray, rows: slice, features: np.ndarray) -> np.ndarray:
    """Sum what the pairs that share an active position add to `_sums_without_overlap`; [6, features]."""
    start_K, a_k = profiles.start_K[rows.start : rows.stop + 1], a_K[rows]
    feature_k, foil_k = profiles.feature_K[rows] - features[0], profiles.group_K[rows] >= profiles.n_features
    entries = slice(start_K[0], start_K[-1])
    cell_n = np.repeat(feature_k * profiles.n_positions, np.diff(start_K)) + profiles.position_N[entries]
    shape = (len(feature_k), len(features) * profiles.n_positions)
    v_kC = sparse.csr_array((profiles.response_N[entries], cell_n, start_K - start_K[0]), shape=shape)
    product_kk = v_kC @ v_kC.T
    i_P, j_P = np.repeat(np.arange(len(feature_k)), np.diff(product_kk.indptr)), product_kk.indices
    once_P = np.flatnonzero(i_P < j_P)
    i_P, j_P, product_P = i_P[once_P], j_P[once_P], product_kk.data[once_P]

    without_P, bound = a_k[i_P] * a_k[j_P], 1 - 1 / profiles.n_positions
    z_P, z_without_P = np.arctanh(np.clip(product_P - without_P, -bound, bound)), np.arctanh(-without_P)
    n_foils_P = foil_k[i_P].astype(np.intp) + foil_k[j_P]
    side_P = np.array([0, 2, 1])[n_foils_P]  # within target, within foil, across
    group_P = side_P * len(features) + feature_k[i_P]
    differences = (z_P - z_without_P, z_P**2 - z_without_P**2)
    return np.concatenate([np.bincount(group_P, d_P, 3 * len(features)) for d_P in differences]).reshape(6, -1)


def packed(profiles: RareProfiles, features_f: np.ndarray) -> tuple[np.ndarray, int]:
    """Write the profiles of some features as rows, those of the target in front, rows of zeros behind.

    Returns
    -------
    X_fKW : array [f, K, W]
        K is the most target stimuli any of the features is active for plus the most foils.
    n_target : int
        The former.
    """
    place_f = np.full(profiles.n_features, -1)
    place_f[features_f] = np.arange(len(features_f))
    here = np.zeros(profiles.n_features, dtype=bool)
    here[features_f] = True
    part = profiles.of(here)
    count_2f = part.per_condition(np.ones(len(part.feature_K))).astype(np.intp)
    n_target, n_foil = count_2f.max(axis=1, initial=0)
    order_K, before_G = np.argsort(part.group_K, kind="stable"), np.cumsum(count_2f) - count_2f.ravel()
    row_K = np.empty_like(order_K)
    row_K[order_K] = np.arange(len(order_K)) - np.repeat(before_G, count_2f.ravel())
    row_K += n_target * (part.group_K >= profiles.n_features)
    X_fKW = np.zeros((len(features_f), n_target + n_foil, profiles.n_positions))
    where = place_f[part.per_response(part.feature_K)], part.per_response(row_K), part.position_N
    X_fKW[where] = part.response_N
    return X_fKW, int(n_target)
