"""Do tests reject true null hypotheses as rarely as they promise, and do intervals cover as often?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from threadpoolctl import threadpool_limits

from benchmarks.truth_data import NULL_KINDS, Array, NullData, null_data
from neurosae import rsa
from neurosae.decoding import decode
from neurosae.inference import (
    adjust,
    arrangements,
    bootstrap_interval,
    cluster_test,
    corrected_resampled_test,
    max_t,
    null_statistics,
    permutation_p,
    test_contrast,
    tfce_test,
)
from neurosae.inference.design import Design, make_design

ALPHA, COVERAGE = 0.05, 0.95
N_PERMUTATIONS, N_DECODED, N_RESAMPLES = 199, 19, 999
TRAIN_SHARE = 0.8
FWE, ONE = "family-wise", "one feature"
MAP = (4, 6)  # blocks and positions


class Check(NamedTuple):
    """A test and what an error is: any false alarm in the family, or a false alarm in one feature."""

    test: str
    design: str
    error: str


class Interval(NamedTuple):
    """An estimate with its interval, and the true value where it is known."""

    estimate: float
    low: float
    high: float
    truth: float = np.nan


Rejections = Iterator[tuple[Check, bool]]


def rejections(data: NullData, folds: Design, seed: int) -> Rejections:
    """Whether each test rejects at `ALPHA`, on data without an effect."""
    yield from _max_t(data, seed)
    yield from _with_covariate(data, seed)
    yield from _parametric(data)
    for design in ("unpaired", "pairs"):
        if design in data.blocks:
            yield from _maps(data, design, seed)
            yield from _rsa(data, design, seed)
    yield from _held_out(data, folds)


def _max_t(data: NullData, seed: int) -> Rejections:
    for design, blocks_S in data.blocks.items():
        result = max_t(data.Y_SF, data.labels_S, blocks_S, design, n=N_PERMUTATIONS, seed=seed)
        yield Check("max-T", design, FWE), result.p_fwe.min() <= ALPHA
        yield Check("permutation of t", design, ONE), result.p[data.feature] <= ALPHA


def _with_covariate(data: NullData, seed: int) -> Rejections:
    """The covariate drives every response; the condition does not, beyond that."""
    Y_SF = data.Y_SF + data.covariate_S[:, None]
    result = max_t(Y_SF, data.labels_S, None, "unpaired", nuisance_SP=data.covariate_S, n=N_PERMUTATIONS, seed=seed)
    yield Check("max-T, covariate", "unpaired", FWE), result.p_fwe.min() <= ALPHA
    yield Check("permutation of t, covariate", "unpaired", ONE), result.p[data.feature] <= ALPHA
    yield Check("t, covariate", "unpaired", ONE), result.observed.p[data.feature] <= ALPHA


def _parametric(data: NullData) -> Rejections:
    variants = [("unpaired", "pooled"), ("unpaired", "welch")]
    if "pairs" in data.blocks:
        variants.append(("pairs", "pooled"))
    for design, variance in variants:
        test = test_contrast(data.Y_SF, data.labels_S, blocks_S=data.blocks[design], design=design, variance=variance)
        name = "Welch's t" if variance == "welch" else "t"
        yield Check(name, design, ONE), test.p[data.feature] <= ALPHA
        for method, label in (("bonferroni", "Bonferroni"), ("fdr", "Benjamini-Hochberg")):
            significant_F = adjust(test.p, method, valid_F=test.valid) <= ALPHA
            yield Check(f"{name}, {label}", design, FWE), bool(significant_F.any())


def _maps(data: NullData, design: str, seed: int) -> Rejections:
    """Cluster mass and TFCE over a block x position map, smooth along positions."""
    labels_S, blocks_S = data.labels_S, data.blocks[design]
    Y_SLW = data.Y_SF[:, : MAP[0] * (MAP[1] + 1)].reshape(len(labels_S), MAP[0], MAP[1] + 1)
    Y_SF = (Y_SLW[:, :, 1:] + Y_SLW[:, :, :-1]).reshape(len(labels_S), -1)
    t_BF = np.zeros((N_PERMUTATIONS + 1, Y_SF.shape[1]))
    labels_BS = _with_observed(data, design, seed)
    for features, t_Bf in null_statistics(Y_SF, labels_S, labels_BS, blocks_S=blocks_S, design=design):
        t_BF[:, features] = t_Bf
    t_BLW = t_BF.reshape(-1, *MAP)
    clusters = cluster_test(t_BLW[0], t_BLW[1:], float(stats.t.isf(0.01, len(labels_S) // 2))).table["p_fwe"]
    yield Check("cluster mass", design, FWE), bool((clusters <= ALPHA).any())
    yield Check("TFCE", design, FWE), tfce_test(t_BLW[0], t_BLW[1:]).p_fwe_LW.min() <= ALPHA


def _rsa(data: NullData, design: str, seed: int) -> Rejections:
    """RSA scores under permuted labels."""
    labels_BS = _with_observed(data, design, seed)
    for kind in ("discriminative", "categorical"):
        value_BF = rsa.score_scalar(data.Y_SF, labels_BS, kind).value
        largest_B, of_one_B = value_BF.max(axis=1), value_BF[:, data.feature]
        yield Check(f"RSA {kind}, largest", design, FWE), bool(permutation_p(largest_B[0], largest_B[1:]) <= ALPHA)
        yield Check(f"RSA {kind}", design, ONE), bool(permutation_p(of_one_B[0], of_one_B[1:]) <= ALPHA)


def _held_out(data: NullData, folds: Design) -> Rejections:
    """Decoding against permutation, and two equally useless methods against each other."""
    one, other = (
        decode(data.Y_SF[:, first:30:2], folds, "t", [2], "mean_difference", n_permutations=n)[0]
        for first, n in ((0, N_DECODED), (1, 0))
    )
    yield Check("decoding, permutation", folds.design, "one method"), one.auroc.p <= ALPHA
    delta_RF = (one.fold_scores["auroc"] - other.fold_scores["auroc"]).to_numpy()
    p = corrected_resampled_test(delta_RF, TRAIN_SHARE).p
    yield Check("corrected resampled t", folds.design, "two methods"), p <= ALPHA


def intervals(data: NullData, folds: Design, seed: int) -> Iterator[tuple[str, str, Interval]]:
    """Intervals (name, design) of a mean difference whose true value is 0, and of a held-out score."""
    design = folds.design
    y_S, target_S = data.Y_SF[:, data.feature], data.labels_S > 0
    items_S = data.blocks["pairs"] if design == "pairs" else np.arange(len(y_S))

    def difference(weights_BS: Array) -> Array:
        sides = [weights_BS * side_S for side_S in (target_S, ~target_S)]
        with np.errstate(invalid="ignore"):  # a resample without one of the conditions has no value
            means = [side_BS @ y_S / side_BS.sum(axis=1) for side_BS in sides]
        return means[0] - means[1]

    for method in ("bca", "percentile"):
        found = bootstrap_interval(difference, items_S, n=N_RESAMPLES, seed=seed, method=method)
        low, high = float(found.low), float(found.high)
        yield f"bootstrap, {method}", design, Interval(float(found.estimate), low, high, 0.0)
    variants = {("unpaired", "pooled"): "t", ("unpaired", "welch"): "Welch's t", (design, "pooled"): "t"}
    for (of_test, variance), name in variants.items():
        test = test_contrast(
            y_S[:, None], data.labels_S, blocks_S=data.blocks[of_test], design=of_test, variance=variance
        )
        effect, half = float(test.effect[0]), float(stats.t.isf((1 - COVERAGE) / 2, test.df[0]) * test.se[0])
        yield name, of_test, Interval(effect, effect - half, effect + half, 0.0)
    shifted_SF = data.Y_SF[:, :30].copy()
    shifted_SF[target_S, :4] += 1
    score = decode(shifted_SF, folds, "t", [2], "mean_difference", n_permutations=0)[0].auroc
    yield "Nadeau-Bengio, held-out AUROC", design, Interval(score.mean, score.ci_low, score.ci_high)


def _folds(data: NullData, seed: int) -> Design:
    """Ten repeats of five folds that keep families together; pairs are permuted as pairs."""
    design, family_S = ("pairs" if "pairs" in data.blocks else "unpaired"), data.blocks["families"]
    return make_design(data.labels_S, family_S, data.blocks[design], design, n_permutations=N_DECODED, seed=seed)


def _with_observed(data: NullData, design: str, seed: int) -> NDArray[np.int8]:
    """The observed labels, and their arrangements [1 + N_PERMUTATIONS, S]."""
    return np.vstack([data.labels_S, arrangements(data.labels_S, data.blocks[design], N_PERMUTATIONS, seed, design)])


def one_data_set(kind: str, seed: int, number: int) -> tuple[dict[Check, bool], dict[tuple[str, str], Interval]]:
    """All tests and intervals on data set `number` of a kind; depends on the arguments only."""
    data = null_data(kind, np.random.default_rng([seed, list(NULL_KINDS).index(kind), number]))
    with threadpool_limits(limits=1):
        folds = _folds(data, number)
        rejected = {test: bool(answer) for test, answer in rejections(data, folds, number)}
        covered = {(name, design): interval for name, design, interval in intervals(data, folds, number)}
    return rejected, covered


def level_and_coverage(n_datasets: int, n_jobs: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rates of false alarms and of coverage, each with binomial bounds.

    The bounds are one-sided and exact (Clopper-Pearson), at `ALPHA` divided by the number of rows of both tables.
    """
    level, coverage = [], []
    for kind in NULL_KINDS:
        tasks = (joblib.delayed(one_data_set)(kind, seed, number) for number in range(n_datasets))
        answers = joblib.Parallel(n_jobs, batch_size=8)(tasks)
        for test in answers[0][0]:
            count = sum(rejected[test] for rejected, _ in answers)
            level.append({"kind": kind, **test._asdict(), "n": n_datasets, "rejections": count})
        for name, design in answers[0][1]:
            found = np.array([of_interval[name, design] for _, of_interval in answers])
            truth = np.where(np.isnan(found[:, 3]), found[:, 0].mean(), found[:, 3])
            count = int(((found[:, 1] <= truth) & (truth <= found[:, 2])).sum())
            row = {"kind": kind, "interval": name, "design": design, "n": n_datasets, "covered": count}
            coverage.append(row | {"mean_width": float(np.mean(found[:, 2] - found[:, 1]))})
    n_checks = len(level) + len(coverage)
    return (
        bounded(pd.DataFrame(level), "rejections", n_checks, ALPHA, ("too seldom", "nominal", "too often")),
        bounded(pd.DataFrame(coverage), "covered", n_checks, COVERAGE, ("too narrow", "nominal", "too wide")),
    )


def bounded(
    table: pd.DataFrame, count: str, n_checks: int, nominal: float, verdicts: tuple[str, str, str]
) -> pd.DataFrame:
    """Add the share, its one-sided bounds, and what they say about a nominal share.

    Each bound is exceeded with probability `ALPHA` / `n_checks` at most. The verdicts are for counts that are too low,
    compatible and too high for the nominal share.
    """
    k, n, error = table[count], table["n"], ALPHA / n_checks
    low = np.where(k > 0, stats.beta.ppf(error, np.maximum(k, 1), n - k + 1), 0.0)
    high = np.where(k < n, stats.beta.isf(error, k + 1, np.maximum(n - k, 1)), 1.0)
    verdict = np.select([high < nominal, low > nominal], [verdicts[0], verdicts[2]], verdicts[1])
    return table.assign(share=k / n, low=low, high=high, verdict=verdict)
