"""Figures of prompt styles: functions that take an `Axes` (or make one) and return it."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

_MARKERS = "osD^vP*X"


def style_colours(styles: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """One colour per style, told apart by colour-blind readers.

    Examples
    --------
    >>> sorted(style_colours(["plain", "expert"]))
    ['expert', 'plain']
    """
    return dict(zip(styles, sns.color_palette("colorblind", len(styles)), strict=True))


def style_means(table: pd.DataFrame, measure: str, label: str, ax: Axes | None = None) -> Axes:
    """Mean of a measure in every style, with intervals over topics, one marker per pool.

    Parameters
    ----------
    table : DataFrame
        `pool`, `measure`, `style`, `mean`, `low`, `high`, `n_topics`.
    measure, label : str
        Which rows, and what the axis says.
    ax : Axes, optional

    Examples
    --------
    >>> table = pd.DataFrame({"pool": ["prompt"], "measure": ["active"], "style": ["expert"], "mean": [30.0]})
    >>> style_means(table.assign(low=29.0, high=31.0, n_topics=50), "active", "latents").get_title(loc="left")
    'n = 50 topics, 95 % intervals'
    """
    rows = table[table["measure"] == measure]
    styles, pools = list(dict.fromkeys(rows["style"])), list(dict.fromkeys(rows["pool"]))
    ax = ax or plt.subplots(figsize=(5.2, 3.6))[1]
    for i, (pool, colour) in enumerate(zip(pools, sns.color_palette("colorblind", len(pools)), strict=True)):
        here = rows[rows["pool"] == pool].set_index("style").loc[styles]
        place = np.arange(len(styles)) + 0.16 * (i - (len(pools) - 1) / 2)
        error = [here["mean"] - here["low"], here["high"] - here["mean"]]
        ax.errorbar(place, here["mean"], yerr=error, fmt=_MARKERS[i], color=colour, capsize=2.5, ms=5, label=pool)
    ax.set_xticks(range(len(styles)), styles, rotation=20, ha="right")
    ax.set_ylabel(label)
    ax.set_title(f"n = {rows['n_topics'].iloc[0]} topics, 95 % intervals", loc="left", fontsize=9)
    ax.legend(frameon=False, fontsize=8, title="tokens of", title_fontsize=8)
    sns.despine(ax=ax)
    return ax


def style_differences(table: pd.DataFrame, measure: str, label: str, against: str, ax: Axes | None = None) -> Axes:
    """Paired differences of every style from one of them, with intervals over topics and what max-T leaves of them.

    Parameters
    ----------
    table : DataFrame
        Of one pool, from `neurosae.styles.compare_styles`.
    measure, label : str
        Which rows, and what is measured.
    against : str
        The style that the others are compared with.
    ax : Axes, optional
        Filled dots: corrected p below .05.
    """
    rows = table[table["measure"] == measure]
    flipped = rows[rows["style"] == against].rename(columns={"style": "against", "against": "style"})
    flipped = flipped.assign(difference=-flipped["difference"], low=-flipped["high"], high=-flipped["low"])
    rows = pd.concat([rows[rows["against"] == against], flipped]).reset_index(drop=True)
    colours = style_colours([against, *rows["style"]])
    rows = rows[::-1]  # the first on top
    ax = ax or plt.subplots(figsize=(5.2, 0.4 * len(rows) + 1.2))[1]
    for y, (_, row) in enumerate(rows.iterrows()):
        colour = colours[row["style"]]
        ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=2)
        ax.plot(row["difference"], y, "o", mec=colour, mfc=colour if row["p_fwe"] < 0.05 else "white", ms=7)
    ax.axvline(0, color="0.4", lw=1, ls=":")
    ax.set_yticks(range(len(rows)), list(rows["style"]))
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel(f"{label}: difference from {against}\n(95 % over topics; filled: p < .05, max-T)", fontsize=9)
    ax.set_title(f"n = {rows['n_topics'].iloc[0]} topics", loc="left", fontsize=9)
    sns.despine(ax=ax)
    return ax


def style_firing(table: pd.DataFrame, styles: Sequence[str], ax: Axes | None = None) -> Axes:
    """In what share of the prompts of each style do the latents fire that tell a style best, with their purity.

    Parameters
    ----------
    table : DataFrame
        From `neurosae.styles.firing_table`.
    styles : sequence of str
    ax : Axes, optional
    """
    ax = ax or plt.subplots(figsize=(6.4, 0.2 * len(table) + 1.6))[1]
    image = ax.imshow(table[list(styles)].to_numpy(dtype=float), aspect="auto", cmap="cividis", vmin=0, vmax=1)
    ax.figure.colorbar(image, ax=ax, label="share of prompts in which it fires", pad=0.22)
    ax.set_xticks(range(len(styles)), list(styles), rotation=20, ha="right")
    names = [f"{row.style}  {row.latent}" for row in table.itertuples()]
    ax.set_yticks(range(len(table)), names, fontsize=7)
    for y, row in enumerate(table.itertuples()):
        text = f"{row.purity:.2f} [{row.low:.2f}, {row.high:.2f}]" if not row.reason else f"{row.purity:.2f}"
        ax.text(len(styles) - 0.4, y, text, va="center", fontsize=6.5)
    for edge in np.flatnonzero(table["style"].to_numpy()[1:] != table["style"].to_numpy()[:-1]):
        ax.axhline(edge + 0.5, color="white", lw=1.5)
    ax.text(len(styles) - 0.4, -1.0, "purity [95 %]", fontsize=7, va="center")
    ax.set_ylabel("style that chose it, latent")
    ax.set_title(
        f"chosen on other topics, same wordings; n = {table['n_topics'].iloc[0]} topics shown", loc="left", fontsize=9
    )
    return ax


def style_separators(table: pd.DataFrame, pool: str, ax: Axes | None = None) -> Axes:
    """How many perfect separators of two styles survive a held-out wording, of how many found.

    Parameters
    ----------
    table : DataFrame
        From `neurosae.styles.separators`.
    pool : str
        Whose tokens, for the title.
    ax : Axes, optional
    """
    styles = list(dict.fromkeys(table["fires_in"]))
    survived, found, p = (
        table.pivot(index="fires_in", columns="silent_in", values=name).loc[styles, styles].to_numpy(dtype=float)
        for name in ("survived", "found", "p_fwe")
    )
    ax = ax or plt.subplots(figsize=(5.6, 4.4))[1]
    shade = np.log10(survived + 1)
    darkest = max(1.0, float(np.nanmax(shade)))
    ax.imshow(np.ma.masked_invalid(shade), cmap="Blues", vmin=0, vmax=darkest)
    for i, j in np.argwhere(np.isfinite(survived)):
        text = f"{survived[i, j]:.0f}{'*' if p[i, j] < 0.05 else ''}\nof {found[i, j]:.1f}"
        colour = "white" if shade[i, j] > darkest / 2 else "black"
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    ax.set_xticks(range(len(styles)), [f"silent in\n{name}" for name in styles], fontsize=8)
    ax.set_yticks(range(len(styles)), [f"fires in {name}" for name in styles], fontsize=8)
    title = f"Tokens of the {pool}: perfect separators that survive\na held-out wording, of those found (* p < .05)"
    ax.set_title(title, loc="left", fontsize=9)
    return ax


def style_relation(answers: pd.DataFrame, x: str, y: str, labels: tuple[str, str], ax: Axes | None = None) -> Axes:
    """Answers as dots, two measures against each other within topics, by style.

    Parameters
    ----------
    answers : DataFrame
        `style`, `topic` and both columns; rows without a value are left out.
    x, y : str
    labels : tuple of str
        Of the axes.
    ax : Axes, optional
    """
    rows = answers.dropna(subset=[x, y])
    within = rows[[x, y]] - rows.groupby("topic")[[x, y]].transform("mean")
    ax = ax or plt.subplots(figsize=(4.8, 4.0))[1]
    for (style, colour), marker in zip(
        style_colours(list(dict.fromkeys(rows["style"]))).items(), _MARKERS, strict=False
    ):
        here = (rows["style"] == style).to_numpy()
        ax.plot(within.loc[here, x], within.loc[here, y], marker, color=colour, alpha=0.8, ms=5, label=style)
    ax.set_xlabel(f"{labels[0]}\n(less the topic's mean)")
    ax.set_ylabel(f"{labels[1]}\n(less the topic's mean)")
    ax.set_title(f"n = {len(rows)} answers to {rows['topic'].nunique()} topics", loc="left", fontsize=9)
    ax.legend(frameon=False, fontsize=8, ncols=2)
    sns.despine(ax=ax)
    return ax
