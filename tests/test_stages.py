"""The later stages of the runner on the bundled model: a small grid and a part of the graded sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from messages_server import KEY, MessagesServer, serving, true_grade
from sklearn.metrics import average_precision_score

from experiments import combinatorial
from neurosae.autointerp.anthropic_judge import AnthropicJudge
from neurosae.autointerp.calibration import gold_rule
from neurosae.autointerp.examples import text_hash
from neurosae.autointerp.judges import GradeRequest, JudgeSettings
from neurosae.autointerp.prompting import load_prompt
from neurosae.decoding.variants import Grid, Variant
from neurosae.discovery import gold
from neurosae.discovery.gold import GoldCorpus
from neurosae.discovery.search import score_sentences, word_scores
from neurosae.errors import UserError
from neurosae.inference import resampling_weights
from neurosae.runs import RunFolder
from neurosae.runs.comparison import VARIANT
from neurosae.steering.causal import EndingPairs
from neurosae.stimuli import load
from neurosae.study import stages
from neurosae.study.contrast_run import ContrastRun
from neurosae.study.discover_stage import discover
from neurosae.study.explain_stage import explain
from neurosae.study.steer_stage import Halves, best_effect, drawn, steer
from neurosae.study.work import StageSettings, Work, representatives

SMALL = ["--selector", "t", "max_activation", "--k", "1", "8", "--repeats", "1", "--permutations", "5"]
SETTINGS = StageSettings(resamples=200, random_features=2, random_directions=1, doses=(0.9,))


def part_of_the_corpus() -> GoldCorpus:
    """Sentences that show success, and others: about 120, which is what a top, its controls and some more need."""
    corpus = gold.load()
    rows = np.flatnonzero(corpus.grades("success") >= 2)
    others = np.setdiff1d(np.arange(len(corpus.table)), rows)
    chosen = np.sort(np.concatenate([rows[:30], others[::14][:90]]))
    return replace(corpus, table=corpus.table.iloc[chosen].reset_index(drop=True))


def fresh(run: ContrastRun, folder: RunFolder) -> Work:
    work = Work(run, folder, SETTINGS)
    work.corpus = part_of_the_corpus()
    return work


def small_run(out: Path, *arguments: str) -> tuple[ContrastRun, RunFolder]:
    options = combinatorial.read_options([*SMALL, "--quiet", "--out", str(out), *arguments])
    run = combinatorial.runs(options, combinatorial.settings(options))[0]
    if run.stimuli.name == "success":
        run = ContrastRun(run.stimuli.subset(np.arange(60)), run.contrast, run.settings)
    folder = RunFolder(out / run.stimuli.name, run.configuration())
    run.compute(folder)
    return run, folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return fresh(*small_run(tmp_path_factory.mktemp("results")))


def test_one_pass_for_all_gives_the_scores_of_one_ensemble_by_itself(work: Work) -> None:
    variants = [v for v in work.run.variants if v.representation != "bag_of_words" and v.selector == "t"]
    ensembles = [work.fit(variant) for variant in variants]
    assert {v.representation for v in variants} == {"raw", "sae", "untrained_sae", "embeddings"}
    alone_SE = score_sentences(work.bench, ensembles, work.sentences.texts)
    for e, ensemble in enumerate(ensembles):
        np.testing.assert_allclose(work.decisions(ensemble), alone_SE[:, e], rtol=1e-3, atol=1e-3)


def test_ensembles_are_those_that_were_decoded(work: Work) -> None:
    for variant in work.representatives():
        (cell,) = work.folder.cells([variant])
        ensemble = work.fit(variant)
        assert ensemble.features_K.tolist() == cell["features"]["feature"]
        np.testing.assert_allclose(ensemble.weights_K, cell["features"]["weight"], rtol=1e-6)


def test_what_tokens_add_sums_to_the_decision(work: Work) -> None:
    ensemble = work.fit(work.representatives()[0])
    sums = [sum(added for _, _, added in spans) for spans in work.sentences.spans(ensemble, work.bench)]
    close = np.isclose(np.array(sums) + ensemble.intercept, work.decisions(ensemble), rtol=1e-4, atol=1e-4)
    assert close.mean() > 0.95  # the others hold a token that is part of a character


def test_discovery_agrees_with_scikit_learn(work: Work) -> None:
    result = discover(work)
    assert len(result.scores) == len(work.run.variants)
    relevant_S = work.corpus.grades("success") >= 2
    weights_S = resampling_weights(np.arange(len(relevant_S)), SETTINGS.resamples)[7]
    for row in result.scores.to_dict("records"):
        variant = next(v for v, keys in work.keys.items() if all(keys[name] == row[name] for name in VARIANT))
        if variant.representation == "bag_of_words":
            scores_S = word_scores(work.run.stimuli, "success", work.sentences.texts)
        else:
            scores_S = work.decisions(work.fit(variant))
        assert row["discovery_ap"] == pytest.approx(average_precision_score(relevant_S, scores_S))
        drawn = average_precision_score(relevant_S, scores_S, sample_weight=weights_S)
        assert result.records[variant]["draws"][7] == pytest.approx(drawn)


def test_claims_on_discovery_are_means_over_matched_cells(work: Work) -> None:
    result = discover(work)
    table = result.scores.set_index(["representation", "selector", "k"])["discovery_ap"]
    cells = [table["sae", s, k] - table["raw", s, k] for s in ("t", "max_activation") for k in (1, 8)]
    row = result.claims.set_index("claim").loc["SAE beats raw"]
    assert row["delta"] == pytest.approx(np.mean(cells))
    assert row["n_cells"] == 4
    assert row["ci_low"] < row["delta"] < row["ci_high"]
    assert result.claims["outcome"].eq("discovery").all()
    assert result.claims.set_index("claim").loc["RSA beats max_activation", "reason"] == "no matched cells"


def test_sentences_to_explain_from_and_to_score_on_are_apart(work: Work) -> None:
    result = explain(work)
    grades_S, texts = work.corpus.grades("success"), work.sentences.texts
    assert len(result.records) == 4
    for variant, record in result.records.items():
        (explanation,) = record["explanations"]
        scored = record["top"]["sentence"]
        assert not {text_hash(texts[row]) for row in scored} & set(explanation["example_hashes"])
        row = result.scores[(result.scores[VARIANT] == pd.Series(variant.as_dict())).all(axis=1)].iloc[0]
        assert row["target_score"] == pytest.approx(grades_S[scored].mean())
        assert row["target_low"] <= row["target_score"] <= row["target_high"]
        decisions = work.decisions(work.fit(variant))
        assert decisions[scored].min() >= np.sort(decisions)[-50]
    assert json.loads((work.folder.path / "explanations.json").read_text())


@pytest.mark.slow
def test_steering_is_measured_on_the_other_half_in_any_order(work: Work) -> None:
    result = steer(work)
    train, test = Halves(work).rows
    ids = work.run.stimuli.table["id"].astype(str)
    groups = work.run.stimuli.groups()
    assert not set(groups[train]) & set(groups[test])
    last = work.representatives()[-1]
    for record in result.records.values():
        shifts = pd.DataFrame(record["shifts"])
        assert set(shifts["target"]) | set(shifts["foil"]) <= set(ids.iloc[test])
        means = shifts.groupby("dose")["shift"].mean()
        np.testing.assert_allclose([row["shift"] for row in record["table"]], means, rtol=1e-12)
    for path in (work.folder.path / "stages/steer/shared").iterdir():
        path.unlink()
    again = Halves(work).effect(last)  # first now, so that the random directions are measured in another order
    np.testing.assert_array_equal(again.table["shift"], [row["shift"] for row in result.records[last]["table"]])
    np.testing.assert_array_equal(again.controls["mean"], [row["mean"] for row in result.records[last]["controls"]])
    best = best_effect(result)
    assert best is not None
    assert best[1].table["shift"].iloc[-1] == result.scores[result.scores["selector"] != "random"]["causal_shift"].max()
    rows = result.claims.set_index("claim")
    assert rows.loc["SAE beats raw", "n_cells"] == 2
    deltas = result.scores.set_index(["representation", "selector"])["causal_shift"]
    expected = np.mean([deltas["sae", s] - deltas["raw", s] for s in ("t", "max_activation")])
    assert rows.loc["SAE beats raw", "delta"] == pytest.approx(expected)


def test_a_stage_goes_on_where_it_was_interrupted(work: Work) -> None:
    before = {stage: stage_of(work) for stage, stage_of in (("discover", discover), ("explain", explain))}
    folder = work.folder.path / "stages"
    lost = [sorted((folder / stage).iterdir())[1] for stage in before]
    kept = [sorted((folder / stage).iterdir())[0] for stage in before]
    bytes_before, times = [path.read_bytes() for path in lost], [path.stat().st_mtime_ns for path in kept]
    lost[0].unlink()
    lost[1].write_text(lost[1].read_text()[:50])
    later = fresh(work.run, work.folder)
    for stage, stage_of in (("discover", discover), ("explain", explain)):
        pd.testing.assert_frame_equal(stage_of(later).scores, before[stage].scores)
    assert [path.read_bytes() for path in lost] == bytes_before
    assert [path.stat().st_mtime_ns for path in kept] == times
    other = Work(work.run, work.folder, replace(SETTINGS, resamples=100))
    settings = json.loads(kept[0].read_text())["settings"]
    variant = next(v for v in work.run.variants if kept[0].stem == v.name)
    assert other.folder.record("discover", variant, settings) is not None
    assert other.folder.record("discover", variant, settings | {"resamples": 100}) is None


def test_random_directions_are_measured_once_for_all_sessions(work: Work) -> None:
    result, last = steer(work), work.representatives()[-1]
    effect = Halves(work).effect(last)
    np.testing.assert_array_equal(effect.controls["mean"], [row["mean"] for row in result.records[last]["controls"]])
    (path,) = (work.folder.path / "stages/steer/shared").iterdir()
    kept = path.read_text()
    stored = json.loads(kept)
    for row in stored["values"]:
        row["shifts"] = np.zeros_like(row["shifts"]).tolist()
    path.write_text(json.dumps(stored))
    assert Halves(work).effect(last).controls["most"].tolist() == [0.0]
    stored["settings"]["seed"] += 1
    path.write_text(json.dumps(stored))
    assert Halves(work).effect(last).controls["most"].tolist() == effect.controls["most"].tolist()
    assert json.loads(path.read_text())["settings"] == json.loads(kept)["settings"]


def test_a_finished_run_says_the_same_again_without_its_model(work: Work, tmp_path: Path) -> None:
    options = combinatorial.read_options([*SMALL, "--quiet", "--out", str(tmp_path)])
    tables = work.run.compute(work.folder)
    for name in ("scorecard", "claims"):
        (work.folder.path / "tables" / f"{name}.csv").unlink(missing_ok=True)
    assert stages.chosen(options.stages) == ("select", "discover", "explain", "steer", "evidence")
    findings = stages.run_stages(work.run, work.folder, tables, ["select"], SETTINGS)
    assert not findings.results
    assert set(findings.claims["outcome"]) == {"decoding", "new_domain"}
    assert len(findings.card) == len(work.run.variants)
    assert json.loads((work.folder.path / "manifest.json").read_text())["stages"] == ["select"]


def test_what_has_no_grades_and_no_pairs_says_so(tmp_path: Path) -> None:
    """A user's own set, whose sides begin differently: words are found, grades and endings are not."""
    table = load("success").table
    lines = ["name: bare", "target: a", "definition: none", "factors: {side: [a, b]}"]
    lines += ['contrasts: {bare: "a - b"}', "items:"]
    for i in range(24):
        lines.append(f'  - {{id: i{i}, side: {"ab"[i % 2]}, text: "Number {i}. {table["text"].iloc[i]}"}}')
    path = tmp_path / "bare.yaml"
    path.write_text("\n".join(lines))
    work = fresh(*small_run(tmp_path, "--concept", str(path), "--selector", "t", "--no-controls", "--folds", "2"))
    found = discover(work)
    assert found.scores["discovery_ap"].isna().all()
    assert found.scores["discovery_reason"].str.contains("no grades").all()
    assert found.claims["reason"].str.contains("no grades").all()
    explained = explain(work)
    assert explained.scores["target_score"].isna().all()
    assert explained.scores["explanation"].str.len().min() > 0
    assert explained.scores["explanation_reason"].str.contains("no grades").all()
    steered = steer(work)
    assert steered.scores["causal_shift"].isna().all()
    assert steered.scores["causal_reason"].str.contains("No pair").all()
    assert set(steered.claims["verdict"]) == {"not tested"}


def test_representatives_are_one_per_selector_and_representation() -> None:
    grid = Grid(blocks=(3, 15), sae_block=15, ensembles=("logistic_l2", "lda"), poolings=("mean", "max"))
    variants = [v for family in grid.families() for v in family.variants()]
    chosen = representatives(grid, variants)
    assert len(chosen) == len(set(chosen)) == 18
    assert {(v.k, v.block, v.ensemble, v.pooling) for v in chosen} == {(8, 15, "logistic_l2", "mean")}
    few = Grid(blocks=(3,), sae_block=15, representations=("raw",), ks=(1, 2), controls=False)
    assert {(v.k, v.block) for v in representatives(few, [v for f in few.families() for v in f.variants()])} == {(2, 3)}


def test_pairs_that_are_drawn_keep_their_ids_and_the_others_say_why() -> None:
    table = pd.DataFrame({"target": list("abcdef"), "usable": [True, False, True, True, True, True]})
    table["reason"] = np.where(table["usable"], "", "only 0 tokens")
    rows = [i for i in range(6) if table["usable"][i]]
    pairs = EndingPairs(table, [[i] for i in rows], [[10 + i] for i in rows], rows)
    few = drawn(pairs, 3, seed=1)
    kept = few.table.index[few.table["usable"]].tolist()
    assert len(kept) == 3
    assert (few.starts, few.target_ids) == (kept, [[i] for i in kept])
    assert few.foil_ids == [[10 + i] for i in kept]
    assert few.table["reason"].value_counts().to_dict() == {"": 3, "not among the 3 drawn": 2, "only 0 tokens": 1}
    assert drawn(pairs, 9).table.equals(pairs.table)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["select"], ("select",)),
        (["steer,discover"], ("select", "discover", "steer")),
        (["select", "explain"], ("select", "explain")),
    ],
)
def test_stages_are_put_in_order(words: list[str], expected: tuple[str, ...]) -> None:
    assert stages.chosen(words) == expected


def test_unknown_stages_and_judges_that_cannot_start_are_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="Did you mean 'discover'"):
        stages.chosen(["discovery"])
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert combinatorial.main(["--quiet", "--judge", "anthropic", "--out", str(tmp_path / "out")]) == 2
    assert "KEY" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("cells"))


def test_a_dry_run_names_the_stages_and_their_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert combinatorial.main(["--dry-run", "--stages", "select,steer", "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "stage steer: 18 variants" in text
    assert "stage discover" not in text


@pytest.mark.slow
def test_the_whole_command_ends_with_byte_identical_tables(tmp_path: Path) -> None:
    arguments = ["--concept", "golden_gate_bridge", *SMALL, "--quiet", "--out", str(tmp_path)]
    assert combinatorial.main(arguments) == 0
    (folder,) = (tmp_path / "golden_gate_bridge").iterdir()
    first = {path.name: path.read_bytes() for path in (folder / "tables").glob("*.csv")}
    assert {"scorecard.csv", "discovery.csv", "explanations.csv", "steering.csv"} <= set(first)
    assert combinatorial.main(arguments) == 0
    assert {path.name: path.read_bytes() for path in (folder / "tables").glob("*.csv")} == first
    card = pd.read_csv(folder / "tables" / "scorecard.csv")
    best = card[card["selector"] == "t"]["discovery_ap"].max()
    assert best > 5 * card["discovery_chance"].iloc[0]
    assert {"discovery.png", "explanations.png", "dose_response.png"} <= {
        p.name for p in (folder / "figures").iterdir()
    }


def test_variants_are_named_as_in_the_tables(work: Work) -> None:
    everything = next(v for v in work.keys if v.k == 0 and v.representation == "raw")
    assert work.keys[everything]["k"] == 576
    assert isinstance(everything, Variant)


def test_a_paid_judge_is_asked_once_and_its_key_is_nowhere(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    run, folder = small_run(tmp_path, "--representation", "raw", "--selector", "t", "--k", "2", "--no-controls")
    with serving(MessagesServer()) as server:
        judge = AnthropicJudge(JudgeSettings(base_url=server.url), cache=tmp_path / "answers", first_wait=0.01)
        paid = Work(run, folder, replace(SETTINGS, judge=judge))
        paid.corpus = work.corpus
        first = explain(paid)
        asked = sum(server.seen.answered.values())
        assert asked > 50
        again = Work(run, folder, replace(SETTINGS, judge=judge))
        again.corpus = work.corpus
        pd.testing.assert_frame_equal(explain(again).scores, first.scores)
        assert sum(server.seen.answered.values()) == asked
    (record,) = first.records.values()
    assert [e["kind"] for e in record["explanations"]] == ["lexical", "llm"]
    assert any("kappa" in note for note in first.notes)
    figures = json.loads((folder.path / "stages/explain/shared/calibration.json").read_text())["values"]["figures"]
    assert [row["figure"] for row in figures] == ["kappa", "spearman", "auc"]
    assert record["settings"]["judge"].startswith("anthropic:")
    texts = work.sentences.texts
    wanted = [true_grade(as_sent(texts[row], first_request(work))) for row in record["top"]["sentence"]]
    assert record["top"]["grade"] == wanted
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def first_request(work: Work) -> GradeRequest:
    return GradeRequest("", "success", *gold_rule(work.corpus, "success"))


def as_sent(text: str, request: GradeRequest) -> str:
    """The user message about a text, as the server sees it."""
    return load_prompt("grade").fill(
        text=text, concept=request.concept, definition=request.definition, rule=request.rule
    )[1]
