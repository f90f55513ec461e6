"""Inference over items: permutation within exchangeability blocks, corrected intervals, stability of selection."""

from __future__ import annotations

from neurosae.inference.permutation import (
    DESIGNS,
    arrangements,
    count_arrangements,
    permutation_p,
    sign_flips,
    smallest_p,
)
from neurosae.inference.resampling import CorrectedTest, corrected_resampled_test, holm
from neurosae.inference.stability import Stability, nogueira_stability

__all__ = [
    "DESIGNS",
    "CorrectedTest",
    "Stability",
    "arrangements",
    "corrected_resampled_test",
    "count_arrangements",
    "holm",
    "nogueira_stability",
    "permutation_p",
    "sign_flips",
    "smallest_p",
]
