"""Sentences through fitted ensembles: decisions, and what each token adds, from one forward pass for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from neurosae.capture import capture, combine_masks, make_prompts
from neurosae.decoding.fitted import FittedEnsemble, encoder_of
from neurosae.discovery.keeping import Sentence
from neurosae.models import LanguageModel
from neurosae.representations import Bench
from neurosae.responses import Responses
from neurosae.sae.encoding import encode_rows
from neurosae.sites import Site

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _View:
    """Token rows of one representation at one site, reduced to the features that some ensemble uses."""

    responses: Responses
    columns: dict[int, np.ndarray]  # of each ensemble, by its number


@dataclass(frozen=True, eq=False)
class Reading:
    """Sentences that were read together."""

    ensembles: tuple[FittedEnsemble, ...]
    texts: Sequence[str]
    views: list[_View]
    scores_SE: Array
    """Decisions; NaN for a sentence without a clean token."""

    def sentence(self, row: int) -> Sentence:
        """One of them, with what each token adds."""
        tokens = self.views[0].responses.tokens
        owner_T = tokens["stimulus"].to_numpy()
        first, stop = np.searchsorted(owner_T, [row, row + 1])
        is_text_T = (tokens["role"].iloc[first:stop] == "text").to_numpy()
        added_TE = np.zeros((stop - first, len(self.ensembles)))
        for view in self.views:
            clean_T = view.responses.tokens["clean"].iloc[first:stop].to_numpy(dtype=bool)
            values = view.responses.values[first:stop]
            values_TU = values.toarray() if isinstance(values, sp.csr_array) else values
            for e, columns in view.columns.items():
                ends_prompt = self.ensembles[e].variant.pooling == "prompt_end"
                used = np.array([stop - first - 1]) if ends_prompt else np.flatnonzero(clean_T)
                added_TE[used, e] = self.ensembles[e].token_contributions(values_TU[used][:, columns], len(used))
        shown = tuple(tokens["token"].iloc[first:stop][is_text_T])
        return Sentence(self.texts[row], self.scores_SE[row], shown, added_TE[is_text_T])


class Reader:
    """Reads sentences for some ensembles: one forward pass for all sites, one encoding per site and SAE.

    An ensemble's clean tokens are those of its own site, so that its scores do not depend on the others.

    Parameters
    ----------
    bench : Bench
    ensembles : tuple of FittedEnsemble
    batch_size : int
    """

    def __init__(self, bench: Bench, ensembles: tuple[FittedEnsemble, ...], batch_size: int) -> None:
        self.language_model: LanguageModel = bench.language_model
        self.ensembles, self.batch_size, self.chat = ensembles, batch_size, ensembles[0].chat
        self.sites = list(dict.fromkeys(ensemble.site for ensemble in ensembles))
        self._groups: dict[tuple[Site, str | None], list[int]] = {}
        for e, ensemble in enumerate(ensembles):
            self._groups.setdefault((ensemble.site, ensemble.sae), []).append(e)
        self._encoders = {key: encoder_of(bench, ensembles[members[0]]) for key, members in self._groups.items()}
        self._features = {
            key: np.unique(np.concatenate([ensembles[e].features_K for e in members]))
            for key, members in self._groups.items()
        }
        one_word = make_prompts(self.language_model, pd.DataFrame({"text": ["x"]}), self.chat)[0].ids
        self._room = self.language_model.context - len(one_word) + 2  # for the sink token and the text

    def short_enough(self, texts: Sequence[str], longest: int) -> NDArray[np.bool_]:
        """Which texts have at most `longest` tokens and fit into the context."""
        lengths_S = np.array([len(ids) for ids in self.language_model.token_ids(texts)])
        return (lengths_S - 1 <= longest) & (lengths_S <= self._room)

    def read(self, texts: Sequence[str]) -> Reading:
        """Decisions and token rows of some sentences."""
        table = pd.DataFrame({"text": list(texts)})
        heard = capture(self.language_model, table, self.sites, chat=self.chat, batch_size=self.batch_size)
        scores_SE, views = np.full((len(texts), len(self.ensembles)), np.nan), []
        for key, members in self._groups.items():
            responses = self._reduced(combine_masks({key[0]: heard[key[0]]})[key[0]], key)
            columns = {e: np.searchsorted(self._features[key], self.ensembles[e].features_K) for e in members}
            views.append(_View(responses, columns))
            for how in dict.fromkeys(self.ensembles[e].variant.pooling for e in members):
                pooled = responses.pool(how)  # type: ignore[arg-type]
                values_SU, valid_S = pooled.dense(), pooled.valid_S
                for e in members:
                    if self.ensembles[e].variant.pooling == how:
                        scores_SE[valid_S, e] = self.ensembles[e].decision(values_SU[valid_S][:, columns[e]])
        return Reading(self.ensembles, texts, views, scores_SE)

    def _reduced(self, responses: Responses, key: tuple[Site, str | None]) -> Responses:
        """Only the features that some ensemble uses; sink and outlier tokens have silent latents, as in `encode`."""
        sae, features = self._encoders[key], self._features[key]
        if sae is None:
            return responses.with_values(responses.values[:, features])
        known_T = ((responses.tokens["role"] != "sink") & responses.tokens["normal"]).to_numpy(dtype=bool)
        codes = encode_rows(sae, np.asarray(responses.values[known_T]), latents=features)
        counts_T = np.zeros(len(known_T), dtype=np.int64)
        counts_T[known_T] = np.diff(codes.indptr)
        starts = np.concatenate([[0], np.cumsum(counts_T)])
        return responses.with_values(sp.csr_array((codes.data, codes.indices, starts), (len(known_T), len(features))))
