"""The benchmark of levels, coverage and planted features: its bounds, its data, and that it would notice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from benchmarks import truth
from benchmarks.truth_data import LABELS, N_PLANTED, NULL_KINDS, SIGNALS, TARGET, null_data
from benchmarks.truth_level import ALPHA, bounded, level_and_coverage, one_data_set
from benchmarks.truth_planted import KS, METHODS, recall_and_precision
from neurosae.decoding.selection import PLANTED, SELECTORS

VERDICTS = ("low", "fits", "high")


def test_bounds_are_clopper_pearson_and_verdicts_exact_binomial_tests() -> None:
    n, n_checks = 200, 40
    table = bounded(pd.DataFrame({"k": np.arange(n + 1), "n": n}), "k", n_checks, 0.05, VERDICTS)
    low, high = proportion_confint(table["k"], n, 2 * ALPHA / n_checks, method="beta")
    np.testing.assert_allclose(table["low"], low, atol=1e-12)
    np.testing.assert_allclose(table["high"], high, atol=1e-12)
    for row in table.itertuples():
        too_high = stats.binomtest(row.k, n, 0.05, "greater").pvalue < ALPHA / n_checks
        too_low = stats.binomtest(row.k, n, 0.05, "less").pvalue < ALPHA / n_checks
        assert row.verdict == ("high" if too_high else "low" if too_low else "fits")


def test_a_test_that_rejects_too_often_is_noticed() -> None:
    """A nominal .05 that is .10 in truth, and one that is right, at the size of the full run."""
    rng = np.random.default_rng(0)
    table = bounded(
        pd.DataFrame({"k": rng.binomial(1000, [0.1] * 50 + [0.05] * 200), "n": 1000}), "k", 250, 0.05, VERDICTS
    )
    assert (table["verdict"][:50] == "high").sum() > 30
    assert (table["verdict"][50:] == "fits").all()


@pytest.mark.parametrize("kind", NULL_KINDS)
def test_null_data_have_no_effect_and_the_structure_they_claim(kind: str) -> None:
    t_D = []
    for number in range(60):
        data = null_data(kind, np.random.default_rng(number))
        target_S = data.labels_S > 0
        t_D.append(np.mean(data.Y_SF[target_S].mean(axis=0) - data.Y_SF[~target_S].mean(axis=0)))
        assert np.ptp(data.Y_SF[:, data.feature]) > 0
        assert target_S.sum() == (10 if kind.startswith("unequal") else 20)
        assert ("pairs" in data.blocks) == (not kind.startswith("unequal"))
    assert abs(stats.ttest_1samp(t_D, 0).statistic) < 4
    within = np.corrcoef(data.Y_SF[::2].ravel(), data.Y_SF[1::2].ravel())[0, 1]
    zeros, targets, foils = np.mean(data.Y_SF == 0), data.Y_SF[target_S].std(), data.Y_SF[~target_S].std()
    assert (within > 0.7) == (kind == "paired")
    assert (zeros > 0.8) == (kind == "sparse")
    assert (targets > 2 * foils) == (kind == "unequal variances")
    assert (stats.kurtosis(data.Y_SF[~target_S], axis=None) > 2) == (kind in ("sparse", "heavy-tailed"))


@pytest.mark.parametrize("signal", SIGNALS)
def test_planted_features_carry_their_signal_and_no_other_does(signal: str) -> None:
    name = {"variance only": "rsa_categorical", "profile only": "rsa_category_profile"}.get(signal, "t")
    name = "t, length as covariate" if signal == "length confound" else name
    value, is_planted = [], []
    for number in range(4):
        data = SIGNALS[signal](np.random.default_rng(number))
        assert len(np.unique(data.features)) == N_PLANTED
        assert data.X_SF.shape == (len(LABELS), 200)
        assert (np.sign(data.rating_S) == LABELS).all()
        value.append(METHODS[name](data, number).value)
        is_planted.append(np.isin(np.arange(200), data.features))
    planted, others = (np.concatenate(value)[np.concatenate(is_planted) == side] for side in (True, False))
    assert np.median(planted) > np.quantile(others, 0.95)


def test_features_that_follow_length_beat_planted_ones_until_length_is_controlled_for() -> None:
    chosen = {name: 0.0 for name in ("t", "t, length as covariate")}
    for number in range(5):
        data = SIGNALS["length confound"](np.random.default_rng(number))
        assert stats.pearsonr(data.length_S, TARGET).statistic > 0.3
        for name in chosen:
            rank_F = stats.rankdata(-METHODS[name](data, number).value)
            chosen[name] += np.mean(rank_F[data.features] <= N_PLANTED) / 5
    assert chosen["t, length as covariate"] > chosen["t"] + 0.2


def test_every_selector_is_among_the_methods() -> None:
    assert set(SELECTORS) == set(PLANTED) <= set(METHODS)


def test_a_data_set_depends_on_kind_seed_and_number_only() -> None:
    assert one_data_set("sparse", 3, 5) == one_data_set("sparse", 3, 5)
    assert one_data_set("sparse", 3, 5)[1] != one_data_set("sparse", 4, 5)[1]


def test_tables_are_the_same_for_any_number_of_jobs() -> None:
    for one, two in zip(level_and_coverage(2, 1), level_and_coverage(2, 2), strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)
        assert one["share"].between(0, 1).all()
        assert (one["low"] <= one["share"]).all()
        assert (one["share"] <= one["high"]).all()


@pytest.mark.slow
def test_the_command_writes_its_tables_and_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- level -->\nold\n<!-- end -->\nbetween\n<!-- recall 8 -->\n<!-- end -->\n")
    monkeypatch.setattr(truth, "PAGE", page)
    assert truth.main(["--datasets", "2", "--jobs", "1", "--out", str(tmp_path), "--write-docs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["found"]
    assert set(found) == {"level", "coverage", "selectors"}
    for name, rows in found.items():
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) == len(rows)
    assert {row["method"] for row in found["selectors"]} == set(METHODS)
    text = page.read_text()
    assert "old" not in text
    assert "between" in text
    assert "| max-T | unpaired | family-wise |" in text
    assert "| rsa_categorical | " in text


@pytest.mark.slow
def test_recall_and_precision_count_the_same_hits_for_any_number_of_jobs() -> None:
    one, two = (recall_and_precision(2, n_jobs) for n_jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    np.testing.assert_allclose(one["recall"] * N_PLANTED, one["precision"] * one["k"])
    assert set(one["k"]) == set(KS)
    best = one.query("signal == 'variance only' and k == 8").set_index("method")["recall"]
    assert best["rsa_categorical"] > 0.5 > best["t"]
