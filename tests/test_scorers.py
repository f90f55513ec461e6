"""Scores equal other libraries', planted truth scores high, and nothing scores like chance; judges read blind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from neurosae.autointerp import scorers
from neurosae.autointerp.examples import Evidence, gather, split
from neurosae.autointerp.explainers import Explanation, explain_by_words
from neurosae.autointerp.judges import Grade, GradeRequest, unanswered
from neurosae.autointerp.scores import (
    Score,
    Settings,
    against_random,
    auroc,
    balanced_accuracy,
    compare_sets,
    mean_difference,
)
from neurosae.errors import UserError
from neurosae.inference import resampling_weights

FAST = Settings(n_bootstrap=400, n_permutations=199)
VOCABULARY = [a + b for a in ("ka", "lo", "mi", "nu", "se") for b in ("ba", "do", "fi", "go", "pu", "ra", "ti", "vo")]
RULE = ("success", "An achievement.", "3 is a plain one.")


class WordJudge:
    """Grades the words of a text: 3 for "triumph", 2 for "gain", 0 for others; refuses "unclear"."""

    name = "words"

    def __init__(self) -> None:
        self.asked: list[GradeRequest] = []

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        self.asked += requests
        return [self._one(request.text.split()) for request in requests]

    def _one(self, words: list[str]) -> Grade:
        if "unclear" in words:
            return unanswered("refused")
        value = 3 if "triumph" in words else 2 if "gain" in words else 0
        return Grade(value, value / 3, True, "")


class SameJudge:
    """Gives every text the same grade."""

    name = "same"

    def __init__(self, value: int) -> None:
        self.value = value

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        return [Grade(self.value, None, True, "") for _ in requests]


class CoinJudge:
    """Grades by a hash of the text: no text is better than another."""

    name = "coin"

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        draws = np.random.default_rng(len(requests)).integers(0, 4, len(requests))
        return [Grade(int(draw), float(draw) / 3, True, "") for draw in draws]


def corpus(rng: np.random.Generator, n: int = 400, mark: Callable[[int], str] = lambda rank: "") -> Evidence:
    """Random words, the strongest first, with a word that depends on the rank."""
    texts = [f"{' '.join(rng.choice(VOCABULARY, 9))} {mark(rank)}".strip() for rank in range(n)]
    return gather(texts, -np.arange(n, dtype=float), n_top=50, n_random=50, per_decile=10)


def triumph_on_top(rank: int) -> str:
    return "triumph" if rank < 50 else ""


# The statistics


def test_auroc_and_balanced_accuracy_are_scikit_learns(rng: np.random.Generator) -> None:
    values = [rng.integers(0, 4, n).astype(float) for n in (23, 31)]
    truth, value_S = np.repeat([1, 0], [23, 31]), np.concatenate(values)
    assert compare_sets("a", *values, auroc, FAST).value == pytest.approx(
        metrics.roc_auc_score(truth, value_S), abs=1e-12
    )
    called = [(part >= 2).astype(float) for part in values]
    expected = metrics.balanced_accuracy_score(truth, value_S >= 2)
    assert compare_sets("b", *called, balanced_accuracy, FAST).value == pytest.approx(expected, abs=1e-12)
    expected = values[0].mean() - values[1].mean()
    assert compare_sets("c", *values, mean_difference, FAST).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("make", [auroc, balanced_accuracy, mean_difference])
def test_a_weight_is_a_number_of_copies(make: Callable, rng: np.random.Generator) -> None:
    value_S, is_first_S = rng.integers(0, 2, 30).astype(float), np.arange(30) < 13
    weights_BS = resampling_weights(np.arange(30), 20)
    found_B = make(value_S)(weights_BS * is_first_S, weights_BS * ~is_first_S)
    for b in range(20):
        copies = np.repeat(np.arange(30), weights_BS[b])
        first = np.eye(1, dtype=float) @ is_first_S[copies][None].astype(float)
        again = make(value_S[copies])(first, 1 - first)
        assert found_B[b] == pytest.approx(again[0], abs=1e-12)


def test_chance_of_the_means_is_the_t_tests(rng: np.random.Generator) -> None:
    """Under shuffled labels the mean difference is nearly normal: its p is close to that of a one-sided t-test."""
    first, second = rng.normal(0.3, 1, 60), rng.normal(0, 1, 60)
    score = compare_sets("m", first, second, mean_difference, Settings(n_bootstrap=2000, n_permutations=4999))
    test = stats.ttest_ind(first, second, alternative="greater")
    assert score.p == pytest.approx(test.pvalue, abs=0.01)
    low, high = stats.ttest_ind(first, second).confidence_interval()
    assert (score.low, score.high) == pytest.approx((low, high), abs=0.06)


@pytest.mark.parametrize("make", [auroc, balanced_accuracy, mean_difference])
def test_scores_keep_their_level_and_their_intervals_cover_chance(make: Callable) -> None:
    n_runs, rejected, missed = 100, 0, 0
    chance = 0.0 if make is mean_difference else 0.5
    quick = Settings(n_bootstrap=200, n_permutations=99)
    for run in range(n_runs):
        draws = np.random.default_rng([3, run]).integers(0, 2 if make is balanced_accuracy else 4, 60).astype(float)
        score = compare_sets("null", draws[:30], draws[30:], make, replace(quick, seed=run))
        rejected += score.p <= 0.05
        missed += not score.low <= chance <= score.high
        assert score.chance == pytest.approx(chance, abs=0.2)
    assert rejected <= stats.binom.ppf(0.99, n_runs, 0.05)
    assert missed <= stats.binom.ppf(0.99, n_runs, 0.08)  # percentiles of 200 draws are a little too narrow


def test_too_few_values_give_a_reason() -> None:
    score = compare_sets("a", [1.0] * 7 + [np.nan], [0.0] * 20, auroc, FAST)
    assert np.isnan([score.value, score.low, score.high, score.p, score.chance]).all()
    assert "fewer than 8" in score.reason
    assert (score.n_first, score.n_second, score.n_unanswered) == (7, 20, 1)


def test_against_random_is_a_rank() -> None:
    rng = np.random.default_rng(0)
    ps = [against_random(*(lambda x: (x[0], x[1:]))(rng.normal(size=20))).p for _ in range(300)]
    assert sum(p <= 0.05 for p in ps) <= stats.binom.ppf(0.99, 300, 0.05)
    assert min(ps) == 0.05
    found = against_random(2.0, [np.nan, 1.0, 0.0])
    assert (found.value, found.n_second, found.n_unanswered) == (1.5, 2, 1)
    assert against_random(np.nan, [1.0]).reason == "no score to compare"
    assert against_random(1.0, [np.nan]).reason == "no ensemble of random features has a score"


# Judges


def test_judges_read_blind_and_shuffled(rng: np.random.Generator) -> None:
    judge, examples = WordJudge(), split(corpus(rng, mark=triumph_on_top)).score
    graded = scorers.grade_blind(judge, examples, *RULE, seed=4)
    assert sorted(r.text for r in judge.asked) == sorted(e.text for e in examples.examples)
    assert {(r.concept, r.definition, r.rule) for r in judge.asked} == {RULE}
    read = [r.text for r in judge.asked]
    place = [read.index(e.text) for e in examples.examples]
    assert abs(stats.spearmanr(place, [e.score for e in examples.examples]).statistic) < 0.25
    for row in graded.table.itertuples():  # every grade came back to its own text
        assert row.grade == (3 if "triumph" in row.text else 0)


def test_the_order_of_reading_changes_nothing(rng: np.random.Generator) -> None:
    examples = split(corpus(rng, mark=triumph_on_top)).score
    tables = [scorers.grade_blind(WordJudge(), examples, *RULE, seed=seed).table for seed in (0, 1)]
    assert tables[0].equals(tables[1])


def test_a_planted_concept_is_found_and_rises_with_the_score(rng: np.random.Generator) -> None:
    def mark(rank: int) -> str:
        return "triumph" if rank < 50 or (rank < 200 and rank % 2) else ""

    graded = scorers.grade_blind(WordJudge(), split(corpus(rng, mark=mark)).score, *RULE)
    found = {score.name: score for score in scorers.rubric(graded, FAST)}
    assert set(found) == {"top - random", "top - bottom", "upper - lower"}
    for score in found.values():
        assert score.low > 0.3
        assert score.p == score.smallest_p == 1 / 200
    assert found["top - bottom"].value == 3.0
    means = scorers.mean_grades(graded, FAST).set_index("set")
    assert means.loc["top", ["mean", "low", "high"]].tolist() == [3.0, 3.0, 3.0]
    assert means.loc["decile 1", "mean"] == 0
    assert means.loc["random", "low"] < means.loc["random", "mean"] < means.loc["random", "high"]


def test_a_reversed_ranking_has_a_negative_score(rng: np.random.Generator) -> None:
    evidence = corpus(rng, mark=lambda rank: "triumph" if rank >= 350 else "")
    (_, bottom, slope) = scorers.rubric(scorers.grade_blind(WordJudge(), split(evidence).score, *RULE), FAST)
    assert bottom.value < -2
    assert slope.high < 0
    assert bottom.p == slope.p == 1.0


@pytest.mark.parametrize("value", [0, 3])
def test_the_same_answer_for_all_scores_chance(value: int, rng: np.random.Generator) -> None:
    graded = scorers.grade_blind(SameJudge(value), split(corpus(rng)).score, *RULE)
    for score in scorers.detection(graded, FAST):
        assert (score.value, score.low, score.high, score.chance, score.p) == (0.5, 0.5, 0.5, 0.5, 1.0)
    for score in scorers.rubric(graded, FAST):
        assert (score.value, score.p) == (0.0, 1.0)


def test_unanswered_texts_are_counted_and_left_out(rng: np.random.Generator) -> None:
    def mark(rank: int) -> str:
        return "unclear" if rank % 3 == 0 else triumph_on_top(rank)

    graded = scorers.grade_blind(WordJudge(), split(corpus(rng, mark=mark)).score, *RULE)
    assert graded.n_unanswered == sum("unclear" in text for text in graded.table["text"]) > 20
    assert (graded.table.loc[~graded.table["answered"], "reason"] == "refused").all()
    top_random = scorers.rubric(graded, FAST)[0]
    assert top_random.value == 3.0  # a default of any size would pull it down
    two = graded.table["stratum"].isin(["top", "random"])
    assert top_random.n_unanswered == (two & ~graded.table["answered"]).sum()
    assert top_random.n_first + top_random.n_second + top_random.n_unanswered == two.sum()
    means = scorers.mean_grades(graded, FAST)
    assert (means["n"] + means["n_unanswered"]).sum() == len(graded.table) + (graded.table["stratum"] == "random").sum()


def test_detection_uses_equally_many_texts_and_the_fixed_threshold(rng: np.random.Generator) -> None:
    evidence = corpus(rng, mark=lambda rank: "gain" if rank < 50 else "")
    fewer = Evidence(tuple(e for e in evidence.examples if e.stratum != "random" or int(e.id) % 3))
    for score in scorers.detection(scorers.grade_blind(WordJudge(), split(fewer).score, *RULE), FAST):
        assert score.n_first == score.n_second
        assert (score.value, score.p) == (1.0, 1 / 200)


def test_a_judge_without_probabilities_is_ranked_by_its_grades(rng: np.random.Generator) -> None:
    graded = scorers.grade_blind(WordJudge(), split(corpus(rng, mark=triumph_on_top)).score, *RULE)
    table = graded.table.assign(probability=np.nan)
    scores = [scorers.detection(replace(graded, table=t), FAST)[1].value for t in (graded.table, table)]
    assert scores == [1.0, 1.0]


def test_a_judge_that_loses_a_grade_is_refused(rng: np.random.Generator) -> None:
    class Short(WordJudge):
        def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
            return super().grade(requests)[:-1]

    with pytest.raises(UserError, match="grades for"):
        scorers.grade_blind(Short(), split(corpus(rng)).score, *RULE)


# Explanations


def embed_words(texts: Sequence[str]) -> np.ndarray:
    """Which of the known words a text holds, and a constant."""
    known = [*VOCABULARY, "triumph"]
    return np.array([[1.0, *(word in text.split() for word in known)] for text in texts], dtype=float)


def test_the_words_of_a_planted_text_match_and_its_embedding_too(rng: np.random.Generator) -> None:
    explain, score, _ = split(corpus(rng, mark=triumph_on_top))
    explanation = replace(explain_by_words(explain, n_words=1), text="triumph")
    matched = scorers.word_match(explanation, score, FAST)
    assert [s.value for s in matched] == [1.0, 1.0]
    assert scorers.embedding_match(explanation, score, embed_words, FAST).value > 0.99
    graded = scorers.grade_pattern(WordJudge(), score, explanation)
    assert [s.value for s in scorers.detection(graded, FAST)] == [1.0, 1.0]


def test_every_scorer_is_at_chance_without_a_difference() -> None:
    """Corpora in which no text differs from another: held-out scores reject as often as they should."""
    n_runs, rejected, missed = 30, np.zeros(6), np.zeros(6)
    quick = Settings(n_bootstrap=200, n_permutations=99)
    for run in range(n_runs):
        explain, score, _ = split(corpus(np.random.default_rng([11, run]), n=200), seed=run)
        explanation = explain_by_words(explain)
        graded = scorers.grade_pattern(CoinJudge(), score, explanation, seed=run)
        found = [
            *scorers.word_match(explanation, score, replace(quick, seed=run)),
            scorers.embedding_match(explanation, score, embed_words, replace(quick, seed=run)),
            *scorers.detection(graded, replace(quick, seed=run)),
            scorers.rubric(graded, replace(quick, seed=run))[0],
        ]
        rejected += [s.p <= 0.05 for s in found]
        missed += [not s.low <= (0 if s.name == "top - random" else 0.5) <= s.high for s in found]
    assert rejected.max() <= stats.binom.ppf(1 - 0.01 / 6, n_runs, 0.05)
    assert missed.max() <= stats.binom.ppf(1 - 0.01 / 6, n_runs, 0.08)


def test_embeddings_do_not_depend_on_length(rng: np.random.Generator) -> None:
    explain, score, _ = split(corpus(rng, mark=triumph_on_top))
    explanation = explain_by_words(explain)
    scale = rng.uniform(0.1, 10, 1000)

    def embed(texts: Sequence[str]) -> np.ndarray:
        return embed_words(texts) * scale[: len(texts), None]

    there, scaled = (scorers.embedding_match(explanation, score, e, FAST) for e in (embed_words, embed))
    assert there.value == pytest.approx(scaled.value, abs=1e-9)


@pytest.mark.parametrize(
    "embed",
    [
        lambda texts: np.zeros((len(texts), 3)),
        lambda texts: np.full((len(texts), 3), np.nan),
        lambda texts: np.ones((len(texts) - 1, 3)),
        lambda texts: np.ones(len(texts)),
    ],
)
def test_embeddings_that_are_no_directions_are_refused(embed: Callable, rng: np.random.Generator) -> None:
    explain, score, _ = split(corpus(rng))
    with pytest.raises(UserError, match="embeddings"):
        scorers.embedding_match(explain_by_words(explain), score, embed, FAST)


def test_a_text_without_an_embedding_is_counted_and_left_out(rng: np.random.Generator) -> None:
    explain, score, _ = split(corpus(rng, mark=triumph_on_top))
    explanation = replace(explain_by_words(explain, n_words=1), text="triumph")

    def embed(texts: Sequence[str]) -> np.ndarray:
        vectors = embed_words(texts)
        vectors[1] = np.nan
        vectors[2] = 0
        return vectors

    found = scorers.embedding_match(explanation, score, embed, FAST)
    assert (found.n_unanswered, found.reason) == (2, "")
    assert found.value > 0.99


@pytest.mark.parametrize("numbers", [(0, 99, 0), (200, 0, 0), (200, 99, -1)])
def test_settings_without_draws_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="numbers from 1"):
        Settings(*numbers)


def leaky(explanation: Explanation, score: object) -> list[Callable[[], object]]:
    return [
        lambda: scorers.grade_pattern(SameJudge(1), score, explanation),
        lambda: scorers.word_match(explanation, score, FAST),
        lambda: scorers.embedding_match(explanation, score, embed_words, FAST),
    ]


def test_no_scorer_takes_texts_that_were_explained(rng: np.random.Generator) -> None:
    evidence = corpus(rng)
    explain, score, _ = split(evidence)
    explanation = explain_by_words(explain)
    for call in leaky(explanation, explain):
        with pytest.raises(UserError, match="needs a ScoreSet, not a ExplainSet"):
            call()
    other = split(evidence, seed=1).score  # another split shares texts with what was explained
    for call in leaky(explanation, other):
        with pytest.raises(UserError, match="The explanation was made from"):
            call()
    with pytest.raises(UserError, match="needs a ScoreSet"):
        scorers.grade_blind(SameJudge(1), explain, *RULE)  # type: ignore[arg-type]
    for call in leaky(explanation, score):
        assert call()


def test_what_is_no_explanation_is_not_scored(rng: np.random.Generator) -> None:
    explain, score, _ = split(corpus(rng))
    empty = replace(explain_by_words(explain), text="", words=(), reason="refused")
    for call in leaky(empty, score):
        with pytest.raises(UserError, match="There is no explanation to score: refused"):
            call()
    with pytest.raises(UserError, match="Only a lexical explanation has words"):
        scorers.word_match(replace(empty, text="They win.", kind="llm"), score, FAST)


def test_a_score_is_json_ready() -> None:
    score: Score = against_random(1.0, [0.0, 0.5])
    assert set(score.as_dict()) >= {"name", "value", "low", "high", "chance", "p", "n_unanswered", "reason"}
    assert all(isinstance(value, int | float | str) for value in score.as_dict().values())
