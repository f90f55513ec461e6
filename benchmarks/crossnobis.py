"""Crossnobis distances in closed form against rsatoolbox, paired in one process."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import pandas as pd
from rsatoolbox.rdm import calc_rdm

from neurosae.rdms import crossnobis, to_dataset


def measure(n_features: int = 16_000, repeats: int = 3, seed: int = 0) -> dict[str, Any]:
    """Time 4 conditions x 5 folds x 5 stimuli; seconds are medians, agreement is the largest absolute difference.

    rsatoolbox makes a precision matrix of n_features x n_features float64: 2 GB for 16,000.
    """
    code_S, fold_S, _ = np.indices((4, 5, 5)).reshape(3, -1)
    rng = np.random.default_rng(seed)
    X_SF = rng.normal(size=(4, n_features))[code_S] + rng.normal(size=(100, n_features))
    dataset = to_dataset(X_SF, stimuli=pd.DataFrame({"condition": code_S, "fold": fold_S}))
    runs = {
        "ours": lambda: crossnobis(X_SF, code_S, fold_S).rdm,
        "peer": lambda: calc_rdm(dataset, "crossnobis", descriptor="condition", cv_descriptor="fold"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    rdms: dict[str, Any] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            rdms[name] = run()
            seconds[name].append(time.perf_counter() - started)
    ours, peer = (statistics.median(seconds[name]) for name in ("ours", "peer"))
    return {
        "name": f"crossnobis, 100 stimuli x {n_features} features, 4 conditions, 5 folds, s",
        "ours": ours,
        "peer": peer,
        "ratio": peer / ours,
        "agreement": float(np.abs(rdms["ours"].dissimilarities - rdms["peer"].dissimilarities).max()),
        "peer_is": "rsatoolbox.rdm.calc_rdm(method='crossnobis')",
    }
