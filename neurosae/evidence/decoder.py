"""What a direction of the residual stream says by itself: the latents beside it, and the tokens it promotes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neurosae.errors import UserError
from neurosae.models import LanguageModel

Array = NDArray[np.float64]

LOGIT_NOTE = (
    "Direct effect on the next token: the feature's direction, scaled by the weights of the final norm, times the "
    "unembedding, less its mean over the vocabulary. What later blocks do with the direction and the division by the "
    "norm's length are left out (the logit lens: nostalgebraist 2020; Elhage et al. 2021)."
)


def decoder_rows(sae: Any, features_K: ArrayLike) -> Array:
    """Directions [K, d_model] that these latents write."""
    rows: Array = sae.W_dec.detach()[np.asarray(features_K)].double().cpu().numpy()
    return rows


def neurons(features_K: ArrayLike, d_model: int) -> Array:
    """Directions [K, d_model] of neurons: basis vectors.

    Examples
    --------
    >>> neurons([1], 3).tolist()
    [[0.0, 1.0, 0.0]]
    """
    return np.eye(d_model)[np.asarray(features_K)]


def neighbours(sae: Any, feature: int, n: int = 5) -> list[dict[str, Any]]:
    """Latents with the most similar decoder rows, nearest first.

    Parameters
    ----------
    sae : SAE
        With decoder `W_dec` [F, d_model].
    feature : int
    n : int, default 5

    Returns
    -------
    list of dict
        `feature` and `cosine`, without the latent itself.
    """
    W_dec = sae.W_dec.detach()
    unit_FD = W_dec / W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12)
    cosine_F = (unit_FD @ unit_FD[feature]).double().cpu().numpy()
    cosine_F[feature] = -np.inf
    order = np.argsort(-cosine_F, kind="stable")[:n]
    return [{"feature": int(other), "cosine": round(float(cosine_F[other]), 4)} for other in order]


def logit_effects(language_model: LanguageModel, directions_KD: Array, n: int = 10) -> list[dict[str, Any]]:
    """Tokens that a step along each direction makes more and less likely, all else equal; `LOGIT_NOTE` says how.

    Parameters
    ----------
    language_model : LanguageModel
    directions_KD : array [K, d_model]
        In the units of the residual stream.
    n : int, default 10
        Tokens at either end.

    Returns
    -------
    list of K dict
        `promoted` and `suppressed`, each a list of {`token`, `value`}, the strongest first.

    Raises
    ------
    UserError
        A model without unembedding, or of another width.

    Examples
    --------
    >>> from neurosae import models
    >>> language_model = models.load()
    >>> found = logit_effects(language_model, neurons([7], language_model.d_model), n=2)[0]
    >>> [row["value"] > 0 for row in found["promoted"]], [row["value"] > 0 for row in found["suppressed"]]
    ([True, True], [False, False])
    """
    head = language_model.plain.get_output_embeddings()  # type: ignore[operator]
    if head is None or directions_KD.shape[1] != language_model.d_model:
        raise UserError("These directions cannot be read out as tokens", where=language_model.name)
    scale_D, centred = final_norm(language_model)
    if centred:
        directions_KD = directions_KD - directions_KD.mean(axis=1, keepdims=True)
    scaled_KD = torch.from_numpy(directions_KD * scale_D).to(head.weight)
    with torch.inference_mode():
        logits_KV = (scaled_KD @ head.weight.T).double().cpu().numpy()
    logits_KV -= logits_KV.mean(axis=1, keepdims=True)
    return [
        {"promoted": _ends(language_model, v, n), "suppressed": _ends(language_model, -v, n, -1)} for v in logits_KV
    ]


def final_norm(language_model: LanguageModel) -> tuple[Array, bool]:
    """Weights of the final norm [d_model], and whether it takes the mean out.

    Both are measured on a vector of ones and minus ones, which every norm returns times its weights; that way the
    architectures that store the weights less one need no special case.
    """
    norm = language_model.plain.get_submodule(str(language_model.bridge.ln_final.name))
    signs_D = torch.ones(language_model.d_model, device=language_model.device)
    signs_D[1::2] = -1
    signs_D = signs_D.to(next(norm.parameters()).dtype)
    with torch.inference_mode():
        up_D, down_D, shifted_D = (norm(x[None, None])[0, 0].double() for x in (signs_D, -signs_D, signs_D + 1))
    scale_D: Array = ((up_D - down_D) / 2 * signs_D.double()).cpu().numpy()
    return scale_D, bool(torch.allclose(up_D, shifted_D, rtol=1e-2, atol=1e-2 * float(up_D.abs().max())))


def _ends(language_model: LanguageModel, value_V: Array, n: int, sign: int = 1) -> list[dict[str, Any]]:
    order = np.argsort(-value_V, kind="stable")[:n]
    return [{"token": language_model.tokenizer.decode([v]), "value": round(sign * float(value_V[v]), 4)} for v in order]
