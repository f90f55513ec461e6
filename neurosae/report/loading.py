"""What a run folder holds, read once: configuration, tables, evidence and figures, each beside why it is missing."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from neurosae.errors import UserError
from neurosae.runs.comparison import VARIANT

FORMAT = 1
"""Format of the evidence that this version reads."""
ACROSS = "claims_across_contrasts"
TABLES = {
    "variants": (*VARIANT, "auroc", "control"),
    "claims": ("claim", "delta", "ci_low", "ci_high", "verdict"),
    "scorecard": ("representation", "selector", "k", "auroc", "control"),
    "stimuli": ("text", "side"),
    "confounds": ("measure",),
    "map_blocks": ("block", "n_features", "n_significant"),
    "map_top": ("block", "feature", "t"),
    "reliability": ("representation",),
    "explanations": ("representation", "selector", "k"),
    "steering": ("representation", "selector", "k"),
    ACROSS: ("claim", "delta", "verdict"),
}
"""Tables the report shows, and the columns without which they cannot be read."""
EVIDENCE = ("about", "rsa", "features", "steering")
STAGE_OF = {"tables/explanations": "explain", "tables/steering": "steer"}
"""What a later stage keeps; everything but the scores is otherwise of the stage `evidence`."""
_SCORES = ("tables/variants", "tables/claims", "tables/scorecard")


@dataclass(frozen=True)
class RunData:
    """A run as saved.

    Attributes
    ----------
    path : Path
    configuration, manifest : dict
    tables : dict of str to DataFrame
        Those of `TABLES` that are there.
    evidence : dict of str to dict or list
        Those of `EVIDENCE` that are there.
    figures : dict of str to Path
        PNG files by name.
    explanations : list of dict
        Every explanation with its words.
    refused : dict of str to str
        Why the stage `evidence` could not make a file, by its name without ending (``tables/map_blocks``).
    """

    path: Path
    configuration: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)
    explanations: list[dict[str, Any]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """A table, or an empty one."""
        return self.tables.get(name, pd.DataFrame())

    def about(self, key: str, otherwise: Any = "") -> Any:
        """What ``evidence/about.json`` says, or else what the configuration says."""
        value = self.evidence.get("about", {}).get(key)
        return self.configuration.get(key, otherwise) if value is None else value

    @property
    def model(self) -> str:
        """Name of the language model."""
        return str(self.configuration.get("source", {}).get("model", "the model"))

    @property
    def card(self) -> pd.DataFrame:
        """Every variant with all its outcomes; only with its held-out scores where there is no scorecard."""
        return self.tables.get("scorecard", self.table("variants"))

    @property
    def absent(self) -> list[str]:
        """What a single run may keep and this folder does not hold."""
        kept = [f"tables/{name}" for name in TABLES if name != ACROSS] + [f"evidence/{name}" for name in EVIDENCE]
        return [] if ACROSS in self.tables else [name for name in kept if self.missing(name)]

    def missing(self, kept: str) -> str:
        """Why a file such as ``tables/claims`` or ``evidence/rsa`` is not here; empty where it is."""
        folder, _, name = kept.partition("/")
        if name in (self.tables if folder == "tables" else self.evidence):
            return ""
        if kept in self.refused:
            return f"It could not be made of these stimuli: {self.refused[kept]}."
        stage, stages = STAGE_OF.get(kept, "evidence"), self.manifest.get("stages", [])
        if kept not in _SCORES and stage not in stages:
            return f"This run was made without the stage “{stage}” (--stages {' '.join([*stages, stage])})."
        return f"This folder holds no {kept}: the run was made without it, or it was not copied along."


def load_run(path: Path) -> RunData:
    """Read a run folder; Parquet where it is there, else CSV.

    Parameters
    ----------
    path : Path
        As `experiments.combinatorial` leaves it, or the folder of ``--concept all``.

    Raises
    ------
    UserError
        Not a folder of a run, a file that cannot be read, or evidence of another format.
    """
    if not path.is_dir():
        raise UserError(f"There is no folder {path}", where="RUN_DIR", suggestion="Give the folder a run has printed")
    if not (path / "configuration.json").is_file():
        raise _no_run(path, "it has no configuration.json")
    tables = {name: table for name in TABLES if (table := _table(path, name)) is not None}
    if not {"variants", ACROSS} & set(tables):
        raise _no_run(path, f"it has neither tables/variants nor tables/{ACROSS}")
    evidence = {name: found for name in EVIDENCE if (found := _evidence(path, name)) is not None}
    return RunData(
        path=path,
        configuration=_object(path / "configuration.json") or {},
        manifest=_object(path / "manifest.json") or {},
        tables=tables,
        evidence=evidence,
        figures={file.stem: file for file in sorted((path / "figures").glob("*.png"))},
        explanations=_list(path / "explanations.json"),
        refused=_refused(path / "evidence" / "missing.json"),
    )


def data_uri(path: Path) -> str:
    """A PNG file as a ``data:`` address.

    Raises
    ------
    UserError
        A file that is no PNG.
    """
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        raise UserError("This figure is no PNG file", where=str(path))
    return as_uri(content)


def as_uri(png: bytes) -> str:
    """The bytes of a PNG as a ``data:`` address.

    >>> as_uri(b"abc")
    'data:image/png;base64,YWJj'
    """
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _no_run(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} is not the folder of a finished run: {why}",
        where="RUN_DIR",
        suggestion="Give the folder that experiments.combinatorial has printed (results/<concept>/<hash>)",
    )


def _table(path: Path, name: str) -> pd.DataFrame | None:
    """Empty texts stay texts: only an empty field of a CSV is a missing value."""
    folder = path / "tables"
    parquet, csv = folder / f"{name}.parquet", folder / f"{name}.csv"
    file = parquet if parquet.is_file() else csv
    if not file.is_file():
        return None
    try:
        table = pd.read_parquet(file) if file == parquet else pd.read_csv(file, keep_default_na=False, na_values=[""])
    except Exception as error:  # the readers raise a dozen kinds of errors on damaged files
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
    if lacking := [column for column in TABLES[name] if column not in table]:
        raise _damaged(file, f"the columns {', '.join(lacking)} are missing")
    return table


def _evidence(path: Path, name: str) -> Any:
    found = _json(path / "evidence" / f"{name}.json")
    version = found.get("format", FORMAT) if isinstance(found, dict) else FORMAT
    if version != FORMAT:
        raise UserError(
            f"It has format {version}",
            where=str(path / "evidence" / f"{name}.json"),
            allowed=f"format {FORMAT}",
            suggestion="Run the command of the run again: what is out of date is made anew",
        )
    return found


def _object(path: Path) -> dict[str, Any] | None:
    found = _json(path)
    if found is not None and not isinstance(found, dict):
        raise _damaged(path, "a JSON object was expected")
    return found


def _refused(path: Path) -> dict[str, str]:
    reasons = (_object(path) or {}).get("reasons", {})
    if not isinstance(reasons, dict):
        raise _damaged(path, "reasons by file were expected")
    return {str(name): str(reason) for name, reason in reasons.items()}


def _list(path: Path) -> list[dict[str, Any]]:
    found = _json(path) or []
    if not isinstance(found, list):
        raise _damaged(path, "a JSON list was expected")
    return found


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"The file cannot be read ({why})",
        where=str(path),
        suggestion="Run the command of the run again: finished parts are kept",
    )
