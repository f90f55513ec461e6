"""Cluster mass and threshold-free cluster enhancement (TFCE) over a block x position map.

Adjacency means something there: neighbouring blocks of one residual stream, neighbouring positions that mean the same
in every stimulus. Two cells are neighbours if they share an edge. Latents of different SAEs share no axis: never put
them side by side. Positive and negative effects never join one cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from neurosae.errors import UserError, unknown_name
from neurosae.inference.permutation import TAILS, permutation_p, smallest_p

Array = NDArray[np.float64]

COLUMNS = {"label": int, "mass": float, "peak": float, "block": int, "position": int, "cells": int}

NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)
"""Cells of one map that touch: the same map, and one step along blocks or along positions."""
NEIGHBOURS[1] = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True, eq=False)
class ClusterTest:
    """Clusters of a map, and how large the largest ones are under the null hypothesis."""

    table: pd.DataFrame
    """One row per cluster, largest mass first: `label`, `mass` (signed sum of the statistic), `peak` (its extreme),
    `block` and `position` of the peak (indices of the map), `cells`, `p_fwe`."""
    labels_LW: NDArray[np.intp]
    """Label of the cluster a cell belongs to; 0 for none."""
    null_max_B: Array
    """Largest magnitude of a cluster's mass in every null map; 0 where it has no cluster."""
    smallest_p: float


@dataclass(frozen=True, eq=False)
class TfceTest:
    """Enhanced map and its family-wise adjusted p-values."""

    value_LW: Array
    """Signed scores, 0 outside the mask."""
    p_fwe_LW: Array
    """1 outside the mask, and where the effect goes against a one-sided test."""
    null_max_B: Array
    """Largest score of every null map."""
    smallest_p: float


def cluster_test(
    map_LW: ArrayLike,
    null_BLW: ArrayLike,
    threshold: float,
    *,
    mask_LW: ArrayLike | None = None,
    tail: str = "two-sided",
) -> ClusterTest:
    """Test the clusters of a statistical map by their mass, the sum of the statistic over their cells.

    Parameters
    ----------
    map_LW : array [L, W]
        Signed statistic (t) over blocks and positions.
    null_BLW : array [B, L, W]
        The same under every arrangement, such as from `neurosae.inference.null_statistics`.
    threshold : float
        Above 0; cells reach it with |t| to form clusters, for example ``scipy.stats.t.isf(0.001, df)``. Choose it
        before looking at the map.
    mask_LW : bool array [L, W], optional
        Cells to use; the others may hold anything. Default: all.
    tail : {'two-sided', 'greater', 'less'}
        Which clusters count: of either sign, positive or negative ones.

    Returns
    -------
    ClusterTest

    Raises
    ------
    UserError
        Shapes that do not fit, a value inside the mask that is not finite, threshold not above 0, unknown tail.

    Notes
    -----
    A significant cluster says that there is an effect somewhere in it, not in every cell of it.

    References
    ----------
    Bullmore et al. (1999), IEEE TMI 18; Maris & Oostenveld (2007), Journal of Neuroscience Methods 164.

    Examples
    --------
    >>> map_LW = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, -3.0]])
    >>> cluster_test(map_LW, np.zeros((19, 2, 3)), threshold=2.0).table[["mass", "cells", "p_fwe"]].values.tolist()
    [[7.0, 2.0, 0.05], [-3.0, 1.0, 0.05]]
    """
    if not threshold > 0:
        raise UserError(f"the threshold is {threshold}", where="threshold", allowed="numbers above 0")
    map_LW, null_BLW = _checked(map_LW, null_BLW, mask_LW, tail)
    null_max_B = np.zeros(len(null_BLW))
    labels_LW = np.zeros(map_LW.shape, dtype=np.intp)
    rows: list[tuple[float, ...]] = []
    for sign in _signs(tail):
        _, owner_C, mass_C = _clusters(sign * null_BLW, threshold)
        np.maximum.at(null_max_B, owner_C, mass_C)
        found_LW, _, mass_C = _clusters(sign * map_LW[None], threshold)
        for number, mass in enumerate(mass_C, start=1):
            cells_LW = found_LW[0] == number
            peak = np.unravel_index(np.argmax(np.where(cells_LW, sign * map_LW, -np.inf)), map_LW.shape)
            labels_LW[cells_LW] = len(rows) + 1
            rows.append((len(rows) + 1, sign * mass, map_LW[peak], int(peak[0]), int(peak[1]), int(cells_LW.sum())))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    table["p_fwe"] = permutation_p(table["mass"].abs().to_numpy(), null_max_B[:, None])
    table = table.sort_values("mass", key=np.abs, ascending=False, kind="stable", ignore_index=True)
    return ClusterTest(table, labels_LW, null_max_B, smallest_p(len(null_max_B)))


def tfce(maps_BLW: ArrayLike, *, extent: float = 0.5, height: float = 2.0) -> Array:
    """Enhance the cells of maps by the support of their neighbourhood, at every height at once.

    The score of a cell with value v is the integral over 0 < h <= v of e(h)^extent h^height, where e(h) is the size of
    the cell's cluster among cells >= h. e is constant between the values that occur, so that the integral is exact:
    there is no step to choose. Negative values likewise, with a negative score.

    Parameters
    ----------
    maps_BLW : array [B, L, W]
        Memory and time grow with B and, times the number of cells, time again: 2 x L x W labellings of all maps.
    extent, height : float, default 0.5 and 2
        Exponents E and H.

    Returns
    -------
    array [B, L, W]

    References
    ----------
    Smith & Nichols (2009), NeuroImage 44.

    Examples
    --------
    >>> tfce([[[3.0, 0.0, -3.0, -3.0]]]).round(2)
    array([[[  9.  ,   0.  , -12.73, -12.73]]])
    """
    maps_BLW = np.asarray(maps_BLW, dtype=np.float64)
    return _enhance(maps_BLW, extent, height) - _enhance(-maps_BLW, extent, height)


def tfce_test(
    map_LW: ArrayLike,
    null_BLW: ArrayLike,
    *,
    mask_LW: ArrayLike | None = None,
    tail: str = "two-sided",
    extent: float = 0.5,
    height: float = 2.0,
    block_size: int = 1000,
) -> TfceTest:
    """Test every cell of a map by its TFCE score against the largest score of every null map.

    Parameters
    ----------
    map_LW, null_BLW, mask_LW, tail
        As in `cluster_test`.
    extent, height : float
        As in `tfce`.
    block_size : int, default 1000
        Null maps held at a time.

    Returns
    -------
    TfceTest

    Examples
    --------
    >>> tfce_test([[3.0, 0.0]], np.zeros((19, 1, 2))).p_fwe_LW
    array([[0.05, 1.  ]])
    """
    map_LW, null_BLW = _checked(map_LW, null_BLW, mask_LW, tail)
    if block_size < 1:
        raise UserError(f"block_size is {block_size}", allowed="integers from 1")
    value_LW = tfce(map_LW[None], extent=extent, height=height)[0]
    signs = np.array(_signs(tail))[:, None, None, None]
    null_max = [np.zeros(0)]
    for start in range(0, len(null_BLW), block_size):
        scores_BLW = tfce(null_BLW[start : start + block_size], extent=extent, height=height)
        null_max.append(np.max(signs * scores_BLW, axis=(0, 2, 3), initial=0.0))
    null_max_B = np.concatenate(null_max)
    counts_LW = np.max(signs[:, 0] * value_LW, axis=0)
    p_fwe_LW = np.where(counts_LW > 0, permutation_p(counts_LW, null_max_B[:, None, None]), 1.0)
    return TfceTest(value_LW, p_fwe_LW, null_max_B, smallest_p(len(null_max_B)))


def _checked(map_LW: ArrayLike, null_BLW: ArrayLike, mask_LW: ArrayLike | None, tail: str) -> tuple[Array, Array]:
    """Return map and null maps, 0 outside the mask."""
    if tail not in TAILS:
        raise unknown_name("tail", tail, TAILS)
    map_LW, null_BLW = np.asarray(map_LW, dtype=np.float64), np.asarray(null_BLW, dtype=np.float64)
    mask_LW = np.ones(map_LW.shape, dtype=bool) if mask_LW is None else np.asarray(mask_LW, dtype=bool)
    if map_LW.ndim != 2 or null_BLW.shape[1:] != map_LW.shape or null_BLW.ndim != 3 or mask_LW.shape != map_LW.shape:
        raise UserError(
            f"the map has shape {map_LW.shape}, the null maps {null_BLW.shape}, the mask {mask_LW.shape}",
            allowed="[blocks, positions], [arrangements, blocks, positions] and [blocks, positions]",
        )
    for maps_BLW in (map_LW[None], null_BLW):
        bad = np.argwhere(~np.isfinite(maps_BLW) & mask_LW)
        if len(bad):
            raise UserError(
                f"the statistic is {maps_BLW[tuple(bad[0])]}",
                where=f"block {bad[0][1]}, position {bad[0][2]}",
                suggestion="Leave the cell out with the mask",
            )
    return np.where(mask_LW, map_LW, 0.0), np.where(mask_LW, null_BLW, 0.0)


def _signs(tail: str) -> tuple[int, ...]:
    return {"two-sided": (1, -1), "greater": (1,), "less": (-1,)}[tail]


def _clusters(maps_BLW: Array, threshold: float) -> tuple[NDArray[np.int32], NDArray[np.intp], Array]:
    """Label the clusters of cells >= threshold in all maps; map and mass of every cluster [C]."""
    labels_BLW, n_clusters = ndimage.label(maps_BLW >= threshold, NEIGHBOURS)
    b, row, column = np.nonzero(labels_BLW)
    number = labels_BLW[b, row, column] - 1
    owner_C = np.zeros(n_clusters, dtype=np.intp)
    owner_C[number] = b
    return labels_BLW, owner_C, np.bincount(number, maps_BLW[b, row, column], n_clusters).astype(np.float64)


def _enhance(maps_BLW: Array, extent: float, height: float) -> Array:
    """TFCE of the positive values: at every value that occurs, from the highest down, a slice of the integral."""
    score_BLW = np.zeros(maps_BLW.shape)
    falling_BN = -np.sort(-np.maximum(maps_BLW, 0).reshape(len(maps_BLW), -1), axis=1)
    for top_B, floor_B in _slices(falling_BN):
        labels_BLW, n_clusters = ndimage.label(
            (maps_BLW >= top_B[:, None, None]) & (top_B > 0)[:, None, None], NEIGHBOURS
        )
        support_C = np.bincount(labels_BLW.ravel(), minlength=n_clusters + 1) ** float(extent)
        support_C[0] = 0
        slice_B = (top_B ** (height + 1) - floor_B ** (height + 1)) / (height + 1)
        score_BLW += support_C[labels_BLW] * slice_B[:, None, None]
    return score_BLW


def _slices(falling_BN: Array) -> Iterator[tuple[Array, Array]]:
    """Yield (upper, lower) heights of every map's next slice, while any map has one."""
    floor_BN = np.hstack([falling_BN[:, 1:], np.zeros((len(falling_BN), 1))])
    for top_B, floor_B in zip(falling_BN.T, floor_BN.T, strict=True):
        if not (top_B > 0).any():
            return
        yield top_B, floor_B
