"""Comparing RDMs: correlations over pairs of stimuli, of RDMs as they are and under bootstrap weights of the items.

A resample that holds stimulus i w_i times holds the pair (i, j) w_i w_j times; pairs of a stimulus with itself are no
pairs, and neither are pairs between two copies of one item: a pair of stimuli within an item counts w_i times. (Were it
w_i^2, resamples would hold twice the share of pairs within items, which are the most alike, and intervals would lie
beside their estimates.) Sums over the pairs of a resample are therefore w' (D o M) w / 2, but for pairs within items,
and a block of resamples takes one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from neurosae.errors import UserError, unknown_name
from neurosae.rsa.models import ModelRDM
from neurosae.rsa.ranks import average_ranks, dense_ranks
from neurosae.rsa.targets import check_tables

COMPARATORS = ("pearson", "cosine", "spearman", "rho_a")
RANKED = ("spearman", "rho_a")
MIN_PAIRS = 3
CONSTANT_SPREAD = 1e-13  # below this share of its largest value a vector is constant but for rounding
TIE_DIGITS = 12  # dissimilarities that agree to so many digits of the largest are ties


class Vectors(NamedTuple):
    """RDMs as vectors over the pairs i < j, with their names and (where known) the ids of the stimuli."""

    names: tuple[str, ...]
    x_LP: np.ndarray
    """NaN where a pair is masked."""
    n_stimuli: int
    ids: tuple[Any, ...] | None

    @property
    def tables(self) -> np.ndarray:
        """Symmetric tables [L, S, S] with a zero diagonal."""
        i_P, j_P = np.triu_indices(self.n_stimuli, k=1)
        table_LSS = np.zeros((len(self.x_LP), self.n_stimuli, self.n_stimuli))
        table_LSS[:, i_P, j_P] = table_LSS[:, j_P, i_P] = self.x_LP
        return table_LSS


def as_vectors(rdms: Any, what: str = "RDM") -> Vectors:
    """Read RDMs of any kind.

    Parameters
    ----------
    rdms : rsatoolbox.rdm.RDMs, ModelRDM, sequence of ModelRDM, array [S, S] or [L, S, S]
    what : str
        What messages call them; RDMs without a name are called so and numbered.

    Raises
    ------
    UserError
        Anything else; tables that are not symmetric or hold infinite values.

    Examples
    --------
    >>> as_vectors(1 - np.eye(3)).x_LP
    array([[1., 1., 1.]])
    """
    names: list[Any] = []
    ids = None
    if hasattr(rdms, "get_matrices"):
        tables = rdms.get_matrices()
        names = list(rdms.rdm_descriptors.get("name", rdms.rdm_descriptors.get("position", [])))
        ids = tuple(rdms.pattern_descriptors["id"]) if "id" in rdms.pattern_descriptors else None
    elif isinstance(rdms, ModelRDM):
        tables, names = rdms.table_SS, [rdms.name]
    else:
        names = [rdm.name if isinstance(rdm, ModelRDM) else f"{what} {row}" for row, rdm in enumerate(rdms)]
        tables = _stacked(rdms, what)
    tables_LSS = check_tables(tables, np.shape(tables)[-1], what)
    n_stimuli = tables_LSS.shape[-1]
    if len(names) != len(tables_LSS):
        names = [f"{what} {row}" for row in range(len(tables_LSS))]
    x_LP = tables_LSS[:, *np.triu_indices(n_stimuli, k=1)]
    return Vectors(tuple(str(name) or what for name in names), x_LP, n_stimuli, ids)


def _stacked(rdms: Any, what: str) -> np.ndarray:
    """Tables of a sequence as one array."""
    try:
        shapes = {np.shape(rdm) for rdm in rdms}
        if len(shapes) > 1:
            raise UserError(f"the {what}s have shapes {sorted(shapes)}", allowed="RDMs of the same stimuli")
        return np.asarray(rdms, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the {what}s cannot be read", allowed="rsatoolbox.rdm.RDMs, ModelRDM, a list of ModelRDM, an array"
        ) from error


def check_comparator(comparator: str) -> None:
    """Refuse an unknown comparator."""
    if comparator not in COMPARATORS:
        raise unknown_name("comparator", comparator, COMPARATORS)


def correlate(x_LP: np.ndarray, y_KP: np.ndarray, comparator: str = "spearman") -> np.ndarray:
    """Compare every row of one array with every row of another over the pairs that both define.

    Parameters
    ----------
    x_LP, y_KP : arrays [L, P] and [K, P]
        Dissimilarities; NaN masks a pair.
    comparator : {"pearson", "cosine", "spearman", "rho_a"}
        `rho_a` is the expectation of Spearman's rho when ties are broken at random. Like Kendall's tau-a it does not
        favour models that predict ties, and takes time P log P (Schütt et al. 2023, eLife 12:e82566).

    Returns
    -------
    array [L, K]
        NaN where it is undefined: fewer than `MIN_PAIRS` common pairs, or either side constant (cosine: zero) on them.

    Examples
    --------
    >>> correlate(np.array([[1.0, 2, 3], [3, 2, np.nan]]), np.array([[1.0, 2, 4]]), "spearman")
    array([[ 1.],
           [nan]])
    """
    check_comparator(comparator)
    return _compare(*_ready(x_LP, y_KP, comparator), comparator)


def correlate_permuted(
    x_LP: np.ndarray, tables_KSS: np.ndarray, permutations_BS: np.ndarray, comparator: str = "spearman"
) -> np.ndarray:
    """Compare as `correlate` does, with the stimuli of the models (and their masks) permuted.

    Parameters
    ----------
    x_LP, comparator
        As in `correlate`.
    tables_KSS : array [K, S, S]
        Symmetric tables.
    permutations_BS : array of int [B, S]
        The stimulus of the models that takes each place.

    Returns
    -------
    array [B, L, K]

    Examples
    --------
    >>> table_SS = np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]])
    >>> correlate_permuted(np.array([[1.0, 2, 3]]), table_SS[None], [[0, 1, 2], [2, 1, 0]]).ravel()
    array([ 1., -1.])
    """
    check_comparator(comparator)
    n_stimuli = tables_KSS.shape[1]
    i_P, j_P = np.triu_indices(n_stimuli, k=1)
    x_LP, y_KP = _ready(x_LP, tables_KSS[:, i_P, j_P], comparator)
    flat_KQ = np.zeros((len(y_KP), n_stimuli**2))
    flat_KQ[:, i_P * n_stimuli + j_P] = flat_KQ[:, j_P * n_stimuli + i_P] = y_KP
    permutations_BS = np.asarray(permutations_BS)
    value_BLK = np.empty((len(permutations_BS), len(x_LP), len(y_KP)))
    with threadpool_limits(limits=1):  # small products, on which threads would only wait for each other
        for b, place_S in enumerate(permutations_BS):
            moved_KP = np.take(flat_KQ, place_S[i_P] * n_stimuli + place_S[j_P], axis=1)
            value_BLK[b] = _compare(x_LP, moved_KP, comparator)
    return value_BLK


def correlate_resampled(
    x_LP: np.ndarray, y_KP: np.ndarray, weights_BS: np.ndarray, comparator: str = "spearman", groups_S: Any = None
) -> np.ndarray:
    """Compare as `correlate` does, in every resample of the items.

    Parameters
    ----------
    x_LP, y_KP, comparator
        As in `correlate`.
    weights_BS : array [B, S]
        How often every stimulus is drawn; stimuli of one group alike. Memory grows with B x P.
    groups_S : array [S], optional
        Items. Default: every stimulus by itself.

    Returns
    -------
    array [B, L, K]
        NaN where undefined.

    Examples
    --------
    >>> x_LP = np.array([[1.0, 2, 3]])
    >>> correlate_resampled(x_LP, x_LP**2, np.ones((2, 3)), "rho_a").ravel()
    array([1., 1.])
    """
    check_comparator(comparator)
    weights_BS = np.asarray(weights_BS, dtype=np.float64)
    i_P, j_P = np.triu_indices(weights_BS.shape[1], k=1)
    w_BP = weights_BS[:, i_P] * weights_BS[:, j_P]
    if groups_S is not None:
        within_P = np.asarray(groups_S)[i_P] == np.asarray(groups_S)[j_P]
        w_BP[:, within_P] = weights_BS[:, i_P[within_P]]
    value_BLK = np.empty((len(w_BP), len(x_LP), len(y_KP)))
    x_LP, y_KP = prepared(x_LP, comparator), prepared(y_KP, comparator)
    for row, x_P in enumerate(x_LP):
        mask_KP = ~np.isnan(x_P) & ~np.isnan(y_KP)
        if comparator in RANKED:
            for rows_k, mask_P in _masks(mask_KP):
                level_1P, level_kP = dense_ranks(x_P[None, mask_P]), dense_ranks(y_KP[np.ix_(rows_k, mask_P)])
                with threadpool_limits(limits=1):
                    for b, w_P in enumerate(w_BP[:, mask_P]):
                        sums = _sums(_weighted_ranks(level_1P, w_P), _weighted_ranks(level_kP, w_P), w_P)
                        value_BLK[b, row, rows_k] = _formula(sums, comparator)[0]
        else:
            x0_KP, y0_KP = np.where(mask_KP, x_P, 0), np.where(mask_KP, y_KP, 0)
            terms = [mask_KP.astype(np.float64), x0_KP, y0_KP, x0_KP**2, y0_KP**2, x0_KP * y0_KP]
            value_BLK[:, row] = _formula(tuple(w_BP @ term.T for term in terms), comparator)
    return value_BLK


def _masks(mask_KP: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Group rows by their mask: (rows, mask)."""
    rows_by_mask: dict[bytes, list[int]] = {}
    for k, mask_P in enumerate(mask_KP):
        rows_by_mask.setdefault(mask_P.tobytes(), []).append(k)
    for rows in rows_by_mask.values():
        yield np.array(rows), mask_KP[rows[0]]


def _ready(x_LP: np.ndarray, y_KP: np.ndarray, comparator: str) -> tuple[np.ndarray, np.ndarray]:
    """Both sides prepared; already as ranks where no pair is masked: these follow any permutation of the pairs."""
    x_LP, y_KP = prepared(x_LP, comparator), prepared(y_KP, comparator)
    if comparator in RANKED and not (np.isnan(x_LP).any() or np.isnan(y_KP).any()):
        return ranks(x_LP), ranks(y_KP)
    return x_LP, y_KP


def _compare(x_LP: np.ndarray, y_KP: np.ndarray, comparator: str) -> np.ndarray:
    """Compare what `_ready` returns; ranks are taken anew over the common pairs where some are masked."""
    if comparator not in RANKED or not (np.isnan(x_LP).any() or np.isnan(y_KP).any()):
        return _formula(_sums(x_LP, y_KP), comparator)
    value_LK = np.empty((len(x_LP), len(y_KP)))
    for row, x_P in enumerate(x_LP):
        for rows_k, mask_P in _masks(~np.isnan(x_P) & ~np.isnan(y_KP)):
            sums = _sums(ranks(x_P[None, mask_P]), ranks(y_KP[np.ix_(rows_k, mask_P)]))
            value_LK[row, rows_k] = _formula(sums, comparator)[0]
    return value_LK


def prepared(x_LP: np.ndarray, comparator: str) -> np.ndarray:
    """Rows divided by their largest magnitude; centred for a correlation, rounded for ranks."""
    defined_LP = ~np.isnan(x_LP)
    largest_L1 = np.max(np.abs(x_LP), axis=1, keepdims=True, where=defined_LP, initial=0)
    x_LP = x_LP / np.where(largest_L1 > 0, largest_L1, 1)
    if comparator in RANKED:
        return np.round(x_LP, TIE_DIGITS)
    if comparator == "cosine":
        return x_LP
    return x_LP - np.nansum(x_LP, axis=1, keepdims=True) / np.maximum(defined_LP.sum(axis=1, keepdims=True), 1)


def ranks(x_LP: np.ndarray) -> np.ndarray:
    """Average ranks of every row, centred on 0."""
    return average_ranks(x_LP) - (x_LP.shape[1] + 1) / 2 if x_LP.shape[1] else x_LP


def _sums(x_LP: np.ndarray, y_KP: np.ndarray, w_P: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Sums over common pairs that broadcast to [L, K]: weights, x, y, x^2, y^2 and x y."""
    w_P = np.ones(x_LP.shape[1]) if w_P is None else w_P
    weighted_KP = y_KP * w_P
    if not (np.isnan(x_LP).any() or np.isnan(y_KP).any()):
        both_LK = x_LP @ weighted_KP.T
        squares = np.einsum("lp,lp,p->l", x_LP, x_LP, w_P), np.einsum("kp,kp->k", y_KP, weighted_KP)
        return w_P.sum(), (x_LP @ w_P)[:, None], (y_KP @ w_P), squares[0][:, None], squares[1], both_LK
    mask_LP, mask_KP = ((~np.isnan(rows)).astype(np.float64) for rows in (x_LP, y_KP))
    x0_LP, y0_KP, weighted_KP = np.nan_to_num(x_LP), np.nan_to_num(y_KP), np.nan_to_num(weighted_KP)
    w_PK = (mask_KP * w_P).T
    squares = x0_LP**2 @ w_PK, mask_LP @ (y0_KP * weighted_KP).T
    return mask_LP @ w_PK, x0_LP @ w_PK, mask_LP @ weighted_KP.T, *squares, x0_LP @ weighted_KP.T


def _formula(sums: tuple[np.ndarray, ...], comparator: str) -> np.ndarray:
    """The comparator from sums over pairs, in the order of `_sums`; NaN where undefined."""
    n, x, y, xx, yy, xy = sums
    share = 0.0 if comparator == "cosine" else 1 / np.maximum(n, 1)
    left_x, left_y, both = xx - x**2 * share, yy - y**2 * share, xy - x * y * share
    floor = n * CONSTANT_SPREAD**2
    defined = (n >= MIN_PAIRS) & (left_x > np.maximum(CONSTANT_SPREAD * xx, floor))
    defined = defined & (left_y > np.maximum(CONSTANT_SPREAD * yy, floor))
    if comparator == "rho_a":
        return np.where(defined, 12 * both / np.maximum(n**3 - n, 1), np.nan)
    norm = np.sqrt(np.where(defined, left_x, 1)) * np.sqrt(np.where(defined, left_y, 1))
    return np.where(defined, np.clip(both / norm, -1, 1), np.nan)


def _weighted_ranks(level_LP: np.ndarray, w_P: np.ndarray) -> np.ndarray:
    """Average ranks of dense ranks that occur `w_P` times each, centred on 0."""
    ranks_LP = np.empty(level_LP.shape)
    for row, level_P in enumerate(level_LP):
        count = np.bincount(level_P, weights=w_P)
        ranks_LP[row] = (np.cumsum(count) - (count - 1) / 2)[level_P]
    return ranks_LP - (w_P.sum() + 1) / 2
