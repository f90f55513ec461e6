"""Judges without a server: protocol, prices, ledger, cache, prompts, calibration, and the two offline judges."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from neurosae.autointerp.cache import AnswerCache, request_key
from neurosae.autointerp.calibration import (
    DISTRUST,
    calibrate,
    chosen_rows,
    compare,
    gold_rule,
    held_out,
    requests,
    weighted_auc,
    weighted_spearman,
)
from neurosae.autointerp.embedding_judge import EmbeddingJudge, Scale
from neurosae.autointerp.judges import Completion, Grade, GradeRequest, Judge, Writer, load_judge, unanswered, writer
from neurosae.autointerp.ledger import Ledger
from neurosae.autointerp.local_judge import CONTENT_FREE, LocalJudge
from neurosae.autointerp.prices import PRICES, Price, price_of
from neurosae.autointerp.prompting import load_prompt
from neurosae.discovery import gold
from neurosae.discovery.gold import weighted_kappa
from neurosae.errors import UserError
from neurosae.models import LanguageModel


@pytest.fixture(scope="module")
def corpus() -> gold.GoldCorpus:
    return gold.load()


# Prices, ledger, cache, prompts


@given(st.text(max_size=200), st.integers(1, 4000))
def test_a_request_is_priced_above_what_it_can_cost(text: str, max_tokens: int) -> None:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
    price = Price(1.0, 5.0)
    assert price.at_most(body) >= price.dollars(len(text.encode()), max_tokens)
    assert price.at_most(body) >= price.about(body, max_tokens) - 1e-12


def test_thinking_gets_room_where_it_cannot_be_switched_off() -> None:
    assert PRICES["claude-haiku-5-5"].settings(64) == {"max_tokens": 64, "thinking": {"type": "disabled"}}
    always = PRICES["claude-opus-5-5"].settings(64)
    assert always["max_tokens"] > 1000 and "thinking" not in always
    assert price_of("house-model", (1.0, 2.0)).settings(64) == {"max_tokens": 64}


@pytest.mark.parametrize("price", [(-1.0, 1.0), (1.0, float("nan")), (float("inf"), 1.0)])
def test_bad_prices(price: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="is no price"):
        price_of("house-model", price)


@given(st.lists(st.tuples(st.floats(0.001, 1), st.floats(0, 1), st.integers(0, 3)), max_size=30))
@settings(deadline=None, max_examples=40)
def test_the_ledger_never_commits_more_than_the_budget_and_replays_itself(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, float, int]]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "journal.jsonl"
    ledger, spent, unknown = Ledger(path, budget=2.0), 0.0, 0.0
    for at_most, share, outcome in steps:
        if not ledger.fits(at_most):
            continue
        attempt = ledger.begin("key", at_most)
        if outcome == 0:
            ledger.end(attempt, at_most * share, 3, 1)
            spent += at_most * share
        elif outcome == 1:
            ledger.end(attempt, None)
            unknown += at_most
        else:
            unknown += at_most  # left open, as by a kill
        assert ledger.committed <= 2.0 + 1e-12
    again = Ledger(path).spending
    assert again.attempts == ledger.spending.attempts
    assert (again.dollars, again.possibly_dollars) == pytest.approx((spent, unknown))
    assert Ledger(path, budget=2.0).committed == pytest.approx(ledger.committed)


def test_a_line_cut_short_by_a_kill_is_a_possibly_billed_attempt(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "journal.jsonl")
    first, second = ledger.begin("a", 0.5), ledger.begin("b", 0.25)
    ledger.end(first, 0.1)
    ledger.end(second, 0.2)
    text = ledger.path.read_text()
    ledger.path.write_text(text[:-20])
    cut = Ledger(ledger.path)
    assert (cut.spending.dollars, cut.spending.possibly_billed, cut.spending.possibly_dollars) == (0.1, 1, 0.25)
    cut.end(cut.begin("c", 0.1), 0.05)
    assert Ledger(ledger.path).spending.dollars == pytest.approx(0.15)


def _put(folder: Path, mark: str) -> None:
    for _ in range(60):
        AnswerCache(folder).put("k" * 64, {"text": mark * 20_000, "reason": ""})


def test_two_processes_never_leave_half_an_answer(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_put, args=(tmp_path, mark)) for mark in "ab"]
    for process in writers:
        process.start()
    seen = []
    while any(process.is_alive() for process in writers):
        seen.append(AnswerCache(tmp_path).get("k" * 64))
    whole = {"a" * 20_000, "b" * 20_000}
    assert {record["text"] for record in seen if record} <= whole and any(seen)
    last = AnswerCache(tmp_path).get("k" * 64)
    assert last is not None and last["text"] in whole
    assert [path.name for path in (tmp_path / "kk").iterdir()] == ["k" * 64 + ".json"]


def test_a_damaged_or_displaced_answer_is_no_answer(tmp_path: Path) -> None:
    cache, key = AnswerCache(tmp_path), request_key({"a": 1})
    cache.put(key, {"text": "yes", "reason": ""})
    assert cache.get(key) == {"text": "yes", "reason": "", "key": key}
    other = request_key({"a": 2})
    cache.path(other).parent.mkdir(exist_ok=True)
    cache.path(other).write_text(cache.path(key).read_text())
    assert cache.get(other) is None
    cache.path(key).write_text(cache.path(key).read_text()[:10])
    assert cache.get(key) is None


def test_values_put_into_a_prompt_are_not_templates() -> None:
    system, user = load_prompt("grade").fill(concept="$rule", definition="d", rule="r", text="${concept} costs $5")
    assert "Concept: $rule\n" in system and "${concept} costs $5" in user


@pytest.mark.parametrize(
    "text", ["# system\na\n# user\nb", "version: x\n# system\na\n# user\nb", "version: 1\n# user\nb"]
)
def test_prompts_without_a_version_or_parts_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.md").write_text(text)
    with pytest.raises(UserError, match="A prompt file is"):
        load_prompt("p", tmp_path)


def test_another_text_is_another_version(tmp_path: Path) -> None:
    versions = set()
    for text in ("one", "two"):
        (tmp_path / "p.md").write_text(f"version: 3\n# system\n{text}\n\n# user\nq\n")
        versions.add(load_prompt("p", tmp_path).version)
    assert len(versions) == 2 and all(version.startswith("p-3-") for version in versions)


# Calibration


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_figures_agree_with_libraries_on_resampled_sentences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gold_S = np.append(rng.integers(0, 4, 30), [0, 3])
    judged_S = np.append(np.clip(gold_S[:-2] + rng.integers(-2, 3, 30), 0, 3), [0, 2])
    weights_BS = np.append(rng.multinomial(30, np.ones(30) / 30, size=3), np.ones((3, 2), int), axis=1)
    for weights_S in weights_BS:
        x, y = np.repeat(gold_S, weights_S), np.repeat(judged_S, weights_S)
        one = weights_S[None].astype(float)
        assert weighted_spearman(gold_S, judged_S, one)[0] == pytest.approx(spearmanr(x, y).statistic)
        assert weighted_auc(gold_S >= 2, judged_S.astype(float), one)[0] == pytest.approx(roc_auc_score(x >= 2, y))
        expected = cohen_kappa_score(x, y, weights="quadratic")
        assert weighted_kappa(gold_S.astype(float), judged_S.astype(float), one)[0] == pytest.approx(expected)


def as_grades(values: np.ndarray) -> list[Grade]:
    return [Grade(int(value), None, True, "") for value in values]


def test_verdicts_follow_the_truth() -> None:
    rng = np.random.default_rng(0)
    gold_S = rng.integers(0, 4, 400)
    noisy = np.clip(gold_S + rng.integers(-1, 2, 400), 0, 3)
    said = {
        "itself": compare("j", "c", gold_S, as_grades(gold_S), n=200).verdict,
        "noisy": compare("j", "c", gold_S, as_grades(noisy), n=200).verdict,
        "random": compare("j", "c", gold_S, as_grades(rng.integers(0, 4, 400)), n=200).verdict,
        "reversed": compare("j", "c", gold_S, as_grades(3 - gold_S), n=200).verdict,
        "constant": compare("j", "c", gold_S, as_grades(np.zeros(400)), n=200).verdict,
        "silent": compare("j", "c", gold_S, [unanswered("refused")] * 400, n=200).verdict,
    }
    assert "second grader" in said["itself"] and "agrees well" in said["noisy"]
    assert all(DISTRUST in said[name] for name in ("random", "reversed", "constant", "silent"))
    assert "100% unanswered" in said["silent"]


def test_what_is_undefined_has_a_reason() -> None:
    gold_S = np.array([0, 1, 2, 3] * 20)
    figures = compare("j", "c", gold_S, as_grades(np.zeros(80)), n=100).figures
    assert np.isnan(figures.loc["spearman", "value"]) and "same grade" in figures.loc["spearman", "reason"]
    few = compare("j", "c", gold_S[:8], as_grades(gold_S[:8]), n=100).figures
    assert few["value"].isna().all() and few["reason"].str.contains("fewer than").all()


def test_a_judge_at_random_is_rarely_called_better_than_chance() -> None:
    rng = np.random.default_rng(1)
    trusted = 0
    for _ in range(20):
        gold_S, judged_S = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
        trusted += DISTRUST not in compare("j", "c", gold_S, as_grades(judged_S), n=100).verdict
    assert trusted <= 4  # binomial, n = 20, p = .05: P(5 or more) = .003


def test_probabilities_order_sentences_within_a_grade() -> None:
    gold_S = np.array([0, 1, 2, 3] * 20)
    sure = [Grade(1, float(g) / 3, True, "") for g in gold_S]
    assert compare("j", "c", gold_S, sure, n=100).figures.loc["auc", "value"] == 1


def test_rules_are_those_of_the_graders(corpus: gold.GoldCorpus) -> None:
    for concept in corpus.concepts:
        definition, rule = gold_rule(corpus, concept)
        assert definition in corpus.rule and rule.startswith("3:") and "0:" in rule and "**" not in rule
    with pytest.raises(UserError, match="Did you mean 'success'"):
        gold_rule(corpus, "sucess")


def test_the_measured_half_is_a_half_whatever_the_order(corpus: gold.GoldCorpus) -> None:
    rows = held_out(corpus)
    assert 0.45 < rows.mean() < 0.55
    turned = gold.GoldCorpus(corpus.table[::-1].reset_index(drop=True), corpus.graders, corpus.rule)
    assert (held_out(turned) == rows[::-1]).all()
    few = chosen_rows(corpus, 50, seed=1)
    assert few.sum() == 50 and not (few & ~rows).any()
    with pytest.raises(UserError, match="too few"):
        chosen_rows(corpus, 5)


# Offline judges


def small(corpus: gold.GoldCorpus, n: int = 160) -> gold.GoldCorpus:
    table = corpus.table.iloc[:n].reset_index(drop=True)
    return gold.GoldCorpus(table, corpus.graders, corpus.rule)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_equating_gives_each_grade_as_often_as_gold_and_is_monotone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores_S, grades_S = rng.normal(size=60), rng.integers(0, 4, 60)
    scale = Scale.learn(scores_S, grades_S)
    given_S = scale.grades(scores_S)
    assert np.bincount(given_S, minlength=4).tolist() == np.bincount(grades_S, minlength=4).tolist()
    rising_S = np.sort(rng.normal(size=50) * 3)
    assert (np.diff(scale.grades(rising_S)) >= 0).all() and (np.diff(scale.present(rising_S)) >= 0).all()
    assert ((scale.present(rising_S) >= 0) & (scale.present(rising_S) <= 1)).all()


@pytest.fixture(scope="module")
def embeddings(language_model: LanguageModel, corpus: gold.GoldCorpus) -> EmbeddingJudge:
    return EmbeddingJudge(language_model, small(corpus), block=2)


def test_the_embedding_judge_finds_the_bridge(embeddings: EmbeddingJudge, corpus: gold.GoldCorpus) -> None:
    rows = held_out(corpus) & (np.arange(len(corpus.table)) >= 160) & (np.arange(len(corpus.table)) < 400)
    grades = embeddings.grade(requests(corpus, "golden_gate", rows))
    present = [grade.probability for grade in grades]
    assert roc_auc_score(corpus.grades("golden_gate")[rows] >= 2, present) > 0.8


def test_the_embedding_judge_learns_nothing_from_the_measured_half(
    language_model: LanguageModel, corpus: gold.GoldCorpus, embeddings: EmbeddingJudge
) -> None:
    whole = small(corpus)
    table = whole.table.copy()
    rows = held_out(whole)
    table.loc[rows, list(whole.concepts)] = 3 - table.loc[rows, list(whole.concepts)]
    other = EmbeddingJudge(language_model, gold.GoldCorpus(table, whole.graders, whole.rule), block=2)
    asked = requests(whole, "success", rows)[:10]
    assert other.grade(asked) == embeddings.grade(asked)


def test_the_embedding_judge_takes_any_concept_and_leaves_empty_texts(embeddings: EmbeddingJudge) -> None:
    asked = [GradeRequest(text, "cats", "small house cats", "") for text in ("The cat slept.", "  ", "word " * 9000)]
    grades = embeddings.grade(asked)
    assert [grade.answered for grade in grades] == [True, False, False]
    assert embeddings.grade(asked[:1]) == grades[:1]
    assert embeddings.grade([]) == []


def test_embeddings_are_directions_around_the_gold_sentences(embeddings: EmbeddingJudge) -> None:
    texts = ["The cat slept.", " ", "He won the race.", "The cat slept.", "word " * 9000]
    vectors_SD = embeddings.embed(texts)
    assert np.isnan(vectors_SD[[1, 4]]).all()
    np.testing.assert_allclose(np.linalg.norm(vectors_SD[[0, 2, 3]], axis=1), 1)
    np.testing.assert_array_equal(vectors_SD[0], vectors_SD[3])
    learned = embeddings.corpus.table.loc[~held_out(embeddings.corpus), "text"].tolist()
    # Around the mean, directions point everywhere: uncentred activations would all be alike.
    assert np.linalg.norm(embeddings.embed(learned).mean(axis=0)) < 0.3
    assert embeddings.embed([]).shape == (0, embeddings.language_model.d_model)


@pytest.fixture(scope="module")
def local(language_model: LanguageModel) -> LocalJudge:
    return LocalJudge(language_model, batch_size=3)


def test_an_empty_sentence_favours_no_grade(local: LocalJudge) -> None:
    free = [GradeRequest(text, "success", "an achievement", "") for text in CONTENT_FREE]
    probabilities_RG = np.exp(local.log_probabilities(free))
    assert probabilities_RG.sum(axis=1) == pytest.approx(np.ones(3))
    # Their mean is uniform before each is scaled to one, so none can lie far from it.
    assert probabilities_RG.mean(axis=0) == pytest.approx(np.full(4, 0.25), abs=0.05)


def test_label_likelihoods_do_not_depend_on_the_batch(local: LocalJudge, language_model: LanguageModel) -> None:
    asked = [GradeRequest(text, "success", "an achievement", "") for text in ("He won the race.", "It rained.")]
    alone = LocalJudge(language_model, batch_size=1).log_probabilities(asked)
    np.testing.assert_allclose(local.log_probabilities(asked), alone, atol=1e-4)
    for grade, logp_G in zip(local.grade(asked), alone, strict=True):
        assert grade.value == logp_G.argmax()
        assert grade.probability == pytest.approx(np.exp(logp_G[2:]).sum(), abs=1e-4)


def test_what_is_too_long_is_unanswered(local: LocalJudge) -> None:
    long, short = (GradeRequest(text, "success", "an achievement", "") for text in ("word " * 9000, "She won."))
    assert [grade.answered for grade in local.grade([long, short])] == [False, True]
    assert not local.complete([Completion("word " * 9000, "", "v", 5)])[0].answered


def test_the_local_judge_writes_the_same_each_time(local: LocalJudge) -> None:
    question = Completion("Name a colour.", "Answer in one word.", "v", max_tokens=5)
    first, second = local.complete([question, question])
    assert first == second and first.answered


def test_the_registry(embeddings: EmbeddingJudge, local: LocalJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(embeddings, Judge) and not isinstance(embeddings, Writer)
    assert writer(local) is local
    with pytest.raises(UserError, match="cannot write"):
        writer(embeddings)
    with pytest.raises(UserError, match="Did you mean 'anthropic'"):
        load_judge("antropic")


def test_calibration_of_a_judge(corpus: gold.GoldCorpus) -> None:
    class Reader:
        name = "reader"

        def grade(self, asked: list[GradeRequest]) -> list[Grade]:
            known = dict(zip(corpus.table["text"], corpus.grades("success"), strict=True))
            return as_grades(np.array([known[request.text] for request in asked]))

    found = calibrate(Reader(), corpus, "success", limit=300, n=100)
    assert found.n == 300 and found.figures.loc["kappa", "value"] == 1
    assert (np.diag(found.confusion) == found.confusion.sum(axis=1)).all()


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from experiments import calibrate_judge

    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert calibrate_judge.main(["--judge", "anthropic", "--concept", "success", "--dry-run", "--limit", "50"]) == 0
    assert "50 requests" in capsys.readouterr().out
    for wrong in (["--judge", "anthropic"], ["--concept", "sucess"], ["--limit", "3"], ["--draws", "3"]):
        assert calibrate_judge.main([*wrong]) == 2
    assert "--judge embeddings and --judge local work offline" in capsys.readouterr().err


def test_the_command_writes_what_it_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus: gold.GoldCorpus
) -> None:
    from experiments import calibrate_judge

    gold_S = np.array([0, 1, 2, 3] * 20)
    found = compare("j", "success", gold_S, as_grades(np.zeros(80)), n=100)
    calibrate_judge.write(tmp_path, [found])
    (record,) = json.loads((tmp_path / "calibration.json").read_text())
    assert record["figures"]["spearman"]["value"] is None and record["verdict"] == found.verdict
    assert record["confusion"][3] == [20, 0, 0, 0]
    assert "none: the judge or the gold standard" in calibrate_judge.as_text(found)
