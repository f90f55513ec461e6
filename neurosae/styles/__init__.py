"""Prompt styles: what latents make of the way in which a question is introduced, with length held in check."""

from __future__ import annotations

from neurosae.styles.answers import Judged, graded, judge_blind, likelihood, relations, write_answers
from neurosae.styles.comparing import apart_in_wordings, compare_styles, style_means
from neurosae.styles.crossing import Crossing, cross
from neurosae.styles.differences import beyond_controls, style_differences
from neurosae.styles.firing import (
    firing_rates,
    firing_table,
    separating_latents,
    separators,
    unique_latents,
)
from neurosae.styles.pools import MEASURES, POOLS, Pool, make_pools, per_topic, per_wording, read_pools

__all__ = [
    "MEASURES",
    "POOLS",
    "Crossing",
    "Judged",
    "Pool",
    "apart_in_wordings",
    "beyond_controls",
    "compare_styles",
    "cross",
    "firing_rates",
    "firing_table",
    "graded",
    "judge_blind",
    "likelihood",
    "make_pools",
    "per_topic",
    "per_wording",
    "read_pools",
    "relations",
    "separating_latents",
    "separators",
    "style_differences",
    "style_means",
    "unique_latents",
    "write_answers",
]
