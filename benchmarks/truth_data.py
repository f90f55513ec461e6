"""Data whose truth is known: responses without any effect of the condition, and features with a planted signal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

N_NULL, F_NULL = 40, 100
"""Stimuli and features of data without an effect."""
N_STIMULI, N_POSITIONS, N_FEATURES, N_PLANTED = 60, 16, 200, 4
"""Size of data with planted features."""
LABELS = np.tile(np.array([1, -1], dtype=np.int8), N_STIMULI // 2)
TARGET = LABELS > 0


@dataclass(frozen=True, eq=False)
class NullData:
    """Responses that the condition has no influence on."""

    Y_SF: Array
    labels_S: NDArray[np.int8]
    blocks: dict[str, NDArray[np.intp]]
    """Exchangeability blocks of every design that the stimuli have."""
    covariate_S: Array
    """Skewed, and correlated with the labels (r about .6)."""
    feature: int
    """One feature that varies, drawn before anything was tested."""


def _normal(rng: np.random.Generator) -> Array:
    return rng.normal(size=(N_NULL, F_NULL))


def _sparse(rng: np.random.Generator) -> Array:
    """Firing rates follow Zipf's law: the first two features always fire, the last for one stimulus in fifty."""
    rate_F = np.minimum(1, 2 / np.arange(1, F_NULL + 1))
    return rng.gamma(1.0, size=(N_NULL, F_NULL)) * (rng.random((N_NULL, F_NULL)) < rate_F)


def _heavy_tailed(rng: np.random.Generator) -> Array:
    """Student's t with three degrees of freedom, and log-normal, by turns."""
    Y_SF = rng.standard_t(3, size=(N_NULL, F_NULL))
    Y_SF[:, ::2] = rng.lognormal(size=(N_NULL, F_NULL // 2))
    return Y_SF


def _paired(rng: np.random.Generator) -> Array:
    """The two stimuli of a pair share an item effect with four times the variance of the rest."""
    return 2 * np.repeat(rng.normal(size=(N_NULL // 2, F_NULL)), 2, axis=0) + _normal(rng)


def _unequal_variances(rng: np.random.Generator) -> Array:
    """The ten targets spread three times as much as the thirty foils: means are equal, labels not exchangeable."""
    return _normal(rng) * np.where(np.arange(N_NULL) % 4 == 0, 3.0, 1.0)[:, None]


NULL_KINDS: dict[str, Callable[[np.random.Generator], Array]] = {
    "normal": _normal,
    "sparse": _sparse,
    "heavy-tailed": _heavy_tailed,
    "paired": _paired,
    "unequal groups": _normal,
    "unequal variances": _unequal_variances,
}
"""Noise by name. The labels are exchangeable in all but the last."""


def null_data(kind: str, rng: np.random.Generator) -> NullData:
    """Draw one data set of a kind.

    Ten families of four stimuli: two pairs each, or one target and three foils in the unequal kinds.
    """
    unequal = kind.startswith("unequal")
    labels_S = np.tile([1, -1, -1, -1] if unequal else [1, -1], N_NULL // (4 if unequal else 2)).astype(np.int8)
    family_S = np.repeat(np.arange(N_NULL // 4), 4)
    blocks = {"unpaired": np.zeros_like(family_S), "families": family_S, "interaction": family_S}
    if not unequal:
        blocks["pairs"] = np.repeat(np.arange(N_NULL // 2), 2)
    Y_SF = NULL_KINDS[kind](rng)
    covariate_S = rng.gamma(1.0, size=N_NULL) + labels_S
    return NullData(Y_SF, labels_S, blocks, covariate_S, int(rng.choice(np.flatnonzero(np.ptp(Y_SF, axis=0)))))


@dataclass(frozen=True, eq=False)
class Planted:
    """Responses over positions, of which a few features carry a signal."""

    P_SWF: Array
    features: NDArray[np.intp]
    """Features that carry the signal, [N_PLANTED]."""
    rating_S: Array
    """What the stimuli differ in: the label, or its graded form."""
    length_S: Array
    """Length of the text."""

    @property
    def X_SF(self) -> Array:
        """Pooled responses."""
        return self.P_SWF.mean(axis=1)


def _draw(rng: np.random.Generator, n: int = N_PLANTED) -> NDArray[np.intp]:
    return rng.choice(N_FEATURES, n, replace=False)


def _noise(rng: np.random.Generator) -> Array:
    """A level per stimulus (unit variance) and half as much from position to position."""
    shape = (N_STIMULI, N_POSITIONS, N_FEATURES)
    return rng.normal(size=(N_STIMULI, 1, N_FEATURES)) + rng.normal(size=shape) / 2


def _graded(rng: np.random.Generator) -> Planted:
    rating_S = LABELS * rng.uniform(0.2, 1, N_STIMULI)
    P_SWF, features = _noise(rng), _draw(rng)
    P_SWF[:, :, features] += rating_S[:, None, None] * np.linspace(0.6, 1.5, N_PLANTED)
    return Planted(P_SWF, features, rating_S, rng.normal(size=N_STIMULI))


def _variance(rng: np.random.Generator) -> Planted:
    P_SWF, features = _noise(rng), _draw(rng)
    P_SWF[np.ix_(TARGET, np.arange(N_POSITIONS), features)] *= 0.4
    return _labelled(P_SWF, features, rng)


def _profile(rng: np.random.Generator) -> Planted:
    P_SWF, features = _noise(rng), _draw(rng)
    course_W = 0.45 * np.sin(2 * np.pi * np.arange(N_POSITIONS) / N_POSITIONS)
    P_SWF[np.ix_(TARGET, np.arange(N_POSITIONS), features)] += course_W[:, None]
    return _labelled(P_SWF, features, rng)


def _rare_firing(rng: np.random.Generator) -> Planted:
    """Every feature fires on a single token, if at all."""
    rate_SF = np.broadcast_to(rng.uniform(0.05, 0.4, N_FEATURES), (N_STIMULI, N_FEATURES)).copy()
    features = _draw(rng)
    rate_SF[:, features] = np.where(TARGET, 0.4, 0.0)[:, None]
    level_SF = (1 + rng.exponential(size=rate_SF.shape)) * (rng.random(rate_SF.shape) < rate_SF)
    P_SWF = np.zeros((N_STIMULI, N_POSITIONS, N_FEATURES))
    moment_SF = rng.integers(0, N_POSITIONS, rate_SF.shape)
    np.put_along_axis(P_SWF, moment_SF[:, None], N_POSITIONS * level_SF[:, None], axis=1)
    return _labelled(P_SWF, features, rng)


def _distractors(rng: np.random.Generator) -> Planted:
    """Five noisy copies (r = .8) of every planted feature carry its signal second-hand."""
    P_SWF, drawn = _noise(rng), _draw(rng, 6 * N_PLANTED)
    features, copies = drawn[:N_PLANTED], drawn[N_PLANTED:]
    P_SWF[np.ix_(TARGET, np.arange(N_POSITIONS), features)] += 1.5
    P_SWF[:, :, copies] = 0.8 * np.repeat(P_SWF[:, :, features], 5, axis=2) + 0.6 * P_SWF[:, :, copies]
    return _labelled(P_SWF, features, rng)


def _length_confound(rng: np.random.Generator) -> Planted:
    """Targets are longer, and twenty features follow length, not the condition."""
    P_SWF, drawn = _noise(rng), _draw(rng, 20 + N_PLANTED)
    length_S = 0.8 * LABELS + rng.normal(size=N_STIMULI)
    P_SWF[np.ix_(TARGET, np.arange(N_POSITIONS), drawn[:N_PLANTED])] += 1.2
    P_SWF[:, :, drawn[N_PLANTED:]] += length_S[:, None, None]
    return Planted(P_SWF, drawn[:N_PLANTED], LABELS.astype(np.float64), length_S)


def _labelled(P_SWF: Array, features: NDArray[np.intp], rng: np.random.Generator) -> Planted:
    return Planted(P_SWF, features, LABELS.astype(np.float64), rng.normal(size=N_STIMULI))


SIGNALS: dict[str, Callable[[np.random.Generator], Planted]] = {
    "graded effect": _graded,
    "variance only": _variance,
    "profile only": _profile,
    "rare firing": _rare_firing,
    "correlated distractors": _distractors,
    "length confound": _length_confound,
}
"""Planted signals by name."""
