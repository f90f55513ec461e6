"""A run is a folder: what was asked, one file per finished variant, and the tables made from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurosae.comparison import ranked_table
from neurosae.decoding import DecodingResult, HeldOut
from neurosae.errors import UserError
from neurosae.files import atomic_path, digest, write_json
from neurosae.variants import ALL, PCA, Variant

KEYS = ["representation", "selector", "k", "ensemble", "block", "pooling"]
METRICS = ["balanced_accuracy", "auroc"]


class RunFolder:
    """Results of one configuration, in ``root / <hash of the configuration>``.

    Parameters
    ----------
    root : Path
        ``results/<concept>`` by default.
    configuration : dict
        Everything the results depend on; equal configurations share a folder, so that a run continues itself.
    fresh : bool, default False
        Delete what is there and start over.
    """

    def __init__(self, root: Path, configuration: dict[str, Any], *, fresh: bool = False) -> None:
        self.path, self.configuration = root / digest(configuration), configuration
        if fresh and self.path.exists():
            shutil.rmtree(self.path)

    def create(self) -> None:
        """Make the folder; done when everything that can be refused has been checked."""
        try:
            (self.path / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"The folder {self.path} cannot be made ({error.strerror})", where="--out") from error
        write_json(self.path / "configuration.json", self.configuration)

    def cell(self, variant: Variant) -> Path:
        """File of a variant."""
        return self.path / "cells" / f"{variant.name}.json"

    def is_finished(self, variant: Variant) -> bool:
        """Whether the variant's file is there and whole."""
        return _read_cell(self.cell(variant)) is not None

    def cells(self, variants: list[Variant]) -> list[dict[str, Any]]:
        """Records of finished variants, in the order asked for."""
        records = [_read_cell(self.cell(variant)) for variant in variants]
        return [record for record in records if record is not None]

    def record(self, stage: str, variant: Variant, settings: dict[str, Any]) -> dict[str, Any] | None:
        """What a later stage found for a variant with just these settings; None where it has to be computed."""
        found = _read_cell(self._record(stage, variant))
        return found if found is not None and found.get("settings") == settings else None

    def write_record(self, stage: str, variant: Variant, settings: dict[str, Any], values: dict[str, Any]) -> None:
        """Keep what a stage found, with the settings of the stage, which are no part of the configuration."""
        write_json(self._record(stage, variant), {"settings": settings, **variant.as_dict(), **values})

    def _record(self, stage: str, variant: Variant) -> Path:
        return self.path / "stages" / stage / f"{variant.name}.json"

    def shared(self, stage: str, name: str, settings: dict[str, Any]) -> Any:
        """What a stage found for all its variants with just these settings; None where it has to be computed."""
        found = _read_cell(self._shared(stage, name))
        return found["values"] if found is not None and found.get("settings") == settings else None

    def write_shared(self, stage: str, name: str, settings: dict[str, Any], values: Any) -> None:
        """Keep what all variants of a stage share."""
        write_json(self._shared(stage, name), {"settings": settings, "values": values})

    def _shared(self, stage: str, name: str) -> Path:
        return self.path / "stages" / stage / "shared" / f"{name}.json"

    def manifest(self) -> dict[str, Any]:
        """How the run was made; empty where it has not been yet."""
        return _read_cell(self.path / "manifest.json") or {}

    def add_to_manifest(self, values: dict[str, Any]) -> None:
        """Say more about how the run was made; the results do not depend on it."""
        write_json(self.path / "manifest.json", self.manifest() | values)

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """A table as CSV and Parquet."""
        folder = self.path / "tables"
        with atomic_path(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
        with atomic_path(folder / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)


def _read_cell(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def write_cell(path: Path, variant: Variant, result: DecodingResult, context: dict[str, Any]) -> None:
    """Write a finished variant atomically: everything the tables and figures need, as JSON with exact floats."""
    summaries = {metric: _held_out(getattr(result, metric)) for metric in METRICS}
    record = {
        **context,
        **variant.as_dict(),
        "k": result.k,
        **summaries,
        "n_permutations": result.n_permutations,
        "smallest_p": result.smallest_p,
        "folds": {column: values.tolist() for column, values in result.fold_scores.items()},
        "domains": {column: _finite(values.tolist()) for column, values in result.domain_scores.items()},
        "domain_reason": result.domain_reason,
        "decision": result.decision_S.tolist(),
        "stability": _without_nan(result.stability._asdict()),
        "mean_valid_features": result.mean_valid_features,
        **_without_nan({"mean_defined_share": result.mean_defined_share}),
        "selection": {column: values.tolist() for column, values in result.selection_counts.items()},
        "features": {
            "feature": result.full_features.tolist(),
            "weight": result.full_weights.tolist(),
            "pattern": result.full_patterns.tolist(),
            "direction": result.full_direction.tolist(),
        },
    }
    write_json(path, record)


def _held_out(held_out: HeldOut) -> dict[str, Any]:
    values = {name: value for name, value in vars(held_out).items() if name != "null_B"}
    return _without_nan(values) | {"null": held_out.null_B.tolist()}


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN; the reason for a missing value stands beside it."""
    return dict(zip(values, _finite(list(values.values())), strict=True))


def _finite(values: list[Any]) -> list[Any]:
    return [None if isinstance(value, float) and not np.isfinite(value) else value for value in values]


def folds_table(cells: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per variant, repeat and fold, with both metrics as columns: what `comparison` reads."""
    tables = [
        pd.DataFrame(cell["folds"]).assign(**{key: cell[key] for key in ["concept", "contrast", *KEYS]})
        for cell in cells
    ]
    order = ["concept", "contrast", *KEYS, "repeat", "fold", *METRICS]
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
        row = {key: cell[key] for key in ["concept", "contrast", *KEYS]}
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
        table = pd.DataFrame(cell["features"]).assign(**{key: cell[key] for key in ["concept", "contrast", *KEYS]})
        share = dict(zip(cell["selection"]["feature"], cell["selection"]["share"], strict=True))
        table["share_of_folds"] = table["feature"].map(share)
        table["rank"] = np.arange(1, len(table) + 1)
        tables.append(table)
    order = ["concept", "contrast", *KEYS, "rank", "feature", "direction", "weight", "pattern", "share_of_folds"]
    return pd.concat(tables, ignore_index=True)[order]


def domains_table(cells: list[dict[str, Any]]) -> pd.DataFrame:
    """Leave-one-domain-out scores: one row per variant and domain; empty where the set has no domains."""
    tables = [
        pd.DataFrame(cell["domains"]).assign(**{key: cell[key] for key in ["concept", "contrast", *KEYS]})
        for cell in cells
    ]
    order = ["concept", "contrast", *KEYS, "domain", "n", *METRICS, "reason"]
    return pd.concat(tables, ignore_index=True)[order]
