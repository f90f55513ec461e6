"""The scorecard of method variants: decoding, new domains, stability, discovery, explanation and causal effect.

A claim "A beats B" is answered for every outcome on the same matched cells as for held-out AUROC
(`neurosae.runs.comparison`). Outcomes without folds use a paired bootstrap: every variant is scored in the same
resamples of sentences or prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from neurosae.decoding.selection import PROFILE_SELECTORS
from neurosae.errors import UserError
from neurosae.inference import permutation_p, sign_flips, smallest_p
from neurosae.inference.bootstrap import MIN_GROUPS
from neurosae.representations import METHODS
from neurosae.runs.comparison import (
    CLAIMS,
    CONTRAST,
    FAMILIES,
    MATCH_SELECTORS,
    REFERENCES,
    SIGN_FLIPS,
    VARIANT,
    matched_deltas,
)
from neurosae.runs.verdicts import ALPHA, Verdict, beside, with_verdicts

Array = NDArray[np.float64]
FEWEST_DOMAINS = 4


@dataclass(frozen=True)
class Outcome:
    """Something that variants are compared by.

    Attributes
    ----------
    name : str
        As in the column `outcome` of the table of claims.
    label : str
        With its unit, for people.
    margin : float
        Differences up to which two families count as equivalent, in that unit.
    """

    name: str
    label: str
    margin: float


OUTCOMES = {
    outcome.name: outcome
    for outcome in (
        Outcome("decoding", "held-out AUROC", 0.02),
        Outcome("new_domain", "AUROC in domains left out", 0.02),
        Outcome("discovery", "average precision on graded sentences", 0.02),
        Outcome("explanation", "mean grade (0-3) of the texts that drive it", 0.06),
        Outcome("causal", "shift of the preference for target endings, nats per token", 0.02),
    )
}
"""Margins are 2 % of a scale from 0 to 1, of one from 0 to 3, and 2 % of a probability ratio (exp(.02) = 1.02)."""


class Tested(NamedTuple):
    """A difference between families: its size, 95 % interval and two-sided p-value."""

    delta: float
    low: float
    high: float
    p: float


Test = Callable[[Array], Tested]


def matched_weights(variants: pd.DataFrame, first: pd.Series, second: pd.Series, match: list[str]) -> tuple[Array, int]:
    """The contrast of variants that `neurosae.runs.comparison.matched_deltas` takes: weights, number of matched cells.

    Parameters
    ----------
    variants : DataFrame
        One row per variant of one contrast.
    first, second : Series of bool
        Which of them belong to either family.
    match : list of str
        Columns that must be equal.

    Returns
    -------
    weights_V : float64 array [V]
        The difference of the families is `weights_V @ values_V`; zeros without a matched cell.
    n_cells : int

    Examples
    --------
    >>> variants = pd.DataFrame({"selector": ["t", "random", "t"], "k": [1, 1, 2]})
    >>> is_t = variants["selector"] == "t"
    >>> matched_weights(variants, is_t, ~is_t, ["k"])[0].tolist()
    [1.0, -1.0, 0.0]
    """
    n = len(variants)
    units = [variants.assign(repeat=0, fold=v, auroc=np.eye(n)[v]) for v in range(n)]  # what is linear is its weights
    table = pd.concat(units, ignore_index=True) if units else variants.assign(repeat=0, fold=0, auroc=0.0)
    one, other = (table[np.tile(rows.to_numpy(dtype=bool), n)] for rows in (first, second))
    deltas_RF, n_cells = matched_deltas(one, other, match)
    return (deltas_RF[0], n_cells) if n_cells else (np.zeros(n), 0)


def over_draws(values_V: ArrayLike, draws_VB: ArrayLike) -> Test:
    """Test differences in the same resamples: percentile interval, and p from the share of draws beyond 0.

    Parameters
    ----------
    values_V : array [V]
        Outcome of every variant.
    draws_VB : array [V, B]
        The same in every resample; column b is the same resample for all variants.

    Raises
    ------
    UserError
        Values that are not finite, or shapes that do not match.

    Examples
    --------
    >>> test = over_draws([0.5, 0.2], np.array([[0.5, 0.6, 0.4], [0.2, 0.3, 0.1]]))
    >>> round(test(np.array([1.0, -1.0])).delta, 3), test(np.array([1.0, -1.0])).p
    (0.3, 0.5)
    """
    values_V, draws_VB = np.asarray(values_V, dtype=np.float64), np.asarray(draws_VB, dtype=np.float64)
    if draws_VB.ndim != 2 or values_V.shape != draws_VB.shape[:1]:
        raise UserError(f"Values of shape {values_V.shape} for draws of shape {draws_VB.shape}", where="claims")
    if not (np.isfinite(values_V).all() and np.isfinite(draws_VB).all()):
        raise UserError("An outcome to be compared is not finite", where="claims")

    def test(weights_V: Array) -> Tested:
        draws_B = weights_V @ draws_VB
        beyond = min(int((draws_B <= 0).sum()), int((draws_B >= 0).sum()))
        low, high = np.quantile(draws_B, [0.025, 0.975])
        p = min(1.0, 2 * (beyond + 1) / (len(draws_B) + 1))
        return Tested(float(weights_V @ values_V), float(low), float(high), p)

    return test


def over_units(values_VU: ArrayLike, seed: int = 0) -> Test:
    """Test differences over a few units, such as domains: t interval over units and a sign-flip test of their mean.

    Parameters
    ----------
    values_VU : array [V, U]
        Outcome of every variant in every unit.
    seed : int, default 0
        Of the flips, where there are too many for all of them.

    Examples
    --------
    >>> test = over_units(np.array([[0.9, 0.8, 0.9, 0.8, 0.9], [0.5, 0.6, 0.5, 0.5, 0.6]]))
    >>> round(test(np.array([1.0, -1.0])).delta, 3), test(np.array([1.0, -1.0])).p
    (0.32, 0.0625)
    """
    values_VU = np.asarray(values_VU, dtype=np.float64)
    n = values_VU.shape[1]
    flips_BU = sign_flips(n, SIGN_FLIPS, seed)

    def test(weights_V: Array) -> Tested:
        delta_U = weights_V @ values_VU
        half = stats.t.ppf(0.975, n - 1) * delta_U.std(ddof=1) / np.sqrt(n)
        p = float(permutation_p(delta_U.mean(), flips_BU @ delta_U / n, "two-sided"))
        return Tested(float(delta_U.mean()), float(delta_U.mean() - half), float(delta_U.mean() + half), p)

    return test


def answer(variants: pd.DataFrame, outcome: str, test: Test | None, scope: str, reason: str = "") -> pd.DataFrame:
    """The three claims for one outcome of one contrast, as `neurosae.runs.comparison.claims_table` does for AUROC.

    Parameters
    ----------
    variants : DataFrame
        One row per variant that has the outcome, with the columns that name variants.
    outcome : str
        One of `OUTCOMES`.
    test : callable or None
        Weights of the variants to a tested difference; None where the outcome cannot be had.
    scope : str
        What the answer speaks for.
    reason : str
        Why not, with `test` None; else what limits the answer.

    Returns
    -------
    DataFrame
        Columns of `claims_table` between `outcome` and `reason`. Holm over the claims, and over the comparisons with
        `t` and `random`.

    Examples
    --------
    >>> answer(pd.DataFrame(columns=VARIANT), "causal", None, "", "no pairs")["verdict"].tolist()[0]
    'not tested'
    """
    known = OUTCOMES[outcome]
    methods = variants["representation"].isin(METHODS)
    form = np.where(variants["selector"].isin(list(PROFILE_SELECTORS)), "profile", "scalar")
    rows = variants.assign(form=form)

    def tested(first: pd.Series, second: pd.Series, match: list[str]) -> tuple[Tested, int]:
        nothing = Tested(*[float("nan")] * 4)
        if test is None:
            return nothing, 0
        weights_V, n_cells = matched_weights(rows, first & methods, second & methods, match)
        return (test(weights_V), n_cells) if n_cells else (nothing, 0)

    if test is None:
        claims = [(Tested(*[float("nan")] * 4), 0)] * len(CLAIMS)
        against: dict[tuple[str, str], Verdict] = {}
    else:
        belongs = {name: member(rows).astype(bool) for name, member in FAMILIES.items()}
        claims = [tested(belongs[a], belongs[b], match) for a, b, match in CLAIMS.values()]
        pairs = [(family, name) for family in FAMILIES for name in REFERENCES]
        rival = {name: rows["selector"] == name for name in REFERENCES}
        found = [tested(belongs[f] & ~rival[name], rival[name], MATCH_SELECTORS) for f, name in pairs]
        judged = _verdicts(found, known.margin).to_dict("records")
        against = {pair: Verdict.of(row) for pair, row in zip(pairs, judged, strict=True)}
    table = _verdicts(claims, known.margin)
    table.insert(0, "claim", list(CLAIMS))
    table.insert(0, "outcome", outcome)
    if against:
        table = beside(table, [first for first, _, _ in CLAIMS.values()], against)
    else:
        table = table.assign(**{f"against_{name}": "" for name in REFERENCES})
    reasons = [reason if n or test is None else "no matched cells" for n in table["n_cells"]]
    return table.assign(scope=scope, reason=reasons)


def new_domain_claims(domains: pd.DataFrame, scope: str) -> pd.DataFrame:
    """The claims for AUROC in domains left out, with the domain as the unit.

    Parameters
    ----------
    domains : DataFrame
        One row per variant and domain, with `auroc` (`neurosae.runs.domains_table`); possibly empty.
    scope : str
    """
    wide = domains.set_index([*VARIANT, "domain"])["auroc"].astype(float).unstack("domain")
    complete = wide.loc[:, wide.notna().all()] if len(wide) else wide
    if complete.shape[1] < FEWEST_DOMAINS:
        reason = f"{complete.shape[1]} domains with both conditions, fewer than {FEWEST_DOMAINS}"
        return answer(pd.DataFrame(columns=VARIANT), "new_domain", None, scope, reason)
    n, n_comparisons = complete.shape[1], len(FAMILIES) * len(REFERENCES)
    least = smallest_p(len(sign_flips(n, SIGN_FLIPS, 0)), mirrored=True) * n_comparisons
    reason = f"{n} domains are too few to tell any family from t or random after Holm" if least >= ALPHA else ""
    return answer(complete.index.to_frame(index=False), "new_domain", over_units(complete.to_numpy()), scope, reason)


def weighted_means(values_P: ArrayLike, weights_BP: ArrayLike) -> Array:
    """Mean of the values in every resample [B]; NaN where none of them was drawn.

    Examples
    --------
    >>> weighted_means([1.0, 3.0], [[1, 1], [2, 0]]).tolist()
    [2.0, 1.0]
    """
    values_P, weights_BP = np.asarray(values_P, dtype=np.float64), np.asarray(weights_BP, dtype=np.float64)
    total_B = weights_BP.sum(axis=1)
    return np.where(total_B > 0, weights_BP @ values_P / np.where(total_B > 0, total_B, 1), np.nan)


def scorecard(variants: pd.DataFrame, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One row per variant, best held-out AUROC first, with every outcome beside its interval.

    Parameters
    ----------
    variants : DataFrame
        As `neurosae.runs.variants_table` makes it.
    parts : sequence of DataFrames
        What the stages found: the columns that name variants, and columns of their own.

    Raises
    ------
    UserError
        A part that names a variant twice, or one that is not there.
    """
    columns = ["rank", *CONTRAST, *VARIANT, "auroc", "auroc_ci_low", "auroc_ci_high", "auroc_p"]
    columns += ["new_domain_auroc", "new_domain_reason", "stability", "stability_reason", "control"]
    card = variants[columns]
    for part in parts:
        if part.duplicated(VARIANT).any():
            raise UserError("A stage names a variant twice", where="scorecard")
        if len(part.merge(card[VARIANT], on=VARIANT)) < len(part):
            raise UserError("A stage names a variant that the run does not have", where="scorecard")
        card = card.merge(part, on=VARIANT, how="left", validate="one_to_one")
    return card


def few_groups(groups_P: ArrayLike) -> str:
    """Why no bootstrap over these groups is made; empty where one is."""
    n = len(np.unique(np.asarray(groups_P)))
    return "" if n >= MIN_GROUPS else f"{n} groups of pairs, fewer than {MIN_GROUPS}"


def _verdicts(found: list[tuple[Tested, int]], margin: float) -> pd.DataFrame:
    """Numbers, Holm's p over the tests made, and verdicts."""
    table = pd.DataFrame([test for test, _ in found], columns=["delta", "ci_low", "ci_high", "p"], dtype=float)
    return with_verdicts(table, margin).assign(n_cells=[n for _, n in found])
