"""How large an activation normally is at a site: one constant per language model and site.

A few positions (attention sinks, some whitespace) have norms a hundred times the usual and would rule every mean.
Positions above ``LIMIT`` times the median norm are not *clean*. The median is measured once on a fixed calibration
text and kept, so that the mask does not depend on the stimuli or the batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from filelock import FileLock

from neurosae.files import cache_folder, write_json
from neurosae.forward import stream
from neurosae.models import LanguageModel
from neurosae.sites import Site

LIMIT = 10.0


def calibration_texts() -> list[str]:
    """Thirty short texts of many kinds, written for this purpose."""
    text = files("neurosae").joinpath("data/calibration.txt").read_text(encoding="utf-8")
    return [part.strip("\n") for part in text.split("---\n")]


def median_norms(language_model: LanguageModel, sites: Sequence[Site]) -> dict[Site, float]:
    """Median Euclidean norm of a token's activation at each site, from the cache or measured now.

    The sink token at position 0 does not count.
    """
    store = cache_folder("norms") / f"{language_model.fingerprint}.json"
    with FileLock(str(store) + ".lock"):
        known = _read(store)
        missing = [site for site in dict.fromkeys(sites) if str(site) not in known]
        if missing:
            known |= _measure(language_model, missing)
            write_json(store, known)
    return {site: known[str(site)] for site in sites}


def _read(store: Path) -> dict[str, float]:
    try:
        return dict(json.loads(store.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _measure(language_model: LanguageModel, sites: Sequence[Site]) -> dict[str, float]:
    ids = language_model.token_ids(calibration_texts())
    norms: dict[Site, list[np.ndarray]] = {site: [] for site in sites}
    for rows, activations in stream(language_model, ids, sites):
        for site, values in zip(sites, activations, strict=True):
            length = values.float().norm(dim=-1).cpu().numpy()
            norms[site] += [length[i, 1 : len(ids[row])] for i, row in enumerate(rows)]
    return {str(site): float(np.median(np.concatenate(parts))) for site, parts in norms.items()}
