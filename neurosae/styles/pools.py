"""What is pooled: the tokens of the question that all styles share, and the whole prompt, apart.

Over the whole prompt a style has latents of its own for the trivial reason that it has words of its own. Over the
shared question every style has the same tokens at the end of the same kind of prompt; what differs there is context.
The template's own tokens (system message, turn marks) are in neither pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from neurosae.capture import capture
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.responses import Responses
from neurosae.sae.encoding import encode
from neurosae.sae.loading import site_of
from neurosae.sites import Site
from neurosae.styles.crossing import Crossing

POOLS = {"question": "the question that all styles share", "prompt": "the whole prompt, with the words of the style"}
"""What each pool holds."""
MEASURES = {
    "active": "active latents per token",
    "strongest": "activation of a token's strongest latent",
    "strength": "mean activation of a token's active latents",
    "tokens": "tokens",
}
"""Measures of a prompt: the first three are means over the tokens of the pool, so that length alone moves none."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Prompts x features over the tokens of one pool.

    Attributes
    ----------
    name : str
        One of `POOLS`.
    crossing : Crossing
    maximum_SF : csr_array of shape (S, F)
        Largest activation of each latent: it *fires* in a prompt where this is above 0.
    mean_SF : csr_array of shape (S, F)
    neurons_SD : ndarray of shape (S, D)
        Mean over tokens.
    measures_S : DataFrame of S rows
        See `MEASURES`.
    """

    name: str
    crossing: Crossing
    maximum_SF: sp.csr_array
    mean_SF: sp.csr_array
    neurons_SD: np.ndarray
    measures_S: pd.DataFrame


def read_pools(
    language_model: LanguageModel,
    sae: Any,
    crossing: Crossing,
    chat: bool | dict[str, Any],
    *,
    block: int | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, Pool]:
    """Read every prompt once and pool latents and neurons.

    Parameters
    ----------
    language_model : LanguageModel
    sae : sae_lens.SAE
    crossing : Crossing
    chat : bool or dict
        `StimulusSet.chat`.
    block : int, optional
        Where the neurons come from; the SAE's own site by default.
    batch_size : int, default 32
        Bounds memory.
    progress : bool, default False

    Raises
    ------
    UserError
        What `capture` refuses; a prompt without a clean token that all styles share.
    """
    site = site_of(sae)
    of_neurons = site if block is None else Site(block)
    read = capture(
        language_model, crossing.table, [site, of_neurons], chat=chat, batch_size=batch_size, progress=progress
    )
    return make_pools(encode(sae, read[site], "latents"), read[of_neurons], crossing)


def make_pools(latents: Responses, neurons: Responses, crossing: Crossing) -> dict[str, Pool]:
    """Pool responses to the prompts of a crossing, in the order of its table; see `read_pools`."""
    clean_T = latents.tokens["clean"].to_numpy(dtype=bool)
    use = {"question": shared_tokens(latents.tokens, crossing.topic_S), "prompt": clean_T}
    return {name: _pool(name, latents, neurons, crossing, use[name]) for name in POOLS}


def shared_tokens(tokens: pd.DataFrame, topic_S: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which tokens [T] lie in the part that all prompts of a topic share, and are clean in all of them.

    It is the longest run of token ids in which the target spans of all prompts of a topic end: where the text before
    the span changes how its first characters are cut into tokens, those are left out everywhere.

    Parameters
    ----------
    tokens : DataFrame of T rows
        `stimulus`, `token_id`, `target`, `clean`.
    topic_S : array of S int

    Examples
    --------
    >>> tokens = pd.DataFrame(
    ...     {"stimulus": [0, 0, 0, 1, 1], "token_id": [7, 1, 2, 9, 2], "target": [False, True, True, True, True]}
    ... )
    >>> shared_tokens(tokens.assign(clean=True), np.array([0, 0])).tolist()
    [False, False, True, False, True]
    """
    owner_T, id_T = tokens["stimulus"].to_numpy(), tokens["token_id"].to_numpy()
    target_T, clean_T = (tokens[name].to_numpy(dtype=bool) for name in ("target", "clean"))
    rows_S = [np.flatnonzero(target_T & (owner_T == s)) for s in range(len(topic_S))]
    shared_T = np.zeros(len(tokens), dtype=bool)
    for topic in np.unique(topic_S):
        rows = [rows_S[s] for s in np.flatnonzero(topic_S == topic)]
        shortest = min(map(len, rows))
        ends_NL = np.array([row[len(row) - shortest :] for row in rows])
        same_L = (id_T[ends_NL] == id_T[ends_NL[0]]).all(axis=0)
        in_run_L = np.logical_and.accumulate(same_L[::-1])[::-1]
        shared_T[ends_NL[:, in_run_L & clean_T[ends_NL].all(axis=0)]] = True
    return shared_T


def token_measures(values: sp.csr_array, rows: NDArray[np.intp], owner: NDArray[np.intp], n: int) -> pd.DataFrame:
    """`MEASURES` of n prompts from their tokens.

    Parameters
    ----------
    values : csr_array of shape (T, F)
        Latents, not negative.
    rows : array of int
        Tokens of the pool.
    owner : array of int
        Prompt of each of these rows.
    n : int
    """
    chosen = sp.csr_array(values[rows])
    chosen.eliminate_zeros()
    active = np.diff(chosen.indptr)
    total = np.asarray(chosen.sum(axis=1)).ravel()
    strongest = np.asarray(chosen.max(axis=1).todense()).ravel()
    per_token = {"active": active, "strongest": strongest, "strength": total / np.maximum(active, 1)}
    count = np.bincount(owner, minlength=n)
    means = {name: np.bincount(owner, value, n) / count for name, value in per_token.items()}
    return pd.DataFrame({**means, "tokens": count.astype(float)})


def _pool(name: str, latents: Responses, neurons: Responses, crossing: Crossing, use_T: NDArray[np.bool_]) -> Pool:
    rows, n = np.flatnonzero(use_T), len(crossing.table)
    owner = latents.tokens["stimulus"].to_numpy()[rows]
    missing = np.setdiff1d(np.arange(n), owner)
    if len(missing):
        raise UserError(
            f"The prompt {crossing.table['id'].iloc[missing[0]]!r} has no clean token in the pool '{name}'",
            suggestion="Leave the topic out",
        )
    latents, neurons = (replace(each, tokens=each.tokens.assign(clean=use_T)) for each in (latents, neurons))
    return Pool(
        name,
        crossing,
        sp.csr_array(latents.pool("max").values_SF),
        sp.csr_array(latents.pool("mean").values_SF),
        neurons.pool("mean").dense(),
        token_measures(sp.csr_array(latents.values), rows, owner, n),
    )


def per_topic(pool: Pool, names: Sequence[str] = tuple(MEASURES)) -> dict[str, NDArray[np.float64]]:
    """Each measure by style and topic [C, I], the mean over wordings: topics are what was sampled."""
    return {name: pool.measures_S[name].to_numpy().reshape(pool.crossing.shape).mean(axis=1) for name in names}


def per_wording(pool: Pool, names: Sequence[str] = tuple(MEASURES)) -> dict[str, NDArray[np.float64]]:
    """Each measure by style and wording [C, V], the mean over topics: does a difference hold in every wording?"""
    return {name: pool.measures_S[name].to_numpy().reshape(pool.crossing.shape).mean(axis=2) for name in names}
