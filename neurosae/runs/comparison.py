"""Method variants against each other: three claims with effect sizes and intervals, whichever way they fall.

A claim "A beats B" is the mean difference in held-out AUROC over *matched cells*, that is, over variants of one
contrast that differ in the compared factor only, on the same folds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from neurosae.decoding.selection import PROFILE_SELECTORS, UNSELECTED
from neurosae.decoding.variants import Variant
from neurosae.errors import UserError
from neurosae.inference import corrected_resampled_test, permutation_p, sign_flips
from neurosae.representations import METHODS
from neurosae.runs.verdicts import Verdict, beside, with_verdicts

PRIMARY = "auroc"
"""The outcome all claims are about."""
CONTRAST = ["concept", "contrast"]
VARIANT = [field.name for field in fields(Variant)]
"""Columns that name a variant."""
COLUMNS = [*CONTRAST, *VARIANT, "repeat", "fold", "balanced_accuracy", PRIMARY]
"""Columns of a table of folds; one row per variant, repeat and fold."""
CONTROLS = ("random", *UNSELECTED)
"""Selectors that are yardsticks, not methods."""
REFERENCES = ("t", "random")
MIN_CONTRASTS = 8
SIGN_FLIPS = 10_000

MATCH_SELECTORS = ["form", "representation", "k", "ensemble", "block", "pooling"]
MATCH_REPRESENTATIONS = ["selector", "k", "ensemble", "block", "pooling"]

Rows = Callable[[pd.DataFrame], pd.Series]

FAMILIES: dict[str, Rows] = {
    "RSA": lambda folds: folds["selector"].str.startswith("rsa_"),
    "max_activation": lambda folds: folds["selector"] == "max_activation",
    "SAE": lambda folds: (folds["representation"] == "sae") & ~folds["selector"].isin(CONTROLS),
    "raw": lambda folds: (folds["representation"] == "raw") & ~folds["selector"].isin(CONTROLS),
    "discriminative": lambda folds: folds["selector"].str.match(r"rsa_discriminative(_|$)"),
    "categorical": lambda folds: folds["selector"].str.match(r"rsa_categorical(_|$)"),
}
"""Which variants belong to a family of methods."""

CLAIMS: dict[str, tuple[str, str, list[str]]] = {
    "RSA beats max_activation": ("RSA", "max_activation", MATCH_SELECTORS),
    "SAE beats raw": ("SAE", "raw", MATCH_REPRESENTATIONS),
    "discriminative beats categorical": ("discriminative", "categorical", MATCH_SELECTORS),
}
"""The family said to be better, the other, and what must be equal for two variants to be compared."""


class Deltas(NamedTuple):
    """Mean difference over matched cells in every fold, and how many cells were matched."""

    deltas_RF: NDArray[np.float64]
    n_cells: int


def matched_deltas(first: pd.DataFrame, second: pd.DataFrame, match: list[str]) -> Deltas:
    """Difference of two families of variants, per repeat and fold, averaged over matched cells.

    A cell is one combination of values of `match`; the variants of a family in a cell are averaged first. Cells that
    one of the two families lacks, in any fold, are left out.

    Parameters
    ----------
    first, second : DataFrame
        Rows of a table of folds of one contrast.
    match : list of str
        Columns that must be equal.

    Returns
    -------
    Deltas
        `deltas_RF` is [R, F], or [0, 0] without a matched cell.

    Examples
    --------
    >>> rows = [(k, fold, 0.1 * k + 0.05 * fold) for k in (1, 2) for fold in (0, 1)]
    >>> first = pd.DataFrame(rows, columns=["k", "fold", "auroc"]).assign(repeat=0)
    >>> matched_deltas(first, first.assign(auroc=0.1).query("k == 1"), ["k"]).deltas_RF.round(2).tolist()
    [[0.0, 0.05]]
    """
    keys = [*match, "repeat", "fold"]
    nothing = Deltas(np.empty((0, 0)), 0)
    if first.empty or second.empty:
        return nothing
    difference = first.groupby(keys)[PRIMARY].mean() - second.groupby(keys)[PRIMARY].mean()
    cells = difference.unstack(["repeat", "fold"]).sort_index(axis=1)
    n_repeats, n_folds = (cells.columns.unique(level).size for level in ("repeat", "fold"))
    complete = cells.dropna()
    if complete.empty or cells.shape[1] != n_repeats * n_folds:
        return nothing
    return Deltas(complete.mean().to_numpy().reshape(n_repeats, n_folds), len(complete))


def claims_table(folds: pd.DataFrame, n_splits: int, margin: float = 0.02) -> pd.DataFrame:
    """Test the three claims, for every contrast by itself.

    1. RSA beats max_activation: the scalar RSA kinds averaged, against selection by maximum activation.
    2. SAE beats raw: latents against neurons, over the selectors that both have, controls left out.
    3. discriminative beats categorical: the two RSA kinds, scalar or both on profiles.

    Intervals and p-values come from the fold differences with the Nadeau-Bengio correction; p-values are corrected over
    the claims of a contrast (Holm). A verdict is *equivalent* where the interval lies inside +-`margin`, else
    *supported* or *opposite* where the corrected p is below .05 and the interval excludes 0, else *undecided*. Only the
    representations ``'sae'`` and ``'raw'`` take part.

    Parameters
    ----------
    folds : DataFrame
        One row per variant, repeat and fold; columns `COLUMNS`.
    n_splits : int
        Folds per repeat.
    margin : float, default 0.02
        Differences in AUROC up to which two families count as equivalent.

    Returns
    -------
    DataFrame
        Columns concept, contrast, claim, delta, ci_low, ci_high, p, p_holm, verdict (followed by how the family named
        first fares against `t` and `random`), n_cells, against_t, against_random, scope. A claim without matched cells
        has the verdict *not tested* and no numbers.

    Raises
    ------
    UserError
        Missing columns, a variant listed twice, or repeats without `n_splits` folds.

    Examples
    --------
    >>> rows = [(s, fold, 0.6 + 0.1 * (s == "rsa_category") + 0.02 * fold)
    ...         for s in ("max_activation", "rsa_category") for fold in (0, 1, 2)]
    >>> folds = pd.DataFrame(rows, columns=["selector", "fold", "auroc"]).assign(
    ...     concept="success", contrast="success", representation="sae", k=1, ensemble="lda", block=8, pooling="mean",
    ...     repeat=0, balanced_accuracy=0.5)
    >>> claims_table(folds, n_splits=3)["verdict"][0]
    'supported; RSA not compared with t, not compared with random'
    """
    tables = []
    for concept, contrast, part in _contrasts(folds, n_splits):
        tests = {
            claim: matched_deltas(part[FAMILIES[first](part)], part[FAMILIES[second](part)], match)
            for claim, (first, second, match) in CLAIMS.items()
        }
        table = _tested(tests, ["claim"], n_splits, margin)
        families = _families_of_one_contrast(part, n_splits, margin).to_dict("records")
        against = {(row["family"], row["reference"]): Verdict.of(row) for row in families}
        table = beside(table, [CLAIMS[claim][0] for claim in tests], against)
        scope = f"concept '{concept}', contrast '{contrast}': this stimulus population, this model, this SAE"
        tables.append(_labelled(table.assign(scope=scope), concept, contrast))
    return pd.concat(tables, ignore_index=True)


def families_table(folds: pd.DataFrame, n_splits: int, margin: float = 0.02) -> pd.DataFrame:
    """Every family of methods against selection by `t` and at random, for every contrast by itself.

    The variants of a family are averaged and compared with the reference selector on the same representation, with
    equal k, ensemble, block and pooling. Holm over the comparisons of a contrast. Parameters and verdicts as in
    `claims_table`.

    Returns
    -------
    DataFrame
        Columns concept, contrast, family, reference, delta, ci_low, ci_high, p, p_holm, verdict, n_cells.
    """
    tables = [
        _labelled(_families_of_one_contrast(part, n_splits, margin), concept, contrast)
        for concept, contrast, part in _contrasts(folds, n_splits)
    ]
    return pd.concat(tables, ignore_index=True)


def across_contrasts(claims: pd.DataFrame, margin: float = 0.02, seed: int = 0) -> pd.DataFrame:
    """General statements: the claims over many contrasts, with the contrast as the unit.

    Sign-flip test of the mean difference (all flips up to 13 contrasts, else 10,000 drawn ones), two-sided, Holm over
    the claims; 95 % t interval over contrasts. With fewer than 8 contrasts there is no test and no verdict.

    Parameters
    ----------
    claims : DataFrame
        `claims_table` of several contrasts.
    margin : float, default 0.02
        As in `claims_table`.
    seed : int, default 0
        Seed of the drawn flips.

    Returns
    -------
    DataFrame
        Columns claim, delta, ci_low, ci_high, p, p_holm, verdict, n_contrasts, scope.

    Examples
    --------
    >>> claims = pd.DataFrame({"claim": "SAE beats raw", "delta": 0.1 + 0.01 * np.arange(8), "concept": "success"})
    >>> across_contrasts(claims)[["p", "verdict", "n_contrasts"]].to_numpy().tolist()
    [[0.0078125, 'supported', 8]]
    """
    rows = []
    for claim, part in claims.groupby("claim", sort=False):
        part = part.dropna(subset="delta")
        deltas, n = part["delta"].to_numpy(dtype=np.float64), len(part)
        row = {
            "claim": claim,
            "delta": deltas.mean() if n else np.nan,
            "ci_low": np.nan,
            "ci_high": np.nan,
            "p": np.nan,
        }
        if n >= MIN_CONTRASTS:
            half = stats.t.ppf(0.975, n - 1) * deltas.std(ddof=1) / np.sqrt(n)
            null = sign_flips(n, SIGN_FLIPS, seed) @ deltas / n
            row["p"] = float(permutation_p(deltas.mean(), null, "two-sided"))
            row["ci_low"], row["ci_high"] = deltas.mean() - half, deltas.mean() + half
        scope = f"{n} contrasts of {part['concept'].nunique()} concepts, this model, this SAE"
        rows.append(row | {"n_contrasts": n, "scope": scope})
    table = with_verdicts(pd.DataFrame(rows), margin, f"needs at least {MIN_CONTRASTS} contrasts")
    return table[["claim", "delta", "ci_low", "ci_high", "p", "p_holm", "verdict", "n_contrasts", "scope"]]


def ranked_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Variants of every contrast from best to worst by mean held-out AUROC.

    A rank is a description: neighbouring variants rarely differ by more than their intervals.

    Parameters
    ----------
    summary : DataFrame
        One row per variant: concept, contrast, the columns that name a variant, ``auroc`` and any others.

    Returns
    -------
    DataFrame
        The same rows, sorted, with the columns `rank` (1 = best, equal scores share a rank) in front and `control`
        (whether selector or representation is a yardstick) at the end.

    Examples
    --------
    >>> row = dict(concept="a", contrast="a", k=1, ensemble="lda", block=8, pooling="mean", representation="sae")
    >>> summary = pd.DataFrame([row | {"selector": "random", "auroc": 0.5}, row | {"selector": "t", "auroc": 0.9}])
    >>> ranked_table(summary)[["rank", "selector", "control"]].to_numpy().tolist()
    [[1, 't', False], [2, 'random', True]]
    """
    _require(summary, [*CONTRAST, *VARIANT, PRIMARY])
    order = [*CONTRAST, PRIMARY, *VARIANT]
    table = summary.sort_values(order, ascending=[name != PRIMARY for name in order], ignore_index=True)
    rank = table.groupby(CONTRAST)[PRIMARY].rank(method="min", ascending=False).astype(int)
    table.insert(0, "rank", rank)
    control = table["selector"].isin(CONTROLS) | ~table["representation"].isin(METHODS)
    return table.assign(control=control)


def _contrasts(folds: pd.DataFrame, n_splits: int) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Concept, contrast and the rows the claims are about, with the form of the selector; or an error."""
    _require(folds, COLUMNS)
    row = [*CONTRAST, *VARIANT, "repeat", "fold"]
    if folds[row].isna().any(axis=None):
        raise UserError("A table of folds names a variant, repeat or fold by a missing value")
    twice = folds[folds.duplicated(row)]
    if len(twice):
        raise UserError(f"A variant is listed twice for the same fold: {twice[row].iloc[0].to_dict()}")
    per_repeat = folds.groupby([*CONTRAST, "repeat"])["fold"].nunique()
    if (per_repeat != n_splits).any():
        raise UserError(f"Repeats have {sorted(per_repeat.unique())} folds", allowed=f"{n_splits} folds each")
    form = np.where(folds["selector"].isin(list(PROFILE_SELECTORS)), "profile", "scalar")
    methods = folds.assign(form=form)[folds["representation"].isin(METHODS)]
    if methods.empty:
        raise UserError("The table has no variant of the representations 'sae' and 'raw'")
    for names, part in methods.groupby(CONTRAST):
        concept, contrast = (str(name) for name in names)
        yield concept, contrast, part


def _require(table: pd.DataFrame, columns: list[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"A table lacks the columns {', '.join(missing)}")


def _families_of_one_contrast(part: pd.DataFrame, n_splits: int, margin: float) -> pd.DataFrame:
    tests = {}
    for (family, rows), reference in itertools.product(FAMILIES.items(), REFERENCES):
        rival = part["selector"] == reference
        tests[family, reference] = matched_deltas(part[rows(part) & ~rival], part[rival], MATCH_SELECTORS)
    return _tested(tests, ["family", "reference"], n_splits, margin)


def _tested(tests: dict[Any, Deltas], labels: list[str], n_splits: int, margin: float) -> pd.DataFrame:
    """One row per comparison: effect, interval, p, verdict."""
    results = []
    for deltas_RF, n_cells in tests.values():
        test = corrected_resampled_test(deltas_RF, 1 - 1 / n_splits)[:4] if n_cells else [np.nan] * 4
        results.append((*test, n_cells))
    numbers = pd.DataFrame(results, columns=["delta", "ci_low", "ci_high", "p", "n_cells"])
    names = pd.DataFrame(list(tests), columns=labels)
    table = pd.concat([names, with_verdicts(numbers, margin)], axis=1)
    return table[[*labels, "delta", "ci_low", "ci_high", "p", "p_holm", "verdict", "n_cells"]]


def _labelled(table: pd.DataFrame, concept: str, contrast: str) -> pd.DataFrame:
    """The table with concept and contrast in front."""
    return pd.concat([pd.DataFrame({"concept": concept, "contrast": contrast}, index=table.index), table], axis=1)
