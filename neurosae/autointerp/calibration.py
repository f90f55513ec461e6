"""How far to trust a judge: its grades against the gold corpus, with intervals, against chance, and in one sentence.

The gold grades were themselves given by language models (two blind to each other, a third settling what they disagreed
on), not by people: agreement with them is agreement with a careful reader of the same written rule.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.autointerp.judges import GRADES, PRESENT, Grade, GradeRequest, Judge
from neurosae.discovery.gold import GoldCorpus, weighted_kappa
from neurosae.errors import UserError, unknown_name
from neurosae.inference import bootstrap_interval, permutation_p

Array = NDArray[np.float64]
FEWEST = 40
TRUST = (
    (0.8, "grades nearly as a second grader would: single grades can be trusted"),
    (0.6, "agrees well: trust means over texts, and single grades with care"),
    (0.4, "agrees moderately: trust means over many texts, not single grades"),
    (0.0, "agrees weakly: trust the order of clearly different sets of texts at most"),
)
"""Lower end of the interval of weighted kappa, and what it permits."""
DISTRUST = "is not shown to do better than chance: do not use its grades for this concept"
MANY_UNANSWERED = 0.1


@dataclass(frozen=True, eq=False)
class Calibration:
    """A judge against the gold grades of one concept.

    Attributes
    ----------
    judge, concept : str
    n : int
        Sentences it was asked about.
    unanswered : float
        Share of them without a grade; they are left out of the figures.
    figures : DataFrame
        Per figure (`kappa`: quadratic weights; `spearman`; `auc` of a gold grade of 2 or more, by the judge's
        probability where it gives one, else by its grade): `value`, `low`, `high` (95 %, bootstrap over sentences),
        `chance_low`, `chance_high` and `p` (gold grades shuffled), `reason` where there is no value or no interval.
    confusion : DataFrame of int, shape (4, 4)
        Gold grade by the judge's grade.
    reasons : dict of str to int
        Why sentences were not answered.
    verdict : str
        One sentence.
    """

    judge: str
    concept: str
    n: int
    unanswered: float
    figures: pd.DataFrame
    confusion: pd.DataFrame
    reasons: dict[str, int]
    verdict: str


def held_out(corpus: GoldCorpus) -> NDArray[np.bool_]:
    """Which sentences [S] judges are measured on; those that learn may learn from all others.

    Half of the corpus, by a hash of each text: independent of the order and of what else the corpus holds.
    """
    return np.array([hashlib.sha256(text.encode()).digest()[0] % 2 == 1 for text in corpus.table["text"]])


def gold_rule(corpus: GoldCorpus, concept: str) -> tuple[str, str]:
    """Definition and rule of a graded concept, as the graders had them.

    Examples
    --------
    >>> from neurosae.discovery import gold
    >>> definition, rule = gold_rule(gold.load(), "golden_gate")
    >>> definition.split(",")[0]
    'the Golden Gate Bridge at San Francisco'

    Raises
    ------
    UserError
        The rule has no paragraph on this concept.
    """
    found = re.search(rf"^\*\*{re.escape(concept)}\*\* - (.+)\n((?:.+\n?)+)", corpus.rule, re.MULTILINE)
    if found is None:
        raise unknown_name("graded concept", concept, re.findall(r"^\*\*(\w+)\*\*", corpus.rule, re.MULTILINE))
    return found[1].strip(), " ".join(found[2].split())


def requests(corpus: GoldCorpus, concept: str, rows: NDArray[np.bool_]) -> list[GradeRequest]:
    """What a judge is asked about some sentences of the gold corpus."""
    definition, rule = gold_rule(corpus, concept)
    return [GradeRequest(text, concept, definition, rule) for text in corpus.table.loc[rows, "text"]]


def calibrate(
    judge: Judge, corpus: GoldCorpus, concept: str, *, limit: int | None = None, n: int = 1000, seed: int = 0
) -> Calibration:
    """Let a judge grade the held-out half of the gold corpus and compare.

    Parameters
    ----------
    judge : Judge
    corpus : GoldCorpus
    concept : str
    limit : int, optional
        Ask about so many sentences at most, drawn at random.
    n : int, default 1000
        Resamples of sentences, and shufflings.
    seed : int, default 0

    Raises
    ------
    UserError
        An unknown concept; a limit below `FEWEST`; what stops the judge altogether.
    """
    gold_S, rows = corpus.grades(concept), chosen_rows(corpus, limit, seed)
    grades = judge.grade(requests(corpus, concept, rows))
    return compare(judge.name, concept, gold_S[rows], grades, n=n, seed=seed)


def chosen_rows(corpus: GoldCorpus, limit: int | None = None, seed: int = 0) -> NDArray[np.bool_]:
    """Held-out sentences [S], at most `limit` of them.

    Raises
    ------
    UserError
        Fewer than `FEWEST`.
    """
    rows = held_out(corpus)
    if limit is not None and limit < FEWEST:
        raise UserError(f"{limit} sentences are too few", where="limit", allowed=f"{FEWEST} or more")
    if limit is not None and limit < rows.sum():
        kept = np.random.default_rng(seed).choice(np.flatnonzero(rows), limit, replace=False)
        rows = np.isin(np.arange(len(rows)), kept)
    return rows


def compare(
    judge: str, concept: str, gold_S: NDArray[np.int64], grades: list[Grade], *, n: int = 1000, seed: int = 0
) -> Calibration:
    """Compare grades with gold grades [S] of the same sentences; see `calibrate`."""
    if len(grades) != len(gold_S):
        raise UserError(f"{len(grades)} grades for {len(gold_S)} sentences")
    answered_S = np.array([grade.answered for grade in grades], dtype=bool)
    reasons = pd.Series([grade.reason for grade in grades if not grade.answered], dtype=object).value_counts()
    given = [grade for grade in grades if grade.value is not None]
    truth_S, values_S = gold_S[answered_S], np.array([grade.value for grade in given], dtype=np.int64)
    scores_S = values_S.astype(float)
    if all(grade.probability is not None for grade in given):
        scores_S = np.array([grade.probability for grade in given], dtype=float)
    statistics: dict[str, tuple[Statistic, Array]] = {
        "kappa": (weighted_kappa, values_S.astype(float)),
        "spearman": (weighted_spearman, values_S.astype(float)),
        "auc": (_auc_present, scores_S),
    }
    rows = [
        {"figure": name, **_figure(statistic, truth_S.astype(float), judged_S, n, seed)}
        for name, (statistic, judged_S) in statistics.items()
    ]
    figures = pd.DataFrame(rows).set_index("figure")
    counts = np.zeros((len(GRADES), len(GRADES)), dtype=int)
    np.add.at(counts, (truth_S, values_S), 1)
    confusion = pd.DataFrame(counts, index=pd.Index(GRADES, name="gold"), columns=pd.Index(GRADES, name="judge"))
    unanswered = float(1 - answered_S.mean()) if len(answered_S) else 1.0
    said = verdict(judge, concept, figures, unanswered)
    return Calibration(
        judge, concept, len(gold_S), unanswered, figures, confusion, {str(k): int(v) for k, v in reasons.items()}, said
    )


Statistic = Callable[[Array, Array, Array], Array]


def _figure(statistic: Statistic, gold_S: Array, judged_S: Array, n: int, seed: int) -> dict[str, float | str]:
    """Value, interval and chance of one figure; a reason in place of what is undefined."""
    missing: dict[str, float | str] = dict.fromkeys(("value", "low", "high", "chance_low", "chance_high", "p"), np.nan)
    if len(gold_S) < FEWEST:
        return missing | {"reason": f"fewer than {FEWEST} answers"}
    observed = float(statistic(gold_S, judged_S, np.ones((1, len(gold_S))))[0])
    if not np.isfinite(observed):
        return missing | {"reason": "the judge or the gold standard gives one and the same grade throughout"}
    one = np.ones((1, len(gold_S)))
    null_B = np.array([statistic(_shuffled(gold_S, seed, draw), judged_S, one)[0] for draw in range(n)])
    low, high = np.quantile(null_B, (0.025, 0.975))
    figure: dict[str, float | str] = {"value": observed, "chance_low": float(low), "chance_high": float(high)}
    figure |= {"p": float(permutation_p(observed, null_B)), "reason": ""}
    try:
        interval = bootstrap_interval(
            lambda weights_BS: statistic(gold_S, judged_S, weights_BS), np.arange(len(gold_S)), n=n, seed=seed
        )
    except UserError as error:
        return missing | figure | {"reason": f"no interval: {error.what}"}
    return missing | figure | {"low": float(interval.low), "high": float(interval.high)}


def _shuffled(gold_S: Array, seed: int, draw: int) -> Array:
    return np.random.default_rng(np.random.SeedSequence([seed, draw])).permutation(gold_S)


def weighted_spearman(first_S: Array, second_S: Array, weights_BS: Array) -> Array:
    """Spearman correlation for many resamples: Pearson correlation of midranks within each.

    Parameters
    ----------
    first_S, second_S : arrays [S]
    weights_BS : array [B, S]
        How often every sentence occurs.

    Returns
    -------
    array [B]
        NaN where either is constant.

    Examples
    --------
    >>> weighted_spearman(np.array([0.0, 1, 3]), np.array([2.0, 4, 9]), np.ones((1, 3))).round(6).tolist()
    [1.0]
    """
    share_BS = weights_BS / weights_BS.sum(axis=1, keepdims=True)
    x_BS, y_BS = _midranks(first_S, share_BS), _midranks(second_S, share_BS)
    x_BS = x_BS - (share_BS * x_BS).sum(axis=1, keepdims=True)
    y_BS = y_BS - (share_BS * y_BS).sum(axis=1, keepdims=True)
    xy_B, xx_B, yy_B = ((share_BS * a * b).sum(axis=1) for a, b in ((x_BS, y_BS), (x_BS, x_BS), (y_BS, y_BS)))
    defined_B = (xx_B > 1e-12) & (yy_B > 1e-12)
    return np.where(defined_B, xy_B / np.sqrt(np.where(defined_B, xx_B * yy_B, 1)), np.nan)


def _midranks(values_S: Array, share_BS: Array) -> Array:
    """Share of the sample below each value, ties counted half [B, S]."""
    _, level_S = np.unique(values_S, return_inverse=True)
    share_BU = share_BS @ (level_S[:, None] == np.arange(level_S.max() + 1))
    return (np.cumsum(share_BU, axis=1) - share_BU / 2)[:, level_S]


def weighted_auc(positive_S: NDArray[np.bool_], scores_S: Array, weights_BS: Array) -> Array:
    """Area under the ROC curve for many resamples, ties counted half.

    Parameters
    ----------
    positive_S : array of bool [S]
    scores_S : array [S]
    weights_BS : array [B, S]

    Returns
    -------
    array [B]
        NaN where either class is missing.

    Examples
    --------
    >>> weighted_auc(np.array([False, True, True]), np.array([0.1, 0.5, 0.1]), np.ones((1, 3))).tolist()
    [0.75]
    """
    _, level_S = np.unique(scores_S, return_inverse=True)
    order_S = np.argsort(level_S, kind="stable")
    starts_U = np.searchsorted(level_S[order_S], np.arange(level_S.max() + 1))
    positive_BU, negative_BU = (
        np.add.reduceat((weights_BS * use_S)[:, order_S], starts_U, axis=1) for use_S in (positive_S, ~positive_S)
    )
    below_BU = np.cumsum(negative_BU, axis=1) - negative_BU / 2
    pairs_B = positive_BU.sum(axis=1) * negative_BU.sum(axis=1)
    wins_B = (positive_BU * below_BU).sum(axis=1)
    return np.where(pairs_B > 0, wins_B / np.where(pairs_B > 0, pairs_B, 1), np.nan)


def _auc_present(gold_S: Array, scores_S: Array, weights_BS: Array) -> Array:
    return weighted_auc(gold_S >= PRESENT, scores_S, weights_BS)


def verdict(judge: str, concept: str, figures: pd.DataFrame, unanswered: float) -> str:
    """How far to trust a judge, in one sentence: by the lower end of the interval of kappa, see `TRUST`."""
    row = figures.loc[["kappa"], ["value", "low", "high", "p"]].to_numpy(dtype=float)[0]
    kappa, low, high, p = (float(value) for value in row)
    above_chance = p < 0.05 and low > 0
    said = next(text for least, text in TRUST if low >= least) if above_chance else DISTRUST
    numbers = f"kappa {kappa:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(low) else str(figures.loc["kappa", "reason"])
    warning = f"; {unanswered:.0%} unanswered, which may bias every figure" if unanswered > MANY_UNANSWERED else ""
    return f"For '{concept}', {judge} {said} ({numbers}){warning}."
