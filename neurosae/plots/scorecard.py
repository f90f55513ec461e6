"""Figures of the scorecard: functions that take an `Axes` (or make one) and return it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from neurosae.plots.style import (
    BAND,
    LABELS,
    MARKERS,
    PALETTE,
    axes_or_new,
    selector_label,
    something_of,
    write_title,
)

_STEP = 0.16  # between two representations of one selector; selectors are 1 apart


def by_method(
    card: pd.DataFrame,
    value: str,
    low: str,
    high: str,
    *,
    label: str,
    title: str = "",
    chance: tuple[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one outcome of every variant of a scorecard, selectors in rows, with 95 % intervals.

    Parameters
    ----------
    card : DataFrame
        Rows of one k: `selector`, `representation` and the columns named below; those without the outcome are left
        out.
    value, low, high : str
        Columns of the outcome and its interval.
    label : str
        Of the axis, with the unit and n.
    title : str, optional
    chance : tuple of two str, optional
        Columns of the range under permuted labels, drawn grey.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No row has the outcome, or a column is missing.

    Examples
    --------
    >>> card = pd.DataFrame({"selector": ["t"], "representation": ["sae"], "ap": [0.3], "low": [0.2], "high": [0.4]})
    >>> by_method(card, "ap", "low", "high", label="average precision").get_xlabel()
    'average precision'
    """
    what = f"figure of {value} by method"
    something_of(card, ["selector", "representation", value, low, high, *(chance or ())], what)
    shown = something_of(card[card[value].notna()], [], what)
    order = shown.groupby("selector")[value].max().sort_values().index.tolist()
    ax = axes_or_new(ax, 7.5, 0.42 * len(order) + 1.6)
    names = [name for name in PALETTE if name in set(shown["representation"])]
    for i, name in enumerate(names):
        rows = shown[shown["representation"] == name]
        y = np.array([order.index(s) for s in rows["selector"]]) + (i - (len(names) - 1) / 2) * _STEP
        if chance:
            ax.barh(y, rows[chance[1]] - rows[chance[0]], 0.14, rows[chance[0]], **BAND)
        known = (rows[low].notna() & rows[high].notna()).to_numpy()
        ax.hlines(y[known], rows[low][known], rows[high][known], color=PALETTE[name], lw=1.5)
        ax.plot(rows[value], y, MARKERS[name], ms=5, color=PALETTE[name], label=LABELS[name])
    ax.set_yticks(range(len(order)), [selector_label(name) for name in order])
    ax.set_ylim(-0.7, len(order) - 0.3)
    ax.set_xlabel(label)
    write_title(ax, title)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax


def retrieval(card: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """Average precision of every variant on graded sentences, beside that of a random order.

    Parameters
    ----------
    card : DataFrame
        As `by_method` takes it, with `discovery_ap`, `discovery_low`, `discovery_high`, `discovery_chance`.
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
    """
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
    """Mean grade of the sentences that drive each variant, beside the average of all sentences where it is known.

    Parameters
    ----------
    card : DataFrame
        As `by_method` takes it, with `target_score`, `target_low`, `target_high`.
    average : float or None
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    dotted = "" if average is None else "; dotted: all sentences"
    ax = by_method(
        card,
        "target_score",
        "target_low",
        "target_high",
        label=f"mean grade of the strongest sentences, 0 to 3 (line: 95 % interval{dotted})",
        title=title,
        ax=ax,
    )
    if average is not None:
        ax.axvline(average, color="0.4", lw=1, ls=":")
    ax.set_xlim(left=0)
    return ax
