"""Tables of a run, made from the files of its variants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from neurosae.decoding.variants import ALL, PCA
from neurosae.inference.heldout import METRICS
from neurosae.runs.comparison import VARIANT, ranked_table


def folds_table(cells: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per variant, repeat and fold, with both metrics as columns: what `comparison` reads."""
    tables = [
        pd.DataFrame(cell["folds"]).assign(**{key: cell[key] for key in ["concept", "contrast", *VARIANT]})
        for cell in cells
    ]
    order = ["concept", "contrast", *VARIANT, "repeat", "fold", *METRICS]
    return pd.concat(tables, ignore_index=True)[order]


def best_selecting(cells: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The variant with the largest held-out AUROC of those that select features, no yardstick where there is another.

    None where none selects.
    """
    selecting = [cell for cell in cells if cell["selector"] not in (ALL, PCA)]
    methods = [c for c in selecting if c["selector"] != "random" and c["representation"] in ("raw", "sae")]
    return max(methods or selecting, key=lambda cell: cell["auroc"]["mean"], default=None)


def scores_table(folds: pd.DataFrame) -> pd.DataFrame:
    """Tidy: one row per variant, repeat, fold and metric."""
    keys = [column for column in folds.columns if column not in METRICS]
    return folds.melt(keys, METRICS, var_name="metric", value_name="value")


def variants_table(cells: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per variant, best held-out AUROC first."""
    rows = []
    for cell in cells:
        row = {key: cell[key] for key in ["concept", "contrast", *VARIANT]}
        for metric in ("auroc", "balanced_accuracy"):
            summary = cell[metric]
            row[metric] = summary["mean"]
            row |= {
                f"{metric}_{name}": summary[name] for name in ("ci_low", "ci_high", "p", "chance_low", "chance_high")
            }
        scores = [value for value in cell["domains"].get("auroc", []) if value is not None]
        row["new_domain_auroc"] = float(np.mean(scores)) if scores else np.nan
        row["new_domain_reason"] = cell["domain_reason"]
        row["chance_reason"] = cell["auroc"]["chance_reason"]
        row["stability"] = cell["stability"]["value"]
        row["stability_reason"] = cell["stability"]["reason"]
        row["mean_valid_features"] = cell["mean_valid_features"]
        row["mean_defined_share"] = cell["mean_defined_share"]
        rows.append(row)
    table = pd.DataFrame(rows)
    numbers = [
        name
        for name in table.columns
        if name.startswith(("auroc", "balanced_accuracy", "stability", "mean")) and "reason" not in name
    ]
    table[numbers] = table[numbers].astype(float)
    return ranked_table(table)


def features_table(cells: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per variant and feature of the fit to all stimuli (descriptive, never scored)."""
    tables = []
    for cell in cells:
        table = pd.DataFrame(cell["features"]).assign(**{key: cell[key] for key in ["concept", "contrast", *VARIANT]})
        share = dict(zip(cell["selection"]["feature"], cell["selection"]["share"], strict=True))
        table["share_of_folds"] = table["feature"].map(share)
        table["rank"] = np.arange(1, len(table) + 1)
        tables.append(table)
    order = ["concept", "contrast", *VARIANT, "rank", "feature", "direction", "weight", "pattern", "share_of_folds"]
    return pd.concat(tables, ignore_index=True)[order]


def domains_table(cells: list[dict[str, Any]]) -> pd.DataFrame:
    """Leave-one-domain-out scores: one row per variant and domain; empty where the set has no domains."""
    tables = [
        pd.DataFrame(cell["domains"]).assign(**{key: cell[key] for key in ["concept", "contrast", *VARIANT]})
        for cell in cells
    ]
    order = ["concept", "contrast", *VARIANT, "domain", "n", *METRICS, "reason"]
    return pd.concat(tables, ignore_index=True)[order]
