"""Figures of the scorecard: functions that take an `Axes` (or make one) and return it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from neurosae.plots.style import LABELS, PALETTE, selector_label


def by_method(
    card: pd.DataFrame, value: str, low: str, high: str, *, label: str, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw one outcome of every variant of a scorecard, selectors in rows, with 95 % intervals.

    Parameters
    ----------
    card : DataFrame
        Rows of one k; those without the outcome are left out.
    value, low, high : str
        Columns of the outcome and its interval.
    label : str
        Of the axis, with the unit and n.
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    shown = card[card[value].notna()]
    order = shown.groupby("selector")[value].max().sort_values().index.tolist()
    ax = ax or plt.subplots(figsize=(7.5, 0.42 * len(order) + 1.6))[1]
    names = [name for name in PALETTE if name in set(shown["representation"])]
    for i, name in enumerate(names):
        rows = shown[shown["representation"] == name]
        y = np.array([order.index(s) for s in rows["selector"]]) + (i - (len(names) - 1) / 2) * 0.16
        known = (rows[low].notna() & rows[high].notna()).to_numpy()
        ax.hlines(y[known], rows[low][known], rows[high][known], color=PALETTE[name], lw=1.5)
        ax.plot(rows[value], y, "o", ms=5, color=PALETTE[name], label=LABELS[name])
    ax.set_yticks(range(len(order)), [selector_label(name) for name in order])
    ax.set_xlabel(label)
    ax.set_title(title, loc="left", fontsize=10)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax


def retrieval(card: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """Average precision of every variant on graded sentences, beside that of a random order."""
    ax = by_method(
        card,
        "discovery_ap",
        "discovery_low",
        "discovery_high",
        label="average precision on graded sentences (line: 95 % interval; dotted: chance)",
        title=title,
        ax=ax,
    )
    ax.axvline(float(card["discovery_chance"].dropna().iloc[0]), color="0.4", lw=1, ls=":")
    ax.set_xlim(left=0)
    return ax


def target_score(card: pd.DataFrame, average: float | None, title: str = "", ax: Axes | None = None) -> Axes:
    """Mean grade of the sentences that drive each variant, beside the average of all sentences where it is known."""
    ax = by_method(
        card,
        "target_score",
        "target_low",
        "target_high",
        label="mean grade of the strongest sentences, 0 to 3 (line: 95 % interval; dotted: all sentences)",
        title=title,
        ax=ax,
    )
    if average is not None:
        ax.axvline(average, color="0.4", lw=1, ls=":")
    ax.set_xlim(left=0)
    return ax
