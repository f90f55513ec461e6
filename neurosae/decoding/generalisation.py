"""Does what was learned in one place hold in another? Transfer over crossed factors and over blocks, and controls.

A selector and a small ensemble are fitted in one *context* and tested in every context: the level of a factor that is
crossed with the contrast (cross-decoding: success learned from facts, tested on hypotheses), or the block at which the
neurons are read (a decision that holds at other blocks uses a code that does not change in between). Every cell of the
matrix uses the same folds, and every row the same training sets, so that cells off the diagonal compare with those on
it; held-out items and whatever shares a group with them are in no training set, in whichever context. Where levels
differ in size so do the training sets of different rows (`n_train`).

Standardisation and weights are those of the training context. Another context may shift all decisions alike: balanced
accuracy, which decides at 0, counts that as a failure, the AUROC does not and is the primary outcome.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from neurosae.decoding.ensembles import Array
from neurosae.decoding.transfer import Transfer, make_method, transfer_matrix
from neurosae.errors import UserError, unknown_name
from neurosae.inference.design import Design, make_folds
from neurosae.responses import Pooling, Responses
from neurosae.sites import Site
from neurosae.stimuli import StimulusSet
from neurosae.stimuli.contrasts import Contrast

__all__ = ["Transfer", "block_transfer", "cross_decode", "crossed_factors", "crossed_levels", "shuffled_like"]

RESIDUAL = ("resid_pre", "resid_post")
"""Streams whose neurons mean the same at every block."""
COLUMNS = ("domain", "template", "wording")
"""Columns of a stimulus table, besides its factors, whose entries can serve as levels."""
_SAMPLE = 2000  # tokens on which the firing rates of a shuffled SAE are matched


def crossed_factors(stimuli: StimulusSet, contrast: str | Contrast | None = None) -> tuple[str, ...]:
    """Factors on which the contrast does not depend.

    Examples
    --------
    >>> from neurosae import stimuli
    >>> crossed_factors(stimuli.load("valence"), "valence")
    ('factuality',)
    """
    contrast = contrast if isinstance(contrast, Contrast) else stimuli.contrast(contrast)
    return tuple(factor for factor in stimuli.factors if factor not in contrast.factors)


def crossed_levels(stimuli: StimulusSet, across: str, contrast: str | Contrast | None = None) -> NDArray[Any]:
    """Level of a crossed factor (or domain, template, wording) for the stimuli to which a contrast gives a label.

    Raises
    ------
    UserError
        The contrast depends on that factor, there is no such factor, or a stimulus has no entry.

    Examples
    --------
    >>> from neurosae import stimuli
    >>> np.unique(crossed_levels(stimuli.load("valence"), "factuality", "valence")).tolist()
    ['factual', 'hypothetical']
    """
    contrast = contrast if isinstance(contrast, Contrast) else stimuli.contrast(contrast)
    known = (*crossed_factors(stimuli, contrast), *COLUMNS)
    if across not in known:
        raise unknown_name("crossed factor", across, known, where=f"contrast '{contrast.name}'")
    level_S = stimuli.table[across].iloc[contrast.labels(stimuli.table)[0]]
    if level_S.isna().any():
        raise UserError(f"{int(level_S.isna().sum())} stimuli have no {across}", where=stimuli.name)
    return level_S.astype(str).to_numpy(dtype=object)


def cross_decode(
    X_SF: Any,
    design: Design,
    levels_S: ArrayLike,
    *,
    selector: str = "t",
    k: int = 8,
    ensemble: str = "logistic_l2",
    seed: int = 0,
    block_size: int = 256,
) -> Transfer:
    """Train at each level of a crossed factor and test at each, in both directions and for all pairs of levels.

    Parameters
    ----------
    X_SF : array or scipy sparse array [S, F]
        Pooled responses; used as dense float64.
    design : Design
        Labels, groups and permutations (`neurosae.inference.design.make_design`). As many folds and repeats as it has
        are drawn anew, so that every fold holds out both conditions of every level.
    levels_S : array [S]
        Level of each stimulus, such as from `crossed_levels`.
    selector : str, default 't'
        One of `neurosae.decoding.selection.SELECTORS` without profiles; it sees the training stimuli at one level.
    k : int, default 8
        Features to select.
    ensemble : str, default 'logistic_l2'
        One of `neurosae.decoding.ensembles.ENSEMBLES`.
    seed : int, default 0
        Of the folds, and of the selector 'random'.
    block_size : int, default 256
        Label vectors processed together; bounds memory, changes no result.

    Returns
    -------
    Transfer

    Raises
    ------
    UserError
        One level; a level with fewer groups of a condition than folds; what does not fit or is not finite.

    References
    ----------
    Kaplan, Man & Greening (2015), Frontiers in Human Neuroscience 9.

    Examples
    --------
    >>> from neurosae.inference.design import make_design
    >>> item_S, label_S, level_S = np.repeat(np.arange(10), 4), np.tile([1, -1, 1, -1], 10), np.tile(list("aabb"), 10)
    >>> block_S = np.char.add(item_S.astype(str), level_S)
    >>> design = make_design(label_S, item_S, block_S, "pairs", n_repeats=2, n_permutations=20)
    >>> X_SF = np.random.default_rng(0).normal(size=(40, 5)) + 4 * label_S[:, None]
    >>> cross_decode(X_SF, design, level_S, k=2).cells[["train", "test", "auroc"]].values.tolist()
    [['a', 'a', 1.0], ['a', 'b', 1.0], ['b', 'a', 1.0], ['b', 'b', 1.0]]
    """
    levels_S = np.asarray(levels_S)
    if levels_S.shape != design.labels_S.shape:
        raise UserError(f"{len(design.labels_S)} labels, but levels of shape {levels_S.shape}")
    if pd.isna(levels_S).any():
        raise UserError(f"Stimulus {int(np.argmax(pd.isna(levels_S)))} has no level", where="levels")
    names, level_S = np.unique(levels_S, return_inverse=True)
    if len(names) < 2:
        raise UserError(f"There is one level only, '{names[0]}'", allowed="a factor with two or more")
    n_repeats, n_splits = len(design.folds_RS), int(design.folds_RS.max()) + 1
    for level, side in itertools.product(range(len(names)), (1, -1)):
        n_groups = len(np.unique(design.groups_S[(level_S == level) & (design.labels_S == side)]))
        if n_groups < n_splits:
            raise UserError(
                f"Level '{names[level]}' has {n_groups} groups of stimuli in a condition, fewer than {n_splits} folds",
                suggestion="Write more items or use fewer folds",
            )
    folds_RS = make_folds(2 * level_S + (design.labels_S > 0), design.groups_S, n_splits, n_repeats, seed)
    _check_folds(folds_RS, 2 * level_S + (design.labels_S > 0))
    method = make_method(selector, k, ensemble, design, seed, block_size)
    X_SF = _table(X_SF, len(level_S))
    rows_CS = level_S == np.arange(len(names))[:, None]
    return transfer_matrix(names.tolist(), [X_SF] * len(names), rows_CS, replace(design, folds_RS=folds_RS), method)


def block_transfer(
    responses: Mapping[Site, Responses],
    rows: ArrayLike,
    design: Design,
    *,
    pooling: Pooling = "mean",
    selector: str = "t",
    k: int = 8,
    ensemble: str = "logistic_l2",
    seed: int = 0,
    block_size: int = 256,
) -> Transfer:
    """Train on the neurons of each block and test on the same neurons at every block, on held-out items.

    Parameters
    ----------
    responses : mapping of Site to Responses
        Neurons of one residual stream (before or after the block) at two blocks or more.
    rows : array of int [S]
        Rows of the stimulus table that the design is about.
    design : Design
        Labels, folds, groups and permutations of these rows.
    pooling : default 'mean'
        See `neurosae.responses.Responses.pool`.
    selector, k, ensemble, seed, block_size
        As in `cross_decode`.

    Returns
    -------
    Transfer
        Contexts are the numbers of the blocks.

    Raises
    ------
    UserError
        Latents, whose numbers mean nothing at another block; other streams or more than one; one block; stimuli
        without a value.

    References
    ----------
    King & Dehaene (2014), Trends in Cognitive Sciences 18 (with time in the place of blocks).
    """
    sites = sorted(responses)
    for site in sites:
        features = responses[site].source.get("features")
        if features != "neurons":
            raise UserError(
                f"{site} holds {features}: only neurons of the residual stream share their axes over blocks",
                suggestion="Use the neurons that the SAE reads",
            )
    streams = {site.stream for site in sites}
    if len(sites) < 2 or len(streams) > 1 or not streams <= set(RESIDUAL):
        raise UserError(
            f"Transfer over {', '.join(map(str, sites)) or 'no site'}",
            allowed=f"two blocks or more of one residual stream ({' or '.join(RESIDUAL)})",
        )
    sizes = {(len(responses[site].stimuli), responses[site].n_features) for site in sites}
    if len(sizes) > 1:
        raise UserError("The responses differ in their stimuli or in the number of their features")
    ((n_stimuli, _),) = sizes
    rows = np.asarray(rows)
    if rows.dtype.kind not in "iu" or rows.shape != design.labels_S.shape or not set(rows) <= set(range(n_stimuli)):
        raise UserError(
            f"{rows.dtype} of shape {rows.shape}",
            where="rows",
            allowed=f"a row of the stimulus table, 0 to {n_stimuli - 1}, for each of {len(design.labels_S)} labels",
        )
    tables = []
    for site in sites:
        tables.append(_table(responses[site].pool(pooling).of(rows), len(design.labels_S)))
    everywhere_CS = np.ones((len(sites), len(rows)), dtype=bool)
    method = make_method(selector, k, ensemble, design, seed, block_size)
    return transfer_matrix([site.block for site in sites], tables, everywhere_CS, design, method)


def shuffled_like(sae: Any, sample_TD: torch.Tensor, seed: int = 0) -> Any:
    """Control: each latent keeps the weights it reads with, but each of them reads another, random neuron.

    Norms and the distribution of weights are those of the trained SAE, and so is the firing rate of every latent on the
    sample, ties aside; which neurons belong together is lost.

    Parameters
    ----------
    sae : sae_lens.SAE
        The trained one.
    sample_TD : torch.Tensor of shape (T, D)
        Clean activations on which firing rates are made equal; of more than 2,000 tokens, so many that are evenly
        spaced.
    seed : int, default 0

    Returns
    -------
    sae_lens.SAE
        A JumpReLU SAE that reads centred activations, with one threshold per latent (not below 0), in float32.
    """
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    weights_DF = sae.W_enc.detach().float()
    rows = np.linspace(0, len(sample_TD) - 1, min(len(sample_TD), _SAMPLE)).round().astype(int)
    sample_TD = sample_TD[rows.tolist()].to(weights_DF.device, torch.float32)
    control = JumpReLUSAE(
        JumpReLUSAEConfig(d_in=sae.cfg.d_in, d_sae=sae.cfg.d_sae, apply_b_dec_to_input=True, metadata=sae.cfg.metadata)
    ).to(weights_DF.device)
    generator = torch.Generator().manual_seed(seed)
    order_FD = torch.rand(weights_DF.T.shape, generator=generator).argsort(dim=1).to(weights_DF.device)
    with torch.no_grad():
        silent_F = (sae.encode(sample_TD.to(sae.W_enc.dtype)) <= 0).sum(dim=0)
        control.W_enc.copy_(weights_DF.T.gather(1, order_FD).T)
        control.W_dec.copy_(sae.W_dec)
        control.b_enc.zero_()
        control.b_dec.copy_(sample_TD.mean(dim=0))
        sorted_FT = (control.W_enc.T @ (sample_TD - control.b_dec).T).sort(dim=1).values
        threshold_F = sorted_FT.gather(1, (silent_F - 1).clamp(min=0)[:, None])[:, 0]
        control.threshold.copy_(threshold_F.clamp(min=0))
    return control.eval()


def _table(X_SF: Any, n_stimuli: int) -> Array:
    X_SF = np.asarray(X_SF.toarray() if hasattr(X_SF, "toarray") else X_SF, dtype=np.float64)
    if X_SF.ndim != 2 or len(X_SF) != n_stimuli:
        raise UserError(f"Responses of shape {X_SF.shape} for {n_stimuli} labelled stimuli")
    if not np.isfinite(X_SF).all():
        s, f = np.argwhere(~np.isfinite(X_SF))[0]
        raise UserError(f"the response is {X_SF[s, f]}", where=f"stimulus {s}, feature {f}", allowed="finite numbers")
    return X_SF


def _check_folds(folds_RS: NDArray[np.int64], cell_S: NDArray[Any]) -> None:
    """Every fold of every repeat must hold out every condition of every level."""
    for fold_S in folds_RS:
        if (pd.crosstab(fold_S, cell_S) == 0).any(axis=None):
            raise UserError("A fold holds out only one condition of a level", suggestion="Use fewer folds")
