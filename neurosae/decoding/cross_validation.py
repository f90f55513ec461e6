"""Held-out decoding: cross-validation of a selector and a small linear ensemble on one representation.

Everything that learns (transforms, selection, standardisation, weights) sees training stimuli only, and stimuli of one
group (a pair or a family) are never on both sides of a split. Selection on all the data before the split would be
circular (Kriegeskorte et al. 2009, Nature Neuroscience 12).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import TransformerMixin, clone
from sklearn.decomposition import PCA as PrincipalComponents

from neurosae.decoding.ensembles import Array, Fit, fit_on, get_ensemble, standardisation
from neurosae.decoding.selection import ALL, PCA, UNSELECTED, top_k
from neurosae.decoding.selection import scores as feature_scores
from neurosae.errors import UserError
from neurosae.inference import Stability, nogueira_stability, smallest_p
from neurosae.inference.design import Design, derived_seed, leave_one_domain_out
from neurosae.inference.heldout import METRICS, HeldOut, auroc, balanced_accuracy, summarise_held_out

NO_SELECTION = Stability(np.nan, np.nan, np.nan, "this selector does not select")


@dataclass(frozen=True, eq=False)
class DecodingResult:
    """Held-out scores of one selector, ensemble and k.

    Fields named `full_*` describe a fit to all stimuli, which is never scored.
    """

    selector: str
    ensemble: str
    k: int
    balanced_accuracy: HeldOut
    auroc: HeldOut
    n_permutations: int
    smallest_p: float
    """Smallest p-value that so many permutations can give."""
    fold_scores: pd.DataFrame
    """Columns repeat, fold, balanced_accuracy, auroc."""
    decision_S: Array
    """Held-out decision value of every stimulus, mean over repeats; above 0 decides for the target."""
    domain_scores: pd.DataFrame
    """Columns domain, n, balanced_accuracy, auroc, reason (why a score is NaN); one row per held-out domain."""
    domain_reason: str
    """Why there are no domain scores, else empty."""
    stability: Stability
    selection_counts: pd.DataFrame
    """Columns feature, count, share: in how many of the training sets a feature was selected."""
    mean_valid_features: float
    """Features the selector could score, mean over training sets."""
    mean_defined_share: float
    """Share of stimulus pairs whose profiles could be compared, mean over features and training sets; NaN for selectors
    that compare no profiles."""
    full_features: NDArray[np.int64]
    """Features selected on all stimuli (component numbers for 'pca')."""
    full_weights: Array
    """Weights of the standardised features."""
    full_patterns: Array
    """Haufe patterns, standard deviations of the feature per unit of output."""
    full_direction: NDArray[np.int8]
    """+1 where the feature is larger for the target condition, -1 where smaller."""


def decode(
    X_SF: Any,
    design: Design,
    selector: str,
    ks: Sequence[int],
    ensemble: str,
    *,
    profiles: Any = None,
    n_permutations: int = 100,
    seed: int = 0,
    transform: TransformerMixin | None = None,
    block_size: int = 256,
) -> list[DecodingResult]:
    """Held-out scores of a selector and an ensemble, with chance, stability and generalisation over domains.

    In every training set: transform, score and select features, standardise them, fit the ensemble; in the held-out
    stimuli: balanced accuracy and AUROC. Permutation `b` goes through one whole cross-validation, selection included,
    on the folds of repeat `b mod R`.

    The p-value compares the mean over *all* repeats with the means of *single* cross-validations under permutation.
    These spread more than means over repeats would, so the p-value and the chance band are conservative.

    Parameters
    ----------
    X_SF : array or scipy sparse [S, F]
        Pooled responses; used as dense float64.
    design : Design
        Labels, folds and permutations.
    selector : str
        A selector of `neurosae.decoding.selection`, or ``'all'`` (every feature; a ceiling, `ks` is ignored) or
        ``'pca'`` (the first k principal components of the training stimuli, labels unused).
    ks : sequence of int
        Numbers of features to select.
    ensemble : str
        One of `neurosae.decoding.ensembles.ENSEMBLES`.
    profiles : optional
        Aligned profiles for the profile selectors, handed on to `neurosae.decoding.selection.scores`.
    n_permutations : int, default 100
        How many arrangements of the design to use, from the first; no more than the design has.
    seed : int, default 0
        Seed of selectors that draw at random.
    transform : scikit-learn transformer, optional
        Cloned and fitted to the training rows of every split before selection.
    block_size : int, default 256
        Label vectors processed together; bounds memory, changes no result.

    Returns
    -------
    list of DecodingResult
        One per k.

    Raises
    ------
    UserError
        Unknown names, shapes that do not match, responses that are not finite, or a k larger than there are features.

    Examples
    --------
    >>> from neurosae.decoding import make_design
    >>> pair_S = np.repeat(np.arange(10), 2)
    >>> design = make_design([1, -1] * 10, pair_S, pair_S, "pairs", n_repeats=2, n_permutations=20)
    >>> X_SF = np.random.default_rng(0).normal(size=(20, 6)) + 3 * design.labels_S[:, None]
    >>> decode(X_SF, design, "t", [2], "logistic_l2", n_permutations=20)[0].auroc.mean
    1.0
    """
    X_SF = np.asarray(X_SF.toarray() if hasattr(X_SF, "toarray") else X_SF, dtype=np.float64)
    if X_SF.ndim != 2 or len(X_SF) != len(design.labels_S):
        raise UserError(f"Responses of shape {X_SF.shape} for {len(design.labels_S)} labelled stimuli")
    if not np.isfinite(X_SF).all():
        raise UserError("Responses to decode must be finite")
    if selector != ALL and (not len(ks) or min(ks) < 1):
        raise UserError(f"k is {list(ks)}", allowed="integers from 1")
    ks = [0] if selector == ALL else list(ks)
    method = _Method(selector, ks, get_ensemble(ensemble), design.paired_S, profiles, transform, block_size)
    null_BS = design.arrangements_BS[:n_permutations]
    n_repeats, n_splits = len(design.folds_RS), int(design.folds_RS.max()) + 1
    names, domain_S = leave_one_domain_out([] if design.domains_S is None else design.domains_S)
    domains = names if len(names) > 1 else names[:0]

    everyone_S = np.ones(len(X_SF), dtype=bool)
    folds = _fold_splits(design, null_BS, seed)
    apart = [
        _split(design.labels_S[None], design.groups_S, domain_S == number, derived_seed(seed, number))
        for number in range(len(domains))
    ]
    whole = _Split(design.labels_S[None], everyone_S, everyone_S, np.arange(1), derived_seed(seed))
    selections = _selections(X_SF, [*folds, *apart, whole], method)

    observed_KMRF = np.empty((len(ks), 2, n_repeats, n_splits))
    null_KMBF = np.empty((len(ks), 2, len(null_BS), n_splits))
    domain_KMD = np.empty((len(ks), 2, len(domains)))
    decision_KRS = np.empty((len(ks), n_repeats, len(X_SF)))
    selected, n_valid, defined = [], [], []
    for number, split in enumerate(folds):
        choice, (repeat, fold) = next(selections), divmod(number, n_splits)
        scores_KML, decision_KN = _scores(split, choice, method)
        decision_KRS[:, repeat, split.test_S] = decision_KN
        observed_KMRF[:, :, repeat, fold] = scores_KML[:, :, 0]
        null_KMBF[:, :, repeat::n_repeats, fold] = scores_KML[:, :, 1:]
        selected.append(choice.features_LK[0])
        n_valid.append(choice.n_valid)
        defined.append(choice.defined_share)
    for number, split in enumerate(apart):
        domain_KMD[:, :, number] = _scores(split, next(selections), method)[0][:, :, 0]
    full = next(selections)

    selects = selector not in UNSELECTED
    results = []
    for i, k in enumerate(ks):
        k = k or full.X_SF.shape[1]
        sets = [features[:k] for features in selected]
        results.append(
            DecodingResult(
                selector=selector,
                ensemble=ensemble,
                k=k,
                balanced_accuracy=summarise_held_out(observed_KMRF[i, 0], null_KMBF[i, 0]),
                auroc=summarise_held_out(observed_KMRF[i, 1], null_KMBF[i, 1]),
                n_permutations=len(null_BS),
                smallest_p=smallest_p(len(null_BS)),
                fold_scores=_fold_table(observed_KMRF[i]),
                decision_S=decision_KRS[i].mean(axis=0),
                domain_scores=_domain_table(domains, domain_S, domain_KMD[i]),
                domain_reason="" if len(domains) else "the stimuli have no domains, or only one",
                stability=nogueira_stability(sets, full.X_SF.shape[1]) if selects else NO_SELECTION,
                selection_counts=_counts(sets),
                mean_valid_features=float(np.mean(n_valid)),
                mean_defined_share=float(np.mean(defined)),
                **_full_fit(full, k, design.labels_S, method),
            )
        )
    return results


class _Method(NamedTuple):
    """What is fitted in every training set."""

    selector: str
    ks: list[int]
    fit: Fit
    paired_S: NDArray[Any] | None
    profiles: Any
    transform: TransformerMixin | None
    block_size: int


class _Split(NamedTuple):
    """Training and held-out stimuli for label vectors; `usable` are those with both classes on either side."""

    labels_LS: NDArray[np.int8]
    train_S: NDArray[np.bool_]
    test_S: NDArray[np.bool_]
    usable: NDArray[np.intp]
    seed: int


class _Selected(NamedTuple):
    """Responses as transformed, the features selected for every usable label vector (or for all), best first."""

    X_SF: Array
    features_LK: NDArray[np.intp]
    n_valid: int
    defined_share: float = np.nan


def _split(labels_LS: NDArray[np.int8], groups_S: NDArray[Any], test_S: NDArray[np.bool_], seed: int) -> _Split:
    """Hold out stimuli, and keep whatever shares a group with them out of the training set."""
    train_S = ~np.isin(groups_S, groups_S[test_S])
    sides = [labels_LS[:, rows_S] for rows_S in (train_S, test_S)]
    usable_L = np.all([(side == label).any(axis=1) for side in sides for label in (1, -1)], axis=0)
    return _Split(labels_LS, train_S, test_S, np.flatnonzero(usable_L), seed)


def _fold_splits(design: Design, null_BS: NDArray[np.int8], seed: int) -> list[_Split]:
    """Every repeat and fold, with the observed labels and the permutations that use this repeat."""
    n_repeats, n_splits = len(design.folds_RS), int(design.folds_RS.max()) + 1
    splits = []
    for repeat, fold in itertools.product(range(n_repeats), range(n_splits)):
        labels_LS = np.concatenate([design.labels_S[None], null_BS[repeat::n_repeats]])
        test_S = design.folds_RS[repeat] == fold
        splits.append(_split(labels_LS, design.groups_S, test_S, derived_seed(seed, repeat, fold)))
    return splits


def _selections(X_SF: Array, splits: list[_Split], method: _Method) -> Iterator[_Selected]:
    """Selection in every split.

    Splits are taken together where they share the responses, because pairwise similarities of profiles do not depend
    on labels. `random` draws once per call, so it is called once per split.
    """
    if method.transform is None and method.selector not in (PCA, "random"):
        yield from _select(X_SF, splits, method)
        return
    for split in splits:
        if not len(split.usable):
            yield _Selected(X_SF, np.empty((0, max(method.ks)), dtype=np.intp), 0)
            continue
        yield from _select(_represent(X_SF, split.train_S, method), [split], method)


def _represent(X_SF: Array, train_S: NDArray[np.bool_], method: _Method) -> Array:
    """Responses after the transforms that are fitted to the training rows."""
    if method.transform is not None:
        X_SF = np.asarray(clone(method.transform).fit(X_SF[train_S]).transform(X_SF), dtype=np.float64)
    if method.selector == PCA:
        available = min(X_SF.shape[1], int(train_S.sum()) - 1)
        if max(method.ks) > available:
            raise UserError(
                f"k is {max(method.ks)}", allowed=f"at most {available} principal components of {train_S.sum()} stimuli"
            )
        X_SF = PrincipalComponents(max(method.ks), svd_solver="full").fit(X_SF[train_S]).transform(X_SF)
    return X_SF


def _select(X_SF: Array, splits: list[_Split], method: _Method) -> list[_Selected]:
    """The features for the largest k, for every usable label vector; labels are 0 outside the training set."""
    n_features = X_SF.shape[1]
    largest = max(method.ks) or n_features
    if method.selector in UNSELECTED:
        return [_Selected(X_SF, np.arange(largest)[None], n_features)] * len(splits)
    labels_BS = np.concatenate([np.where(split.train_S, split.labels_LS[split.usable], 0) for split in splits])
    features, n_valid, defined = [], [], []
    for start in range(0, len(labels_BS), method.block_size):
        scores_BF = feature_scores(
            method.selector,
            X_SF,
            labels_BS[start : start + method.block_size].astype(np.int8),
            blocks_S=method.paired_S,
            profiles=method.profiles,
            rng_seed=splits[0].seed,
        )
        features.append(top_k(scores_BF, largest))
        n_valid.append(scores_BF.valid.sum(axis=1))
        share = scores_BF.defined_share
        defined.append(np.full(len(n_valid[-1]), np.nan) if share is None else share.mean(axis=1))
    bounds = np.cumsum([len(split.usable) for split in splits])[:-1]
    parts = zip(*(np.split(np.concatenate(column), bounds) for column in (features, n_valid, defined)), strict=True)
    return [
        _Selected(X_SF, features_LK, int(valid_L[0]), float(share_L[0]))
        if len(valid_L)
        else _Selected(X_SF, features_LK, 0)
        for features_LK, valid_L, share_L in parts
    ]


def _scores(split: _Split, choice: _Selected, method: _Method) -> tuple[Array, Array]:
    """Held-out scores [k, metric, label vector], NaN where not usable, and the first one's decisions."""
    scores_KML = np.full((len(method.ks), len(METRICS), len(split.labels_LS)), np.nan)
    first_KN = np.full((len(method.ks), int(split.test_S.sum())), np.nan)
    if not len(split.usable):
        return scores_KML, first_KN
    mean_F, scale_F = standardisation(choice.X_SF[split.train_S])
    Z_FS = np.ascontiguousarray(((choice.X_SF - mean_F) / scale_F).T)
    for start in range(0, len(split.usable), method.block_size):
        block = slice(start, start + method.block_size)
        rows = split.usable[block]
        train_BN, test_BN = split.labels_LS[rows][:, split.train_S], split.labels_LS[rows][:, split.test_S]
        features_BK = choice.features_LK if len(choice.features_LK) == 1 else choice.features_LK[block]
        for i, k in enumerate(method.ks):
            Z_BSK = Z_FS[features_BK[:, : k or None]].swapaxes(1, 2)
            w_BK, b_B = method.fit(Z_BSK[:, split.train_S], train_BN, None, 1.0)
            decision_BN = np.matmul(Z_BSK[:, split.test_S], w_BK[..., None])[..., 0] + b_B[:, None]
            scores_KML[i, 0, rows] = balanced_accuracy(decision_BN, test_BN)
            scores_KML[i, 1, rows] = auroc(decision_BN, test_BN)
            if 0 in rows:
                first_KN[i] = decision_BN[0]
    return scores_KML, first_KN


def _full_fit(choice: _Selected, k: int, labels_S: NDArray[np.int8], method: _Method) -> dict[str, Any]:
    """The `full_*` fields: description of a fit to all stimuli, never scored."""
    features_K = choice.features_LK[0, :k]
    fitted = fit_on(choice.X_SF[:, features_K], labels_S, method.fit)
    return {
        "full_features": features_K,
        "full_weights": fitted.weights_K,
        "full_patterns": fitted.patterns_K,
        "full_direction": fitted.direction_K,
    }


def _fold_table(observed_MRF: Array) -> pd.DataFrame:
    repeat_RF, fold_RF = np.indices(observed_MRF.shape[1:])
    columns = {"repeat": repeat_RF, "fold": fold_RF, **dict(zip(METRICS, observed_MRF, strict=True))}
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()})


def _domain_table(domains: NDArray[Any], domain_S: NDArray[np.int64], scores_MD: Array) -> pd.DataFrame:
    table = pd.DataFrame({"domain": domains, "n": np.bincount(domain_S, minlength=len(domains))[: len(domains)]})
    for metric, scores_D in zip(METRICS, scores_MD, strict=True):
        table[metric] = scores_D
    missing = "only one condition in the domain or outside it"
    return table.assign(reason=np.where(np.isfinite(scores_MD).all(axis=0), "", missing))


def _counts(selections: list[NDArray[np.int64]]) -> pd.DataFrame:
    feature, count = np.unique(np.concatenate(selections), return_counts=True)
    table = pd.DataFrame({"feature": feature, "count": count, "share": count / len(selections)})
    return table.sort_values(["count", "feature"], ascending=[False, True], ignore_index=True)
