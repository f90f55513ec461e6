"""How selective a set of features is: measured on held-out stimuli, refused on those that selected it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from neurosae.decoding.ensembles import standardisation
from neurosae.errors import UserError
from neurosae.inference.heldout import auroc
from neurosae.inference.linear import T_CAP
from neurosae.rdms.patterns import numbered
from neurosae.rsa.results import Reason, as_table

Array = NDArray[np.float64]

ROUNDING = 1e-12  # spread, relative to the responses, that is only rounding
NEGATIVE = "a mean response is negative"
NO_RESPONSE = "both mean responses are 0"


@dataclass(frozen=True, eq=False)
class Selectivity:
    """How a selected set tells the conditions apart on stimuli that selected nothing."""

    features: pd.DataFrame
    """One row per feature: `feature`, `mean_target`, `mean_foil`, `d_prime` (difference of means over the root of the
    mean variance), `auroc` (share of target-foil pairs in which the target is higher), `index` ((target - foil) /
    (target + foil)), `direction` (+1 if the target was higher in training, -1 if lower, 0 if neither), `reason` (name
    of a `Reason`), `index_reason` (why an index is NaN)."""
    d_prime: float
    """Of the whole set: the mean of its features, standardised and turned by their direction in training (those without
    a direction take no part)."""
    auroc: float
    reason: Reason
    """Of the whole set."""
    n_target: int
    n_foil: int


def selectivity(
    X_SF: Any,
    labels_S: ArrayLike,
    groups_S: ArrayLike,
    features_K: ArrayLike,
    *,
    train_S: ArrayLike,
    held_out_S: ArrayLike,
) -> Selectivity:
    """How selective a set of features is, on held-out stimuli only.

    Parameters
    ----------
    X_SF : array or scipy sparse array [S, F]
        Pooled responses.
    labels_S : array of int [S]
        +1 target, -1 foil.
    groups_S : array [S]
        Stimuli that belong together (pair, family), such as ``StimulusSet.groups()``.
    features_K : array of int [K]
        The features selected on the training stimuli.
    train_S, held_out_S : bool arrays [S]
        Every stimulus that the selection looked at, and those to measure on.

    Returns
    -------
    Selectivity

    Raises
    ------
    UserError
        A held-out stimulus, or one of its group, is among the training stimuli; a stimulus without a group; a condition
        with fewer than two stimuli on either side; features that do not exist or appear twice; masks that are not
        boolean; values that are not finite.

    References
    ----------
    Green & Swets (1966), Signal Detection Theory and Psychophysics; Kriegeskorte et al. (2009), Nature Neuroscience 12.

    Examples
    --------
    >>> X_SF = np.array([[3.0], [0.0], [4.0], [1.0], [5.0], [1.0], [4.0], [0.0]])
    >>> group_S = np.repeat(np.arange(4), 2)
    >>> selectivity(X_SF, [1, -1] * 4, group_S, [0], train_S=group_S < 2, held_out_S=group_S >= 2).auroc
    1.0
    """
    X_SF, labels_S = as_table(X_SF), np.asarray(labels_S)
    train_S, held_out_S = np.asarray(train_S), np.asarray(held_out_S)
    features_K = np.asarray(features_K)
    _check_split(X_SF.shape[0], labels_S, groups_S, train_S, held_out_S)
    _check_features(features_K, X_SF.shape[1])
    X_SK = X_SF[:, features_K]
    X_SK = np.asarray(X_SK.toarray() if hasattr(X_SK, "toarray") else X_SK, dtype=np.float64)
    learned_NK, side_N = X_SK[train_S], labels_S[train_S]
    learned_K = learned_NK[side_N > 0].mean(axis=0) - learned_NK[side_N < 0].mean(axis=0)
    nothing_K = np.abs(learned_K) <= ROUNDING * np.abs(learned_NK).max(axis=0)
    direction_K = np.where(nothing_K, 0, np.sign(learned_K)).astype(int)
    mean_K, scale_K = standardisation(learned_NK)
    whole_S = ((X_SK - mean_K) / scale_K * direction_K).mean(axis=1)
    target_S, foil_S = held_out_S & (labels_S > 0), held_out_S & (labels_S < 0)
    features = _selectivity_table(X_SK[target_S], X_SK[foil_S])
    whole = _selectivity_table(whole_S[target_S, None], whole_S[foil_S, None]).iloc[0]
    features.insert(0, "feature", features_K)
    features.insert(6, "direction", direction_K)
    return Selectivity(
        features,
        float(whole["d_prime"]),
        float(whole["auroc"]),
        Reason[whole["reason"].upper()],
        int(target_S.sum()),
        int(foil_S.sum()),
    )


def _check_features(features_K: NDArray[Any], n_features: int) -> None:
    numbers = features_K.ndim == 1 and features_K.dtype.kind in "iu" and len(features_K) > 0
    if not numbers or not np.isin(features_K, np.arange(n_features)).all():
        raise UserError("No such features", where="features", allowed=f"one or more of 0 to {n_features - 1}")
    if len(np.unique(features_K)) < len(features_K):
        raise UserError("A feature appears twice", where="features")


def _check_split(
    n_stimuli: int, labels_S: NDArray[Any], groups_S: ArrayLike, train_S: NDArray[Any], held_out_S: NDArray[Any]
) -> None:
    if any(column.shape != (n_stimuli,) for column in (labels_S, train_S, held_out_S)):
        raise UserError(f"Labels and both masks must have one entry for each of {n_stimuli} stimuli")
    if train_S.dtype != bool or held_out_S.dtype != bool:
        raise UserError("A mask is not boolean", where="train, held_out", suggestion="Compare folds with a number")
    group_S, names = numbered(groups_S, n_stimuli, "group")
    leaked = np.flatnonzero(held_out_S & np.isin(group_S, group_S[train_S]))
    if len(leaked):
        raise UserError(
            f"{len(leaked)} held-out stimuli are among the training stimuli or share a group with one, "
            f"the first is stimulus {leaked[0]} of group '{names[group_S[leaked[0]]]}'",
            where="held_out",
            suggestion="Split by groups, as neurosae.inference.design.make_folds does",
        )
    for name, mask_S in (("train", train_S), ("held_out", held_out_S)):
        fewest = min(int((labels_S[mask_S] == side).sum()) for side in (1, -1))
        if fewest < 2:
            raise UserError(f"A condition has {fewest} stimuli", where=name, allowed="2 or more of each condition")


def _selectivity_table(target_NK: Array, foil_MK: Array) -> pd.DataFrame:
    """Measures of selectivity of each column, from its responses to targets and to foils."""
    target_K, foil_K = target_NK.mean(axis=0), foil_MK.mean(axis=0)
    both_SK = np.concatenate([target_NK, foil_MK])
    rounding_K = ROUNDING * np.abs(both_SK).max(axis=0)
    constant_K = np.ptp(both_SK, axis=0) <= rounding_K
    spread_K = np.sqrt((target_NK.var(axis=0, ddof=1) + foil_MK.var(axis=0, ddof=1)) / 2)
    exact_K = spread_K <= rounding_K
    difference_K = target_K - foil_K
    d_prime_K = np.where(exact_K, np.sign(difference_K) * T_CAP, difference_K / np.where(exact_K, 1.0, spread_K))
    reason_K = np.select(
        [~both_SK.any(axis=0), constant_K, exact_K], [Reason.SILENT, Reason.CONSTANT, Reason.PERFECT_SEPARATION]
    )
    labels_1S = np.repeat([1, -1], [len(target_NK), len(foil_MK)])[None]
    negative_K, total_K = (target_K < 0) | (foil_K < 0), target_K + foil_K
    no_index_K = negative_K | (total_K == 0)
    return pd.DataFrame(
        {
            "mean_target": target_K,
            "mean_foil": foil_K,
            "d_prime": np.where(constant_K, 0.0, d_prime_K),
            "auroc": [auroc(x_S[None], labels_1S).item() for x_S in both_SK.T],  # compares all pairs: one at a time
            "index": np.where(no_index_K, np.nan, difference_K / np.where(no_index_K, 1.0, total_K)),
            "reason": [Reason(code).name.lower() for code in reason_K],
            "index_reason": np.select([negative_K, no_index_K], [NEGATIVE, NO_RESPONSE], ""),
        }
    )
