"""How good is an SAE: reconstruction, sparsity, dead latents, and what the language model loses with it spliced in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurosae.errors import UserError
from neurosae.forward import pad, stream
from neurosae.models import LanguageModel
from neurosae.norms import LIMIT, median_norms
from neurosae.sae.examples import StrongestTexts
from neurosae.sae.latents import DENSE, Usage
from neurosae.sae.loading import check_width, site_of
from neurosae.sae.splicing import clean_mask, losses, reconstruct


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
    mse : float
        Mean squared error per dimension on clean tokens, in the model's own units.
    l0 : float
        Active latents per clean token.
    dead, dense : float
        Share of latents that never fired on these texts, and that fired on more than 10 % of the clean tokens.
    ce, ce_spliced, ce_zero, ce_mean : float
        Cross-entropy in nats per token without and with the reconstruction in place of the clean activations, and with
        zeros or the mean clean activation there.
    kl : float
        KL divergence in nats per token from the model's prediction to the one with the reconstruction.
    n_tokens, n_texts : int
        Clean tokens and texts behind the first figures.
    n_spliced_tokens : int
        Predicted tokens behind the cross-entropies.
    """

    fvu_clean: float
    fvu_naive: float
    fvu_uncentred: float
    mse: float
    l0: float
    dead: float
    dense: float
    ce: float
    ce_spliced: float
    ce_zero: float
    ce_mean: float
    kl: float
    n_tokens: int
    n_texts: int
    n_spliced_tokens: int

    @property
    def loss_recovered(self) -> float | None:
        """1 - (CE spliced - CE) / (CE zero-ablated - CE); None where `loss_recovered_reason` says why."""
        if self.loss_recovered_reason:
            return None
        return 1 - (self.ce_spliced - self.ce) / (self.ce_zero - self.ce)

    @property
    def loss_recovered_reason(self) -> str:
        """Why there is no share of recovered loss; empty if there is one."""
        return "" if self.ce_zero > self.ce else "zeros in place of the activations do not raise the cross-entropy"

    def as_dict(self) -> dict[str, float | None]:
        """Figures with six significant digits, the recovered loss among them."""
        figures = asdict(self) | {"loss_recovered": self.loss_recovered}
        return {name: value if value is None else _significant(value) for name, value in figures.items()}


@dataclass(frozen=True)
class Measurement:
    """Everything one pass over the texts tells.

    Attributes
    ----------
    evaluation : Evaluation
    tokens_by_l0 : ndarray of shape (F + 1,), int
        Number of clean tokens with 0, 1, 2, ... active latents.
    latents : DataFrame
        One row per latent, as `neurosae.sae.latents.Usage.table` makes it; clean tokens only.
    strongest : StrongestTexts
        The texts on which each latent is strongest.
    """

    evaluation: Evaluation
    tokens_by_l0: np.ndarray
    latents: pd.DataFrame
    strongest: StrongestTexts


class _Moments:
    """Streaming float64 sums for a centred fraction of variance unexplained."""

    def __init__(self, width: int) -> None:
        self.n, self.error, self.square = 0, 0.0, 0.0
        self.total = torch.zeros(width, dtype=torch.float64)

    def add(self, x: torch.Tensor, reconstruction: torch.Tensor) -> None:
        x64 = x.cpu().double()
        self.n += len(x)
        self.error += float((x64 - reconstruction.cpu().double()).square().sum())
        self.square += float(x64.square().sum())
        self.total += x64.sum(0)

    def fvu(self, *, centred: bool = True) -> float:
        around = self.square - (float(self.total.square().sum()) / self.n if centred else 0.0)
        if around <= 1e-12 * self.square:
            raise UserError("These texts have no variance to explain", suggestion="Measure on more than one token")
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
    """The figures of `measure` alone; no texts are remembered.

    Examples
    --------
    >>> from neurosae import models, norms
    >>> from neurosae.sae import loading
    >>> texts = norms.calibration_texts()[:4]
    >>> figures = evaluate(loading.load(), models.load(), texts, context=16, spliced_texts=2)
    >>> 0 < figures.fvu_clean < 0.5 < figures.loss_recovered < 1
    True
    """
    return measure(
        sae,
        language_model,
        texts,
        context=context,
        batch_size=batch_size,
        spliced_texts=spliced_texts,
        n_strongest=0,
    ).evaluation


def measure(
    sae: Any,
    language_model: LanguageModel,
    texts: Sequence[str],
    *,
    context: int = 256,
    batch_size: int = 8,
    spliced_texts: int = 40,
    n_strongest: int = 20,
    progress: bool = False,
) -> Measurement:
    """Measure an SAE on held-out texts.

    Parameters
    ----------
    sae : sae_lens.SAE
        On any device.
    language_model : LanguageModel
    texts : sequence of str
    context : int, default 256
        Longest context in tokens.
    batch_size : int, default 8
        Texts at once: codes of ``batch_size * context`` tokens are held, and logits of as many for two passes.
    spliced_texts : int, default 40
        Cross-entropy needs the whole model four times, so it is measured on the first so many texts only.
    n_strongest : int, default 20
        Texts remembered per latent; 0 saves the sorting.
    progress : bool, default False

    Raises
    ------
    UserError
        No texts or no clean token in them; an SAE of another width, of a block that the model does not have, or one
        that predicts another site than it reads (a transcoder); activations that are not finite.

    References
    ----------
    Gao et al. (2024), Scaling and evaluating sparse autoencoders; Bricken et al. (2023), Towards monosemanticity (loss
    recovered against zero-ablation); Karvonen et al. (2025), SAEBench.
    """
    _check(sae, language_model, texts)
    site = site_of(sae)
    ids = language_model.token_ids(texts, min(context, language_model.context))
    limit = LIMIT * median_norms(language_model, [site])[site]
    clean, naive, usage = _Moments(sae.cfg.d_in), _Moments(sae.cfg.d_in), Usage(sae.cfg.d_sae)
    strongest = StrongestTexts(sae.cfg.d_sae, n_strongest, sae.W_dec.device)
    for rows, (x_BTD,) in stream(language_model, ids, [site], batch_size=batch_size, progress=progress):
        _, real_BT = pad([ids[row] for row in rows], language_model.sink_token)
        mask_BT, real_BT = clean_mask(x_BTD, real_BT, limit), real_BT.to(x_BTD.device)
        x_TD, is_clean_T = x_BTD[real_BT].float(), mask_BT[real_BT]
        with torch.inference_mode():
            codes_TF, decoded_TD = reconstruct(sae, x_TD)
        naive.add(x_TD, decoded_TD)
        kept_T = is_clean_T.to(codes_TF.device)
        clean.add(x_TD[is_clean_T], decoded_TD[kept_T])
        usage.add(codes_TF[kept_T])
        text_T, token_T = mask_BT.nonzero(as_tuple=True)
        strongest.add(codes_TF[kept_T], torch.tensor(rows)[text_T.cpu()], token_T)
    if clean.n == 0:
        raise UserError("These texts have no clean token", where="corpus", allowed="texts with words in them")
    mean_D = (clean.total / clean.n).float()
    model_loss = losses(
        language_model,
        ids[:spliced_texts],
        site,
        {
            "spliced": lambda x_TD: reconstruct(sae, x_TD)[1],
            "zero": torch.zeros_like,
            "mean": lambda x_TD: mean_D.expand_as(x_TD),
        },
        limit=limit,
        batch_size=batch_size,
    )
    latents = usage.table()
    evaluation = Evaluation(
        fvu_clean=clean.fvu(),
        fvu_naive=naive.fvu(),
        fvu_uncentred=clean.fvu(centred=False),
        mse=clean.error / (clean.n * sae.cfg.d_in),
        l0=int(latents["fired"].sum()) / clean.n,
        dead=float((latents["fired"] == 0).mean()),
        dense=float((latents["density"] > DENSE).mean()),
        ce=model_loss.ce,
        ce_spliced=model_loss.ce_replaced["spliced"],
        ce_zero=model_loss.ce_replaced["zero"],
        ce_mean=model_loss.ce_replaced["mean"],
        kl=model_loss.kl["spliced"],
        n_tokens=clean.n,
        n_texts=len(texts),
        n_spliced_tokens=model_loss.n_tokens,
    )
    return Measurement(evaluation, usage.tokens_by_l0.numpy(), latents, strongest)


def _check(sae: Any, language_model: LanguageModel, texts: Sequence[str]) -> None:
    if not texts:
        raise UserError("There are no texts to measure on", where="corpus", allowed="1 or more")
    if "transcoder" in sae.cfg.architecture():
        raise UserError(
            "This is a transcoder: it predicts another site than it reads, so that it cannot be spliced in",
            where="sae",
        )
    check_width(sae, language_model)
    site_of(sae).check(language_model.n_blocks)


def _significant(value: float, digits: int = 6) -> float:
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")
