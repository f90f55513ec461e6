"""The sweep over blocks and aligned positions: which token carries the concept, and from which block on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
from neurosae.responses import Alignment, Responses
from neurosae.sites import Site
from neurosae.stimuli import StimulusSet
from neurosae.stimuli.contrasts import Contrast
from neurosae.sweep.contrast import ordered
from neurosae.univariate import ContrastMap, compute_contrast
from neurosae.univariate.compute import MIN_STIMULI
from neurosae.univariate.questions import ask

Array = NDArray[np.float64]
Index = NDArray[np.intp]

ENSEMBLE = "mean_difference"
"""How all features are combined here: in closed form, as there are hundreds of cells."""


def sweep_positions(
    heard: Mapping[int, Responses],
    stimuli: StimulusSet,
    design: Design,
    contrast: str | Contrast | None = None,
    *,
    align: Alignment = "target",
    width: int = 16,
    n_permutations: int = 1000,
    alpha: float = 0.05,
    seed: int = 0,
    n_jobs: int = 1,
) -> tuple[pd.DataFrame, ContrastMap]:
    """Test and decode a contrast in every block and aligned position, corrected over all cells.

    Parameters
    ----------
    heard : mapping of block to Responses
    stimuli : StimulusSet
        Of the responses.
    design : Design
        Over the stimuli of the contrast, in the order of the table. Every cell uses its labels, folds and arrangements
        for the stimuli that have a token there.
    contrast : str or Contrast, optional
        Default: the first of the stimuli.
    align, width, n_permutations, alpha, seed
        As in `neurosae.univariate.compute_contrast`; decoding uses the arrangements of the design.
    n_jobs : int, default 1
        Processes; the result is bitwise the same for any number.

    Returns
    -------
    table : DataFrame
        One row per cell: `block`, `position` (tokens from the reference of the alignment), `n` (stimuli), `reason` (why
        a cell is masked, else empty), `auroc` (held out, all features combined by the difference of means), `p_fwe`
        (largest AUROC over cells), `significant` (features, corrected over all cells and features), `r2` (mean variance
        explained). Masked cells have AUROC 0.5, p 1 and 0 elsewhere.
    map : ContrastMap
        The contrast map that `significant` and `r2` come from.

    Raises
    ------
    UserError
        As in `compute_contrast`, such as no cell with enough stimuli.
    """
    blocks = ordered(heard)
    found = compute_contrast(
        {Site(block + 1, "resid_pre"): heard[block] for block in blocks},  # what leaves a block enters the next
        stimuli,
        contrast,
        pooling=None,
        align=align,
        width=width,
        height_control="fwe",
        alpha=alpha,
        n_permutations=n_permutations,
        seed=seed,
    )
    found = replace(found, blocks_L=found.blocks_L - 1, stream="resid_post")
    question = ask(stimuli, contrast, None, (), heard[blocks[0]], None)
    if len(question.rows_S) != len(design.labels_S):
        raise UserError(f"A design of {len(design.labels_S)} stimuli for {len(question.rows_S)}", where="design")
    table = found.cells().drop(columns=["masked", "valid"])
    defined_WS = heard[blocks[0]].profiles(align, width, slice(0, 1)).defined_SW.T  # tokens of all blocks coincide
    cells = [(members, cell_design(design, members)) for members in map(question.members, defined_WS)]
    table["reason"] = [reason for _ in blocks for reason in map(_why_not, (cut for _, cut in cells))]
    usable_W = np.array([not _why_not(cut) for _, cut in cells])
    if not usable_W.any():
        raise UserError("No position can be decoded", where="align", suggestion="Use fewer folds, or align to the end")
    work = (
        joblib.delayed(_decode_positions)(
            _window(heard[block], align, width, question.rows_S),
            [(w, *cells[w]) for w in np.flatnonzero(usable_W)],
            seed,
        )
        for block in blocks
    )
    decoded = [result for of_block in joblib.Parallel(n_jobs)(work) for result in of_block]
    auroc_C = np.array([result.auroc.mean for result in decoded])
    nulls = [result.auroc.null_B for result in decoded]
    if len({len(null_B) for null_B in nulls}) > 1:
        raise UserError("A permutation leaves no fold with both conditions in a cell", suggestion="Use fewer folds")
    used = (table["reason"] == "").to_numpy()
    table["auroc"], table["p_fwe"] = 0.5, 1.0
    table.loc[used, "auroc"] = auroc_C
    table.loc[used, "p_fwe"] = permutation_p(auroc_C, np.max(nulls, axis=0)[:, None])
    return table, found


def cell_design(design: Design, members: Index) -> Design:
    """The design of some of its stimuli: the same labels, folds and arrangements."""
    return replace(
        design,
        labels_S=design.labels_S[members],
        groups_S=design.groups_S[members],
        blocks_S=design.blocks_S[members],
        folds_RS=design.folds_RS[:, members],
        domains_S=None,
        arrangements_BS=design.arrangements_BS[:, members],
    )


def _window(responses: Responses, align: Alignment, width: int, rows_S: Index) -> NDArray[np.float32]:
    return responses.profiles(align, width).values_SWF[rows_S]


def _why_not(design: Design) -> str:
    """Why a cell with these stimuli cannot be decoded, else empty."""
    if len(design.labels_S) < MIN_STIMULI:
        return "too few stimuli"
    for fold_S in design.folds_RS:
        for side in (1, -1):
            if len(np.unique(fold_S[design.labels_S == side])) < design.folds_RS.max() + 1:
                return "a fold without both conditions"
    return ""


def _decode_positions(
    window_SWF: NDArray[np.float32], cells: list[tuple[int, Index, Design]], seed: int
) -> list[DecodingResult]:
    """All positions of one block, on one thread."""
    with threadpool_limits(limits=1):
        return [
            decode(window_SWF[members, w], cut, ALL, [0], ENSEMBLE, n_permutations=len(cut.arrangements_BS), seed=seed)[
                0
            ]
            for w, members, cut in cells
        ]
