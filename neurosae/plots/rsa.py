"""Figures of whole-representation RSA: functions that take an `Axes` (or make one) and return it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from sklearn.manifold import MDS

from neurosae.errors import UserError
from neurosae.plots.style import PALETTE, apart, axes_or_new, line_height, write_title
from neurosae.rdms.comparators import as_vectors
from neurosae.rdms.distances import DISTANCES
from neurosae.rdms.model_comparison import ModelComparison
from neurosae.rdms.patterns import numbered

COMPARATOR_LABELS = {
    "pearson": "Pearson correlation",
    "cosine": "cosine similarity",
    "spearman": "Spearman correlation",
    "rho_a": "rank correlation (rho-a)",
}
BAR = 0.03  # width of a condition bar, as a share of the axes
STEP = 0.07  # height between two brackets, as a share of the range of scores


def rdm_heatmap(rdm: Any, conditions: Any, *, unit: str | None = None, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw an RDM with its stimuli sorted by condition and a bar that tells the conditions apart.

    Parameters
    ----------
    rdm : rsatoolbox.rdm.RDMs of one RDM, ModelRDM or array [S, S]
        Masked pairs are grey.
    conditions : array [S]
    unit : str, optional
        What the colours mean. Default: the distance of the rsatoolbox object.
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        Several RDMs, no pair that is not masked, or conditions that do not fit the stimuli.
    """
    table_SS = _single(rdm)
    code_S, names = numbered(conditions, len(table_SS), "condition", sort=True)
    order_S = np.argsort(code_S, kind="stable")
    sorted_SS = table_SS[np.ix_(order_S, order_S)]
    np.fill_diagonal(sorted_SS, np.nan)
    if np.isnan(sorted_SS).all():
        raise UserError("every pair of stimuli is masked: there is nothing to draw")
    ax = axes_or_new(ax, 5.5, max(4.6, 0.22 * len(names)))
    signed = np.nanmin(sorted_SS) < 0
    limit = float(np.nanmax(np.abs(sorted_SS)))
    colours = sns.color_palette("vlag" if signed else "cividis", as_cmap=True).with_extremes(bad="0.8")
    image = ax.imshow(
        sorted_SS,
        cmap=colours,
        interpolation="nearest",
        vmin=-limit if signed else None,
        vmax=limit if signed else None,
    )
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label=unit or _unit(rdm))
    _condition_bars(ax, code_S[order_S], [str(name) for name in names])
    n_pairs = int(np.isfinite(sorted_SS).sum()) // 2
    write_title(ax, f"{title + ', ' if title else ''}n = {len(table_SS)} patterns, {n_pairs:,} pairs")
    return ax


def stimulus_mds(rdm: Any, conditions: Any, *, title: str = "", seed: int = 0, ax: Axes | None = None) -> Axes:
    """Draw stimuli in the plane so that their distances follow the RDM (metric multidimensional scaling).

    The title states Kruskal's stress-1 (0: exact; above 0.2: do not trust distances in the plane) and the number of
    patterns. Squared distances are drawn as their roots, negative ones (crossnobis) as 0.

    Parameters
    ----------
    rdm, conditions, title, ax
        As in `rdm_heatmap`; no pair may be masked.
    seed : int, default 0
        Of the starting configurations.

    Returns
    -------
    Axes

    Raises
    ------
    UserError
        A masked pair, dissimilarities that are negative (and no squared distances) or all 0, and as `rdm_heatmap`.

    References
    ----------
    Kruskal (1964), Psychometrika 29.
    """
    table_SS = _single(rdm)
    if np.isnan(table_SS).any():
        raise UserError("a masked pair has no distance", suggestion="Leave out the stimuli without a pattern")
    code_S, names = numbered(conditions, len(table_SS), "condition", sort=True)
    squared = str(getattr(rdm, "dissimilarity_measure", None)) in ("squared euclidean", "crossnobis")
    distance_SS = np.sqrt(np.maximum(table_SS, 0)) if squared else table_SS
    if distance_SS.min() < 0 or not distance_SS.any():
        raise UserError("dissimilarities are negative, or all 0", suggestion="Look at the heat map of the RDM")
    scaling = MDS(
        n_components=2, metric="precomputed", metric_mds=True, normalized_stress=True, n_init=4, init="random",
        random_state=seed,
    )  # fmt: skip
    place_S2 = scaling.fit_transform(distance_SS)
    ax = axes_or_new(ax, 5.5, max(4.2, 0.24 * len(names)))
    for code, (name, colour, marker) in enumerate(zip(names, _colours(len(names)), _markers(len(names)), strict=True)):
        here = code_S == code
        label, (x_s, y_s) = f"{name} (n = {here.sum()})", place_S2[here].T
        ax.scatter(x_s, y_s, s=24, color=colour, marker=marker, alpha=0.85, lw=0, label=label)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(f"{'root of ' if squared else ''}{_unit(rdm)}, in the plane")
    lead = title + ", " if title else ""
    write_title(ax, f"{lead}n = {len(table_SS)} patterns, stress {scaling.stress_:.2f}")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def model_comparison(
    comparison: ModelComparison, *, alpha: float = 0.05, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw the score of every model with its interval, the noise ceiling, and which differences are significant.

    A star stands above models that score better than chance, a bracket above two models that differ (both corrected
    for the number of tests by Holm's method).

    Parameters
    ----------
    comparison : ModelComparison
    alpha : float, default 0.05
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    table = comparison.table
    ax = axes_or_new(ax, max(3.4, 1.6 + 0.9 * len(table)), 3.8)
    x, score = np.arange(len(table)), table["score"].to_numpy()
    low, high = table["low"].to_numpy(), table["high"].to_numpy()
    ceiling = comparison.ceiling
    top = float(max(high.max(), score.max(), ceiling.upper if ceiling else 0, 0))
    bottom = float(min(low.min(), score.min(), 0))
    step = STEP * (top - bottom)
    if ceiling:
        label = f"noise ceiling\n({ceiling.n_rdms} RDMs)"
        ax.axhspan(ceiling.lower, ceiling.upper, color="0.85", zorder=0, label=label)
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    ax.bar(x, score, 0.6, color=PALETTE["raw"])
    ax.vlines(x, low, high, color="0.15", lw=1.5)
    ax.axhline(0, color="0.4", lw=1)
    for k in np.flatnonzero(table["p_holm"] < alpha):
        ax.annotate("*", (x[k], max(high[k], score[k], 0)), ha="center", va="bottom", fontsize=13)
    height = top + 1.5 * step
    for (a, b), p in zip(itertools.combinations(x, 2), comparison.differences["p_holm"], strict=True):
        if p < alpha:
            ax.plot([a, a, b, b], height - step * np.array([0.3, 0, 0, 0.3]), color="0.3", lw=1)
            height += step
    ax.set_ylim(bottom - step, height + 0.5 * step)
    ax.set_xticks(x, table["model"], rotation=30, ha="right", rotation_mode="anchor")
    interval = f"(line: {100 * comparison.level:g} % interval over items)"
    ax.set_ylabel(f"{COMPARATOR_LABELS[comparison.comparator]}\n{interval}")
    write_title(ax, title, f"n = {comparison.n_stimuli} stimuli, {comparison.n_groups} items")
    ax.set_xlabel(f"* better than chance, bracket: two models differ\n(p < {alpha:g}, Holm)", fontsize=9)
    sns.despine(ax=ax)
    return ax


def second_order_matrix(
    matrix: pd.DataFrame, *, comparator: str = "spearman", title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw which RDMs resemble each other.

    Parameters
    ----------
    matrix : DataFrame [L, M]
        From `neurosae.rdms.second_order`.
    comparator : str, default "spearman"
        The one it was computed with, for the label of the colour bar.
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    rows, columns = matrix.shape
    if not matrix.size:
        raise UserError("there is nothing to draw: no RDM is compared", where="second-order matrix")
    ax = axes_or_new(ax, 2.2 + 0.42 * columns, 1.5 + 0.38 * rows)
    signed = float(matrix.to_numpy().min()) < 0
    sns.heatmap(
        matrix, vmin=-1 if signed else 0, vmax=1, cmap="vlag" if signed else "cividis", square=True,
        annot=max(rows, columns) <= 12, fmt=".2f", annot_kws={"size": 7}, xticklabels=True, yticklabels=True,
        cbar_kws={"label": f"{COMPARATOR_LABELS[comparator]} of RDMs", "shrink": 0.8}, ax=ax,
    )  # fmt: skip
    ax.set_xticks(
        ax.get_xticks(), [str(name) for name in matrix.columns], rotation=45, ha="right", rotation_mode="anchor"
    )
    ax.tick_params(axis="y", rotation=0)
    write_title(ax, title or f"Second-order comparison of {rows} x {columns} RDMs")
    return ax


def _single(rdm: Any) -> np.ndarray:
    """The one table [S, S] of an RDM, as a copy."""
    vectors = as_vectors(rdm)
    if len(vectors.names) != 1:
        raise UserError(f"{len(vectors.names)} RDMs in one figure", suggestion="Draw them one by one")
    return vectors.tables[0]


def _unit(rdm: Any) -> str:
    measure = str(getattr(rdm, "dissimilarity_measure", None) or "dissimilarity")
    if measure == "crossnobis":
        return "squared crossnobis distance per feature"
    return DISTANCES.get(measure.replace(" ", "_"), measure)


def _condition_bars(ax: Axes, code_S: np.ndarray, names: list[str]) -> None:
    """Coloured bars left of and below a heat map, each with the name of its condition and how many stimuli it has."""
    ax.set_xticks([])
    ax.set_yticks([])
    edges, n = np.searchsorted(code_S, np.arange(len(names) + 1)), len(code_S)
    middles = 1 - (edges[:-1] + edges[1:]) / (2 * n)
    between, n_lines = ("\n", 2) if len(names) <= 8 else (" ", 1)
    gap = n_lines * line_height(ax, 8)
    label_y = apart(middles[::-1], gap, gap / 2, 1 - gap / 2)[::-1]
    for name, first, last, y, colour in zip(names, edges, edges[1:], label_y, _colours(len(names)), strict=False):
        start, length = first / n, (last - first) / n
        for corner, width, height in (
            ((-BAR - 0.01, 1 - start - length), BAR, length),
            ((start, -BAR - 0.01), length, BAR),
        ):
            ax.add_patch(Rectangle(corner, width, height, transform=ax.transAxes, color=colour, clip_on=False, lw=0))
        label = f"{name}{between}(n = {last - first})"
        ax.text(-BAR - 0.03, y, label, transform=ax.transAxes, ha="right", va="center", fontsize=8)


def _colours(n: int) -> list[Any]:
    """Colour-blind safe colours for conditions; a sequence where there are more than eight."""
    return list(sns.color_palette("colorblind", n) if n <= 8 else sns.color_palette("cividis", n))


def _markers(n: int) -> list[str]:
    return [("o", "s", "^", "D", "v", "P", "X", "*")[i % 8] for i in range(n)]
