"""How the latents of an SAE are used: how often they fire, how many at once, and how alike their directions are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

DENSE = 0.10  # a latent that fires on a larger share of the clean tokens is dense
ALIKE = 0.9  # decoder rows with a larger cosine are nearly one direction
_BIN = 0.25  # width of a bin of log10 firing density


class Usage:
    """Streaming counts: memory depends on the number of latents alone.

    Parameters
    ----------
    n_latents : int

    Attributes
    ----------
    n_tokens : int
    tokens_by_l0 : torch.Tensor of shape (F + 1,), int64
        Number of tokens with 0, 1, 2, ... active latents.
    """

    def __init__(self, n_latents: int) -> None:
        self.n_tokens = 0
        self.tokens_by_l0 = torch.zeros(n_latents + 1, dtype=torch.long)
        self._fired_F = torch.zeros(n_latents, dtype=torch.long)
        self._total_F = torch.zeros(n_latents, dtype=torch.float64)
        self._largest_F = torch.zeros(n_latents)

    def add(self, codes_TF: torch.Tensor) -> None:
        """Count the codes of more tokens."""
        if len(codes_TF) == 0:
            return
        active_TF = codes_TF > 0
        self.n_tokens += len(codes_TF)
        self.tokens_by_l0 += torch.bincount(active_TF.sum(1).cpu(), minlength=len(self.tokens_by_l0))
        self._fired_F += active_TF.sum(0).cpu()
        self._total_F += codes_TF.sum(0).cpu().double()
        self._largest_F = torch.maximum(self._largest_F, codes_TF.amax(0).cpu())

    def table(self) -> pd.DataFrame:
        """One row per latent: `latent`, `fired` (tokens), `density` (their share), `mean` over all tokens, `max`."""
        return pd.DataFrame(
            {
                "latent": np.arange(len(self._fired_F)),
                "fired": self._fired_F.numpy(),
                "density": self._fired_F.numpy() / max(1, self.n_tokens),
                "mean": self._total_F.numpy() / max(1, self.n_tokens),
                "max": self._largest_F.double().numpy(),
            }
        )


def l0_quantiles(tokens_by_l0: np.ndarray, shares: Sequence[float]) -> list[int]:
    """Smallest numbers of active latents that at least these shares of the tokens do not exceed.

    Examples
    --------
    >>> l0_quantiles(np.array([1, 0, 2, 1]), [0, 0.5, 1])
    [0, 2, 3]
    """
    below = np.cumsum(tokens_by_l0)
    wanted = np.maximum(1, np.ceil(np.asarray(shares) * below[-1]))
    return [int(number) for number in np.searchsorted(below, wanted)]


def density_histogram(density_F: np.ndarray, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of latents by log10 of their firing density; those that never fired are in no bin.

    Parameters
    ----------
    density_F : ndarray of shape (F,)
        Share of tokens on which each latent fires.
    n_tokens : int
        Tokens measured: the smallest density that could be seen is one of them.

    Returns
    -------
    counts : ndarray of shape (bins,), int
    edges : ndarray of shape (bins + 1,)
        log10 densities, 0.25 apart, from below ``1 / n_tokens`` to 0.
    """
    n_bins = max(1, int(np.ceil(np.log10(n_tokens) / _BIN)))
    edges = np.arange(-n_bins, 1) * _BIN
    counts, _ = np.histogram(np.log10(density_F[density_F > 0]), edges)
    return counts, edges


def decoder_geometry(W_dec_FD: torch.Tensor, block: int = 1024) -> pd.DataFrame:
    """Norm of every decoder row, and the other row most like it.

    Rows with a cosine near 1 are one direction learned twice.

    Parameters
    ----------
    W_dec_FD : torch.Tensor of shape (F, D)
    block : int, default 1024
        Rows compared at once with all others: bounds memory to ``block * F`` float32 values.

    Returns
    -------
    DataFrame
        One row per latent: `decoder_norm`, `largest_cosine` with another row, `nearest` (that row). A row of zeros has
        cosine 0 with every other; -1 stands where there is no other row.

    Examples
    --------
    >>> decoder_geometry(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
       decoder_norm  largest_cosine  nearest
    0           1.0             1.0        1
    1           2.0             1.0        0
    2           1.0             0.0        0
    """
    W_dec_FD = W_dec_FD.detach().float()
    norm_F = W_dec_FD.norm(dim=1)
    unit_FD = W_dec_FD / torch.where(norm_F > 0, norm_F, 1)[:, None]
    largest, nearest = [], []
    for start in range(0, len(unit_FD), block):
        cosines = unit_FD[start : start + block] @ unit_FD.T
        own = torch.arange(len(cosines), device=cosines.device)
        cosines[own, start + own] = -1
        best = cosines.max(dim=1)
        largest.append(best.values.clamp(-1, 1))
        nearest.append(best.indices)
    return pd.DataFrame(
        {
            "decoder_norm": norm_F.cpu().double().numpy(),
            "largest_cosine": torch.cat(largest).cpu().double().numpy(),
            "nearest": torch.cat(nearest).cpu().numpy(),
        }
    )
