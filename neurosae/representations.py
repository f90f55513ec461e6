"""Representations: what of a stimulus the selectors and ensembles get to see, computed once and kept in the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import CountVectorizer

from neurosae import models
from neurosae.capture import TEXT, capture, combine_masks
from neurosae.errors import UserError
from neurosae.files import cache_folder, digest, folder_digest
from neurosae.models import LanguageModel
from neurosae.responses import Pooled, Pooling, Profiles, Responses
from neurosae.sae import loading
from neurosae.sae.encoding import encode
from neurosae.sites import Site
from neurosae.stimuli import LabelledContrast, StimulusSet

log = logging.getLogger(__name__)
EMBEDDINGS = Site(0, "resid_pre")
PROFILE_WIDTH = 16
_READ = ("id", "text", "target_start", "target_end")  # what responses depend on


@dataclass(frozen=True)
class Source:
    """Which language model reads the stimuli and which SAE encodes what it hears.

    Attributes
    ----------
    model, device, dtype : str
        See `neurosae.models.load`.
    sae : str
        See `neurosae.sae.loading.load`.
    batch_size : int, default 32
        Texts per forward pass.
    seed : int, default 0
        Seed of the untrained SAE.
    device_map : str, optional
        See `neurosae.models.load`.
    """

    model: str = models.DEFAULT
    device: str = "auto"
    dtype: str = "float32"
    sae: str = loading.DEFAULT
    batch_size: int = 32
    seed: int = 0
    device_map: str | None = None

    def identity(self) -> dict[str, Any]:
        """What the responses depend on besides the stimuli; a hub name stands for its weights."""
        about: dict[str, Any] = {"model": self.model, "dtype": self.dtype, "batch_size": self.batch_size}
        if Path(self.model).is_dir():
            about["model_files"] = folder_digest(Path(self.model))
        return about

    def sae_identity(self) -> str:
        """Hash of the SAE's weights and configuration."""
        return loading.identity(self.sae)


class TextBench:
    """The responses to texts under one source; nothing is read, captured or encoded twice.

    Parameters
    ----------
    table : DataFrame
        One row per text: `id`, `text`, and `target_start` and `target_end` (characters; -1 where there is no target).
    source : Source
    chat : bool or dict, default False
        Whether texts go into the chat template; see `neurosae.capture.capture`.
    progress : bool, default False
    language_model : LanguageModel, optional
        The one that the source names, where it is already loaded.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        source: Source,
        *,
        chat: bool | dict[str, Any] = False,
        progress: bool = False,
        language_model: LanguageModel | None = None,
    ) -> None:
        self.table, self.chat, self.source, self.progress = table, chat, source, progress
        self.folder = cache_folder("responses") / digest(
            {"stimuli": table[list(_READ)].to_numpy().tolist(), "chat": chat, **source.identity()}
        )
        self._language_model = language_model
        self._sae: Any = None
        self._held: dict[str, Responses] = {}
        self._sites: tuple[Site, ...] = ()

    @property
    def language_model(self) -> LanguageModel:
        """The language model, loaded when first needed."""
        if self._language_model is None:
            source = self.source
            self._language_model = models.load(source.model, source.device, source.dtype, device_map=source.device_map)
        return self._language_model

    @property
    def sae(self) -> Any:
        """The SAE, loaded when first needed."""
        if self._sae is None:
            self._sae = loading.load(self.source.sae, self.source.device, model=self.source.model)
        return self._sae

    def untrained_sae(self, site: Site) -> Any:
        """The control of the SAE, with the same L0 on the stimuli."""
        return loading.untrained_like(self.sae, _sample(self.neurons(site)), self.source.seed)

    def listen(self, sites: Iterable[Site]) -> None:
        """Capture all sites that are not in the cache yet, in one pass.

        What is clean depends on the sites listened to (the union of their masks is left out), not on what the cache
        happened to hold.
        """
        self._sites = tuple(dict.fromkeys([*self._sites, *sites]))
        missing = [site for site in self._sites if self._stored(str(site)) is None]
        if missing:
            captured = capture(
                self.language_model,
                self.table,
                missing,
                chat=self.chat,
                batch_size=self.source.batch_size,
                progress=self.progress,
            )
            for site, responses in captured.items():
                self._keep(str(site), responses)
        combined = combine_masks({site: self._held[str(site)] for site in self._sites})
        self._held |= {str(site): responses for site, responses in combined.items()}

    def neurons(self, site: Site) -> Responses:
        """Raw activations."""
        if site not in self._sites:
            self.listen([site])
        return self._held[str(site)]

    def latents(self, site: Site, *, trained: bool = True) -> Responses:
        """SAE latents of the site, of the trained SAE or of its untrained control."""
        neurons = self.neurons(site)
        name = f"{site}-{'sae' if trained else f'untrained{self.source.seed}'}-{self.source.sae_identity()}"
        stored = self._stored(name)
        if stored is None:
            sae = self.sae if trained else self.untrained_sae(site)
            stored = self._keep(name, encode(sae, neurons, self.source.sae if trained else "untrained"))
        return replace(stored, tokens=neurons.tokens)

    def responses(self, representation: str, block: int) -> Responses:
        """Token rows of a representation at a block."""
        about = REPRESENTATIONS[representation]
        return about.read(self, about.site(block))

    def pooled(self, representation: str, block: int, pooling: str) -> Pooled:
        """Stimuli x features of a representation."""
        if not REPRESENTATIONS[representation].has_site:
            return bag_of_words(self.table["text"].tolist())
        return self.responses(representation, block).pool(cast(Pooling, pooling))

    def matrix(self, contrast: LabelledContrast, representation: str, block: int, pooling: str) -> np.ndarray:
        """Values [S, F] of the stimuli of a contrast, all of which must have one.

        Raises
        ------
        UserError
            Stimuli without a value under the pooling.
        """
        return self.pooled(representation, block, pooling).of(contrast.rows, contrast.ids_S)

    def profiles(self, representation: str, block: int) -> Profiles:
        """Stimuli x positions x features, left-aligned."""
        return self.responses(representation, block).profiles("left", PROFILE_WIDTH)

    def profiles_of(self, contrast: LabelledContrast, representation: str, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Profiles [S, W, F] of the stimuli of a contrast, and where they are defined [S, W]."""
        found = self.profiles(representation, block)
        return found.values_SWF[contrast.rows], found.defined_SW[contrast.rows]

    def _keep(self, name: str, responses: Responses) -> Responses:
        responses.save(self.folder / name)
        self._held[name] = responses
        return responses

    def _stored(self, name: str) -> Responses | None:
        """Responses from memory or the cache; a damaged cache entry is made again."""
        if name not in self._held and (self.folder / name).exists():
            try:
                self._held[name] = Responses.load(self.folder / name)
            except UserError as error:
                log.warning("%s It is captured anew.", error.what)
        return self._held.get(name)


class Bench(TextBench):
    """The responses of one stimulus set under one source.

    Parameters
    ----------
    stimuli : StimulusSet
    source : Source
    progress : bool, default False
    language_model : LanguageModel, optional
        The one that the source names, where it is already loaded.
    """

    def __init__(
        self,
        stimuli: StimulusSet,
        source: Source,
        *,
        progress: bool = False,
        language_model: LanguageModel | None = None,
    ) -> None:
        super().__init__(stimuli.table, source, chat=stimuli.chat, progress=progress, language_model=language_model)
        self.stimuli = stimuli


def _sample(neurons: Responses) -> torch.Tensor:
    """Activations of text tokens with a normal norm at this site: what the L0 of the control is matched on."""
    use = (neurons.tokens["role"] == TEXT) & neurons.tokens["normal"]
    return torch.from_numpy(np.array(neurons.values[use.to_numpy(dtype=bool)]))


def bag_of_words(texts: list[str]) -> Pooled:
    """Which words occur in each text: stimuli x vocabulary, 0 or 1.

    Words that only occur outside a training set are constant there and get no weight, so nothing leaks.
    """
    counts = CountVectorizer(binary=True).fit_transform(texts)
    return Pooled(counts.toarray().astype(np.float64), np.ones(len(texts), bool), np.full(len(texts), ""))


@dataclass(frozen=True)
class Representation:
    """What of a stimulus is looked at: where it is heard, how it is read, what it is for.

    Attributes
    ----------
    name : str
        In tables, file names and options.
    about : str
        One line for people.
    read : callable, default `TextBench.neurons`
        Bench and site -> responses.
    where : {'block', 'sae', 'embeddings', 'nowhere'}
        Whether it is heard at the block that is asked for, at the SAE's own, before the first one, or not at all.
    encoder : callable, optional
        Bench and site -> the SAE whose latents are its features; None for what is heard directly.
    is_control : bool, default False
        Beside which the others are compared, rather than a method's own.

    Examples
    --------
    >>> REPRESENTATIONS["sae"].block(3, sae_block=15), REPRESENTATIONS["raw"].block(3, sae_block=15)
    (15, 3)
    """

    name: str
    about: str
    read: Callable[[TextBench, Site], Responses] = TextBench.neurons
    where: str = "block"
    encoder: Callable[[TextBench, Site], Any] | None = None
    is_control: bool = False

    @property
    def has_latents(self) -> bool:
        """Whether its features are latents of an SAE, trained or not."""
        return self.encoder is not None

    @property
    def has_site(self) -> bool:
        """Whether the language model is listened to for it."""
        return self.where != "nowhere"

    def block(self, block: int, sae_block: int) -> int:
        """Where it is read in a grid that asks for a block."""
        return {"block": block, "sae": sae_block}.get(self.where, 0)

    def site(self, block: int) -> Site:
        """Where to listen for it.

        Raises
        ------
        UserError
            It has no site.
        """
        if not self.has_site:
            raise UserError(f"'{self.name}' has no site to listen at", where="representation", allowed=_WITH_SITE)
        return EMBEDDINGS if self.where == "embeddings" else Site(block)


REPRESENTATIONS = {
    each.name: each
    for each in (
        Representation("raw", "neurons of the residual stream"),
        Representation(
            "sae", "latents of the sparse autoencoder", TextBench.latents, "sae", lambda bench, _: bench.sae
        ),
        Representation(
            "untrained_sae",
            "control: random directions with the width and the L0 of the SAE",
            lambda bench, site: bench.latents(site, trained=False),
            "sae",
            TextBench.untrained_sae,
            is_control=True,
        ),
        Representation(
            "embeddings",
            "control: token embeddings (the input of block 0)",
            where="embeddings",
            is_control=True,
        ),
        Representation("bag_of_words", "control: which words occur", where="nowhere", is_control=True),
    )
}
"""By name. What is added here can be asked for everywhere."""
METHODS = tuple(name for name, each in REPRESENTATIONS.items() if not each.is_control)
"""Representations that are compared; the others are controls."""
_WITH_SITE = ", ".join(name for name, each in REPRESENTATIONS.items() if each.has_site)
