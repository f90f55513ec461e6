"""Cluster mass and threshold-free cluster enhancement over block x position maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neurosae.errors import UserError
from neurosae.inference import cluster_test, permutation_p, tfce, tfce_test


def naive_clusters(inside_LW: np.ndarray) -> list[set[tuple[int, int]]]:
    """Flood fill."""
    todo, clusters = {(int(row), int(column)) for row, column in np.argwhere(inside_LW)}, []
    while todo:
        cluster, edge = set(), [todo.pop()]
        while edge:
            row, column = edge.pop()
            cluster.add((row, column))
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & todo
            todo -= near
            edge += near
        clusters.append(cluster)
    return clusters


def naive_tfce(map_LW: np.ndarray, step: float) -> np.ndarray:
    """The sum over heights as Smith & Nichols print it, by the midpoint rule."""
    score_LW = np.zeros(map_LW.shape)
    for sign in (1, -1):
        for h in np.arange(step / 2, np.abs(map_LW).max(), step):
            for cluster in naive_clusters(sign * map_LW >= h):
                for cell in cluster:
                    score_LW[cell] += sign * len(cluster) ** 0.5 * h**2 * step
    return score_LW


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 500), st.sampled_from(["two-sided", "greater", "less"]))
def test_cluster_mass_is_a_flood_fill(n_blocks: int, n_positions: int, seed: int, tail: str) -> None:
    rng = np.random.default_rng(seed)
    maps_BLW, mask_LW = rng.normal(size=(20, n_blocks, n_positions)), rng.random((n_blocks, n_positions)) < 0.9
    signs = {"two-sided": (1, -1), "greater": (1,), "less": (-1,)}[tail]

    def naive(map_LW: np.ndarray) -> list[tuple[float, set[tuple[int, int]]]]:
        return [
            (sum(map_LW[cell] for cell in cluster), cluster)
            for sign in signs
            for cluster in naive_clusters((sign * map_LW >= 0.7) & mask_LW)
        ]

    test = cluster_test(maps_BLW[0], maps_BLW[1:], 0.7, mask_LW=mask_LW, tail=tail)
    expected = sorted(naive(maps_BLW[0]), key=lambda found: -abs(found[0]))
    null_max_B = np.array([max((abs(mass) for mass, _ in naive(map_LW)), default=0) for map_LW in maps_BLW[1:]])
    np.testing.assert_allclose(test.null_max_B, null_max_B)
    np.testing.assert_allclose(test.table["mass"], [mass for mass, _ in expected])
    assert test.table["cells"].tolist() == [len(cluster) for _, cluster in expected]
    for row, (mass, cluster) in zip(test.table.itertuples(), expected, strict=True):
        assert {(int(r), int(c)) for r, c in np.argwhere(test.labels_LW == row.label)} == cluster
        assert row.p_fwe == permutation_p(abs(mass), null_max_B)
        assert row.peak == maps_BLW[0][row.block, row.position] == max((maps_BLW[0][c] for c in cluster), key=abs)
    assert (test.labels_LW > 0).sum() == sum(len(cluster) for _, cluster in expected)


def test_opposite_signs_never_join() -> None:
    test = cluster_test([[3.0, -3.0, 3.0]], np.zeros((9, 1, 3)), 2.0)
    assert sorted(test.table["mass"]) == [-3, 3, 3]
    assert len(np.unique(test.labels_LW)) == 3


def test_tfce_is_the_limit_of_the_sum_over_heights(rng: np.random.Generator) -> None:
    maps_BLW = rng.normal(size=(3, 5, 6))
    maps_BLW[2] = np.round(maps_BLW[2])  # ties
    for map_LW, score_LW in zip(maps_BLW, tfce(maps_BLW), strict=True):
        np.testing.assert_allclose(score_LW, naive_tfce(map_LW, step=1e-3), atol=1e-2)


def test_clusters_and_tfce_are_mnes(rng: np.random.Generator) -> None:
    mne_clusters = pytest.importorskip("mne.stats.cluster_level")
    map_LW = rng.normal(size=(8, 12)) + 1.5 * (np.indices((8, 12)).sum(axis=0) < 6)
    adjacency = pytest.importorskip("mne").stats.combine_adjacency(8, 12)
    _, masses = mne_clusters._find_clusters(map_LW.ravel(), 1.0, tail=0, adjacency=adjacency)
    ours = cluster_test(map_LW, np.zeros((1, 8, 12)), 1.0).table["mass"]
    np.testing.assert_allclose(sorted(ours), sorted(masses))
    _, scores = mne_clusters._find_clusters(map_LW.ravel(), {"start": 0.0, "step": 1e-3}, tail=0, adjacency=adjacency)
    np.testing.assert_allclose(tfce(map_LW[None])[0].ravel(), np.sign(map_LW.ravel()) * np.abs(scores), atol=1e-2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 500), st.floats(0.1, 10))
def test_tfce_scales_turns_and_mirrors_with_its_map(seed: int, scale: float) -> None:
    map_LW = np.random.default_rng(seed).normal(size=(4, 5))
    score_LW = tfce(map_LW[None])[0]
    np.testing.assert_allclose(tfce(scale * map_LW[None])[0], scale**3 * score_LW)
    np.testing.assert_allclose(tfce(-map_LW[None])[0], -score_LW)
    np.testing.assert_allclose(tfce(map_LW.T[None, ::-1])[0], score_LW.T[::-1])
    padded_LW = np.pad(map_LW, 2)
    np.testing.assert_allclose(tfce(padded_LW[None])[0][2:-2, 2:-2], score_LW)


@pytest.mark.parametrize("tail", ["two-sided", "greater", "less"])
def test_tfce_p_is_that_of_the_largest_score(rng: np.random.Generator, tail: str) -> None:
    null_BLW, map_LW = rng.normal(size=(49, 4, 6)), rng.normal(size=(4, 6))
    map_LW[1:3, 2:5] += 2.5
    mask_LW = np.ones((4, 6), dtype=bool)
    mask_LW[0, 0], map_LW[0, 0], null_BLW[:, 0, 0] = False, np.nan, np.inf
    test = tfce_test(map_LW, null_BLW, mask_LW=mask_LW, tail=tail, block_size=10)
    extreme = {"two-sided": np.abs, "greater": lambda s: s, "less": lambda s: -s}[tail]
    null_max_B = extreme(tfce(np.where(mask_LW, null_BLW, 0))).max(axis=(1, 2))
    np.testing.assert_allclose(test.null_max_B, null_max_B)
    score_LW = extreme(tfce(np.where(mask_LW, map_LW, 0)[None])[0])
    np.testing.assert_allclose(
        test.p_fwe_LW, np.where(score_LW > 0, permutation_p(score_LW, null_max_B[:, None, None]), 1)
    )
    assert test.p_fwe_LW[0, 0] == 1
    assert (test.p_fwe_LW[1:3, 2:5].min() == 0.02) == (tail != "less")


def test_family_wise_error_under_sign_flips() -> None:
    """Smooth noise of 16 items, flipped item by item: at most the binomial bound of false alarms."""
    rng, alarms = np.random.default_rng(0), np.zeros(2)
    for _ in range(150):
        items_GLW = rng.normal(size=(16, 6, 9)) + rng.normal(size=(16, 6, 1))
        flips_BG = np.vstack([np.ones(16), rng.choice([-1, 1], size=(39, 16))])
        t_BLW = np.tensordot(flips_BG, items_GLW, axes=1) / np.sqrt((items_GLW**2).sum(axis=0))
        clusters = cluster_test(t_BLW[0], t_BLW[1:], 1.5).table["p_fwe"]
        alarms += [
            clusters.min() <= 0.05 if len(clusters) else 0,
            tfce_test(t_BLW[0], t_BLW[1:]).p_fwe_LW.min() <= 0.05,
        ]
    assert (alarms <= stats.binom.ppf(0.999, 150, 0.05)).all()


def test_maps_that_do_not_fit_are_refused() -> None:
    null_BLW = np.zeros((9, 2, 3))
    with pytest.raises(UserError, match="shape"):
        cluster_test(np.zeros((3, 2)), null_BLW, 2.0)
    with pytest.raises(UserError, match="threshold is 0"):
        cluster_test(np.zeros((2, 3)), null_BLW, 0.0)
    with pytest.raises(UserError, match="block 1, position 2"):
        tfce_test(np.array([[0, 0, 0], [0, 0, np.nan]]), null_BLW)
    with pytest.raises(UserError, match="tail"):
        tfce_test(np.zeros((2, 3)), null_BLW, tail="up")
    empty = cluster_test(np.zeros((2, 3)), null_BLW, 2.0)
    assert len(empty.table) == 0
    assert empty.table.columns.tolist() == ["label", "mass", "peak", "block", "position", "cells", "p_fwe"]
