"""A planted concept is found where it begins, chance is chance, and nothing depends on order or number of jobs."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from experiments import layer_sweep as command
from experiments import sweep_report as report
from neurosae import plots, stimuli
from neurosae.decoding import decode
from neurosae.errors import UserError
from neurosae.inference import max_t
from neurosae.inference.design import Design, make_design
from neurosae.responses import Responses
from neurosae.rsa.models import rating_model
from neurosae.sweep import (
    EMBEDDING,
    contrast_by_block,
    decode_by_block,
    emergence,
    rsa_by_block,
    sweep_positions,
)

ONSET = 3
BLOCKS = [EMBEDDING, 0, 1, 2, 3, 4, 5]
PLACES = (
    "harbour",
    "school",
    "mill",
    "theatre",
    "garden",
    "station",
    "court",
    "kitchen",
    "market",
    "farm",
    "inn",
    "port",
)


def pairs(n: int = 40, **how: int) -> Design:
    pair_S = np.repeat(np.arange(n), 2)
    sizes = {"n_repeats": 2, "n_permutations": 99} | how
    return make_design([1, -1] * n, pair_S, pair_S, "pairs", domains_S=pair_S % 4, **sizes)


def planted(design: Design, strength: float = 1.5, seed: int = 0) -> dict[int, np.ndarray]:
    """Noise that neighbouring blocks share; from the onset on, three neurons carry the labels."""
    rng = np.random.default_rng(seed)
    shared_SF = rng.normal(size=(len(design.labels_S), 20))
    tables = {block: shared_SF + 0.3 * rng.normal(size=shared_SF.shape) for block in BLOCKS}
    for block in BLOCKS:
        if block >= ONSET:
            tables[block][:, :3] += strength * design.labels_S[:, None]
    return tables


def test_a_planted_concept_is_found_where_it_begins_and_not_before() -> None:
    design = pairs()
    tables = planted(design)
    after = np.array(BLOCKS) >= ONSET

    contrast = contrast_by_block(tables, design)
    assert ((contrast["significant"] > 0) == after).all()
    assert set(contrast["feature"][after]) <= {0, 1, 2}

    rsa = rsa_by_block(tables, design, n_bootstrap=300)
    assert ((rsa["p_fwe"] <= 0.05) == after).all()

    decoded = decode_by_block(tables, design, {"all": 0, "t": 3})
    for _, curve in decoded.table.groupby("selector"):
        assert ((curve["p_fwe"] <= 0.05) == after).all()

    found = emergence(decoded.decision_LS, design.labels_S, design.groups_S, decoded.blocks_L, n_splits=5)
    assert found.first_above(BLOCKS) == found.half_rise.block == ONSET
    assert found.half_rise.low == found.half_rise.high == ONSET
    assert found.peak.low >= ONSET
    steps = found.increments[found.increments["against"] == "previous"]
    assert steps.loc[steps["p_fwe"] <= 0.05, "block"].tolist() == [ONSET]


def test_a_single_block_is_tested_as_the_libraries_test_it() -> None:
    design = pairs()
    tables = planted(design)
    alone = max_t(tables[4], design.labels_S, design.blocks_S, "pairs", n=1000)
    row = contrast_by_block({4: tables[4]}, design).iloc[0]
    assert row["significant"] == row["significant_in_block"] == (alone.p_fwe <= 0.05).sum()
    assert row["p_fwe"] == alone.p_fwe[int(row["feature"])]

    mine = decode_by_block({4: tables[4]}, design, {"t": 3}).table.iloc[0]
    theirs = decode(tables[4], design, "t", [3], "logistic_l2", n_permutations=99)[0]
    assert (mine["auroc"], mine["low"], mine["p_fwe"]) == (theirs.auroc.mean, theirs.auroc.ci_low, theirs.auroc.p)
    assert mine["new_domains"] == theirs.domain_scores["auroc"].mean()


def test_decoding_by_all_features_is_scikit_learns_logistic_regression() -> None:
    design = pairs(20)
    X_SF = planted(design, strength=0.3)[4]
    scores = []
    for fold_S in design.folds_RS:
        for fold in np.unique(fold_S):
            train, test = fold_S != fold, fold_S == fold
            mean, scale = X_SF[train].mean(axis=0), X_SF[train].std(axis=0)
            model = LogisticRegression(tol=1e-12, max_iter=10_000).fit(
                (X_SF[train] - mean) / scale, design.labels_S[train]
            )
            scores.append(roc_auc_score(design.labels_S[test], model.decision_function((X_SF[test] - mean) / scale)))
    assert decode_by_block({4: X_SF}, design, {"all": 0}).table["auroc"].item() == pytest.approx(
        np.mean(scores), abs=1e-12
    )


def test_order_of_computation_and_number_of_jobs_change_nothing() -> None:
    design = pairs(20)
    tables = planted(design)
    tables = {block: tables[block] for block in (EMBEDDING, 0, 4)}
    backwards = dict(reversed(tables.items()))
    one, other = decode_by_block(tables, design, {"all": 0}), decode_by_block(backwards, design, {"all": 0}, n_jobs=2)
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    np.testing.assert_array_equal(one.decision_LS, other.decision_LS)
    pd.testing.assert_frame_equal(contrast_by_block(tables, design), contrast_by_block(backwards, design))
    pd.testing.assert_frame_equal(
        rsa_by_block(tables, design, n_bootstrap=100), rsa_by_block(backwards, design, n_bootstrap=100)
    )


def test_rsa_is_the_naive_correlation_over_pairs_of_different_groups() -> None:
    design = pairs(10)
    X_SF = planted(design)[4]
    Z_SF = (X_SF - X_SF.mean(axis=0)) / X_SF.std(axis=0)
    apart, same = [], []
    for i in range(20):
        for j in range(i):
            if design.groups_S[i] != design.groups_S[j]:
                cosine = Z_SF[i] @ Z_SF[j] / np.linalg.norm(Z_SF[i]) / np.linalg.norm(Z_SF[j])
                apart.append(1 - cosine)
                same.append(design.labels_S[i] != design.labels_S[j])
    found = rsa_by_block({4: X_SF}, design, n_bootstrap=50)
    assert found["r"].item() == pytest.approx(np.corrcoef(apart, same)[0, 1])
    assert found["p"].item() == found["p_fwe"].item()


def test_a_control_model_is_told_from_the_category() -> None:
    design = pairs()
    length_S = np.random.default_rng(5).normal(size=40)[design.groups_S]  # of whole pairs: no label could say it
    tables = planted(design, strength=0.0)
    tables[2] = tables[2] + 2 * length_S[:, None] * np.sign(np.arange(20) - 9.5)
    found = rsa_by_block(tables, design, [rating_model(length_S, "length")], n_bootstrap=100).set_index("model")
    length = found.loc["length"].set_index("block")
    assert length.index[length["p_fwe"] <= 0.05].tolist() == [2]
    assert (found.loc["category", "p_fwe"] > 0.05).all()


@pytest.mark.parametrize("n_sets", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_under_exchangeable_labels_families_of_blocks_keep_their_level(n_sets: int) -> None:
    """Over many data sets without any effect, some block is called significant in at most 5 % of them."""
    false_alarms = {"contrast": 0, "rsa": 0, "decoding": 0}
    for seed in range(n_sets):
        design = pairs(16, n_permutations=39, seed=seed)
        tables = {block: table for block, table in planted(design, 0.0, seed).items() if block < 2}
        false_alarms["contrast"] += contrast_by_block(tables, design, n_permutations=99, seed=seed)["significant"].any()
        rsa = rsa_by_block(tables, design, n_bootstrap=20, n_permutations=99, seed=seed)
        false_alarms["rsa"] += (rsa["p_fwe"] <= 0.05).any()
        decoded = decode_by_block(tables, design, {"all": 0}, ensemble="mean_difference")
        false_alarms["decoding"] += (decoded.table["p_fwe"] <= 0.05).any()
    most = stats.binom.ppf(0.999, n_sets, 0.05)
    assert max(false_alarms.values()) <= most, false_alarms


def test_blocks_that_tell_equally_well_have_no_increment_more_often_than_chance() -> None:
    """Decoders trained anew in every block: an increment is found in at most 5 % of data sets."""
    n_sets, false_alarms, pair_S = 60, 0, np.repeat(np.arange(30), 2)
    for seed in range(n_sets):
        design = make_design([1, -1] * 30, pair_S, pair_S, "pairs", n_repeats=1, n_permutations=1, seed=seed)
        tables = dict(enumerate(np.random.default_rng(seed).normal(size=(5, 60, 20))))
        decided = decode_by_block(tables, design, {"all": 0}, ensemble="mean_difference").decision_LS
        found = emergence(
            decided, design.labels_S, pair_S, range(5), n_splits=5, n_bootstrap=20, n_permutations=199, seed=seed
        )
        false_alarms += (found.increments["p_fwe"] <= 0.05).any()
    assert false_alarms <= stats.binom.ppf(0.99, n_sets, 0.05)


def test_a_block_at_chance_is_not_above_the_embeddings() -> None:
    """Embeddings that happen to lie below chance make no block that is hardly above it a place of emergence."""
    labels_S, rng = np.tile([1, -1], 40), np.random.default_rng(0)
    decision_LS = rng.normal(size=(2, 80)) + np.array([[-0.6], [0.1]]) * labels_S
    found = emergence(decision_LS, labels_S, np.repeat(np.arange(40), 2), [EMBEDDING, 4])
    assert (found.increments["p_fwe"] <= 0.05).all()
    assert found.first_above([]) is None and found.significant([EMBEDDING]).empty
    assert found.first_above([4]) == 4 and len(found.significant([4])) == 2


def test_equal_decisions_give_no_increment_and_the_first_block_as_peak() -> None:
    labels_S = np.tile([1, -1], 20)
    decision_S = np.random.default_rng(0).normal(size=40) + labels_S
    found = emergence(np.stack([decision_S, 3 * decision_S + 1]), labels_S, np.repeat(np.arange(20), 2), [2, 7])
    assert found.peak == (2, 2, 2)
    assert (found.increments[["increment", "p_fwe"]].to_numpy() == [0, 1]).all()
    assert found.curve["auroc"].iloc[0] == pytest.approx(roc_auc_score(labels_S, decision_S))


def test_the_error_of_an_increment_is_that_of_delong() -> None:
    """With every stimulus a group by itself, t is DeLong's z but for the correction of degrees of freedom."""
    rng, labels_S = np.random.default_rng(3), np.repeat([1, -1], 60)
    decision_LS = rng.normal(size=120) + rng.normal(size=(2, 120)) + np.array([[0.5], [1.0]]) * labels_S
    found = emergence(decision_LS, labels_S, np.arange(120), [0, 1], n_bootstrap=2000).increments.iloc[0]
    order = (decision_LS[:, :60, None] > decision_LS[:, None, 60:]).astype(float)
    of_target, of_foil = (np.diff(order.mean(axis=axis), axis=0)[0] for axis in (2, 1))
    z = np.diff(order.mean(axis=(1, 2)))[0] / np.sqrt(of_target.var(ddof=1) / 60 + of_foil.var(ddof=1) / 60)
    assert found["t"] == pytest.approx(z, rel=0.03)
    spread = (found["high"] - found["low"]) / (2 * stats.norm.ppf(0.975))
    assert spread == pytest.approx(found["increment"] / z, rel=0.1)


@pytest.mark.parametrize(
    ("decision_LS", "labels_S", "blocks_L"),
    [
        (np.ones((2, 20)), [1, -1] * 10, [1, 0]),
        (np.ones((2, 20)), [1] * 20, [0, 1]),
        (np.full((2, 20), np.nan), [1, -1] * 10, [0, 1]),
        (np.ones((3, 20)), [1, -1] * 10, [0, 1]),
        (np.ones((1, 20)), [1, -1] * 10, [0]),
    ],
)
def test_curves_that_mean_nothing_are_refused(
    decision_LS: np.ndarray, labels_S: list[int], blocks_L: list[int]
) -> None:
    with pytest.raises(UserError):
        emergence(decision_LS, labels_S, np.repeat(np.arange(10), 2), blocks_L)


def test_no_blocks_are_refused() -> None:
    for function in (contrast_by_block, rsa_by_block, decode_by_block):
        with pytest.raises(UserError, match="No blocks"):
            function({}, pairs(10))


HEAD = """name: tiny
target: success
definition: An attempt ends well.
factors: {outcome: [success, failure]}
contrasts: {success: "success - failure"}
items:
"""
ITEM = """  - id: {name}
    domain: {domain}
    versions:
      success: {{text: "At the {place} the old crew [[won]] before {hour}."}}
      failure: {{text: "At the {place} the old crew [[lost]] before {hour} again."}}
"""
SMALL = ["--folds", "2", "--repeats", "2", "--permutations", "19", "--k", "4", "--region", "4", "--jobs", "1"]
SMALL += ["--device", "cpu", "--blocks", "0", "15"]


@pytest.fixture(scope="module")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stimuli") / "tiny.yaml"
    places = [f"{way} {place}" for way in ("old", "new") for place in PLACES]
    items = [
        ITEM.format(
            name=f"item-{i}", place=place, domain=("out", "in")[i % 2], hour=("noon", "the long evening")[i % 3 == 0]
        )
        for i, place in enumerate(places)
    ]
    path.write_text(
        HEAD + "".join(items).replace("id: old ", "id: old-").replace("id: new ", "id: new-"), encoding="utf-8"
    )
    return path


def test_the_command_sweeps_neurons_latents_and_positions(
    concept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--concept", str(concept), "--out", str(tmp_path / "out"), "--sae", "smollm2-135m-b15-9k"]
    assert command.main([*options, *SMALL, "--positions", "left", "--width", "7"]) == 0
    said = capsys.readouterr().out
    assert "First above chance at" in said or "No block decodes" in said
    names = ("contrast", "region", "rsa", "decoding", "curve", "increments", "positions")
    for name in names:
        table = pd.read_parquet(tmp_path / "out" / f"{name}.parquet")
        read = pd.read_csv(tmp_path / "out" / f"{name}.csv", keep_default_na=False)
        assert len(table) == len(read) > 0
        assert not table.isna().any().any()
    decoding = pd.read_parquet(tmp_path / "out" / "decoding.parquet")
    assert decoding["representation"].value_counts().to_dict() == {"raw": 9, "sae": 3, "bag_of_words": 1}
    assert decoding.loc[decoding["representation"] == "raw", "block"].unique().tolist() == [EMBEDDING, 0, 15]
    found = json.loads((tmp_path / "out" / "sweep.json").read_text(encoding="utf-8"))
    assert {"peak", "half_rise", "first_above_chance", "settings", "versions"} <= set(found)
    assert str(tmp_path) not in (tmp_path / "out" / "summary.txt").read_text(encoding="utf-8")
    for figure in ("sweep", "positions"):
        assert (tmp_path / "out" / f"{figure}.png").exists()
        assert (tmp_path / "out" / f"{figure}.svg").exists()
    positions = pd.read_parquet(tmp_path / "out" / "positions.parquet")
    assert positions.groupby("block")["position"].apply(list).tolist() == [list(range(7))] * 3
    same = positions[positions["position"] < 5]  # up to there both versions of a pair have the same words
    assert (same["auroc"] <= 0.5 + 1e-9).all()


@pytest.mark.parametrize(
    "bad",
    [
        ["--concept", "no_such_concept"],
        ["--contrast", "nothing"],
        ["--blocks", "3.mlp_out"],
        ["--permutations", "3"],
        ["--alpha", "1.5"],
        ["--pooling", "sum"],
        ["--k", "100000"],
    ],
)
def test_bad_input_is_refused_with_a_message(
    bad: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--folds", "2", "--repeats", "1", "--blocks", "0", "--jobs", "1", "--device", "cpu"]
    assert command.main([*small, *bad, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.strip() and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_signal_at_one_block_and_position_is_found_there() -> None:
    concept = stimuli.load("success")
    contrast = concept.contrast()
    rows_S, is_target = contrast.labels(concept.table)
    labels_S = np.where(is_target > 0, 1, -1)
    rng, n, length = np.random.default_rng(0), len(concept.table), 4
    tokens = pd.DataFrame({"stimulus": np.repeat(np.arange(n), length), "role": "text", "target": False, "clean": True})
    heard = {}
    for block in (EMBEDDING, 0, 1):
        values_TF = rng.normal(size=(n * length, 12)).astype(np.float32)
        if block == 1:
            values_TF.reshape(n, length, 12)[rows_S, 2, 5] += 2 * labels_S
        heard[block] = Responses(values_TF, tokens, concept.table, "blocks.0.hook_resid_pre", {"features": "neurons"})
    groups_S, blocks_S = concept.groups()[rows_S], concept.blocks(contrast, rows_S)
    design = make_design(labels_S, groups_S, blocks_S, concept.design(contrast), n_repeats=2, n_permutations=99)
    table, found = sweep_positions(heard, concept, design, align="left", width=length + 1, n_permutations=99)
    hits = table[table["p_fwe"] <= 0.05]
    assert hits[["block", "position"]].to_numpy().tolist() == [[1, 2]]
    assert found.blocks_L.tolist() == [EMBEDDING, 0, 1]
    assert np.argwhere(found.significant).tolist() == [[2, 2, 5]]
    beyond = table[table["position"] == length]
    assert set(beyond["reason"]) == {"too few stimuli"}
    assert set(beyond["auroc"]) == {0.5}


def test_what_is_said_holds_for_its_blocks_only() -> None:
    """A peak in the embeddings has no rise; nothing is said of blocks that are not shown to decode."""
    design = pairs(20)
    tables = {block: table for block, table in planted(design).items() if block in (0, 1, 3)}
    decoded = decode_by_block({EMBEDDING: tables[3], 0: tables[0], 1: tables[1]}, design, {"all": 0, "t": 3})
    found = emergence(decoded.decision_LS, design.labels_S, design.groups_S, decoded.blocks_L, n_splits=5)
    words = decode_by_block({EMBEDDING: tables[0]}, design, {"all": 0}).table.assign(representation="bag_of_words")
    by_name = {
        "decoding": pd.concat([decoded.table.assign(representation="raw"), words]),
        "rsa": rsa_by_block(tables, design, n_bootstrap=20).assign(representation="raw"),
        "increments": found.increments,
    }
    said = report.statements(by_name, found, 0.05)
    assert said["first_above_embeddings"] is None and not said["flat"]
    text = " ".join(report.sentences(by_name, said, 0.05))
    assert "First above chance at the token embeddings" in text and "the rise" not in text
    assert "No block is shown to be better" in text and "Peak at the token embeddings" in text
    decoded.table["p_fwe"] = 1.0
    by_name["decoding"] = decoded.table.assign(representation="raw")
    by_name["decoding"] = pd.concat([by_name["decoding"], words])
    said = report.statements(by_name, found, 0.05)
    assert said["increments"] == [] and "No block decodes" in report.sentences(by_name, said, 0.05)[0]


def test_figures_show_the_tables() -> None:
    design = pairs(20)
    tables = {block: table for block, table in planted(design).items() if block in (EMBEDDING, 2, 3)}
    decoded = decode_by_block(tables, design, {"all": 0})
    found = emergence(decoded.decision_LS, design.labels_S, design.groups_S, decoded.blocks_L)
    table = decoded.table.assign(representation="raw")
    ax = plots.decoding_profile(table, found)
    drawn = {line.get_label(): line for line in ax.get_lines()}
    blocks = [line.get_ydata() for line in ax.get_lines() if line.get_marker() == "o"]
    np.testing.assert_array_equal(np.concatenate(blocks), table["auroc"])
    assert any(label.startswith("peak: 3 (") for label in drawn)
    rsa = rsa_by_block(tables, design, n_bootstrap=50)
    heights = [line.get_ydata() for line in plots.rsa_profile(rsa).get_lines() if line.get_marker() == "o"]
    np.testing.assert_array_equal(np.concatenate(heights), rsa["r"])
    plt.close("all")
