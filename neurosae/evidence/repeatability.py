"""How far what was found would come back with other items: of selectors' decisions, of features, of whole maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from neurosae.decoding.reliability import FeatureReliability, feature_reliability, map_reliability
from neurosae.errors import UserError
from neurosae.stimuli import LabelledContrast

Array = NDArray[np.float64]

COLUMNS = ("kind", "representation", "block", "selector", "k", "reliability", "low", "high", "single_item",
           "features_mean", "p", "n_items", "reason")  # fmt: skip
_SHARED = "no interval: halvings share their items, so that their spread says nothing about other items"


def reliability_interval(t: float, df: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of the reliability of one effect over items, exact for normal responses.

    The t statistic of the effect has a noncentral t distribution around delta / SE; its noncentrality is bounded by
    inversion, and reliability is that squared over itself plus one.

    Parameters
    ----------
    t : float
        Effect over its standard error; finite.
    df : float
        Degrees of freedom, above 0.
    level : float, default 0.95

    Returns
    -------
    low, high : float

    Raises
    ------
    UserError
        Numbers out of range.

    References
    ----------
    Steiger (2004), Psychological Methods 9:164.

    Examples
    --------
    >>> low, high = reliability_interval(4.0, 30)
    >>> low < 1 - 1 / 4.0**2 < high
    True
    """
    if not (np.isfinite(t) and df > 0 and 0 < level < 1):
        raise UserError(f"t = {t}, df = {df}, level = {level}", allowed="finite t, df above 0, level between 0 and 1")
    tail = (1 - level) / 2
    low, high = (_noncentrality(abs(t), df, p) for p in (1 - tail, tail))
    squared = np.square([max(low, 0.0), max(high, 0.0)])
    share = squared / (1 + squared)
    return float(share[0]), float(share[1])


def _noncentrality(t: float, df: float, p: float) -> float:
    """Noncentrality at which a statistic of at most t has this probability."""
    return float(special.nctdtrinc(df, p, t))


def selectors_table(cells: Sequence[dict[str, Any]], X_SF: dict[str, Array], sides: LabelledContrast) -> pd.DataFrame:
    """Reliability of what the features of each variant say together, and of each of them.

    The decision of a variant for a stimulus is *held out*: neither selection nor weights saw the item. Its contrast,
    target less foil of every item, is one number per item, whose reliability over items `feature_reliability` gives.
    That of the features is over the items that chose them: it describes, and is optimistic.

    Parameters
    ----------
    cells : sequence of dict
        As `neurosae.runs.RunFolder.cells` reads them.
    X_SF : mapping of str to array [S, F]
        Pooled responses of each representation.
    sides : LabelledContrast

    Returns
    -------
    DataFrame
        One row per variant, with `COLUMNS`: `kind` ("selector"), `reliability` of the held-out decision with the
        interval `low`, `high`, `single_item` (that of one item), `features_mean` (mean reliability of its features),
        `n_items`, `reason`.
    """
    return pd.DataFrame([_selector_row(cell, X_SF[cell["representation"]], sides) for cell in cells], columns=COLUMNS)


def _selector_row(cell: dict[str, Any], X_SF: Array, sides: LabelledContrast) -> dict[str, Any]:
    row: dict[str, Any] = {name: cell[name] for name in ("representation", "block", "selector", "k")}
    row |= {"kind": "selector", "reliability": np.nan, "low": np.nan, "high": np.nan, "reason": ""}
    try:
        decision = feature_reliability(np.array(cell["decision"])[:, None], sides.labels_S, sides.groups_S)
        of_features = feature_reliability(X_SF[:, cell["features"]["feature"]], sides.labels_S, sides.groups_S)
    except UserError as error:
        return row | {"reason": error.what}
    row |= {"features_mean": float(of_features.reliability.mean()), "n_items": decision.n_items}
    if not (decision.valid[0] and decision.noise[0] > 0):
        return row | {"reason": "the decision is the same for all items"}
    low, high = reliability_interval(float(decision.effect[0] / np.sqrt(decision.noise[0])), _df(decision, sides))
    row |= {"reliability": float(decision.reliability[0]), "single_item": float(decision.single_item[0])}
    return row | {"low": low, "high": high}


def _df(found: FeatureReliability, sides: LabelledContrast) -> int:
    """Items less the means that are estimated: one of the differences, or one per condition."""
    both = pd.Series(sides.labels_S).groupby(sides.groups_S).nunique()
    return found.n_items - (1 if (both == 2).all() else 2)


def maps_table(
    X_SF: dict[str, Array], blocks: dict[str, int], sides: LabelledContrast, *, n_permutations: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Split-half reliability of the effects of all features of a representation, stepped up to all items.

    Parameters
    ----------
    X_SF : mapping of str to array [S, F]
    blocks : mapping of str to int
        Where each representation is heard.
    sides : LabelledContrast
    n_permutations, seed : int, default 200 and 0

    Returns
    -------
    DataFrame
        One row per representation, with `COLUMNS`: `kind` ("map"), `reliability`, its permutation `p`, `n_items`,
        `reason` (why there is no interval, or no value).
    """
    rows = []
    for name, of_name_SF in X_SF.items():
        row = {"kind": "map", "representation": name, "block": blocks[name], "selector": "", "k": of_name_SF.shape[1]}
        rows.append(row | _map_values(of_name_SF, sides, n_permutations, seed))
    return pd.DataFrame(rows, columns=COLUMNS)


def _map_values(X_SF: ArrayLike, sides: LabelledContrast, n_permutations: int, seed: int) -> dict[str, Any]:
    about = {"n_permutations": n_permutations, "seed": seed}
    try:
        found = map_reliability(X_SF, sides.labels_S, sides.groups_S, sides.blocks_S, sides.design, **about)
    except UserError as error:
        return {"reason": error.what}
    return {"reliability": found.reliability, "p": found.p, "n_items": found.n_items, "reason": _SHARED}
