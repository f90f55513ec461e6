"""Intervals and tests for scores that come from repeated cross-validation, and Holm's correction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from neurosae.errors import UserError


class CorrectedTest(NamedTuple):
    """Mean over folds with a 95 % interval and the two-sided p-value of "the mean is 0"."""

    mean: float
    ci_low: float
    ci_high: float
    p: float
    df: int


def corrected_resampled_test(deltas_RF: ArrayLike, n_train_share: float) -> CorrectedTest:
    """Corrected resampled t-test over the folds of repeated cross-validation (Nadeau & Bengio 2003).

    Folds share their training items, so their spread understates the variance of the mean. With a share `q` of the
    items in the training set, the variance is s^2 (1/(RF) + (1 - q)/q); for F folds, (1 - q)/q = 1/(F - 1).

    Parameters
    ----------
    deltas_RF : array [R, F]
        One value per repeat and fold: a score, or the difference of two methods on the same fold.
    n_train_share : float
        Share of the items in each training set, (F - 1)/F for F folds.

    Returns
    -------
    CorrectedTest
        Mean, 95 % interval, p and df = RF - 1. Where all values are equal the interval has no width, and p is 1 for a
        mean of 0 and 0 otherwise.

    Raises
    ------
    UserError
        Fewer than two values, values that are not finite, or a share outside (0, 1).

    Examples
    --------
    >>> test = corrected_resampled_test([[0.1, 0.2], [0.0, 0.1]], n_train_share=0.5)
    >>> round(test.mean, 3), test.df
    (0.1, 3)
    """
    deltas = np.asarray(deltas_RF, dtype=np.float64).ravel()
    if len(deltas) < 2 or not np.isfinite(deltas).all():
        raise UserError("The corrected resampled test needs at least two folds, all with finite scores")
    if not 0 < n_train_share < 1:
        raise UserError(f"The share of training items is {n_train_share}", allowed="between 0 and 1")
    mean, df = float(deltas.mean()), len(deltas) - 1
    constant = float(np.ptp(deltas)) <= 1e-15
    spread = 0.0 if constant else float(deltas.var(ddof=1))
    error = float(np.sqrt(spread * (1 / len(deltas) + (1 - n_train_share) / n_train_share)))
    if error == 0:
        return CorrectedTest(mean, mean, mean, float(abs(mean) <= 1e-15), df)
    half = float(stats.t.ppf(0.975, df)) * error
    return CorrectedTest(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, df)), df)


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Family-wise adjusted p-values (Holm 1979), in the order given.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise UserError("Holm's correction needs p-values", allowed="numbers between 0 and 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted
