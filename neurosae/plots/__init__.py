"""Figures: functions that take an `Axes` (or make one) and return it. Colour-blind safe, units, intervals and n shown.

>>> import pandas as pd
>>> from neurosae import plots
>>> table = pd.DataFrame({"claim": ["a beats b"], "delta": [0.05], "ci_low": [0.01], "ci_high": [0.09]})
>>> plots.claims(table).get_xlabel()
'difference in held-out AUROC (95 % interval; grey: within 0.02, equivalent)'
"""

from __future__ import annotations

from neurosae.plots.comparison import (
    claims,
    method_comparison,
    score_against_k,
    selection_overlap,
    specification_curve,
    stimulus_activation,
)
from neurosae.plots.dictionary import (
    completeness_by_frequency,
    dictionary_maps,
    firing_rates,
    point_map,
    scaling,
    scaling_curve,
)
from neurosae.plots.generalisation import transfer_map
from neurosae.plots.maps import block_profile, contrast_map, volcano
from neurosae.plots.rsa import model_comparison, rdm_heatmap, second_order_matrix, stimulus_mds
from neurosae.plots.sae import firing_density, l0_histogram
from neurosae.plots.scorecard import by_method, retrieval, target_score
from neurosae.plots.steering import dose_response
from neurosae.plots.style import LABELS, PALETTE, save, selector_label
from neurosae.plots.styles import style_differences, style_firing, style_means, style_relation, style_separators
from neurosae.plots.sweep import contrast_profile, decoding_profile, layer_sweep, position_map, rsa_profile

__all__ = [
    "LABELS",
    "PALETTE",
    "block_profile",
    "by_method",
    "claims",
    "completeness_by_frequency",
    "contrast_map",
    "contrast_profile",
    "decoding_profile",
    "dictionary_maps",
    "dose_response",
    "firing_density",
    "firing_rates",
    "l0_histogram",
    "layer_sweep",
    "method_comparison",
    "model_comparison",
    "point_map",
    "position_map",
    "rdm_heatmap",
    "retrieval",
    "rsa_profile",
    "save",
    "scaling",
    "scaling_curve",
    "score_against_k",
    "second_order_matrix",
    "selection_overlap",
    "selector_label",
    "specification_curve",
    "stimulus_activation",
    "stimulus_mds",
    "style_differences",
    "style_firing",
    "style_means",
    "style_relation",
    "style_separators",
    "target_score",
    "transfer_map",
    "volcano",
]
