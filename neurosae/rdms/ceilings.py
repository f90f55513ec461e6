"""Noise ceilings: how well the best of all models could do, given how far several RDMs of one thing agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neurosae.errors import UserError
from neurosae.rdms.comparators import CONSTANT_SPREAD, RANKED, as_vectors, check_comparator, correlate, prepared, ranks
from neurosae.rdms.distances import make_rdms
from neurosae.rdms.patterns import condition_codes, mean_patterns, numbered, read_patterns
from neurosae.responses import Pooling


@dataclass(frozen=True)
class NoiseCeiling:
    """Between these bounds lies the expected score of the true model."""

    lower: float
    """Mean score of every RDM against the mean of the *others*."""
    upper: float
    """Mean score of every RDM against the mean of all, itself included."""
    n_rdms: int


def noise_ceiling(rdms: Any, comparator: str = "spearman") -> NoiseCeiling:
    """Estimate the noise ceiling from several RDMs of the same conditions.

    The RDMs are independent measurements of one geometry: of disjoint sets of items (`split_rdms`), of SAEs trained
    with different seeds, of different language models. They are averaged after scaling each as the comparator sees it
    (centred or not, of unit length; ranks).

    Parameters
    ----------
    rdms : rsatoolbox.rdm.RDMs, sequence of ModelRDM, or array [L, S, S]
        At least two. A pair that one of them masks is used by none.
    comparator : str, default "spearman"
        As in `neurosae.rdms.correlate`.

    Raises
    ------
    UserError
        One RDM: its ceiling would be [1, 1], whatever its noise (rsatoolbox returns just that). An RDM that does not
        vary.

    References
    ----------
    Nili et al. (2014), PLoS Computational Biology 10:e1003553.

    Examples
    --------
    >>> time = np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0)))
    >>> round(noise_ceiling([time, time**2]).lower, 6)
    1.0
    """
    check_comparator(comparator)
    vectors = as_vectors(rdms)
    n_rdms = len(vectors.names)
    if n_rdms < 2:
        raise UserError(
            "a noise ceiling from one RDM would be [1, 1], whatever its noise",
            allowed="two RDMs or more",
            suggestion="Use RDMs of disjoint items (`split_rdms`), of several SAE seeds or language models",
        )
    x_LP = vectors.x_LP[:, ~np.isnan(vectors.x_LP).any(axis=0)]
    scaled_LP = prepared(x_LP, comparator)
    if comparator in RANKED:
        scaled_LP = ranks(scaled_LP)
    length_L1 = np.linalg.norm(scaled_LP, axis=1, keepdims=True)
    constant = np.flatnonzero(length_L1 <= CONSTANT_SPREAD * np.sqrt(x_LP.shape[1]))
    if len(constant):
        raise UserError("the RDM does not vary", where=vectors.names[constant[0]])
    if comparator != "rho_a":  # which is a mean of products of plain ranks
        scaled_LP = scaled_LP / length_L1
    total_P = scaled_LP.sum(axis=0)
    upper_L = correlate(x_LP, total_P[None], comparator)[:, 0]
    lower_L = np.diagonal(correlate(x_LP, total_P - scaled_LP, comparator))
    if not np.isfinite([lower_L, upper_L]).all():
        raise UserError("the mean of the RDMs does not vary", suggestion="Look at their second-order matrix")
    return NoiseCeiling(float(np.mean(lower_L)), float(np.mean(upper_L)), n_rdms)


def split_rdms(
    source: Any,
    conditions: Any,
    folds: Any,
    *,
    distance: str = "correlation",
    pooling: Pooling = "mean",
    features: Any = None,
) -> Any:
    """Make one RDM of condition means per disjoint set of items: what a noise ceiling can be estimated from.

    Parameters
    ----------
    source : Responses, Pooled or array [S, F]
    conditions, folds : arrays [S]
        Condition of every stimulus and the set it belongs to, such as a row of `neurosae.inference.design.make_folds`;
        what belongs together (a pair, a family) must lie in one set, and every set needs every condition.
    distance, pooling, features
        As in `make_rdms`.

    Returns
    -------
    rsatoolbox.rdm.RDMs
        One RDM per set, conditions in order of first appearance in all of `conditions`.

    Raises
    ------
    UserError
        A set without one of the conditions, a stimulus without a set.

    Examples
    --------
    >>> X_SF = np.arange(12.0).reshape(6, 2)
    >>> split_rdms(X_SF, [*"abcabc"], [0, 0, 0, 1, 1, 1], distance="squared_euclidean").n_rdm
    2
    """
    X_SF = read_patterns(source, pooling=pooling, features=features)
    code_S, names = condition_codes(conditions, X_SF.shape[0])
    fold_S, fold_names = numbered(folds, X_SF.shape[0], "fold", sort=True)
    means = {}
    for number, fold in enumerate(fold_names):
        rows = np.flatnonzero(fold_S == number)
        lacking = np.setdiff1d(np.arange(len(names)), code_S[rows])
        if len(lacking):
            raise UserError(f"item set {fold} has no stimulus of condition '{names[lacking[0]]}'", where="folds")
        means[f"items {fold}"] = mean_patterns(X_SF[rows], code_S[rows])
    return make_rdms(means, distance=distance, stimuli=pd.DataFrame({"condition": names}))
