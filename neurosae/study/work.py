"""What the later stages of a run share: the bench, the ensembles fitted to all stimuli, the graded sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.autointerp.examples import token_spans
from neurosae.autointerp.judges import Judge
from neurosae.capture import TEXT
from neurosae.decoding.fitted import FittedEnsemble, encoder_of, fit_ensemble
from neurosae.decoding.variants import ALL, CONTROL_K, PCA, Grid, Variant
from neurosae.discovery import gold
from neurosae.discovery.gold import GoldCorpus
from neurosae.errors import UserError
from neurosae.files import digest
from neurosae.representations import METHODS, REPRESENTATIONS, Bench, Source, TextBench
from neurosae.responses import Pooled, Responses
from neurosae.runs import RunFolder
from neurosae.sae.encoding import encode
from neurosae.sites import Site
from neurosae.study.contrast_run import ContrastRun

Array = NDArray[np.float64]
STAGES = ("select", "discover", "explain", "steer", "evidence")
GOLD = "gold"


@dataclass(frozen=True)
class StageSettings:
    """How the later stages work; part of their files, not of the run's configuration.

    Attributes
    ----------
    judge : Judge or None
        Who grades in the stage `explain`; None takes the gold grades.
    resamples : int, default 2000
        Of sentences and of prompts.
    random_features : int, optional
        Controls of the stage `explain`; None: as many as `neurosae.autointerp.interpretation.random_ensembles` says.
    random_directions : int, default 8
        Controls of the stage `steer`.
    doses : tuple of float
        Quantiles of the non-zero activation, towards the target.
    most_pairs : int, default 24
        Held-out pairs to steer on, which bounds the time a large set takes.
    """

    judge: Judge | None = None
    resamples: int = 2000
    random_features: int | None = None
    random_directions: int = 8
    doses: tuple[float, ...] = (0.5, 0.9, 0.99)
    most_pairs: int = 24


@dataclass(frozen=True)
class StageResult:
    """What a stage found.

    Attributes
    ----------
    scores : DataFrame
        One row per variant: its names, and columns for the scorecard.
    claims : DataFrame
        The claims about method families for the outcome of the stage.
    records : dict of Variant to dict
        Everything that was kept about each variant.
    notes : tuple of str
        What a reader must know beside the numbers.
    """

    scores: pd.DataFrame
    claims: pd.DataFrame
    records: dict[Variant, dict[str, Any]]
    notes: tuple[str, ...]


@dataclass
class Work:
    """One run at work in its later stages."""

    run: ContrastRun
    folder: RunFolder
    settings: StageSettings
    _fitted: dict[tuple[Variant, int], FittedEnsemble] = field(default_factory=dict)

    @cached_property
    def bench(self) -> Bench:
        """Listening at all sites of the run, so that ensembles are fitted as they were decoded."""
        bench = Bench(self.run.stimuli, self.run.settings.source, progress=self.run.settings.progress)
        bench.listen(self.run.sites())
        return bench

    @cached_property
    def corpus(self) -> GoldCorpus:
        """The graded sentences."""
        return gold.load()

    @cached_property
    def sentences(self) -> GoldSentences:
        """The graded sentences as the language model hears them."""
        sentences = GoldSentences(self.corpus, self.run.settings.source, self.run.stimuli.chat)
        sentences.listen(self.run.sites(), progress=self.run.settings.progress)
        return sentences

    @cached_property
    def keys(self) -> dict[Variant, dict[str, Any]]:
        """How the tables name every finished variant; where all features are used, k is their number."""
        finished = [v for v in self.run.variants if self.folder.is_finished(v)]
        cells = self.folder.cells(finished)
        return {v: v.as_dict() | {"k": cell["k"]} for v, cell in zip(finished, cells, strict=True)}

    @property
    def scope(self) -> str:
        """What the claims of this run speak for."""
        run = self.run
        return f"concept '{run.stimuli.name}', contrast '{run.contrast}': this model, this SAE"

    @property
    def target(self) -> str:
        """Level the contrast is about."""
        return self.run.sides.target

    def graded_concept(self) -> tuple[str, str]:
        """What the sentences are graded for that this contrast is about, or else the reason why nothing."""
        try:
            return gold.concept_of(self.run.stimuli.name, self.target), ""
        except UserError as error:
            return "", error.what

    def fit(self, variant: Variant, seed: int | None = None) -> FittedEnsemble:
        """The ensemble of a variant, fitted to all stimuli."""
        seed = self.run.settings.seed if seed is None else seed
        if (variant, seed) not in self._fitted:
            self._fitted[variant, seed] = fit_ensemble(self.bench, self.run.contrast, variant, seed=seed)
        return self._fitted[variant, seed]

    def decisions(self, ensemble: FittedEnsemble) -> Array:
        """Its decision for every graded sentence [S]."""
        return self.sentences.decisions(ensemble, self.bench)

    def representatives(self) -> list[Variant]:
        """What costly stages look at; see `representatives`."""
        return representatives(self.run.settings.grid, self.run.variants)

    @property
    def k(self) -> int:
        """Number of features of the representatives."""
        return _usual_k(self.run.settings.grid)

    def corpus_identity(self) -> str:
        """Hash of the graded sentences and all their grades."""
        return digest(self.corpus.table.to_dict("list"))


def representatives(grid: Grid, variants: Sequence[Variant]) -> list[Variant]:
    """One variant per selector and representation, with 8 features where the grid has that.

    Of several ensembles, poolings and blocks the first of each (of the blocks, the SAE's).
    """
    block = grid.sae_block if grid.sae_block in grid.blocks else grid.blocks[0]
    k = _usual_k(grid)
    return [
        v
        for v in variants
        if (v.k, v.ensemble, v.pooling) == (k, grid.ensembles[0], grid.poolings[0])
        and v.selector not in (ALL, PCA)
        and v.representation in METHODS
        and v.block == REPRESENTATIONS[v.representation].block(block, grid.sae_block)
    ]


def _usual_k(grid: Grid) -> int:
    return CONTROL_K if CONTROL_K in grid.ks else max(grid.ks)


class GoldSentences:
    """Features of the graded sentences at every site, from one forward pass that all concepts and runs share.

    What is clean is decided at each site by itself, so that scores do not depend on what else was listened to
    (as `neurosae.discovery.search.score_sentences` does).

    Parameters
    ----------
    corpus : GoldCorpus
    source : Source
    chat : bool or dict
        Whether sentences go into the chat template.
    """

    def __init__(self, corpus: GoldCorpus, source: Source, chat: bool | dict[str, Any]) -> None:
        self.texts = corpus.table["text"].tolist()
        self._table = corpus.table[["id", "text"]].assign(target_start=-1, target_end=-1)
        self._source, self._chat = source, chat
        self._benches: dict[Site, TextBench] = {}
        self._responses: dict[tuple[str, Site], Responses] = {}
        self._pooled: dict[tuple[str, Site, str], Pooled] = {}

    def listen(self, sites: Sequence[Site], *, progress: bool = False) -> None:
        """Fill the cache for all sites in one pass."""
        if sites:
            TextBench(self._table, self._source, chat=self._chat, progress=progress).listen(sites)

    def decisions(self, ensemble: FittedEnsemble, bench: Bench) -> Array:
        """Decision of an ensemble for every sentence [S].

        Parameters
        ----------
        ensemble : FittedEnsemble
        bench : Bench
            The one it was fitted on: the untrained SAE is made for its stimuli.

        Raises
        ------
        UserError
            An ensemble that pools over target spans; a sentence without a clean token.
        """
        pooling, representation = ensemble.variant.pooling, ensemble.variant.representation
        if pooling == "target":
            raise UserError("Sentences of a corpus have no target span to pool over", where="pooling")
        key = (representation, ensemble.site, pooling)
        if key not in self._pooled:
            self._pooled[key] = self.responses(ensemble, bench).pool(pooling)  # type: ignore[arg-type]
        pooled = self._pooled[key]
        if not pooled.valid_S.all():
            raise UserError(f"Sentence {int(np.argmin(pooled.valid_S))} has no clean token")
        values = pooled.values_SF[:, ensemble.features_K]
        return ensemble.decision(values if isinstance(values, np.ndarray) else values.toarray())

    def neurons(self, site: Site) -> Responses:
        """Raw activations."""
        return self._bench(site).neurons(site)

    def _bench(self, site: Site) -> TextBench:
        return self._benches.setdefault(site, TextBench(self._table, self._source, chat=self._chat))

    def responses(self, ensemble: FittedEnsemble, bench: Bench) -> Responses:
        """Token rows of what the ensemble reads."""
        representation, site = ensemble.variant.representation, ensemble.site
        if (representation, site) not in self._responses:
            if representation == "untrained_sae":
                found = encode(encoder_of(bench, ensemble), self.neurons(site), "untrained")
            else:
                found = self._bench(site).responses(representation, site.block)
            self._responses[representation, site] = found
        return self._responses[representation, site]

    def spans(self, ensemble: FittedEnsemble, bench: Bench) -> list[tuple[tuple[int, int, float], ...]]:
        """Characters of every token of every sentence, and what it adds to the decision."""
        responses = self.responses(ensemble, bench)
        tokens, values_TK = responses.tokens, ensemble.columns(responses)
        bounds = np.searchsorted(tokens["stimulus"].to_numpy(), np.arange(len(self.texts) + 1))
        found = []
        for text, first, stop in zip(self.texts, bounds[:-1], bounds[1:], strict=True):
            rows = tokens.iloc[first:stop]
            clean_T = rows["clean"].to_numpy(dtype=bool)
            added_T = np.zeros(stop - first)
            added_T[clean_T] = ensemble.token_contributions(values_TK[first:stop][clean_T], max(1, int(clean_T.sum())))
            is_text = (rows["role"] == TEXT).to_numpy()
            found.append(token_spans(text, rows["token"][is_text], added_T[is_text]))
        return found
