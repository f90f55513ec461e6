"""Contrast maps: what a mass-univariate test found over blocks x aligned positions x features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from neurosae.errors import UserError
from neurosae.inference.clusters import ClusterTest, cluster_test
from neurosae.rsa.results import Reason

Array = NDArray[np.float64]

LARGEST_Z = 37.0  # of a p-value that float64 still resolves


def adjusted(r2: Array, df: Array) -> Array:
    """Adjust explained variance for what chance explains with `df` residual degrees of freedom.

    Examples
    --------
    >>> adjusted(np.array([0.1, 1.0]), np.array([9.0, 9.0])).round(12) + 0.0
    array([0., 1.])
    """
    return 1 - (1 - r2) * (df + 1) / np.maximum(df, 1)


@dataclass(frozen=True, eq=False)
class ContrastMap:
    """Tests of one contrast in every cell (block x position) and feature; arrays [L, W, F], W = 1 when pooled.

    Never NaN: where `reason` says that a test means nothing, effect, se, t and d are 0, p and p_corrected 1.
    """

    contrast: str
    """Name of the contrast or of the parametric modulator."""
    design: str
    """One of `neurosae.inference.DESIGNS`: what is exchangeable and what the unit of analysis is."""
    covariates: tuple[str, ...]
    blocks_L: NDArray[np.intp]
    """Blocks of the language model, ascending."""
    stream: str
    positions_W: NDArray[Any]
    """Tokens from the reference of the alignment; or the name of the pooling."""
    features_F: NDArray[np.intp]
    """Neurons or latents."""
    shared_axis: bool
    """Whether a feature is the same thing at every block: true of neurons and of a single block."""
    effect: NDArray[np.float32]
    """Target minus foil, in the feature's own units; for a modulator the slope."""
    se: NDArray[np.float32]
    t: Array
    """Signed statistic."""
    d: NDArray[np.float32]
    """Cohen's d; d_z for pairs and interactions. See `neurosae.inference.linear.LinearTest`."""
    p: Array
    """Uncorrected, parametric."""
    p_corrected: Array
    """Corrected over every valid test of the whole map."""
    reason: NDArray[np.int8]
    """Codes of `neurosae.rsa.Reason`; TOO_FEW_STIMULI where the whole cell is masked."""
    n_LW: NDArray[np.intp]
    """Stimuli in every cell."""
    df_LW: Array
    """Degrees of freedom; 0 in masked cells."""
    height_control: str | None
    alpha: float
    two_sided: bool
    null_LWB: Array | None
    """With ``height_control='fwe'``, `r2_LW` under every arrangement; the t where there is a single feature."""
    smallest_p: float
    """Smallest corrected p that the arrangements can give; 0 where none were used."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Boolean [L, W, F], True where a test means something."""
        return np.isin(self.reason, (Reason.OK, Reason.PERFECT_SEPARATION))

    @property
    def tested_LW(self) -> NDArray[np.bool_]:
        """Cells that are not masked."""
        return self.df_LW > 0

    @property
    def significant(self) -> NDArray[np.bool_]:
        """Boolean [L, W, F], True where the corrected p is at most alpha."""
        return self.valid & (self.p_corrected <= self.alpha)

    @property
    def r2_LW(self) -> Array:
        """Share of variance that the contrast explains beside the nuisance columns, mean over a cell's valid features.

        Adjusted for degrees of freedom (Wherry's formula): 0 on average without an effect, whatever n. A rising
        function of t squared, in which no single perfect separation counts for everything.
        """
        valid, t2 = self.valid, self.t**2
        r2 = np.where(valid, t2 / np.where(valid, t2 + self.df_LW[:, :, None], 1.0), 0.0).sum(axis=2)
        n_valid = valid.sum(axis=2)
        return np.where(n_valid > 0, adjusted(r2 / np.maximum(n_valid, 1), self.df_LW), 0.0)

    def thresholded(self) -> Array:
        """The t of significant tests, 0 elsewhere; [L, W, F]."""
        return np.where(self.significant, self.t, 0.0)

    def peaks(self, n: int = 20) -> pd.DataFrame:
        """The n valid tests with the smallest p (of equal ones the largest |t|).

        Returns
        -------
        DataFrame
            Columns `block`, `position`, `feature`, `n`, `effect`, `t`, `d`, `p`, `p_corrected`.
        """
        cells = np.flatnonzero(self.valid)
        order = np.lexsort((-np.abs(self.t.ravel()[cells]), self.p.ravel()[cells]))
        return self._rows(cells[order[:n]]).drop(columns=["se", "reason"])

    def to_frame(self) -> pd.DataFrame:
        """Every test, valid or not, as one row; `reason` is the name of its `neurosae.rsa.Reason`."""
        return self._rows(np.arange(self.t.size))

    def cells(self) -> pd.DataFrame:
        """One row per cell: `block`, `position`, `n`, `masked`, `valid` and `significant` (features), `r2` (mean)."""
        block_C, position_C = np.indices(self.n_LW.shape).reshape(2, -1)
        return pd.DataFrame(
            {
                "block": self.blocks_L[block_C],
                "position": self.positions_W[position_C],
                "n": self.n_LW.ravel(),
                "masked": ~self.tested_LW.ravel(),
                "valid": self.valid.sum(axis=2).ravel(),
                "significant": self.significant.sum(axis=2).ravel(),
                "r2": self.r2_LW.ravel(),
            }
        )

    def clusters(self, threshold: float = 3.1) -> ClusterTest:
        """Test clusters of neighbouring cells by their mass, over block x position.

        With a single feature the map is its t as z. With more it is the mean r2 of the cell, standardised by its mean
        and standard deviation over the observed and all permuted labels (a z, one-sided), so that cells with different
        degrees of freedom compare. r2 has no sign: effects of both directions count, also in a one-sided map.

        Parameters
        ----------
        threshold : float, default 3.1
            Above 0; z that cells must reach to form clusters. Choose it before looking at the map.

        Returns
        -------
        ClusterTest
            With the block numbers and positions of this map in its table.

        Raises
        ------
        UserError
            A map without permutations (``height_control`` other than ``'fwe'``), or of one latent in several blocks:
            latents of different SAEs share no axis.
        """
        if self.null_LWB is None:
            raise UserError(
                "Clusters are tested by permutation, and this map was made without",
                suggestion="Use height_control='fwe'",
            )
        single = len(self.features_F) == 1
        if single and not self.shared_axis:
            raise UserError("Latents of different SAEs share no axis", suggestion="Use neurons, or a single block")
        map_LWB = self._single_z() if single else self._r2_z(self.null_LWB)
        tail = "two-sided" if single and self.two_sided else "greater"
        null_BLW = np.moveaxis(map_LWB[:, :, 1:], 2, 0)
        found = cluster_test(map_LWB[:, :, 0], null_BLW, threshold, mask_LW=self.tested_LW, tail=tail)
        table = found.table.assign(
            block=self.blocks_L[found.table["block"]], position=self.positions_W[found.table["position"]]
        )
        return ClusterTest(table, found.labels_LW, found.null_max_B, found.smallest_p)

    def _single_z(self) -> Array:
        """The feature's t as z, observed and permuted, [L, W, 1 + B]."""
        assert self.null_LWB is not None
        t_LWB = np.concatenate([self.t, self.null_LWB], axis=2)
        tail_LWB = stats.t.sf(np.abs(t_LWB), np.maximum(self.df_LW, 1)[:, :, None])
        return np.sign(t_LWB) * np.minimum(stats.norm.isf(tail_LWB), LARGEST_Z)

    def _r2_z(self, null_LWB: Array) -> Array:
        """Mean r2, observed and permuted, standardised over both; [L, W, 1 + B]."""
        r2_LWB = np.concatenate([self.r2_LW[:, :, None], null_LWB], axis=2)
        spread_LW1 = r2_LWB.std(axis=2, keepdims=True)
        return (r2_LWB - r2_LWB.mean(axis=2, keepdims=True)) / np.where(spread_LW1 > 0, spread_LW1, 1.0)

    def _rows(self, cells: NDArray[np.intp]) -> pd.DataFrame:
        """These tests, by their place in the flattened arrays."""
        block_C, position_C, feature_C = np.unravel_index(cells, self.t.shape)
        columns = {name: getattr(self, name).ravel()[cells] for name in ("effect", "se", "t", "d", "p", "p_corrected")}
        reasons = np.array([reason.name.lower() for reason in Reason], dtype=object)
        return pd.DataFrame(
            {
                "block": self.blocks_L[block_C],
                "position": self.positions_W[position_C],
                "feature": self.features_F[feature_C],
                "n": self.n_LW[block_C, position_C],
                **columns,
                "reason": reasons[self.reason.ravel()[cells]],
            }
        )
