"""Figures of a run, each with words for who cannot see it: those it has saved, and geometry drawn from evidence."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from neurosae import plots
from neurosae.report.loading import RunData, as_uri, data_uri
from neurosae.report.tables import TableView, models
from neurosae.report.texts import visible
from neurosae.report.wording import LABELS

ALT = {
    "method_comparison": "Held-out AUROC of every selector at one k with 95 % intervals, over the band of chance; "
    "the numbers stand in the table of variants.",
    "score_against_k": "Held-out AUROC against the number of features; a line per selector, a panel per kind.",
    "selection_overlap": "Jaccard overlap of the features that two selectors choose, one matrix per representation.",
    "best_ensemble": "Held-out output of the best ensemble for every stimulus, by domain and side.",
    "specification_curve": "All variants from worst to best held-out AUROC, and below them the choices of each.",
    "claims": "Differences in held-out AUROC between families of methods, with 95 % intervals.",
    "discovery": "Average precision of every variant on graded sentences, beside that of a random order.",
    "explanations": "Mean grade of the sentences that drive each variant, beside the average of all sentences.",
    "dose_response": "Shift of the preference for target endings over the dose, beside random directions.",
}
"""What a saved figure shows, by its file name."""


@dataclass(frozen=True)
class Picture:
    """A picture in the page: `data:` address, words, width and height in pixels."""

    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Geometry:
    """RDM and model comparison of one representation; `reason` where there is none."""

    title: str
    picture: Picture | None
    table: TableView | None
    note: str


def saved(run: RunData) -> dict[str, Picture]:
    """Figures that the run has saved, by name."""
    return {
        name: _picture(data_uri(path), path.read_bytes(), ALT[name])
        for name, path in run.figures.items()
        if name in ALT
    }


def _picture(uri: str, png: bytes, alt: str) -> Picture:
    """Width and height stand in the header of every PNG."""
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    return Picture(uri, alt, width, height)


def geometries(run: RunData) -> list[Geometry]:
    """RDM and models of every representation that the run has kept."""
    found = run.evidence.get("rsa", {})
    return [_geometry(str(name), part) for name, part in found.get("representations", {}).items()]


def _geometry(name: str, part: dict[str, Any]) -> Geometry:
    rows = part.get("models") or []
    said = [(row["model"], row.get("reason") or row.get("note")) for row in rows]
    reasons = [part.get("reason"), *(f"{model}: {why}" for model, why in said if why)]
    if part.get("ceiling_reason"):
        reasons.append(f"No noise ceiling: {part['ceiling_reason']}")
    about = [f"Score: {part['comparator']} correlation of RDMs; {part['n_items']} items"] if rows else []
    note = " ".join(f"{text}." for text in [*about, *reasons] if text)
    table = models(name, pd.DataFrame(rows)) if rows else None
    picture = _drawn(LABELS.get(name, name), part) if part.get("rdm") else None
    return Geometry(LABELS.get(name, name), picture, table, note)


def _drawn(title: str, part: dict[str, Any]) -> Picture:
    upper = np.asarray(part["rdm"], dtype=np.float64)
    conditions = [visible(side).replace("$", r"\$") for side in part["sides"]]  # dollars would start a formula
    n = len(conditions)
    table_SS = np.zeros((n, n))
    table_SS[np.triu_indices(n, 1)] = upper
    figure, ax = plt.subplots(figsize=(5.4, 4.6))
    plots.rdm_heatmap(
        table_SS + table_SS.T, conditions, unit=f"{part.get('distance', '')} distance".strip(), title=title, ax=ax
    )
    content = io.BytesIO()
    figure.savefig(content, dpi=130, bbox_inches="tight", format="png")
    plt.close(figure)
    png = content.getvalue()
    return _picture(as_uri(png), png, f"Distance between every two of {n} stimuli, {title}, sorted by side.")
