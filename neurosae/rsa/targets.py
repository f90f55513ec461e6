"""Model RDMs made ready for comparison: unit vectors over the pairs they compare, nuisance models projected out.

Every comparator but Kendall's is a cosine after a projection. With Q an orthonormal basis of what is removed (nothing
for the cosine, the constant for a correlation, the constant and the nuisance models for a partial correlation) and e a
unit vector, the model after that projection, the score of pairwise dissimilarities d is

    d'e / sqrt(d'd - sum_q (d'q)^2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurosae.errors import UserError
from neurosae.rsa.ranks import average_ranks

LEFT_OVER = 1e-7  # share of a model's length below which the nuisance models explain it but for rounding


@dataclass(frozen=True, eq=False)
class Targets:
    """Models that compare the same pairs of stimuli."""

    rows_K: np.ndarray
    """Which of the models these are."""
    pairs: tuple[np.ndarray, np.ndarray]
    """Stimuli i < j of every compared pair, each [P]."""
    models_KP: np.ndarray
    """The models as they are (ranks for a rank comparator)."""
    unit_KP: np.ndarray
    """The models after projection, of length 1."""
    basis_QP: np.ndarray
    """Orthonormal basis of what is projected out; first the constant, unless the comparator is the cosine."""
    n_stimuli: int

    def table(self, vector_KP: np.ndarray) -> np.ndarray:
        """Vectors over the pairs as symmetric tables [K, S, S], zero elsewhere."""
        i_P, j_P = self.pairs
        table_KSS = np.zeros((len(vector_KP), self.n_stimuli, self.n_stimuli))
        table_KSS[:, i_P, j_P] = table_KSS[:, j_P, i_P] = vector_KP
        return table_KSS

    def used(self) -> np.ndarray:
        """Boolean [S]: stimuli in at least one compared pair."""
        used_S = np.zeros(self.n_stimuli, dtype=bool)
        used_S[np.concatenate(self.pairs)] = True
        return used_S


def make_targets(model_RDM: Any, nuisance: Any, n_stimuli: int, *, ranked: bool, centred: bool) -> list[Targets]:
    """Check models and nuisance models, and group the models by the pairs they compare.

    Parameters
    ----------
    model_RDM : array [S, S] or [M, S, S]
        Symmetric dissimilarities; NaN masks a pair; the diagonal is ignored.
    nuisance : array [S, S] or [N, S, S], or None
        A pair that any of them masks is compared by no model.
    n_stimuli : int
        S.
    ranked, centred : bool
        Replace dissimilarities by their ranks over the compared pairs; project out the constant.

    Raises
    ------
    UserError
        A table that is not symmetric [S, S], infinite values, fewer than three compared pairs, a model that predicts
        the same for each of them, or that the nuisance models explain.
    """
    i_P, j_P = np.triu_indices(n_stimuli, k=1)
    models_MP = check_tables(model_RDM, n_stimuli, "model RDM")[:, i_P, j_P]
    nuisance_NP = np.empty((0, len(i_P)))
    if nuisance is not None:
        nuisance_NP = check_tables(nuisance, n_stimuli, "nuisance RDM")[:, i_P, j_P]
    masks_MP = ~np.isnan(models_MP) & ~np.isnan(nuisance_NP).any(axis=0)
    rows_by_mask: dict[bytes, list[int]] = {}
    for m, mask_P in enumerate(masks_MP):
        rows_by_mask.setdefault(mask_P.tobytes(), []).append(m)
    targets = []
    for rows in rows_by_mask.values():
        rows_K, mask_P = np.array(rows), masks_MP[rows[0]]
        vectors = models_MP[np.ix_(rows_K, mask_P)], nuisance_NP[:, mask_P]
        models_KP, controls_NP = (average_ranks(v) if ranked else v for v in vectors)
        basis_QP = _basis(controls_NP, centred)
        unit_KP = np.stack([_unit(model_P, basis_QP, m) for model_P, m in zip(models_KP, rows_K, strict=True)])
        targets.append(Targets(rows_K, (i_P[mask_P], j_P[mask_P]), models_KP, unit_KP, basis_QP, n_stimuli))
    return targets


def check_tables(tables: Any, n_stimuli: int, what: str) -> np.ndarray:
    """Return RDMs as float64 [M, S, S], or say what is wrong with them and where.

    Raises
    ------
    UserError
        Another shape, infinite values, or a table that is not symmetric (to 1e-8 of its largest value).
    """
    tables_MSS = np.asarray(tables, dtype=np.float64)
    if tables_MSS.ndim == 2:
        tables_MSS = tables_MSS[None]
    if tables_MSS.ndim != 3 or tables_MSS.shape[1:] != (n_stimuli, n_stimuli) or not len(tables_MSS):
        raise UserError(
            f"the {what} has shape {np.shape(tables)} for {n_stimuli} stimuli",
            allowed=f"[{n_stimuli}, {n_stimuli}], or several of them in one array",
        )
    tables_MSS = np.where(np.eye(n_stimuli, dtype=bool), 0.0, tables_MSS)
    if np.isinf(tables_MSS).any():
        m, i, j = np.argwhere(np.isinf(tables_MSS))[0]
        raise UserError(f"the {what} is infinite", where=f"model {m}, row {i}, column {j}", allowed="numbers, or NaN")
    mirrored_MSS = tables_MSS.swapaxes(1, 2)
    largest = np.max(np.abs(tables_MSS), where=~np.isnan(tables_MSS), initial=0)
    bad_MSS = np.isnan(tables_MSS) != np.isnan(mirrored_MSS)
    bad_MSS |= np.abs(tables_MSS - mirrored_MSS) > 1e-8 * largest
    if bad_MSS.any():
        m, i, j = np.argwhere(bad_MSS)[0]
        raise UserError(
            f"the {what} is not symmetric: {tables_MSS[m, i, j]:g} and {tables_MSS[m, j, i]:g}",
            where=f"model {m}, row {i}, column {j}",
            suggestion="Average the table with its transpose if both halves were measured",
        )
    return (tables_MSS + mirrored_MSS) / 2


def _basis(controls_NP: np.ndarray, centred: bool) -> np.ndarray:
    """Orthonormal basis of the constant and the nuisance models; collinear ones add nothing."""
    n_pairs = controls_NP.shape[1]
    if not centred or n_pairs == 0:
        return np.empty((0, n_pairs))
    constant_1P = np.full((1, n_pairs), n_pairs**-0.5)
    length_N1 = np.linalg.norm(controls_NP, axis=1, keepdims=True)
    centred_NP = (controls_NP - controls_NP.mean(axis=1, keepdims=True)) / np.where(length_N1 > 0, length_N1, 1)
    _, size_Q, basis_QP = np.linalg.svd(centred_NP, full_matrices=False)
    return np.concatenate([constant_1P, basis_QP[size_Q > LEFT_OVER]])


def _unit(model_P: np.ndarray, basis_QP: np.ndarray, m: int) -> np.ndarray:
    """Project the basis out of a model and scale what is left to length 1."""
    if len(model_P) < 3:
        raise UserError(f"the model RDM compares {len(model_P)} pairs", where=f"model {m}", allowed="at least 3")
    length = np.linalg.norm(model_P)
    if length == 0 or (len(basis_QP) and np.ptp(model_P) == 0):
        raise UserError(
            "the model RDM predicts the same dissimilarity for every pair",
            where=f"model {m}",
            suggestion="Nothing can fit it",
        )
    rest_P = model_P
    for _ in range(2):  # twice is enough (Parlett): the second pass removes the rounding of the first
        rest_P = rest_P - (rest_P @ basis_QP.T) @ basis_QP
    if np.linalg.norm(rest_P) < LEFT_OVER * length:
        raise UserError(
            "the nuisance models explain the model RDM fully",
            where=f"model {m}",
            suggestion="Leave out the nuisance model that repeats it",
        )
    return rest_P / np.linalg.norm(rest_P)
