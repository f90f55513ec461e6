"""Claims for outcomes without folds: the same matched cells as for AUROC, and tests with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neurosae.decoding.variants import Grid
from neurosae.errors import UserError
from neurosae.runs.comparison import CLAIMS, FAMILIES, VARIANT, claims_table, matched_deltas
from neurosae.runs.scorecard import (
    OUTCOMES,
    answer,
    matched_weights,
    new_domain_claims,
    over_draws,
    over_units,
    scorecard,
    weighted_means,
)

GRID = Grid(blocks=(15,), sae_block=15, ks=(1, 8))
SCOPE = "here"


def variants() -> pd.DataFrame:
    return pd.DataFrame([v.as_dict() for family in GRID.families() for v in family.variants()])


def folds_of(table: pd.DataFrame, values_VF: np.ndarray) -> pd.DataFrame:
    parts = [
        table.assign(
            repeat=0, fold=f, auroc=values_VF[:, f], balanced_accuracy=0.5, concept="success", contrast="success"
        )
        for f in range(values_VF.shape[1])
    ]
    return pd.concat(parts, ignore_index=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_weights_are_those_of_matched_deltas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = variants().sample(frac=0.7, random_state=seed, ignore_index=True).assign(form="scalar")
    values_V = rng.normal(size=len(table))
    for first, second, match in CLAIMS.values():
        chosen = [FAMILIES[name](table) & table["representation"].isin(["raw", "sae"]) for name in (first, second)]
        weights_V, n_cells = matched_weights(table, *chosen, match)
        folds = folds_of(table, values_V[:, None])
        expected = matched_deltas(*(folds[rows.to_numpy()] for rows in chosen), match)
        assert n_cells == expected.n_cells
        if n_cells:
            np.testing.assert_allclose(weights_V @ values_V, expected.deltas_RF[0, 0], atol=1e-12)
            assert abs(weights_V.sum()) < 1e-12


def test_deltas_and_cells_equal_those_of_the_decoding_claims() -> None:
    table, rng = variants(), np.random.default_rng(0)
    values_VF = 0.7 + 0.1 * rng.normal(size=(len(table), 5))
    expected = claims_table(folds_of(table, values_VF), n_splits=5)
    found = answer(table, "decoding", over_draws(values_VF.mean(axis=1), values_VF), SCOPE)
    np.testing.assert_allclose(found["delta"], expected["delta"], atol=1e-12)
    assert found["n_cells"].tolist() == expected["n_cells"].tolist()
    assert [len(v.split("; ")) for v in found["verdict"]] == [2, 2, 2]


def planted(family: str, size: float, noise: float = 0.01, n: int = 400) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Every resample shifts all variants alike (what pairing removes); a family is better by `size`."""
    table, rng = variants(), np.random.default_rng(1)
    better_V = size * FAMILIES[family](table).to_numpy(dtype=float)
    shared_B = 0.2 * rng.normal(size=n)
    draws_VB = 0.5 + better_V[:, None] + shared_B + noise * rng.normal(size=(len(table), n))
    return table, 0.5 + better_V, draws_VB


@pytest.mark.parametrize(("size", "verdict"), [(0.1, "supported"), (-0.1, "opposite"), (0.0, "equivalent")])
def test_a_planted_difference_gets_its_verdict(size: float, verdict: str) -> None:
    table, values_V, draws_VB = planted("SAE", size)
    found = answer(table, "discovery", over_draws(values_V, draws_VB), SCOPE).set_index("claim")
    assert found.loc["SAE beats raw", "verdict"].startswith(verdict)
    assert found.loc["SAE beats raw", "delta"] == pytest.approx(size)


def test_a_difference_smaller_than_its_noise_is_undecided() -> None:
    table, values_V, draws_VB = planted("RSA", 0.03, noise=0.2)
    row = answer(table, "discovery", over_draws(values_V, draws_VB), SCOPE).iloc[0]
    assert row["verdict"].startswith("undecided")
    assert row["ci_low"] < 0 < row["ci_high"]


def test_resamples_that_all_variants_share_leave_the_interval_narrow() -> None:
    """Broken pairing would leave the shared spread of 0.2 in the difference."""
    table, values_V, draws_VB = planted("SAE", 0.1)
    paired = answer(table, "discovery", over_draws(values_V, draws_VB), SCOPE).iloc[1]
    rng = np.random.default_rng(2)
    shuffled = answer(table, "discovery", over_draws(values_V, rng.permuted(draws_VB, axis=1)), SCOPE).iloc[1]
    assert paired["ci_high"] - paired["ci_low"] < 0.3 * (shuffled["ci_high"] - shuffled["ci_low"])


def test_the_bootstrap_p_is_uniform_enough_under_the_null() -> None:
    """Means of 40 sentences without a difference: at most the upper 99.9 % binomial bound of rejections at .05."""
    rng, n_rejected, n_runs = np.random.default_rng(3), 0, 300
    for _ in range(n_runs):
        x_SV = rng.normal(size=(60, 2))
        weights_BS = rng.multinomial(60, np.full(60, 1 / 60), size=300)
        draws_VB = np.array([weighted_means(x_S, weights_BS) for x_S in x_SV.T])
        n_rejected += over_draws(x_SV.mean(axis=0), draws_VB)(np.array([1.0, -1.0])).p <= 0.05
    assert n_rejected <= stats.binom.ppf(0.999, n_runs, 0.06)
    assert n_rejected > 0


def test_units_agree_with_scipy() -> None:
    rng = np.random.default_rng(4)
    values_VU = rng.normal(size=(2, 9)) + np.array([[0.5], [0.0]])
    found = over_units(values_VU)(np.array([1.0, -1.0]))
    delta_U = values_VU[0] - values_VU[1]
    low, high = stats.ttest_1samp(delta_U, 0).confidence_interval()
    expected = stats.permutation_test((delta_U,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(expected.pvalue)


def test_new_domains_are_units_and_incomplete_ones_are_left_out() -> None:
    table = variants()
    parts = [
        table.assign(domain=d, auroc=0.6 + 0.1 * FAMILIES["SAE"](table) + 0.01 * i) for i, d in enumerate("abcdef")
    ]
    parts[5].loc[0, "auroc"] = np.nan
    found = new_domain_claims(pd.concat(parts, ignore_index=True), SCOPE).set_index("claim")
    assert found.loc["SAE beats raw", "delta"] == pytest.approx(0.1)
    assert found.loc["SAE beats raw", "p"] == pytest.approx(2 / 2**5)
    few = new_domain_claims(pd.concat(parts[:3], ignore_index=True), SCOPE)
    assert set(few["verdict"]) == {"not tested"}
    assert few["reason"].str.contains("3 domains").all()
    assert new_domain_claims(parts[0].iloc[:0], SCOPE)["reason"].str.contains("0 domains").all()


def test_an_outcome_that_cannot_be_had_says_why() -> None:
    for outcome in OUTCOMES:
        found = answer(variants().iloc[:0], outcome, None, SCOPE, "no grades")
        assert found["claim"].tolist() == list(CLAIMS)
        assert found["delta"].isna().all()
        assert set(found["reason"]) == {"no grades"}


def test_claims_without_matched_cells_are_not_tested() -> None:
    table = variants().query("representation == 'raw' and selector == 't'").reset_index(drop=True)
    found = answer(table, "causal", over_draws(np.zeros(len(table)), np.zeros((len(table), 20))), SCOPE)
    assert found["verdict"].str.startswith("not tested").all()
    assert set(found["reason"]) == {"no matched cells"}


@pytest.mark.parametrize(
    ("values", "draws"), [([1.0, np.nan], np.zeros((2, 3))), ([1.0], np.zeros((2, 3))), ([1.0], [[np.inf]])]
)
def test_outcomes_that_are_not_numbers_are_refused(values: list[float], draws: np.ndarray) -> None:
    with pytest.raises(UserError):
        over_draws(values, draws)


def test_a_scorecard_keeps_every_variant_and_refuses_strangers() -> None:
    table = variants().assign(
        concept="c", contrast="c", rank=1, auroc=0.5, auroc_ci_low=0.4, auroc_ci_high=0.6, auroc_p=0.5,
        new_domain_auroc=0.5, new_domain_reason="", stability=0.5, stability_reason="", control=False,
    )  # fmt: skip
    part = table[VARIANT].iloc[:3].assign(discovery_ap=[0.1, 0.2, 0.3])
    card = scorecard(table, [part])
    assert len(card) == len(table)
    assert card["discovery_ap"].notna().sum() == 3
    with pytest.raises(UserError, match="twice"):
        scorecard(table, [pd.concat([part, part])])
    with pytest.raises(UserError, match="does not have"):
        scorecard(table, [part.assign(k=99)])
