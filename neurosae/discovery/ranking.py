"""How well does a ranking of texts retrieve a concept? Average precision and nDCG against grades, chance and rivals.

Relevant to average precision is a grade of 2 or 3; the gains of nDCG are the grades themselves. Texts with equal scores
count as ranked in random order among themselves for nDCG, and as found together for average precision, as in
scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from neurosae.errors import UserError
from neurosae.inference.bootstrap import bootstrap_interval

Array = NDArray[np.float64]
Metric = Callable[[Array, Array, Array], Array]

RELEVANT = 2
"""Lowest grade that counts as an instance in average precision."""
CUTS = (10, 50)


def average_precision(scores_S: ArrayLike, grades_S: ArrayLike, weights_BS: ArrayLike | None = None) -> Array:
    """Average precision of ranked texts, for one or many resamples of them.

    Parameters
    ----------
    scores_S : array [S]
        The largest is ranked first.
    grades_S : array [S]
        0 to 3; relevant from `RELEVANT`.
    weights_BS : array [B, S], optional
        How often every text occurs in every resample; once by default.

    Returns
    -------
    array [B]
        NaN where no relevant text occurs; [1] without weights.

    Examples
    --------
    >>> average_precision([3.0, 2.0, 1.0], [3, 0, 2]).round(3).tolist()
    [0.833]
    """
    scores_S, grades_S, weights_BS = _checked(scores_S, grades_S, weights_BS)
    order, last_G = _ranked(scores_S)
    seen_BG = np.cumsum(weights_BS[:, order], axis=1)[:, last_G]
    found_BG = np.cumsum(weights_BS[:, order] * (grades_S[order] >= RELEVANT), axis=1)[:, last_G]
    gained_BG = np.diff(found_BG, axis=1, prepend=0)
    total_B = found_BG[:, -1]
    precision_BG = found_BG / np.where(seen_BG > 0, seen_BG, 1)
    sums_B = (gained_BG * precision_BG).sum(axis=1)
    return np.where(total_B > 0, sums_B / np.where(total_B > 0, total_B, 1), np.nan)


def ndcg(
    scores_S: ArrayLike, grades_S: ArrayLike, weights_BS: ArrayLike | None = None, *, k: int | None = None
) -> Array:
    """Normalised discounted cumulative gain of the first k texts (of all by default), gains = grades.

    Other parameters and the result are those of `average_precision`; NaN where every grade is 0.

    References
    ----------
    Jaervelin & Kekaelaeinen (2002), ACM Transactions on Information Systems 20; McSherry & Najork (2008) for ties.

    Examples
    --------
    >>> ndcg([3.0, 2.0, 1.0], [3, 0, 2], k=1).tolist()
    [1.0]
    """
    if k is not None and k < 1:
        raise UserError(f"k is {k}", where="ndcg", allowed="integers from 1")
    scores_S, grades_S, weights_BS = _checked(scores_S, grades_S, weights_BS)
    ideal_B = _gain(grades_S, grades_S, weights_BS, k)
    return np.where(ideal_B > 0, _gain(scores_S, grades_S, weights_BS, k) / np.where(ideal_B > 0, ideal_B, 1), np.nan)


def chance_average_precision(grades_S: ArrayLike) -> float:
    """Exact expectation of the average precision over all orders of the texts; NaN without a relevant one.

    Examples
    --------
    >>> chance_average_precision([3, 0])
    0.75
    """
    relevant_S = np.asarray(grades_S) >= RELEVANT
    n, n_relevant = len(relevant_S), int(relevant_S.sum())
    if n_relevant == 0:
        return float("nan")
    # P(text at rank r is relevant | one at rank q is) = (R - 1) / (N - 1); summed over ranks with precision 1 / r each.
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (harmonic + (n_relevant - 1) / max(1, n - 1) * (n - harmonic)) / n


def chance_ndcg(grades_S: ArrayLike, k: int | None = None) -> float:
    """Exact expectation of `ndcg` over all orders of the texts; NaN where every grade is 0.

    Examples
    --------
    >>> chance_ndcg([3, 3, 3])
    1.0
    """
    grades_S = np.asarray(grades_S, dtype=np.float64)
    return float(ndcg(np.zeros(len(grades_S)), grades_S, k=k)[0])


@dataclass(frozen=True, eq=False)
class Retrieval:
    """One ranking, or the difference of two, against grades.

    Attributes
    ----------
    table : DataFrame
        One row per metric: `metric`, `value`, `low`, `high` (bootstrap interval over texts), `chance` (0 for a
        difference), `n` texts, `n_relevant`.
    draws : DataFrame
        One row per resample, one column per metric. Rankings of the same texts with the same seed share resamples.
    """

    table: pd.DataFrame
    draws: pd.DataFrame


def retrieval(
    scores_S: ArrayLike,
    grades_S: ArrayLike,
    *,
    cuts: Sequence[int] = CUTS,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    method: str = "bca",
) -> Retrieval:
    """Average precision and nDCG of a ranking, with bootstrap intervals over texts and exact chance.

    Parameters
    ----------
    scores_S : array [S]
        The largest is ranked first.
    grades_S : array [S]
        0 to 3.
    cuts : sequence of int, default (10, 50)
        nDCG of the first k texts; nDCG of all is always given.
    n, seed, level, method
        As in `neurosae.inference.bootstrap_interval`: 2000 resamples, draw `b` depends on the seed and `b` only.

    Raises
    ------
    UserError
        Scores that are not finite, shapes that do not match, grades outside 0 to 3, no relevant text, fewer than
        eight texts.

    Examples
    --------
    >>> found = retrieval(np.arange(40.0), np.arange(40) // 10, n=200)
    >>> found.table["metric"].iloc[0], float(found.table["value"].iloc[0])
    ('average_precision', 1.0)
    """
    grades_S = _graded(grades_S)
    return _intervals([scores_S], grades_S, cuts, n=n, seed=seed, level=level, method=method)


def compare(
    scores_S: ArrayLike,
    others_S: ArrayLike,
    grades_S: ArrayLike,
    *,
    cuts: Sequence[int] = CUTS,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    method: str = "bca",
) -> Retrieval:
    """How much better does one ranking retrieve than another? Paired: both are ranked in the same resamples of texts.

    Parameters and errors are those of `retrieval`; `value`, `low` and `high` are of the difference, first minus second.

    Examples
    --------
    >>> grades_S = np.arange(40) // 10
    >>> compare(np.arange(40), -np.arange(40), grades_S, n=200).table["low"].min() > 0
    np.True_
    """
    grades_S = _graded(grades_S)
    return _intervals([scores_S, others_S], grades_S, cuts, n=n, seed=seed, level=level, method=method)


def _intervals(
    rankings: Sequence[ArrayLike],
    grades_S: Array,
    cuts: Sequence[int],
    *,
    n: int,
    seed: int,
    level: float,
    method: str,
) -> Retrieval:
    """Metrics of the first ranking, minus those of the second where there is one."""
    metrics: dict[str, Metric] = {"average_precision": average_precision}
    metrics |= {f"ndcg@{k}": partial(ndcg, k=k) for k in cuts} | {"ndcg": ndcg}
    checked = [_checked(scores_S, grades_S, None)[0] for scores_S in rankings]

    def statistic(weights_BS: Array) -> Array:
        values_RBM = [
            np.stack([metric(scores_S, grades_S, weights_BS) for metric in metrics.values()], axis=1)
            for scores_S in checked
        ]
        return values_RBM[0] if len(checked) == 1 else values_RBM[0] - values_RBM[1]

    interval = bootstrap_interval(
        statistic, np.arange(len(grades_S)), n=n, seed=seed, level=level, method=method, block_size=128
    )
    chance = [chance_average_precision(grades_S), *(chance_ndcg(grades_S, k) for k in (*cuts, None))]
    table = pd.DataFrame(
        {
            "metric": list(metrics),
            "value": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "chance": chance if len(checked) == 1 else 0.0,
            "n": len(grades_S),
            "n_relevant": int((grades_S >= RELEVANT).sum()),
        }
    )
    return Retrieval(table, pd.DataFrame(interval.draws_B, columns=list(metrics)))


def _gain(scores_S: Array, grades_S: Array, weights_BS: Array, k: int | None) -> Array:
    """Discounted gain: a text that occurs c times takes c ranks, and texts with equal scores share theirs."""
    order, last_G = _ranked(scores_S)
    seen_BG = np.cumsum(weights_BS[:, order], axis=1)[:, last_G].astype(np.intp)
    gain_BG = np.diff(np.cumsum(weights_BS[:, order] * grades_S[order], axis=1)[:, last_G], axis=1, prepend=0)
    longest = int(seen_BG[:, -1].max())
    discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, longest + 2)))])  # of the first r ranks
    if k is not None:
        discount = discount[np.minimum(np.arange(longest + 1), k)]
    discount_BG = np.diff(discount[seen_BG], axis=1, prepend=0)
    size_BG = np.diff(seen_BG, axis=1, prepend=0)
    return (gain_BG / np.maximum(size_BG, 1) * discount_BG).sum(axis=1)


def _ranked(scores_S: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Texts from the largest score down, and where each group of equal scores ends."""
    order = np.argsort(-scores_S, kind="stable")
    return order, np.flatnonzero(np.append(np.diff(scores_S[order]) != 0, True))


def _checked(scores_S: ArrayLike, grades_S: ArrayLike, weights_BS: ArrayLike | None) -> tuple[Array, Array, Array]:
    scores_S, grades_S = np.asarray(scores_S, dtype=np.float64), np.asarray(grades_S, dtype=np.float64)
    if scores_S.ndim != 1 or scores_S.shape != grades_S.shape or not len(scores_S):
        raise UserError(f"Scores of shape {scores_S.shape} for grades of shape {grades_S.shape}", where="ranking")
    if not np.isfinite(scores_S).all():
        raise UserError(f"Text {int(np.argmin(np.isfinite(scores_S)))} has no finite score", where="ranking")
    weights_BS = np.ones((1, len(scores_S))) if weights_BS is None else np.asarray(weights_BS, dtype=np.float64)
    return scores_S, grades_S, weights_BS


def _graded(grades_S: ArrayLike) -> Array:
    grades_S = np.asarray(grades_S, dtype=np.float64)
    if not np.isin(grades_S, (0, 1, 2, 3)).all():
        raise UserError("Grades must be 0, 1, 2 or 3", where="grades")
    if not (grades_S >= RELEVANT).any():
        raise UserError(
            f"No text has a grade of {RELEVANT} or more: there is nothing to retrieve",
            where="grades",
            suggestion="Use a corpus in which the concept occurs",
        )
    return grades_S
