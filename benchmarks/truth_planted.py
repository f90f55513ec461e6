"""Which selector finds which planted signal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import joblib
import numpy as np
import pandas as pd
from scipy import stats
from threadpoolctl import threadpool_limits

from benchmarks.truth_data import LABELS, N_PLANTED, N_POSITIONS, N_STIMULI, SIGNALS, TARGET, Array, Planted
from neurosae import rsa
from neurosae.decoding.selection import SELECTORS, scores, top_k
from neurosae.inference import test_contrast
from neurosae.rsa import FeatureScores

KS = (N_PLANTED, 8)
CLEAN = np.ones((N_STIMULI, N_POSITIONS), dtype=bool)


def _selector(name: str, data: Planted, seed: int) -> FeatureScores:
    return scores(name, data.X_SF, TARGET, profiles=(data.P_SWF, CLEAN), rng_seed=seed)


def _position_free(form: str, data: Planted, _: int) -> FeatureScores:
    return rsa.score_profiles(data.P_SWF, CLEAN, TARGET, "discriminative", form=form)


def _rating_model(data: Planted, _: int) -> FeatureScores:
    return rsa.score_model(data.X_SF, _squared(data.rating_S))


def _partial_model(data: Planted, _: int) -> FeatureScores:
    return rsa.score_model(data.X_SF, _squared(data.rating_S), nuisance=_squared(data.length_S))


def _adjusted_t(data: Planted, _: int) -> FeatureScores:
    test = test_contrast(data.X_SF, LABELS, data.length_S)
    return FeatureScores(np.abs(test.t), test.reason)


def _squared(x_S: Array) -> Array:
    return (x_S[:, None] - x_S) ** 2


METHODS: dict[str, Callable[[Planted, int], FeatureScores]] = {
    **{name: partial(_selector, name) for name in SELECTORS},
    **{f"rsa_discriminative, {form} profile": partial(_position_free, form) for form in rsa.FORMS if form != "aligned"},
    "rsa rating model": _rating_model,
    "rsa rating model, length partialled out": _partial_model,
    "t, length as covariate": _adjusted_t,
}
"""The selectors, and scores that only a call of `neurosae.rsa` or `neurosae.inference` offers."""


def one_data_set(signal: str, seed: int, number: int) -> Array:
    """Planted features among the first k, [methods, ks]."""
    data = SIGNALS[signal](np.random.default_rng([seed, list(SIGNALS).index(signal), number]))
    with threadpool_limits(limits=1):
        rankings = [top_k(method(data, number), max(KS)) for method in METHODS.values()]
    return np.array([[np.isin(ranking[:k], data.features).sum() for k in KS] for ranking in rankings])


def recall_and_precision(n_datasets: int, n_jobs: int, seed: int = 0) -> pd.DataFrame:
    """Recall and precision of every method for every signal, means over data sets with 95 % t intervals."""
    return pd.DataFrame(_rows(n_datasets, n_jobs, seed))


def _rows(n_datasets: int, n_jobs: int, seed: int) -> Iterator[dict[str, object]]:
    for signal in SIGNALS:
        tasks = (joblib.delayed(one_data_set)(signal, seed, number) for number in range(n_datasets))
        hits_DMK = np.array(joblib.Parallel(n_jobs)(tasks))
        for m, method in enumerate(METHODS):
            for i, k in enumerate(KS):
                row: dict[str, object] = {"signal": signal, "method": method, "k": k, "n": n_datasets}
                for name, most in (("recall", N_PLANTED), ("precision", k)):
                    share_D = hits_DMK[:, m, i] / most
                    half = stats.t.ppf(0.975, n_datasets - 1) * share_D.std(ddof=1) / np.sqrt(n_datasets)
                    mean = share_D.mean()
                    row |= {name: mean, f"{name}_low": max(mean - half, 0), f"{name}_high": min(mean + half, 1)}
                yield row
