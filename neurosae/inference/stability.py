"""How far repeated selections agree on which features to select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from neurosae.errors import UserError


class Stability(NamedTuple):
    """Stability of a selection with its 95 % interval; all NaN where `reason` says why it is undefined."""

    value: float
    ci_low: float
    ci_high: float
    reason: str = ""


def nogueira_stability(selected: Sequence[ArrayLike], n_features: int) -> Stability:
    """Stability of feature selection, corrected for chance (Nogueira, Sechidis & Brown 2018).

    1 means the same features every time, 0 what random sets of the same sizes would give. The interval treats the sets
    as independent; cross-validation sets share items, so that it is too narrow and describes the folds at hand.

    Parameters
    ----------
    selected : M sequences of int
        Indices of the features selected each time.
    n_features : int
        Number of features to select from.

    Returns
    -------
    Stability
        `reason` is set, and the numbers are NaN, where none or all of the features are always selected.

    Raises
    ------
    UserError
        Fewer than two sets, or an index that is no feature or repeated within a set.

    Examples
    --------
    >>> nogueira_stability([[0, 1], [0, 1], [0, 1]], n_features=10).value
    1.0
    """
    sets = [np.asarray(indices, dtype=np.intp) for indices in selected]
    n_sets = len(sets)
    if n_sets < 2:
        raise UserError(f"Stability needs at least two selections, got {n_sets}")
    for indices in sets:
        if len(np.unique(indices)) != len(indices) or (indices < 0).any() or (indices >= n_features).any():
            raise UserError("A selection has a repeated index or one that is no feature")
    share_F = np.bincount(np.concatenate(sets), minlength=n_features) / n_sets
    sizes_M = np.array([len(indices) for indices in sets], dtype=np.float64)
    mean_share = float(sizes_M.mean()) / n_features
    if mean_share in (0.0, 1.0):
        return Stability(np.nan, np.nan, np.nan, "every selection holds all features or none")
    chance = mean_share * (1 - mean_share)
    value = 1 - n_sets / (n_sets - 1) * float(np.mean(share_F * (1 - share_F))) / chance
    overlap_M = np.array([share_F[indices].sum() for indices in sets]) / n_features
    size_share_M = sizes_M / n_features
    phi_M = overlap_M - size_share_M * mean_share
    phi_M += value / 2 * (2 * size_share_M * mean_share - size_share_M - mean_share + 1)
    error = 2 / n_sets * float(np.sqrt(np.sum((phi_M / chance - np.mean(phi_M / chance)) ** 2)))
    half = float(stats.norm.ppf(0.975)) * error
    return Stability(value, value - half, value + half)
