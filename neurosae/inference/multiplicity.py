"""Corrections for many tests that only need p-values. Corrections by permutation: `max_t`, `clusters`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from neurosae.errors import UserError, unknown_name
from neurosae.inference.linear import LinearTest
from neurosae.inference.resampling import holm

METHODS = ("bonferroni", "fdr", "holm")


def adjust(p_F: ArrayLike, method: str = "fdr", *, valid_F: ArrayLike | None = None) -> NDArray[np.float64]:
    """Adjust p-values for the number of tests.

    Parameters
    ----------
    p_F : array [F]
    method : {'fdr', 'holm', 'bonferroni'}
        False discovery rate of Benjamini & Hochberg (1995; holds for independent and positively dependent tests), or
        family-wise error by Holm (1979) or Bonferroni.
    valid_F : bool array [F], optional
        Tests that count; the others keep p = 1. Whether a feature varies does not depend on the labels, so that leaving
        out silent and constant ones costs nothing.

    Returns
    -------
    array [F]

    Raises
    ------
    UserError
        Unknown method, numbers that are no p-values, or a mask of another shape.

    Examples
    --------
    >>> adjust([0.01, 0.04, 0.03, 1.0], "bonferroni", valid_F=[True, True, True, False]).tolist()
    [0.03, 0.12, 0.09, 1.0]
    """
    if method not in METHODS:
        raise unknown_name("correction", method, METHODS)
    p_F = np.asarray(p_F, dtype=np.float64)
    counted_F = np.ones(p_F.shape, dtype=bool) if valid_F is None else np.asarray(valid_F, dtype=bool)
    if p_F.ndim != 1 or counted_F.shape != p_F.shape:
        raise UserError(f"p-values have shape {p_F.shape} and their mask {counted_F.shape}", allowed="[F] and [F]")
    p = p_F[counted_F]
    if not ((p >= 0) & (p <= 1)).all():
        raise UserError("A correction needs p-values", allowed="numbers between 0 and 1")
    adjusted_F = np.ones(len(p_F))
    if len(p) == 0:
        return adjusted_F
    if method == "holm":
        adjusted_F[counted_F] = holm(p)
    elif method == "fdr":
        adjusted_F[counted_F] = stats.false_discovery_control(p)
    else:
        adjusted_F[counted_F] = np.minimum(1, p * len(p))
    return adjusted_F


def height_threshold(test: LinearTest, method: str = "fdr", alpha: float = 0.05) -> float:
    """Compute the height that |t| must reach for its adjusted p to be at most `alpha`, as maps are thresholded.

    Parameters
    ----------
    test : LinearTest
        With one number of degrees of freedom (not Welch's); only valid features count.
    method : str, default 'fdr'
        As in `adjust`.
    alpha : float, default 0.05

    Returns
    -------
    float
        The smallest surviving |t|; infinite where none survives.

    Raises
    ------
    UserError
        Features differ in their degrees of freedom, so that no single height separates them.

    Examples
    --------
    >>> from neurosae.inference.linear import test_contrast
    >>> rng = np.random.default_rng(0)
    >>> height_threshold(test_contrast(rng.normal(size=(20, 50)), [1, -1] * 10))
    inf
    """
    if len(np.unique(test.df[test.valid])) > 1:
        raise UserError("Features differ in their degrees of freedom", suggestion="Use the adjusted p-values instead")
    survives_F = adjust(test.p, method, valid_F=test.valid) <= alpha
    return float(np.min(np.abs(test.t[survives_F & test.valid]), initial=np.inf))
