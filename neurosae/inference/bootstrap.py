"""Bootstrap over items: intervals of any statistic that can be computed from resampling weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from neurosae.errors import UserError, unknown_name

Array = NDArray[np.float64]

MIN_GROUPS = 8
"""Groups a bootstrap needs: with fewer, its draws repeat each other and intervals are far too narrow."""
METHODS = ("bca", "percentile")


@dataclass(frozen=True, eq=False)
class BootstrapInterval:
    """Estimate and interval of a statistic, numbers or arrays of its shape."""

    estimate: Array
    """Statistic of the items as they are."""
    low: Array
    high: Array
    draws_B: Array
    """Statistic of every resample in which it is defined, [n or fewer, ...]."""
    n_undefined: int
    """Resamples without a value, such as those that drew a single condition; they are left out."""


def resampling_weights(groups_S: ArrayLike, n: int, seed: int = 0) -> NDArray[np.int64]:
    """How often every stimulus occurs in every resample of whole groups.

    Parameters
    ----------
    groups_S : array [S]
        Items: a pair, family or whatever was sampled as one.
    n : int
        Resamples. Draw `b` depends on the seed and `b` only.
    seed : int, default 0
        Non-negative.

    Returns
    -------
    array of int [n, S]

    Examples
    --------
    >>> resampling_weights(["a", "a", "b", "b"], n=3).sum(axis=1)
    array([4, 4, 4])
    """
    code_S = np.unique(np.asarray(groups_S), return_inverse=True)[1]
    n_groups = int(code_S.max()) + 1
    share_G = np.full(n_groups, 1 / n_groups)
    counts_BG = np.empty((n, n_groups), dtype=np.int64)
    for b in range(n):
        counts_BG[b] = np.random.default_rng([seed, b]).multinomial(n_groups, share_G)
    return counts_BG[:, code_S]


def bootstrap_interval(
    statistic: Callable[[Array], Array],
    groups_S: ArrayLike,
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    method: str = "bca",
    block_size: int = 256,
) -> BootstrapInterval:
    """Compute a bootstrap interval over groups of stimuli.

    Parameters
    ----------
    statistic : callable
        Maps weights [B, S] to values [B] or [B, ...]; weight 2 means that a stimulus occurs twice, 0 that it does not.
        NaN where the statistic is undefined.
    groups_S : array [S]
        Items: a pair, family or whatever was sampled as one; at least `MIN_GROUPS`.
    n, seed : int, default 2000 and 0
        As in `resampling_weights`.
    level : float, default 0.95
    method : {'bca', 'percentile'}
        ``'bca'`` corrects the percentiles for bias and skew (the acceleration from leaving out one group at a time).
    block_size : int, default 256
        Resamples given to `statistic` at a time.

    Returns
    -------
    BootstrapInterval

    Raises
    ------
    UserError
        Too few groups; a statistic that is undefined for the items as they are, for one group left out (``'bca'``), or
        for more resamples than may lie outside the interval.

    References
    ----------
    Efron (1987), Journal of the American Statistical Association 82.

    Examples
    --------
    >>> x_S = np.arange(20.0)
    >>> interval = bootstrap_interval(lambda w_BS: w_BS @ x_S / w_BS.sum(axis=1), np.arange(20), method="percentile")
    >>> float(interval.estimate), bool(interval.low < 8 < 11 < interval.high)
    (9.5, True)
    """
    if method not in METHODS:
        raise unknown_name("bootstrap interval", method, METHODS)
    if not 0 < level < 1 or n < 1 or block_size < 1:
        raise UserError(
            f"level = {level}, n = {n}, block_size = {block_size}", allowed="level between 0 and 1, integers from 1"
        )
    code_S = np.unique(np.asarray(groups_S), return_inverse=True)[1]
    n_groups = int(code_S.max()) + 1 if len(code_S) else 0
    if n_groups < MIN_GROUPS:
        raise UserError(
            f"A bootstrap over {n_groups} groups would give an interval far too narrow",
            allowed=f"{MIN_GROUPS} groups or more",
            suggestion="Write more items",
        )
    estimate = _values(statistic, np.ones((1, len(code_S))), block_size)[0]
    draws_B = _values(statistic, resampling_weights(code_S, n, seed), block_size)
    defined_B = np.isfinite(draws_B.reshape(n, -1)).all(axis=1)
    n_undefined = n - int(defined_B.sum())
    if not np.isfinite(estimate).all() or n_undefined > (1 - level) * n:
        raise UserError(
            f"The statistic is undefined for {n_undefined} of {n} resamples"
            if np.isfinite(estimate).all()
            else "The statistic is undefined for the items themselves",
            suggestion="Use more items, or a statistic that every resample has",
        )
    draws_B = draws_B[defined_B]
    tail = np.array([1 - level, 1 + level]) / 2
    share = np.broadcast_to(tail.reshape(2, *[1] * estimate.ndim), (2, *estimate.shape))
    if method == "bca":
        left_out_G = _values(statistic, np.arange(n_groups)[:, None] != code_S, block_size)
        share = _bca_shares(share, estimate, draws_B, left_out_G)
    low, high = _quantiles(draws_B, share)
    return BootstrapInterval(estimate, low, high, draws_B, n_undefined)


def _values(statistic: Callable[[Array], Array], weights_BS: NDArray, block_size: int) -> Array:
    """Statistic of every row of weights, a block at a time."""
    blocks = [weights_BS[start : start + block_size] for start in range(0, len(weights_BS), block_size)]
    return np.concatenate([np.asarray(statistic(block.astype(np.float64)), dtype=np.float64) for block in blocks])


def _bca_shares(share: Array, estimate: Array, draws_B: Array, left_out_G: Array) -> Array:
    """Percentiles, corrected for the bias of the draws and for how the spread of the statistic follows its value."""
    if not np.isfinite(left_out_G).all():
        raise UserError(
            "The statistic is undefined when one group is left out", suggestion="Use method='percentile' or more items"
        )
    n = len(draws_B)
    below = ((draws_B < estimate).sum(axis=0) + (draws_B <= estimate).sum(axis=0)) / (2 * n)
    bias = stats.norm.ppf(np.clip(below, 0.5 / n, 1 - 0.5 / n))
    pull_G = left_out_G.mean(axis=0) - left_out_G
    squares = (pull_G**2).sum(axis=0)
    flat = squares <= (1e-14 * np.abs(left_out_G).max(axis=0)) ** 2
    acceleration = np.where(flat, 0.0, (pull_G**3).sum(axis=0) / (6 * np.where(flat, 1.0, squares) ** 1.5))
    shifted = bias + stats.norm.ppf(share)
    return stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))


def _quantiles(draws_B: Array, share: Array) -> Array:
    """Quantiles [2, ...] of draws [B, ...], each with shares of its own; linear between neighbouring draws."""
    sorted_B = np.sort(draws_B, axis=0)
    place = share * (len(draws_B) - 1)
    below = np.floor(place).astype(np.intp)
    above = np.minimum(below + 1, len(draws_B) - 1)
    lower, upper = np.take_along_axis(sorted_B, below, axis=0), np.take_along_axis(sorted_B, above, axis=0)
    return lower + (place - below) * (upper - lower)
