"""Figures of contrast maps: functions that take an `Axes` (or make one) and return it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from neurosae.errors import UserError
from neurosae.plots.style import PALETTE, apart, axes_or_new, counted, something_of, write_title
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

    Raises
    ------
    UserError
        A feature that the map has not.
    """
    n_blocks, width = found.n_LW.shape
    if feature is not None and feature not in found.features_F:
        raise UserError(f"the map has no feature {feature}", allowed=f"{found.features_F[0]} to {found.features_F[-1]}")
    ax = axes_or_new(ax, max(4.5, 0.45 * width + 2), max(2.6, 0.3 * n_blocks + 1.6))
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
        _above(ax, str(n), column + 0.5)
    _above(ax, "n", -0.2)
    unit = "position (tokens from the reference)" if found.positions_W.dtype.kind == "i" else "pooling"
    grey = "\ngrey: too few stimuli, or nothing varies" if shown_LW.mask.any() else ""
    ax.set_xlabel(unit + grey)
    ax.set_ylabel("block")
    shown = "; numbers: significant features" if feature is None else f", feature {feature}; dots: significant"
    write_title(
        ax, f"{found.contrast}{shown}", f"({_HEIGHT_CONTROLS[found.height_control]}, p ≤ {found.alpha:g})", pad=14
    )
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

    Raises
    ------
    UserError
        No block, or a column is missing.

    Examples
    --------
    >>> table = pd.DataFrame({"block": [0, 5], "effect": [0.1, 0.4], "low": [0, 0.3], "high": [0.2, 0.6], "n": 72})
    >>> block_profile(table).get_ylabel()
    'target − foil\\n(SD of localizing items)'
    """
    something_of(table, ["block", "effect", "low", "high", "n"], "profile of blocks")
    ax = axes_or_new(ax, 5.5, 3.2)
    ax.fill_between(table["block"], table["low"], table["high"], color=PALETTE["raw"], alpha=0.25, lw=0)
    if len(table) == 1:  # a band of one block has no width
        ax.vlines(table["block"], table["low"], table["high"], color=PALETTE["raw"], lw=1.5)
    ax.plot(table["block"], table["effect"], "o-", ms=4, color=PALETTE["raw"])
    ax.axhline(0, color="0.4", lw=1, ls=":")
    ax.set_xticks(table["block"].iloc[:: 1 + len(table) // 16])
    ax.set_xlabel("block (each with a region of its own, found on the other half)")
    ax.set_ylabel("target − foil\n(SD of localizing items)")
    about = f"n = {counted(table['n'])} held-out stimuli; band: 95 % bootstrap over their items"
    write_title(ax, "Response of localized regions", f"({about})")
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
    ax = axes_or_new(ax, 6, 4.2)
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
    if table.empty:
        ax.text(0, 0.5, "no test has a finite p", ha="center", va="center", color="0.4")
    lead = f"{found.contrast}: {_HEIGHT_CONTROLS[found.height_control]}, p ≤ {found.alpha:g}"
    write_title(ax, f"{lead}, n = {counted(pd.Series(found.n_LW.ravel()))} stimuli{beyond}", named)
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, markerscale=2)
    sns.despine(ax=ax)
    return ax


def _above(ax: Axes, text: str, x: float) -> None:
    """Small text over the axes, at x of the data."""
    place = ax.get_xaxis_transform()
    ax.annotate(
        text, (x, 1), xycoords=place, textcoords="offset points", xytext=(0, 2), ha="center", va="bottom", fontsize=7
    )


def _write_counts(count_LW: np.ndarray, shown_LW: np.ma.MaskedArray, ax: Axes) -> None:
    """Numbers above 0 in their cells, dark on bright ones."""
    bright_LW = shown_LW.filled(0) > 0.6 * float(shown_LW.max() or 1.0)
    for row, column in np.argwhere(count_LW > 0):
        colour = "black" if bright_LW[row, column] else "white"
        ax.text(column + 0.5, row + 0.5, str(count_LW[row, column]), ha="center", va="center", fontsize=6, color=colour)


def _name_strongest(strongest: pd.DataFrame, found: ContrastMap, reach: float, ax: Axes) -> None:
    """Names at the side of the effect's sign, moved apart, with a line to the point."""
    top = ax.get_ylim()[1]
    gap = _LABEL_GAP * top
    named = strongest.sort_values("height").assign(right=strongest["d"] > 0, y=0.0)
    for right in (True, False):
        here = named["right"] == right
        if here.any():
            named.loc[here, "y"] = apart(named.loc[here, "height"].to_numpy(), gap, gap / 2, top - gap / 2)
    for _, row in named.iloc[::-1].iterrows():
        right, y = bool(row["right"]), row["y"]
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
