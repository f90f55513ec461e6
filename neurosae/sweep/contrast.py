"""The contrast block by block: how many features carry it, how strongly, and what a localized region does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.errors import UserError
from neurosae.inference import max_t
from neurosae.inference.design import Design
from neurosae.responses import Pooling, Responses
from neurosae.rsa.results import Table
from neurosae.sites import Site
from neurosae.stimuli import StimulusSet
from neurosae.stimuli.contrasts import Contrast
from neurosae.univariate import region_profile

Array = NDArray[np.float64]

EMBEDDING = -1
"""Number of the token embeddings on the axis of blocks: what enters block 0, and what words alone give."""
TIE = 1e-9  # t-values this close are equal but for rounding


def contrast_by_block(
    tables: Mapping[int, Table], design: Design, *, n_permutations: int = 1000, alpha: float = 0.05, seed: int = 0
) -> pd.DataFrame:
    """Test the contrast in every feature of every block, corrected within each block and over all of them.

    All blocks share the arrangements of labels, so that the largest |t| over all blocks has a null distribution too.

    Parameters
    ----------
    tables : mapping of block to array [S, F]
    design : Design
        Labels and exchangeability blocks; folds and arrangements are not used.
    n_permutations, seed : int, default 1000 and 0
        As in `neurosae.inference.max_t`.
    alpha : float, default 0.05
        Level of the corrected p.

    Returns
    -------
    DataFrame
        One row per block: `block`, `features` (that vary), `significant_in_block` and `significant` (corrected over
        all blocks), and of the strongest feature its number `feature`, `t`, `d` and `p_fwe` (over all blocks).

    Raises
    ------
    UserError
        No blocks; what `neurosae.inference.max_t` refuses.

    References
    ----------
    Westfall & Young (1993), Resampling-based multiple testing.

    Examples
    --------
    >>> from neurosae.inference.design import make_design
    >>> pair_S, rng = np.repeat(np.arange(20), 2), np.random.default_rng(0)
    >>> design = make_design([1, -1] * 20, pair_S, pair_S, "pairs")
    >>> tables = {block: rng.normal(size=(40, 50)) for block in (0, 1)}
    >>> tables[1][:, 7] += 2 * design.labels_S
    >>> contrast_by_block(tables, design)[["block", "significant", "feature"]].to_numpy().tolist()[1]
    [1, 1, 7]
    """
    blocks = ordered(tables)
    tests = {
        block: max_t(tables[block], design.labels_S, design.blocks_S, design.design, n=n_permutations, seed=seed)
        for block in blocks
    }
    largest_B = np.sort(np.max([test.null_max_B for test in tests.values()], axis=0))
    rows = []
    for block, test in tests.items():
        observed, size_F = test.observed, np.abs(test.observed.t)
        reached_F = len(largest_B) - np.searchsorted(largest_B, size_F * (1 - TIE))
        p_F = np.where(observed.valid, (reached_F + 1) / (len(largest_B) + 1), 1.0)
        best = int(np.argmax(size_F))
        rows.append(
            {
                "block": block,
                "features": int(observed.valid.sum()),
                "significant_in_block": int((test.p_fwe <= alpha).sum()),
                "significant": int((p_F <= alpha).sum()),
                "feature": best,
                "t": float(observed.t[best]),
                "d": float(observed.d[best]),
                "p_fwe": float(p_F[best]),
            }
        )
    return pd.DataFrame(rows)


def region_by_block(
    heard: Mapping[int, Responses],
    stimuli: StimulusSet,
    contrast: str | Contrast | None = None,
    *,
    k: int = 32,
    pooling: Pooling = "mean",
    seed: int = 0,
) -> pd.DataFrame:
    """Localize a region of k features in every block by itself, and measure it on the other half of the items.

    Parameters
    ----------
    heard : mapping of block to Responses
    stimuli, contrast, k, pooling, seed
        As in `neurosae.univariate.region_profile`; one split of the items for all blocks.

    Returns
    -------
    DataFrame
        One row per block: `block`, `effect` (target minus foil in the mean of the region's features, each with the
        sign that it had when localized, in standard deviations of the localizing items: 0 on average where there is
        nothing, which the median of |d| would not be), `low`, `high` (95 % bootstrap over held-out groups), `n`
        (held-out stimuli).

    Raises
    ------
    UserError
        As in `neurosae.univariate.region_profile`.
    """
    about: dict[str, Any] = {"k": k, "pooling": pooling, "seed": seed}
    profiles = [
        region_profile({Site.parse(heard[block].site): heard[block]}, stimuli, contrast, **about).assign(block=block)
        for block in ordered(heard)
    ]
    return pd.concat(profiles, ignore_index=True)


def ordered(by_block: Mapping[int, Any]) -> Sequence[int]:
    """The blocks, ascending, whatever the order in which they were computed; refuse none at all."""
    if not by_block:
        raise UserError("No blocks to sweep over", where="blocks")
    return sorted(by_block)


def block_name(block: int) -> str:
    """What to call a place on the axis of blocks.

    >>> block_name(-1), block_name(3)
    ('the token embeddings', 'block 3')
    """
    return "the token embeddings" if block == EMBEDDING else f"block {block}"
