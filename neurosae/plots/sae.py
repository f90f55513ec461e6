"""How the latents of an SAE are used."""

from __future__ import annotations

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from neurosae.errors import UserError
from neurosae.plots.style import PALETTE, axes_or_new, write_title


def firing_density(counts: np.ndarray, edges: np.ndarray, n_dead: int, n_tokens: int, ax: Axes | None = None) -> Axes:
    """How many latents fire how often.

    Parameters
    ----------
    counts, edges : ndarray of shape (bins,) and (bins + 1,)
        As `neurosae.sae.latents.density_histogram` makes them: latents by log10 of their firing density.
    n_dead : int
        Latents that never fired, which no bin holds.
    n_tokens : int
        Clean tokens measured.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> firing_density(np.array([2, 1]), np.array([-2.0, -1.0, 0.0]), n_dead=1, n_tokens=100).get_ylabel()
    'latents'
    """
    ax = axes_or_new(ax, 5, 3.2)
    ax.stairs(counts, edges, fill=True, color=PALETTE["sae"], alpha=0.8)
    ax.set_xlabel("log10 of the share of clean tokens on which a latent fires")
    ax.set_ylabel("latents")
    ax.set_ylim(0, 1.05 * max(counts.max(), 1))
    write_title(
        ax, f"Firing density ({counts.sum():,} latents; {n_dead:,} never fired)", f"n = {n_tokens:,} clean tokens"
    )
    sns.despine(ax=ax)
    return ax


def l0_histogram(tokens_by_l0: np.ndarray, ax: Axes | None = None) -> Axes:
    """How many latents are active at once.

    Parameters
    ----------
    tokens_by_l0 : ndarray of shape (F + 1,)
        Number of clean tokens with 0, 1, 2, ... active latents.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No token.

    Examples
    --------
    >>> l0_histogram(np.array([1, 0, 3])).get_title(loc="left")
    'L0: 1.5 on average (n = 4 clean tokens)'
    """
    if not tokens_by_l0.any():
        raise UserError("there is nothing to draw: no token was measured", where="histogram of L0")
    ax = axes_or_new(ax, 5, 3.2)
    largest = int(np.flatnonzero(tokens_by_l0).max())
    mean = float(np.average(np.arange(len(tokens_by_l0)), weights=tokens_by_l0))
    ax.stairs(tokens_by_l0[: largest + 1], np.arange(largest + 2) - 0.5, fill=True, color=PALETTE["sae"], alpha=0.8)
    ax.axvline(mean, color="0.2", lw=1, ls=":")
    ax.set_xlabel("active latents per token, L0 (dotted: mean)")
    ax.set_ylabel("clean tokens")
    write_title(ax, f"L0: {mean:.1f} on average (n = {tokens_by_l0.sum():,} clean tokens)")
    sns.despine(ax=ax)
    return ax
