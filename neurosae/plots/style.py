"""What all figures share: colours that colour-blind readers tell apart, labels, and how they are written to disk."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from neurosae.errors import UserError
from neurosae.files import atomic_path

PALETTE = {
    "raw": "#0072B2",
    "sae": "#D55E00",
    "untrained_sae": "#CC79A7",
    "embeddings": "#009E73",
    "bag_of_words": "#4D4D4D",
}
"""Colour of every representation: four of Okabe and Ito (2008), and a grey that is dark enough to differ from them."""
MARKERS = {"raw": "o", "sae": "D", "untrained_sae": "s", "embeddings": "^", "bag_of_words": "v"}
LABELS = {
    "raw": "neurons",
    "sae": "SAE latents",
    "untrained_sae": "untrained SAE",
    "embeddings": "token embeddings",
    "bag_of_words": "bag of words",
}
BAND: dict[str, Any] = {"color": "0.85", "zorder": 0}
_CHARACTER = 0.5  # mean width of a character in DejaVu Sans, as a share of the font size


def save(figure: Any, path: Path) -> None:
    """Write PNG (150 dpi) and SVG beside each other and close the figure; the same figure gives the same SVG.

    Parameters
    ----------
    figure : Figure
        `ax.figure` of what a function here returns.
    path : Path
        Without a suffix.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(plt.figure(), Path(folder) / "empty")
    ...     sorted(file.name for file in Path(folder).iterdir())
    ['empty.png', 'empty.svg']
    """
    with matplotlib.rc_context({"svg.hashsalt": "neurosae"}):
        for suffix, metadata in ((".png", None), (".svg", {"Date": None})):
            with atomic_path(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, dpi=150, bbox_inches="tight", metadata=metadata)
    plt.close(figure)


def selector_label(name: Any) -> str:
    """Name of a selector as figures show it.

    >>> selector_label("rsa_discriminative"), selector_label("all")
    ('RSA discriminative', 'all features')
    """
    known = {"rsa": "RSA", "auroc": "AUROC", "pca": "PCA", "l1": "L1", "all": "all features"}
    return " ".join(known.get(part, part) for part in str(name).split("_"))


def axes_or_new(ax: Axes | None, width: float, height: float) -> Axes:
    """Return the axes given, or those of a new figure of this size in inches."""
    return ax if ax is not None else plt.subplots(figsize=(width, height))[1]


def something_of(table: pd.DataFrame, columns: Iterable[str], what: str) -> pd.DataFrame:
    """Return the table if it has rows and the columns that a figure needs.

    Raises
    ------
    UserError
        Nothing to draw, or a column that is missing.
    """
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"the table has no column {', '.join(missing)}", where=what)
    if table.empty:
        raise UserError("there is nothing to draw: the table has no such rows", where=what)
    return table


def write_title(ax: Axes, *lines: str, size: float = 10, pad: float | None = None) -> None:
    """Left-aligned title of the lines that say something, wrapped to the width of the axes."""
    points = 72 * ax.bbox.width / ax.figure.dpi
    fits = max(24, int(points / (_CHARACTER * size)))
    parts = [part for line in lines for part in line.split("\n") if part]
    ax.set_title("\n".join(textwrap.fill(part, fits) for part in parts), loc="left", fontsize=size, pad=pad)


def counted(n: pd.Series) -> str:
    """One number, or the range of several.

    >>> counted(pd.Series([72, 72])), counted(pd.Series([60, 72]))
    ('72', '60 to 72')
    """
    return f"{n.min():,}" if n.nunique() == 1 else f"{n.min():,} to {n.max():,}"


def apart(places: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Move ascending places apart until neighbours differ by `gap`, between `low` and, room permitting, `high`.

    >>> apart(np.array([0.0, 0.01, 0.5, 1.0]), 0.1, 0.05, 0.95).round(3).tolist()
    [0.05, 0.15, 0.5, 0.95]
    """
    steps = gap * np.arange(len(places))
    upwards = np.maximum.accumulate(np.maximum(places, low) - steps) + steps
    downwards = np.minimum(upwards, high + steps - steps[-1])
    return np.maximum(downwards, low + steps)


def line_height(ax: Axes, size: float) -> float:
    """Height of a line of text of this size, as a share of the height of the axes."""
    points = 72 * ax.bbox.height / ax.figure.dpi
    return 1.25 * size / points
