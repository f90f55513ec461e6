"""Which stimuli are compared, what is exchangeable, and how stimuli are split for cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedGroupKFold

from neurosae.errors import UserError
from neurosae.inference.permutation import arrangements
from neurosae.stimuli import LabelledContrast
from neurosae.stimuli.labelled import PAIRED


@dataclass(frozen=True, eq=False)
class Design:
    """Which stimuli are compared, what is exchangeable under the null hypothesis, and how stimuli are split."""

    labels_S: NDArray[np.int8]
    """+1 target, -1 foil."""
    groups_S: NDArray[Any]
    """Stimuli of one group stay together in every split."""
    blocks_S: NDArray[Any]
    """Exchangeability blocks."""
    design: str
    """One of `neurosae.inference.DESIGNS`."""
    folds_RS: NDArray[np.int64]
    """Held-out fold of every stimulus in every repeat."""
    domains_S: NDArray[Any] | None
    """Domains for leave-one-domain-out scores."""
    arrangements_BS: NDArray[np.int8]
    """Label vectors under the null hypothesis."""

    @property
    def paired_S(self) -> NDArray[Any] | None:
        """Blocks within which target and foil are compared by a paired statistic; None where there are none."""
        return self.blocks_S if self.design in PAIRED else None


def make_folds(
    y_S: ArrayLike, groups_S: ArrayLike, n_splits: int = 5, n_repeats: int = 10, seed: int = 0
) -> NDArray[np.int64]:
    """Repeated stratified folds that keep groups together.

    Parameters
    ----------
    y_S : array [S]
        Two classes.
    groups_S : array [S]
        Pair or family of every stimulus.
    n_splits, n_repeats, seed : int
        Folds, repeats and a non-negative seed; repeat `r` depends on the seed and `r` only.

    Returns
    -------
    array of int [n_repeats, S]
        Fold in which a stimulus is held out.

    Raises
    ------
    UserError
        Fewer groups than folds, or a fold without both classes.

    Examples
    --------
    >>> make_folds([1, -1] * 4, [0, 0, 1, 1, 2, 2, 3, 3], n_splits=2, n_repeats=3).shape
    (3, 8)
    """
    y_S, code_S = np.asarray(y_S), np.unique(np.asarray(groups_S), return_inverse=True)[1]
    n_groups = int(code_S.max()) + 1
    if n_groups < n_splits:
        fewer = f" or use at most {n_groups} folds" if n_groups > 1 else ""
        raise UserError(
            f"Fewer pairs than folds: {n_groups} group{'s' * (n_groups != 1)} of stimuli for {n_splits} folds",
            suggestion=f"Write more items{fewer}",
        )
    folds_RS = np.empty((n_repeats, len(y_S)), dtype=np.int64)
    for repeat in range(n_repeats):
        splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=derived_seed(seed, repeat))
        for fold, (_, held_out) in enumerate(splitter.split(y_S, y_S, code_S)):
            folds_RS[repeat, held_out] = fold
            if len(np.unique(y_S[held_out])) < 2:
                raise UserError(f"With {n_splits} folds, a fold holds out one class only", suggestion="Use fewer folds")
    return folds_RS


def leave_one_domain_out(domains_S: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Names of the domains and, for every stimulus, the number of the domain it is held out with.

    Examples
    --------
    >>> names, fold_S = leave_one_domain_out(["sport", "law", "sport"])
    >>> names.tolist(), fold_S.tolist()
    (['law', 'sport'], [1, 0, 1])
    """
    names, fold_S = np.unique(np.asarray(domains_S), return_inverse=True)
    return names, fold_S


def make_design(
    labels_S: ArrayLike,
    groups_S: ArrayLike,
    blocks_S: ArrayLike,
    design: str,
    *,
    domains_S: ArrayLike | None = None,
    n_splits: int = 5,
    n_repeats: int = 10,
    n_permutations: int = 100,
    seed: int = 0,
) -> Design:
    """Folds and permutations for one contrast, drawn once so that every method is scored on the same ones.

    Parameters
    ----------
    labels_S : array of int [S]
        +1 target, -1 foil.
    groups_S : array [S]
        Stimuli that must stay together in every split.
    blocks_S : array [S]
        Exchangeability blocks, each inside one group (ignored by the design ``'unpaired'``).
    design : str
        One of `neurosae.inference.DESIGNS`.
    domains_S : array [S], optional
        Domains for leave-one-domain-out scores.
    n_splits, n_repeats, n_permutations, seed : int
        As in `make_folds` and `neurosae.inference.arrangements`.

    Raises
    ------
    UserError
        The design does not fit the labels, a block lies in two groups, or the folds cannot be made.

    Examples
    --------
    >>> pair_S = np.repeat(np.arange(10), 2)
    >>> make_design([1, -1] * 10, pair_S, pair_S, "pairs").arrangements_BS.shape
    (100, 20)
    """
    labels_S, groups_S, blocks_S = np.asarray(labels_S, dtype=np.int8), np.asarray(groups_S), np.asarray(blocks_S)
    arrangements_BS = arrangements(labels_S, blocks_S, n_permutations, seed, design)
    if design != "unpaired":
        inside = pd.Series(groups_S).groupby(blocks_S).nunique()
        if (inside > 1).any():
            raise UserError(
                f"Block '{inside.idxmax()}' lies in more than one group, so that it would leak from training to test",
                suggestion="Give all stimuli of a block the same group",
            )
    folds_RS = make_folds(labels_S, groups_S, n_splits, n_repeats, seed)
    domains = None if domains_S is None else np.asarray(domains_S)
    return Design(labels_S, groups_S, blocks_S, design, folds_RS, domains, arrangements_BS)


def halves_of(contrast: LabelledContrast, seed: int = 0) -> NDArray[np.int64]:
    """Half, 0 or 1, of every stimulus of a contrast: groups stay whole, both sides stand in either half.

    Examples
    --------
    >>> np.bincount(halves_of(LabelledContrast.of("success"))).tolist()
    [72, 72]
    """
    return make_folds(contrast.labels_S, contrast.groups_S, n_splits=2, n_repeats=1, seed=seed)[0]


def design_of(
    contrast: LabelledContrast,
    *,
    n_splits: int = 5,
    n_repeats: int = 10,
    n_permutations: int = 100,
    seed: int = 0,
) -> Design:
    """Folds and permutations of a contrast of a stimulus set, its domains included; see `make_design`.

    Examples
    --------
    >>> design_of(LabelledContrast.of("success"), n_repeats=2).folds_RS.shape
    (2, 144)
    """
    return make_design(
        contrast.labels_S,
        contrast.groups_S,
        contrast.blocks_S,
        contrast.design,
        domains_S=contrast.domains_S,
        n_splits=n_splits,
        n_repeats=n_repeats,
        n_permutations=n_permutations,
        seed=seed,
    )


def derived_seed(seed: int, *keys: int) -> int:
    """A seed that depends on the given seed and keys only.

    Examples
    --------
    >>> derived_seed(0, 1) == derived_seed(0, 1) != derived_seed(0, 2)
    True
    """
    return int(np.random.SeedSequence([seed, *keys]).generate_state(1)[0])
