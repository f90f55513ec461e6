"""The transfer matrix: fit a selector and an ensemble in every context, test in every context, on the same folds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.decoding.ensembles import Array, Fit, get_ensemble, standardisation
from neurosae.decoding.selection import PROFILE_SELECTORS, SELECTORS, scores, top_k
from neurosae.errors import UserError, unknown_name
from neurosae.inference import corrected_resampled_test, smallest_p
from neurosae.inference.design import Design, derived_seed
from neurosae.inference.heldout import METRICS, auroc, balanced_accuracy, summarise_held_out

WITHOUT_PROFILES = [name for name in SELECTORS if name not in PROFILE_SELECTORS]
"""Selectors that pooled responses suffice for."""


@dataclass(frozen=True, eq=False)
class Transfer:
    """Held-out scores of every pair of a training and a test context."""

    cells: pd.DataFrame
    """One row per pair: `train`, `test`, `n_train` (stimuli of a training set, mean over folds), `n_test` (stimuli held
    out over all folds), `n_valid` (features that a training set can rank, mean over folds; of the k selected ones those
    beyond are invalid), and for both metrics the mean over folds, its 95 % interval (`_ci_low`, `_ci_high`; Nadeau &
    Bengio 2003), its permutation p (`_p`, not corrected for the number of cells) and chance band (`_chance_low`,
    `_chance_high`; NaN where `chance_reason` says why)."""
    summary: pd.DataFrame
    """AUROC, averaged over cells in every fold: `same` context, `other` contexts, and their `difference`, whose p is
    that of the corrected resampled t-test (two-sided), as permuted labels leave no effect to generalise. The other p
    are against responses that know nothing of the labels, in whichever context."""
    n_permutations: int
    smallest_p: float
    """Smallest p-value that so many permutations can give."""


class Method(NamedTuple):
    """What is fitted in every training set."""

    selector: str
    k: int
    fit: Fit
    paired_S: NDArray[Any] | None
    seed: int
    block_size: int


class _Fitted(NamedTuple):
    """Features, standardisation and weights of every label vector; how many features could be ranked."""

    features_BK: NDArray[np.intp]
    n_valid_B: NDArray[np.intp]
    mean_F: Array
    scale_F: Array
    w_BK: Array
    b_B: Array


def make_method(selector: str, k: int, ensemble: str, design: Design, seed: int, block_size: int) -> Method:
    """Look up the names of a selector and an ensemble.

    Raises
    ------
    UserError
        Unknown names, a selector that needs profiles, or a number out of its range.
    """
    if seed < 0 or block_size < 1:
        raise UserError(f"seed = {seed}, block_size = {block_size}", allowed="seed from 0, block_size from 1")
    if selector not in WITHOUT_PROFILES:
        raise unknown_name("selector", selector, WITHOUT_PROFILES)
    return Method(selector, k, get_ensemble(ensemble), design.paired_S, seed, block_size)


def transfer_matrix(
    names: Sequence[Any], tables: list[Array], rows_CS: NDArray[np.bool_], design: Design, method: Method
) -> Transfer:
    """Fit in every context and score in every context, in every fold; then summarise.

    Parameters
    ----------
    names : sequence [C]
        Of the contexts.
    tables : list of C arrays [S, F]
        Responses in each context, with the same features.
    rows_CS : bool array [C, S]
        Stimuli that belong to each context.
    design : Design
    method : Method

    Returns
    -------
    Transfer
    """
    n_contexts, n_repeats, n_splits = len(names), len(design.folds_RS), int(design.folds_RS.max()) + 1
    null_BS = design.arrangements_BS
    observed_MCCRF = np.empty((len(METRICS), n_contexts, n_contexts, n_repeats, n_splits))
    null_MCCBF = np.empty((len(METRICS), n_contexts, n_contexts, len(null_BS), n_splits))
    n_train_C, n_valid_C = np.zeros((2, n_contexts))
    for repeat, fold in itertools.product(range(n_repeats), range(n_splits)):
        labels_LS = np.concatenate([design.labels_S[None], null_BS[repeat::n_repeats]])
        test_S = design.folds_RS[repeat] == fold
        train_S = ~np.isin(design.groups_S, design.groups_S[test_S])
        n_train_C += (rows_CS & train_S).sum(axis=1)
        seed = derived_seed(method.seed, repeat, fold)
        scores_MCCL, valid_C = _scores(tables, labels_LS, rows_CS & train_S, rows_CS & test_S, method, seed)
        n_valid_C += valid_C
        observed_MCCRF[..., repeat, fold] = scores_MCCL[..., 0]
        null_MCCBF[..., repeat::n_repeats, fold] = scores_MCCL[..., 1:]
    cells = []
    for i, j in itertools.product(range(n_contexts), repeat=2):
        row = {
            "train": names[i],
            "test": names[j],
            "n_train": n_train_C[i] / (n_repeats * n_splits),
            "n_test": int(rows_CS[j].sum()),
            "n_valid": n_valid_C[i] / (n_repeats * n_splits),
        }
        for metric in ("auroc", "balanced_accuracy"):
            m = METRICS.index(metric)
            row |= _columns(metric, observed_MCCRF[m, i, j], null_MCCBF[m, i, j])
        cells.append(row)
    m = METRICS.index("auroc")
    summary = _summary(observed_MCCRF[m], null_MCCBF[m])
    return Transfer(pd.DataFrame(cells), summary, len(null_BS), smallest_p(len(null_BS)))


def _scores(
    tables: list[Array],
    labels_LS: NDArray[np.int8],
    train_CS: NDArray[np.bool_],
    test_CS: NDArray[np.bool_],
    method: Method,
    seed: int,
) -> tuple[Array, Array]:
    """Scores [metric, training context, test context, label vector], NaN where labels have one class on a side; and
    how many features were valid for the first label vector in every training context."""
    n = len(tables)
    n_valid_C = np.zeros(n)
    scores_MCCL = np.full((len(METRICS), n, n, len(labels_LS)), np.nan)
    for i, start in itertools.product(range(n), range(0, len(labels_LS), method.block_size)):
        rows = np.arange(start, min(start + method.block_size, len(labels_LS)))
        rows = rows[_both(labels_LS[rows], train_CS[i])]
        if not len(rows):
            continue
        fitted = _fit(tables[i], labels_LS[rows], train_CS[i], method, seed)
        if rows[0] == 0:
            n_valid_C[i] = fitted.n_valid_B[0]
        for j in range(n):
            here = np.flatnonzero(_both(labels_LS[rows], test_CS[j]))
            if len(here):
                decision_BN = _decide(fitted, tables[j], test_CS[j])[here]
                test_BN = labels_LS[rows[here]][:, test_CS[j]]
                scores_MCCL[0, i, j, rows[here]] = balanced_accuracy(decision_BN, test_BN)
                scores_MCCL[1, i, j, rows[here]] = auroc(decision_BN, test_BN)
    return scores_MCCL, n_valid_C


def _both(labels_BS: NDArray[np.int8], used_S: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which label vectors have both classes among the stimuli used."""
    used_BN = labels_BS[:, used_S]
    return np.asarray((used_BN > 0).any(axis=1) & (used_BN < 0).any(axis=1))


def _fit(X_SF: Array, labels_BS: NDArray[np.int8], train_S: NDArray[np.bool_], method: Method, seed: int) -> _Fitted:
    """Select and fit on the training stimuli, for every label vector."""
    codes_BS = np.where(train_S, labels_BS, 0).astype(np.int8)
    scores_BF = scores(method.selector, X_SF, codes_BS, blocks_S=method.paired_S, rng_seed=seed)
    features_BK = top_k(scores_BF, method.k)
    mean_F, scale_F = standardisation(X_SF[train_S])
    Z_FN = ((X_SF[train_S] - mean_F) / scale_F).T
    w_BK, b_B = method.fit(np.ascontiguousarray(Z_FN[features_BK].swapaxes(1, 2)), labels_BS[:, train_S], None, 1.0)
    return _Fitted(features_BK, scores_BF.valid.sum(axis=1), mean_F, scale_F, w_BK, b_B)


def _decide(fitted: _Fitted, X_SF: Array, test_S: NDArray[np.bool_]) -> Array:
    """Decisions [B, N] on the stimuli of another context, standardised as in training."""
    X_BNK = X_SF[test_S][:, fitted.features_BK].swapaxes(0, 1)
    Z_BNK = (X_BNK - fitted.mean_F[fitted.features_BK][:, None]) / fitted.scale_F[fitted.features_BK][:, None]
    return np.matmul(Z_BNK, fitted.w_BK[..., None])[..., 0] + fitted.b_B[:, None]


def _columns(metric: str, observed_RF: Array, null_BF: Array) -> dict[str, Any]:
    found = summarise_held_out(observed_RF, null_BF)
    return {
        metric: found.mean,
        f"{metric}_ci_low": found.ci_low,
        f"{metric}_ci_high": found.ci_high,
        f"{metric}_p": found.p,
        f"{metric}_chance_low": found.chance_low,
        f"{metric}_chance_high": found.chance_high,
        "chance_reason": found.chance_reason,
    }


def _summary(observed_CCRF: Array, null_CCBF: Array) -> pd.DataFrame:
    """Mean AUROC of cells on and off the diagonal, and their difference."""
    same_CC = np.eye(len(observed_CCRF), dtype=bool)
    rows = []
    for name, cells_CC in (("same", same_CC), ("other", ~same_CC)):
        found = summarise_held_out(observed_CCRF[cells_CC].mean(axis=0), null_CCBF[cells_CC].mean(axis=0))
        rows.append(
            {"contexts": name, "auroc": found.mean, "ci_low": found.ci_low, "ci_high": found.ci_high, "p": found.p}
        )
    difference_RF = observed_CCRF[same_CC].mean(axis=0) - observed_CCRF[~same_CC].mean(axis=0)
    test = corrected_resampled_test(difference_RF, 1 - 1 / difference_RF.shape[1])
    rows.append(
        {"contexts": "difference", "auroc": test.mean, "ci_low": test.ci_low, "ci_high": test.ci_high, "p": test.p}
    )
    return pd.DataFrame(rows)
