"""Figures of steering: functions that take an `Axes` (or make one) and return it."""

from __future__ import annotations

import seaborn as sns
from matplotlib.axes import Axes

from neurosae.plots.style import axes_or_new, something_of, write_title
from neurosae.steering.causal import CausalEffect

_CONTROLS = {"random directions": ("0.3", "o"), "random features": ("#009E73", "s")}


def dose_response(effect: CausalEffect, *, colour: str = "#D55E00", title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the shift of the preference over the dose, with 95 % intervals, and the range of every control.

    Parameters
    ----------
    effect : CausalEffect
    colour : str, optional
        Of the ensemble.
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No dose.
    """
    table = something_of(effect.table, ["dose", "n_pairs", "shift", "low", "high", "reason"], "dose-response")
    n_pairs = int(table["n_pairs"].iloc[0])
    ax = axes_or_new(ax, 5.2, 3.6)
    ax.axhline(0, color="0.4", lw=1)
    ax.axvline(0, color="0.85", lw=1, zorder=0)
    for offset, (name, rows) in enumerate(effect.controls.groupby("control", sort=True), start=1):
        shade, marker = _CONTROLS[str(name)]
        x = rows["dose"] + 0.02 * offset
        ax.vlines(x, rows["least"], rows["most"], color=shade, lw=4, alpha=0.5)
        ax.plot(x, rows["mean"], marker, color=shade, ms=5, label=f"{name} (n = {rows['n'].iloc[0]}): mean and range")
    ax.plot(table["dose"], table["shift"], "-o", color=colour, ms=6, label="ensemble")
    known = table["reason"] == ""
    ax.vlines(table["dose"][known], table["low"][known], table["high"][known], color=colour, lw=1.5)
    ax.set_xlabel("dose (quantile of the non-zero activation;\nnegative: towards the foil)")
    ax.set_ylabel("shift of log p(target ending)\n- log p(foil ending), nats per token")
    write_title(ax, title, f"n = {n_pairs} held-out pairs (line: 95 % interval)")
    ax.set_xticks([-1, -0.5, 0, 0.5, 1] if table["dose"].min() < 0 else [0, 0.25, 0.5, 0.75, 1])
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.28))
    sns.despine(ax=ax)
    return ax
