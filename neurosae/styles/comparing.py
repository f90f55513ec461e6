"""Measures of styles side by side: means with intervals over topics, and every two styles tested, max-T over all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.inference import bootstrap_interval, max_t

Array = NDArray[np.float64]


def style_means(values: Mapping[str, Array], styles: Sequence[str], *, n: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Mean of every measure in every style.

    Parameters
    ----------
    values : mapping of str to array [C, I]
        Measures by style and topic.
    styles : sequence of C str
    n, seed : int, default 2000 and 0
        Resamples of topics.

    Returns
    -------
    DataFrame
        `measure`, `style`, `mean`, `low`, `high` (95 %, BCa over topics), `n_topics`.

    Examples
    --------
    >>> values = {"active": np.array([np.arange(10.0), np.arange(10.0) + 1])}
    >>> style_means(values, ["plain", "expert"])["mean"].tolist()
    [4.5, 5.5]
    """
    tables = []
    for measure, value_CI in values.items():
        interval = bootstrap_interval(_means_of(value_CI), np.arange(value_CI.shape[1]), n=n, seed=seed)
        columns = {"style": list(styles), "mean": interval.estimate, "low": interval.low, "high": interval.high}
        tables.append(pd.DataFrame({"measure": measure, **columns, "n_topics": value_CI.shape[1]}))
    return pd.concat(tables, ignore_index=True)


def compare_styles(values: Mapping[str, Array], styles: Sequence[str], *, n: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Compare every two styles in every measure.

    Parameters
    ----------
    values, styles
        As in `style_means`.
    n, seed : int, default 2000 and 0
        Resamples of topics, and sign flips of topics.

    Returns
    -------
    DataFrame
        One row per measure and pair of styles: `measure`, `style`, `against`, `difference`, `low`, `high` (95 %, BCa
        over topics), `t` (paired, over topics), `p`, `p_fwe` (corrected over all rows by max-T with common sign flips),
        `n_topics`, `valid` (False where the difference does not vary over topics; p is 1 then).

    Notes
    -----
    What is generalised to is other topics. Wordings are fixed: they were chosen, not sampled. Whether a difference
    holds in each of them is told by `apart_in_wordings`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> plain = rng.normal(size=20)
    >>> table = compare_styles({"active": np.array([plain, plain + 1 + rng.normal(size=20) / 9])}, ["plain", "expert"])
    >>> table[["style", "against"]].to_numpy().tolist(), bool(table["p_fwe"][0] < 0.01)
    ([['expert', 'plain']], True)
    """
    pairs = [(a, b) for b, a in itertools.combinations(range(len(styles)), 2)]
    cells = [(measure, a, b) for measure in values for a, b in pairs]
    target_IP = np.array([values[measure][a] for measure, a, _ in cells]).T
    foil_IP = np.array([values[measure][b] for measure, _, b in cells]).T
    n_topics = len(target_IP)
    interval = bootstrap_interval(_means_of((target_IP - foil_IP).T), np.arange(n_topics), n=n, seed=seed)
    test = max_t(
        np.concatenate([target_IP, foil_IP]),
        np.repeat([1, -1], n_topics),
        np.tile(np.arange(n_topics), 2),
        "pairs",
        n=n,
        seed=seed,
    )
    return pd.DataFrame(
        {
            "measure": [measure for measure, _, _ in cells],
            "style": [styles[a] for _, a, _ in cells],
            "against": [styles[b] for _, _, b in cells],
            "difference": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "t": test.observed.t,
            "p": test.p,
            "p_fwe": test.p_fwe,
            "n_topics": n_topics,
            "valid": test.observed.valid,
        }
    )


def apart_in_wordings(comparisons: pd.DataFrame, values: Mapping[str, Array], styles: Sequence[str]) -> pd.Series:
    """Whether, in every row of `compare_styles`, each wording of one style lies beyond each of the other.

    With V wordings of either style, none of which knows of styles, that has probability 2 / C(2V, V): .029 for four.

    Parameters
    ----------
    comparisons : DataFrame
    values : mapping of str to array [C, V]
        Measures by style and wording.
    styles : sequence of C str

    Examples
    --------
    >>> row = pd.DataFrame({"measure": ["active"], "style": ["expert"], "against": ["plain"]})
    >>> apart_in_wordings(row, {"active": np.array([[1.0, 3.0], [2.0, 4.0]])}, ["plain", "expert"]).tolist()
    [False]
    """
    numbers = {style: c for c, style in enumerate(styles)}

    def apart(row: pd.Series) -> bool:
        one_V, other_V = (values[row["measure"]][numbers[row[name]]] for name in ("style", "against"))
        return bool(one_V.min() > other_V.max() or one_V.max() < other_V.min())

    return comparisons.apply(apart, axis=1)


def _means_of(value_NI: Array) -> Callable[[Array], Array]:
    """The weighted mean over topics of each row."""
    return lambda weights_BI: weights_BI @ value_NI.T / weights_BI.sum(axis=1, keepdims=True)
