"""Representational similarity analysis, feature by feature: does one feature's geometry follow a hypothesis?

Every score is a [`FeatureScores`][neurosae.rsa.FeatureScores]: a value in [-1, 1] (larger = target more coherent, or
the model resembled more), whether it is valid, and why not.

==========================  ====================================================================
`score_scalar`              one number per stimulus, two conditions
`score_model`               one number per stimulus, graded model RDMs, comparators, nuisance models
`score_profiles`            one time course per stimulus, two conditions
`profile_similarity`        all pairwise similarities of time courses (independent of any labels)
`score_similarity`          two-condition scores of similarities that exist already
`score_similarity_model`    their comparison with graded model RDMs
`neurosae.rsa.models`       model RDMs from labels, ratings, words and files
==========================  ====================================================================
"""

from __future__ import annotations

from neurosae.rsa.graded import COMPARATORS, DISTANCES, score_model
from neurosae.rsa.models import ModelRDM
from neurosae.rsa.pairs import KINDS, label_codes
from neurosae.rsa.profiles import FORMS, profile_similarity, score_profiles, score_similarity, score_similarity_model
from neurosae.rsa.results import FeatureScores, Reason
from neurosae.rsa.scores import score_scalar

__all__ = [
    "COMPARATORS",
    "DISTANCES",
    "FORMS",
    "KINDS",
    "FeatureScores",
    "ModelRDM",
    "Reason",
    "label_codes",
    "profile_similarity",
    "score_model",
    "score_profiles",
    "score_scalar",
    "score_similarity",
    "score_similarity_model",
]
