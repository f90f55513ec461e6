"""Which SAE latents does a prompt drive?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neurosae.sae import loading
from neurosae.sae.prompt_features import (
    Position,
    PromptFeatures,
    neuronpedia_id,
    read_labels,
    strongest_latents,
)

PLACES: dict[Position, str] = {
    "last": "at the last clean token",
    "max": "at their maximum",
    "mean": "on average over clean tokens",
}
"""What each position says about the latents ranked by it."""


@dataclass(frozen=True)
class TopFeatures(PromptFeatures):
    """The strongest latents of a prompt, and what read it.

    Attributes
    ----------
    features, tokens, activations, n_active
        As in `neurosae.sae.prompt_features.PromptFeatures`; `features` has the columns `label`, where labels were
        given, and `link`, where Neuronpedia shows the SAE.
    language_model, sae, site, prompt : str
    position : {"last", "max", "mean"}
        What the latents are ranked by.
    """

    language_model: str
    sae: str
    site: str
    prompt: str
    position: Position

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, in words; nothing where no latent is active."""
        if self.features.empty:
            return ()
        latents = ", ".join(map(str, self.features["latent"][:5]))
        return (f"{self.n_active} latents are active {PLACES[self.position]}; the strongest: {latents}.",)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data: rows of the tables, and the activations of each listed latent over the tokens."""
        return {
            "language_model": self.language_model,
            "sae": self.sae,
            "site": self.site,
            "prompt": self.prompt,
            "position": self.position,
            "n_active": self.n_active,
            "features": self.features.to_dict("records"),
            "tokens": self.tokens.to_dict("records"),
            "activations": {str(latent): self.activations[latent].tolist() for latent in self.activations},
        }


def top_features(
    prompt: str,
    *,
    sae: str = loading.DEFAULT,
    model: str | None = None,
    k: int = 10,
    position: Position = "last",
    labels: Mapping[int, str] | str | Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | None = None,
) -> TopFeatures:
    """The latents that a prompt drives most, token by token.

    Parameters
    ----------
    prompt : str
        Read with the sink token in front, which is left out of everything.
    sae : str
        A bundled name, a file or folder, a hub name; see `neurosae.sae.loading.load`.
    model : str, optional
        Default: the language model that the SAE names.
    k : int, default 10
        At most so many latents; silent ones are left out.
    position : {"last", "max", "mean"}, default "last"
        Rank by the activation at the last clean token, or by the maximum or the mean over the clean tokens.
    labels : mapping of int to str, str or Path, optional
        A label per latent, or the JSON or CSV file that holds them; see `neurosae.sae.prompt_features.read_labels`.
    device, dtype, device_map
        See `neurosae.models.load`.

    Raises
    ------
    UserError
        An empty prompt or one longer than the context, no clean token, k out of range, an unknown position, labels or
        an SAE that cannot be read.

    Examples
    --------
    >>> found = top_features("The capital of France is", k=3, labels={7: "cities"})
    >>> found.tokens["token"].tolist()
    ['The', ' capital', ' of', ' France', ' is']
    >>> found.features.columns.tolist(), found.activations.shape
    (['latent', 'value', 'peak', 'peak_token', 'label'], (5, 3))
    """
    named = read_labels(Path(labels)) if isinstance(labels, str | Path) else labels or {}
    loaded, language_model = loading.load_pair(sae, model=model, device=device, dtype=dtype, device_map=device_map)
    found = strongest_latents(language_model, loaded, prompt, k, position)
    features = described(found.features, named, neuronpedia_id(sae, model))
    site = str(loading.site_of(loaded))
    return TopFeatures(
        features, found.tokens, found.activations, found.n_active, language_model.name, sae, site, prompt, position
    )


def described(features: pd.DataFrame, labels: Mapping[int, str], neuronpedia: str | None) -> pd.DataFrame:
    """Add the columns `label` and `link`, where there are any.

    Parameters
    ----------
    features : DataFrame
        With the column `latent`.
    labels : mapping of int to str
    neuronpedia : str or None
        Neuronpedia's name of the SAE.
    """
    if labels:
        features = features.assign(label=[labels.get(latent, "") for latent in features["latent"]])
    if neuronpedia:
        features = features.assign(link=[f"https://neuronpedia.org/{neuronpedia}/{i}" for i in features["latent"]])
    return features
