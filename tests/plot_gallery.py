"""Fixed data for every public figure, ordinary and extreme: what `test_plot_images` draws."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.spatial.distance import pdist, squareform

from neurosae import plots
from neurosae.decoding.selection import SELECTORS
from neurosae.dictionary.maps import Separation
from neurosae.dictionary.scaling import PowerLaw
from neurosae.rdms import make_rdms, second_order
from neurosae.rdms.ceilings import NoiseCeiling
from neurosae.rdms.model_comparison import ModelComparison
from neurosae.rsa import Reason
from neurosae.steering.causal import CausalEffect, Estimate
from neurosae.univariate import ContrastMap

LONG = "a name that is much longer than names of conditions, features and methods usually are"


def variants(selectors: list[str] | None = None, ks: tuple[int, ...] = (1, 4, 16)) -> pd.DataFrame:
    """A table as a run writes it."""
    rng = np.random.default_rng(0)
    chosen = selectors or ["t", "auroc", "rsa_discriminative", "max_activation", "random"]
    rows = [(r, s, k) for r in ("raw", "sae") for s in chosen for k in ks]
    rows += [("untrained_sae", s, k) for s in chosen[:2] for k in ks] + [("embeddings", chosen[0], k) for k in ks]
    rows += [("raw", "all", 576), ("bag_of_words", "all", 900)]
    table = pd.DataFrame(rows, columns=["representation", "selector", "k"])
    table["auroc"] = rng.uniform(0.5, 0.9, len(table))
    table["auroc_ci_low"], table["auroc_ci_high"] = table["auroc"] - 0.05, table["auroc"] + 0.06
    table["block"] = np.where(table["representation"] == "raw", 10, 15)
    return table.assign(auroc_chance_low=0.4, auroc_chance_high=0.6, ensemble="logistic_l2", pooling="mean")


def features(selectors: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [(name, feature) for name in selectors for feature in rng.choice(12, 4, replace=False)]
    return pd.DataFrame(rows, columns=["selector", "feature"]).assign(representation="sae", k=4)


def card(selectors: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    table = pd.DataFrame(list(itertools.product(selectors, ["raw", "sae"])), columns=["selector", "representation"])
    for name, outcome in (("discovery", "ap"), ("target", "score")):
        value = rng.uniform(0.1, 0.4, len(table))
        table[f"{name}_{outcome}"], table[f"{name}_low"], table[f"{name}_high"] = value, value - 0.05, value + 0.05
    return table.assign(discovery_chance=0.08)


def decisions(domains: list[str], n: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    side = np.tile([1, -1], len(domains) * n // 2)
    return pd.DataFrame(
        {"decision": side + rng.normal(size=len(side)), "side": side, "domain": np.repeat(domains, n)[: len(side)]}
    )


def claims(names: list[str]) -> pd.DataFrame:
    delta = np.linspace(-0.05, 0.15, len(names))
    delta[-1] = np.nan if len(names) > 1 else 0.1
    table = pd.DataFrame({"claim": names, "delta": delta, "n_cells": 10})
    return table.assign(ci_low=table["delta"] - 0.04, ci_high=table["delta"] + 0.04)


def contrast_map(n_blocks: int = 3, width: int = 4, contrast: str = "success") -> ContrastMap:
    rng = np.random.default_rng(4)
    shape = (n_blocks, width, 5)
    t = rng.normal(size=shape).astype(np.float32)
    t[-1, -1, 3] = 9.0
    reason = np.zeros(shape, dtype=np.int8)
    n_LW = np.full(shape[:2], 40)
    if width > 1:
        t[-1, 1, 3], n_LW[0, 0], reason[0, 0] = -8.0, 12, Reason.TOO_FEW_STIMULI
    t[reason != 0] = 0
    p = np.where(reason == 0, np.exp(-np.abs(t.astype(float))), 1.0)
    return ContrastMap(
        contrast=contrast, design="pairs", covariates=(), blocks_L=np.arange(n_blocks) * 5, stream="resid_post",
        positions_W=np.arange(-1, width - 1) if width > 1 else np.array(["mean"]), features_F=np.arange(5),
        shared_axis=True, effect=t, se=np.ones_like(t), t=t, d=t / 4, p=p,
        p_corrected=np.where(np.abs(t) > 7, 0.01, 1.0), reason=reason, n_LW=n_LW, df_LW=np.where(n_LW > 20, 19.0, 0.0),
        height_control="fwe", alpha=0.05, two_sided=True, null_LWB=None, smallest_p=0.001,
    )  # fmt: skip


def profile(n_blocks: int) -> pd.DataFrame:
    effect = np.linspace(0.1, 0.8, n_blocks)
    table = pd.DataFrame({"block": 3 * np.arange(n_blocks), "effect": effect, "n": 72})
    return table.assign(low=effect - 0.2, high=effect + 0.2)


def transfer(contexts: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(list(itertools.product(contexts, contexts)), columns=["train", "test"])
    auroc = np.linspace(0.3, 0.95, len(table))
    return table.assign(auroc=auroc, auroc_p=np.where(auroc > 0.7, 0.01, 0.5), n_test=40)


def rates(n_latents: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    table = pd.DataFrame(list(itertools.product(range(n_latents), ["calm", "angry"])), columns=["latent", "condition"])
    table["fires"] = rng.integers(2, 24, len(table))
    table["n_stimuli"], table["valid"] = 24, True
    return table.assign(rate=table["fires"] / 24, auroc=rng.uniform(0.2, 0.9, len(table)))


def members(lists: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(6)
    table = pd.DataFrame({"list": np.repeat(lists, 6), "f1": rng.choice([0.0, 0.5, 0.8, 1.0], 6 * len(lists))})
    table["per_million"] = np.where(rng.random(len(table)) < 0.2, 0, 10 ** rng.uniform(-1, 2, len(table)))
    return table.assign(dedicated=table["f1"] > 0.7)


def cells(widths: list[int]) -> pd.DataFrame:
    table = pd.DataFrame(list(itertools.product([16, 32], widths)), columns=["k", "n_latents"])
    return table.assign(fvu=2.5 * table["n_latents"] ** -0.3 * np.where(table["k"] == 16, 1.2, 1.0))


LAW = PowerLaw(exponent=0.3, ci_low=0.28, ci_high=0.32, coefficient=3.0, r2=0.99, n=4)
NO_LAW = PowerLaw(0, 0, 0, 0, 0, 1, valid=False, reason="one width")
APART = Separation(silhouette=0.42, knn_accuracy=0.91, chance=0.5, between_within=1.31, n=40, valid=True, reason="")


def points(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    place_N2 = rng.normal(size=(10 * len(names), 2)) + np.repeat(3 * rng.normal(size=(len(names), 2)), 10, axis=0)
    return place_N2, np.repeat(names, 10)


def rdm(n: int = 12) -> np.ndarray:
    rng = np.random.default_rng(8)
    return squareform(pdist(rng.normal(size=(n, 3)) + np.repeat([[0.0], [3.0]], [n // 2, n - n // 2], axis=0)))


def models(names: list[str]) -> ModelComparison:
    score = np.linspace(0.5, 0.1, len(names))
    table = pd.DataFrame({"model": names, "score": score, "low": score - 0.12, "high": score + 0.12})
    table["p"] = table["p_holm"] = np.where(score > 0.25, 0.001, 0.5)
    pairs = pd.DataFrame(list(itertools.combinations(names, 2)), columns=["model_a", "model_b"])
    pairs["p"] = pairs["p_holm"] = np.where(np.arange(len(pairs)) == 1, 0.01, 0.5)
    return ModelComparison(
        table, pairs, pd.DataFrame(), NoiseCeiling(0.55, 0.62, 6), "spearman", 40, 20, 0, 0.95, 0.001
    )


def effect(doses: list[float]) -> CausalEffect:
    dose = np.array(doses)
    table = pd.DataFrame({"dose": dose, "n_pairs": 9, "shift": 0.3 * dose, "reason": ""})
    table = table.assign(low=table["shift"] - 0.1, high=table["shift"] + 0.1)
    control = pd.DataFrame(list(itertools.product(["random directions", "random features"], dose)))
    control.columns = pd.Index(["control", "dose"])
    controls = control.assign(n=8, mean=0.02, least=-0.06, most=0.09)
    return CausalEffect(table, controls, Estimate(0.3, 0.1, 0.5, 0.01, 0.001), pd.DataFrame())


def second_order_table(n: int) -> pd.DataFrame:
    X_SF = np.repeat(np.eye(2), 6, axis=0)
    noise_LSF = np.random.default_rng(9).normal(size=(n, 12, 2))
    return second_order(make_rdms({f"block {b}": X_SF + noise_SF for b, noise_SF in enumerate(noise_LSF)}))


MANY = [*SELECTORS, *(f"another_selector_{n}" for n in range(24 - len(SELECTORS)))]
DENSITY = np.array([1, 3, 8, 20, 42, 18, 5]), np.linspace(-6, 0, 8)
L0 = np.round(400 * np.exp(-(((np.arange(80) - 32) / 9) ** 2))).astype(int)


def sweep_rows(blocks: list[int], value: str, start: float) -> pd.DataFrame:
    """One curve over blocks, as the layer sweep writes it."""
    height = start + 0.3 * np.sin(np.arange(len(blocks)) / 4)
    table = pd.DataFrame({"block": blocks, value: height, "low": height - 0.05, "high": height + 0.05})
    return table.assign(p_fwe=np.where(height > start + 0.15, 0.01, 0.4))


def sweep_contrast(blocks: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    counts = pd.DataFrame({"block": blocks, "features": 576, "significant": [7 * b % 90 for b in range(len(blocks))]})
    return counts, sweep_rows(blocks, "effect", 0.2).assign(n=72)


def sweep_rsa(blocks: list[int], names: list[str]) -> pd.DataFrame:
    return pd.concat([sweep_rows(blocks, "r", 0.1 * n).assign(model=name, n=144) for n, name in enumerate(names)])


def sweep_decoding(blocks: list[int]) -> pd.DataFrame:
    parts = [
        sweep_rows(blocks, "auroc", 0.65 - 0.05 * n).assign(selector=name, k=k, representation="raw")
        for n, (name, k) in enumerate({"all": 576, "t": 8, "rsa_category": 8}.items())
    ]
    parts.append(sweep_rows(blocks[:1], "auroc", 0.54).assign(selector="all", k=900, representation="bag_of_words"))
    return pd.concat(parts).assign(chance_fwe=0.62, new_domains=0.7, n_domains=8, n=144)


def sweep_positions(blocks: list[int], width: int) -> pd.DataFrame:
    table = pd.DataFrame(list(itertools.product(blocks, np.arange(width) - width // 4)), columns=["block", "position"])
    table["auroc"] = 0.5 + 0.02 * (table["block"] + table["position"])
    table["reason"] = np.where(table["position"] == table["position"].max(), "too few stimuli", "")
    return table.assign(n=144 - 9 * table["position"].abs(), p_fwe=np.where(table["auroc"] > 0.6, 0.01, 0.5))


SWEPT = list(range(-1, 30))

FIGURES: dict[str, Callable[[], Axes]] = {
    "block_profile": lambda: plots.block_profile(profile(6)),
    "by_method": lambda: plots.by_method(
        card(["t", "auroc"]),
        "discovery_ap",
        "discovery_low",
        "discovery_high",
        label="average precision",
        title="n = 9",
    ),
    "claims": lambda: plots.claims(claims(["RSA beats maximum activation", "SAE beats neurons", "t beats random"])),
    "completeness_by_frequency": lambda: plots.completeness_by_frequency(members(["elements", "rivers"]), "Members"),
    "contrast_map": lambda: plots.contrast_map(contrast_map()),
    "contrast_map_of_a_feature": lambda: plots.contrast_map(contrast_map(), 3),
    "contrast_profile": lambda: plots.contrast_profile(*sweep_contrast(SWEPT)),
    "decoding_profile": lambda: plots.decoding_profile(sweep_decoding(SWEPT)),
    "dose_response": lambda: plots.dose_response(effect([-0.9, -0.5, 0.5, 0.9]), title="success, SAE latents, t"),
    "firing_density": lambda: plots.firing_density(*DENSITY, n_dead=12, n_tokens=20_000),
    "firing_rates": lambda: plots.firing_rates(rates(), "calm"),
    "l0_histogram": lambda: plots.l0_histogram(L0),
    "method_comparison": lambda: plots.method_comparison(variants(), 4, title="n = 144 stimuli"),
    "model_comparison": lambda: plots.model_comparison(models(["category", "valence", "length"])),
    "point_map": lambda: plots.point_map(*points(["calm", "angry", ""]), "Stimuli, latents", APART),
    "position_map": lambda: plots.position_map(sweep_positions(SWEPT[:8], 8)),
    "rdm_heatmap": lambda: plots.rdm_heatmap(rdm(), ["lost", "won"] * 6, unit="correlation distance (1 - r)"),
    "retrieval": lambda: plots.retrieval(card(["t", "auroc", "random"]), "Retrieval (n = 1,325 sentences)"),
    "rsa_profile": lambda: plots.rsa_profile(sweep_rsa(SWEPT, ["category", "domain", "length"])),
    "scaling_curve": lambda: plots.scaling_curve(cells([512, 1024, 2048, 4096]), "fvu", "FVU", {16: LAW}),
    "score_against_k": lambda: plots.score_against_k(variants(), "sae", title="n = 144 stimuli"),
    "second_order_matrix": lambda: plots.second_order_matrix(second_order_table(4)),
    "selection_overlap": lambda: plots.selection_overlap(features(["t", "auroc", "random"]), "sae", 4),
    "specification_curve": lambda: plots.specification_curve(variants(), title="n = 144 stimuli"),
    "stimulus_activation": lambda: plots.stimulus_activation(decisions(["art", "sport"]), "success", "failure"),
    "stimulus_mds": lambda: plots.stimulus_mds(rdm(), ["lost", "won"] * 6, title="Outcome"),
    "target_score": lambda: plots.target_score(card(["t", "auroc", "random"]), 0.31, "Mean grades (n = 20 sentences)"),
    "transfer_map": lambda: plots.transfer_map(transfer(["human", "animal", "machine"]), "agent", "valence, latents"),
    "volcano": lambda: plots.volcano(contrast_map()),
}
"""One picture per figure, on fixed data."""

EXTREMES: dict[str, Callable[[], Axes]] = {
    "block_profile, one": lambda: plots.block_profile(profile(1)),
    "block_profile, 80": lambda: plots.block_profile(profile(80)),
    "by_method, one": lambda: plots.by_method(
        card(["t"]).iloc[:1], "target_score", "target_low", "target_high", label=LONG, title=LONG
    ),
    "claims, one": lambda: plots.claims(claims(["A beats B"])),
    "claims, long": lambda: plots.claims(claims([LONG, LONG + " too"])),
    "completeness_by_frequency, 12 lists": lambda: plots.completeness_by_frequency(members([*"abcdefghijkl"]), LONG),
    "contrast_map, one": lambda: plots.contrast_map(contrast_map(1, 1)),
    "contrast_map, 40 blocks": lambda: plots.contrast_map(contrast_map(40, 12, LONG)),
    "contrast_profile, 80": lambda: plots.contrast_profile(*sweep_contrast(list(range(-1, 80)))),
    "decoding_profile, two": lambda: plots.decoding_profile(sweep_decoding([-1, 5])),
    "dose_response, one": lambda: plots.dose_response(effect([0.9]), title=LONG),
    "firing_density, all dead": lambda: plots.firing_density(DENSITY[0] * 0, DENSITY[1], n_dead=97, n_tokens=5),
    "firing_rates, one": lambda: plots.firing_rates(rates(1), "angry"),
    "l0_histogram, silent": lambda: plots.l0_histogram(np.array([7, 0])),
    "method_comparison, 24": lambda: plots.method_comparison(variants(MANY), 4, title=LONG),
    "method_comparison, one": lambda: plots.method_comparison(variants(["t"]).iloc[:1], 1),
    "model_comparison, one": lambda: plots.model_comparison(models(["category"]), title=LONG),
    "model_comparison, 12": lambda: plots.model_comparison(models([f"model of words {n}" for n in range(12)])),
    "point_map, 20": lambda: plots.point_map(*points([f"style {n}" for n in range(20)]), LONG, APART),
    "point_map, one": lambda: plots.point_map(np.zeros((1, 2)), np.array(["a"]), "", APART),
    "position_map, 80": lambda: plots.position_map(sweep_positions(list(range(-1, 80)), 24)),
    "rdm_heatmap, 24 conditions": lambda: plots.rdm_heatmap(rdm(48), [f"level {n:02d}" for n in range(24)] * 2),
    "rdm_heatmap, rare conditions": lambda: plots.rdm_heatmap(rdm(60), [*"abcd", *["e"] * 52, *"fghi"]),
    "rsa_profile, one": lambda: plots.rsa_profile(sweep_rsa([3, 9], [LONG])),
    "scaling_curve, one": lambda: plots.scaling_curve(cells([512]), "fvu", "FVU", {16: NO_LAW}),
    "score_against_k, 24": lambda: plots.score_against_k(variants(MANY), "sae"),
    "score_against_k, one": lambda: plots.score_against_k(variants(["t"], (8,)), "raw"),
    "second_order_matrix, one": lambda: plots.second_order_matrix(second_order_table(1)),
    "second_order_matrix, 30": lambda: plots.second_order_matrix(second_order_table(30), title=LONG),
    "selection_overlap, 24": lambda: plots.selection_overlap(features(MANY), "sae", 4),
    "selection_overlap, one": lambda: plots.selection_overlap(features(["t"]), "sae", 4),
    "specification_curve, 24": lambda: plots.specification_curve(variants(MANY), title=LONG),
    "specification_curve, one": lambda: plots.specification_curve(variants(["t"]).iloc[:1]),
    "stimulus_activation, long": lambda: plots.stimulus_activation(decisions(["art", LONG]), LONG, LONG, LONG),
    "stimulus_activation, one": lambda: plots.stimulus_activation(decisions(["art"]).iloc[:1], "won", "lost"),
    "stimulus_mds, 20 conditions": lambda: plots.stimulus_mds(rdm(40), [f"level {n:02d}" for n in range(20)] * 2),
    "transfer_map, 24": lambda: plots.transfer_map(transfer([f"block_{n}" for n in range(24)]), "block", LONG),
    "transfer_map, one": lambda: plots.transfer_map(transfer(["human"]), "agent"),
    "volcano, one": lambda: plots.volcano(contrast_map(1, 1)),
    "volcano, long": lambda: plots.volcano(contrast_map(contrast=LONG)),
}
"""One row, many rows, long names."""
