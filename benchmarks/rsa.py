"""Per-feature RSA and max-T against peers: rsatoolbox, nilearn, batched NumPy, one matrix product, a loop.

``python -m benchmarks.rsa [--json]`` prints one line per measurement: our figure, the peer's, how many times faster we
are, and the largest absolute difference of the results. Ours and the peer's run alternate in one process; figures are
medians. Per-feature peers run on the first few hundred features, and their time per feature counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from scipy import sparse, stats
from threadpoolctl import threadpool_limits

from benchmarks import crossnobis
from neurosae.inference import max_t
from neurosae.rsa import score_model, score_profiles, score_scalar

warnings.filterwarnings("ignore", category=UserWarning, module="rsatoolbox")


def line(
    name: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    repeats: int,
    peer_is: str,
    *,
    n_ours: int = 1,
    n_peer: int = 1,
    unit: str = "us/feature",
) -> dict[str, Any]:
    """Time both in turn; `n_ours` and `n_peer` features each. The peer's values are compared with the first of ours."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    values: dict[str, np.ndarray] = {}
    for _ in range(repeats):
        for key, function in (("peer", peer), ("ours", ours)):
            started = time.perf_counter()
            values[key] = np.asarray(function())
            seconds[key].append(time.perf_counter() - started)
    scale = {"ns/latent/arrangement": 1e9, "us/feature": 1e6, "ms": 1e3, "s": 1}[unit]
    figure = {key: statistics.median(seconds[key]) / n * scale for key, n in (("ours", n_ours), ("peer", n_peer))}
    return {
        "name": f"{name}, {unit}",
        "ours": float(f"{figure['ours']:.4g}"),
        "peer": float(f"{figure['peer']:.4g}"),
        "ratio": float(f"{figure['peer'] / figure['ours']:.3g}"),
        "agreement": float(np.abs(values["ours"][..., : values["peer"].shape[-1]] - values["peer"]).max()),
        "peer_is": peer_is,
    }


def alone(name: str, function: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Seconds and peak memory of a measurement that has no peer."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ours, held = statistics.median(seconds), peak / 1e9
    return {"name": f"{name}, s", "ours": float(f"{ours:.3g}"), "peak_GB": float(f"{held:.3g}")}


# ---------------------------------------------------------------- scalar patterns


def by_rsatoolbox(X_SF: np.ndarray, model_SS: np.ndarray, method: str) -> list[float]:
    """One RDM per feature, compared with the model."""
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import RDMs, calc_rdm, compare

    model = RDMs(model_SS[np.triu_indices(len(model_SS), 1)][None])
    rdms = (calc_rdm(Dataset(x_S1), method="euclidean") for x_S1 in X_SF.T[:, :, None])
    return [float(compare(rdm, model, method=method)[0, 0]) for rdm in rdms]


def by_batches(X_SF: np.ndarray, model_SS: np.ndarray, size: int = 256) -> np.ndarray:
    """What one would write in NumPy: distances of all pairs of a batch of features, correlated by a matrix product."""
    i, j = np.triu_indices(len(model_SS), 1)
    m_P = model_SS[i, j] - model_SS[i, j].mean()
    m_P /= np.linalg.norm(m_P)
    values = []
    for start in range(0, X_SF.shape[1], size):
        x_fS = np.ascontiguousarray(X_SF[:, start : start + size].T)
        d_fP = (x_fS[:, i] - x_fS[:, j]) ** 2
        d_fP -= d_fP.mean(axis=1, keepdims=True)
        values.append(d_fP @ m_P / np.linalg.norm(d_fP, axis=1))
    return np.concatenate(values)


def scalar_lines(n_features: int, n_peer: int, repeats: int, n_jobs: int) -> Iterator[dict[str, Any]]:
    """Two-class and graded scores, and rank comparators, of dense features; 100 stimuli."""
    rng = np.random.default_rng(0)
    X_SF, labels, rating_S = rng.normal(size=(100, n_features)), np.arange(100) < 50, rng.normal(size=100)
    across_SS = (labels[:, None] != labels).astype(float)
    graded_SS = rng.random((100, 100))
    graded_SS += graded_SS.T  # full rank
    few_SF, toolbox = X_SF[:, :n_peer], f"rsatoolbox {version('rsatoolbox')}, calc_rdm + compare"
    size = f"100 x {n_features} dense"

    def two_class() -> np.ndarray:
        return score_scalar(X_SF, labels, "category").value

    peer: Callable[[], Any] = lambda: by_rsatoolbox(few_SF, across_SS, "corr")  # noqa: E731
    yield line(f"two-class, {size}", two_class, peer, repeats, toolbox, n_ours=n_features, n_peer=n_peer)
    n_batched = min(n_features, 10 * n_peer)
    yield line(
        f"two-class, {size}",
        two_class,
        lambda: by_batches(X_SF[:, :n_batched], across_SS),
        repeats,
        f"batched numpy {np.__version__}, all pairs of 256 features",
        n_ours=n_features,
        n_peer=n_batched,
    )

    def graded() -> np.ndarray:
        return score_model(X_SF, graded_SS).value

    peer = lambda: by_rsatoolbox(few_SF, graded_SS, "corr")  # noqa: E731
    yield line(f"graded, {size}", graded, peer, repeats, toolbox, n_ours=n_features, n_peer=n_peer)
    product = line(
        f"graded, {size}", graded, lambda: graded_SS @ X_SF, repeats, "one product [S, S] x [S, F]", unit="ms"
    )
    yield {**product, "agreement": None}
    model_SS = np.abs(rating_S[:, None] - rating_S)
    n_ranked = min(n_features, 4 * n_peer)
    for ours, theirs in (("spearman", "spearman"), ("kendall", "tau-a")):
        yield line(
            f"{ours}, 100 x {n_ranked} dense",
            lambda name=ours: score_model(X_SF[:, :n_ranked], model_SS, comparator=name, n_jobs=n_jobs).value,  # type: ignore[misc]
            lambda name=theirs: by_rsatoolbox(few_SF, model_SS, name),  # type: ignore[misc]
            repeats,
            toolbox,
            n_ours=n_ranked,
            n_peer=n_peer,
        )


def zipf_table(n_stimuli: int, n_latents: int, exponent: float = 1.0) -> sparse.csc_array:
    """Responses of latents whose firing rates follow Zipf's law; 2 % of them fire for at least 10 % of the stimuli."""
    rng = np.random.default_rng(0)
    rate_F = np.minimum(1, 0.1 * (0.02 * n_latents / np.arange(1, n_latents + 1)) ** exponent)
    n_F = rng.binomial(n_stimuli, rate_F)
    rows = np.concatenate([rng.choice(n_stimuli, n, replace=False) for n in n_F[n_F > 0]])
    indptr = np.concatenate([[0], np.cumsum(n_F)])
    table = sparse.csc_array((rng.exponential(size=len(rows)), rows, indptr), shape=(n_stimuli, n_latents))
    table.sort_indices()
    return table


def sparse_lines(n_latents: int, n_arrangements: int, repeats: int, n_jobs: int) -> Iterator[dict[str, Any]]:
    """A wide sparse autoencoder: scores and max-T without densifying; 200 stimuli."""
    X_SF = zipf_table(200, n_latents)
    labels, rng = np.repeat([1, -1], 100), np.random.default_rng(1)
    rating_S = rng.random(200)
    model_SS = np.abs(rating_S[:, None] - rating_S)
    size = f"200 x {n_latents} sparse, {X_SF.nnz} non-zeros"
    yield alone(f"two-class, {size}", lambda: score_scalar(X_SF, labels), repeats)
    yield alone(f"graded, {size}", lambda: score_model(X_SF, model_SS), repeats)
    pair_S = np.tile(np.arange(100), 2)
    yield alone(
        f"max-T, {n_arrangements} arrangements of pairs, {size}",
        lambda: max_t(X_SF, labels, pair_S, "pairs", n=n_arrangements, n_jobs=n_jobs),
        1,
    )


# ---------------------------------------------------------------- time courses


def single(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call with matrix products on one thread: fastest for the small ones of a loop."""
    with threadpool_limits(limits=1):
        return function(*arguments)


def by_loop(P_FSW: np.ndarray, labels: np.ndarray) -> list[float]:
    """One feature after the other: np.corrcoef, Fisher z and a t-test of the defined pairs, as a correlation."""
    i, j = np.triu_indices(len(labels), 1)
    within, across, bound = labels[i] & labels[j], labels[i] != labels[j], 1 - 1 / P_FSW.shape[2]
    values = []
    for P_SW in P_FSW:
        with np.errstate(invalid="ignore", divide="ignore"):
            z_P = np.arctanh(np.clip(np.corrcoef(P_SW)[i, j], -bound, bound))
        similar, dissimilar = (z_P[side & ~np.isnan(z_P)] for side in (within, across))
        if min(len(similar), len(dissimilar)) < 100:
            values.append(0.0)
            continue
        t, df = stats.ttest_ind(similar, dissimilar).statistic, len(similar) + len(dissimilar) - 2
        values.append(float(t / np.sqrt(t**2 + df)))
    return values


def profile_lines(n_features: int, n_peer: int, repeats: int, n_jobs: int) -> Iterator[dict[str, Any]]:
    """Time courses of 50 tokens, 100 stimuli: dense, one response in a hundred, and firing rates after Zipf's law.

    Rare responses are given to us as a sparse table, and again as the dense profiles that the loop always gets.
    """
    rng = np.random.default_rng(2)
    labels, everywhere = np.arange(100) < 50, np.ones((100, 50), dtype=bool)
    rate_F = rng.permutation(np.minimum(1, 0.12 / np.arange(1, n_features + 1) ** 0.5))
    for name, density in (
        ("all responses", 1.0),
        ("1 % of responses", 0.01),
        ("1 % of responses, rates after Zipf", rate_F * 0.01 / rate_F.mean()),
    ):
        P_SWF = rng.exponential(size=(100, 50, n_features)) * (rng.random((100, 50, n_features)) < density)
        P_FSW = np.ascontiguousarray(np.moveaxis(P_SWF[:, :, :n_peer], -1, 0))
        tables = {"dense input": P_SWF}
        if name != "all responses":
            tables = {"sparse table": sparse.csc_array(P_SWF.reshape(5_000, -1)), **tables}
        for given, table in tables.items():
            yield line(
                f"profiles, {name}, 100 x 50 x {n_features}, {given}",
                lambda table=table: score_profiles(table, everywhere, labels, n_jobs=n_jobs).value,  # type: ignore[misc]
                lambda P_FSW=P_FSW: single(by_loop, P_FSW, labels),  # type: ignore[misc]
                repeats,
                f"loop of np.corrcoef and scipy {version('scipy')} ttest_ind; ours on {n_jobs} threads",
                n_ours=n_features,
                n_peer=n_peer,
            )


# ---------------------------------------------------------------- max-T and crossnobis


def by_nilearn(Y_SF: np.ndarray, labels: np.ndarray, n_arrangements: int, n_jobs: int) -> dict[str, Any]:
    """Two-sided, family-wise."""
    from nilearn.mass_univariate import permuted_ols

    return permuted_ols(labels[:, None], Y_SF, n_perm=n_arrangements, random_state=0, n_jobs=n_jobs, output_type="dict")


def max_t_lines(n_features: int, n_latents: int, n: int, repeats: int, n_jobs: int) -> Iterator[dict[str, Any]]:
    """Dense features; and the latents of a wide sparse autoencoder."""
    yield max_t_line(n_features, n, repeats, n_jobs)
    yield wide_max_t_line(n_latents, n, n_features, repeats, n_jobs)


def max_t_line(n_features: int, n_arrangements: int, repeats: int, n_jobs: int) -> dict[str, Any]:
    """Dense features, a tenth of them with a signal; the same labels and number of arrangements."""
    labels = np.repeat([1.0, -1.0], 50)
    Y_SF = np.random.default_rng(3).normal(size=(100, n_features))
    Y_SF[:, : n_features // 10] += 0.35 * labels[:, None]
    results: dict[str, Any] = {}

    def ours() -> np.ndarray:
        results["ours"] = max_t(Y_SF, labels, None, "unpaired", n=n_arrangements, n_jobs=n_jobs)
        return np.asarray(results["ours"].observed.t)

    def peer() -> np.ndarray:
        results["peer"] = by_nilearn(Y_SF, labels, n_arrangements, n_jobs)
        return np.asarray(results["peer"]["t"][0])

    name = f"max-T, {n_arrangements} arrangements, dense, 100 x {n_features}"
    measured = line(name, ours, peer, repeats, f"nilearn {version('nilearn')} permuted_ols, {n_jobs} jobs", unit="s")
    p_ours, p_peer = results["ours"].p_fwe, 10.0 ** -results["peer"]["logp_max_t"][0]
    error = np.sqrt(2 * np.maximum(p_ours * (1 - p_ours), 1 / n_arrangements) / n_arrangements)
    return {
        **measured,
        "largest_p_difference_in_standard_errors": round(float((abs(p_ours - p_peer) / error).max()), 2),
    }


def wide_max_t_line(n_latents: int, n_arrangements: int, n_peer: int, repeats: int, n_jobs: int) -> dict[str, Any]:
    """All latents of a wide sparse autoencoder; the peer gets few of them and few arrangements, or would not end."""
    table, labels = zipf_table(200, n_latents), np.repeat([1.0, -1.0], 100)
    active = np.flatnonzero(np.diff(table.indptr))
    sample = np.sort(np.random.default_rng(5).choice(active, min(n_peer, len(active)), replace=False))
    few, few_SF = max(20, n_arrangements // 50), table[:, sample].toarray()
    return line(
        f"max-T, {n_arrangements} arrangements, sparse, 200 x {n_latents}, {len(active)} not silent",
        lambda: max_t(table, labels, None, "unpaired", n=n_arrangements, n_jobs=n_jobs).observed.t[sample],
        lambda: by_nilearn(few_SF, labels, few, n_jobs)["t"][0],
        repeats,
        f"nilearn {version('nilearn')} permuted_ols, {n_jobs} jobs, {few} arrangements of {len(sample)} random latents "
        "that are not silent; both figures are per latent that is not silent",
        n_ours=len(active) * n_arrangements,
        n_peer=len(sample) * few,
        unit="ns/latent/arrangement",
    )


def crossnobis_lines(n_features: int, repeats: int) -> Iterator[dict[str, Any]]:
    """As `benchmarks.crossnobis` measures it."""
    yield crossnobis.measure(n_features, repeats)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rsa", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of all features and arrangements (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)

    def some(n: int) -> int:
        return max(20, int(options.share * n))

    repeats, jobs = options.repeats, options.jobs
    lines = [
        scalar_lines(some(20_000), some(200), repeats, jobs),
        profile_lines(some(2_000), some(100), repeats, jobs),
        max_t_lines(some(5_000), some(1_000_000), some(10_000), repeats, jobs),
        crossnobis_lines(some(16_000), repeats),
        sparse_lines(some(1_000_000), some(10_000), repeats, jobs),
    ]
    for result in (result for part in lines for result in part):
        print(json.dumps(result) if options.json else "  ".join(f"{key}: {value}" for key, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
