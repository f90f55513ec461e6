"""Similarities of two time courses that do not depend on *when* they rise: lagged, warped, or as distributions.

Each takes checked profiles [S, W, F] that are zero at undefined positions and returns (similarity, defined), both
[F, S, S] like `neurosae.rsa.profile_similarity`. A pair is defined where both stimuli have enough clean positions; a
correlation also needs profiles that vary. Silent profiles have a distance, so that sparse latents keep their pairs.
"""

from __future__ import annotations

import numpy as np

SAME = 1e-14  # energy distances below the square root of this, relative to the largest norm, are rounding


def lagged(P_SWF: np.ndarray, defined_SW: np.ndarray, min_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest normalised cross-correlation over lags, as z = arctanh(r) with r clipped to 1 - 1/W.

    Profiles are centred over their clean positions and count as 0 elsewhere; at every lag the sum of products is
    divided by both whole norms (coefficient normalisation), so that short overlaps cannot win. At least
    `min_positions` window positions overlap.

    References
    ----------
    Paparrizos & Gravano (2015), k-Shape, SIGMOD (shape-based distance = 1 - this maximum).
    """
    n_positions = P_SWF.shape[1]
    n_S = defined_SW.sum(axis=1)
    mean_SF = P_SWF.sum(axis=1) / np.maximum(n_S, 1)[:, None]
    X_FSW = np.moveaxis((P_SWF - mean_SF[:, None]) * defined_SW[:, :, None], -1, 0)
    largest_FS1 = np.abs(P_SWF).max(axis=1).T[:, :, None]
    varies_FS1 = np.abs(X_FSW).max(axis=2, keepdims=True) > 1e-10 * largest_FS1
    X_FSW = X_FSW / np.where(largest_FS1 > 0, largest_FS1, 1)  # before squaring: no overflow
    norm_FS1 = np.linalg.norm(X_FSW, axis=2, keepdims=True)
    X_FSW = np.where(varies_FS1, X_FSW / np.where(norm_FS1 > 0, norm_FS1, 1), 0)
    r_FSS = X_FSW @ X_FSW.swapaxes(1, 2)
    for lag in range(1, n_positions - min_positions + 1):
        shifted_FSS = X_FSW[:, :, lag:] @ X_FSW[:, :, :-lag].swapaxes(1, 2)
        np.maximum(r_FSS, shifted_FSS, out=r_FSS)
        np.maximum(r_FSS, shifted_FSS.swapaxes(1, 2), out=r_FSS)
    ok_FSS = _both(n_S >= min_positions) & varies_FS1 & varies_FS1.swapaxes(1, 2)
    bound = 1 - 1 / n_positions
    return np.arctanh(np.where(ok_FSS, np.clip(r_FSS, -bound, bound), 0.0)), ok_FSS


def warped(P_SWF: np.ndarray, defined_SW: np.ndarray, min_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Minus the dynamic time warping distance of the clean values, per step.

    Local cost |a - b|; a step in both sequences counts twice, and the sum is divided by the two lengths, so that long
    texts are not further apart than short ones.

    References
    ----------
    Sakoe & Chiba (1978), IEEE Transactions on Acoustics, Speech, and Signal Processing 26:43 (symmetric form).
    """
    n_stimuli, _, n_features = P_SWF.shape
    n_S = defined_SW.sum(axis=1)
    first_SW = np.argsort(~defined_SW, axis=1, kind="stable")  # clean values first, in order
    V_FWS = np.moveaxis(np.take_along_axis(P_SWF, first_SW[:, :, None], axis=1), 0, 2).swapaxes(0, 1)
    V_FWS = np.ascontiguousarray(V_FWS)
    ok_SS = _both(n_S >= min_positions)
    similarity_FSS = np.zeros((n_features, n_stimuli, n_stimuli))
    i_P, j_P = np.nonzero(np.triu(ok_SS))
    for V_WS, similarity_SS in zip(V_FWS, similarity_FSS, strict=True):
        fires_S = V_WS.any(axis=0)
        some_P = fires_S[i_P] | fires_S[j_P]  # two silent profiles are at distance 0
        i, j = i_P[some_P], j_P[some_P]
        similarity_SS[i, j] = similarity_SS[j, i] = -_warping_cost(V_WS[:, i], V_WS[:, j], n_S[i], n_S[j])
    return similarity_FSS, np.broadcast_to(ok_SS, similarity_FSS.shape).copy()


def energy(P_SWF: np.ndarray, defined_SW: np.ndarray, min_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Minus the energy distance of the clean values, taken as two samples without order.

    The squared distance is twice the integral of (F_i - F_j)^2 over the two empirical distribution functions: after one
    sort of a feature's values, a matrix product over its distinct values.

    References
    ----------
    Szekely & Rizzo (2013), Journal of Statistical Planning and Inference 143:1249; `scipy.stats.energy_distance`.
    """
    n_stimuli, _, n_features = P_SWF.shape
    n_S = defined_SW.sum(axis=1)
    ok_SS = _both(n_S >= min_positions)
    stimulus_N, _ = np.nonzero(defined_SW)
    similarity_FSS = np.zeros((n_features, n_stimuli, n_stimuli))
    for f in range(n_features):
        value_N = P_SWF[:, :, f][defined_SW]
        if not value_N.any():
            continue
        grid_K, code_N = np.unique(value_N, return_inverse=True)
        count_K = np.bincount(stimulus_N * len(grid_K) + code_N, minlength=n_stimuli * len(grid_K))
        share_SK = np.cumsum(count_K.reshape(n_stimuli, -1), axis=1) / np.maximum(n_S, 1)[:, None]
        centred_SK = (share_SK - share_SK.mean(axis=0))[:, :-1]  # cancels in differences and keeps digits
        width_K = np.diff(grid_K)
        G_SS = (centred_SK * width_K) @ centred_SK.T
        norm_S = np.diag(G_SS)
        squared_SS = 2 * (norm_S[:, None] + norm_S - G_SS - G_SS.T)
        squared_SS[squared_SS < SAME * norm_S.max(initial=0)] = 0
        similarity_FSS[f] = np.where(ok_SS, -np.sqrt(squared_SS), 0)
    return similarity_FSS, np.broadcast_to(ok_SS, similarity_FSS.shape).copy()


def _both(enough_S: np.ndarray) -> np.ndarray:
    """Pairs of different stimuli that both have enough clean positions; [S, S]."""
    return enough_S[:, None] & enough_S & ~np.eye(len(enough_S), dtype=bool)


def _warping_cost(a_WN: np.ndarray, b_WN: np.ndarray, n_a: np.ndarray, n_b: np.ndarray) -> np.ndarray:
    """Time-normalised warping distance of N pairs of sequences, by antidiagonals of the cost matrix; [N]."""
    n_positions, n_pairs = a_WN.shape
    end_N, cost_N = n_a + n_b - 2, np.zeros(n_pairs)
    # row i + 1 of each holds the best cost up to (i, diagonal - i); row 0 lies outside
    before, last = np.full((2, n_positions + 1, n_pairs), np.inf)
    before[0] = 0
    for diagonal in range(2 * n_positions - 1):
        low, high = max(0, diagonal - n_positions + 1), min(diagonal, n_positions - 1)
        local = np.abs(a_WN[low : high + 1] - b_WN[diagonal - high : diagonal - low + 1][::-1])
        current = np.full_like(last, np.inf)
        one_step = np.minimum(last[low : high + 1], last[low + 1 : high + 2])
        current[low + 1 : high + 2] = local + np.minimum(one_step, before[low : high + 1] + local)
        done = np.flatnonzero(end_N == diagonal)
        cost_N[done] = current[n_a[done], done]
        before, last = last, current
    return cost_N / (n_a + n_b)
