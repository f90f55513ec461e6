"""A score of an ensemble or explanation: two sets of texts compared, with interval, chance and random features.

The interval is a bootstrap over texts; chance is the same statistic with the set labels shuffled over the same texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurosae.errors import UserError
from neurosae.inference import arrangements, bootstrap_interval, permutation_p, smallest_p
from neurosae.inference.bootstrap import MIN_GROUPS

Array = NDArray[np.float64]
Statistic = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Score:
    """A score of one ensemble or explanation, beside what chance would give.

    Attributes
    ----------
    name : str
    value, low, high : float
        The score and its 95 % bootstrap interval over texts.
    chance, chance_low, chance_high : float
        Mean and middle 95 % of the score when set labels are shuffled over the same texts.
    p : float
        Share of shuffled labellings, the true one included, that score at least as high (one-sided).
    smallest_p : float
        Smallest p that so many labellings can give.
    n_first, n_second : int
        Texts with a value in the set expected to score high and in the other.
    n_unanswered : int
        Texts of the two sets that have none; they are left out.
    reason : str
        Why there is no score: then every number but the counts is NaN. Empty otherwise.
    """

    name: str
    value: float
    low: float
    high: float
    chance: float
    chance_low: float
    chance_high: float
    p: float
    smallest_p: float
    n_first: int
    n_second: int
    n_unanswered: int
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """All fields, in order."""
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """How intervals and chance are computed.

    Attributes
    ----------
    n_bootstrap, n_permutations : int, default 2000 and 999
    seed : int, default 0
        Also of the order in which a judge reads.

    Raises
    ------
    UserError
        No bootstrap draw or permutation, or a negative seed.
    """

    n_bootstrap: int = 2000
    n_permutations: int = 999
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_bootstrap, self.n_permutations) < 1 or self.seed < 0:
            raise UserError(
                f"{self.n_bootstrap} bootstrap draws, {self.n_permutations} permutations, seed {self.seed}",
                allowed="numbers from 1, a seed from 0",
            )


def compare_sets(
    name: str, first: ArrayLike, second: ArrayLike, make: Callable[[Array], Statistic], settings: Settings
) -> Score:
    """Compare two sets of texts by a statistic.

    Parameters
    ----------
    name : str
    first, second : arrays
        Value of every text in the set expected to be higher and in the other; NaN where there is none, which is
        counted.
    make : callable
        `mean_difference`, `balanced_accuracy` or `auroc`.
    settings : Settings

    Returns
    -------
    Score
        Without numbers, and with the reason, where a set has fewer than eight values.

    Examples
    --------
    >>> score = compare_sets("auroc", np.arange(10.0) + 8, np.arange(10.0), auroc, Settings())
    >>> score.value, score.p, score.smallest_p
    (0.98, 0.001, 0.001)
    """
    values = [np.asarray(part, dtype=np.float64) for part in (first, second)]
    answered = [part[np.isfinite(part)] for part in values]
    n_first, n_second = map(len, answered)
    n_unanswered = sum(map(len, values)) - n_first - n_second
    if min(n_first, n_second) < MIN_GROUPS:
        reason = f"fewer than {MIN_GROUPS} texts with a value in one set"
        return _nothing(name, n_first, n_second, n_unanswered, reason)
    labels_S = np.repeat([1, -1], [n_first, n_second])
    is_first_S = (labels_S > 0).astype(np.float64)
    statistic: Statistic = make(np.concatenate(answered))

    def of_weights(w_BS: Array) -> Array:
        return statistic(w_BS * is_first_S, w_BS * (1 - is_first_S))

    draws_BS = arrangements(labels_S, labels_S, settings.n_permutations, settings.seed, "unpaired") > 0
    null_B = statistic(draws_BS.astype(np.float64), (~draws_BS).astype(np.float64))
    value = float(of_weights(np.ones((1, len(labels_S))))[0])
    chance = (null_B.mean(), *np.quantile(null_B, [0.025, 0.975]), permutation_p(value, null_B))
    numbers = [value, *interval(of_weights, len(labels_S), settings), *chance, smallest_p(len(null_B))]
    return _score(name, numbers, n_first, n_second, n_unanswered)


def _score(
    name: str, numbers: Sequence[float], n_first: int, n_second: int, n_unanswered: int, reason: str = ""
) -> Score:
    value, low, high, chance, chance_low, chance_high, p, smallest = map(float, numbers)
    return Score(
        name, value, low, high, chance, chance_low, chance_high, p, smallest, n_first, n_second, n_unanswered, reason
    )


def _nothing(name: str, n_first: int, n_second: int, n_unanswered: int, reason: str) -> Score:
    return _score(name, [np.nan] * 8, n_first, n_second, n_unanswered, reason)


def interval(statistic: Callable[[Array], Array], n: int, settings: Settings) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic of weights [B, S] over n texts."""
    found = bootstrap_interval(statistic, np.arange(n), n=settings.n_bootstrap, seed=settings.seed)
    return float(found.low), float(found.high)


def mean(value_S: Array) -> Callable[[Array], Array]:
    """Weighted mean of one set."""
    return lambda w_BS: w_BS @ value_S / w_BS.sum(axis=1)


def mean_difference(value_S: Array) -> Statistic:
    """Mean of the first set minus mean of the second."""

    def statistic(first_BS: Array, second_BS: Array) -> Array:
        with np.errstate(invalid="ignore"):  # a resample without one of the sets has no value
            return first_BS @ value_S / first_BS.sum(axis=1) - second_BS @ value_S / second_BS.sum(axis=1)

    return statistic


def balanced_accuracy(value_S: Array) -> Statistic:
    """Mean of the share of 1 in the first set and of the share of 0 in the second."""
    difference = mean_difference(value_S)
    return lambda first_BS, second_BS: (1 + difference(first_BS, second_BS)) / 2


def auroc(value_S: Array) -> Statistic:
    """Share of pairs in which the text of the first set has the larger value; ties count half."""
    wins_SS = (np.sign(value_S[:, None] - value_S) + 1) / 2

    def statistic(first_BS: Array, second_BS: Array) -> Array:
        with np.errstate(invalid="ignore"):
            pairs_B = first_BS.sum(axis=1) * second_BS.sum(axis=1)
            return ((first_BS @ wins_SS) * second_BS).sum(axis=1) / pairs_B

    return statistic


def against_random(value: float, random_values: ArrayLike, name: str = "score") -> Score:
    """Compare a score with the same score of ensembles of random features.

    Parameters
    ----------
    value : float
    random_values : array [R]
        One per ensemble of random features, each explained and scored in the same way. NaN where it has none: it is
        counted as unanswered and left out.
    name : str

    Returns
    -------
    Score
        `value` is the difference from the mean of the random ensembles; its interval is that of a new random ensemble,
        value minus the middle 95 % of the R values. `chance_low` and `chance_high` are the same range around 0; `p` is
        the rank, at least 1/(R + 1).

    Examples
    --------
    >>> score = against_random(2.0, [0.5, 0.25, 0.0, 0.25])
    >>> score.value, score.p
    (1.75, 0.2)
    """
    values_R = np.asarray(random_values, dtype=np.float64)
    used_R = values_R[np.isfinite(values_R)]
    n_missing = len(values_R) - len(used_R)
    if not len(used_R) or not np.isfinite(value):
        reason = "no score to compare" if len(used_R) else "no ensemble of random features has a score"
        return _nothing(name, int(np.isfinite(value)), len(used_R), n_missing, reason)
    middle, (low, high) = used_R.mean(), np.quantile(used_R, [0.025, 0.975])
    numbers = [value - middle, value - high, value - low, 0.0, low - middle, high - middle]
    numbers += [float(permutation_p(value, used_R)), smallest_p(len(used_R))]
    return _score(name, numbers, 1, len(used_R), n_missing)
