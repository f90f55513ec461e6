"""Mass-univariate contrast maps over blocks x aligned positions x features, and localizers that are tested held out."""

from __future__ import annotations

from neurosae.univariate.compute import compute_contrast
from neurosae.univariate.covariates import MEASURES, covariate_table
from neurosae.univariate.localizer import Localized, Region, find_region, localize, region_profile
from neurosae.univariate.maps import ContrastMap

__all__ = [
    "MEASURES",
    "ContrastMap",
    "Localized",
    "Region",
    "compute_contrast",
    "covariate_table",
    "find_region",
    "localize",
    "region_profile",
]
