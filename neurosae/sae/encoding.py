"""Activations to latents: sparse out, in blocks, so that memory is bounded by an argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from neurosae.errors import UserError
from neurosae.responses import Responses


def encode_rows(sae: Any, values_TD: np.ndarray, block_tokens: int = 2048) -> sp.csr_array:
    """Latents of activation rows.

    Parameters
    ----------
    sae : sae_lens.SAE
    values_TD : ndarray of shape (T, D)
        Raw activations, in the model's own units.
    block_tokens : int, default 2048
        Tokens encoded at once; a dense block holds ``block_tokens * F`` float32 values.

    Returns
    -------
    csr_array of shape (T, F), float32
    """
    if values_TD.shape[1] != sae.cfg.d_in:
        raise UserError(
            f"The SAE reads activations of width {sae.cfg.d_in}, the language model gives {values_TD.shape[1]}",
            where="--sae",
            suggestion="Choose an SAE that was trained on this language model",
        )
    blocks = []
    with torch.inference_mode():
        for start in range(0, len(values_TD), block_tokens):
            rows = torch.from_numpy(np.array(values_TD[start : start + block_tokens], dtype=np.float32))
            blocks.append(sp.csr_array(sae.encode(rows.to(sae.W_dec.device)).cpu().numpy()))
    return sp.csr_array(sp.vstack(blocks)) if blocks else sp.csr_array((0, sae.cfg.d_sae), dtype=np.float32)


def encode(sae: Any, responses: Responses, name: str, block_tokens: int = 2048) -> Responses:
    """The same stimuli and tokens, as latents of an SAE.

    The sink and outlier tokens stay silent: the SAE never saw their like, and their codes would be dense.
    """
    known = (responses.tokens["role"] != "sink") & responses.tokens["normal"]
    rows = np.flatnonzero(known.to_numpy(dtype=bool))
    codes = encode_rows(sae, np.asarray(responses.values[rows]), block_tokens)
    counts = np.zeros(len(responses.tokens), dtype=codes.indptr.dtype)
    counts[rows] = np.diff(codes.indptr)
    starts = np.concatenate([[0], np.cumsum(counts)])
    shape = (len(responses.tokens), codes.shape[1])
    spread = sp.csr_array((codes.data, codes.indices, starts), shape=shape)
    return responses.with_values(spread, features="latents", sae=name)
