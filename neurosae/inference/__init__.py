"""Inference over items: linear tests, permutation within exchangeability blocks, corrected intervals, stability."""

from __future__ import annotations

from neurosae.inference.bootstrap import BootstrapInterval, bootstrap_interval, resampling_weights
from neurosae.inference.clusters import ClusterTest, TfceTest, cluster_test, tfce, tfce_test
from neurosae.inference.linear import LinearTest, MaxT, max_t, null_statistics, test_contrast
from neurosae.inference.multiplicity import adjust, height_threshold
from neurosae.inference.permutation import (
    DESIGNS,
    arrangements,
    count_arrangements,
    permutation_p,
    sign_flips,
    smallest_p,
)
from neurosae.inference.power import pairs_needed, power_of
from neurosae.inference.resampling import CorrectedTest, corrected_resampled_test, holm
from neurosae.inference.stability import Stability, nogueira_stability

__all__ = [
    "DESIGNS",
    "BootstrapInterval",
    "ClusterTest",
    "CorrectedTest",
    "LinearTest",
    "MaxT",
    "Stability",
    "TfceTest",
    "adjust",
    "arrangements",
    "bootstrap_interval",
    "cluster_test",
    "corrected_resampled_test",
    "count_arrangements",
    "height_threshold",
    "holm",
    "max_t",
    "nogueira_stability",
    "null_statistics",
    "pairs_needed",
    "permutation_p",
    "power_of",
    "resampling_weights",
    "sign_flips",
    "smallest_p",
    "test_contrast",
    "tfce",
    "tfce_test",
]
