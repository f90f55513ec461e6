"""How reconstruction improves with dictionary size: figures of one SAE, and a power law over several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from neurosae.sae.encoding import decode_rows, encode_rows

MIN_WIDTHS = 4


@dataclass(frozen=True)
class PowerLaw:
    """FVU = coefficient * width ** -exponent, fitted by least squares on logarithms.

    Attributes
    ----------
    exponent, ci_low, ci_high : float
        With its 95 % interval (t distribution, n - 2 degrees of freedom); 0 where not valid.
    coefficient : float
    r2 : float
        Share of the variance of log FVU explained.
    n : int
        Widths.
    valid : bool
    reason : str
        Why there is no fit.
    """

    exponent: float
    ci_low: float
    ci_high: float
    coefficient: float
    r2: float
    n: int
    valid: bool = True
    reason: str = ""


def reconstruction(sae: Any, values_TD: np.ndarray) -> dict[str, float]:
    """Measure an SAE on clean activations that are held in memory.

    Parameters
    ----------
    sae : sae_lens.SAE
    values_TD : ndarray of shape (T, D)
        Clean tokens of texts that it was not trained on.

    Returns
    -------
    dict
        `fvu` (centred fraction of variance unexplained), `l0` (active latents per token), `dead_share` (latents that
        never fired on these tokens; the fewer tokens, the more), `n_tokens`.
    """
    codes_TF = encode_rows(sae, values_TD)
    error_TD = values_TD - decode_rows(sae, codes_TF)
    centred_TD = values_TD - values_TD.mean(0, dtype=np.float64)
    fired_F = np.bincount(codes_TF.indices, minlength=codes_TF.shape[1])
    return {
        "fvu": float(np.square(error_TD, dtype=np.float64).sum() / np.square(centred_TD).sum()),
        "l0": codes_TF.nnz / len(values_TD),
        "dead_share": float((fired_F == 0).mean()),
        "n_tokens": len(values_TD),
    }


def power_law(width_N: np.ndarray, fvu_N: np.ndarray) -> PowerLaw:
    """Fit a power law of the fraction of variance unexplained against the number of latents, at one k.

    Parameters
    ----------
    width_N : array of N int
        Four different widths or more.
    fvu_N : array of N float
        Positive.

    Notes
    -----
    There is no floor in the law (Gao et al. 2024 fit one, from many more sizes), and every width saw the same tokens,
    so that wide dictionaries are trained less far: it describes the widths measured and is not to be extrapolated.
    With too few tokens the FVU rises again with width, and there is no law.

    References
    ----------
    Gao et al. (2024), Scaling and evaluating sparse autoencoders. Templeton et al. (2024), Scaling Monosemanticity.

    Examples
    --------
    >>> widths = np.array([256, 512, 1024, 2048])
    >>> round(power_law(widths, 3 * widths**-0.25).exponent, 6)
    0.25
    """
    width_N, fvu_N = np.asarray(width_N), np.asarray(fvu_N, dtype=np.float64)
    order = np.argsort(width_N)
    n = len(np.unique(width_N))
    reason = ""
    if n < max(MIN_WIDTHS, len(width_N)):
        reason = f"fewer than {MIN_WIDTHS} widths, or one of them twice"
    elif np.min(fvu_N) <= 0:
        reason = "an FVU is not positive"
    elif np.max(np.diff(fvu_N[order])) >= 0:
        reason = "the FVU does not fall from each width to the next"
    if reason:
        return PowerLaw(0.0, 0.0, 0.0, 0.0, 0.0, n, False, reason)
    line = stats.linregress(np.log(width_N), np.log(fvu_N))
    half = float(stats.t.ppf(0.975, n - 2) * line.stderr)
    exponent = -float(line.slope)
    coefficient = float(np.exp(line.intercept))
    return PowerLaw(exponent, exponent - half, exponent + half, coefficient, float(line.rvalue) ** 2, n)
