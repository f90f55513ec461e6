"""Completeness: which of the known members of a kind have a latent of their own.

The idea is that of Templeton et al. (2024, Scaling Monosemanticity, "Feature completeness") and of Bricken et al.
(2023, Towards Monosemanticity): list what there is to know, look up which of it the dictionary knows, and compare with
how often the corpus mentions it. Here nothing is selected on the sentences it is scored on, and a latent must also be
rare in ordinary text: with thousands of latents that fire on this and that, even random directions hold some that tell
one member of a list from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy import stats

from neurosae.capture import capture
from neurosae.corpora import shipped_texts
from neurosae.dictionary.census import without
from neurosae.dictionary.members import MemberList
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.sae.activations import clean_activations
from neurosae.sae.encoding import encode_rows
from neurosae.sites import Site

DEDICATED = 0.8
"""Held-out F1 from which a latent counts as dedicated. Above 2/3 no latent can be dedicated to two members."""
RARE = 1e-3
"""Share of the tokens of ordinary text at which a dedicated latent fires at most."""


@dataclass(frozen=True)
class Mentions:
    """What the language model has at the tokens of every mention of a list's members.

    Attributes
    ----------
    values_TD : float32 ndarray of shape (T, D)
        Clean tokens inside members.
    owner_T : int ndarray of shape (T,)
        Row of `table` that a token belongs to.
    table : DataFrame of S rows
        See `MemberList.mentions`.
    """

    values_TD: np.ndarray
    owner_T: np.ndarray
    table: pd.DataFrame


def read_mentions(language_model: LanguageModel, members: MemberList, site: Site) -> Mentions:
    """Read every member in every carrier once."""
    table = members.mentions()
    responses = capture(language_model, table, [site])[site]
    rows = np.flatnonzero((responses.tokens["target"] & responses.tokens["clean"]).to_numpy(dtype=bool))
    return Mentions(responses.values[rows], responses.tokens["stimulus"].to_numpy()[rows], table)


def ordinary_texts(lists: Sequence[MemberList], n: int | None = None) -> list[str]:
    """The first n (None: all) of the texts that ship, without those that mention a member."""
    return without(shipped_texts(), [member for each in lists for member in each.members])[:n]


def read_background(
    language_model: LanguageModel, texts: Sequence[str], site: Site, context: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Clean tokens of ordinary texts, of every second text and of the others: two float32 arrays (T, D)."""
    if len(texts) < 2:
        raise UserError("There are fewer than two texts to compare with")
    halves = ([a for a, _ in clean_activations(language_model, list(texts[i::2]), site, context)] for i in (0, 1))
    first, second = (torch.cat(half).float().numpy() for half in halves)
    return first, second


def background_rates(sae: Any, background: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Share of tokens at which each latent fires in each half of the background; shape (2, F)."""
    return np.stack([_fired(encode_rows(sae, half)).sum(0) / len(half) for half in background])


def encode_mentions(sae: Any, mentions: Mentions) -> sp.csr_array:
    """Mean of each latent over the tokens of a mention; csr_array of shape (S, F), empty rows without clean tokens."""
    codes_TF = encode_rows(sae, mentions.values_TD)
    n_tokens = np.bincount(mentions.owner_T, minlength=len(mentions.table))
    place = (mentions.owner_T, np.arange(len(mentions.owner_T)))
    shape = (len(mentions.table), len(mentions.owner_T))
    return sp.csr_array(sp.csr_array((1 / n_tokens[mentions.owner_T], place), shape=shape) @ codes_TF)


def dedicated_latents(
    codes_SF: sp.csr_array,
    mentions: pd.DataFrame,
    rates_2F: np.ndarray,
    *,
    dedicated_at: float = DEDICATED,
    rare: float = RARE,
) -> pd.DataFrame:
    """Choose a latent for every member on half of the data and score it on the other half.

    A latent predicts a member where it is above 0 on a token of the mention. Its F1 for that member counts the member's
    mentions as positive and those of all other members of the list as negative. Of the latents that are rare in the
    first half of the background, the one with the largest F1 on carriers 0, 2, ... is chosen (ties: the larger mean
    activation, then the lower number). It is dedicated if its F1 on carriers 1, 3, ... is at least `dedicated_at` and
    if it is rare in the second half of the background, too.

    Parameters
    ----------
    codes_SF : csr_array of shape (S, F)
        One row per mention, not negative; a row without any active latent is a mention on which nothing fires.
    mentions : DataFrame of S rows
        Columns `member`, `carrier` (number).
    rates_2F : ndarray of shape (2, F)
        See `background_rates`; of texts that mention no member (`neurosae.dictionary.census.without`).
    dedicated_at : float, default 0.8
    rare : float, default 0.001
        Largest share of background tokens.

    Returns
    -------
    DataFrame, one row per member in order of appearance
        `member`, `latent` (-1 where none fires), `f1_selection`, `f1`, `precision`, `recall` (all three on held-out
        carriers), `mentions` (held-out ones), `background` (rate in the second half), `dedicated`, `valid`, `reason`.
        `chance` is what firing on everything gives, 2 / (M + 1) for M members: no latent that is blind to the members
        is expected to have a larger F1.

    Raises
    ------
    UserError
        Not one row per mention, not one rate per latent, a member without carriers on both sides.
    """
    if codes_SF.shape[0] != len(mentions) or rates_2F.shape != (2, codes_SF.shape[1]):
        raise UserError(f"Latents {codes_SF.shape}, {len(mentions)} mentions and rates {rates_2F.shape} do not fit")
    member_S, names = pd.factorize(mentions["member"])
    held_out_S = (mentions["carrier"] % 2 == 1).to_numpy()
    choose, score = (_Counts.of(codes_SF, member_S, side, len(names)) for side in (~held_out_S, held_out_S))
    alone = np.flatnonzero((choose.n_M == 0) | (score.n_M == 0))
    if len(alone):
        raise UserError(
            f"All mentions of '{names[alone[0]]}' are on one side of the split",
            allowed="carriers with even and with odd numbers for every member",
        )
    latent_M, f1_selection_M = choose.best(rates_2F[0] <= rare)
    chosen = latent_M >= 0
    true_M = np.where(chosen, score.hits(latent_M), 0.0)
    fires_M = np.where(chosen, score.fires_F[latent_M], 0.0)
    background_M = np.where(chosen, rates_2F[1][latent_M], 0.0)
    f1_M = 2 * true_M / (fires_M + score.n_M)
    return pd.DataFrame(
        {
            "member": names,
            "latent": latent_M,
            "f1_selection": f1_selection_M,
            "f1": f1_M,
            "precision": np.divide(true_M, fires_M, out=np.zeros(len(names)), where=fires_M > 0),
            "recall": true_M / score.n_M,
            "mentions": score.n_M,
            "background": background_M,
            "dedicated": (f1_M >= dedicated_at) & (background_M <= rare),
            "chance": 2 * score.n_M / (score.n_M + score.n_M.sum()),
            "valid": chosen,
            "reason": np.where(chosen, "", "no rare latent fires on the selection carriers"),
        }
    )


def completeness(sae: Any, mentions: Mentions, rates_2F: np.ndarray) -> pd.DataFrame:
    """Encode the mentions and find the dedicated latents; see `dedicated_latents`."""
    return dedicated_latents(encode_mentions(sae, mentions), mentions.table, rates_2F)


def summary(table: pd.DataFrame) -> dict[str, float]:
    """Share of members with a dedicated latent, its 95 % Wilson interval, the mean held-out F1 and chance.

    The interval takes members for independent draws from all members of that kind that could have been listed.
    """
    n, found = len(table), int(table["dedicated"].sum())
    low, high = stats.binomtest(found, n).proportion_ci(method="wilson")
    return {
        "members": n,
        "dedicated": found,
        "share": found / n,
        "ci_low": float(low),
        "ci_high": float(high),
        "mean_f1": float(table["f1"].mean()),
        "chance": float(table["chance"].mean()),
    }


def frequency_relation(f1_M: np.ndarray, per_million_M: np.ndarray) -> dict[str, Any]:
    """Do members that the corpus mentions more often have better latents? Spearman's rank correlation.

    Returns
    -------
    dict
        `rho`, two-sided `p` (t approximation), `n`; `valid` and `reason`, with `rho` 0 and `p` 1 where undefined.
    """
    n = len(f1_M)
    reason = ""
    if n < 5:
        reason = "fewer than five members"
    elif np.ptp(f1_M) == 0:
        reason = "all members have the same F1"
    elif np.ptp(per_million_M) == 0:
        reason = "all members are equally frequent"
    rho, p = (0.0, 1.0) if reason else stats.spearmanr(f1_M, per_million_M)
    return {"rho": float(rho), "p": float(p), "n": n, "valid": not reason, "reason": reason}


@dataclass(frozen=True)
class _Counts:
    """Mentions of every member on one side of the split, and how often each latent fires on them."""

    n_M: np.ndarray
    true_MF: sp.csr_array  # mentions of a member on which a latent fires
    mass_MF: sp.csr_array  # sum of its activation over them, with the same pattern
    fires_F: np.ndarray  # mentions of any member on which it fires

    @classmethod
    def of(cls, codes_SF: sp.csr_array, member_S: np.ndarray, side_S: np.ndarray, n_members: int) -> _Counts:
        rows = np.flatnonzero(side_S)
        codes = sp.csr_array(codes_SF[rows]).astype(np.float64)
        codes.eliminate_zeros()
        member_MS = sp.csr_array((np.ones(len(rows)), (member_S[rows], np.arange(len(rows)))), (n_members, len(rows)))
        true_MF, mass_MF = (sp.csr_array(member_MS @ each) for each in (_fired(codes), codes))
        true_MF.sort_indices()
        mass_MF.sort_indices()
        return cls(np.bincount(member_S[rows], minlength=n_members), true_MF, mass_MF, _fired(codes).sum(0))

    def best(self, allowed_F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The allowed latent with the largest F1 for each member (-1: none fires) and that F1."""
        member_n = np.repeat(np.arange(len(self.n_M)), np.diff(self.true_MF.indptr))
        latent_n = self.true_MF.indices
        f1_n = 2 * self.true_MF.data / (self.fires_F[latent_n] + self.n_M[member_n])
        order = np.lexsort((latent_n, -self.mass_MF.data, -f1_n, member_n))
        order = order[allowed_F[latent_n[order]]]
        member, first = np.unique(member_n[order], return_index=True)
        latent_M, f1_M = np.full(len(self.n_M), -1), np.zeros(len(self.n_M))
        latent_M[member], f1_M[member] = latent_n[order][first], f1_n[order][first]
        return latent_M, f1_M

    def hits(self, latent_M: np.ndarray) -> np.ndarray:
        """Mentions of each member on which its latent fires."""
        return np.array([self.true_MF[member, latent] for member, latent in enumerate(latent_M)])


def _fired(codes: sp.csr_array) -> sp.csr_array:
    """1 where a latent is above 0."""
    return sp.csr_array(codes > 0).astype(np.float64)
