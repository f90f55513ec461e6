"""What every per-feature statistic returns, and the walk over blocks of features that bounds its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from neurosae.errors import UserError

Table: TypeAlias = Any
"""A float table [S, F]: dense array or `scipy.sparse.csc_array`."""


class Reason(IntEnum):
    """Why a feature has no score, or what is special about the score it has."""

    OK = 0
    """Nothing to report."""
    SILENT = 1
    """Zero for every stimulus used."""
    CONSTANT = 2
    """The statistic does not vary: one value for all stimuli, or one similarity for all pairs."""
    TOO_FEW_STIMULI = 3
    """A condition has too few stimuli, or too few of them contribute a defined pair."""
    TOO_FEW_PAIRS = 4
    """Too few pairs of stimuli have a defined similarity."""
    PERFECT_SEPARATION = 5
    """Valid: the conditions differ and do not vary within, so the statistic is infinite and was capped."""
    EXPLAINED = 6
    """The nuisance models predict the feature's RDM exactly: nothing is left to compare."""


@dataclass(frozen=True)
class FeatureScores:
    """One score per feature, for one label vector or model (arrays [F]) or a batch of them (arrays [B, F] or [M, F]).

    Examples
    --------
    >>> import numpy as np
    >>> scores = FeatureScores(np.array([0.5, 0.0]), np.array([Reason.OK, Reason.SILENT]))
    >>> scores.valid
    array([ True, False])
    """

    value: np.ndarray
    """float64, never NaN; 0 where the score is not valid."""
    reason: np.ndarray
    """int8 codes of `Reason`."""
    defined_share: np.ndarray | None = None
    """Share of the compared pairs whose similarity is defined; None where every pair is."""

    @property
    def valid(self) -> np.ndarray:
        """Boolean, True where `value` means something."""
        return (self.reason == Reason.OK) | (self.reason == Reason.PERFECT_SEPARATION)

    def row(self, b: int) -> FeatureScores:
        """Return the scores of label vector `b` alone."""
        share = None if self.defined_share is None else self.defined_share[b]
        return FeatureScores(self.value[b], self.reason[b], share)


def explained(
    value_BF: np.ndarray, problems: Sequence[tuple[Reason, np.ndarray]], defined_share: np.ndarray | None = None
) -> FeatureScores:
    """Give every value the first of the (reason, boolean mask) problems that applies; values without meaning become 0.

    Masks broadcast to the shape of `value_BF`.
    """
    masks = [np.broadcast_to(mask, value_BF.shape) for _, mask in problems]
    reason_BF = np.select(masks, [reason for reason, _ in problems], Reason.OK).astype(np.int8)
    valid_BF = FeatureScores(value_BF, reason_BF).valid
    return FeatureScores(np.where(valid_BF, value_BF, 0.0), reason_BF, defined_share)


def collect(
    blocks: Iterable[tuple[np.ndarray, Any]],
    shape: tuple[int, int],
    score: Callable[[Any], FeatureScores],
    skipped: Any = Reason.SILENT,
    n_jobs: int | None = None,
) -> FeatureScores:
    """Score each (feature indices, patterns) block and put the results in their places.

    Parameters
    ----------
    blocks : iterable of (int array [f], patterns)
        Feature indices and whatever `score` takes.
    shape : (B, F)
        Shape of the whole result.
    score : callable
        Maps the patterns of f features to `FeatureScores` of shape [B, f].
    skipped : Reason or array that broadcasts to (B, F), default Reason.SILENT
        Why features that are in no block have no score.
    n_jobs : int, optional
        Threads that share the blocks, bitwise equal for any number. Default: one, with matrix products on all cores.
    """
    value_BF, share_BF = np.zeros(shape), np.full(shape, np.nan)
    reason_BF = np.array(np.broadcast_to(np.asarray(skipped, dtype=np.int8), shape))
    tasks = ((columns, patterns, score) for columns, patterns in blocks)
    for columns, part in map(_score_block, tasks) if n_jobs is None else in_threads(_score_block, tasks, n_jobs):
        value_BF[:, columns], reason_BF[:, columns] = part.value, part.reason
        if part.defined_share is not None:
            share_BF[:, columns] = part.defined_share
    return FeatureScores(value_BF, reason_BF, None if np.isnan(share_BF).any() else share_BF)


def _score_block(task: tuple[np.ndarray, Any, Callable[[Any], FeatureScores]]) -> tuple[np.ndarray, FeatureScores]:
    columns, patterns, score = task
    return columns, score(patterns)


def index_blocks(indices: np.ndarray, block_size: int) -> Iterator[np.ndarray]:
    """Cut `indices` into consecutive runs of at most `block_size`."""
    if block_size < 1:
        raise UserError(f"block_size is {block_size}", allowed="integers from 1")
    for start in range(0, len(indices), block_size):
        yield indices[start : start + block_size]


def weighted_blocks(weight_F: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    """Cut feature indices into consecutive runs whose weights add up to at most `limit`, or that hold one feature."""
    total_F, start = np.cumsum(weight_F), 0
    while start < len(total_F):
        before = total_F[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total_F, before + limit, side="right")))
        yield np.arange(start, stop)
        start = stop


def in_threads(function: Callable[[Any], Any], items: Iterable[Any], n_jobs: int) -> Iterator[Any]:
    """Map a function over items on `n_jobs` threads, a few items ahead; the results are equal for any number."""
    import joblib

    with threadpool_limits(limits=1):  # a matrix product on several threads may round differently
        tasks = (joblib.delayed(function)(item) for item in items)
        yield from joblib.Parallel(n_jobs, prefer="threads", return_as="generator")(tasks)


def is_sparse(X_SF: Table) -> bool:
    """Tell whether a table is a scipy sparse array."""
    return bool(sparse.issparse(X_SF))


def as_table(X_SF: Any) -> Table:
    """Return a dense array, or a canonical CSC array for sparse input; refuse what is not a finite [S, F] table.

    Raises
    ------
    UserError
        Not two-dimensional, or a value is not finite (names the first such stimulus and feature).
    """
    if is_sparse(X_SF):
        X_SF = canonical(X_SF)
        bad = np.flatnonzero(~np.isfinite(X_SF.data))
        if len(bad):
            refuse_value(X_SF.data[bad[0]], X_SF.indices[bad[0]], np.searchsorted(X_SF.indptr, bad[0], "right") - 1)
        return X_SF
    X_SF = np.asarray(X_SF)
    if X_SF.ndim != 2:
        raise UserError(f"patterns have {X_SF.ndim} dimensions", allowed="a table [stimuli, features]")
    if not np.isfinite(X_SF).all():
        s, f = np.argwhere(~np.isfinite(X_SF))[0]
        refuse_value(X_SF[s, f], s, f)
    return X_SF


def canonical(X_SF: Table) -> Table:
    """Return any sparse array as CSC, sorted and without duplicate entries; the input stays as it is."""
    X_SF = sparse.csc_array(X_SF)
    if not X_SF.has_canonical_format:
        X_SF = X_SF.copy()
        X_SF.sum_duplicates()
    return X_SF


def refuse_value(value: float, stimulus: int, feature: int) -> None:
    """Raise the error for a value that is not finite."""
    raise UserError(
        f"the response is {value}",
        where=f"stimulus {stimulus}, feature {feature}",
        allowed="finite numbers",
        suggestion="Drop stimuli without clean tokens before scoring",
    )


def dense_blocks(X_SF: Table, block_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (feature indices, float64 array [S, f]) for consecutive blocks of a checked table."""
    for columns in index_blocks(np.arange(X_SF.shape[1]), block_size):
        block = X_SF[:, columns[0] : columns[-1] + 1]
        yield columns, np.asarray(block.toarray() if is_sparse(block) else block, dtype=np.float64)


DENSE = 10  # times smaller than sparse blocks: what is computed of a dense one stays near the processor


def default_block(n_numbers: int) -> int:
    """Features per block that keep an array with `n_numbers` float64 per feature at about 8 MB."""
    return max(1, 2**20 // max(n_numbers, 1))


def mixed_blocks(
    X_SF: Table, block_size: int | None, n_dense: int, n_sparse: int
) -> Iterator[tuple[np.ndarray, Table]]:
    """Yield (feature indices, float64 block) without silent features of a sparse table.

    Blocks are sparse where at least half of a feature is zero, dense otherwise, so that the work is O(non-zeros).

    Parameters
    ----------
    X_SF : Table
        From `as_table`.
    block_size : int or None
        Features per block; None: as many as `default_block` allows for `n_sparse` numbers per feature, or a tenth of
        that for `n_dense`.
    """
    dense_size = default_block(DENSE * n_dense) if block_size is None else block_size
    if not is_sparse(X_SF):
        yield from dense_blocks(X_SF, dense_size)
        return
    count_F = np.diff(X_SF.indptr)
    mostly_zero_F = 2 * count_F <= X_SF.shape[0]
    rare_F = np.flatnonzero(mostly_zero_F & (count_F > 0))
    rare_Sf = X_SF[:, rare_F].astype(np.float64)
    sparse_size = default_block(n_sparse) if block_size is None else block_size
    for columns in index_blocks(np.arange(len(rare_F)), sparse_size):
        yield rare_F[columns], columns_of(rare_Sf, columns[0], columns[-1] + 1)
    for columns in index_blocks(np.flatnonzero(~mostly_zero_F), dense_size):
        yield columns, X_SF[:, columns].astype(np.float64).toarray()


def columns_of(X_SF: Table, start: int, stop: int) -> Table:
    """Consecutive columns of a CSC array, without copying its values."""
    first, last = X_SF.indptr[start], X_SF.indptr[stop]
    indptr = X_SF.indptr[start : stop + 1] - first
    return sparse.csc_array(
        (X_SF.data[first:last], X_SF.indices[first:last], indptr), shape=(X_SF.shape[0], stop - start)
    )


def standardise(X_Sf: Table) -> Table:
    """Centre each feature at the median of nine of its values and divide by the largest magnitude; no score changes.

    A value of the feature itself, unlike the mean, makes the zeros of a constant feature exact; and a median leaves a
    mostly-zero one alone.
    """
    if is_sparse(X_Sf):
        scale_f = _nonzero(abs(X_Sf).max(axis=0).toarray().ravel())
        data = X_Sf.data / np.repeat(scale_f, np.diff(X_Sf.indptr))
        return sparse.csc_array((data, X_Sf.indices, X_Sf.indptr), shape=X_Sf.shape)
    nine = np.linspace(0, X_Sf.shape[0] - 1, 9).astype(np.intp)
    X_Sf = X_Sf - np.partition(X_Sf[nine], 4, axis=0)[4]
    X_Sf /= _nonzero(np.maximum(X_Sf.max(axis=0), -X_Sf.min(axis=0)))
    return X_Sf


def column(X_Sf: Table, f: int) -> np.ndarray:
    """Return one feature as a dense array [S]."""
    return X_Sf[:, [f]].toarray().ravel() if is_sparse(X_Sf) else X_Sf[:, f]


def _nonzero(scale_f: np.ndarray) -> np.ndarray:
    return np.where(scale_f > 0, scale_f, 1)
