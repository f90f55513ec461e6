"""A run is a folder: what was asked, one file per finished variant, and the tables made from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurosae.decoding import DecodingResult, HeldOut
from neurosae.decoding.variants import Variant
from neurosae.errors import UserError
from neurosae.files import digest, write_json, write_table
from neurosae.inference.heldout import METRICS


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
            raise UserError(f"The folder {self.path} cannot be made ({error.strerror})", where="out") from error
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
        write_table(self.path / "tables", name, table)


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
