"""Figures of generalisation: functions that take an `Axes` (or make one) and return it."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from neurosae.plots.style import axes_or_new, counted, something_of, write_title

ALPHA = 0.05


def transfer_map(cells: pd.DataFrame, contexts: str, title: str = "", ax: Axes | None = None) -> Axes:
    """Held-out AUROC of every pair of a training and a test context; what was tested where it was learned is framed.

    Parameters
    ----------
    cells : DataFrame
        Of a `neurosae.decoding.generalisation.Transfer`: `train`, `test`, `auroc`, `auroc_p`, `n_test`.
    contexts : str
        What the contexts are, for the axes: a factor, or "block".
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
        A star marks cells with permutation p < .05, not corrected for their number.

    Raises
    ------
    UserError
        No cell, or a column is missing.
    """
    something_of(cells, ["train", "test", "auroc", "auroc_p", "n_test"], "transfer map")
    names = list(dict.fromkeys(cells["train"]))
    auroc = cells.pivot(index="train", columns="test", values="auroc").loc[names, names]
    p = cells.pivot(index="train", columns="test", values="auroc_p").loc[names, names]
    shown = auroc.map("{:.2f}".format) + (p < ALPHA).replace({True: "*", False: ""})
    ax = axes_or_new(ax, 0.72 * len(names) + 2.6, 0.6 * len(names) + 1.8)
    sns.heatmap(
        auroc, vmin=0, vmax=1, cmap="coolwarm", square=True, annot=shown, fmt="", annot_kws={"size": 8}, ax=ax,
        linewidths=0.5, linecolor="white", cbar_kws={"label": "held-out AUROC", "shrink": 0.8},
    )  # fmt: skip
    for i in range(len(names)):
        ax.add_patch(Rectangle((i, i), 1, 1, fill=False, ec="black", lw=1.2, clip_on=False))
    labels = [str(name).replace("_", " ") for name in names]
    long = max(map(len, labels)) > 4
    ax.set_xticklabels(labels, rotation=40 if long else 0, ha="right" if long else "center", rotation_mode="anchor")
    ax.set_yticklabels(labels, rotation=0)
    ax.set_xlabel(f"tested at: {contexts}")
    ax.set_ylabel(f"trained at: {contexts}")
    write_title(ax, title, f"n = {counted(cells['n_test'])} stimuli per cell; * p < .05, uncorrected", size=9)
    return ax
