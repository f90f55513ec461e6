"""The whole way from a ranked corpus to a verdict, with the gold grades as the judge: no language model needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from messages_server import KEY, MessagesServer, serving
from scipy import stats

from experiments import explain as command
from neurosae.autointerp.anthropic_judge import AnthropicJudge
from neurosae.autointerp.calibration import held_out
from neurosae.autointerp.embedding_judge import EmbeddingJudge
from neurosae.autointerp.examples import Example, gather, highlight
from neurosae.autointerp.gold_judge import GoldJudge
from neurosae.autointerp.interpretation import (
    Concept,
    Interpretation,
    Outcome,
    Readers,
    beside_random,
    evidence_of,
    interpret,
    outcome,
    random_ensembles,
    verdict,
)
from neurosae.autointerp.judges import GradeRequest, JudgeSettings
from neurosae.autointerp.scores import Settings
from neurosae.discovery import gold
from neurosae.discovery.gold import GoldCorpus
from neurosae.discovery.search import Discovery
from neurosae.inference import smallest_p
from neurosae.models import LanguageModel

FAST = Settings(n_bootstrap=200, n_permutations=99)
SUCCESS = Concept("success", "An achievement.", "")


@pytest.fixture(scope="module")
def corpus() -> GoldCorpus:
    return gold.load()


def interpreted(corpus: GoldCorpus, scores: np.ndarray, settings: Settings = FAST, **sizes: int) -> Interpretation:
    evidence = gather(corpus.table["text"].tolist(), scores, seed=settings.seed, **sizes)
    return interpret(evidence, SUCCESS, Readers(GoldJudge(corpus), patterns=False), settings)


def shuffled(corpus: GoldCorpus, seed: int) -> np.ndarray:
    return np.random.default_rng([5, seed]).normal(size=len(corpus.table))


def random_scores(corpus: GoldCorpus, n: int, start: int = 0) -> list[pd.DataFrame]:
    small = {"n_top": 24, "n_random": 24, "per_decile": 2}
    quick = Settings(n_bootstrap=100, n_permutations=39)
    return [interpreted(corpus, shuffled(corpus, start + i), replace(quick, seed=i), **small).scores for i in range(n)]


def test_the_gold_judge_looks_grades_up(corpus: GoldCorpus) -> None:
    judge, texts = GoldJudge(corpus), corpus.table["text"]
    grades = judge.grade([GradeRequest(text, "positive", "", "") for text in texts])
    assert [g.value for g in grades] == corpus.grades("positive").tolist()
    other, foreign = judge.grade([GradeRequest(texts[0], "patience", "", ""), GradeRequest("No.", "success", "", "")])
    assert not other.answered
    assert not foreign.answered


def test_a_perfect_ranking_comes_out(corpus: GoldCorpus) -> None:
    found = interpreted(corpus, corpus.grades("success") + 0.01 * shuffled(corpus, 1))
    scores = beside_random(found.scores, random_scores(corpus, 19))
    rubric = scores[scores["about"] == "concept"].set_index("name")
    assert rubric.loc["top - random", "value"] > 1.5
    assert rubric.loc["top - random", "p"] == 0.01
    assert rubric.loc["top - random", "p_random"] == 0.05
    assert rubric.loc["top - random", "above_low"] > 1
    assert verdict(scores, "success").startswith("'success' comes out: top texts grade +")
    assert found.graded["concept"].n_unanswered == 0
    assert found.means["n_unanswered"].sum() == 0
    few = beside_random(found.scores, random_scores(corpus, 2))
    assert "too few random ensembles" in verdict(few, "success")
    assert (outcome(scores), outcome(few)) == (Outcome.BEYOND_RANDOM, Outcome.TOO_FEW_RANDOM)


def test_judges_that_are_free_get_as_many_random_ensembles_as_a_small_p_needs(
    corpus: GoldCorpus, language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With four, no p against random features could ever be below .2."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    free = [GoldJudge(corpus), EmbeddingJudge(language_model)]
    assert [smallest_p(random_ensembles(judge)) for judge in free] == [0.05, 0.05]
    assert random_ensembles(AnthropicJudge(JudgeSettings())) == 4


def test_what_cannot_be_scored_neither_comes_out_nor_fails_to(corpus: GoldCorpus) -> None:
    scores = beside_random(interpreted(corpus, shuffled(corpus, 3)).scores, random_scores(corpus, 1))
    unscored = scores.assign(reason="no grades", p=np.nan)
    assert outcome(unscored) is Outcome.NOT_SCORED and not outcome(unscored).comes_out
    assert verdict(unscored, "success") == "Whether 'success' comes out cannot be said: no grades."


def test_a_random_ranking_does_not_come_out(corpus: GoldCorpus) -> None:
    """Chance of the whole: rankings that know nothing, one in twenty of which may be called significant."""
    n_runs, rejected, covered = 20, 0, 0
    for scores in random_scores(corpus, n_runs, start=100):
        row = scores.set_index("name").loc["top - random"]
        rejected += row["p"] <= 0.05
        covered += row["low"] <= 0 <= row["high"]
        if row["p"] > 0.05:
            assert "does not come out" in verdict(beside_random(scores, [scores]), "success")
    assert rejected <= stats.binom.ppf(0.99, n_runs, 0.05)
    assert n_runs - covered <= stats.binom.ppf(0.99, n_runs, 0.1)


def test_random_features_that_do_as_well_are_named(corpus: GoldCorpus) -> None:
    found = interpreted(corpus, corpus.grades("success") + 0.01 * shuffled(corpus, 1)).scores
    scores = beside_random(found, [found] * 19)
    np.testing.assert_allclose(scores.loc[scores["reason"] == "", "above_random"], 0, atol=1e-12)
    assert "random features do as well" in verdict(scores, "success")
    assert outcome(scores) is Outcome.NOT_BEYOND_RANDOM and outcome(scores).comes_out
    without = beside_random(found, [found.assign(value=np.nan)] * 19)
    assert "too few random ensembles" in verdict(without, "success")


def test_words_of_a_lexical_concept_are_found_and_match(corpus: GoldCorpus) -> None:
    found = interpreted(corpus, corpus.grades("golden_gate") + 0.01 * shuffled(corpus, 2))
    assert {"bridge", "golden", "gate"} <= set(found.words["word"][:4])
    matched = found.scores[found.scores["scorer"] == "words"].set_index("name")
    assert matched.loc["auroc", "low"] > 0.75
    assert {"bridge", "golden", "gate"} <= {word for word, _ in found.explanations[0].words}


def discovery(in_training: frozenset[int] = frozenset()) -> Discovery:
    """Two ensembles over 40 sentences, the second one the reverse of the first."""
    scores_NE = np.stack([np.arange(40.0), -np.arange(40.0)], axis=1)
    rows = []
    for e in range(2):
        order = np.argsort(-scores_NE[:, e])
        sets = {"top": order[:3], "random": np.array([0, 5, 39]), "decile": np.array([5, 20])}
        for name, numbers in sets.items():
            for rank, n in enumerate(numbers, 1):
                decile = 1 + int(stats.rankdata(scores_NE[:, e])[n] - 1) // 4 if name == "decile" else 0
                rows.append((e, name, rank, decile, n, scores_NE[n, e], f"They won {n}", n in in_training))
    columns = ["ensemble", "set", "rank", "decile", "sentence", "score", "text", "in_sae_training"]
    tokens = [
        (e, n, i, token, float(e + i))
        for e in range(2)
        for n in range(40)
        for i, token in enumerate(["They", " won", f" {n}"])
    ]
    names = ["ensemble", "sentence", "position", "token", "contribution"]
    tables = pd.DataFrame(rows, columns=columns), pd.DataFrame(tokens, columns=names)
    return Discovery((), *tables, pd.DataFrame(), scores_NE, 40, 40, 0, 0, "")


def test_evidence_has_every_sentence_once_with_its_decile_and_marks() -> None:
    found = {int(e.id): e for e in evidence_of(discovery(), 0).examples}
    assert {n: (e.stratum, e.decile) for n, e in found.items()} == {
        39: ("top", 10),
        38: ("top", 10),
        37: ("top", 10),
        0: ("random", 1),
        5: ("random", 2),
        20: ("decile", 6),
    }
    assert found[39] == Example("39", "They won 39", 39.0, "top", 10, ((0, 4, 0.0), (4, 8, 1.0), (8, 11, 2.0)))
    assert highlight(found[39]) == "They <<won>> <<39>>"
    reverse = {int(e.id): e for e in evidence_of(discovery(), 1).examples}
    assert {n for n, e in reverse.items() if e.stratum == "top"} == {0, 1, 2}
    assert reverse[39].decile == 1


def test_evidence_leaves_out_what_the_sae_was_trained_on() -> None:
    assert {int(e.id) for e in evidence_of(discovery(frozenset({39, 20}))).examples} == {38, 37, 0, 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "x.jsonl"], "The gold grades know no other corpus"),
        (["--random-features", "0"], "--random-features: 0 ensembles"),
        (["--concept", "sucess"], "Did you mean 'success'"),
        (["--judge", "embedding"], "Did you mean 'embeddings'"),
        (["--judge", "anthropic"], "--judge embeddings and --judge local work offline"),
        (["--judge", "anthropic", "--judge-model", "house-model", "--dry-run"], "add --price INPUT OUTPUT"),
        (["--judge", "embeddings", "--calibrate-on", "3"], "3 sentences are too few"),
        (["--permutations", "0"], "numbers from 1"),
        (["--seed", "-1"], "a seed from 0"),
    ],
)
def test_the_command_refuses(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert command.main([*arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--representation", "raw", "--selector", "t", "--random-features", "2", "--permutations", "99"]
    assert command.main([*options, "--bootstrap", "200", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    (folder,) = tmp_path.iterdir()
    about = json.loads((folder / "explanation.json").read_text())
    assert about["verdict"] in printed
    assert about["explanations"][0]["text"] in printed
    scores, grades = (pd.read_csv(folder / f"{name}.csv") for name in ("scores", "grades"))
    assert len(scores) == 5
    assert not set(about["explanations"][0]["example_ids"]) & set(grades["id"].astype(str))


SMALL = ["--representation", "raw", "--selector", "t", "--random-features", "1", "--permutations", "99"]
SMALL += ["--bootstrap", "200", "--top", "20", "--per-decile", "2", "--calibrate-on", "60"]


@pytest.fixture
def few_texts(tmp_path: Path, corpus: GoldCorpus) -> Path:
    """Another corpus, as the command sees it: sentences that no calibration has seen."""
    path = tmp_path / "texts.jsonl"
    texts = corpus.table.loc[~held_out(corpus), "text"].iloc[:70]
    path.write_text("\n".join(json.dumps({"text": f"Yesterday, {text}"}) for text in texts))
    return path


@pytest.mark.slow
def test_the_command_with_the_embedding_judge(
    few_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command.main([*SMALL, "--judge", "embeddings", "--corpus", str(few_texts), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    (path,) = out.rglob("explanation.json")
    about = json.loads(path.read_text())
    assert about["trust"].startswith("For 'success', embeddings:")
    assert about["trust"] in printed
    assert json.loads((path.parent / "calibration.json").read_text())[0]["n"] == 60
    scores = pd.read_csv(path.parent / "scores.csv")
    embedded = scores[scores["scorer"] == "embedding"]
    assert len(embedded) == 1
    assert embedded["value"].notna().all()


@pytest.mark.slow
def test_the_command_with_the_anthropic_judge(
    few_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run prices it without a key or a request; with a key the real SDK asks a server, within the budget."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    out = tmp_path / "out"
    with serving(MessagesServer()) as server:
        options = [*SMALL, "--judge", "anthropic", "--base-url", server.url, "--corpus", str(few_texts)]
        options += ["--budget", "0.5", "--out", str(out)]
        assert command.main([*options, "--dry-run"]) == 0
        assert "requests, 0 of them answered" in (quoted := capsys.readouterr().out)
        assert not server.seen.bodies
        assert not list(out.rglob("*.json"))
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        assert command.main(options) == 0
        sent = len(server.seen.bodies)
    printed = capsys.readouterr().out
    assert sent <= int(quoted.split(" requests")[0].split()[-1]) <= 1.5 * sent
    assert f"{sent} attempts, $" in printed
    (path,) = out.rglob("explanation.json")
    about = json.loads(path.read_text())
    assert about["trust"].startswith("For 'success', anthropic:claude-haiku-5-5")
    assert about["trust"] in printed
    written = [e for e in about["explanations"] if e["kind"] == "llm"]
    assert [e["text"].startswith("They share") for e in written] == [True]
    assert len((out / "journal.jsonl").read_text().split()) > 2 * sent
    assert not any(KEY.encode() in file.read_bytes() for file in out.rglob("*") if file.is_file())
