"""What a run says: its folder, its tables, method families compared, the scorecard."""

from __future__ import annotations

from neurosae.runs.folder import RunFolder, write_cell
from neurosae.runs.tables import (
    best_selecting,
    domains_table,
    features_table,
    folds_table,
    scores_table,
    variants_table,
)

__all__ = [
    "RunFolder",
    "best_selecting",
    "domains_table",
    "features_table",
    "folds_table",
    "scores_table",
    "variants_table",
    "write_cell",
]
