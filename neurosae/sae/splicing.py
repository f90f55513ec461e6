"""What the language model loses when the clean activations at a site are replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neurosae.errors import UserError
from neurosae.forward import Change, at_site, batches, pad
from neurosae.models import LanguageModel
from neurosae.sites import Site

Replacement = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Losses:
    """What the language model says about the next token, per token, with and without replaced activations.

    Attributes
    ----------
    ce : float
        Cross-entropy in nats of the model as it is.
    ce_replaced : dict of str to float
        Cross-entropy in nats with each replacement.
    kl : dict of str to float
        KL divergence in nats from the model's prediction to the one with each replacement.
    n_tokens : int
        Predicted tokens: all but the sink token in front.
    """

    ce: float
    ce_replaced: dict[str, float]
    kl: dict[str, float]
    n_tokens: int


def clean_mask(x_BTD: torch.Tensor, real_BT: torch.Tensor, limit: float) -> torch.Tensor:
    """Real tokens without the sink in front and without outliers, as `neurosae.sae.activations.clean_batches` has them.

    Parameters
    ----------
    x_BTD : torch.Tensor
        Activations of a right-padded batch.
    real_BT : torch.Tensor of bool
        Where there is a token, the sink included.
    limit : float
        Positions with a larger norm are outliers.

    Raises
    ------
    UserError
        Activations of a token, the sink included, that are not finite.
    """
    norm_BT, real_BT = x_BTD.float().norm(dim=-1), real_BT.to(x_BTD.device)
    if not torch.isfinite(norm_BT[real_BT]).all():
        raise UserError(
            "The language model gives activations that are not finite",
            where="dtype",
            suggestion="Choose bfloat16 or float32: float16 overflows in many models",
        )
    mask_BT = real_BT & (norm_BT <= limit)
    mask_BT[:, 0] = False
    return mask_BT


def reconstruct(sae: Any, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (T, F) and reconstructions (T, D) in float32, on the SAE's device."""
    codes_TF = sae.encode(x_TD.to(sae.W_dec.device, sae.W_dec.dtype))
    return codes_TF.float(), sae.decode(codes_TF).float()


def losses(
    language_model: LanguageModel,
    ids: Sequence[Sequence[int]],
    site: Site,
    replacements: dict[str, Replacement],
    *,
    limit: float,
    batch_size: int = 8,
) -> Losses:
    """Run texts through the language model as it is, and once with each replacement at a site.

    Parameters
    ----------
    language_model : LanguageModel
    ids : sequence of sequences of int
        Token ids, the sink token in front.
    site : Site
    replacements : dict of str to callable
        Each maps the clean activations of a batch, (n, d_model) in float32, to what takes their place. The sink token
        and outliers stay as they are.
    limit : float
        Norm above which a position is an outlier.
    batch_size : int, default 8
        Texts at once; the logits of two passes are held.

    Raises
    ------
    UserError
        No text has a token to predict; activations that are not finite.
    """
    ids = [row for row in ids if len(row) > 1]
    if not ids:
        raise UserError("None of these texts has a token to predict", where="corpus")
    ce, n_tokens = 0.0, 0
    ce_replaced, kl = dict.fromkeys(replacements, 0.0), dict.fromkeys(replacements, 0.0)
    for rows in batches(ids, batch_size):
        tokens_BT, real_BT = pad([ids[row] for row in rows], language_model.sink_token)
        plain = _logits(language_model, tokens_BT, site, lambda _: None)
        ce += _compare(plain, plain, tokens_BT, real_BT)[0]
        n_tokens += int(real_BT[:, 1:].sum())
        for name, replace in replacements.items():
            logits = _logits(language_model, tokens_BT, site, _change(replace, real_BT, limit))
            more = _compare(logits, plain, tokens_BT, real_BT)
            ce_replaced[name] += more[0]
            kl[name] += more[1]
    return Losses(
        ce / n_tokens,
        {name: total / n_tokens for name, total in ce_replaced.items()},
        {name: total / n_tokens for name, total in kl.items()},
        n_tokens,
    )


def _change(replace: Replacement, real_BT: torch.Tensor, limit: float) -> Change:
    def change(x_BTD: torch.Tensor) -> torch.Tensor:
        changed, mask_BT = x_BTD.clone(), clean_mask(x_BTD, real_BT, limit)
        changed[mask_BT] = replace(x_BTD[mask_BT].float()).to(changed)
        return changed

    return change


def _logits(language_model: LanguageModel, tokens_BT: torch.Tensor, site: Site, change: Change) -> torch.Tensor:
    with at_site(language_model, site, change), torch.inference_mode():
        output = language_model.plain(input_ids=tokens_BT.to(language_model.device), use_cache=False)
    logits: torch.Tensor = output.logits
    return logits


def _compare(
    logits_BTV: torch.Tensor, plain_BTV: torch.Tensor, tokens_BT: torch.Tensor, real_BT: torch.Tensor
) -> tuple[float, float]:
    """Summed cross-entropy, and summed KL divergence from the plain prediction; text by text, to bound memory."""
    ce, kl = 0.0, 0.0
    for logits, plain, tokens, length in zip(logits_BTV, plain_BTV, tokens_BT, real_BT.sum(1).tolist(), strict=True):
        log_q = logits[: length - 1].float().log_softmax(-1)
        log_p = plain[: length - 1].float().log_softmax(-1)
        ce -= float(log_q.gather(1, tokens[1:length, None].to(log_q.device)).sum())
        # Rounding alone can make the divergence of equal predictions negative.
        kl += float((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0).sum())
    return ce, kl
