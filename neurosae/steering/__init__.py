"""Steering: do features cause anything? Interventions at the captured site, and what they do to held-out texts.

=============================  ===============================================================================
`clamp`, `add`, `ablate`       features set, raised or brought to rest; `steer_ensemble` moves a whole ensemble
`observe`                      doses: quantiles of the non-zero activation on the training stimuli
`steering`                     an intervention in place, while the caller runs the language model
`generate`                     seeded generation under an intervention
`ending_pairs`, `Preferences`  held-out pairs that begin alike, and which ending the language model prefers
`causal_effect`                dose-response, beside random directions of the same norm and random features
=============================  ===============================================================================
"""

from __future__ import annotations

from neurosae.steering.causal import CausalEffect, Preferences, RandomDirections, causal_effect, ending_pairs
from neurosae.steering.doses import Observed, observe
from neurosae.steering.generation import generate
from neurosae.steering.interventions import (
    Direction,
    FeatureChange,
    ablate,
    add,
    clamp,
    random_direction,
    steer_ensemble,
    steering,
)

__all__ = [
    "CausalEffect",
    "Direction",
    "FeatureChange",
    "Observed",
    "Preferences",
    "RandomDirections",
    "ablate",
    "add",
    "causal_effect",
    "clamp",
    "ending_pairs",
    "generate",
    "observe",
    "random_direction",
    "steer_ensemble",
    "steering",
]
