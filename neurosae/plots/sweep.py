"""Figures of the layer sweep: one panel per measure over the blocks of the model, and a map of blocks x positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurosae.plots.maps import MASKED
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
from neurosae.sweep import EMBEDDING, Emergence

_ORANGE, _BLACK = "#E69F00", "#000000"
_MODELS = {"category": PALETTE["raw"], "domain": _ORANGE, "length": PALETTE["bag_of_words"]}
_SELECTORS = {"all": PALETTE["raw"], "t": _ORANGE, "rsa_category": PALETTE["untrained_sae"]}
_SHOWN = ["raw", "sae"]
_STEP = 5  # blocks between two ticks
_MOST = 40  # numbers that fit above a panel
_APART = -2  # where the embeddings stand, off the line of blocks


def contrast_profile(contrast: pd.DataFrame, region: pd.DataFrame, alpha: float = 0.05, ax: Axes | None = None) -> Axes:
    """Held-out response of each block's localized region; above it, the number of significant features.

    Parameters
    ----------
    contrast : DataFrame
        From `neurosae.sweep.contrast_by_block`, of one representation: `block`, `features`, `significant`.
    region : DataFrame
        From `neurosae.sweep.region_by_block`: `block`, `effect`, `low`, `high`, `n`.
    alpha : float, default 0.05
        Level at which features were counted.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    something_of(contrast, ["block", "features", "significant"], "contrast by block")
    something_of(region, ["block", "effect", "low", "high", "n"], "region by block")
    ax = axes_or_new(ax, 8, 2.8)
    _curve(ax, region, "effect", PALETTE["raw"], "o", f"region, held out (n = {region['n'].iloc[0]})")
    ax.axhline(0, color="0.4", lw=1, ls=":")
    ax.set_ylabel("target − foil\n(SD of localizing items)")
    crowded = len(contrast) > 12
    shown = contrast.iloc[:: -(-len(contrast) // _MOST)]
    for x, count in zip(_x(shown["block"]), shown["significant"], strict=True):
        _above(ax, str(count), x, "black" if count else "0.5", 90 if crowded else 0)
    write_title(
        ax,
        f"Contrast (numbers: significant features of {contrast['features'].max():,}, "
        f"max-T over all blocks, p ≤ {alpha:g}; band: 95 %)",
        pad=24 if crowded else 14,
    )
    return _finish(ax, contrast["block"])


def rsa_profile(table: pd.DataFrame, alpha: float = 0.05, ax: Axes | None = None) -> Axes:
    """Correlation of every block's RDM with the category model and the controls; dots where it is significant.

    Parameters
    ----------
    table : DataFrame
        From `neurosae.sweep.rsa_by_block`, of one representation.
    alpha : float, default 0.05
        Level of `p_fwe` for the dots.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    something_of(table, ["block", "model", "r", "low", "high", "p_fwe"], "RSA by block")
    ax = axes_or_new(ax, 8, 2.8)
    rows = {str(name): of_model for name, of_model in table.groupby("model", sort=False)}
    for name, of_model in rows.items():
        _curve(ax, of_model, "r", _MODELS.get(name, _BLACK), "o", name)
    ax.axhline(0, color="0.4", lw=1, ls=":")
    _mark(ax, {name: (_MODELS.get(name, _BLACK), of_model) for name, of_model in rows.items()}, alpha)
    ax.set_ylabel("correlation with\nthe model RDM (r)")
    write_title(
        ax, f"Geometry (dots: p ≤ {alpha:g}, largest r over blocks; band: 95 % over items; n = {table['n'].iloc[0]})"
    )
    return _finish(ax, table["block"])


def decoding_profile(
    table: pd.DataFrame, found: Emergence | None = None, alpha: float = 0.05, ax: Axes | None = None
) -> Axes:
    """Held-out AUROC of every block with its interval, against chance, the bag of words and new domains.

    Parameters
    ----------
    table : DataFrame
        From `neurosae.sweep.decode_by_block`, with a column `representation` ('raw', 'sae', 'bag_of_words').
    found : Emergence, optional
        Adds the peak, with the interval of where it lies, and the first block above the embeddings (and above chance).
    alpha : float, default 0.05
        Level of `p_fwe` for the dots.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    something_of(table, ["representation", "selector", "block", "auroc", "p_fwe", "chance_fwe"], "decoding by block")
    ax = axes_or_new(ax, 8, 3.4)
    shown = table[table["representation"].isin(_SHOWN)]
    marks = {}
    for (representation, selector), rows in _curves(shown):
        of = "" if selector == "all" else f", k = {rows['k'].iloc[0]}"
        label = f"{LABELS[representation]}: {selector_label(selector)}{of}"
        colour = _SELECTORS.get(selector, _BLACK)
        _curve(ax, rows, "auroc", colour, MARKERS[representation], label, dashed=representation == "sae")
        if representation == "raw":
            marks[selector] = colour, rows
    everything = shown[(shown["representation"] == "raw") & (shown["selector"] == "all")]
    if (everything["n_domains"] > 0).all():
        label = f"{everything['n_domains'].iloc[0]} domains, left out in turn"
        ax.plot(_x(everything["block"]), everything["new_domains"], color=_SELECTORS["all"], lw=1, ls=":", label=label)
    words = table[table["representation"] == "bag_of_words"]
    if len(words):
        ax.axhline(words["auroc"].iloc[0], color=PALETTE["bag_of_words"], lw=1.2, ls="--", label=LABELS["bag_of_words"])
    limit = float(shown["chance_fwe"].max())
    ax.axhspan(0.5, limit, label=f"chance, best block (up to {1 - alpha:.0%} of draws)", **BAND)
    ax.axhline(0.5, color="0.4", lw=1, ls=":")
    _mark(ax, marks, alpha)
    if found is not None:
        _locate(ax, found, everything.loc[everything["p_fwe"] <= alpha, "block"].tolist(), alpha)
    ax.set_ylabel("held-out AUROC")
    write_title(ax, f"Decoding (dots: p ≤ {alpha:g}, largest AUROC over blocks; band: 95 %; n = {shown['n'].iloc[0]})")
    return _finish(ax, shown["block"])


def layer_sweep(tables: Mapping[str, pd.DataFrame], found: Emergence, title: str = "", alpha: float = 0.05) -> Figure:
    """Contrast, geometry and decoding of neurons over the blocks, aligned; latents join in decoding.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        `contrast`, `region`, `rsa` and `decoding`, each with a column `representation`.
    found : Emergence
    title : str, optional
    alpha : float, default 0.05

    Returns
    -------
    Figure
    """
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(10.5, 10), height_ratios=[1, 1, 1.5], layout="constrained")
    neurons = {name: tables[name][tables[name]["representation"] == "raw"] for name in ("contrast", "region", "rsa")}
    contrast_profile(neurons["contrast"], neurons["region"], alpha, ax=axes[0])
    rsa_profile(neurons["rsa"], alpha, ax=axes[1])
    decoding_profile(tables["decoding"], found, alpha, ax=axes[2])
    for ax in axes[:2]:
        ax.set_xlabel("")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def position_map(table: pd.DataFrame, alpha: float = 0.05, ax: Axes | None = None) -> Axes:
    """Held-out AUROC in every block and aligned position; dots where it is above chance, corrected over all cells.

    Parameters
    ----------
    table : DataFrame
        From `neurosae.sweep.sweep_positions`.
    alpha : float, default 0.05
        Level of `p_fwe` for the dots.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    something_of(table, ["block", "position", "n", "auroc", "p_fwe", "reason"], "blocks x positions")
    auroc = table.assign(auroc=table["auroc"].mask(table["reason"] != "")).pivot(
        index="block", columns="position", values="auroc"
    )
    n_blocks, width = auroc.shape
    ax = axes_or_new(ax, max(4.5, 0.45 * width + 2), max(3, 0.2 * n_blocks + 1.6))
    most = max(0.1, float(np.nanmax(np.abs(auroc.to_numpy() - 0.5))))
    ax.set_facecolor(MASKED)
    colours: dict[str, Any] = {"cmap": "RdBu_r", "vmin": 0.5 - most, "vmax": 0.5 + most}
    mesh = ax.pcolormesh(np.ma.masked_invalid(auroc.to_numpy()), **colours)
    ax.figure.colorbar(mesh, ax=ax, label="held-out AUROC", pad=0.02)
    passed = table.pivot(index="block", columns="position", values="p_fwe").to_numpy() <= alpha
    rows, columns = np.nonzero(passed)
    ax.scatter(columns + 0.5, rows + 0.5, s=6, color="black", lw=0)
    names = ["embeddings" if block == EMBEDDING else str(block) for block in auroc.index]
    shown = [row for row, block in enumerate(auroc.index) if block == EMBEDDING or n_blocks <= 12 or block % _STEP == 0]
    ax.set_yticks(np.array(shown) + 0.5, [names[row] for row in shown])
    ax.set_xticks(np.arange(width) + 0.5, auroc.columns)
    for column, n in enumerate(table.groupby("position")["n"].min()):
        _above(ax, str(n), column + 0.5)
    _above(ax, "n", -0.4)
    grey = "; grey: too few stimuli" if (table["reason"] != "").any() else ""
    ax.set_xlabel(f"position (tokens from the reference of the alignment{grey})")
    ax.set_ylabel("block")
    write_title(ax, f"Decoding block by position (dots: p ≤ {alpha:g}, largest AUROC over all cells)", pad=14)
    return ax


def _curve(
    ax: Axes, table: pd.DataFrame, value: str, colour: str, marker: str, label: str, dashed: bool = False
) -> None:
    """A line with its interval; the embeddings stand apart, because no block made them."""
    for rows in (table[table["block"] == EMBEDDING], table[table["block"] != EMBEDDING]):
        if not len(rows):
            continue
        x = _x(rows["block"])
        if len(rows) == 1:
            errors = np.abs([rows[value] - rows["low"], rows["high"] - rows[value]])
            ax.errorbar(x, rows[value], yerr=errors, fmt="none", ecolor=colour, lw=1.2)
        ax.fill_between(x, rows["low"], rows["high"], color=colour, alpha=0.18, lw=0)
        ax.plot(x, rows[value], "--" if dashed else "-", lw=1.4, marker=marker, ms=3.5, color=colour, label=label)
        label = "_nolegend_"


def _above(ax: Axes, text: str, x: float, colour: str = "black", rotation: float = 0) -> None:
    """A small text just above the axes."""
    ax.annotate(
        text,
        (x, 1),
        (0, 2),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        color=colour,
        rotation=rotation,
    )


def _curves(table: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Rows of every representation and selector, in the order of the table."""
    names = table[["representation", "selector"]].drop_duplicates().itertuples(index=False)
    return [((a, b), table[(table["representation"] == a) & (table["selector"] == b)]) for a, b in names]


def _mark(ax: Axes, rows_by_name: Mapping[str, tuple[str, pd.DataFrame]], alpha: float) -> None:
    """Rows of dots below the curves: where the corrected p is small enough, in the colour of the curve."""
    low, high = ax.get_ylim()
    step = 0.05 * (high - low)
    for row, (colour, table) in enumerate(rows_by_name.values()):
        x = _x(table.loc[table["p_fwe"] <= alpha, "block"])
        ax.scatter(x, np.full(len(x), low - (row + 0.5) * step), s=9, color=colour, lw=0, clip_on=False)
    ax.set_ylim(low - (len(rows_by_name) + 0.3) * step, high)


def _locate(ax: Axes, found: Emergence, above_chance: list[int], alpha: float) -> None:
    """Peak with its interval above the curves; the first block above the embeddings as a line."""
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.08 * (high - low))
    y = high + 0.03 * (high - low)
    places = [("peak", found.peak, "v"), ("half of the rise from emb.", found.half_rise, "|")]
    for name, place, marker in places[: 1 if found.peak.block == EMBEDDING else 2]:
        label = f"{name}: {_short(place.block)} (95 % {_short(place.low)} to {_short(place.high)})"
        ax.plot(_x([place.low, place.high]), [y, y], color=_BLACK, lw=1.2)
        ax.plot(_x([place.block]), [y], marker, ms=7, color=_BLACK, ls="none", label=label)
        y += 0.03 * (high - low)
    first = found.first_above(above_chance, alpha)
    if first is not None:
        ax.axvline(first, color=PALETTE["embeddings"], lw=1.2, ls="-.", label=f"first above emb.: {first}")


def _x(blocks: Any) -> np.ndarray:
    """Places on the axis."""
    return np.where(np.asarray(blocks) == EMBEDDING, _APART, np.asarray(blocks))


def _short(block: int) -> str:
    return "emb." if block == EMBEDDING else str(block)


def _finish(ax: Axes, blocks: pd.Series) -> Axes:
    numbers = sorted(blocks.unique())
    dense = len(numbers) > 12
    if len(numbers) > _MOST and numbers[:2] == [EMBEDDING, 0]:
        numbers.remove(0)  # its label would touch that of the embeddings
    shown = [
        block for block in numbers if not dense or block == EMBEDDING or block % _STEP == 0 or block == numbers[-1]
    ]
    ax.set_xticks(_x(shown), [_short(block) for block in shown])
    ax.set_xlim(_x(numbers[:1])[0] - 0.6, numbers[-1] + 0.6)
    ax.set_xlabel("block (emb.: token embeddings, before the first)")
    ax.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax
