"""What all figures share: colours that colour-blind readers tell apart, labels, and how they are written to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg", force=False)

import matplotlib.pyplot as plt

from neurosae.files import atomic_path

PALETTE = {
    "raw": "#0072B2",
    "sae": "#D55E00",
    "untrained_sae": "#CC79A7",
    "embeddings": "#009E73",
    "bag_of_words": "#7F7F7F",
}
LABELS = {
    "raw": "neurons",
    "sae": "SAE latents",
    "untrained_sae": "untrained SAE",
    "embeddings": "token embeddings",
    "bag_of_words": "bag of words",
}
plt.rcParams["svg.hashsalt"] = "neurosae"  # the same figure gives the same file
BAND: dict[str, Any] = {"color": "0.85", "zorder": 0}


def save(figure: Any, path: Path) -> None:
    """Write PNG (150 dpi) and SVG beside each other and close the figure."""
    for suffix in (".png", ".svg"):
        with atomic_path(path.with_suffix(suffix)) as temporary:
            figure.savefig(
                temporary, dpi=150, bbox_inches="tight", metadata={"Date": None} if suffix == ".svg" else None
            )
    plt.close(figure)


def selector_label(name: Any) -> str:
    """Name of a selector as figures show it."""
    known = {"rsa": "RSA", "auroc": "AUROC", "pca": "PCA", "l1": "L1", "all": "all features"}
    return " ".join(known.get(part, part) for part in str(name).split("_"))
