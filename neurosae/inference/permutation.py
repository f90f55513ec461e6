"""Permutation within exchangeability blocks.

The language model is deterministic, so the only thing that was sampled is the choice of items. Under the null
hypothesis the labels of the items are exchangeable within blocks; the design says what a block is and what may happen
inside it (Winkler et al. 2015, Multi-level block permutation, NeuroImage 123).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurosae.errors import UserError, unknown_name

DESIGNS = {
    "pairs": "a block is a pair of one target and one foil; each pair is flipped independently",
    "families": "a block is a family at one level of the other factor; labels are permuted within each block",
    "interaction": "a block is a family; the labels of a whole block are flipped together",
    "unpaired": "all stimuli form one block; labels are permuted freely",
}
"""What may happen to the labels under the null hypothesis, by the name of the design."""

TAILS = ("greater", "less", "two-sided")


def arrangements(labels_S: ArrayLike, blocks_S: ArrayLike, n: int, seed: int, design: str) -> NDArray[np.int8]:
    """Label vectors that are as likely as the observed one if labels are exchangeable within blocks.

    Draw `b` depends only on `seed` and `b`, so that the first rows of a longer run are the rows of a shorter one.
    Random draws may repeat each other and the observed labelling. Where at most `n` arrangements other than the
    observed one exist, these are returned instead, each once and in a random order: `permutation_p`, which counts the
    observed labelling itself, is then the exact p-value.

    Parameters
    ----------
    labels_S : array of int [S]
        Observed labels, +1 (target) and -1 (foil).
    blocks_S : array [S]
        Block of every stimulus, any hashable names; ignored by ``'unpaired'``.
    n : int
        Number of arrangements wanted.
    seed : int
        Non-negative seed.
    design : str
        One of `DESIGNS`.

    Returns
    -------
    array of int8 [n or fewer, S]

    Raises
    ------
    UserError
        Unknown design, or labels that the design does not allow.

    Examples
    --------
    >>> arrangements([1, -1, 1, -1], ["a", "a", "b", "b"], n=100, seed=0, design="pairs").shape
    (3, 4)
    """
    labels_S, code_S = _checked(labels_S, blocks_S, design)
    if design == "interaction":
        return sign_flips(int(code_S.max()) + 1, n, seed)[:, code_S] * labels_S
    if _count(labels_S, code_S, design) - 1 <= n:
        rows = np.array(list(_every_permutation(labels_S, code_S)), dtype=np.int8)
        return _without(rows, labels_S, seed)
    home_S = np.argsort(code_S, kind="stable")
    drawn = np.empty((n, len(labels_S)), dtype=np.int8)
    for b in range(n):
        shuffled_S = np.lexsort((_generator(seed, b).random(len(labels_S)), code_S))
        drawn[b, home_S] = labels_S[shuffled_S]
    return drawn


def sign_flips(n_units: int, n: int, seed: int) -> NDArray[np.int8]:
    """Sign flips of independent units (families, contrasts): all of them where at most `n` exist, else `n` draws.

    Exhaustive lists leave out the unflipped row, which `permutation_p` counts itself.

    Returns
    -------
    array of int8 [n or fewer, n_units]

    Examples
    --------
    >>> sign_flips(3, n=100, seed=0).shape
    (7, 3)
    """
    if 2**n_units - 1 <= n:
        rows = np.array(list(itertools.product((1, -1), repeat=n_units)), dtype=np.int8)
        return _without(rows, np.ones(n_units, dtype=np.int8), seed)
    drawn = np.empty((n, n_units), dtype=np.int8)
    for b in range(n):
        drawn[b] = 1 - 2 * _generator(seed, b).integers(0, 2, n_units)
    return drawn


def count_arrangements(labels_S: ArrayLike, blocks_S: ArrayLike, design: str) -> int:
    """Number of distinct arrangements the design allows, the observed one included.

    Examples
    --------
    >>> count_arrangements([1, 1, -1, -1], [0, 0, 0, 0], "unpaired")
    6
    """
    labels_S, code_S = _checked(labels_S, blocks_S, design)
    return _count(labels_S, code_S, design)


def permutation_p(observed: ArrayLike, null: ArrayLike, tail: str = "greater") -> NDArray[np.float64]:
    """Permutation p-value (b + 1)/(B + 1), never zero (Phipson & Smyth 2010).

    `b` counts the null values at least as extreme as the observed one; values that agree to rounding error are ties
    and count.

    Parameters
    ----------
    observed : array [...]
        Observed statistic.
    null : array [B, ...]
        Its value under every arrangement (without the observed one).
    tail : {'greater', 'less', 'two-sided'}
        `'two-sided'` compares absolute values, so the statistic must be centred on 0 under the null hypothesis.

    Returns
    -------
    array [...]

    Examples
    --------
    >>> float(permutation_p(2.0, [0.0, 1.0, 2.0]))
    0.5
    """
    if tail not in TAILS:
        raise unknown_name("tail", tail, TAILS)
    value, values_B = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    if not (np.isfinite(value).all() and np.isfinite(values_B).all()):
        raise UserError(
            "A permutation p-value needs finite statistics", suggestion="Leave out the features that are not valid"
        )
    if tail == "less":
        value, values_B = -value, -values_B
    elif tail == "two-sided":
        value, values_B = np.abs(value), np.abs(values_B)
    tie = 100 * np.finfo(np.float64).eps * np.abs(value)
    return (np.sum(values_B >= value - tie, axis=0) + 1) / (len(values_B) + 1)


def smallest_p(n: int, *, mirrored: bool = False) -> float:
    """Smallest p-value that `n` arrangements can give, 1/(n + 1).

    Twice that for a two-sided test where one of them is the mirror image of the observed labels: its statistic is as
    large as the observed one, whatever the data.

    Examples
    --------
    >>> smallest_p(99), smallest_p(99, mirrored=True)
    (0.01, 0.02)
    """
    return (1 + mirrored) / (n + 1)


def _checked(labels_S: ArrayLike, blocks_S: ArrayLike, design: str) -> tuple[NDArray[np.int8], NDArray[np.intp]]:
    """Labels as int8 and blocks as 0..G-1, or an error that says why the design does not fit the labels."""
    if design not in DESIGNS:
        raise unknown_name("design", design, DESIGNS)
    labels_S = np.asarray(labels_S)
    if labels_S.ndim != 1 or not np.isin(labels_S, (-1, 1)).all():
        raise UserError("Labels to permute must be one vector of +1 (target) and -1 (foil)")
    blocks = np.zeros(len(labels_S)) if design == "unpaired" else np.asarray(blocks_S)
    if blocks.shape != labels_S.shape:
        raise UserError(f"{len(labels_S)} labels, but blocks of shape {blocks.shape}")
    code_S = np.unique(blocks, return_inverse=True)[1]
    targets = np.bincount(code_S, weights=labels_S > 0).astype(int)
    foils = np.bincount(code_S, weights=labels_S < 0).astype(int)
    both = (targets > 0) & (foils > 0)
    if design == "pairs" and not ((targets == 1) & (foils == 1)).all():
        raise UserError(
            "Design 'pairs', but a block is not one target and one foil",
            suggestion="Declare the design 'families' or 'unpaired', or mend the pair column",
        )
    if design == "interaction" and not both.all():
        raise UserError("Design 'interaction', but a family has only targets or only foils")
    if not both.any():
        raise UserError(
            f"Design '{design}', but no block has both a target and a foil, so nothing can be permuted",
            suggestion="Declare blocks within which the two conditions can be exchanged",
        )
    return labels_S.astype(np.int8), code_S


def _count(labels_S: NDArray[np.int8], code_S: NDArray[np.intp], design: str) -> int:
    sizes, targets = np.bincount(code_S), np.bincount(code_S, weights=labels_S > 0).astype(int)
    if design == "interaction":
        return 2 ** len(sizes)
    return math.prod(math.comb(int(size), int(hits)) for size, hits in zip(sizes, targets, strict=True))


def _every_permutation(labels_S: NDArray[np.int8], code_S: NDArray[np.intp]) -> Iterator[NDArray[np.int8]]:
    """Every distinct labelling with as many targets in each block as observed."""
    members = [np.flatnonzero(code_S == code) for code in range(code_S.max() + 1)]
    choices = [itertools.combinations(rows, int(np.sum(labels_S[rows] > 0))) for rows in members]
    for chosen in itertools.product(*choices):
        labelling = np.full(len(labels_S), -1, dtype=np.int8)
        labelling[list(itertools.chain(*chosen))] = 1
        yield labelling


def _without(rows_BS: NDArray[np.int8], observed_S: NDArray[np.int8], seed: int) -> NDArray[np.int8]:
    """All rows but the observed one, in a random order, so that the first few of them are a fair sample."""
    others = rows_BS[(rows_BS != observed_S).any(axis=1)]
    return np.random.default_rng(np.random.SeedSequence([seed])).permutation(others)


def _generator(seed: int, draw: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, draw]))
