"""Do encoder and decoder belong together? Their geometry tells, without a language model.

In a trained SAE a latent writes roughly in the direction that it reads. A matrix that was reshaped where it should have
been transposed, or latents that come in another order, destroy this for nearly all latents at once.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

# The bundled SAE has a median cosine of 0.7 (0.5 at the first percentile), and 0.00 once its decoder is reshaped or
# its latents are shuffled.
SUSPICIOUS = 0.3  # a lower median cosine makes repairs worth a try
_GAIN = 0.2  # a repair must raise the median cosine by so much, above what the best of many random directions gives
_RESHAPED, _REORDERED = "reshaped instead of transposed", "latents in another order"


@dataclass(frozen=True)
class DecoderCheck:
    """What the geometry says.

    Attributes
    ----------
    cosine : float
        Median over latents of the cosine between encoder column and decoder row; 0 is chance.
    repairs : dict of str to float
        What may be wrong with the weights, and the median cosine once it is undone; empty if encoder and decoder are
        together already, or no repair brings them together. Several may: turning the encoder relates it to the decoder
        as turning the decoder does, and only activations can tell which is right.
    """

    cosine: float
    repairs: dict[str, float]


@torch.no_grad()
def check_decoder(sae: Any) -> tuple[dict[str, Any], DecoderCheck]:
    """Compare encoder columns with decoder rows, and try repairs if they have nothing in common.

    Parameters
    ----------
    sae : sae_lens.SAE
        ``W_enc`` of shape (D, F), ``W_dec`` of shape (F, D).

    Returns
    -------
    dict of str to sae_lens.SAE
        A copy with repaired weights for each of the repairs.
    DecoderCheck

    Examples
    --------
    >>> from neurosae.sae.loading import load
    >>> repaired, decoder = check_decoder(load())
    >>> decoder.cosine > 0.5, repaired
    (True, {})
    """
    W_enc, W_dec = sae.W_enc.detach().float(), sae.W_dec.detach().float()
    cosine = paired_cosine(W_enc, W_dec)
    if cosine >= SUSPICIOUS:
        return {}, DecoderCheck(cosine, {})
    turned_enc, turned_dec = _turned(W_enc), _turned(W_dec)
    chance = math.sqrt(2 * math.log(W_dec.shape[0]) / W_dec.shape[1])  # the largest of F random cosines
    candidates = {
        f"decoder {_RESHAPED}": (W_enc, turned_dec, 0.0),
        f"encoder {_RESHAPED}": (turned_enc, W_dec, 0.0),
        f"encoder and decoder {_RESHAPED}": (turned_enc, turned_dec, 0.0),
        f"decoder {_REORDERED}": (W_enc, W_dec[_nearest_rows(W_enc, W_dec)], chance),
    }
    repaired, repairs = {}, {}
    for name, (enc, dec, expected) in candidates.items():
        after = paired_cosine(enc, dec)
        if after - expected >= cosine + _GAIN:
            repaired[name], repairs[name] = _with_weights(sae, enc, dec), after
    return repaired, DecoderCheck(cosine, repairs)


def _with_weights(sae: Any, W_enc_DF: torch.Tensor, W_dec_FD: torch.Tensor) -> Any:
    other = copy.deepcopy(sae)
    other.W_enc.data, other.W_dec.data = W_enc_DF.to(sae.W_enc.dtype), W_dec_FD.to(sae.W_dec.dtype)
    return other


def paired_cosine(W_enc_DF: torch.Tensor, W_dec_FD: torch.Tensor) -> float:
    """Median over latents of the cosine between what a latent reads and what it writes; 0 for rows of zeros."""
    return float((normalize(W_enc_DF, dim=0).T * normalize(W_dec_FD, dim=1)).sum(1).median())


def _turned(matrix: torch.Tensor) -> torch.Tensor:
    """Undo a reshape that should have been a transposition; of a square matrix this is the transpose."""
    return matrix.reshape(matrix.shape[1], matrix.shape[0]).T.contiguous()


def _nearest_rows(W_enc_DF: torch.Tensor, W_dec_FD: torch.Tensor, block: int = 1024) -> torch.Tensor:
    """For every latent the decoder row that is nearest to its encoder column; a block of columns at a time."""
    rows = normalize(W_dec_FD, dim=1)
    return torch.cat([(part.T @ rows.T).argmax(1) for part in normalize(W_enc_DF, dim=0).split(block, dim=1)])
