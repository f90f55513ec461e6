"""Method variants against each other: scores, choices, overlap, claims."""

from __future__ import annotations

import textwrap
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.axes_grid1 import make_axes_locatable

from neurosae.decoding.selection import UNSELECTED
from neurosae.plots.scorecard import by_method
from neurosae.plots.style import (
    BAND,
    LABELS,
    PALETTE,
    axes_or_new,
    selector_label,
    something_of,
    write_title,
)

_SCORE = ["auroc", "auroc_ci_low", "auroc_ci_high", "auroc_chance_low", "auroc_chance_high"]
_MARKERS = "osD^vP*Xh<>dp"
_LONGEST = 40  # characters of a label in one line
_JITTER = 0.12  # most that a dot is moved; two sides of a domain are 0.4 apart


def method_comparison(variants: pd.DataFrame, k: int, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Held-out AUROC of every selector at one k, with 95 % intervals, over the chance band of each.

    Parameters
    ----------
    variants : DataFrame
        As written by a run (``variants.parquet``): `selector`, `representation`, `k`, `auroc`, `auroc_ci_low`,
        `auroc_ci_high`, `auroc_chance_low`, `auroc_chance_high`; one setting of everything else.
    k : int
        Which k; variants that use all features are shown too.
    ax : Axes, optional
    title : str, optional
        For example how many stimuli there are.

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No variant of this k, or a column is missing.
    """
    something_of(variants, ["selector", "representation", "k", *_SCORE], "comparison of methods")
    shown = variants[(variants["k"] == k) | (variants["selector"] == "all")]
    ax = by_method(
        shown,
        "auroc",
        "auroc_ci_low",
        "auroc_ci_high",
        chance=("auroc_chance_low", "auroc_chance_high"),
        label="held-out AUROC (marker: mean, line: 95 % interval;\ngrey: chance, 95 % of permutations)",
        title=f"Which method finds the features? (k = {k})\n{title}",
        ax=ax,
    )
    ax.axvline(0.5, color="0.4", lw=1, ls=":")
    ax.set_xlim(right=1.02)
    return ax


def score_against_k(
    variants: pd.DataFrame, representation: str, ax: Axes | None = None, *, title: str = "", legend: bool = True
) -> Axes:
    """Held-out AUROC against the number of features, one line per selector, with 95 % intervals.

    Parameters
    ----------
    variants : DataFrame
        As for `method_comparison`; selectors that choose no features (all, PCA) are left out.
    representation : str
    ax : Axes, optional
    title : str, optional
        For example how many stimuli there are.
    legend : bool, default True
        Beside the axes; False where a neighbour carries it.

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No variant of this representation selects features, or a column is missing.
    """
    something_of(variants, ["selector", "representation", "k", *_SCORE], "score against k")
    rows = variants[(variants["representation"] == representation) & ~variants["selector"].isin(UNSELECTED)]
    something_of(rows, [], f"score against k, {representation}")
    selectors = sorted(rows["selector"].unique())
    ax = axes_or_new(ax, 6, max(4, 0.24 * len(selectors)))
    ks = sorted(rows["k"].unique())
    ax.axhspan(rows["auroc_chance_low"].min(), rows["auroc_chance_high"].max(), **BAND)
    colours = sns.color_palette("colorblind", len(selectors))
    # Ten colours and thirteen markers: no two selectors share both.
    for i, (colour, marker, selector) in enumerate(zip(colours, cycle(_MARKERS), selectors, strict=False)):
        line = rows[rows["selector"] == selector].sort_values("k")
        # Side by side, so that the intervals of one k can be told apart.
        x = np.array([ks.index(k) for k in line["k"]]) + 0.5 * (i / max(1, len(selectors) - 1) - 0.5)
        ax.plot(x, line["auroc"], marker=marker, ms=5, lw=1, color=colour, label=selector_label(selector))
        ax.vlines(x, line["auroc_ci_low"], line["auroc_ci_high"], color=colour, lw=1, alpha=0.6)
    ax.axhline(0.5, color="0.4", lw=1, ls=":")
    ax.set_xticks(range(len(ks)), [str(k) for k in ks])
    ax.set_xlim(-0.5, len(ks) - 0.5)
    ax.set_xlabel("k, number of features in the ensemble")
    ax.set_ylabel("held-out AUROC\n(bar: 95 % interval; grey: chance)")
    write_title(ax, LABELS.get(representation, representation), title)
    if legend:
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax


def specification_curve(variants: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """All variants from worst to best, and below them which choices each one made.

    Parameters
    ----------
    variants : DataFrame
        As for `method_comparison`, with `ensemble`, `pooling` and `block`.
    ax : Axes, optional
        Shared between the scores and the choices, which get axes of their own (the last of the figure).
    title : str, optional
        For example how many stimuli there are.

    Returns
    -------
    Axes
        Those of the scores.

    Raises
    ------
    UserError
        No variant, or a column is missing.

    References
    ----------
    Simonsohn, Simmons and Nelson (2020), Nature Human Behaviour 4.
    """
    needed = ["representation", "selector", "k", "ensemble", "pooling", "block", *_SCORE]
    rows = something_of(variants, needed, "specification curve").sort_values("auroc", ignore_index=True)
    rows["k"] = rows["k"].mask(rows["selector"] == "all", 0)
    choices = _choices(rows)
    n_lines = sum(len(values) for values in choices.values())
    ax = axes_or_new(ax, 11, 3.6 + 0.2 * n_lines)
    lower = make_axes_locatable(ax).append_axes("bottom", size=f"{100 * 0.2 * n_lines / 3:.0f}%", pad=0.12, sharex=ax)
    x = np.arange(len(rows))
    colours = np.array([PALETTE[name] for name in rows["representation"]])
    ax.bar(x, rows["auroc_chance_high"] - rows["auroc_chance_low"], 1, rows["auroc_chance_low"], **BAND)
    ax.vlines(x, rows["auroc_ci_low"], rows["auroc_ci_high"], colors=list(colours), lw=1)
    ax.scatter(x, rows["auroc"], c=list(colours), s=12, zorder=3)
    ax.axhline(0.5, color="0.4", lw=1, ls=":")
    ax.set_xlim(-0.5 - 0.01 * len(rows), len(rows) - 0.5 + 0.01 * len(rows))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelbottom=False)
    ax.set_ylabel("held-out AUROC\n(line: 95 % interval)")
    write_title(ax, f"Specification curve (n = {len(rows)} variants; grey: chance)", title)
    _draw_choices(rows, choices, colours, lower)
    sns.despine(ax=ax)
    sns.despine(ax=lower)
    return ax


def _choices(rows: pd.DataFrame) -> dict[str, list]:
    """What varies, and the values it takes, in the order of the lower panel."""
    choices = {
        "representation": [name for name in PALETTE if name in set(rows["representation"])],
        "selector": sorted(rows["selector"].unique()),
        "k": sorted(rows["k"].unique()),
    }
    choices |= {name: sorted(rows[name].unique()) for name in ("ensemble", "pooling") if rows[name].nunique() > 1}
    blocks = sorted(rows.loc[rows["representation"] == "raw", "block"].unique())
    return choices | ({"block": blocks} if len(blocks) > 1 else {})


def _draw_choices(rows: pd.DataFrame, choices: dict[str, list], colours: np.ndarray, ax: Axes) -> None:
    """One line per value, one mark per variant that has it."""
    labels: list[str] = []
    for column, values in choices.items():
        if labels:
            ax.axhline(len(labels) - 0.5, color="0.8", lw=0.8)
        for value in values:
            here = np.flatnonzero(rows[column] == value)
            ax.scatter(here, np.full(len(here), len(labels)), marker="|", s=40, color=list(colours[here]))
            shown = LABELS.get(value, selector_label(value))
            labels.append({"k": f"k = {value or 'all'}", "block": f"block {value}"}.get(column, shown))
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlabel("variant, ordered by score")


def selection_overlap(features: pd.DataFrame, representation: str, k: int, ax: Axes | None = None) -> Axes:
    """Jaccard overlap of the features that selectors choose on all stimuli.

    Parameters
    ----------
    features : DataFrame
        As written by a run (``features.parquet``): `representation`, `selector`, `k`, `feature`.
    representation : str
    k : int
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No selector with this representation and k, or a column is missing.

    Examples
    --------
    >>> rows = pd.DataFrame({"selector": ["t", "auroc"], "feature": [7, 7], "representation": "sae", "k": 1})
    >>> [text.get_text() for text in selection_overlap(rows, "sae", 1).texts]
    ['1.00', '1.00', '1.00', '1.00']
    """
    what = "overlap of selections"
    something_of(features, ["representation", "selector", "k", "feature"], what)
    rows = features[(features["representation"] == representation) & (features["k"] == k)]
    something_of(rows[~rows["selector"].isin(UNSELECTED)], [], f"{what}, {representation}, k = {k}")
    sets = {name: set(group["feature"]) for name, group in rows.groupby("selector") if name not in UNSELECTED}
    names = sorted(map(str, sets))
    overlap = np.array([[len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for b in names] for a in names])
    size = max(4.0, 0.38 * len(names))
    ax = axes_or_new(ax, size + 1.5, size + 0.8)
    shown = [selector_label(name) for name in names]
    sns.heatmap(
        overlap, vmin=0, vmax=1, cmap="cividis", square=True, annot=True, fmt=".2f", annot_kws={"size": 7},
        xticklabels=shown, yticklabels=shown, cbar_kws={"label": "Jaccard overlap", "shrink": 0.8}, ax=ax,
    )  # fmt: skip
    ax.set_xticklabels(shown, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticklabels(shown, rotation=0)
    write_title(ax, f"{LABELS.get(representation, representation)}, k = {k}, n = {len(names)} selectors")
    return ax


def stimulus_activation(
    decisions: pd.DataFrame, target: str, foil: str, title: str = "", ax: Axes | None = None
) -> Axes:
    """Held-out output of one ensemble for every stimulus, by domain and side.

    Parameters
    ----------
    decisions : DataFrame
        `decision` (mean held-out decision value), `side` (+1 target, -1 foil), `domain`.
    target, foil : str
        Names of the sides.
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No stimulus, or a column is missing.
    """
    something_of(decisions, ["decision", "side", "domain"], "output per stimulus")
    domain = decisions["domain"].fillna("all stimuli").astype(str)
    order = sorted(domain.unique())
    ax = axes_or_new(ax, 7.5, 0.5 * len(order) + 1.6)
    rng = np.random.default_rng(0)
    for sign, name, representation, marker in ((1, target, "sae", "o"), (-1, foil, "raw", "s")):
        here = np.sign(decisions["side"]) == sign
        row = np.array([order.index(value) for value in domain[here]])
        y = row - 0.2 * sign + rng.uniform(-_JITTER, _JITTER, len(row))  # dots are moved apart a little
        label = textwrap.fill(f"{name} (n = {here.sum()})", _LONGEST)
        ax.scatter(
            decisions["decision"][here], y, s=16, marker=marker, color=PALETTE[representation], alpha=0.8, lw=0,
            label=label,
        )  # fmt: skip
    ax.axvline(0, color="0.4", lw=1, ls=":")
    ax.set_yticks(range(len(order)), [textwrap.fill(name.replace("_", " "), _LONGEST) for name in order])
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.set_xlabel("held-out output of the ensemble (log-odds; above 0: decides for the target)")
    ax.set_ylabel("domain")
    write_title(ax, title or "Held-out output per stimulus")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax


def claims(table: pd.DataFrame, margin: float = 0.02, ax: Axes | None = None) -> Axes:
    """Difference in held-out AUROC for each claim, with 95 % intervals and the zone of equivalence.

    Parameters
    ----------
    table : DataFrame
        As written by a run (``claims.parquet``): `claim`, `delta`, `ci_low`, `ci_high`; `n_cells` is shown where it is
        there.
    margin : float, default 0.02
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No claim, or a column is missing.
    """
    something_of(table, ["claim", "delta", "ci_low", "ci_high"], "figure of claims")
    ax = axes_or_new(ax, 7.5, 0.6 * len(table) + 1.4)
    y = np.arange(len(table))[::-1]
    ax.axvspan(-margin, margin, **BAND)
    tested = table["delta"].notna().to_numpy()
    ax.hlines(y[tested], table["ci_low"][tested], table["ci_high"][tested], color="black", lw=1.5)
    ax.plot(table["delta"][tested], y[tested], "o", color="black")
    for row in np.flatnonzero(~tested):
        place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "center", "va": "center"}
        ax.text(0.5, y[row], "not tested: no matched cells", color="0.4", fontsize=9, backgroundcolor="white", **place)
    ax.axvline(0, color="0.4", lw=1, ls=":")
    names = table["claim"].map(lambda claim: textwrap.fill(str(claim), _LONGEST))
    ax.set_yticks(y, names + table["n_cells"].map("\n(n = {} cells)".format) if "n_cells" in table else names)
    ax.set_ylim(-0.6, len(table) - 0.4)
    ax.set_xlabel(f"difference in held-out AUROC (95 % interval; grey: within {margin:g}, equivalent)")
    write_title(ax, "Claims about method families")
    sns.despine(ax=ax)
    return ax
