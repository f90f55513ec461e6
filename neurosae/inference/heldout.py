"""Scores on held-out stimuli, and their summary against chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurosae.inference.permutation import permutation_p
from neurosae.inference.resampling import corrected_resampled_test

Array = NDArray[np.float64]

METRICS = ("balanced_accuracy", "auroc")
MIN_BAND = 100
"""Permutations a chance band needs."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One held-out outcome: mean over all folds, 95 % Nadeau-Bengio interval, permutation p and chance band."""

    mean: float
    ci_low: float
    ci_high: float
    p: float
    chance_low: float
    """2.5th percentile of `null_B`; NaN where `chance_reason` says why."""
    chance_high: float
    """97.5th percentile of `null_B`."""
    chance_reason: str
    null_B: Array
    """Mean over the folds of one cross-validation for every permutation."""


def balanced_accuracy(decision_BN: Array, labels_BN: NDArray[np.int8]) -> Array:
    """Mean of the hit rates of both classes, decisions above 0 being hits of +1; [B].

    Examples
    --------
    >>> balanced_accuracy(np.array([[2.0, -1.0, 1.0]]), np.array([[1, 1, -1]])).tolist()
    [0.25]
    """
    right_BN = (decision_BN > 0) == (labels_BN > 0)
    rates = [(right_BN & (labels_BN == label)).sum(axis=1) / (labels_BN == label).sum(axis=1) for label in (1, -1)]
    return (rates[0] + rates[1]) / 2


def auroc(decision_BN: Array, labels_BN: NDArray[np.int8]) -> Array:
    """Share of target-foil pairs in the right order, ties one half; [B].

    Decisions that agree to 1e-12 of the largest are ties: stimuli in which all selected features are silent have equal
    decisions up to rounding.

    Examples
    --------
    >>> auroc(np.array([[2.0, 1.0, 1.0]]), np.array([[1, 1, -1]])).tolist()
    [0.75]
    """
    gap_BNN = decision_BN[:, :, None] - decision_BN[:, None, :]
    tie_B = 1e-12 * np.abs(decision_BN).max(axis=1)
    order_BNN = np.where(np.abs(gap_BNN) <= tie_B[:, None, None], 0.5, gap_BNN > 0)
    pair_BNN = (labels_BN > 0)[:, :, None] & (labels_BN < 0)[:, None, :]
    return (order_BNN * pair_BNN).sum(axis=(1, 2)) / pair_BNN.sum(axis=(1, 2))


def summarise_held_out(observed_RF: Array, null_BF: Array) -> HeldOut:
    """Mean over all folds, its interval, and how it compares with permuted labels.

    The p-value compares the mean over *all* repeats with the means of *single* cross-validations under permutation.
    These spread more than means over repeats would, so the p-value and the chance band are conservative.

    Parameters
    ----------
    observed_RF : array [R, F]
        Score of every repeat and fold.
    null_BF : array [B, F]
        Scores of one cross-validation for every permutation; folds that a permutation left with one class are NaN and
        drop out of its mean.

    Examples
    --------
    >>> summarise_held_out(np.array([[0.9, 0.8]]), np.full((19, 2), 0.5)).p
    0.05
    """
    interval = corrected_resampled_test(observed_RF, 1 - 1 / observed_RF.shape[1])
    null_B = np.array([np.mean(folds[np.isfinite(folds)]) for folds in null_BF if np.isfinite(folds).any()])
    low, high, reason = np.nan, np.nan, f"a chance band needs {MIN_BAND} permutations, there are {len(null_B)}"
    if len(null_B) >= MIN_BAND:
        (low, high), reason = np.percentile(null_B, [2.5, 97.5]), ""
    p = float(permutation_p(interval.mean, null_B))
    ends = np.clip([interval.ci_low, interval.ci_high], 0, 1)  # a mean of scores cannot lie outside
    return HeldOut(interval.mean, float(ends[0]), float(ends[1]), p, float(low), float(high), reason, null_B)
