"""Figures of dictionaries: functions that take an `Axes` (or make one) and return it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurosae.dictionary.completeness import DEDICATED
from neurosae.dictionary.maps import PREFERRING, Separation
from neurosae.dictionary.scaling import PowerLaw
from neurosae.errors import UserError, unknown_name
from neurosae.plots.style import PALETTE, axes_or_new, something_of, write_title

_MARKERS = "osD^vP*X"
_SPACES = {
    "neurons": "Stimuli, neurons",
    "latents": "Stimuli, SAE latents",
    "decoder": f"Decoder directions, {PREFERRING} best latents of each",
}


def firing_rates(table: pd.DataFrame, condition: str, ax: Axes | None = None) -> Axes:
    """Share of stimuli in which each latent fires, in one condition against all others, coloured by AUROC.

    Parameters
    ----------
    table : DataFrame
        From `neurosae.dictionary.specificity`: `latent`, `condition`, `fires`, `n_stimuli`, `rate`, `auroc`, `valid`.
    condition : str
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        A condition that is not in the table, or no latent that fires often enough.
    """
    needed = ["latent", "condition", "fires", "n_stimuli", "rate", "auroc", "valid"]
    if condition not in set(something_of(table, needed, "firing rates")["condition"]):
        raise unknown_name("condition", condition, map(str, table["condition"].unique()))
    valid = something_of(table[table["valid"]], [], "firing rates, latents that fire often enough")
    here = valid[valid["condition"] == condition].set_index("latent")
    elsewhere = valid[valid["condition"] != condition].groupby("latent")[["fires", "n_stimuli"]].sum()
    rate = (elsewhere["fires"] / elsewhere["n_stimuli"]).loc[here.index]
    # The strongest lie on top.
    order = (here["auroc"] - 0.5).abs().argsort()
    n_here, n_elsewhere = int(here["n_stimuli"].max()), int(elsewhere["n_stimuli"].max())
    ax = axes_or_new(ax, 5.6, 4.6)
    dots = ax.scatter(
        rate.iloc[order], here["rate"].iloc[order], c=here["auroc"].iloc[order], cmap="coolwarm", vmin=0, vmax=1, s=14
    )
    ax.axline((0, 0), slope=1, color="0.4", lw=1, ls=":")
    ax.figure.colorbar(dots, ax=ax, label=f"AUROC of {condition}")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ax.set_xlabel(f"share of the other stimuli (n = {n_elsewhere}) in which it fires")
    ax.set_ylabel(f"share of {condition} (n = {n_here}) in which it fires")
    write_title(ax, f"{len(here):,} latents that fire often enough")
    sns.despine(ax=ax)
    return ax


def completeness_by_frequency(members: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """Held-out F1 of each member's latent against how often a corpus mentions the member.

    Parameters
    ----------
    members : DataFrame
        `list`, `f1`, `per_million`, `dedicated`.
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No member, or a column is missing.
    """
    something_of(members, ["list", "f1", "per_million", "dedicated"], "completeness by frequency")
    ax = axes_or_new(ax, 7, 4.2)
    names = list(dict.fromkeys(members["list"]))
    rng = np.random.default_rng(0)  # F1 takes few values: dots are moved a little, by up to 0.015
    for name, colour, marker in zip(names, sns.color_palette("colorblind", len(names)), _MARKERS * 9, strict=False):
        rows = members[members["list"] == name]
        y = rows["f1"] + rng.uniform(-0.015, 0.015, len(rows))
        label = f"{name} ({int(rows['dedicated'].sum())} of {len(rows)})"
        ax.scatter(rows["per_million"], y, s=20, color=colour, marker=marker, alpha=0.8, label=label)
    ax.axhline(DEDICATED, color="0.4", lw=1, ls=":")
    mentioned = members.loc[members["per_million"] > 0, "per_million"]
    least, most = (mentioned.min(), mentioned.max()) if len(mentioned) else (1.0, 1.0)
    ax.set_xscale("symlog", linthresh=least)  # a logarithmic axis with room for zero
    ticks = 10.0 ** np.arange(np.ceil(np.log10(least)), np.floor(np.log10(most)) + 1)
    ax.set_xticks([0, *ticks], ["0", *(f"{tick:g}" for tick in ticks)])
    ax.set_xlim(left=-0.2 * least)
    ax.set_ylim(-0.05, 1.05)
    ax.set_xlabel("mentions per million words of the corpus (logarithmic above 0)")
    ax.set_ylabel("held-out F1 of the member's latent")
    write_title(ax, title)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), title="list (dedicated)")
    sns.despine(ax=ax)
    return ax


def point_map(
    position_N2: np.ndarray, labels_N: np.ndarray, title: str, measured: Separation, ax: Axes | None = None
) -> Axes:
    """Points in the plane by condition; the separation, measured in the original space, stands in the title.

    Parameters
    ----------
    position_N2 : ndarray of shape (N, 2)
    labels_N : array of N str
        In the order of their colours; the empty label is drawn grey and below the others.
    title : str
    measured : Separation
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No point, or labels that do not fit the points.
    """
    if len(position_N2) != len(labels_N) or not len(position_N2):
        raise UserError(f"{len(labels_N)} labels for {len(position_N2)} points", where="map of points")
    ax = axes_or_new(ax, 5, 4.6)
    labels_N = np.asarray(labels_N)
    names = [str(name) for name in dict.fromkeys(labels_N) if name != ""]
    rest = labels_N == ""
    if rest.any():
        ax.scatter(position_N2[rest, 0], position_N2[rest, 1], s=3, color="0.8", label=f"other (n = {rest.sum():,})")
    colours = [PALETTE["sae"], PALETTE["raw"], PALETTE["embeddings"], PALETTE["untrained_sae"]]
    colours = colours if len(names) <= len(colours) else sns.color_palette("colorblind", len(names))
    for name, colour, marker in zip(names, colours, _MARKERS * 9, strict=False):
        here = labels_N == name
        label = f"{name} (n = {here.sum()})"
        ax.scatter(
            position_N2[here, 0], position_N2[here, 1], s=18, color=colour, marker=marker, alpha=0.8, label=label
        )
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("UMAP 1")
    ax.set_ylabel("UMAP 2")
    write_title(ax, title, _in_words(measured), size=9)
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=1 + len(names) // 8)
    return ax


def dictionary_maps(maps: pd.DataFrame, separation: pd.DataFrame) -> Figure:
    """Maps of stimuli as neurons and as latents, and of decoder directions, side by side.

    Parameters
    ----------
    maps, separation : DataFrame
        As in `neurosae.dictionary.describe_sae.SaeDescription`.

    Returns
    -------
    Figure
    """
    something_of(maps, ["space", "x", "y", "label"], "maps of a dictionary")
    rows = separation.set_index("space").to_dict("index")
    measured = {space: Separation(**{str(name): value for name, value in row.items()}) for space, row in rows.items()}
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.4), layout="constrained")
    for (space, title), ax in zip(_SPACES.items(), axes, strict=True):
        points = maps[maps["space"] == space]
        point_map(points[["x", "y"]].to_numpy(), points["label"].to_numpy(), title, measured[space], ax)
    return figure


def _in_words(measured: Separation) -> str:
    if not measured.valid:
        return f"separation not measured: {measured.reason}"
    return (
        f"in the original space: kNN {measured.knn_accuracy:.2f} (chance {measured.chance:.2f}),\n"
        f"silhouette {measured.silhouette:.3f}, between/within {measured.between_within:.3f}"
    )


def scaling_curve(
    cells: pd.DataFrame, measure: str, label: str, laws: dict[int, PowerLaw] | None = None, ax: Axes | None = None
) -> Axes:
    """A measure of trained SAEs against the number of latents, one line per k; power laws dashed where given.

    Parameters
    ----------
    cells : DataFrame
        `n_latents`, `k` and the measure.
    measure, label : str
        Column, and what the axis says.
    laws : dict of int to PowerLaw, optional
        By k; invalid ones are not drawn. The legend names the exponent with its 95 % interval.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        No cell, or a column is missing.

    Examples
    --------
    >>> cells = pd.DataFrame({"n_latents": [1024, 2048], "k": 32, "fvu": [0.3, 0.2]})
    >>> scaling_curve(cells, "fvu", "held-out FVU").get_ylabel()
    'held-out FVU'
    """
    something_of(cells, ["n_latents", "k", measure], "scaling curve")
    ax = axes_or_new(ax, 4.6, 3.8)
    ks = sorted(cells["k"].unique())
    for k, colour, marker in zip(ks, sns.color_palette("colorblind", len(ks)), _MARKERS * 9, strict=False):
        rows = cells[cells["k"] == k].sort_values("n_latents")
        law = (laws or {}).get(int(k))
        fit = f": exponent {law.exponent:.2f} ({law.ci_low:.2f} to {law.ci_high:.2f})" if law and law.valid else ""
        ax.plot(rows["n_latents"], rows[measure], marker=marker, color=colour, label=f"k = {k}{fit}")
        if law and law.valid:
            x = np.geomspace(rows["n_latents"].min(), rows["n_latents"].max(), 50)
            ax.plot(x, law.coefficient * x**-law.exponent, color=colour, lw=1, ls="--")
    widths = sorted(cells["n_latents"].unique())
    ax.set_xscale("log")
    ax.set_xticks(widths, [f"{width:,}" for width in widths], rotation=30)
    ax.minorticks_off()
    ax.set_xlabel(f"number of latents (n = {len(cells)} trained SAEs)")
    ax.set_ylabel(label)
    ax.legend(frameon=False, fontsize=8)
    sns.despine(ax=ax)
    return ax


def scaling(cells: pd.DataFrame, laws: dict[int, PowerLaw]) -> Figure:
    """Unexplained variance, silent latents and completeness of trained SAEs against their width, side by side.

    Parameters
    ----------
    cells : DataFrame
        As in `neurosae.dictionary.sae_scaling.SaeScaling`.
    laws : dict of int to PowerLaw
        By k.

    Returns
    -------
    Figure
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    fitted = " (dashed: power law)" if any(law.valid for law in laws.values()) else ""
    scaling_curve(cells, "fvu", f"clean FVU, held out{fitted}", laws, axes[0])
    axes[0].set_yscale("log")
    for which in (axes[0].yaxis.set_major_formatter, axes[0].yaxis.set_minor_formatter):
        which("{x:.2f}")
    scaling_curve(cells, "dead_share", "share of latents that never fire on these", ax=axes[1])
    scaling_curve(cells, "completeness", "share of members with their own latent", ax=axes[2])
    return figure
