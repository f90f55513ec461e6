"""Where in the language model is the geometry that a model predicts: every block x position; and RDMs among RDMs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neurosae.errors import UserError
from neurosae.rdms.comparators import MIN_PAIRS, Vectors, as_vectors, check_comparator, correlate
from neurosae.rdms.distances import position_distances
from neurosae.responses import Alignment, Responses
from neurosae.rsa.results import Reason

MIN_STIMULI = 20
"""Stimuli a cell of a block x position map needs."""


@dataclass(frozen=True, eq=False)
class Searchlight:
    """Scores of K models at L blocks and W aligned positions; never NaN, 0 where not valid."""

    value_KLW: np.ndarray
    reason_KLW: np.ndarray
    """int8 codes of `neurosae.rsa.Reason`."""
    n_LW: np.ndarray
    """Stimuli with a clean token and a defined pattern there."""
    models: tuple[str, ...]
    blocks: tuple[Any, ...]
    positions: np.ndarray
    """[W] tokens from the reference of the alignment: 0 is the first token ("left"), the middle one, the first of the
    target span, or the last ("end")."""
    align: str
    distance: str
    comparator: str

    @property
    def valid_KLW(self) -> np.ndarray:
        """Boolean, True where `value_KLW` means something."""
        return self.reason_KLW == Reason.OK

    @property
    def table(self) -> pd.DataFrame:
        """One row per model, block and position: `score`, `n`, `valid`, `reason`."""
        k, block, w = np.indices(self.value_KLW.shape).reshape(3, -1)
        return pd.DataFrame(
            {
                "model": np.array(self.models)[k],
                "block": [self.blocks[row] for row in block],
                "position": self.positions[w],
                "score": self.value_KLW.ravel(),
                "n": self.n_LW[block, w],
                "valid": self.valid_KLW.ravel(),
                "reason": [Reason(code).name.lower() for code in self.reason_KLW.ravel()],
            }
        )


def searchlight(
    responses: Mapping[Any, Responses],
    models: Any,
    *,
    distance: str = "correlation",
    comparator: str = "spearman",
    align: Alignment = "end",
    width: int = 16,
    features: Any = None,
    min_stimuli: int = MIN_STIMULI,
    block_size: int = 4096,
) -> Searchlight:
    """Compare models with the RDM of the tokens at every block and aligned position.

    With one block it is RSA token by token. The tokens at a position are of different stimuli from cell to cell, as
    texts differ in length: look at `n_LW`. Positions only mean the same thing in every stimulus when aligned to the
    target span or the end.

    Parameters
    ----------
    responses : mapping of block to Responses
        Of the same stimuli.
    models : ModelRDM, sequence of these, rsatoolbox.rdm.RDMs, or array [S, S] or [K, S, S]
    distance, comparator
        As in `pairwise_distances` and `correlate`.
    align, width, features, block_size
        As in `position_rdms`.
    min_stimuli : int, default 20
        Cells with fewer stimuli are not valid.

    Returns
    -------
    Searchlight

    Raises
    ------
    UserError
        Responses of different stimuli (by their ids), no responses, malformed models.

    References
    ----------
    Kriegeskorte, Goebel & Bandettini (2006), PNAS 103.

    Examples
    --------
    >>> from neurosae.rsa.models import rating_model
    >>> tokens = pd.DataFrame({"stimulus": np.repeat(np.arange(30), 2), "role": "text", "target": False, "clean": True})
    >>> rating_S, values_TF = np.arange(30.0), np.zeros((60, 2))
    >>> values_TF[1::2, 0] = rating_S  # the last token of every stimulus
    >>> heard = Responses(values_TF, tokens, pd.DataFrame({"id": np.arange(30)}), "blocks.3.hook_resid_post")
    >>> found = searchlight({3: heard}, rating_model(rating_S, "valence"), distance="squared_euclidean", width=2)
    >>> found.table[["position", "score", "n", "reason"]].round(6).to_numpy().tolist()
    [[-1, 0.0, 30, 'constant'], [0, 1.0, 30, 'ok']]
    """
    check_comparator(comparator)
    hypotheses = as_vectors(models, "model")
    _check_stimuli(responses, hypotheses)
    i_P, j_P = np.triu_indices(hypotheses.n_stimuli, k=1)
    value_LWK, n_LW = np.empty((len(responses), width, len(hypotheses.names))), np.empty((len(responses), width), int)
    n_pairs_LWK = np.empty(value_LWK.shape)
    for row, heard in enumerate(responses.values()):
        cells = position_distances(heard, distance, align, width, features, block_size)
        for w, (D_SS, defined_S) in enumerate(cells):
            n_LW[row, w] = defined_S.sum()
            x_1P = _over_pairs(D_SS, defined_S, i_P, j_P)
            value_LWK[row, w] = correlate(x_1P, hypotheses.x_LP, comparator)[0]
            n_pairs_LWK[row, w] = (~np.isnan(x_1P) & ~np.isnan(hypotheses.x_LP)).sum(axis=1)
    value_KLW, n_pairs_KLW = np.moveaxis(value_LWK, -1, 0), np.moveaxis(n_pairs_LWK, -1, 0)
    few_KLW = np.broadcast_to(n_LW < min_stimuli, value_KLW.shape)
    reason_KLW = np.select(
        [few_KLW, n_pairs_KLW < MIN_PAIRS, np.isnan(value_KLW)],
        [Reason.TOO_FEW_STIMULI, Reason.TOO_FEW_PAIRS, Reason.CONSTANT],
        Reason.OK,
    ).astype(np.int8)
    reference = {"left": 0, "centre": width // 2, "target": width // 4, "end": width - 1}[align]
    return Searchlight(
        np.where(reason_KLW == Reason.OK, value_KLW, 0.0),
        reason_KLW,
        n_LW,
        hypotheses.names,
        tuple(responses),
        np.arange(width) - reference,
        align,
        distance,
        comparator,
    )


def second_order(rdms: Any, others: Any = None, *, comparator: str = "spearman") -> pd.DataFrame:
    """Compare RDMs with each other: which blocks, or which language models, share a geometry.

    Parameters
    ----------
    rdms : rsatoolbox.rdm.RDMs, sequence of ModelRDM, or array [L, S, S]
    others : the same kinds, optional
        Columns of the matrix, such as the blocks of another language model. Default: `rdms`.
    comparator : str, default "spearman"
        As in `correlate`.

    Returns
    -------
    DataFrame [L, M]
        Index and columns are the names of the RDMs.

    Raises
    ------
    UserError
        An RDM that does not vary, or RDMs of different stimuli.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), Frontiers in Systems Neuroscience 2:4.

    Examples
    --------
    >>> from neurosae.rdms.distances import make_rdms
    >>> X_SF = np.random.default_rng(0).normal(size=(10, 5))
    >>> second_order(make_rdms({"block 1": X_SF, "block 2": 2 * X_SF})).round(6).to_numpy().tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    rows = as_vectors(rdms)
    columns = rows if others is None else as_vectors(others)
    if rows.n_stimuli != columns.n_stimuli or (rows.ids and columns.ids and rows.ids != columns.ids):
        raise UserError("the RDMs are of different stimuli, or in another order")
    value_LM = correlate(rows.x_LP, columns.x_LP, comparator)
    if np.isnan(value_LM).any():
        row, column = np.argwhere(np.isnan(value_LM))[0]
        raise UserError(
            "no correlation: fewer than three common pairs, or an RDM that does not vary on them",
            where=f"{rows.names[row]} and {columns.names[column]}",
        )
    return pd.DataFrame(value_LM, index=list(rows.names), columns=list(columns.names))


def _check_stimuli(responses: Mapping[Any, Responses], hypotheses: Vectors) -> None:
    """Refuse responses to other stimuli than those of the models, or than those of the first block."""
    if not responses:
        raise UserError("no responses to search", where="responses")
    ids = hypotheses.ids
    for block, heard in responses.items():
        if len(heard.stimuli) != hypotheses.n_stimuli:
            raise UserError(
                f"{len(heard.stimuli)} stimuli, but the models are of {hypotheses.n_stimuli}", where=f"block {block}"
            )
        own = tuple(heard.stimuli["id"]) if "id" in heard.stimuli else None
        if ids is not None and own is not None and own != ids:
            raise UserError("responses are of different stimuli, or in another order", where=f"block {block}")
        ids = own if ids is None else ids


def _over_pairs(D_SS: np.ndarray, defined_S: np.ndarray, i_P: np.ndarray, j_P: np.ndarray) -> np.ndarray:
    """One RDM as a vector [1, P], NaN where a stimulus is not defined."""
    return np.where(defined_S[i_P] & defined_S[j_P], D_SS[i_P, j_P], np.nan)[None]
