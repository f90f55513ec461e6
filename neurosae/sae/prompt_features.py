"""Which latents does a prompt drive? The strongest ones, token by token, with labels where somebody gave them some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp

from neurosae.capture import capture
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.sae import loading, registry
from neurosae.sae.encoding import encode

Position = Literal["last", "max", "mean"]
POSITIONS: tuple[Position, ...] = get_args(Position)


@dataclass(frozen=True)
class PromptFeatures:
    """The strongest latents of one prompt.

    Attributes
    ----------
    features : DataFrame
        One row per latent, the strongest first: `latent`, `value` (at the position asked for), `peak` (position of its
        largest activation over clean tokens, 0 is the sink token) and `peak_token`. At most k rows: silent latents are
        left out.
    tokens : DataFrame of T rows
        `position`, `token`, `clean` of every token but the sink in front.
    activations : DataFrame of shape (T, number of rows of `features`)
        Activation of each of these latents (columns) at each position (index); 0 at tokens that are not clean.
    n_active : int
        Latents active at the position asked for, listed or not.
    """

    features: pd.DataFrame
    tokens: pd.DataFrame
    activations: pd.DataFrame
    n_active: int


def strongest_latents(
    language_model: LanguageModel, sae: Any, prompt: str, k: int = 10, position: Position = "last"
) -> PromptFeatures:
    """The latents that a prompt drives most.

    Parameters
    ----------
    language_model : LanguageModel
    sae : sae_lens.SAE
    prompt : str
        Read with the sink token in front, which is left out of everything.
    k : int, default 10
        At most so many latents; of equally strong ones the lower index comes first.
    position : {"last", "max", "mean"}, default "last"
        Rank by the activation at the last clean token, or by the maximum or the mean over the clean tokens.

    Raises
    ------
    UserError
        An empty prompt or one longer than the context, no clean token, k out of range, an unknown position.

    Examples
    --------
    >>> from neurosae import models
    >>> from neurosae.sae.loading import load
    >>> found = strongest_latents(models.load(), load(), "The capital of France is", k=3)
    >>> found.tokens["token"].tolist()
    ['The', ' capital', ' of', ' France', ' is']
    >>> found.features.columns.tolist(), found.activations.shape
    (['latent', 'value', 'peak', 'peak_token'], (5, 3))
    """
    if position not in POSITIONS:
        raise UserError(f"Unknown position '{position}'", where="position", allowed=", ".join(POSITIONS))
    if not 1 <= k <= sae.cfg.d_sae:
        raise UserError(f"k is {k}", where="k", allowed=f"1 to the {sae.cfg.d_sae} latents of the SAE")
    if not prompt:
        raise UserError("The prompt is empty", where="prompt")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"The prompt is no valid text ({error.reason})", where="prompt", allowed="UTF-8") from error
    site = loading.site_of(sae)
    neurons = capture(language_model, pd.DataFrame({"id": ["prompt"], "text": [prompt]}), [site])[site]
    latents = encode(sae, neurons, "latents")
    pooled = latents.pool(position)
    if not pooled.valid_S[0]:
        raise UserError(
            "The prompt has no clean token: the norms of all its tokens lie far above the usual",
            where="prompt",
            suggestion="Add a few words",
        )
    value_F = sp.csr_array(pooled.values_SF).toarray()[0].astype(float)
    strongest = np.argsort(-value_F, kind="stable")[: min(k, int((value_F > 0).sum()))]
    # The sink token is the first row; template tokens there are none.
    tokens = latents.tokens[["position", "token", "clean"]].iloc[1:].reset_index(drop=True)
    clean_T = tokens["clean"].to_numpy(dtype=bool)
    values_TK = sp.csc_array(latents.values)[:, strongest].toarray()[1:] * clean_T[:, None]
    peak_K = values_TK.argmax(axis=0)
    features = pd.DataFrame(
        {
            "latent": strongest,
            "value": value_F[strongest],
            "peak": tokens["position"].to_numpy()[peak_K],
            "peak_token": tokens["token"].to_numpy()[peak_K],
        }
    )
    index = pd.Index(tokens["position"], name="position")
    activations = pd.DataFrame(values_TK, index=index, columns=pd.Index(strongest, name="latent"))
    return PromptFeatures(features, tokens, activations, int((value_F > 0).sum()))


def read_labels(path: Path) -> dict[int, str]:
    """Labels by latent: a JSON object, or CSV with the columns `latent` (or `index`) and `label`.

    Raises
    ------
    UserError
        A missing or broken file, another format, an index that is no integer from 0.
    """
    try:
        if path.suffix == ".json":
            rows = _labels_of_json(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False).rename(columns={"index": "latent"})
            rows = dict(zip(table["latent"], table["label"], strict=True))
        else:
            raise UserError(f"{path} has a format that is not known", where="labels", allowed=".json, .csv")
        labels = {int(latent): label for latent, label in rows.items()}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} holds no labels ({error})",
            where="labels",
            allowed='{"17": "a label"} in JSON, or CSV with the columns latent and label',
        ) from error
    if min(labels, default=0) < 0:
        raise UserError(f"{path} labels latent {min(labels)}", where="labels", allowed="indices from 0")
    return labels


def _labels_of_json(content: Any) -> Mapping[str, str]:
    if not isinstance(content, dict) or not all(isinstance(label, str) for label in content.values()):
        raise ValueError("not an object of index to text")
    return content


def neuronpedia_id(spec: str, model: str | None = None) -> str | None:
    """Where Neuronpedia shows an SAE of SAELens' registry; None for any other, and where it does not.

    The page of a latent is ``https://neuronpedia.org/ID/LATENT``.

    Examples
    --------
    >>> neuronpedia_id("llama_scope_lxr_8x/l31r_8x")
    'llama3.1-8b/31-llamascope-res-32k'
    """
    name, _ = loading.split(spec)
    if name in loading.bundled() or Path(name).exists():
        return None
    return registry.resolve(name, model).neuronpedia
