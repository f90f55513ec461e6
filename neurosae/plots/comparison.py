"""Method variants against each other: scores, choices, overlap, claims."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurosae.plots.style import BAND, LABELS, PALETTE, selector_label


def method_comparison(variants: pd.DataFrame, k: int, ax: Axes | None = None) -> Axes:
    """Held-out AUROC of every selector at one k, with 95 % intervals, over the chance band of each.

    Parameters
    ----------
    variants : DataFrame
        As written by a run (``variants.parquet``).
    k : int
        Which k; variants that use all features are shown too.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    shown = variants[(variants["k"] == k) | variants["selector"].isin(["all"])]
    order = shown.groupby("selector")["auroc"].max().sort_values().index.tolist()
    ax = ax or plt.subplots(figsize=(7.5, 0.42 * len(order) + 1.6))[1]
    names = [name for name in PALETTE if name in set(shown["representation"])]
    for i, representation in enumerate(names):
        rows = shown[shown["representation"] == representation]
        y = np.array([order.index(s) for s in rows["selector"]]) + (i - (len(names) - 1) / 2) * 0.16
        ax.barh(y, rows["auroc_chance_high"] - rows["auroc_chance_low"], 0.14, rows["auroc_chance_low"], **BAND)
        errors = [rows["auroc"] - rows["auroc_ci_low"], rows["auroc_ci_high"] - rows["auroc"]]
        ax.errorbar(
            rows["auroc"],
            y,
            xerr=np.abs(errors),
            fmt="o",
            ms=5,
            lw=1.5,
            color=PALETTE[representation],
            label=LABELS[representation],
        )
    ax.axvline(0.5, color="0.4", lw=1, ls=":")
    ax.set_yticks(range(len(order)), [selector_label(name) for name in order])
    ax.set_xlabel("held-out AUROC (dot: mean, line: 95 % interval, grey: chance, 95 % of permutations)")
    ax.set_xlim(right=1.02)
    ax.set_title(f"Which method finds the features? (k = {k})", loc="left")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax


def score_against_k(variants: pd.DataFrame, representation: str, ax: Axes | None = None) -> Axes:
    """Held-out AUROC against the number of features, one line per selector, with 95 % intervals."""
    rows = variants[(variants["representation"] == representation) & ~variants["selector"].isin(["all", "pca"])]
    ax = ax or plt.subplots(figsize=(6, 4))[1]
    selectors = sorted(rows["selector"].unique())
    ks = sorted(rows["k"].unique())
    colours = sns.color_palette("colorblind", len(selectors))
    ax.axhspan(rows["auroc_chance_low"].min(), rows["auroc_chance_high"].max(), **BAND)
    for i, (colour, marker, selector) in enumerate(zip(colours, "osD^vP*Xh<>dp", selectors, strict=False)):
        line = rows[rows["selector"] == selector].sort_values("k")
        # Side by side, so that the intervals of one k can be told apart.
        x = np.array([ks.index(k) for k in line["k"]]) + 0.5 * (i / max(1, len(selectors) - 1) - 0.5)
        errors = np.abs([line["auroc"] - line["auroc_ci_low"], line["auroc_ci_high"] - line["auroc"]])
        ax.plot(x, line["auroc"], marker=marker, ms=5, lw=1, color=colour, label=selector_label(selector))
        ax.errorbar(x, line["auroc"], yerr=errors, fmt="none", color=colour, lw=1, alpha=0.6)
    ax.axhline(0.5, color="0.4", lw=1, ls=":")
    ax.set_xticks(range(len(ks)), [str(k) for k in ks])
    ax.set_xlabel("k, number of features in the ensemble")
    ax.set_ylabel("held-out AUROC (bar: 95 % interval; grey: chance)")
    ax.set_title(LABELS[representation], loc="left")
    sns.despine(ax=ax)
    return ax


def specification_curve(variants: pd.DataFrame) -> Figure:
    """All variants from worst to best, and below them which choices each one made."""
    rows = variants.sort_values("auroc", ignore_index=True)
    rows["k"] = rows["k"].mask(rows["selector"] == "all", 0)
    choices = [
        ("representation", [name for name in PALETTE if name in set(rows["representation"])]),
        ("selector", sorted(rows["selector"].unique())),
        ("k", sorted(rows["k"].unique())),
        *((name, sorted(rows[name].unique())) for name in ("ensemble", "pooling") if rows[name].nunique() > 1),
    ]
    raw_blocks = sorted(rows.loc[rows["representation"] == "raw", "block"].unique())
    if len(raw_blocks) > 1:
        choices.append(("block", raw_blocks))
    n_lines = sum(len(values) for _, values in choices)
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(11, 3.2 + 0.2 * n_lines), height_ratios=[3, 0.2 * n_lines], layout="constrained"
    )
    x = np.arange(len(rows))
    colours = [PALETTE[name] for name in rows["representation"]]
    top.fill_between(x, rows["auroc_chance_low"], rows["auroc_chance_high"], step="mid", **BAND)
    top.vlines(x, rows["auroc_ci_low"], rows["auroc_ci_high"], colors=colours, lw=1)
    top.scatter(x, rows["auroc"], c=colours, s=12, zorder=3)
    top.axhline(0.5, color="0.4", lw=1, ls=":")
    top.set_ylabel("held-out AUROC\n(line: 95 % interval)")
    top.set_title(f"Specification curve: all {len(rows)} variants (grey: chance)", loc="left")
    labels, y = [], 0
    for column, values in choices:
        for value in values:
            here = x[(rows[column] == value).to_numpy()]
            bottom.scatter(here, np.full(len(here), y), marker="|", s=40, color=[colours[i] for i in here])
            shown = LABELS.get(value, selector_label(value))
            labels.append({"k": f"k = {value or 'all'}", "block": f"block {value}"}.get(column, shown))
            y += 1
        if (column, values) != choices[-1]:
            bottom.axhline(y - 0.5, color="0.8", lw=0.8)
    bottom.set_yticks(range(len(labels)), labels, fontsize=8)
    bottom.invert_yaxis()
    bottom.set_xlabel("variant, ordered by score")
    sns.despine(fig=figure)
    return figure


def selection_overlap(features: pd.DataFrame, representation: str, k: int, ax: Axes | None = None) -> Axes:
    """Jaccard overlap of the features that selectors choose on all stimuli."""
    rows = features[(features["representation"] == representation) & (features["k"] == k)]
    sets = {name: set(group["feature"]) for name, group in rows.groupby("selector") if name not in ("all", "pca")}
    names = sorted(map(str, sets))
    overlap = np.array([[len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for b in names] for a in names])
    ax = ax or plt.subplots(figsize=(5.5, 4.8))[1]
    shown = [selector_label(name) for name in names]
    sns.heatmap(
        overlap, vmin=0, vmax=1, cmap="cividis", square=True, annot=True, fmt=".2f", annot_kws={"size": 7},
        xticklabels=shown, yticklabels=shown, cbar_kws={"label": "Jaccard overlap"}, ax=ax,
    )  # fmt: skip
    ax.set_title(f"{LABELS[representation]}, k = {k}", loc="left")
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
    """
    data = decisions.assign(
        side=np.where(decisions["side"] > 0, target, foil), domain=decisions["domain"].fillna("all stimuli").astype(str)
    )
    order = sorted(data["domain"].unique())
    ax = ax or plt.subplots(figsize=(7.5, 0.5 * len(order) + 1.6))[1]
    palette = {target: PALETTE["sae"], foil: PALETTE["raw"]}
    np.random.seed(0)  # noqa: NPY002 - seaborn's jitter knows no other seed
    sns.stripplot(
        data, x="decision", y="domain", hue="side", order=order, hue_order=[target, foil], palette=palette,
        dodge=True, size=4, alpha=0.8, jitter=0.15, ax=ax,
    )  # fmt: skip
    ax.axvline(0, color="0.4", lw=1, ls=":")
    counts = data["side"].value_counts()
    ax.set_xlabel("held-out output of the ensemble (log-odds; above 0: decides for the target)")
    ax.set_ylabel("domain")
    ax.set_title(title or "Held-out output per stimulus", loc="left")
    ax.legend(
        *[ax.get_legend_handles_labels()[0], [f"{name} (n = {counts[name]})" for name in (target, foil)]],
        frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5),
    )  # fmt: skip
    sns.despine(ax=ax)
    return ax


def claims(table: pd.DataFrame, margin: float = 0.02, ax: Axes | None = None) -> Axes:
    """Difference in held-out AUROC for each claim, with 95 % intervals and the zone of equivalence."""
    ax = ax or plt.subplots(figsize=(7.5, 0.6 * len(table) + 1.4))[1]
    y = np.arange(len(table))[::-1]
    ax.axvspan(-margin, margin, **BAND)
    errors: Any = [table["delta"] - table["ci_low"], table["ci_high"] - table["delta"]]
    ax.errorbar(table["delta"], y, xerr=np.abs(errors), fmt="o", color="black", lw=1.5)
    for row in np.flatnonzero(table["delta"].isna()):
        ax.text(0.02, y[row], "not tested: no matched cells", va="center", color="0.4", fontsize=9)
    ax.axvline(0, color="0.4", lw=1, ls=":")
    ax.set_yticks(y, table["claim"])
    ax.set_ylim(-0.6, len(table) - 0.4)
    ax.set_xlabel(f"difference in held-out AUROC (95 % interval; grey: within {margin:g}, equivalent)")
    ax.set_title("Claims about method families", loc="left")
    sns.despine(ax=ax)
    return ax
