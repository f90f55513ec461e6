"""Which words set two groups of texts apart: weighted log-odds with an informative prior; no language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from sklearn.feature_extraction.text import CountVectorizer

from neurosae.autointerp.examples import words
from neurosae.errors import UserError
from neurosae.inference import arrangements, permutation_p

Array = NDArray[np.float64]


def log_odds_z(counts_BW: ArrayLike, other_BW: ArrayLike, prior_W: ArrayLike) -> tuple[Array, Array]:
    """Log-odds ratio of every word between two groups of texts and its z-score (Monroe, Colaresi & Quinn 2008).

    With counts y and y' in n and n' words and a prior of a_w occurrences (a_0 in all),
    delta_w = log((y_w + a_w)/(n + a_0 - y_w - a_w)) - log((y'_w + a_w)/(n' + a_0 - y'_w - a_w)), and its variance is
    about 1/(y_w + a_w) + 1/(y'_w + a_w).

    Parameters
    ----------
    counts_BW, other_BW : arrays [B, W]
        How often each word occurs in either group, one row per division into groups.
    prior_W : array [W]
        Pseudo-occurrences of every word, above 0.

    Returns
    -------
    delta_BW, z_BW : arrays [B, W]
        Larger: more frequent in the first group.

    References
    ----------
    Monroe, Colaresi & Quinn (2008), Fightin' words, Political Analysis 16.

    Examples
    --------
    >>> delta, z = log_odds_z([[4, 4]], [[4, 4]], [1.0, 1.0])
    >>> z.tolist()
    [[0.0, 0.0]]
    """
    prior_W = np.asarray(prior_W, dtype=np.float64)
    smoothed = [np.asarray(counts, dtype=np.float64) + prior_W for counts in (counts_BW, other_BW)]
    first, second = (np.log(s) - np.log(s.sum(axis=1, keepdims=True) - s) for s in smoothed)
    delta_BW = first - second
    return delta_BW, delta_BW / np.sqrt(1 / smoothed[0] + 1 / smoothed[1])


def distinctive_words(
    texts: Sequence[str],
    is_top_S: ArrayLike,
    *,
    prior_words: float | None = None,
    n_permutations: int = 999,
    seed: int = 0,
    block_size: int = 128,
) -> pd.DataFrame:
    """Rank the words by how far they mark the top texts against the others.

    Parameters
    ----------
    texts : S texts
    is_top_S : bool array [S]
    prior_words : float, optional
        Pseudo-words of the prior, which are shared out by the frequency of words in all `texts`. Default: as many as
        the smaller group has.
    n_permutations : int, default 999
        Divisions of the same texts at random: the family-wise null distribution of the largest z. 0: every p is 1.
    seed : int, default 0
    block_size : int, default 128
        Divisions at a time, which bounds memory.

    Returns
    -------
    DataFrame
        `word`, `z`, `log_odds`, `n_top` and `n_other` (texts that hold it), `p_fwe` (one-sided); largest z first, equal
        ones by alphabet.

    Raises
    ------
    UserError
        No text in a group, or fewer than two different words.

    Examples
    --------
    >>> texts = ["she won the cup", "they won again", "he won", "rain fell", "the shop opened", "he slept"]
    >>> distinctive_words(texts, [True] * 3 + [False] * 3)[["word", "n_top", "n_other"]].values[0].tolist()
    ['won', 3, 0]
    """
    is_top_S = np.asarray(is_top_S, dtype=bool)
    if is_top_S.shape != (len(texts),) or is_top_S.all() or not is_top_S.any():
        raise UserError("Distinctive words need texts in both groups, and one flag for every text")
    vectorizer = CountVectorizer(analyzer=words)
    if len({word for text in texts for word in words(text)}) < 2:
        raise UserError("Distinctive words need at least two different words")
    counts_SW = sp.csr_array(vectorizer.fit_transform(texts), dtype=np.float64)
    labels_S = np.where(is_top_S, 1, -1)
    total_W = counts_SW.sum(axis=0)
    smaller = min(counts_SW[is_top_S].sum(), counts_SW[~is_top_S].sum())
    prior_W = total_W / total_W.sum() * max(smaller if prior_words is None else prior_words, 1.0)

    def z_of(labels_BS: NDArray) -> tuple[Array, Array]:
        top_BW = (labels_BS > 0).astype(np.float64) @ counts_SW
        return log_odds_z(top_BW, total_W - top_BW, prior_W)

    delta_BW, z_BW = z_of(labels_S[None])
    draws_BS = arrangements(labels_S, np.zeros(len(texts)), n_permutations, seed, "unpaired")
    largest_B = np.concatenate(
        [z_of(draws_BS[b : b + block_size])[1].max(axis=1) for b in range(0, len(draws_BS), block_size)] or [[]]
    )
    holds_SW = counts_SW > 0
    table = pd.DataFrame(
        {
            "word": vectorizer.get_feature_names_out(),
            "z": z_BW[0],
            "log_odds": delta_BW[0],
            "n_top": holds_SW[is_top_S].sum(axis=0),
            "n_other": holds_SW[~is_top_S].sum(axis=0),
            "p_fwe": permutation_p(z_BW[0], largest_B[:, None]),
        }
    )
    return table.sort_values(["z", "word"], ascending=[False, True], kind="stable", ignore_index=True)
