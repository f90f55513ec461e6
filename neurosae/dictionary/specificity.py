"""How specific is each latent to a condition of the stimuli: closed forms over the active cells only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import gammaln

from neurosae.errors import UserError
from neurosae.rsa.results import as_table

REASONS = ("", "silent", "fires too rarely")


def specificity(
    X_SF: Any, labels_S: Sequence[Any] | np.ndarray, *, blocks_S: np.ndarray | None = None, min_fires: int = 5
) -> pd.DataFrame:
    """Describe every latent in every condition.

    Parameters
    ----------
    X_SF : array or scipy sparse array [S, F]
        Pooled latents, not negative. A latent *fires* for a stimulus where its value is above 0.
    labels_S : sequence of S labels
        Condition of each stimulus.
    blocks_S : array of S int, optional
        Conditions are shuffled within these blocks (pairs, families) under the null hypothesis; default: one block.
    min_fires : int, default 5
        A latent that fires for fewer stimuli is not valid and never called exclusive.

    Returns
    -------
    DataFrame of F * C rows, latent by latent
        `latent`, `condition`; `n_stimuli` (of the condition), `fires` (how many of them), `rate` (their share), `mean`
        (value over all of them); `auroc` of the condition against the rest (ties count half; 0.5 where silent);
        `exclusive` (fires there only, and at least `min_fires` times); `p_exclusive`, the probability that all its
        firing stimuli fall into this condition when conditions are shuffled within blocks; `gini` of its condition
        means, the same in all its rows; `valid`, `reason`.

    Raises
    ------
    UserError
        Negative or non-finite values, missing labels, another number of labels than stimuli, fewer than two conditions.

    Notes
    -----
    `p_exclusive` is exact: if a latent fires for j of the n stimuli of a block, n_c of which have the condition, all j
    have it with probability C(n_c, j) / C(n, j) (hypergeometric), and blocks are independent. A latent that fires for
    both stimuli of a pair, say on words that they share, cannot be exclusive.

    With condition means x_1..x_C the Gini index is sum_ij |x_i - x_j| / (2 C sum_i x_i): 0 if all are equal, 1 - 1/C
    if one alone is not zero [1]_. A silent latent has 0. Time and memory grow with the number of active cells and with
    F * C, never with S * F.

    References
    ----------
    .. [1] Hurley and Rickard (2009), Comparing measures of sparsity, IEEE Transactions on Information Theory 55.
    .. [2] Bricken et al. (2023), Towards monosemanticity: specificity as activity on the concept against elsewhere.

    Examples
    --------
    >>> X_SF = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 3.0]])
    >>> table = specificity(X_SF, ["hit", "hit", "miss", "miss"], min_fires=2)
    >>> table.loc[table["condition"] == "hit", ["latent", "rate", "auroc", "exclusive", "gini"]]
       latent  rate  auroc  exclusive  gini
    0       0   1.0  1.000       True  0.50
    2       1   0.5  0.375      False  0.25
    """
    X_SF = sp.csc_array(as_table(X_SF)).astype(np.float64)
    X_SF.eliminate_zeros()
    X_SF.sort_indices()
    names, code_S = _conditions(labels_S, X_SF.shape[0])
    if len(X_SF.data) and X_SF.data.min() < 0:
        raise UserError("Some values are negative", allowed="latents, which are zero or positive")
    blocks_S = np.zeros(len(code_S), int) if blocks_S is None else pd.factorize(np.asarray(blocks_S))[0]
    n_C = np.bincount(code_S, minlength=len(names)).astype(float)
    member_CS = sp.csr_array((np.ones(len(code_S)), (code_S, np.arange(len(code_S)))))
    fires_FC = (member_CS @ (X_SF > 0).astype(np.float64)).T.toarray()
    mean_FC = (member_CS @ X_SF).T.toarray() / n_C
    fires_F = fires_FC.sum(1)
    enough_F = fires_F >= max(1, min_fires)
    reason_F = np.where(fires_F == 0, 1, np.where(enough_F, 0, 2))
    n_features, n_conditions = fires_FC.shape
    return pd.DataFrame(
        {
            "latent": np.repeat(np.arange(n_features), n_conditions),
            "condition": pd.Categorical.from_codes(np.tile(np.arange(n_conditions), n_features), pd.Index(names)),
            "n_stimuli": np.tile(n_C.astype(int), n_features),
            "fires": fires_FC.astype(int).ravel(),
            "rate": (fires_FC / n_C).ravel(),
            "mean": mean_FC.ravel(),
            "auroc": _auroc(X_SF, member_CS, n_C).ravel(),
            "exclusive": ((fires_FC == fires_F[:, None]) & enough_F[:, None]).ravel(),
            "p_exclusive": _all_in_one(X_SF, code_S, blocks_S).ravel(),
            "gini": np.repeat(_gini(mean_FC), n_conditions),
            "valid": np.repeat(enough_F, n_conditions),
            "reason": pd.Categorical.from_codes(np.repeat(reason_F, n_conditions), pd.Index(REASONS)),
        }
    )


def exclusive_latents(table: pd.DataFrame) -> pd.DataFrame:
    """Count exclusive latents and say how many chance gives.

    Parameters
    ----------
    table : DataFrame
        From `specificity`.

    Returns
    -------
    DataFrame, one row per condition
        `condition`, `n_stimuli`, `latents` (valid ones), `exclusive`, and `expected`: the sum of `p_exclusive` over the
        valid latents, which is the mean number of exclusive ones when conditions are shuffled, however latents depend
        on each other.
    """
    valid = table[table["valid"]]
    rows = valid.groupby("condition", observed=False, sort=False)
    n_stimuli = table.groupby("condition", observed=False, sort=False)["n_stimuli"].first()
    columns = {
        "n_stimuli": n_stimuli,
        "latents": rows.size(),
        "exclusive": rows["exclusive"].sum(),
        "expected": rows["p_exclusive"].sum(),
    }
    return pd.DataFrame(columns).reset_index()


def _conditions(labels_S: Sequence[Any] | np.ndarray, n_stimuli: int) -> tuple[list[str], np.ndarray]:
    """Names of the conditions in order of appearance, and the number of each stimulus' condition."""
    if len(labels_S) != n_stimuli:
        raise UserError(f"There are {len(labels_S)} labels for {n_stimuli} stimuli")
    code_S, names = pd.factorize(np.asarray(labels_S, dtype=object))
    if (code_S < 0).any():
        raise UserError(f"{int((code_S < 0).sum())} stimuli have no label")
    if len(names) < 2:
        raise UserError("All stimuli are of one condition", allowed="two conditions or more")
    return [str(name) for name in names], code_S


def _auroc(X_SF: sp.csc_array, member_CS: sp.csr_array, n_C: np.ndarray) -> np.ndarray:
    """Rank statistic of each condition against the rest, ties at their mean rank; shape (F, C).

    Zeros share the lowest ranks; ranks of the other values follow from sorting the active cells alone.
    """
    n_stimuli, n_features = X_SF.shape
    active_F = np.diff(X_SF.indptr)
    column_n = np.repeat(np.arange(n_features), active_F)
    order = np.lexsort((X_SF.data, column_n))
    value, column = X_SF.data[order], column_n[order]
    first = np.flatnonzero(np.append(True, (value[1:] != value[:-1]) | (column[1:] != column[:-1])))[: len(value)]
    last = np.append(first[1:], len(value))
    middle = np.repeat((first + last + 1) / 2, last - first)  # mean position of a run of ties, counted from 1
    rank_n = np.empty(len(value))
    rank_n[order] = middle - X_SF.indptr[column] + (n_stimuli - active_F)[column]
    ranks_SF = sp.csc_array((rank_n, X_SF.indices, X_SF.indptr), shape=X_SF.shape)
    fires_SF = sp.csc_array((np.ones(len(value)), X_SF.indices, X_SF.indptr), shape=X_SF.shape)
    zeros_FC = n_C - (member_CS @ fires_SF).T.toarray()
    zero_rank_F = (n_stimuli - active_F + 1) / 2
    rank_sum_FC = (member_CS @ ranks_SF).T.toarray() + zeros_FC * zero_rank_F[:, None]
    return (rank_sum_FC - n_C * (n_C + 1) / 2) / (n_C * (n_stimuli - n_C))


def _all_in_one(X_SF: sp.csc_array, code_S: np.ndarray, blocks_S: np.ndarray) -> np.ndarray:
    """Probability that all stimuli for which a latent fires lie in a condition; shape (F, C)."""
    n_BC = pd.crosstab(blocks_S, code_S).to_numpy()
    block_BS = sp.csr_array((np.ones(len(blocks_S)), (blocks_S, np.arange(len(blocks_S)))))
    fires_BF = sp.coo_array(block_BS @ (X_SF > 0).astype(np.float64))
    j, n = fires_BF.data, n_BC.sum(1)[fires_BF.row]
    p_FC = np.empty((X_SF.shape[1], n_BC.shape[1]))
    for c in range(n_BC.shape[1]):
        n_c = n_BC[fires_BF.row, c]
        log_p = _log_choose(n_c, np.minimum(j, n_c)) - _log_choose(n, j)
        log_p[j > n_c] = -np.inf
        p_FC[:, c] = np.exp(np.bincount(fires_BF.col, log_p, minlength=len(p_FC)))
    return p_FC


def _log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def _gini(mean_FC: np.ndarray) -> np.ndarray:
    """Gini index over the conditions from sorted values: sum_i (2 i - C - 1) x_(i) / (C sum x)."""
    n = mean_FC.shape[1]
    total = mean_FC.sum(1)
    weighted = np.sort(mean_FC, axis=1) @ (2 * np.arange(1, n + 1) - n - 1)
    return np.divide(weighted, n * total, out=np.zeros(len(total)), where=total > 0)
