"""How good is an SAE: reconstruction, sparsity, dead latents, and what the language model loses with it spliced in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from neurosae.forward import Change, at_site, batches, pad, stream
from neurosae.models import LanguageModel
from neurosae.norms import LIMIT, median_norms
from neurosae.sae.loading import site_of
from neurosae.sites import Site


@dataclass(frozen=True)
class Evaluation:
    """Figures of one SAE on held-out texts.

    Attributes
    ----------
    fvu_clean : float
        Fraction of variance unexplained on clean tokens, centred: squared error over squared distance from the mean.
    fvu_naive : float
        The same with sink and outlier tokens left in. Their norms rule both error and variance, so that it says
        nothing about the rest: far too good for an SAE trained on them, above 1 for one that never saw them.
    fvu_uncentred : float
        Clean tokens, squared error over squared norm.
    l0 : float
        Active latents per clean token.
    dead : float
        Share of latents that never fired on these texts.
    ce, ce_spliced : float
        Cross-entropy in nats per token without and with the reconstruction in place of the clean activations.
    n_tokens, n_texts : int
    """

    fvu_clean: float
    fvu_naive: float
    fvu_uncentred: float
    l0: float
    dead: float
    ce: float
    ce_spliced: float
    n_tokens: int
    n_texts: int

    def as_dict(self) -> dict[str, float]:
        """Figures rounded for a card."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


class _Moments:
    """Streaming float64 sums for a centred fraction of variance unexplained."""

    def __init__(self, width: int) -> None:
        self.n, self.error, self.square = 0, 0.0, 0.0
        self.total = torch.zeros(width, dtype=torch.float64)

    def add(self, x: torch.Tensor, reconstruction: torch.Tensor) -> None:
        x64 = x.double()
        self.n += len(x)
        self.error += float((x64 - reconstruction.double()).square().sum())
        self.square += float(x64.square().sum())
        self.total += x64.sum(0)

    def fvu(self, *, centred: bool = True) -> float:
        around = self.square - (float(self.total.square().sum()) / self.n if centred else 0.0)
        return self.error / around


def evaluate(
    sae: Any,
    language_model: LanguageModel,
    texts: Sequence[str],
    *,
    context: int = 256,
    batch_size: int = 8,
    spliced_texts: int = 40,
) -> Evaluation:
    """Measure an SAE on held-out texts.

    Parameters
    ----------
    sae : sae_lens.SAE
    language_model : LanguageModel
    texts : sequence of str
    context : int, default 256
        Longest context in tokens.
    batch_size : int, default 8
    spliced_texts : int, default 40
        Cross-entropy needs the whole model twice, so it is measured on the first so many texts only.
    """
    ids = language_model.token_ids(texts, context)
    site = site_of(sae)
    limit = LIMIT * median_norms(language_model, [site])[site]
    clean, naive, active, fired = _reconstruct(sae, language_model, ids, limit, batch_size)
    ce, ce_spliced = _splice(sae, language_model, ids[:spliced_texts], limit, batch_size)
    return Evaluation(
        fvu_clean=clean.fvu(),
        fvu_naive=naive.fvu(),
        fvu_uncentred=clean.fvu(centred=False),
        l0=active / clean.n,
        dead=float((~fired).float().mean()),
        ce=ce,
        ce_spliced=ce_spliced,
        n_tokens=clean.n,
        n_texts=len(texts),
    )


def _reconstruct(
    sae: Any, language_model: LanguageModel, ids: list[list[int]], limit: float, batch_size: int
) -> tuple[_Moments, _Moments, int, torch.Tensor]:
    """Moments over clean and over all tokens, number of active (token, latent) cells, which latents fired."""
    clean, naive = _Moments(sae.cfg.d_in), _Moments(sae.cfg.d_in)
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    active = 0
    for rows, (activations,) in stream(language_model, ids, [site_of(sae)], batch_size=batch_size):
        x = activations.float().cpu()
        _, real = pad([ids[row] for row in rows], language_model.sink_token)
        mask = _clean(x, real, limit)
        with torch.inference_mode():
            codes = sae.encode(x[real])
            decoded = sae.decode(codes)
        naive.add(x[real], decoded)
        clean.add(x[mask], decoded[mask[real]])
        active_TF = codes[mask[real]] > 0
        fired |= active_TF.any(0)
        active += int(active_TF.sum())
    return clean, naive, active, fired


def _splice(
    sae: Any, language_model: LanguageModel, ids: list[list[int]], limit: float, batch_size: int
) -> tuple[float, float]:
    """Cross-entropy per token, plain and with clean activations replaced by their reconstruction."""
    site, sums, n = site_of(sae), [0.0, 0.0], 0

    def reconstruct(activation: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        changed, x = activation.clone(), activation.float().cpu()
        mask = _clean(x, real, limit)
        changed[mask.to(changed.device)] = sae.decode(sae.encode(x[mask])).to(changed)
        return changed

    for rows in batches(ids, batch_size):
        tokens, real = pad([ids[row] for row in rows], language_model.sink_token)
        changes = (lambda x: x, lambda x, real=real: reconstruct(x, real))
        for i, change in enumerate(changes):
            logits = _logits(language_model, tokens, site, change)
            sums[i] += _cross_entropy(logits, tokens, real[:, 1:])
        n += int(real[:, 1:].sum())
    return sums[0] / n, sums[1] / n


def _clean(x: torch.Tensor, real: torch.Tensor, limit: float) -> torch.Tensor:
    """Real tokens without the sink in front and without outliers."""
    mask = real & (x.norm(dim=-1) <= limit)
    mask[:, 0] = False
    return mask


def _logits(language_model: LanguageModel, tokens: torch.Tensor, site: Site, change: Change) -> torch.Tensor:
    """Logits of a pass in which `change` maps the activation at the site."""
    with at_site(language_model, site, change), torch.inference_mode():
        logits: torch.Tensor = language_model.plain(input_ids=tokens.to(language_model.device), use_cache=False).logits
    return logits.cpu()


def _cross_entropy(logits: torch.Tensor, tokens: torch.Tensor, predicted: torch.Tensor) -> float:
    chosen = logits[:, :-1][predicted].float()
    return float(torch.nn.functional.cross_entropy(chosen, tokens[:, 1:][predicted], reduction="sum"))
