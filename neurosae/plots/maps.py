"""Figures of contrast maps: functions that take an `Axes` (or make one) and return it."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from neurosae.plots.style import PALETTE
from neurosae.univariate.maps import ContrastMap

MASKED = "0.85"
"""Colour of cells with too few stimuli."""
SMALLEST_P = 1e-300
_HEIGHT_CONTROLS = {"fdr": "FDR", "fwe": "FWE by permutation", "bonferroni": "Bonferroni", None: "uncorrected"}
_LABEL_GAP = 0.06  # of the height of the axes, between two labels of a volcano


def contrast_map(found: ContrastMap, feature: int | None = None, ax: Axes | None = None) -> Axes:
    """Block x position map with the number of stimuli per position (the smallest over blocks).

    Cells that are masked, or in which no feature varies, are grey.

    Parameters
    ----------
    found : ContrastMap
    feature : int, optional
        Show the t of this feature, with a dot where it is significant. Default: the mean r2 over features, with the
        number of significant features in every cell that has any.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    n_blocks, width = found.n_LW.shape
    ax = ax or plt.subplots(figsize=(max(3.5, 0.45 * width + 2), max(2.6, 0.3 * n_blocks + 1.6)))[1]
    if feature is None:
        values_LW, label = found.r2_LW, "variance explained\n(adjusted r², mean over features)"
        colours: dict[str, Any] = {"cmap": "cividis", "vmin": 0}
    else:
        place = int(np.flatnonzero(found.features_F == feature)[0])
        values_LW, label = found.t[:, :, place].astype(np.float64), "t"
        most = float(np.abs(values_LW).max()) or 1.0
        colours = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
    shown_LW = np.ma.masked_array(values_LW, ~found.valid.any(axis=2))
    ax.set_facecolor(MASKED)
    mesh = ax.pcolormesh(shown_LW, **colours, edgecolors="white", linewidth=0.5)
    ax.figure.colorbar(mesh, ax=ax, label=label, pad=0.02)
    if feature is None:
        _write_counts(found.significant.sum(axis=2), shown_LW, ax)
    else:
        rows, columns = np.nonzero(found.significant[:, :, place])
        ax.scatter(columns + 0.5, rows + 0.5, s=9, color="black", zorder=3)
    ax.set_yticks(np.arange(n_blocks) + 0.5, found.blocks_L)
    ax.set_xticks(np.arange(width) + 0.5, found.positions_W)
    for column, n in enumerate(found.n_LW.min(axis=0)):
        ax.text(column + 0.5, 1.01, str(n), transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=7)
    ax.text(-0.01, 1.01, "n", transform=ax.transAxes, ha="right", va="bottom", fontsize=7)
    unit = "position (tokens from the reference)" if found.positions_W.dtype.kind == "i" else "pooling"
    grey = "\ngrey: too few stimuli, or nothing varies" if shown_LW.mask.any() else ""
    ax.set_xlabel(unit + grey)
    ax.set_ylabel("block")
    shown = "; numbers: significant features" if feature is None else f", feature {feature}; dots: significant"
    ax.set_title(
        f"{found.contrast}{shown}\n({_HEIGHT_CONTROLS[found.height_control]}, p ≤ {found.alpha:g})",
        loc="left", fontsize=10, pad=14,
    )  # fmt: skip
    return ax


def block_profile(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Held-out response of each block's region, with 95 % bootstrap bands over groups of stimuli.

    Parameters
    ----------
    table : DataFrame
        From `neurosae.univariate.region_profile`: `block`, `effect`, `low`, `high`, `n`.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots(figsize=(5.5, 3.2))[1]
    ax.fill_between(table["block"], table["low"], table["high"], color=PALETTE["raw"], alpha=0.25, lw=0)
    ax.plot(table["block"], table["effect"], "o-", ms=4, color=PALETTE["raw"])
    ax.axhline(0, color="0.4", lw=1, ls=":")
    ax.set_xticks(table["block"])
    ax.set_xlabel("block (each with a region of its own, found on the other half)")
    ax.set_ylabel("target − foil\n(SD of localizing items)")
    about = f"n = {table['n'].iloc[0]} held-out stimuli; band: 95 % bootstrap over their items"
    ax.set_title(f"Response of localized regions\n({about})", loc="left", fontsize=10)
    sns.despine(ax=ax)
    return ax


def volcano(found: ContrastMap, n_labels: int = 6, ax: Axes | None = None) -> Axes:
    """Effect size against -log10 p of every valid test, the strongest ones named.

    Parameters
    ----------
    found : ContrastMap
    n_labels : int, default 6
        Tests named by block and feature (and position).
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots(figsize=(6, 4.2))[1]
    table = found.to_frame()
    capped = table["reason"] == "perfect_separation"
    table = table[(table["reason"] == "ok")].assign(height=lambda rows: -np.log10(rows["p"].clip(lower=SMALLEST_P)))
    passed = table["p_corrected"] <= found.alpha
    counts = {"not significant": (~passed, "0.7"), "significant": (passed, PALETTE["sae"])}
    for name, (rows, colour) in counts.items():
        points = table[rows]
        label = f"{name} ({len(points):,})"
        ax.scatter(points["d"], points["height"], s=6, color=colour, lw=0, alpha=0.7, rasterized=True, label=label)
    if passed.any():
        ax.axhline(table.loc[passed, "height"].min(), color="0.4", lw=1, ls=":")
    ax.set_ylim(0, 1.08 * max(table["height"].max(), 1.0) if len(table) else 1.0)
    reach = 2.0 * float(table["d"].abs().max()) if len(table) else 1.0
    ax.set_xlim(-reach, reach)
    _name_strongest(table.nlargest(n_labels, "height"), found, reach, ax)
    ax.axvline(0, color="0.4", lw=1, ls=":")
    ax.set_xlabel("effect size d (above 0: target higher, or rising with a rating)")
    ax.set_ylabel("−log10 p (uncorrected)")
    named = "named: block: feature" if found.positions_W.dtype.kind != "i" else "named: block, position: feature"
    beyond = f"; {int(capped.sum())} perfect separations not shown" if capped.any() else ""
    ax.set_title(
        f"{found.contrast}: {_HEIGHT_CONTROLS[found.height_control]}, p ≤ {found.alpha:g}{beyond}\n{named}",
        loc="left", fontsize=10,
    )  # fmt: skip
    ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(-0.02, -0.27), ncols=2, markerscale=2)
    sns.despine(ax=ax)
    return ax


def _write_counts(count_LW: np.ndarray, shown_LW: np.ma.MaskedArray, ax: Axes) -> None:
    """Numbers above 0 in their cells, dark on bright ones."""
    bright_LW = shown_LW.filled(0) > 0.6 * float(shown_LW.max() or 1.0)
    for row, column in np.argwhere(count_LW > 0):
        colour = "black" if bright_LW[row, column] else "white"
        ax.text(column + 0.5, row + 0.5, str(count_LW[row, column]), ha="center", va="center", fontsize=6, color=colour)


def _name_strongest(strongest: pd.DataFrame, found: ContrastMap, reach: float, ax: Axes) -> None:
    """Names at the side of the effect's sign, moved apart downwards, with a line to the point."""
    top = ax.get_ylim()[1]
    next_free = {True: np.inf, False: np.inf}
    for _, row in strongest.sort_values("height", ascending=False).iterrows():
        right = bool(row["d"] > 0)
        y = min(row["height"], next_free[right])
        next_free[right] = y - _LABEL_GAP * top
        place = f", {row['position']:+d}" if found.positions_W.dtype.kind == "i" else ""
        line = {"arrowstyle": "-", "color": "0.5", "lw": 0.6, "shrinkA": 1, "shrinkB": 2}
        ax.annotate(
            f"block {row['block']}{place}: {row['feature']}",
            (row["d"], row["height"]),
            (0.98 * reach if right else -0.98 * reach, y),
            ha="right" if right else "left",
            va="center",
            fontsize=7,
            bbox={"fc": "white", "ec": "none", "pad": 1},
            arrowprops=line | {"relpos": (0 if right else 1, 0.5)},
        )
