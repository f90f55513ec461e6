"""Maps of stimuli and of decoder directions, and how separate conditions are where it counts: in the original space.

A UMAP picture shows neighbourhoods, not distances, and finds clusters in noise too; every statement about separation is
made from the distances the picture was drawn from.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.metrics import balanced_accuracy_score, silhouette_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from neurosae.errors import UserError

_FOLDS = 5
PREFERRING = 30
"""Latents per condition that stand out in a map of decoder directions."""


@dataclass(frozen=True)
class Separation:
    """How separate the conditions of some points are.

    Attributes
    ----------
    silhouette : float
        Mean over points of (b - a) / max(a, b), with a the mean distance to the own condition and b to the nearest
        other one (Rousseeuw 1987); 0: no separation, 1: perfect.
    knn_accuracy : float
        Balanced accuracy of the majority of the nearest points outside a point's own fold; groups stay in one fold.
    chance : float
        One over the number of conditions.
    between_within : float
        Mean distance between points of different conditions over that between points of one condition; 1: none.
    n : int
        Points.
    valid : bool
        All are 0, and `between_within` 1, where they mean nothing.
    reason : str
    """

    silhouette: float
    knn_accuracy: float
    chance: float
    between_within: float
    n: int
    valid: bool = True
    reason: str = ""


def cosine_distances(X_NF: Any, *, centred: bool = True) -> np.ndarray:
    """One minus the cosine similarity of rows, after subtracting the mean row; from the N x N products alone.

    Parameters
    ----------
    X_NF : array or scipy sparse array [N, F]
        Sparse input is not made dense: memory grows with N^2, whatever F is.
    centred : bool, default True
        Activations share a large common component that would hide every difference.

    Returns
    -------
    ndarray of shape (N, N), float64
        0 on the diagonal, at most 2; 1 to a row without length.

    Examples
    --------
    >>> cosine_distances(np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]), centred=False)
    array([[0., 0., 1.],
           [0., 0., 1.],
           [1., 1., 0.]])
    """
    rows = sp.csr_array(X_NF).astype(np.float64) if sp.issparse(X_NF) else np.asarray(X_NF, dtype=np.float64)
    product: Any = rows @ rows.T
    gram_NN = product.toarray() if sp.issparse(product) else product
    scale = np.trace(gram_NN)
    if centred:
        mean_N = gram_NN.mean(1)
        gram_NN += mean_N.mean() - mean_N[:, None] - mean_N[None, :]
    square_N = np.diag(gram_NN)
    has_length = square_N > 1e-12 * scale
    length_N = np.sqrt(np.where(has_length, square_N, np.inf))
    distance_NN = 1 - np.clip(gram_NN / length_N[:, None] / length_N[None, :], -1, 1)
    np.fill_diagonal(distance_NN, 0)
    return distance_NN


def separation(
    distance_NN: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray | None = None, *, neighbours: int = 5
) -> Separation:
    """Measure how separate conditions are, from distances.

    Parameters
    ----------
    distance_NN : ndarray of shape (N, N)
    labels_N : array of N labels
    groups_N : array of N, optional
        What must not be each other's neighbours, such as the stimuli of a pair (`StimulusSet.groups`); without it every
        point is a group of its own.
    neighbours : int, default 5
        How many vote.
    """
    labels_N = np.asarray(labels_N)
    groups_N = np.arange(len(labels_N)) if groups_N is None else np.asarray(groups_N)
    counts = np.unique(labels_N, return_counts=True)[1]
    n_groups = len(np.unique(groups_N))
    chance = 1 / max(1, len(counts))
    reason = ""
    if len(counts) < 2 or counts.min() < 2:
        reason = "fewer than two conditions of two points"
    elif n_groups < 2 * _FOLDS:
        reason = f"fewer than {2 * _FOLDS} groups"
    if reason:
        return Separation(0.0, 0.0, chance, 1.0, len(labels_N), False, reason)
    voter = KNeighborsClassifier(neighbours, metric="precomputed")
    predicted = cross_val_predict(voter, distance_NN, labels_N, groups=groups_N, cv=GroupKFold(_FOLDS))
    same = labels_N[:, None] == labels_N[None, :]
    within = distance_NN[same & ~np.eye(len(same), dtype=bool)].mean()
    return Separation(
        silhouette=float(silhouette_score(distance_NN, labels_N, metric="precomputed")),
        knn_accuracy=float(balanced_accuracy_score(labels_N, predicted)),
        chance=chance,
        between_within=float(distance_NN[~same].mean() / within) if within > 0 else 1.0,
        n=len(labels_N),
    )


def require_umap() -> Any:
    """The UMAP class, or a message on how to get it: commands ask before they compute anything."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise UserError(
            "Maps need umap-learn", where="umap", suggestion='Run:\npip install -c constraints.txt -e ".[maps]"'
        ) from error
    return UMAP


def umap_positions(distance_NN: np.ndarray, *, neighbours: int = 15, seed: int = 0) -> np.ndarray:
    """Lay points out in the plane (McInnes et al. 2018); the same seed gives the same picture.

    Parameters
    ----------
    distance_NN : ndarray of shape (N, N)
    neighbours : int, default 15
        Size of the neighbourhoods that are kept; at most N - 1.
    seed : int, default 0

    Returns
    -------
    ndarray of shape (N, 2)

    Raises
    ------
    UserError
        umap-learn is not installed; fewer than 10 points.
    """
    UMAP = require_umap()
    if len(distance_NN) < 10:
        raise UserError(f"A map of {len(distance_NN)} points", where="umap", allowed="10 points or more")
    layout = UMAP(metric="precomputed", n_neighbors=min(neighbours, len(distance_NN) - 1), random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="using precomputed metric")
        return np.asarray(layout.fit_transform(distance_NN))


def shown_latents(table: pd.DataFrame, n_latents: int, most: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latents of a map of decoder directions: the best of each condition, and others drawn at random.

    Parameters
    ----------
    table : DataFrame
        From `neurosae.dictionary.specificity.specificity`.
    n_latents, most : int
        Of the SAE, and of the map.
    seed : int, default 0

    Returns
    -------
    latents : ndarray of shape (N,), int
    preferred : ndarray of shape (N,), object
        The condition that a latent is among the `PREFERRING` best of; empty for the others.
    """
    best = table[table["valid"]].sort_values("auroc", ascending=False, kind="stable").drop_duplicates("latent")
    best = best.groupby("condition", observed=True, sort=False).head(PREFERRING)
    others = np.setdiff1d(np.arange(n_latents), best["latent"])
    n_others = min(len(others), max(0, most - len(best)))
    drawn = np.random.default_rng(seed).choice(others, n_others, replace=False)
    preferred = [*best["condition"].astype(str), *[""] * n_others]
    return np.concatenate([best["latent"].to_numpy(), drawn]), np.array(preferred, dtype=object)
