"""Where a concept emerges: peak and half rise with intervals over items, and increments from block to block.

The curve is the AUROC of the mean held-out decisions. Resampling the scored stimuli leaves out that other stimuli would
have trained other decoders: tests and intervals from it alone find an increment between equally good blocks in up to a
quarter of data sets. Standard errors are therefore those of Nadeau & Bengio (2003) for cross-validation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from neurosae.errors import UserError
from neurosae.inference import bootstrap_interval, max_t, permutation_p
from neurosae.sweep.contrast import EMBEDDING

Array = NDArray[np.float64]

TIED = 1e-12  # decisions this close, relative to the largest, are ties, as in `neurosae.decoding.auroc`


class BlockInterval(NamedTuple):
    """A block and its 95 % bootstrap interval, in numbers of blocks."""

    block: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Emergence:
    """What the curve of AUROC over blocks does."""

    curve: pd.DataFrame
    """One row per block: `block`, `auroc` (of the mean held-out decisions), `low`, `high` (95 %, bootstrap over groups
    of stimuli, widened for training)."""
    peak: BlockInterval
    """The block with the highest AUROC, the first of equal ones."""
    half_rise: BlockInterval
    """The first block that is at least half way from the first one of the sweep (the embeddings) to the peak."""
    increments: pd.DataFrame
    """One row per block and what it is compared with: `against` ('previous' block, 'embeddings' where they are in the
    sweep), `block`, `reference` (the block compared with), `increment` (of AUROC), `low`, `high` (95 %, likewise),
    `t`, `p_fwe` (two-sided, largest |t| over the comparisons with the same `against`)."""

    def significant(self, above_chance: Collection[int], alpha: float = 0.05) -> pd.DataFrame:
        """The significant increments whose higher block decodes above chance: a difference below chance is none.

        Parameters
        ----------
        above_chance : collection of int
            Blocks that decode above chance, corrected over blocks (`p_fwe` of `decode_by_block`).
        alpha : float, default 0.05
        """
        rows = self.increments[self.increments["p_fwe"] <= alpha]
        return rows[rows["block"].where(rows["increment"] > 0, rows["reference"]).isin(list(above_chance))]

    def first_above(self, above_chance: Collection[int], alpha: float = 0.05) -> int | None:
        """The first block above the embeddings and above chance, both corrected over blocks; None: there is none."""
        rows = self.significant(above_chance, alpha)
        passed = rows.loc[(rows["against"] == "embeddings") & (rows["increment"] > 0), "block"]
        return int(passed.min()) if len(passed) else None


def emergence(
    decision_LS: ArrayLike,
    labels_S: ArrayLike,
    groups_S: ArrayLike,
    blocks_L: ArrayLike,
    *,
    n_splits: int | None = None,
    n_bootstrap: int = 2000,
    n_permutations: int = 2000,
    seed: int = 0,
) -> Emergence:
    """Locate peak and half rise, and test the increments between blocks.

    Increments are paired: of both AUROC the same stimuli have components (DeLong et al. 1988), summed within groups
    (Obuchowski 1997), and under the null hypothesis that both blocks tell the conditions apart equally well the
    difference of a group is as likely to have the other sign. Signs are flipped together for all blocks.

    With K folds, standard errors of cross-validation are sqrt(1 + K/(K - 1)) times those of fixed decoders (Nadeau &
    Bengio 2003): the observed t is divided by that, and bootstrap draws are spread by it about the curve.

    Parameters
    ----------
    decision_LS : array [L, S]
        Held-out decisions, such as `BlockDecoding.decision_LS`.
    labels_S : array [S]
        +1 target, -1 foil.
    groups_S : array [S]
        Items; at least eight.
    blocks_L : array of int [L]
        Two or more, ascending; `EMBEDDING` first where the embeddings are in the sweep.
    n_splits : int, optional
        K, of the cross-validation that made the decisions. Default: decoders that were fitted to other data, once.
    n_bootstrap, n_permutations, seed : int, default 2000, 2000 and 0

    Returns
    -------
    Emergence

    Raises
    ------
    UserError
        Blocks that do not ascend, shapes that do not match, one condition only, fewer than eight groups.

    References
    ----------
    DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44; Obuchowski (1997), Biometrics 53; Nadeau & Bengio (2003),
    Machine Learning 52.

    Examples
    --------
    >>> rng, labels_S = np.random.default_rng(0), np.array([1, -1] * 40)
    >>> signal_L = np.array([0.0, 0.0, 3.0, 3.0])
    >>> decision_LS = rng.normal(size=80) + signal_L[:, None] * labels_S
    >>> found = emergence(decision_LS, labels_S, np.repeat(np.arange(40), 2), [0, 1, 2, 3])
    >>> found.half_rise, found.increments["p_fwe"].lt(0.05).tolist()
    (BlockInterval(block=2, low=2, high=2), [False, True, False])
    """
    decision_LS, blocks_L = np.asarray(decision_LS, dtype=np.float64), np.asarray(blocks_L)
    labels_S, group_S = np.asarray(labels_S), np.unique(np.asarray(groups_S), return_inverse=True)[1]
    _check(decision_LS, labels_S, group_S, blocks_L)
    order_LNM = _orders(decision_LS, labels_S)

    def curve(weights_BS: Array) -> Array:
        target_BN, foil_BM = weights_BS[:, labels_S > 0], weights_BS[:, labels_S < 0]
        pairs_B = target_BN.sum(axis=1) * foil_BM.sum(axis=1)
        ordered_BL = np.stack([((target_BN @ order_NM) * foil_BM).sum(axis=1) for order_NM in order_LNM], axis=1)
        return np.where(pairs_B[:, None] > 0, ordered_BL / np.maximum(pairs_B, 1)[:, None], np.nan)

    found = bootstrap_interval(curve, group_S, n=n_bootstrap, seed=seed, method="percentile")
    wider = 1.0 if n_splits is None else np.sqrt(1 + n_splits / (n_splits - 1))
    draws_BL = found.estimate + wider * (found.draws_B - found.estimate)
    low_L, high_L = np.clip(np.quantile(draws_BL, [0.025, 0.975], axis=0), 0, 1)
    table = pd.DataFrame({"block": blocks_L, "auroc": found.estimate, "low": low_L, "high": high_L})
    part_LG = components(order_LNM, labels_S, group_S)
    later = np.arange(1, len(blocks_L))
    comparisons = [("previous", later, later - 1)]
    if blocks_L[0] == EMBEDDING:
        comparisons.append(("embeddings", later, np.zeros_like(later)))
    increments = [
        _increments(part_LG, draws_BL, blocks_L, here, there, wider, n_permutations, seed).assign(against=against)
        for against, here, there in comparisons
    ]
    return Emergence(
        table,
        _interval(np.argmax, found.estimate, draws_BL, blocks_L),
        _interval(_half_rise, found.estimate, draws_BL, blocks_L),
        pd.concat(increments, ignore_index=True),
    )


def components(order_LNM: Array, labels_S: NDArray, group_S: NDArray[np.intp]) -> Array:
    """Components of the AUROC, [L, G]: their mean over groups is the AUROC, their spread its standard error.

    A group's component is the AUROC plus what its stimuli add to it to first order: the excess of the share of foils
    that its targets pass, and of targets that pass its foils.

    Parameters
    ----------
    order_LNM : array [L, N, M]
        1 where a target is above a foil, 0.5 for ties.
    labels_S : array [S]
    group_S : array of int [S]
        0..G-1.

    Examples
    --------
    >>> components(np.array([[[1.0, 0.0], [1.0, 1.0]]]), np.array([1, 1, -1, -1]), np.arange(4)).mean(axis=1)
    array([0.75])
    """
    n_groups = int(group_S.max()) + 1
    auroc_L1 = order_LNM.mean(axis=(1, 2))[:, None]
    excess_LS = np.empty((len(order_LNM), len(labels_S)))
    excess_LS[:, labels_S > 0] = (order_LNM.mean(axis=2) - auroc_L1) / order_LNM.shape[1]
    excess_LS[:, labels_S < 0] = (order_LNM.mean(axis=1) - auroc_L1) / order_LNM.shape[2]
    return auroc_L1 + n_groups * excess_LS @ (group_S[:, None] == np.arange(n_groups))


def _orders(decision_LS: Array, labels_S: NDArray) -> Array:
    """Whether each target is above each foil, [L, N, M]; ties one half."""
    gap_LNM = decision_LS[:, labels_S > 0, None] - decision_LS[:, None, labels_S < 0]
    tie_L = TIED * np.abs(decision_LS).max(axis=1)
    return np.where(np.abs(gap_LNM) <= tie_L[:, None, None], 0.5, gap_LNM > 0)


def _increments(
    part_LG: Array,
    draws_BL: Array,
    blocks_L: NDArray,
    here: NDArray,
    there: NDArray,
    wider: float,
    n_permutations: int,
    seed: int,
) -> pd.DataFrame:
    """Differences between pairs of blocks; sign flips of whole groups, as between a difference and nothing."""
    difference_GD = (part_LG[here] - part_LG[there]).T
    n_groups = len(difference_GD)
    test = max_t(
        np.vstack([difference_GD, np.zeros_like(difference_GD)]),
        np.repeat([1, -1], n_groups),
        np.tile(np.arange(n_groups), 2),
        "pairs",
        n=n_permutations,
        seed=seed,
    )
    t_L = test.observed.t / wider
    low, high = np.quantile(draws_BL[:, here] - draws_BL[:, there], [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "block": blocks_L[here],
            "reference": blocks_L[there],
            "increment": difference_GD.mean(axis=0),
            "low": low,
            "high": high,
            "t": t_L,
            "p_fwe": permutation_p(np.abs(t_L), test.null_max_B[:, None]),
        }
    )


def _half_rise(auroc_L: Array) -> int:
    """Place of the first block that is half way from the first one to the peak."""
    return int(np.argmax(auroc_L >= (auroc_L[0] + auroc_L.max()) / 2))


def _interval(place: Callable[[Array], Any], auroc_L: Array, draws_BL: Array, blocks_L: NDArray) -> BlockInterval:
    """A place of the curve, and the 95 % interval of the same place in resampled curves; whole blocks."""
    low, high = np.quantile([place(draw_L) for draw_L in draws_BL], [0.025, 0.975], method="closest_observation")
    return BlockInterval(*(int(blocks_L[at]) for at in (place(auroc_L), low, high)))


def _check(decision_LS: Array, labels_S: NDArray, group_S: NDArray, blocks_L: NDArray) -> None:
    shapes = decision_LS.shape, (len(blocks_L), len(labels_S)), len(group_S)
    if shapes[0] != shapes[1] or shapes[2] != len(labels_S) or len(blocks_L) < 2:
        raise UserError(
            f"{len(blocks_L)} blocks, {len(labels_S)} labels, {len(group_S)} groups, decisions of shape {shapes[0]}",
            allowed="decisions [L, S] of two blocks or more, labels and groups [S]",
        )
    if (np.diff(blocks_L) <= 0).any():
        raise UserError(f"Blocks {blocks_L.tolist()} do not ascend", where="blocks")
    if not (np.isin(labels_S, (-1, 1)).all() and len(np.unique(labels_S)) == 2 and np.isfinite(decision_LS).all()):
        raise UserError("A curve needs finite decisions and labels of +1 and -1, both of them")
