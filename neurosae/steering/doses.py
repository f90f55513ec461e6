"""Doses: how features behave on stimuli, quantiles of their non-zero activation, and other features that are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurosae.errors import UserError
from neurosae.responses import Responses

_ALIKE = 50  # features with the nearest firing rates, among which a control is drawn


@dataclass(frozen=True, eq=False)
class Observed:
    """How some features behave over the clean tokens of stimuli: what doses are taken from.

    Attributes
    ----------
    features_K : int64 ndarray of shape (K,)
    active : tuple of K float64 ndarrays
        The non-zero activations of each feature, sorted.
    mean_K, share_K : float64 ndarrays of shape (K,)
        Mean over all clean tokens; share of clean tokens at which the feature is not zero.
    latents : bool
        Latents rest at zero, neurons at their mean.
    """

    features_K: NDArray[np.int64]
    active: tuple[NDArray[np.float64], ...]
    mean_K: NDArray[np.float64]
    share_K: NDArray[np.float64]
    latents: bool

    def quantile(self, q: float) -> NDArray[np.float64]:
        """Quantile of the non-zero activations of every feature, linear between observations.

        Raises
        ------
        UserError
            A quantile outside 0 to 1, or a feature that is silent on these stimuli.
        """
        if not 0 <= q <= 1:
            raise UserError(
                f"The dose {q:g} lies outside the observed activations",
                where="dose",
                allowed=f"quantiles from 0 to 1, which stand for activations of {self.spans()}",
            )
        for feature, values in zip(self.features_K, self.active, strict=True):
            if not len(values):
                raise UserError(f"Feature {feature} is silent on these stimuli, so that no dose can be taken from them")
        return np.array([np.quantile(values, q) for values in self.active])

    def check(self, values_K: ArrayLike) -> NDArray[np.float64]:
        """Values to clamp to, one per feature (or one for all), none outside what was observed; 0 is, for latents.

        Raises
        ------
        UserError
            A value outside, with the range.
        """
        values_K = np.broadcast_to(np.asarray(values_K, dtype=np.float64), self.features_K.shape)
        for feature, value, (low, high) in zip(self.features_K, values_K, self._ranges(), strict=True):
            if not low <= value <= high:
                raise UserError(
                    f"The dose {value:g} of feature {feature} lies outside the observed activations",
                    where="dose",
                    allowed=f"{low:.4g} to {high:.4g}",
                )
        return values_K

    def spans(self) -> str:
        """The range of every feature, in words."""
        parts = zip(self.features_K, self._ranges(), strict=True)
        return ", ".join(f"{low:.4g} to {high:.4g} (feature {feature})" for feature, (low, high) in parts)

    def _ranges(self) -> list[tuple[float, float]]:
        rest = [0.0] if self.latents else []
        return [(min([*rest, *v[:1]], default=0.0), max([*rest, *v[-1:]], default=0.0)) for v in self.active]


def observe(responses: Responses, features: ArrayLike, stimuli: ArrayLike | None = None) -> Observed:
    """Look up how features behave on stimuli.

    Parameters
    ----------
    responses : Responses
        Neurons or latents of the site that will be steered.
    features : sequence of int
        Without repetition.
    stimuli : array of int or bool, optional
        Rows of the stimulus table, such as the training half; all by default.

    Raises
    ------
    UserError
        Features that do not exist or occur twice, no clean token, activations that are not finite.

    Examples
    --------
    >>> import pandas as pd
    >>> tokens = pd.DataFrame({"stimulus": [0, 0, 0], "clean": True})
    >>> values_TF = np.array([[0.0], [2.0], [4.0]])
    >>> responses = Responses(values_TF, tokens, pd.DataFrame(index=[0]), "blocks.0.hook_resid_post")
    >>> observe(responses, [0]).quantile(0.5).tolist()
    [3.0]
    """
    features_K = as_features(features, responses.n_features)
    chosen_S = np.zeros(len(responses.stimuli), dtype=bool)
    chosen_S[slice(None) if stimuli is None else np.asarray(stimuli)] = True
    use_T = responses.tokens["clean"].to_numpy(dtype=bool) & chosen_S[responses.tokens["stimulus"].to_numpy()]
    rows = np.flatnonzero(use_T)
    if not len(rows):
        raise UserError("These stimuli have no clean token to take doses from")
    values = responses.values[rows][:, features_K]
    values_TK = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float64)
    if not np.isfinite(values_TK).all():
        bad = features_K[~np.isfinite(values_TK).all(axis=0)][0]
        raise UserError(f"Feature {bad} has activations that are not finite")
    active = tuple(np.sort(column[column != 0]) for column in values_TK.T)
    latents = responses.source.get("features") == "latents"
    return Observed(features_K, active, values_TK.mean(axis=0), (values_TK != 0).mean(axis=0), latents)


def alike(share_F: ArrayLike, features: ArrayLike, draw: int, seed: int = 0) -> NDArray[np.int64]:
    """A control: for every feature another one that fires about as often, drawn among the 50 nearest.

    Parameters
    ----------
    share_F : array [F]
        Share of clean tokens at which each feature is not zero, on the training stimuli.
    features : sequence of int
        The K features to imitate; none of them is drawn, and none is drawn twice.
    draw, seed : int
        Draw `b` depends on the seed and `b` only.

    Returns
    -------
    int64 ndarray of shape (K,)

    Raises
    ------
    UserError
        Fewer other features than asked for that ever fire.

    Examples
    --------
    >>> alike([0.1, 0.1, 0.5, 0.0], [0], draw=0).tolist() in ([1], [2])
    True
    """
    share_F = np.asarray(share_F, dtype=np.float64)
    features_K = as_features(features, len(share_F))
    free_F = share_F > 0
    free_F[features_K] = False
    if free_F.sum() < len(features_K):
        raise UserError(f"Only {free_F.sum()} other features fire, too few to imitate {len(features_K)}")
    generator = np.random.default_rng([seed, draw])
    chosen = []
    for feature in features_K:
        candidates = generator.permutation(np.flatnonzero(free_F))  # so that ties are broken at random
        nearest = candidates[np.argsort(np.abs(share_F[candidates] - share_F[feature]), kind="stable")][:_ALIKE]
        chosen.append(int(generator.choice(nearest)))
        free_F[chosen[-1]] = False
    return np.array(chosen, dtype=np.int64)


def as_features(features: ArrayLike, n_features: int | None) -> NDArray[np.int64]:
    """Feature numbers as an array, or a `UserError` where they do not exist or occur twice."""
    found = np.atleast_1d(np.asarray(features))
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
        raise UserError("Features are a list of whole numbers, at least one", where="features")
    features_K = found.astype(np.int64)
    bad = (features_K < 0) | (features_K >= (n_features or np.inf))
    if bad.any():
        allowed = f"0 to {n_features - 1}" if n_features else "numbers from 0"
        raise UserError(f"There is no feature {features_K[bad][0]}", where="features", allowed=allowed)
    if len(np.unique(features_K)) < len(features_K):
        raise UserError("A feature occurs twice", where="features")
    return features_K
