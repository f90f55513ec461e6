"""RSA of scalar patterns with graded model RDMs: several models and comparators, nuisance models partialled out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from neurosae.errors import UserError, unknown_name
from neurosae.rsa.quadratic import pair_products
from neurosae.rsa.ranks import average_ranks, tau_a
from neurosae.rsa.results import (
    FeatureScores,
    Reason,
    Table,
    as_table,
    collect,
    column,
    explained,
    is_sparse,
    mixed_blocks,
    standardise,
)
from neurosae.rsa.targets import Targets, make_targets

COMPARATORS = ("pearson", "cosine", "spearman", "kendall")
DISTANCES = ("squared", "absolute")
ILL_CONDITIONED = 1e-6  # below this relative spread the closed form keeps fewer than ten digits: visit the pairs
NOTHING_LEFT = 1e-14  # below this share of its squared length a vector is zero but for rounding

Compare = Callable[[Table], FeatureScores]


def score_model(
    X_SF: Any,
    model_RDM: Any,
    *,
    distance: str = "squared",
    comparator: str = "pearson",
    nuisance: Any = None,
    block_size: int | None = None,
    backend: str = "numpy",
    device: str = "cpu",
    n_jobs: int = 1,
) -> FeatureScores:
    """Compare the RDM of every feature with graded model RDMs.

    Squared distances are compared in closed form (`neurosae.rsa.quadratic`) by `pearson` and `cosine`: the cost is that
    of one matrix product per model, and grows with the non-zeros for sparse input. Absolute distances and ranks visit
    the pairs of one block of features at a time.

    With nuisance models the score is the *partial* correlation: the correlation, over pairs, of what linear regression
    on the nuisance models (and a constant) leaves of the feature's RDM with what it leaves of the model; for `spearman`
    everything is ranked first.

    Parameters
    ----------
    X_SF : array or scipy sparse array [S, F]
        One response per stimulus and feature.
    model_RDM : array [S, S] or [M, S, S], or (sequence of) `ModelRDM`
        Symmetric dissimilarities; NaN masks a pair; the diagonal is ignored.
    distance : {"squared", "absolute"}
        Dissimilarity of two stimuli: (x_i - x_j)^2 or |x_i - x_j|. Rank comparators do not depend on it.
    comparator : {"pearson", "cosine", "spearman", "kendall"}
        `kendall` is tau-a, which does not favour models that predict ties (Nili et al. 2014).
    nuisance : array [S, S] or [N, S, S], or (sequence of) `ModelRDM`, optional
        What to control for, such as the difference in length; for `pearson` and `spearman`. A pair that a nuisance
        model masks is not compared.
    block_size : int, optional
        Features held at a time. Default: at most 8 MB per array.
    backend, device : str, default "numpy" and "cpu"
        "torch" computes the closed form in float64 on `device`.
    n_jobs : int, default 1
        Threads over blocks of features; the result is bitwise the same for any number.

    Returns
    -------
    FeatureScores
        Arrays [F], or [M, F] for an array of models; value in [-1, 1], larger = the feature's RDM resembles the
        model's. Not valid: features silent or constant on the compared stimuli, and those whose RDM the nuisance models
        predict exactly.

    Raises
    ------
    UserError
        Values that are not finite; models that are malformed or predict the same for every pair; unknown names;
        options that do not go together.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), Frontiers in Systems Neuroscience 2:4; Nili et al. (2014), PLoS Computational
    Biology 10:e1003553.

    Examples
    --------
    >>> import numpy as np
    >>> position = np.array([0.0, 1.0, 3.0, 7.0])
    >>> model_RDM = (position[:, None] - position) ** 2
    >>> X_SF = np.column_stack([position, position[::-1], np.zeros(4)])
    >>> score_model(X_SF, model_RDM).value.round(2)
    array([1.  , 0.48, 0.  ])
    >>> score_model(X_SF, [model_RDM, model_RDM > 5], comparator="kendall").value.round(2)
    array([[1.  , 0.2 , 0.  ],
           [0.53, 0.13, 0.  ]])
    """
    _check_options(distance, comparator, nuisance, backend)
    X_SF = as_table(X_SF)
    ranked = comparator in ("spearman", "kendall")
    closed = distance == "squared" and not ranked
    groups = make_targets(model_RDM, nuisance, X_SF.shape[0], ranked=ranked, centred=comparator != "cosine")
    n_models = sum(len(targets.rows_K) for targets in groups)
    value_MF, reason_MF = np.zeros((n_models, X_SF.shape[1])), np.zeros((n_models, X_SF.shape[1]), dtype=np.int8)
    for targets in groups:
        compare = _closed_form(targets, backend, device) if closed else _by_pairs(targets, distance, comparator)
        n_tables = len(targets.unit_KP) + len(targets.basis_QP)
        n_numbers = n_tables * X_SF.shape[0] if closed else 4 * len(targets.pairs[0])
        blocks = mixed_blocks(X_SF, block_size, n_numbers, n_numbers)
        shape = len(targets.rows_K), X_SF.shape[1]
        scores = collect(blocks, shape, compare, n_jobs=n_jobs)
        value_MF[targets.rows_K], reason_MF[targets.rows_K] = scores.value, scores.reason
    several = FeatureScores(value_MF, reason_MF)
    return several if np.ndim(model_RDM) == 3 else several.row(0)


def _check_options(distance: str, comparator: str, nuisance: Any, backend: str) -> None:
    if distance not in DISTANCES:
        raise unknown_name("distance", distance, DISTANCES)
    if comparator not in COMPARATORS:
        raise unknown_name("comparator", comparator, COMPARATORS)
    if nuisance is not None and comparator not in ("pearson", "spearman"):
        raise UserError(f"nuisance models with comparator '{comparator}'", allowed="pearson, spearman")
    if backend != "numpy" and (distance != "squared" or comparator not in ("pearson", "cosine")):
        raise UserError(
            f"backend '{backend}' with distance '{distance}' and comparator '{comparator}'",
            allowed="the closed forms: squared distances with pearson or cosine",
        )


def _closed_form(targets: Targets, backend: str, device: str) -> Compare:
    """Compare squared distances without visiting pairs, except for the few features where that loses digits."""
    products, by_pairs = pair_products(targets, backend, device), _by_pairs(targets, "squared", "pearson")

    def compare(X_Sf: Table) -> FeatureScores:
        raw_Sf, X_Sf = X_Sf, standardise(X_Sf)
        unit_Kf, basis_Qf, squares_f, scale_f = products(X_Sf)
        left_f = squares_f - (basis_Qf**2).sum(axis=0)
        exact_f = left_f > ILL_CONDITIONED * scale_f
        silent_f, maybe_f = np.zeros_like(exact_f), np.flatnonzero(~exact_f)
        silent_f[maybe_f] = _silent(raw_Sf[:, maybe_f], targets)
        value_Kf = np.clip(unit_Kf / np.sqrt(np.where(exact_f, left_f, 1)), -1, 1)
        scores = explained(value_Kf, [(Reason.SILENT, silent_f), (Reason.CONSTANT, ~exact_f)])
        for f in np.flatnonzero(~silent_f & ~exact_f & (scale_f > 0)):
            visited = by_pairs(column(X_Sf, int(f))[:, None])
            scores.value[:, f], scores.reason[:, f] = visited.value[:, 0], visited.reason[:, 0]
        return scores

    return compare


def _by_pairs(targets: Targets, distance: str, comparator: str) -> Compare:
    """Compare the dissimilarities of every pair."""
    i_P, j_P = targets.pairs

    def compare(X_Sf: Table) -> FeatureScores:
        silent_f = _silent(X_Sf, targets)
        X_fS = np.ascontiguousarray((X_Sf.toarray() if is_sparse(X_Sf) else X_Sf).T)
        D_fP = X_fS.take(i_P, axis=1)
        D_fP -= X_fS.take(j_P, axis=1)
        np.abs(D_fP, out=D_fP)
        if comparator == "kendall":
            constant_f = np.ptp(D_fP, axis=1) == 0
            return explained(tau_a(D_fP, targets.models_KP), [(Reason.SILENT, silent_f), (Reason.CONSTANT, constant_f)])
        if comparator == "spearman":
            D_fP = average_ranks(D_fP)
        else:
            D_fP /= np.where(D_fP.any(axis=1), D_fP.max(axis=1, initial=0), 1)[:, None]
            if distance == "squared":
                D_fP *= D_fP
        squares_f = _square(D_fP)
        varies_f, rest_fP = squares_f > 0, D_fP
        if len(targets.basis_QP):
            rest_fP = D_fP - D_fP.mean(axis=1, keepdims=True)
            varies_f = _square(rest_fP) > NOTHING_LEFT * squares_f
        if len(targets.basis_QP) > 1:
            rest_fP -= (rest_fP @ targets.basis_QP[1:].T) @ targets.basis_QP[1:]
        left_f = _square(rest_fP)
        nothing_f = left_f <= NOTHING_LEFT * squares_f
        value_Kf = np.clip(targets.unit_KP @ rest_fP.T / np.sqrt(np.where(nothing_f, 1, left_f)), -1, 1)
        problems = [(Reason.SILENT, silent_f), (Reason.CONSTANT, ~varies_f), (Reason.EXPLAINED, nothing_f)]
        return explained(value_Kf, problems)

    return compare


def _silent(X_Sf: Table, targets: Targets) -> np.ndarray:
    """Boolean [f]: zero for every stimulus in a compared pair."""
    return targets.used().astype(np.float64) @ (X_Sf != 0).astype(np.float64) == 0


def _square(rows_fP: np.ndarray) -> np.ndarray:
    """Squared length of every row."""
    return np.einsum("fp,fp->f", rows_fP, rows_fP)
