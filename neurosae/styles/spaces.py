"""How separate are styles among neurons and among latents? Measured in the original space, for new topics and wordings.

What a topic does to a prompt dwarfs what a style does: each prompt counts as its difference from the mean of its topic,
which every style enters equally. Neighbours are then looked for outside the prompt's own topic (known wording, new
topic) and outside its own wording (new wording). Only the latter says something about styles.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from neurosae.dictionary.maps import Separation, cosine_distances, separation
from neurosae.inference import permutation_p
from neurosae.styles.crossing import Crossing
from neurosae.styles.pools import Pool

SPACES = ("neurons", "latents")
NEIGHBOURS = 5  # who vote, as in `neurosae.dictionary.maps.separation`


def within_topics(X_SF: np.ndarray | sp.csr_array, crossing: Crossing) -> NDArray[np.float64]:
    """Each prompt less the mean of its topic over styles and wordings [S, F]; columns of zeros are left out."""
    X_SF = sp.csc_array(X_SF)
    values = X_SF[:, np.flatnonzero(np.diff(X_SF.indptr))].toarray().astype(np.float64)
    by_topic = values.reshape(-1, len(crossing.topics), values.shape[1])
    return (by_topic - by_topic.mean(axis=0)).reshape(values.shape)


def style_distances(pool: Pool) -> dict[str, NDArray[np.float64]]:
    """Cosine distances between prompts within topics [S, S], by space."""
    spaces = dict(zip(SPACES, (pool.neurons_SD, pool.mean_SF), strict=True))
    return {name: cosine_distances(within_topics(values, pool.crossing)) for name, values in spaces.items()}


def style_separation(
    distances: Mapping[str, NDArray[np.float64]], crossing: Crossing, *, n: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Measure how separate styles are in each space.

    Parameters
    ----------
    distances : mapping of str to array [S, S]
        From `style_distances`.
    crossing : Crossing
    n, seed : int, default 1000 and 0
        Shufflings of wordings over styles.

    Returns
    -------
    DataFrame, two rows per space
        `space`, `new` (what neighbours do not share with a prompt: topic or wording), the fields of
        `neurosae.dictionary.maps.Separation`, and `p` of so high a `knn_accuracy` in new wordings if wordings knew
        nothing of styles (1 for new topics, where neighbours share the words, and where nothing was measured).
    """
    labels_S = np.array(crossing.styles, dtype=object)[crossing.style_S]
    groups = {"topic": crossing.topic_S, "wording": crossing.wording_S}
    rows = []
    for (space, distance_SS), (new, groups_S) in itertools.product(distances.items(), groups.items()):
        measured = separation(distance_SS, labels_S, groups_S)
        tested = new == "wording" and measured.valid
        p = p_of_wordings(distance_SS, crossing, n=n, seed=seed) if tested else 1.0
        rows.append({"space": space, "new": new, **asdict(measured), "p": p})
    return pd.DataFrame(rows)


def p_of_wordings(distance_SS: NDArray[np.float64], crossing: Crossing, *, n: int = 1000, seed: int = 0) -> float:
    """p of the neighbours' accuracy in new wordings, all wordings shuffled over the styles.

    A style is then any V wordings. Neighbours stay: only their names change.
    """
    n_styles, n_wordings, _ = crossing.shape
    wording_S = crossing.wording_S
    apart_SS = np.where(wording_S[:, None] == wording_S, np.inf, distance_SS)
    near_SN = wording_S[np.argsort(apart_SS, axis=1, kind="stable")[:, :NEIGHBOURS]]
    styles_W = np.repeat(np.arange(n_styles), n_wordings)
    shuffled_BW = [np.random.default_rng([seed, draw]).permutation(styles_W) for draw in range(n)]
    observed, *null = (_accuracy(near_SN, wording_S, of_W, n_styles) for of_W in [styles_W, *shuffled_BW])
    return float(permutation_p(observed, null))


def _accuracy(
    near_SN: NDArray[np.intp], wording_S: NDArray[np.intp], style_W: NDArray[np.intp], n_styles: int
) -> float:
    """Share of prompts whose style is that of most of their neighbours; the first of equally frequent ones."""
    votes_SC = (style_W[near_SN][:, :, None] == np.arange(n_styles)).sum(axis=1)
    return float((votes_SC.argmax(axis=1) == style_W[wording_S]).mean())


def of_row(row: pd.Series) -> Separation:
    """The measured separation in a row of `style_separation`."""
    return Separation(**{name: row[name] for name in Separation.__dataclass_fields__})
