"""Claims over matched cells: planted differences, known answers, level under the null."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from neurosae.errors import UserError
from neurosae.runs.comparison import across_contrasts, claims_table, families_table, matched_deltas, ranked_table

SELECTORS = ("max_activation", "rsa_discriminative", "rsa_categorical", "rsa_category", "t", "random", "all")
CLAIM = {"rsa": "RSA beats max_activation", "sae": "SAE beats raw", "kind": "discriminative beats categorical"}
N_REPEATS, N_SPLITS = 4, 5


def grid(
    effects: dict[str, float] | None = None,
    noise: float = 0.01,
    seed: int = 0,
    concept: str = "success",
    representations: tuple[str, ...] = ("raw", "sae"),
) -> pd.DataFrame:
    """A table of folds in which a selector or representation adds its effect to an AUROC of .6."""
    effects = effects or {}
    rng = np.random.default_rng(seed)
    rows = []
    for representation, selector, k in itertools.product(representations, SELECTORS, (1, 4)):
        mean = 0.6 + effects.get(selector, 0.0) + effects.get(representation, 0.0)
        for repeat, fold in itertools.product(range(N_REPEATS), range(N_SPLITS)):
            value = mean + noise * rng.normal()
            rows.append((representation, selector, k, repeat, fold, value, value))
    columns = ["representation", "selector", "k", "repeat", "fold", "balanced_accuracy", "auroc"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(concept=concept, contrast=concept, ensemble="logistic_l2", block=8, pooling="mean")


def claim(table: pd.DataFrame, name: str) -> pd.Series:
    return table.set_index("claim").loc[CLAIM[name]]


def test_planted_differences_give_the_planted_verdicts() -> None:
    effects = {"rsa_discriminative": 0.1, "rsa_categorical": 0.1, "rsa_category": 0.1, "t": 0.3, "sae": -0.1}
    table = claims_table(grid(effects), N_SPLITS)
    assert table["claim"].tolist() == list(CLAIM.values())
    rsa, sae, kind = (claim(table, name) for name in CLAIM)
    assert rsa["verdict"] == "supported; RSA worse than t, better than random"
    assert abs(rsa["delta"] - 0.1) < 0.01
    assert rsa["n_cells"] == 4
    assert rsa["against_t"].startswith("worse than t: -0.2")
    assert rsa["against_random"].startswith("better than random: +0.")
    assert sae["verdict"].startswith("opposite; SAE ")
    assert sae["n_cells"] == 2 * 5
    assert kind["verdict"].startswith("equivalent; discriminative worse than t")
    assert (table["scope"].str.contains("this stimulus population, this model, this SAE")).all()


def test_a_small_clear_difference_is_equivalent_and_a_noisy_one_undecided() -> None:
    kinds = ("rsa_discriminative", "rsa_categorical", "rsa_category")
    small = claims_table(grid(dict.fromkeys(kinds, 0.01), noise=0.001), N_SPLITS)
    assert claim(small, "rsa")["p_holm"] < 0.001
    assert claim(small, "rsa")["verdict"].startswith("equivalent")
    noisy = claims_table(grid(dict.fromkeys(kinds, 0.05), noise=0.4), N_SPLITS)
    assert claim(noisy, "rsa")["verdict"].startswith("undecided")


def test_delta_interval_and_p_are_nadeau_and_bengios() -> None:
    folds = grid({"rsa_category": 0.05}, noise=0.05)
    wide = folds.pivot_table(index=["repeat", "fold"], columns=["representation", "k", "selector"], values="auroc")
    cells = [
        wide[r, k][[f"rsa_{kind}" for kind in ("discriminative", "categorical", "category")]].mean(axis=1)
        - wide[r, k]["max_activation"]
        for r, k in itertools.product(("raw", "sae"), (1, 4))
    ]
    deltas = sum(cells) / 4
    error = np.sqrt(deltas.var() * (1 / 20 + 1 / 4))
    row = claim(claims_table(folds, N_SPLITS), "rsa")
    np.testing.assert_allclose(row["delta"], deltas.mean())
    np.testing.assert_allclose(row["p"], 2 * stats.t.sf(abs(deltas.mean()) / error, 19))
    np.testing.assert_allclose((row["ci_low"], row["ci_high"]), stats.t.interval(0.95, 19, deltas.mean(), error))


def test_only_matched_complete_cells_count() -> None:
    folds = grid({"sae": 0.2})
    another_k = folds[folds["k"] == 4].assign(k=16, auroc=0.0).query("representation == 'sae'")
    another_block = folds[folds["representation"] == "raw"].assign(block=3, auroc=0.0)
    fold_missing = folds[folds["selector"] == "t"].assign(selector="auroc", auroc=0.0)
    fold_missing = fold_missing.query("representation == 'raw' or repeat > 0 or fold > 0")
    with_unmatched = pd.concat([folds, another_k, another_block, fold_missing])
    plain, mixed = claim(claims_table(folds, N_SPLITS), "sae"), claim(claims_table(with_unmatched, N_SPLITS), "sae")
    assert mixed["n_cells"] == plain["n_cells"] == 10
    np.testing.assert_allclose(mixed["delta"], plain["delta"])


def test_controls_and_profile_forms_stay_out_of_the_claims() -> None:
    folds = grid()
    latents = folds[folds["representation"] == "sae"]
    controls = pd.concat([latents.assign(representation=name, auroc=1.0) for name in ("untrained_sae", "embeddings")])
    swayed = folds.assign(auroc=np.where(folds["selector"].isin(["all", "random"]), 0.0, folds["auroc"]))
    swayed.loc[(swayed["selector"] == "all") & (swayed["representation"] == "sae"), "auroc"] = 1.0
    profile = folds[folds["selector"] == "rsa_category"].assign(selector="rsa_category_profile", auroc=1.0)
    columns = ["delta", "p", "n_cells"]
    plain = claims_table(folds, N_SPLITS)
    pd.testing.assert_frame_equal(claims_table(pd.concat([folds, controls]), N_SPLITS)[columns], plain[columns])
    pd.testing.assert_frame_equal(claims_table(swayed, N_SPLITS)[columns], plain[columns])
    with_profile = claims_table(pd.concat([folds, profile[profile["representation"] == "sae"]]), N_SPLITS)
    pd.testing.assert_frame_equal(with_profile[columns], plain[columns])


def test_order_of_rows_does_not_matter() -> None:
    folds = grid(noise=0.05)
    shuffled = folds.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(claims_table(shuffled, N_SPLITS), claims_table(folds, N_SPLITS))
    first, second = folds.query("selector == 't'"), folds.query("selector == 'random'")
    match = ["representation", "k"]
    there, back = matched_deltas(first, second, match), matched_deltas(second, first, match)
    np.testing.assert_allclose(there.deltas_RF, -back.deltas_RF)
    by_hand = first.groupby(["repeat", "fold"])["auroc"].mean() - second.groupby(["repeat", "fold"])["auroc"].mean()
    np.testing.assert_allclose(there.deltas_RF.ravel(), by_hand)


def test_a_claim_without_matched_cells_says_so() -> None:
    table = claims_table(grid(representations=("sae",)).query("selector != 't'"), N_SPLITS)
    sae = claim(table, "sae")
    assert sae["verdict"].startswith("not tested; SAE not compared with t")
    assert sae["n_cells"] == 0
    assert sae["against_t"] == "not compared with t"
    tested = table[table["n_cells"] > 0]
    assert (tested["p_holm"] <= 2 * tested["p"] + 1e-12).all()


def test_every_family_is_compared_with_t_and_random() -> None:
    effects = {"t": 0.2, "random": -0.1, "max_activation": 0.0}
    table = families_table(grid(effects), N_SPLITS).set_index(["family", "reference"])
    assert set(table.index.get_level_values("family")) == {
        "RSA",
        "max_activation",
        "SAE",
        "raw",
        "discriminative",
        "categorical",
    }
    assert (table.xs("t", level="reference")["verdict"] == "opposite").all()
    assert (table.xs("random", level="reference")["delta"] > 0.09).all()
    # t itself is a selector on the latents; without it the family is .2 below
    assert abs(table.loc[("SAE", "t"), "delta"] + 0.2) < 0.01


def test_contrasts_are_tested_apart() -> None:
    good, bad = grid({"sae": 0.2}, concept="a"), grid({"sae": -0.2}, concept="b")
    table = claims_table(pd.concat([good, bad]), N_SPLITS).query("claim == 'SAE beats raw'").set_index("concept")
    assert table.loc["a", "verdict"].startswith("supported")
    assert table.loc["b", "verdict"].startswith("opposite")
    pd.testing.assert_frame_equal(
        claims_table(pd.concat([good, bad]), N_SPLITS).query("concept == 'a'"), claims_table(good, N_SPLITS)
    )


def test_correlated_folds_keep_the_level() -> None:
    """Two methods that differ by noise of items: folds of one data set repeat the same accident."""
    rng = np.random.default_rng(0)
    n_items, n_simulations, rejected, naively = 100, 60, 0, 0
    about = {"concept": "a", "contrast": "a", "representation": "sae", "k": 1, "ensemble": "lda", "block": 8}
    for _ in range(n_simulations):
        item, teaching = rng.normal(size=(2, n_items))
        rows = []
        for repeat in range(N_REPEATS):
            fold_of = rng.permutation(n_items) % N_SPLITS
            for fold in range(N_SPLITS):
                delta = item[fold_of == fold].mean() + teaching[fold_of != fold].mean()
                rows += [("rsa_category", repeat, fold, delta), ("max_activation", repeat, fold, 0.0)]
        folds = pd.DataFrame(rows, columns=["selector", "repeat", "fold", "auroc"])
        folds = folds.assign(**about, pooling="mean", balanced_accuracy=0.5)
        rejected += claims_table(folds, N_SPLITS)["p"][0] < 0.05
        naively += stats.ttest_1samp(folds["auroc"][::2], 0).pvalue < 0.05
    assert rejected <= stats.binom.ppf(0.999, n_simulations, 0.05)
    assert naively > 0.3 * n_simulations  # what the correction is there for


def across(deltas: list[float]) -> pd.DataFrame:
    names = [f"concept {i}" for i in range(len(deltas))]
    return across_contrasts(pd.DataFrame({"claim": "SAE beats raw", "delta": deltas, "concept": names}))


def test_general_statements_need_eight_contrasts() -> None:
    seven = across([0.3] * 7).iloc[0]
    assert seven["verdict"] == "needs at least 8 contrasts"
    assert np.isnan(seven["p"])
    assert seven["delta"] == pytest.approx(0.3)
    eight = across([0.3, 0.2, 0.25, 0.1, 0.4, 0.3, 0.2, 0.1]).iloc[0]
    assert eight["verdict"] == "supported"
    assert eight["p"] == 2 / 2**8
    assert eight["n_contrasts"] == 8
    assert across([0.3] * 7 + [np.nan]).iloc[0]["n_contrasts"] == 7


def test_sign_flips_over_contrasts_are_exact_and_agree_with_scipy() -> None:
    deltas = np.random.default_rng(0).normal(0.03, 0.05, 10)
    row = across(list(deltas)).iloc[0]
    exact = stats.permutation_test((deltas,), np.mean, permutation_type="samples", n_resamples=np.inf)
    np.testing.assert_allclose(row["p"], exact.pvalue)
    interval = stats.t.interval(0.95, 9, deltas.mean(), stats.sem(deltas))
    np.testing.assert_allclose((row["ci_low"], row["ci_high"]), interval)
    many = np.random.default_rng(1).normal(0.02, 0.05, 20)
    np.testing.assert_allclose(across(list(many)).iloc[0]["p"], stats.ttest_1samp(many, 0).pvalue, atol=0.02)


def test_contrasts_around_zero_are_equivalent_or_undecided() -> None:
    near = list(np.random.default_rng(0).normal(0, 0.005, 12))
    far = list(np.random.default_rng(0).normal(0, 0.1, 12))
    assert across(near).iloc[0]["verdict"] == "equivalent"
    assert across(far).iloc[0]["verdict"] == "undecided"


def test_claims_of_many_contrasts_feed_general_statements() -> None:
    folds = pd.concat([grid({"sae": 0.2}, concept=f"c{i}", noise=0.05, seed=i) for i in range(8)])
    table = across_contrasts(claims_table(folds, N_SPLITS)).set_index("claim")
    assert table.loc[CLAIM["sae"], "verdict"] == "supported"
    assert table.loc[CLAIM["sae"], "scope"].startswith("8 contrasts of 8 concepts")
    assert table.loc[CLAIM["sae"], "p_holm"] >= table.loc[CLAIM["sae"], "p"]


def test_ranks_run_within_contrasts_and_ties_share_one() -> None:
    folds = pd.concat([grid({"t": 0.3}, concept=name, noise=0.0) for name in "ab"])
    keys = ["concept", "contrast", "representation", "selector", "k", "ensemble", "block", "pooling"]
    summary = folds.groupby(keys, as_index=False)["auroc"].mean().sample(frac=1, random_state=0)
    table = ranked_table(summary.round(6))
    for _, part in table.groupby("concept"):
        assert part["rank"].tolist() == [1] * 4 + [5] * 24
        assert (part["selector"].iloc[:4] == "t").all()
    assert set(table.loc[table["control"], "selector"]) == {"random", "all"}


def test_malformed_tables_are_refused() -> None:
    folds = grid()
    with pytest.raises(UserError, match="pooling"):
        claims_table(folds.drop(columns="pooling"), N_SPLITS)
    with pytest.raises(UserError, match="twice"):
        claims_table(pd.concat([folds, folds.head(1)]), N_SPLITS)
    with pytest.raises(UserError, match="folds"):
        claims_table(folds, 10)
    with pytest.raises(UserError, match="no variant"):
        claims_table(grid(representations=("embeddings",)), N_SPLITS)
    with pytest.raises(UserError, match="missing value"):
        claims_table(folds.assign(pooling=None), N_SPLITS)
