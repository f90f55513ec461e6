"""Label vectors, the three comparisons of pairs they define, and the correlation that sums up a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from neurosae.errors import UserError, unknown_name

KINDS = ("discriminative", "categorical", "category")
"""Which pairs should be similar and which not, in this order; the remaining pairs are masked out.

discriminative: within target | across conditions. categorical: within target | within foil.
category: within either | across.
"""

Summable = TypeVar("Summable", "PairSums", np.ndarray)


class Comparison(NamedTuple):
    """What is compared, and what a feature needs; the names are those of `neurosae.rsa.score_profiles`."""

    target_A: np.ndarray
    """Stimuli of the target condition, at least as many as `kind` needs."""
    foil_B: np.ndarray
    """Stimuli of the foil condition."""
    kind: str
    form: str
    measure: str
    min_stimuli: int
    min_pairs: int


@dataclass(frozen=True)
class PairSums:
    """Sums over a set of stimulus pairs, for each label vector and feature (arrays that broadcast to [B, F])."""

    count: np.ndarray
    """Number of pairs."""
    total: np.ndarray
    """Sum of the similarities."""
    squares: np.ndarray
    """Sum of the squared similarities."""
    scale: np.ndarray
    """Sum of the magnitudes that `squares` was computed from: what its rounding error is relative to."""

    def __add__(self, other: PairSums) -> PairSums:
        """Return the sums over the union of two disjoint sets."""
        return PairSums(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            self.scale + other.scale,
        )


def label_codes(labels: Any, n_stimuli: int) -> np.ndarray:
    """Return label vectors as int8 codes [B, S]: +1 target, -1 foil, 0 left out.

    Parameters
    ----------
    labels : array [S] or [B, S]
        Booleans (True = target), or the codes themselves.
    n_stimuli : int
        S.

    Raises
    ------
    UserError
        Another length, other codes, or zeros without a single -1 (0 means *left out*, not *foil*).

    Examples
    --------
    >>> label_codes([True, False, True], 3)
    array([[ 1, -1,  1]], dtype=int8)
    """
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or labels.shape[-1] != n_stimuli:
        raise UserError(
            f"labels have shape {labels.shape} for {n_stimuli} stimuli", allowed=f"[{n_stimuli}] or [B, {n_stimuli}]"
        )
    if labels.dtype == bool:
        labels = np.where(labels, 1, -1)
    elif not np.isin(labels, (-1, 0, 1)).all() or ((labels == 0).any() and not (labels == -1).any()):
        raise UserError(
            f"labels hold {np.unique(labels).tolist()}",
            allowed="booleans, or +1 target, -1 foil, 0 left out",
            suggestion="Write `labels == target_level`",
        )
    return np.atleast_2d(labels).astype(np.int8)


def indicators(codes_BS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 0/1 membership of target and foil, each float64 [B, S]."""
    return (codes_BS == 1).astype(np.float64), (codes_BS == -1).astype(np.float64)


def compared(kind: str, within_target: Summable, within_foil: Summable, across: Summable) -> tuple[Summable, Summable]:
    """Return the two sides of a comparison: (pairs that should be similar, pairs that should not)."""
    if kind == "discriminative":
        return within_target, across
    if kind == "categorical":
        return within_target, within_foil
    if kind == "category":
        return within_target + within_foil, across
    raise unknown_name("kind of RSA score", kind, KINDS)


def enough_stimuli(kind: str, target_BS: np.ndarray, foil_BS: np.ndarray) -> np.ndarray:
    """Return [B]: has every condition the stimuli that `kind` needs, 2 where pairs within it are used, else 1?"""
    n_foil_needed = 1 if kind == "discriminative" else 2
    return (target_BS.sum(axis=1) >= 2) & (foil_BS.sum(axis=1) >= n_foil_needed)


def numbers_of_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs within target, within foil and across for `a` and `b` stimuli."""
    return a * (a - 1) / 2, b * (b - 1) / 2, a * b


def too_few(a_f: np.ndarray, b_f: np.ndarray, comparison: Comparison) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Given targets and foils whose profile varies: too few stimuli, too few pairs, number of compared pairs; [f]."""
    stimuli = compared(comparison.kind, a_f * (a_f > 1), b_f * (b_f > 1), (a_f + b_f) * ((a_f > 0) & (b_f > 0)))
    n_similar_f, n_dissimilar_f = compared(comparison.kind, *numbers_of_pairs(a_f, b_f))
    few_stimuli_f = np.minimum(*stimuli) < comparison.min_stimuli
    return few_stimuli_f, np.minimum(n_similar_f, n_dissimilar_f) < comparison.min_pairs, n_similar_f + n_dissimilar_f


def point_biserial(similar: PairSums, dissimilar: PairSums) -> tuple[np.ndarray, np.ndarray]:
    """Correlate the similarities with membership in the first set.

    Returns
    -------
    r, spread : arrays [B, F]
        The correlation, 0 where it is undefined; and the variance of the similarities relative to the magnitudes it
        was computed from: 0 for constant similarities, and the smaller the less exact `r`.
    """
    both = similar + dissimilar
    n = np.maximum(both.count, 1)
    variance = np.maximum(both.squares / n - (both.total / n) ** 2, 0)
    mean_difference = similar.total / np.maximum(similar.count, 1) - dissimilar.total / np.maximum(dissimilar.count, 1)
    balance = np.sqrt(similar.count * dissimilar.count) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(variance > 0, mean_difference * balance / np.sqrt(variance), 0.0)
        spread = np.where(both.scale > 0, variance * n / both.scale, 0.0)
    return np.clip(r, -1, 1), spread
