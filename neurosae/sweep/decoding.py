"""Decoding block by block: one design for all blocks, so that the best of them can be compared with the best chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from neurosae.decoding import DecodingResult, decode
from neurosae.decoding.selection import ALL
from neurosae.errors import UserError
from neurosae.inference import permutation_p
from neurosae.inference.design import Design
from neurosae.progress import progress_bar
from neurosae.rsa.results import Table
from neurosae.sweep.contrast import ordered

Array = NDArray[np.float64]

SELECTIONS = {ALL: 0, "t": 8, "rsa_category": 8}
"""Default decoders: selector, and how many features it selects in every training set (all features need no number)."""


@dataclass(frozen=True, eq=False)
class BlockDecoding:
    """Held-out decoding of L blocks."""

    table: pd.DataFrame
    """One row per block and selector: `block`, `selector`, `k`, `auroc` (mean over folds), `low`, `high` (95 %, Nadeau
    & Bengio 2003), `p` and `p_fwe` (permutation; the largest AUROC over blocks), `chance_fwe` (what the largest AUROC
    over blocks reaches in a share alpha of the permutations, the same for all blocks of a selector), `new_domains`
    (mean AUROC over domains left out in turn), `new_domains_lowest` and `new_domains_highest` (of a single domain),
    `n_domains` (0: the stimuli have no domains, and these three are 0.5), `n` (stimuli)."""
    decision_LS: Array
    """Mean held-out decision of every stimulus under the first selector."""
    blocks_L: NDArray[np.intp]
    n_permutations: int


def decode_by_block(
    tables: Mapping[int, Table],
    design: Design,
    selections: Mapping[str, int] = SELECTIONS,
    *,
    ensemble: str = "logistic_l2",
    alpha: float = 0.05,
    seed: int = 0,
    n_jobs: int = 1,
    progress: bool = False,
) -> BlockDecoding:
    """Decode the labels from every block, with chance corrected over blocks.

    Folds and permutations are those of the design in every block: the largest AUROC over blocks under permutation `b`
    is one draw of the best that chance can do anywhere.

    Parameters
    ----------
    tables : mapping of block to array [S, F]
    design : Design
    selections : mapping of selector to k
        As in `neurosae.decoding.decode`; ``'all'`` uses every feature.
    ensemble : str, default 'logistic_l2'
    alpha : float, default 0.05
        Level of `chance_fwe`.
    seed : int, default 0
        Of selectors that draw at random.
    n_jobs : int, default 1
        Processes; the result is bitwise the same for any number.
    progress : bool, default False

    Returns
    -------
    BlockDecoding

    Raises
    ------
    UserError
        No blocks; what `neurosae.decoding.decode` refuses.

    Examples
    --------
    >>> from neurosae.inference.design import make_design
    >>> pair_S, rng = np.repeat(np.arange(20), 2), np.random.default_rng(0)
    >>> design = make_design([1, -1] * 20, pair_S, pair_S, "pairs", n_repeats=2)
    >>> tables = {0: rng.normal(size=(40, 9)), 1: rng.normal(size=(40, 9)) + 2 * design.labels_S[:, None]}
    >>> decode_by_block(tables, design, {"all": 0}).table["auroc"].round(1).tolist()[1]
    1.0
    """
    blocks = ordered(tables)
    jobs = [(block, selector, k) for selector, k in selections.items() for block in blocks]
    work = (joblib.delayed(_decode)(tables[block], design, selector, k, ensemble, seed) for block, selector, k in jobs)
    results = progress_bar(
        joblib.Parallel(n_jobs, return_as="generator")(work),
        total=len(jobs),
        desc="decoding",
        unit="block",
        shown=progress,
    )
    found = dict(zip(((selector, block) for block, selector, _ in jobs), results, strict=True))
    rows: list[dict[str, Any]] = []
    for selector in selections:
        of_blocks = [found[selector, block] for block in blocks]
        largest_B = _null(of_blocks).max(axis=0)
        limit = float(np.quantile(largest_B, 1 - alpha, method="higher"))
        rows += [
            {"block": block, **_row(result, largest_B), "chance_fwe": limit, "n": len(design.labels_S)}
            for block, result in zip(blocks, of_blocks, strict=True)
        ]
    first = [found[next(iter(selections)), block] for block in blocks]
    return BlockDecoding(
        pd.DataFrame(rows).sort_values("block", kind="stable", ignore_index=True),
        np.stack([result.decision_S for result in first]),
        np.array(blocks),
        len(design.arrangements_BS),
    )


def _decode(X_SF: Table, design: Design, selector: str, k: int, ensemble: str, seed: int) -> DecodingResult:
    """One block on one thread: sums are made in the same order, whatever the number of jobs."""
    with threadpool_limits(limits=1):
        n_permutations = len(design.arrangements_BS)
        return decode(X_SF, design, selector, [k], ensemble, n_permutations=n_permutations, seed=seed)[0]


def _null(results: list[DecodingResult]) -> Array:
    """AUROC of every block under every permutation, [L, B]."""
    nulls = [result.auroc.null_B for result in results]
    if len({len(null_B) for null_B in nulls}) > 1 or not len(nulls[0]):
        raise UserError("A permutation leaves no fold with both conditions", suggestion="Use fewer folds")
    return np.stack(nulls)


def _row(result: DecodingResult, largest_B: Array) -> dict[str, Any]:
    held_out, domains = result.auroc, _domains(result)
    return {
        "selector": result.selector,
        "k": result.k,
        "auroc": held_out.mean,
        "low": held_out.ci_low,
        "high": held_out.ci_high,
        "p": held_out.p,
        "p_fwe": float(permutation_p(held_out.mean, largest_B)),
        **domains,
    }


def _domains(result: DecodingResult) -> dict[str, Any]:
    """Mean over domains that were left out, and the lowest and highest of them."""
    scores_D = result.domain_scores["auroc"].dropna().to_numpy()
    if not len(scores_D):
        return {"new_domains": 0.5, "new_domains_lowest": 0.5, "new_domains_highest": 0.5, "n_domains": 0}
    return {
        "new_domains": float(scores_D.mean()),
        "new_domains_lowest": float(scores_D.min()),
        "new_domains_highest": float(scores_D.max()),
        "n_domains": len(scores_D),
    }
