"""Latents and styles: which are unique, which separate two styles in a wording never seen, how pure they are."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from neurosae.dictionary.specificity import exclusive_latents, specificity
from neurosae.inference import bootstrap_interval, permutation_p
from neurosae.inference.bootstrap import MIN_GROUPS
from neurosae.styles.crossing import Crossing

Array = NDArray[np.float64]


def firing_rates(maximum_SF: sp.csr_array, crossing: Crossing) -> Array:
    """Share of topics in which each latent fires, in each wording of each style [C, V, F]."""
    n_styles, n_wordings, n_topics = crossing.shape
    member = sp.csr_array((np.ones(len(crossing.wording_S)), (crossing.wording_S, np.arange(len(crossing.wording_S)))))
    fires = (member @ (sp.csr_array(maximum_SF) > 0).astype(np.float64)).toarray()
    return np.asarray(fires / n_topics, dtype=np.float64).reshape(n_styles, n_wordings, -1)


def unique_latents(maximum_SF: sp.csr_array, crossing: Crossing) -> pd.DataFrame:
    """Count the latents that fire in one style only, beside what shuffled styles would give.

    Returns
    -------
    DataFrame, one row per style
        `style`, `latents` (that fire in at least five prompts), `unique` (all of those in this style), `expected` (with
        styles shuffled within topics, exact), `in_every_wording` (unique, and firing in each wording of the style),
        `latents_of` (which these are, at most ten, the most frequent first).
    """
    table = specificity(maximum_SF, np.array(crossing.styles)[crossing.style_S], blocks_S=crossing.topic_S)
    counts = exclusive_latents(table).set_index("condition").loc[list(crossing.styles)]
    rates_CVF = firing_rates(maximum_SF, crossing)
    everywhere, shown = [], []
    for c, style in enumerate(crossing.styles):
        rows = table[(table["condition"] == style) & table["exclusive"]]
        own = rows["latent"].to_numpy()
        own = own[(rates_CVF[c][:, own] > 0).all(axis=0)]
        everywhere.append(len(own))
        order = np.argsort(-rates_CVF[c][:, own].mean(axis=0), kind="stable")[:10]
        shown.append(" ".join(map(str, own[order])))
    return pd.DataFrame(
        {
            "style": list(crossing.styles),
            "latents": counts["latents"].to_numpy(),
            "unique": counts["exclusive"].to_numpy(),
            "expected": counts["expected"].to_numpy(),
            "in_every_wording": everywhere,
            "latents_of": shown,
        }
    )


def separators(rates_CVF: Array, styles: tuple[str, ...], *, n: int = 999, seed: int = 0) -> pd.DataFrame:
    """Perfect separators of every two styles, found without one wording of each and checked on these two.

    A separator fires in all prompts of one style and in none of the other. One wording of either style is held out;
    what separates the other wordings is *found*, what also separates the held-out ones *survives*. All V^2 choices of
    held-out wordings are averaged, in closed form: a latent that separates all wordings is found and survives in every
    one of them; one that fails in a single wording of a style is found only where that one is held out.

    Parameters
    ----------
    rates_CVF : array [C, V, F]
        From `firing_rates`.
    styles : tuple of C str
    n, seed : int, default 999 and 0
        Chance: all C V wordings are shuffled over the styles, so that a style is any V wordings.

    Returns
    -------
    DataFrame, one row per ordered pair of styles
        `fires_in`, `silent_in`; `found` (mean over held-out choices), `survived`; `found_by_chance`,
        `survived_by_chance`; `p` of at least so many survivors, `p_fwe` (against the largest number over all pairs);
        `best_held_out`: firing share in `fires_in` less that in `silent_in`, in the held-out wordings, of the latent
        with the largest difference in the others (mean over choices; what the best single latent gives where none is
        perfect).

    Examples
    --------
    >>> rates_CVF = np.array([[[1.0, 1.0], [1.0, 0.5]], [[0.0, 0.0], [0.0, 0.0]]])
    >>> table = separators(rates_CVF, ("expert", "plain"), n=5)
    >>> table["fires_in"][0], table[["found", "survived"]].iloc[0].tolist()
    ('expert', [1.5, 1.0])
    """
    n_styles, _, n_latents = rates_CVF.shape
    always_WF, never_WF = (edge.reshape(-1, n_latents) for edge in (rates_CVF == 1, rates_CVF == 0))
    candidates = always_WF.any(axis=0) & never_WF.any(axis=0)
    always_WF, never_WF = always_WF[:, candidates], never_WF[:, candidates]
    found_CC, survived_CC = _counts(always_WF, never_WF, n_styles)
    null = []
    for draw in range(n):
        order = np.random.default_rng([seed, draw]).permutation(len(always_WF))
        null.append(_counts(always_WF[order], never_WF[order], n_styles))
    found_BCC, survived_BCC = (np.array(each) for each in zip(*null, strict=True))
    off = ~np.eye(n_styles, dtype=bool)
    p_CC = permutation_p(survived_CC, survived_BCC)
    largest_B = np.where(off, survived_BCC, 0).max(axis=(1, 2))
    fwe_CC = permutation_p(survived_CC, np.broadcast_to(largest_B[:, None, None], survived_BCC.shape))
    rows = []
    for a, b in itertools.permutations(range(n_styles), 2):
        rows.append(
            {
                "fires_in": styles[a],
                "silent_in": styles[b],
                "found": found_CC[a, b],
                "survived": int(survived_CC[a, b]),
                "found_by_chance": found_BCC[:, a, b].mean(),
                "survived_by_chance": survived_BCC[:, a, b].mean(),
                "p": p_CC[a, b],
                "p_fwe": fwe_CC[a, b],
                "best_held_out": _best_held_out(rates_CVF[a], rates_CVF[b]),
            }
        )
    return pd.DataFrame(rows)


def separating_latents(rates_CVF: Array, styles: tuple[str, ...]) -> pd.DataFrame:
    """The latents behind `survived`: `fires_in`, `silent_in`, `latent`."""
    always_CF, never_CF = (rates_CVF == 1).all(axis=1), (rates_CVF == 0).all(axis=1)
    rows = [
        {"fires_in": styles[a], "silent_in": styles[b], "latent": int(latent)}
        for a, b in itertools.permutations(range(len(styles)), 2)
        for latent in np.flatnonzero(always_CF[a] & never_CF[b])
    ]
    return pd.DataFrame(rows, columns=["fires_in", "silent_in", "latent"])


def _counts(always_WF: NDArray[np.bool_], never_WF: NDArray[np.bool_], n_styles: int) -> tuple[Array, Array]:
    """Found and surviving separators of every ordered pair of styles [C, C]."""
    n_wordings = len(always_WF) // n_styles
    shape = n_styles, n_wordings, always_WF.shape[1]
    sums = [edge.reshape(shape).sum(axis=1) for edge in (always_WF, never_WF)]
    # With one miss a latent is found in the one of V choices that holds the miss out.
    found = [(each == n_wordings) + (each == n_wordings - 1) / n_wordings for each in sums]
    full = [(each == n_wordings).astype(np.float64) for each in sums]
    return found[0] @ found[1].T, full[0] @ full[1].T


def _best_held_out(first_VF: Array, second_VF: Array) -> float:
    """Mean held-out difference of the latent that is best without the held-out wordings."""
    n_wordings = len(first_VF)
    gained = []
    for i, j in itertools.product(range(n_wordings), repeat=2):
        kept_F = (first_VF.sum(0) - first_VF[i]) - (second_VF.sum(0) - second_VF[j])
        best = int(np.argmax(kept_F))
        gained.append(first_VF[i, best] - second_VF[j, best])
    return float(np.mean(gained))


def firing_table(
    maximum_SF: sp.csr_array, crossing: Crossing, *, top: int = 8, n: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """In what share of the prompts of each style do the latents fire that tell a style best, and how pure are they?

    They are chosen on every other topic and shown on the remaining ones, so that the shares are not flattered by the
    choice.

    Parameters
    ----------
    maximum_SF : csr_array [S, F]
    crossing : Crossing
    top : int, default 8
        Latents per style: the largest firing share in the style less the mean share in the others.
    n, seed : int, default 2000 and 0
        Resamples of the topics shown.

    Returns
    -------
    DataFrame, `top` rows per style
        `style`, `latent`, one column per style with the firing share, `purity` (share in the style over the sum of the
        shares in all; 1/C: no preference), `low`, `high` (95 %, BCa over topics; 0 and 1 where `reason` says why there
        is none), `n_topics`.
    """
    n_styles, n_wordings, n_topics = crossing.shape
    chosen_on_S = crossing.topic_S % 2 == 0
    rates_CF = _rates(maximum_SF, crossing, chosen_on_S)
    rows = []
    for c, style in enumerate(crossing.styles):
        others_F = (rates_CF.sum(axis=0) - rates_CF[c]) / (n_styles - 1)
        rows += [(style, c, int(k)) for k in np.argsort(-(rates_CF[c] - others_F), kind="stable")[:top]]
    latents = np.array([latent for _, _, latent in rows])
    own = np.array([c for _, c, _ in rows])
    fires_CVIK = (sp.csr_array(maximum_SF)[:, latents] > 0).toarray().reshape(n_styles, n_wordings, n_topics, -1)
    shown_CIK = fires_CVIK[:, :, 1::2].mean(axis=1)
    shares_CK = shown_CIK.mean(axis=1)
    table = pd.DataFrame({"style": [style for style, _, _ in rows], "latent": latents})
    for c, style in enumerate(crossing.styles):
        table[style] = shares_CK[c]
    return pd.concat([table, _purity(shown_CIK, own, n, seed)], axis=1).assign(n_topics=shown_CIK.shape[1])


def _rates(maximum_SF: sp.csr_array, crossing: Crossing, use_S: NDArray[np.bool_]) -> Array:
    """Share of these prompts of each style in which each latent fires [C, F]."""
    rows = np.flatnonzero(use_S)
    member = sp.csr_array(
        (np.ones(len(rows)), (crossing.style_S[rows], rows)), shape=(len(crossing.styles), len(use_S))
    )
    fires = (member @ (sp.csr_array(maximum_SF) > 0).astype(np.float64)).toarray()
    return np.asarray(fires / np.bincount(crossing.style_S[rows])[:, None], dtype=np.float64)


def _purity(share_CIK: Array, own_K: NDArray[np.intp], n: int, seed: int) -> pd.DataFrame:
    """Purity of latents from their firing shares by style and topic, with intervals over topics."""
    n_firing_K = (share_CIK.sum(axis=0) > 0).sum(axis=0)
    latents = np.arange(len(own_K))

    def purity(weights_BI: Array) -> Array:
        share_CBK = weights_BI @ share_CIK
        total_BK = share_CBK.sum(axis=0)
        return share_CBK[own_K, :, latents].T / np.where(total_BK > 0, total_BK, np.inf)

    value_K = purity(np.ones((1, share_CIK.shape[1])))[0]
    few = f"fires in fewer than {MIN_GROUPS} topics"
    reason_K = np.where(n_firing_K == 0, "silent in the topics shown", np.where(n_firing_K < MIN_GROUPS, few, ""))
    low_K, high_K = np.zeros(len(own_K)), np.ones(len(own_K))
    if len(measured := np.flatnonzero(reason_K == "")):
        interval = bootstrap_interval(
            lambda weights_BI: purity(weights_BI)[:, measured], np.arange(share_CIK.shape[1]), n=n, seed=seed
        )
        low_K[measured], high_K[measured] = interval.low, interval.high
    return pd.DataFrame({"purity": value_K, "low": low_K, "high": high_K, "reason": reason_K})
