"""Crossnobis: squared distances between conditions, cross-validated over folds of items so that noise adds nothing.

With F_r the mean patterns [C, F] of fold r = 1 .. R and S their sum, the mean over all pairs of different folds of the
inner products between conditions is

    G = (S S' - sum_r F_r F_r') / (R (R - 1)),

and d_ij = (G_ii + G_jj - 2 G_ij) / F. No table of features x features is ever made. The distance is unbiased: without a
difference between conditions its mean is 0, so that negative values are right and stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurosae.errors import UserError
from neurosae.rdms.patterns import condition_codes, mean_patterns, numbered
from neurosae.rsa.results import as_table, dense_blocks

ROUNDING = 1e-12  # noise, relative to the responses of a feature, that is only rounding


@dataclass(frozen=True, eq=False)
class Crossnobis:
    """Cross-validated squared distances between conditions."""

    rdm: Any
    """`rsatoolbox.rdm.RDMs` of one RDM; pattern descriptor `condition`."""
    table_CC: np.ndarray
    """The same as a table: mean over features of the unbiased squared difference; may be negative."""
    conditions: tuple[Any, ...]
    n_folds: int
    n_features: int
    """Features used: those the mean is over."""
    left_out: np.ndarray
    """Features without variance within cells (fold x condition), which have no noise to be measured in; empty without
    noise normalisation."""


def crossnobis(
    X_SF: Any, conditions: Any, folds: Any, *, normalise: bool = False, block_size: int = 4096
) -> Crossnobis:
    """Compute crossnobis distances between conditions in closed form.

    Every fold weighs the same, and so does every stimulus of a condition within a fold.

    Parameters
    ----------
    X_SF : array or scipy sparse array [S, F]
    conditions : array [S]
    folds : array [S]
        Fold of every stimulus. What belongs together (a pair, a family) must lie in one fold, as
        `neurosae.inference.design.make_folds` sees to; every fold needs every condition.
    normalise : bool, default False
        Divide every feature by its noise standard deviation: that of the stimuli around the mean of their cell (fold x
        condition), with S minus the number of cells degrees of freedom (univariate noise normalisation; Walther et al.
        2016). Features without such variance (silent ones, or constant within every cell but for rounding) are left out
        and declared.
    block_size : int, default 4096
        Features held in float64 at a time.

    Returns
    -------
    Crossnobis

    Raises
    ------
    UserError
        Fewer than two folds, a fold without one of the conditions, one stimulus per cell (no noise to normalise by), no
        feature left, values that are not finite.

    References
    ----------
    Walther et al. (2016), NeuroImage 137; Diedrichsen et al. (2021), arXiv:2007.02789.

    Examples
    --------
    >>> X_SF = np.array([[0.0, 0], [1, 1], [0, 0], [3, 1]])
    >>> crossnobis(X_SF, ["a", "b", "a", "b"], [0, 0, 1, 1]).table_CC
    array([[0., 2.],
           [2., 0.]])
    """
    from rsatoolbox.rdm import RDMs

    X_SF = as_table(X_SF)
    code_S, names = condition_codes(conditions, X_SF.shape[0])
    fold_S, n_folds = _folds(folds, code_S, names)
    cell_S = fold_S * len(names) + code_S
    df = len(cell_S) - n_folds * len(names)
    if normalise and df == 0:
        raise UserError("every fold has one stimulus per condition: no noise to normalise by", where="normalise")
    gram_CC, left_out = np.zeros((len(names), len(names))), []
    for columns, block_Sf in dense_blocks(X_SF, block_size):
        cells = mean_patterns(block_Sf, cell_S)
        if normalise:
            noise_f = _noise(block_Sf, cells, cell_S, df)
            left_out.append(columns[noise_f == 0])
            cells = cells[:, noise_f > 0] / noise_f[noise_f > 0]
        cells_RCf = cells.reshape(n_folds, len(names), -1)
        cells_RCf = cells_RCf - cells_RCf.mean(axis=1, keepdims=True)  # no distance depends on it; spares digits
        sum_Cf = cells_RCf.sum(axis=0)
        gram_CC += sum_Cf @ sum_Cf.T - sum(cells_Cf @ cells_Cf.T for cells_Cf in cells_RCf)
    left_out_F = np.concatenate(left_out) if left_out else np.empty(0, dtype=np.intp)
    n_features = X_SF.shape[1] - len(left_out_F)
    if n_features == 0:
        raise UserError("no feature varies within a fold and condition", suggestion="Use normalise=False")
    gram_CC /= n_folds * (n_folds - 1) * n_features
    length_C = np.diagonal(gram_CC)
    table_CC = length_C[:, None] + length_C - (gram_CC + gram_CC.T)
    np.fill_diagonal(table_CC, 0)
    rdm = RDMs(table_CC[None], "crossnobis", pattern_descriptors={"condition": names})
    return Crossnobis(rdm, table_CC, tuple(names), n_folds, n_features, left_out_F)


def _folds(folds: Any, code_S: np.ndarray, names: list[Any]) -> tuple[np.ndarray, int]:
    """Number the folds, or say which one lacks a condition."""
    fold_S, fold_names = numbered(folds, len(code_S), "fold", sort=True)
    if len(fold_names) < 2:
        raise UserError("all stimuli lie in one fold", where="folds", allowed="two folds or more")
    count_RC = np.zeros((len(fold_names), len(names)), dtype=int)
    np.add.at(count_RC, (fold_S, code_S), 1)
    if not count_RC.all():
        r, c = np.argwhere(count_RC == 0)[0]
        raise UserError(
            f"fold {fold_names[r]} has no stimulus of condition '{names[c]}'",
            where="folds",
            suggestion="Use fewer folds",
        )
    return fold_S, len(fold_names)


def _noise(block_Sf: np.ndarray, cells: np.ndarray, cell_S: np.ndarray, df: int) -> np.ndarray:
    """Standard deviation [f] around the cell means; 0 where a feature is constant within cells but for rounding."""
    noise_f = np.sqrt(((block_Sf - cells[cell_S]) ** 2).sum(axis=0) / df)
    return np.where(noise_f > ROUNDING * np.abs(block_Sf).max(axis=0), noise_f, 0.0)
