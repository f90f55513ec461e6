"""Representational similarity analysis of whole representations: the geometry of all features together.

RDMs are `rsatoolbox.rdm.RDMs` with descriptors, so that everything rsatoolbox and its plots do works on them.

=========================================  =====================================================================
`make_rdms`, `position_rdms`               RDMs of blocks, sites, latents, condition means; of aligned positions
`crossnobis`                               distances between conditions, cross-validated over folds of items
`compare_models`                           model RDMs against RDMs: intervals, permutation tests, noise ceiling
`noise_ceiling`, `split_rdms`              from RDMs of disjoint items, SAE seeds, language models
`searchlight`                              models at every block and position
`second_order`                             which RDMs resemble each other: block x block, language model x model
`to_dataset`, `models_to_rdms`, ...        to and from rsatoolbox
=========================================  =====================================================================
"""

from __future__ import annotations

from neurosae.rdms.ceilings import NoiseCeiling, noise_ceiling, split_rdms
from neurosae.rdms.comparators import COMPARATORS, correlate
from neurosae.rdms.cross_validation import Crossnobis, crossnobis
from neurosae.rdms.distances import (
    DISTANCES,
    make_rdms,
    models_from_rdms,
    models_to_rdms,
    pairwise_distances,
    position_rdms,
)
from neurosae.rdms.mapping import Searchlight, searchlight, second_order
from neurosae.rdms.model_comparison import ModelComparison, compare_models, permute_stimuli
from neurosae.rdms.patterns import from_dataset, to_dataset

__all__ = [
    "COMPARATORS",
    "DISTANCES",
    "Crossnobis",
    "ModelComparison",
    "NoiseCeiling",
    "Searchlight",
    "compare_models",
    "correlate",
    "crossnobis",
    "from_dataset",
    "make_rdms",
    "models_from_rdms",
    "models_to_rdms",
    "noise_ceiling",
    "pairwise_distances",
    "permute_stimuli",
    "position_rdms",
    "searchlight",
    "second_order",
    "split_rdms",
    "to_dataset",
]
