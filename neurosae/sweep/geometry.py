"""RSA block by block: which model RDMs fit the geometry of a block, and is that more than chance over all blocks?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.decoding.ensembles import standardisation
from neurosae.errors import UserError
from neurosae.inference import bootstrap_interval, permutation_p
from neurosae.inference.design import Design
from neurosae.rdms import correlate, pairwise_distances, permute_stimuli
from neurosae.rdms.comparators import as_vectors, correlate_permuted, correlate_resampled
from neurosae.rdms.model_comparison import HELD
from neurosae.rsa.models import ModelRDM, label_model
from neurosae.rsa.results import Table
from neurosae.sweep.contrast import ordered

Array = NDArray[np.float64]

CATEGORY = "category"
"""Name of the model "same condition or not" in the tables."""
COMPARATOR = "pearson"  # with a model of two levels the point-biserial correlation of `neurosae.rsa`


def rsa_by_block(
    tables: Mapping[int, Table],
    design: Design,
    controls: Sequence[ModelRDM] = (),
    *,
    n_bootstrap: int = 1000,
    n_permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate the RDM of every block with the category model and with control models.

    Distances are cosine distances between patterns whose features are standardised over stimuli (labels unused):
    in raw residual streams a handful of neurons with a huge variance are nearly all of the distance. Stimuli of one
    group share their wording and stay close whatever their labels: their distances are left out.

    Parameters
    ----------
    tables : mapping of block to array [S, F]
    design : Design
        Labels, groups and exchangeability blocks; folds and arrangements are not used.
    controls : sequence of ModelRDM, optional
        Such as `neurosae.rsa.models.length_model`, over the same stimuli.
    n_bootstrap, n_permutations, seed : int, default 1000, 1000 and 0
        Draw b depends on the seed and b only.

    Returns
    -------
    DataFrame
        One row per block and model, the category first: `block`, `model`, `r` (Pearson), `low`, `high` (95 % bootstrap
        over groups), `p`, `p_fwe` (largest r over blocks), `n` (stimuli). The category is
        tested by exchanging labels within blocks, a control by exchanging whole groups of stimuli; both one-sided.

    Raises
    ------
    UserError
        No blocks; fewer than eight groups; a pattern at the mean of all; a model that does not vary.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), Frontiers in Systems Neuroscience 2:4; Timkey & van Schijndel (2021), All
    bark and no bite: rogue dimensions in transformer language models, EMNLP.

    Examples
    --------
    >>> from neurosae.inference.design import make_design
    >>> pair_S, rng = np.repeat(np.arange(20), 2), np.random.default_rng(0)
    >>> design = make_design([1, -1] * 20, pair_S, pair_S, "pairs")
    >>> tables = {0: rng.normal(size=(40, 50)), 1: rng.normal(size=(40, 50)) + design.labels_S[:, None]}
    >>> (rsa_by_block(tables, design, n_bootstrap=200)["p_fwe"] < 0.05).tolist()
    [False, True]
    """
    blocks = ordered(tables)
    models = as_vectors([label_model(design.labels_S, "category", CATEGORY), *controls], "model")
    rdms_LP = np.stack([_distances(tables[block], design, block) for block in blocks])
    score_LK = correlate(rdms_LP, models.x_LP, COMPARATOR)
    undefined = np.argwhere(np.isnan(score_LK))
    if len(undefined):
        level, model = undefined[0]
        raise UserError(
            f"'{models.names[model]}' cannot be compared with the distances", where=f"block {blocks[level]}"
        )
    interval = bootstrap_interval(
        lambda weights_BS: correlate_resampled(rdms_LP, models.x_LP, weights_BS, COMPARATOR, design.groups_S),
        design.groups_S,
        n=n_bootstrap,
        seed=seed,
        method="percentile",
        block_size=max(1, HELD // rdms_LP.shape[1]),
    )
    null_BLK = np.concatenate(
        [
            correlate_permuted(rdms_LP, models.tables[which], permutations_BS, COMPARATOR)
            for which, permutations_BS in _permutations(design, n_permutations, seed, len(models.names))
        ],
        axis=2,
    )
    p_LK = permutation_p(score_LK, null_BLK)
    p_fwe_LK = permutation_p(score_LK, null_BLK.max(axis=1, keepdims=True))
    rows = [
        (block, name, score_LK[i, j], interval.low[i, j], interval.high[i, j], p_LK[i, j], p_fwe_LK[i, j])
        for i, block in enumerate(blocks)
        for j, name in enumerate(models.names)
    ]
    table = pd.DataFrame(rows, columns=["block", "model", "r", "low", "high", "p", "p_fwe"])
    return table.assign(n=len(design.labels_S))


def _distances(X_SF: Table, design: Design, block: int) -> Array:
    """Distances over the pairs i < j [P], NaN within groups."""
    X_SF = np.asarray(X_SF, dtype=np.float64)
    mean_F, scale_F = standardisation(X_SF)
    D_SS, defined_S = pairwise_distances((X_SF - mean_F) / scale_F, "cosine")
    if not defined_S.all():
        raise UserError(f"Stimulus {int(np.argmin(defined_S))} has no direction from the mean", where=f"block {block}")
    D_SS[design.groups_S[:, None] == design.groups_S] = np.nan
    return D_SS[np.triu_indices(len(D_SS), k=1)]


def _permutations(design: Design, n: int, seed: int, n_models: int) -> list[tuple[slice, NDArray[np.intp]]]:
    """Permutations of stimuli for the category, which follow the labels, and for controls, which move whole groups."""
    n_stimuli = len(design.labels_S)
    by_label = permute_stimuli(
        design.labels_S, design.blocks_S, n, seed, design.design, n_stimuli=n_stimuli, groups=design.groups_S
    )
    found = [(slice(0, 1), by_label)]
    if n_models > 1:
        by_group = permute_stimuli(
            None, None, len(by_label), seed, "unpaired", n_stimuli=n_stimuli, groups=design.groups_S
        )
        found.append((slice(1, None), by_group))
    return found
