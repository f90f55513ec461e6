"""Reliability over items: how much of an effect would come back with other items.

The language model is deterministic: a stimulus read twice gives the same response, so the only noise is the choice of
items. An *item* is what was written together and stays together (pair, family, group); a half is a half of the items.
Every item counts the same: its response to a condition is the mean over its stimuli in that condition.

**One feature.** It is a scalar, so there is no pattern to correlate between halves; what both halves estimate is its
effect, delta. For items with both conditions let d_u be target minus foil of item u, n items, variance s^2. The product
of the effects in two disjoint halves has the expectation delta^2, whatever the noise. Over all ways to halve the
items every pair u != v comes as often on opposite sides, so the mean product needs no draws:

    signal = sum_{u != v} d_u d_v / (n (n - 1)) = effect^2 - s^2 / n = effect^2 - noise.

With conditions in separate items the same holds with noise = s_a^2 / n_a + s_b^2 / n_b. It is the crossnobis distance
of one feature (Walther et al. 2016): unbiased, hence below 0 for most features without an effect. Its share

    reliability = signal / (signal + noise) = 1 - 1 / t^2, and 0 where |t| <= 1,

is Hoyt's (1941) analysis-of-variance reliability of the condition means, which is Cronbach's alpha with conditions as
persons and items as tests. It is that of all n items; stepping it down (Spearman 1910; Brown 1910) gives a single item,
signal / (signal + n noise), whose root is the correlation of the responses of items with the true effect of the
condition: the noise ceiling of any model that knows only the condition. For items with both conditions the mean of each
item is taken out before; for separate items the formula holds for equally many of each, or equal variances.

**All features together.** The effects of all features are a map. The maps of two halves are correlated over features,
each feature divided by its standard deviation over stimuli, which no label enters (or the neurons of largest scale
would decide; a rare latent counts as much as any other). With weights w_h over stimuli for half h the map is w_h' Z
and, K = Z Z' after the mean over features is taken out, the correlation is w_1' K w_2 / sqrt(w_1' K w_1 w_2' K w_2):
one S x S matrix serves every half and every arrangement. Spearman-Brown steps the mean up to all items, and its root
bounds the correlation of any model with the map.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from neurosae.decoding.ensembles import standardisation
from neurosae.errors import UserError
from neurosae.inference.permutation import arrangements, permutation_p, smallest_p
from neurosae.rdms.patterns import numbered
from neurosae.rsa.results import Reason, Table, as_table, dense_blocks

Array = NDArray[np.float64]

MIN_ITEMS = 4
"""Items of each condition: two in each half."""
ROUNDING = 1e-12  # share of a sum of squares that is only rounding
SAME = 1e-14  # responses that differ by less than this share of the largest are one response but for rounding


@dataclass(frozen=True, eq=False)
class FeatureReliability:
    """Reliability of each feature's effect over items; arrays [F], 0 where a feature is not valid.

    The module says what each number is.
    """

    effect: Array
    """Target minus foil, mean over items."""
    signal: Array
    """Unbiased estimate of the squared effect; may be negative."""
    noise: Array
    """Squared standard error of the effect."""
    reliability: Array
    """Share of signal in the effect of all items, in [0, 1]."""
    single_item: Array
    """The same for one item."""
    ceiling: Array
    """Largest correlation of a model that knows the condition with the responses of items: root of `single_item`."""
    reason: NDArray[np.int8]
    """Codes of `neurosae.rsa.Reason`; constant: the effect is the same 0 in every item."""
    n_items: int

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Boolean, True where the numbers mean something."""
        return (self.reason == Reason.OK) | (self.reason == Reason.PERFECT_SEPARATION)


@dataclass(frozen=True, eq=False)
class MapReliability:
    """Agreement of the effects of all features between halves of the items."""

    half: float
    """Correlation of the maps of two halves, mean over halvings."""
    reliability: float
    """Of the map of all items: 2 half / (1 + half), and 0 where `half` is negative."""
    ceiling: float
    """Largest correlation that a model can have with the map: root of the reliability."""
    halves_H: Array
    """Correlation in every halving. Halvings share their items: their spread is no confidence interval."""
    p: float
    """Permutation p of `half`, one-sided."""
    null_B: Array
    """`half` under every arrangement."""
    smallest_p: float
    n_items: int
    n_features: int
    """Features that vary; the others are left out."""


class _Items(NamedTuple):
    """Item of each stimulus, whether every item has both conditions, and which items have each."""

    code_S: NDArray[np.intp]
    within: bool
    has_2I: NDArray[np.bool_]


def feature_reliability(
    X_SF: Any, labels_S: ArrayLike, items_S: ArrayLike, *, block_size: int = 1024
) -> FeatureReliability:
    """Split-half reliability of each feature's effect, over all halvings of the items at once.

    Parameters
    ----------
    X_SF : array or scipy sparse array [S, F]
        Pooled responses.
    labels_S : array of int [S]
        +1 target, -1 foil.
    items_S : array [S]
        Item of each stimulus, such as ``StimulusSet.groups()``. Every item has both conditions, or every item has one.
    block_size : int, default 1024
        Features that are dense at a time.

    Returns
    -------
    FeatureReliability

    Raises
    ------
    UserError
        Values that are not finite (the first stimulus and feature are named), labels or items that do not fit, fewer
        than `MIN_ITEMS` items in a condition.

    References
    ----------
    Hoyt (1941), Psychometrika 6; Shrout & Fleiss (1979), Psychological Bulletin 86; Walther et al. (2016), NeuroImage
    137; Spearman (1910) and Brown (1910), British Journal of Psychology 3.

    Examples
    --------
    >>> X_SF = np.array([[3.0], [0.0], [4.0], [0.0], [5.0], [0.0], [4.0], [0.0]])
    >>> found = feature_reliability(X_SF, [1, -1] * 4, [0, 0, 1, 1, 2, 2, 3, 3])
    >>> found.signal.round(3), found.reliability.round(3)
    (array([15.833]), array([0.99]))
    """
    X_SF, labels_S = as_table(X_SF), np.asarray(labels_S)
    items = _checked_items(X_SF, labels_S, items_S)
    n_items = items.has_2I.shape[1]
    averages_2IS = [_item_means(labels_S == side, items.code_S, n_items) for side in (1, -1)]
    parts = [_reliability_of_block(X_Sf, averages_2IS, items) for _, X_Sf in dense_blocks(X_SF, block_size)]
    names = [field.name for field in fields(FeatureReliability) if field.name != "n_items"]
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return FeatureReliability(**arrays, n_items=n_items)


def _item_means(side_S: NDArray[np.bool_], code_S: NDArray[np.intp], n_items: int) -> sparse.csr_array:
    """Matrix [I, S] that averages the stimuli of one condition in each item; zero rows where there are none."""
    stimuli = np.flatnonzero(side_S)
    items = code_S[stimuli]
    share = 1 / np.bincount(items, minlength=n_items)[items]
    return sparse.csr_array((share, (items, stimuli)), shape=(n_items, len(side_S)))


def _reliability_of_block(X_Sf: Array, averages_2IS: list[sparse.csr_array], items: _Items) -> FeatureReliability:
    """Reliability of a block of features."""
    silent_f, constant_f = ~X_Sf.any(axis=0), ~_varies(X_Sf)
    X_Sf = X_Sf - np.median(X_Sf, axis=0)
    target_If, foil_If = (average_IS @ X_Sf for average_IS in averages_2IS)
    if items.within:
        samples = [target_If - foil_If]
        effect_f = samples[0].mean(axis=0)
    else:
        samples = [target_If[items.has_2I[0]], foil_If[items.has_2I[1]]]
        effect_f = samples[0].mean(axis=0) - samples[1].mean(axis=0)
    rounding_f = ROUNDING * np.abs(X_Sf).max(axis=0)
    noise_f = sum((sample_Uf.var(axis=0, ddof=1) / len(sample_Uf) for sample_Uf in samples), np.zeros(X_Sf.shape[1]))
    exact_f = noise_f <= rounding_f**2
    noise_f = np.where(exact_f, 0.0, noise_f)
    nothing_f = exact_f & (np.abs(effect_f) <= rounding_f)
    reason_f = np.select(
        [silent_f, constant_f | nothing_f, exact_f],
        [Reason.SILENT, Reason.CONSTANT, Reason.PERFECT_SEPARATION],
        Reason.OK,
    ).astype(np.int8)
    effect_f = np.where(silent_f | constant_f | nothing_f, 0.0, effect_f)
    signal_f = effect_f**2 - noise_f
    signal_f = np.where(np.abs(signal_f) > ROUNDING * noise_f, signal_f, 0.0)
    n_items = items.has_2I.shape[1]
    reliability_f, single_f = (_share(signal_f, length * noise_f) for length in (1, n_items))
    return FeatureReliability(
        effect_f, signal_f, noise_f, reliability_f, single_f, np.sqrt(single_f), reason_f, n_items
    )


def _varies(X_Sf: Array) -> NDArray[np.bool_]:
    """Whether the responses of each feature differ by more than rounding."""
    return np.ptp(X_Sf, axis=0) > SAME * np.abs(X_Sf).max(axis=0)


def _share(signal_f: Array, noise_f: Array) -> Array:
    """Signal over signal and noise; 0 for a signal below 0, and where there is neither."""
    signal_f = np.maximum(signal_f, 0.0)
    total_f = signal_f + noise_f
    return signal_f / np.where(total_f > 0, total_f, 1.0)


def map_reliability(
    X_SF: Any,
    labels_S: ArrayLike,
    items_S: ArrayLike,
    blocks_S: ArrayLike,
    design: str,
    *,
    n_halves: int = 100,
    n_permutations: int = 1000,
    seed: int = 0,
    block_size: int = 1024,
) -> MapReliability:
    """Split-half reliability of the effects of all features, with its permutation p.

    Parameters
    ----------
    X_SF, labels_S, items_S, block_size
        As in `feature_reliability`.
    blocks_S : array [S]
        Exchangeability blocks, such as ``StimulusSet.blocks()``.
    design : str
        One of `neurosae.inference.DESIGNS`. Under ``'unpaired'`` every item has one condition, and whole items are
        permuted.
    n_halves : int, default 100
        Random halvings of the items (of the items of each condition where these are apart).
    n_permutations : int, default 1000
    seed : int, default 0
        Halving and arrangement `b` depend on the seed and `b` only.

    Returns
    -------
    MapReliability

    Raises
    ------
    UserError
        As `feature_reliability`; a design that does not fit, or that would take items apart; fewer than three features
        that vary, or features whose effects are all alike.

    References
    ----------
    Haxby et al. (2001), Science 293; Lage-Castellanos et al. (2019), PLOS Computational Biology 15.

    Examples
    --------
    >>> item_S, label_S = np.repeat(np.arange(8), 2), np.tile([1, -1], 8)
    >>> X_SF = np.random.default_rng(0).normal(size=(16, 50)) + 2 * np.outer(label_S, np.linspace(-1, 1, 50))
    >>> found = map_reliability(X_SF, label_S, item_S, item_S, "pairs", n_permutations=99)
    >>> found.reliability > 0.9, found.p
    (True, 0.01)
    """
    X_SF, labels_S = as_table(X_SF), np.asarray(labels_S)
    items = _checked_items(X_SF, labels_S, items_S)
    if n_halves < 1 or n_permutations < 1:
        raise UserError(f"{n_halves} halves, {n_permutations} permutations", allowed="1 or more of each")
    null_BS = _item_arrangements(labels_S, items, np.asarray(blocks_S), design, n_permutations, seed)
    gram_SS, n_features = _gram(X_SF, block_size)
    n_items = items.has_2I.shape[1]
    keys_HI = np.array([np.random.default_rng([seed, half, 1]).random(n_items) for half in range(n_halves)])
    halves_H = _correlations(gram_SS, *_half_weights(labels_S, items.code_S, keys_HI))
    null_B = np.array(
        [_correlations(gram_SS, *_half_weights(arranged_S, items.code_S, keys_HI)).mean() for arranged_S in null_BS]
    )
    half = float(halves_H.mean())
    reliability = 2 * half / (1 + half) if half > 0 else 0.0
    return MapReliability(
        half=half,
        reliability=reliability,
        ceiling=float(np.sqrt(reliability)),
        halves_H=halves_H,
        p=float(permutation_p(half, null_B)),
        null_B=null_B,
        smallest_p=smallest_p(len(null_B)),
        n_items=n_items,
        n_features=n_features,
    )


def _gram(X_SF: Table, block_size: int) -> tuple[Array, int]:
    """Inner products of stimuli over standardised features that vary, without the mean over features; their number."""
    n_stimuli = X_SF.shape[0]
    gram_SS, sum_S, n_features = np.zeros((n_stimuli, n_stimuli)), np.zeros(n_stimuli), 0
    for _, X_Sf in dense_blocks(X_SF, block_size):
        X_Sf = X_Sf[:, _varies(X_Sf)]
        mean_f, scale_f = standardisation(X_Sf)
        Z_Sf = (X_Sf - mean_f) / scale_f
        gram_SS += Z_Sf @ Z_Sf.T
        sum_S += Z_Sf.sum(axis=1)
        n_features += Z_Sf.shape[1]
    if n_features < 3:
        raise UserError(f"{n_features} features vary over the stimuli", allowed="a map of 3 or more")
    centred_SS = gram_SS - np.outer(sum_S, sum_S) / n_features
    if np.trace(centred_SS) <= ROUNDING * np.trace(gram_SS):
        raise UserError("All features are alike, so that their map has no shape to correlate")
    return centred_SS, n_features


def _half_weights(labels_S: NDArray[Any], code_S: NDArray[np.intp], keys_HI: Array) -> tuple[Array, Array]:
    """Weights over stimuli [H, S] whose products with responses are the effects in one half of the items and the other.

    The items of each kind (both conditions, target only, foil only) with the smallest keys are the first half.
    """
    n_items = keys_HI.shape[1]
    count_2I = np.array([np.bincount(code_S, labels_S == side, n_items) for side in (1, -1)])
    kind_I = (count_2I > 0).T @ [1, 2]
    first_HI = np.zeros(keys_HI.shape, dtype=bool)
    for kind in np.unique(kind_I):
        members = np.flatnonzero(kind_I == kind)
        rank_HM = keys_HI[:, members].argsort(axis=1).argsort(axis=1)
        first_HI[:, members] = rank_HM < len(members) // 2
    return _effect_weights(labels_S, code_S, count_2I, first_HI), _effect_weights(labels_S, code_S, count_2I, ~first_HI)


def _effect_weights(labels_S: NDArray[Any], code_S: NDArray[np.intp], count_2I: Array, half_HI: NDArray) -> Array:
    """Weights of the effect in some items: mean over items of their target mean, minus the same of the foil."""
    weights_HS = np.zeros((len(half_HI), len(labels_S)))
    for side, count_I in zip((1, -1), count_2I, strict=True):
        used_HI = half_HI & (count_I > 0)
        share_HI = used_HI / used_HI.sum(axis=1, keepdims=True) / np.maximum(count_I, 1)
        weights_HS += side * share_HI[:, code_S] * (labels_S == side)
    return weights_HS


def _correlations(gram_SS: Array, first_HS: Array, second_HS: Array) -> Array:
    """Correlation over features of the maps of both halves; 0 where a map is flat."""
    product_HS = first_HS @ gram_SS
    cross_H = (product_HS * second_HS).sum(axis=1)
    power_H = (product_HS * first_HS).sum(axis=1) * (second_HS @ gram_SS * second_HS).sum(axis=1)
    flat_H = power_H <= (ROUNDING * np.trace(gram_SS) / len(gram_SS) ** 2) ** 2
    return np.where(flat_H, 0.0, cross_H / np.sqrt(np.where(flat_H, 1.0, power_H)))


def _item_arrangements(
    labels_S: NDArray[Any], items: _Items, blocks_S: NDArray[Any], design: str, n: int, seed: int
) -> NDArray[np.int8]:
    """Labels under the null hypothesis; whole items where each has one condition."""
    if design != "unpaired":
        arranged_BS = arrangements(labels_S, blocks_S, n, seed, design)
        _refuse_torn_items(arranged_BS, items, blocks_S)
        return arranged_BS
    if items.within:
        raise UserError(
            "Design 'unpaired', but items have both conditions", suggestion="Declare the design 'pairs' or 'families'"
        )
    side_I = np.where(items.has_2I[0], 1, -1)
    return arrangements(side_I, np.zeros(len(side_I)), n, seed, design)[:, items.code_S]


def _refuse_torn_items(arranged_BS: NDArray[np.int8], items: _Items, blocks_S: NDArray[Any]) -> None:
    """Refuse blocks that reach over items with both conditions, or that split an item with one."""
    if items.within:
        inside = np.unique(np.c_[np.unique(blocks_S, return_inverse=True)[1], items.code_S], axis=0)[:, 0]
        if len(np.unique(inside)) < len(inside):
            raise UserError("A block lies in more than one item", where="blocks", allowed="blocks inside items")
        return
    first_I = np.unique(items.code_S, return_index=True)[1]
    if (arranged_BS != arranged_BS[:, first_I][:, items.code_S]).any():
        raise UserError(
            "Labels are permuted inside items that have one condition",
            where="blocks",
            suggestion="Use the design 'unpaired', or one stimulus per item",
        )


def _checked_items(X_SF: Table, labels_S: NDArray[Any], items_S: ArrayLike) -> _Items:
    """Items as 0..I-1, or an error that says what does not fit."""
    if labels_S.shape != (X_SF.shape[0],):
        raise UserError(f"{X_SF.shape[0]} stimuli, labels of shape {labels_S.shape}")
    if not X_SF.shape[1]:
        raise UserError("There are no features")
    if not np.isin(labels_S, (-1, 1)).all():
        raise UserError("Labels must be +1 (target) or -1 (foil)", suggestion="Leave out stimuli that take no part")
    code_S, names = numbered(items_S, len(labels_S), "item", sort=True)
    has_2I = np.array([np.bincount(code_S, labels_S == side, len(names)) > 0 for side in (1, -1)])
    both_I = has_2I.all(axis=0)
    if both_I.any() and not both_I.all():
        raise UserError(
            f"{int(both_I.sum())} items have both conditions, {int((~both_I).sum())} have one, such as "
            f"'{names[np.argmin(both_I)]}'",
            allowed="items that all have both, or all one",
            suggestion="Leave the others out",
        )
    fewest = int(has_2I.sum(axis=1).min())
    if fewest < MIN_ITEMS:
        raise UserError(f"A condition has {fewest} items", allowed=f"{MIN_ITEMS} or more, two for each half")
    return _Items(code_S, bool(both_I.all()), has_2I)
