"""Mass-univariate tests of one contrast: every feature at once, parametric and by permutation with max-T.

There are two units of analysis. Under the designs `'unpaired'` and `'families'` it is the stimulus; the nuisance
columns are an intercept, one dummy per block (families), and the covariates. Under `'pairs'` and `'interaction'` it is
the block: the mean of its targets minus the mean of its foils, of responses and covariates alike, against zero. For
pairs that is the paired t, which a model of the stimuli with one dummy per pair gives too.

Permutation is that of Freedman & Lane (1983, Journal of Business & Economic Statistics 1): what the nuisance columns
leave of the responses is permuted within blocks (or its sign flipped) and fitted again. No arrangement needs a refit:
with x~ and y~ the residuals of regressor and responses, Q an orthonormal basis of the covariates and P the permutation,
r = x~'P y~ / (|x~| sqrt(|y~|^2 - |Q'P y~|^2)) and t = r sqrt(df / (1 - r^2)): one matrix product for all arrangements,
and one more per covariate. Without covariates it is the permutation of labels. To permute the regressor instead
(Draper & Stoneman 1966) would be one product, but with a covariate that is correlated with the contrast it rejects up
to ten times too often in rare latents at the .01 level. Freedman & Lane's holds its level there, which is tested; so
Winkler et al. (2014, NeuroImage 92) found in general.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from threadpoolctl import threadpool_limits

from neurosae.errors import UserError, unknown_name
from neurosae.inference.least_squares import Array, Fit, Index, Units, correlations, fit, make_units
from neurosae.inference.permutation import TAILS, arrangements, count_arrangements, smallest_p
from neurosae.rsa.results import Reason, Table, explained

T_CAP = 1e12
"""Value of |t| for a perfect separation: above every |t| that float64 resolves."""
TIE = 1e-12  # correlations this close are equal but for rounding
ARRANGEMENTS_HELD = 256
"""Arrangements whose statistics `max_t` holds at a time: with a block of features they fit into the cache."""
VARIANCES = ("pooled", "welch")


@dataclass(frozen=True, eq=False)
class LinearTest:
    """One test per feature; arrays [F], never NaN. Features that are not valid have effect, t and d 0 and p 1."""

    effect: Array
    """Difference of adjusted means, target minus foil, for labels +1 and -1; else the slope on the regressor."""
    se: Array
    """Standard error of the effect; 0 for a perfect separation."""
    t: Array
    """effect / se, at most `T_CAP` in magnitude."""
    df: Array
    """Degrees of freedom: units - rank of the nuisance columns - 1; or Welch's."""
    d: Array
    """For labels effect / s, where s is the residual standard deviation of the stimuli (Cohen's d; Welch: the root of
    the mean variance) or of the differences within blocks (d_z). For other regressors 2 t / sqrt(df), the d of two
    equal groups with the same partial correlation."""
    p: Array
    """Parametric, two-sided."""
    reason: NDArray[np.int8]
    """Codes of `neurosae.rsa.Reason`; constant means that the nuisance columns explain all of it."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Boolean, True where the test means something."""
        return (self.reason == Reason.OK) | (self.reason == Reason.PERFECT_SEPARATION)


@dataclass(frozen=True, eq=False)
class MaxT:
    """Tests corrected for the family of all valid features by the distribution of the largest statistic."""

    observed: LinearTest
    null_max_B: Array
    """Largest statistic of every arrangement: |t|, t (tail 'greater') or -t ('less')."""
    p_fwe: Array
    """Family-wise adjusted p [F]; 1 for features that are not valid."""
    p: Array
    """Uncorrected permutation p [F]; 1 for features that are not valid."""
    threshold: float
    """A feature is significant if its statistic *exceeds* this; infinite where too few arrangements exist."""
    alpha: float
    tail: str
    smallest_p: float
    """Smallest p-value that the arrangements can give."""
    exhaustive: bool
    """Whether all arrangements were used, so that the p-values are exact (with covariates: nearly)."""


def test_contrast(
    Y_SF: Any,
    regressor_S: ArrayLike,
    nuisance_SP: ArrayLike | None = None,
    *,
    blocks_S: ArrayLike | None = None,
    design: str = "unpaired",
    variance: str = "pooled",
    block_size: int = 1024,
) -> LinearTest:
    """Test one contrast for every feature.

    Parameters
    ----------
    Y_SF : array or scipy sparse array [S, F]
        One response per stimulus and feature.
    regressor_S : array [S]
        Labels +1 (target) and -1 (foil), contrast weights, or a rating. Leave out stimuli that take no part.
    nuisance_SP : array [S] or [S, P], optional
        Covariates. An intercept is always there; columns that depend on others do no harm.
    blocks_S : array [S], optional
        Pairs or families; needed by every design but ``'unpaired'``.
    design : str, default 'unpaired'
        One of `neurosae.inference.DESIGNS`; the module says what it means here. ``'pairs'`` and ``'interaction'`` need
        labels.
    variance : {'pooled', 'welch'}
        ``'welch'`` allows unequal variances: two unpaired conditions without covariates.
    block_size : int, default 1024
        Features held at a time; memory grows with block_size x S. Sparse features are dense for one block only.

    Returns
    -------
    LinearTest

    Raises
    ------
    UserError
        Values that are not finite, labels that the design does not allow, a regressor that the nuisance columns
        explain, or no degree of freedom left.

    References
    ----------
    Frisch & Waugh (1933), Econometrica 1; Welch (1947), Biometrika 34.

    Examples
    --------
    >>> Y_SF = np.array([[3.0, 0.0], [4.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> test = test_contrast(Y_SF, [1, 1, -1, -1])
    >>> test.effect, test.t.round(2), test.valid
    (array([3., 0.]), array([4.24, 0.  ]), array([ True, False]))
    """
    if variance not in VARIANCES:
        raise unknown_name("variance", variance, VARIANCES)
    units = make_units(Y_SF, regressor_S, nuisance_SP, blocks_S, design)
    if variance == "welch":
        return _welch(units, block_size)
    return _pooled(fit(units, block_size))


test_contrast.__test__ = False  # type: ignore[attr-defined]  # its name is no invitation to pytest


def null_statistics(
    Y_SF: Any,
    regressor_S: ArrayLike,
    arrangements_BS: ArrayLike,
    nuisance_SP: ArrayLike | None = None,
    *,
    blocks_S: ArrayLike | None = None,
    design: str = "unpaired",
    seed: int = 0,
    block_size: int = 1024,
) -> Iterator[tuple[Index, Array]]:
    """Compute the t of every arrangement of the regressor, for one block of features after the other.

    Parameters
    ----------
    Y_SF, regressor_S, nuisance_SP, blocks_S, design
        As in `test_contrast`.
    arrangements_BS : array [B, S]
        The regressor in another order within blocks, or with the labels of whole blocks flipped, as from
        `neurosae.inference.arrangements`.
    seed : int, default 0
        Which of the stimuli with equal labels changes places with which; matters with covariates only.
    block_size : int, default 1024
        Features held at a time; memory grows with block_size x (S + B).

    Yields
    ------
    features : int array [f]
        Together all features, not in their order.
    t_Bf : array [B, f]
        0 for features that are not valid, and where the nuisance columns explain all that was permuted.

    Examples
    --------
    >>> labels_BS = [[1, 1, -1, -1], [1, -1, 1, -1]]
    >>> [(features, t_Bf)] = null_statistics([[3.0], [4.0], [1.0], [0.0]], labels_BS[0], labels_BS)
    >>> t_Bf.round(2)
    array([[4.24],
           [0.  ]])
    """
    arrangements_BS = np.atleast_2d(np.asarray(arrangements_BS, dtype=np.float64))
    units = make_units(Y_SF, regressor_S, nuisance_SP, blocks_S, design)
    fitted = fit(units, block_size)
    constant = np.flatnonzero(~fitted.varies_F)
    if len(constant):
        yield constant, np.zeros((len(arrangements_BS), len(constant)))
    rearranged = units.rearranged(arrangements_BS, seed)
    for features, Y_Uf in fitted.standardised_blocks(block_size):
        yield features, t_of_r(correlations(Y_Uf, rearranged), units.df).T


def max_t(
    Y_SF: Any,
    labels_S: ArrayLike,
    blocks_S: ArrayLike | None,
    design: str,
    *,
    nuisance_SP: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
    tail: str = "two-sided",
    alpha: float = 0.05,
    n_jobs: int = 1,
    block_size: int = 1024,
) -> MaxT:
    """Permutation test of every feature with family-wise control by the maximum statistic.

    Parameters
    ----------
    Y_SF, nuisance_SP, blocks_S, design, block_size
        As in `test_contrast`.
    labels_S : array of int [S]
        +1 target, -1 foil.
    n : int, default 1000
        Arrangements wanted; all of them where fewer exist.
    seed : int, default 0
        Non-negative seed; an arrangement depends on it and its number only.
    tail : {'two-sided', 'greater', 'less'}
        What is maximised over features: |t|, t or -t. ``'greater'`` asks whether the target is higher.
    alpha : float, default 0.05
        Family-wise level of `threshold`.
    n_jobs : int, default 1
        Threads; the result is bitwise the same for any number.

    Returns
    -------
    MaxT

    Raises
    ------
    UserError
        As in `test_contrast`; unknown tail.

    Notes
    -----
    Memory beyond the responses: n x S x (1 + covariates) for the arrangements, and block_size x `ARRANGEMENTS_HELD` for
    every thread. Measured on two busy cores, 10,000 arrangements of 200 stimuli and a million sparse latents whose
    firing rates follow Zipf's law (87,000 of them not silent): 5 s for pairs.

    References
    ----------
    Westfall & Young (1993), Resampling-based multiple testing; Nichols & Holmes (2002), Human Brain Mapping 15.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> pair_S, labels_S = np.repeat(np.arange(20), 2), np.array([1, -1] * 20)
    >>> Y_SF = rng.normal(size=(40, 50))
    >>> Y_SF[:, 7] += 2 * labels_S
    >>> np.flatnonzero(max_t(Y_SF, labels_S, pair_S, "pairs").p_fwe < 0.05)
    array([7])
    """
    if tail not in TAILS:
        raise unknown_name("tail", tail, TAILS)
    if not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha}", where="alpha", allowed="between 0 and 1")
    units = make_units(Y_SF, labels_S, nuisance_SP, blocks_S, design)
    blocks_S = np.zeros(len(units.x_S)) if blocks_S is None else blocks_S
    labels_BS = arrangements(units.x_S, blocks_S, n, seed, design)
    with threadpool_limits(limits=1):  # a matrix product on several threads may round differently
        fitted = fit(units, block_size)
        observed = _pooled(fitted)
        largest_B, p_F, p_fwe_F = _permuted(fitted, labels_BS, seed, tail, n_jobs, block_size)
    null_max_B = t_of_r(largest_B, units.df)
    spared = int(alpha * (len(null_max_B) + 1) + 1e-9) - 1  # null maxima that may reach a significant statistic
    threshold = float(np.sort(null_max_B)[-1 - spared]) if spared >= 0 else np.inf
    exhaustive = count_arrangements(units.x_S, blocks_S, design) - 1 <= n
    mirrored = tail == "two-sided" and bool((labels_BS == -np.sign(units.x_S)).all(axis=1).any())
    smallest = smallest_p(len(null_max_B), mirrored=mirrored)
    return MaxT(observed, null_max_B, p_fwe_F, p_F, threshold, alpha, tail, smallest, exhaustive)


def t_of_r(r: Array, df: int) -> Array:
    """t with `df` degrees of freedom of a partial correlation; +-`T_CAP` where that is 1 but for rounding.

    Examples
    --------
    >>> t_of_r(np.array([0.0, 0.6, -1.0]), df=16)
    array([ 0.e+00,  3.e+00, -1.e+12])
    """
    rest = 1 - r**2
    return np.where(rest > TIE, r * np.sqrt(df / np.maximum(rest, TIE)), np.sign(r) * T_CAP)


def _permuted(
    fitted: Fit, labels_BS: NDArray[np.int8], seed: int, tail: str, n_jobs: int, block_size: int
) -> tuple[Array, Array, Array]:
    """Largest correlation of every arrangement [B], uncorrected and corrected p [F].

    t is a rising function of r, so that correlations are compared.
    """
    regressor_UB, *covariates = fitted.units.rearranged(labels_BS.astype(np.float64), seed)
    rearranged = [regressor_UB * (-1 if tail == "less" else 1), *covariates]
    batches = [
        [np.ascontiguousarray(column_UB[:, start : start + ARRANGEMENTS_HELD]) for column_UB in rearranged]
        for start in range(0, len(labels_BS), ARRANGEMENTS_HELD)
    ]
    r_F = np.zeros(len(fitted.norm_F))
    np.divide(fitted.along_F, fitted.norm_F, out=r_F, where=fitted.varies_F)
    reached_F = (np.abs(r_F) if tail == "two-sided" else -r_F if tail == "less" else r_F) - TIE

    def tally(features: Index, Y_Uf: Table) -> tuple[Index, Array, Index]:
        largest, count_f = [], np.zeros(len(features), dtype=np.intp)
        for batch in batches:
            r_fb = correlations(Y_Uf, batch)
            if tail == "two-sided":
                np.abs(r_fb, out=r_fb)
            largest.append(r_fb.max(axis=0))
            count_f += np.count_nonzero(r_fb >= reached_F[features, None], axis=1)
        return features, np.concatenate(largest), count_f

    largest_B = np.full(len(labels_BS), -1.0 if fitted.varies_F.any() else 0.0)
    count_F = np.full(len(r_F), len(labels_BS))
    blocks = (joblib.delayed(tally)(*block) for block in fitted.standardised_blocks(block_size))
    for features, block_B, count_f in joblib.Parallel(n_jobs, prefer="threads", return_as="generator")(blocks):
        np.maximum(largest_B, block_B, out=largest_B)
        count_F[features] = count_f
    above_F = len(largest_B) - np.searchsorted(np.sort(largest_B), reached_F)
    above_F[~fitted.varies_F] = len(largest_B)
    return largest_B, (count_F + 1) / (len(largest_B) + 1), (above_F + 1) / (len(largest_B) + 1)


def _pooled(fitted: Fit) -> LinearTest:
    """t-tests with the residual variance."""
    units = fitted.units
    _, norm = units.direction()
    per_slope = 2.0 if units.is_labels and units.differences_US is None else 1.0
    to_d = per_slope / norm if units.is_labels else 2 / np.sqrt(units.df)
    return _linear_test(
        fitted.largest_F == 0,
        fitted.varies_F,
        fitted.is_separated_F,
        effect_F=per_slope * fitted.along_F / norm,
        se_F=per_slope * fitted.rest_F / (norm * np.sqrt(units.df)),
        df_F=np.full(len(fitted.norm_F), float(units.df)),
        to_d_F=np.full(len(fitted.norm_F), to_d),
    )


def _welch(units: Units, block_size: int) -> LinearTest:
    """t-tests of two unpaired conditions with a variance of their own."""
    target_S = units.x_S > 0
    n_a, n_b = int(target_S.sum()), int((~target_S).sum())
    if not units.is_labels or units.differences_US is not None or units.basis_UQ.shape[1] > 1 or min(n_a, n_b) < 2:
        raise UserError(
            "Welch's test is not possible",
            where="variance",
            allowed="labels +1 and -1 with two stimuli or more each, design 'unpaired', no covariates",
        )
    fitted = fit(units, block_size)
    a_F, b_F = np.zeros((2, len(fitted.norm_F)))
    for features, Y_Sf in units.residual_blocks(np.flatnonzero(fitted.varies_F & ~fitted.is_separated_F), block_size):
        a_F[features], b_F[features] = Y_Sf[target_S].var(axis=0, ddof=1), Y_Sf[~target_S].var(axis=0, ddof=1)
    error_a_F, error_b_F = a_F / n_a, b_F / n_b
    variance_F = error_a_F + error_b_F
    regular_F = variance_F > 0
    spread_F = np.where(regular_F, error_a_F**2 / (n_a - 1) + error_b_F**2 / (n_b - 1), 1.0)
    to_d_F = np.sqrt(2 * variance_F / np.where(regular_F, a_F + b_F, 1.0))
    return _linear_test(
        fitted.largest_F == 0,
        fitted.varies_F,
        fitted.is_separated_F,
        effect_F=_pooled(fitted).effect,
        se_F=np.sqrt(variance_F),
        df_F=np.where(regular_F, variance_F**2 / spread_F, units.df),
        to_d_F=np.where(regular_F, to_d_F, np.sqrt(1 / n_a + 1 / n_b)),
    )


def _linear_test(
    silent_F: NDArray[np.bool_],
    varies_F: NDArray[np.bool_],
    separated_F: NDArray[np.bool_],
    *,
    effect_F: Array,
    se_F: Array,
    df_F: Array,
    to_d_F: Array,
) -> LinearTest:
    """Divide effects by their errors, explain what has none, and look up p; d is `to_d_F` times t."""
    se_F = np.where(varies_F & ~separated_F, se_F, 0.0)
    t_F = np.sign(effect_F) * T_CAP
    np.divide(effect_F, se_F, out=t_F, where=se_F > 0)
    problems = [(Reason.SILENT, silent_F), (Reason.CONSTANT, ~varies_F), (Reason.PERFECT_SEPARATION, separated_F)]
    t = explained(np.clip(t_F, -T_CAP, T_CAP), problems)
    p_F = np.where(t.valid, 2 * stats.t.sf(np.abs(t.value), df_F), 1.0)
    return LinearTest(np.where(t.valid, effect_F, 0.0), se_F, t.value, df_F, t.value * to_d_F, p_F, t.reason)
