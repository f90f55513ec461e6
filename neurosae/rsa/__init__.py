"""Representational similarity analysis, feature by feature: how coherent is the target condition in one feature?

Every verb returns [`FeatureScores`][neurosae.rsa.FeatureScores]: a value in [-1, 1] (larger = target more coherent),
whether it is valid, and why not.

=======================  =======================================================================
`score_scalar`           one number per stimulus, two conditions
`score_model`            one number per stimulus, any graded model RDM
`score_profiles`         one time course per stimulus, two conditions
`profile_similarity`     all pairwise similarities of time courses (independent of any labels)
`score_similarity`       scores from similarities that exist already (folds, permutations)
=======================  =======================================================================
"""

from __future__ import annotations

from neurosae.rsa.pairs import KINDS, label_codes
from neurosae.rsa.profiles import profile_similarity, score_profiles, score_similarity
from neurosae.rsa.results import FeatureScores, Reason
from neurosae.rsa.scores import score_model, score_scalar

__all__ = [
    "KINDS",
    "FeatureScores",
    "Reason",
    "label_codes",
    "profile_similarity",
    "score_model",
    "score_profiles",
    "score_scalar",
    "score_similarity",
]
