"""Where in the language model the two sides differ: every neuron of every block, from one pass over the stimuli."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from neurosae.inference import max_t, permutation_p
from neurosae.inference.linear import MaxT
from neurosae.models import LanguageModel
from neurosae.representations import Bench, Source
from neurosae.sites import Site
from neurosae.stimuli import LabelledContrast, StimulusSet

LEVEL = 0.05
MOST_BYTES = 2**30
"""Of activations that one pass may hold; more blocks than that are read in several passes."""


class BlockMap(NamedTuple):
    """What tests of every neuron of every block found.

    Attributes
    ----------
    blocks : DataFrame
        One row per block: `block`, `n_features` (valid ones), `n_significant` (corrected over all blocks),
        `n_significant_within` (corrected within the block alone), `share_significant`, `largest_t` (magnitude),
        `feature` (that has it), `d` (its effect in standard deviations; within pairs d_z), `p_fwe` (over all blocks),
        `n` (stimuli).
    top : DataFrame
        The strongest tests: `block`, `feature`, `t`, `d`, `effect`, `p`, `p_fwe`, `p_fwe_block`.
    """

    blocks: pd.DataFrame
    top: pd.DataFrame


def listen_everywhere(
    stimuli: StimulusSet, source: Source, language_model: LanguageModel, *, most_bytes: int = MOST_BYTES
) -> Bench:
    """A bench that has heard the residual stream after every block, read from the cache piece by piece.

    It is a bench of its own: what is clean depends on all the blocks listened to.

    Parameters
    ----------
    stimuli, source
        As of any `Bench`.
    language_model : LanguageModel
        The one that the source names.
    most_bytes : int, default 1 GiB
        Activations held at a time.
    """
    words = sum(map(len, language_model.token_ids(stimuli.table["text"].tolist())))
    at_once = max(1, most_bytes // (4 * words * language_model.d_model))
    sites = [Site(block) for block in range(language_model.n_blocks)]
    for start in range(0, len(sites), at_once):
        Bench(stimuli, source, language_model=language_model).listen(sites[start : start + at_once])
    bench = Bench(stimuli, source, language_model=language_model)
    bench.listen(sites)
    return bench


def map_blocks(
    bench: Bench,
    sides: LabelledContrast,
    blocks: list[int],
    *,
    n_top: int = 50,
    n_permutations: int = 1000,
    seed: int = 0,
) -> BlockMap:
    """Test the contrast in every neuron of the residual stream after these blocks, pooled over each text (mean).

    All blocks share their arrangements of the labels, so that the largest |t| over all of them has a null distribution.

    Parameters
    ----------
    bench : Bench
        That has listened at these blocks.
    sides : LabelledContrast
    blocks : list of int
    n_top : int, default 50
        Tests in the second table.
    n_permutations, seed : int, default 1000 and 0

    Returns
    -------
    BlockMap

    Raises
    ------
    UserError
        As `neurosae.inference.max_t`; stimuli without a clean token.

    References
    ----------
    Westfall & Young (1993), Resampling-based multiple testing; Winkler et al. (2015), NeuroImage 123.
    """
    tests = {block: _test(bench, sides, block, n_permutations, seed) for block in blocks}
    null_B = np.max([test.null_max_B for test in tests.values()], axis=0)
    rows, tables = [], []
    for block, test in tests.items():
        found, valid_F = test.observed, test.observed.valid
        p_fwe_F = np.where(valid_F, permutation_p(np.abs(found.t), np.tile(null_B[:, None], len(valid_F))), 1.0)
        largest = int(np.abs(found.t).argmax())
        rows.append(
            {
                "block": block,
                "n_features": int(valid_F.sum()),
                "n_significant": int((p_fwe_F <= LEVEL).sum()),
                "n_significant_within": int((test.p_fwe <= LEVEL).sum()),
                "share_significant": float((p_fwe_F <= LEVEL).sum() / max(1, valid_F.sum())),
                "largest_t": float(np.abs(found.t[largest])),
                "feature": largest,
                "d": float(found.d[largest]),
                "p_fwe": float(p_fwe_F[largest]),
                "n": len(sides.rows),
            }
        )
        columns = {"t": found.t, "d": found.d, "effect": found.effect, "p": test.p}
        table = pd.DataFrame({"block": block, "feature": np.arange(len(valid_F)), **columns})
        tables.append(table.assign(p_fwe=p_fwe_F, p_fwe_block=test.p_fwe)[valid_F])
    strongest = pd.concat(tables, ignore_index=True)
    order = (-strongest["t"].abs()).argsort(kind="stable")[:n_top]
    return BlockMap(pd.DataFrame(rows), strongest.iloc[order].reset_index(drop=True))


def _test(bench: Bench, sides: LabelledContrast, block: int, n_permutations: int, seed: int) -> MaxT:
    X_SF = bench.matrix(sides, "raw", block, "mean")
    return max_t(X_SF, sides.labels_S, sides.blocks_S, sides.design, n=n_permutations, seed=seed, alpha=LEVEL)
