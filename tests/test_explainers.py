"""Sets that share no text, marks that can be undone, the words that set texts apart, and what a writer says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neurosae.autointerp import explainers
from neurosae.autointerp.examples import (
    Evidence,
    Example,
    ExplainSet,
    ScoreSet,
    gather,
    highlight,
    near_duplicates,
    plain,
    split,
    text_hash,
    token_spans,
    words,
)
from neurosae.autointerp.judges import Answer, Completion, Grade, GradeRequest, unanswered
from neurosae.autointerp.lexical import distinctive_words, log_odds_z
from neurosae.errors import UserError

VOCABULARY = [a + b for a in ("ka", "lo", "mi", "nu", "se") for b in ("ba", "do", "fi", "go", "pu", "ra", "ti", "vo")]


def random_texts(rng: np.random.Generator, n: int, length: int = 9) -> list[str]:
    return [" ".join(rng.choice(VOCABULARY, length)) for _ in range(n)]


def planted(rng: np.random.Generator, n: int = 300, n_top: int = 60) -> Evidence:
    """Texts of random words; the strongest ones also hold "triumph"."""
    texts = [f"{text} triumph" if i < n_top else text for i, text in enumerate(random_texts(rng, n))]
    return gather(texts, -np.arange(n, dtype=float), n_top=n_top, n_random=n_top, per_decile=5)


class Scripted:
    """A writer that gives prepared answers and keeps what it was asked."""

    name = "scripted"

    def __init__(self, *answers: str | Answer) -> None:
        self.answers = [a if isinstance(a, Answer) else Answer(a, True, "") for a in answers]
        self.asked: list[Completion] = []

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        return [unanswered("a writer") for _ in requests]

    def complete(self, requests: Sequence[Completion]) -> list[Answer]:
        self.asked += requests
        return [self.answers.pop(0) for _ in requests]


# Sets


def test_gather_takes_the_strongest_and_draws_the_rest(rng: np.random.Generator) -> None:
    texts, scores = random_texts(rng, 200), rng.normal(size=200)
    evidence = gather(texts, scores, n_top=20, n_random=30, per_decile=4)
    top = [e for e in evidence.examples if e.stratum == "top"]
    assert {int(e.id) for e in top} == set(np.argsort(-scores)[:20].tolist())
    count = Counter((e.stratum, e.decile) for e in evidence.examples if e.stratum == "decile")
    assert count == {("decile", decile): 4 for decile in range(1, 10)}  # the top has taken the tenth one
    for e in evidence.examples:
        assert e.decile == 1 + int(stats.rankdata(scores)[int(e.id)] - 1) * 10 // 200


def test_random_controls_are_drawn_evenly(rng: np.random.Generator) -> None:
    texts, scores = random_texts(rng, 100), np.arange(100.0)
    drawn = Counter(
        e.id
        for seed in range(200)
        for e in gather(texts, scores, n_top=10, n_random=30, per_decile=0, seed=seed).examples
        if e.stratum == "random"
    )
    observed = [drawn[str(i)] for i in range(90)]
    assert stats.chisquare(observed).pvalue > 0.001
    assert not any(drawn[str(i)] for i in range(90, 100))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_sets_share_no_text_and_depend_on_no_order(seed: int, draw: int) -> None:
    rng = np.random.default_rng(seed)
    texts = random_texts(rng, 60)
    texts[40:50] = [text.upper() + " !" for text in texts[:10]]  # twins
    texts[50:60] = [text + " indeed" for text in texts[10:20]]  # near-duplicates
    scores, ids = rng.integers(0, 5, 60).astype(float), [f"t{i}" for i in range(60)]
    options = {"n_top": 12, "n_random": 12, "per_decile": 2, "seed": draw}
    found = split(gather(texts, scores, ids=ids, **options), draw)
    explain, score = ({text_hash(e.text) for e in part.examples} for part in found[:2])
    assert not explain & score
    both = [e.text for part in found[:2] for e in part.examples]
    assert len(set(near_duplicates(both).tolist())) == len(both)
    order = rng.permutation(60)
    again = split(gather([texts[i] for i in order], scores[order], ids=[ids[i] for i in order], **options), draw)
    assert again == found


def test_both_sets_have_every_stratum_and_about_the_same_scores(rng: np.random.Generator) -> None:
    texts, scores = random_texts(rng, 1000), rng.normal(size=1000)
    explain, score, _ = split(gather(texts, scores, n_top=50, n_random=50, per_decile=20))
    for stratum in ("top", "random", "decile"):
        parts = [[e.score for e in part.examples if e.stratum == stratum] for part in (explain, score)]
        assert abs(len(parts[0]) - len(parts[1])) <= 10
        assert abs(np.mean(parts[0]) - np.mean(parts[1])) < 0.15


def test_near_duplicates_are_those_of_a_loop(rng: np.random.Generator) -> None:
    texts = [" ".join(rng.choice(VOCABULARY[:4], 6)) for _ in range(60)] + ["one", "One!", "two words", "!?", "?!"]

    def shingles(text: str) -> set[tuple[str, ...]]:
        found = words(text) or [text]
        return {tuple(found[i : i + 3]) for i in range(max(1, len(found) - 2))}

    group = list(range(len(texts)))
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            if len(shingles(a) & shingles(b)) >= 0.5 * len(shingles(a) | shingles(b)):
                group = [group[i] if g == group[j] else g for g in group]
    found = near_duplicates(texts)
    assert len(set(group)) < len(texts)
    np.testing.assert_array_equal(found[:, None] == found, np.array(group)[:, None] == np.array(group))


@pytest.mark.parametrize(
    ("texts", "scores", "ids", "message"),
    [
        (["a b", "c d"], [1.0, np.nan], ["x", "y"], "Text y has no finite score"),
        (["a b", "c d"], [1.0], None, "one each is needed"),
        (["a b", "c d"], [1.0, 2.0], ["x", "x"], "Two texts have the id x"),
        (["a b", " "], [1.0, 2.0], ["x", "y"], "Text y is empty"),
        (["a b"], [1.0], None, "1 texts for 1 top texts and 1 random controls"),
    ],
)
def test_evidence_refuses(texts: list, scores: list, ids: list | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gather(texts, scores, ids=ids, n_top=1, n_random=1, per_decile=0)


# Marks


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab <>\\\n", max_size=30), st.lists(st.floats(-2, 2), min_size=1, max_size=8), st.data())
def test_marks_can_be_undone(text: str, contributions: list[float], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=len(contributions) + 1, max_size=9)))
    cuts = cuts[: len(contributions) + 1]
    spans = tuple(zip(cuts[:-1], cuts[1:], contributions, strict=True))
    assert plain(highlight(Example("a", text, 0.0, "top", 10, spans))) == text


def test_only_what_drives_the_score_is_marked() -> None:
    text = "The crew finally reached <<shore>> today"
    tokens = ["The", " crew", " finally", " reached", " <<", "shore", ">>", " today"]
    spans = token_spans(text, tokens, [0.1, -3.0, 1.0, 0.9, 0.0, 0.0, 2.0, 0.99])
    example = Example("a", text, 1.0, "top", 10, spans)
    assert highlight(example) == r"The crew <<finally>> reached \<\<shore<<\>\>>> today"
    assert highlight(Example("a", text, 1.0, "top", 10)) == r"The crew finally reached \<\<shore\>\> today"


def test_bytes_of_a_character_are_no_span() -> None:
    assert token_spans("so 🙂 good", ["so", " \ufffd", "\ufffd", " good"], [1.0, 2.0, 3.0, 4.0]) == (
        (0, 2, 1.0),
        (4, 9, 4.0),
    )


# Words


def test_log_odds_is_that_of_a_loop(rng: np.random.Generator) -> None:
    y, other, prior = rng.integers(0, 9, (3, 7)), rng.integers(0, 9, (3, 7)), rng.uniform(0.1, 2, 7)
    delta_BW, z_BW = log_odds_z(y, other, prior)
    for b in range(3):
        for w in range(7):
            a, c = y[b, w] + prior[w], other[b, w] + prior[w]
            odds = math.log(a / (sum(y[b]) + sum(prior) - a)) - math.log(c / (sum(other[b]) + sum(prior) - c))
            assert delta_BW[b, w] == pytest.approx(odds, abs=1e-12)
            assert z_BW[b, w] == pytest.approx(odds / math.sqrt(1 / a + 1 / c), abs=1e-12)


def test_swapped_groups_change_the_sign(rng: np.random.Generator) -> None:
    texts, is_top = random_texts(rng, 40), np.arange(40) < 17
    there = distinctive_words(texts, is_top, n_permutations=0).set_index("word")
    back = distinctive_words(texts, ~is_top, n_permutations=0).set_index("word").loc[there.index]
    np.testing.assert_allclose(there["z"], -back["z"], atol=1e-12)
    assert (there["n_top"] == back["n_other"]).all()


def test_order_of_texts_and_block_size_do_not_matter(rng: np.random.Generator) -> None:
    texts, is_top = random_texts(rng, 30), np.arange(30) < 12
    whole = distinctive_words(texts, is_top, n_permutations=99)
    blocks = distinctive_words(texts, is_top, n_permutations=99, block_size=7)
    assert (whole["p_fwe"] == blocks["p_fwe"]).all()
    order = rng.permutation(30)
    shuffled = distinctive_words([texts[i] for i in order], is_top[order], n_permutations=0)
    assert (shuffled["word"] == whole["word"]).all()
    np.testing.assert_allclose(shuffled["z"], whole["z"], atol=1e-12)


def test_shuffled_words_keep_their_level() -> None:
    """Family-wise: no word at all is found in 19 of 20 corpora without a difference."""
    n_runs, hits = 100, 0
    for run in range(n_runs):
        rng = np.random.default_rng([7, run])
        table = distinctive_words(random_texts(rng, 24, 5), np.arange(24) < 12, n_permutations=99, seed=run)
        hits += table["p_fwe"].min() <= 0.05
    assert hits <= stats.binom.ppf(0.99, n_runs, 0.05)


def test_a_planted_word_is_the_explanation(rng: np.random.Generator) -> None:
    explain = split(planted(rng)).explain
    explanation = explainers.explain_by_words(explain)
    assert explanation.words[0][0] == "triumph"
    assert "triumph" in explanation.text
    assert set(explanation.example_ids) == {e.id for e in explain.examples}
    table = distinctive_words([e.text for e in explain.examples], [e.stratum == "top" for e in explain.examples])
    assert table["word"][0] == "triumph"
    assert table["p_fwe"][0] <= 0.001
    assert (table["p_fwe"][1:] > 0.01).all()


@pytest.mark.parametrize(
    ("texts", "is_top", "message"),
    [
        (["a b", "c"], [True, True], "both groups"),
        (["a b", "c"], [True], "both groups"),
        (["a", "a !"], [True, False], "two different words"),
        (["!", "?"], [True, False], "two different words"),
    ],
)
def test_distinctive_words_refuses(texts: list, is_top: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        distinctive_words(texts, is_top)


# Explainers


def test_the_writer_sees_marked_top_texts_and_controls_and_nothing_else(rng: np.random.Generator) -> None:
    marked = Evidence(
        tuple(
            Example(e.id, e.text, e.score, e.stratum, e.decile, ((e.text.rindex(" "), len(e.text), 1.0),))
            for e in planted(rng).examples
        )
    )
    explain, score, _ = split(marked)
    writer = Scripted("They are about winning.\nPATTERN: A contest is won.")
    explanation = explainers.explain_by_reading(explain, writer, n_top=7, n_random=6)
    (asked,) = writer.asked
    strong, _, random = asked.prompt.partition("Random sentences:")
    assert strong.count("<<triumph>>") == 7
    assert "<<" not in random
    assert random.count("\n") >= 6
    assert not any(e.text in plain(asked.prompt) for e in score.examples)
    assert (explanation.text, explanation.reason) == ("A contest is won.", "")
    assert (explanation.kind, explanation.writer) == ("llm", "scripted")
    assert explanation.prompt_version.startswith("explain-1-")
    assert len(explanation.example_ids) == 13


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("PATTERN: Wins.", "Wins."),
        ("Lines.\n**PATTERN:** *Wins.*\n", "Wins."),
        ("  PATTERN :  Wins: of a team.  ", "Wins: of a team."),
        ("# PATTERN: Wins.\r\nBye", "Wins."),
    ],
)
def test_a_pattern_is_read(answer: str, text: str, rng: np.random.Generator) -> None:
    writer = Scripted(answer)
    assert explainers.explain_by_reading(split(planted(rng)).explain, writer).text == text


def test_no_pattern_is_a_reason(rng: np.random.Generator) -> None:
    explanation = explainers.explain_by_reading(split(planted(rng)).explain, Scripted("PATTERN: None."))
    assert (explanation.text, explanation.reason) == ("", "the writer found no common pattern")


@pytest.mark.parametrize("wrong", ["A contest is won.", "PATTERN:\nA contest is won.", "PATTERN: a\nPATTERN: b", ""])
def test_a_malformed_answer_is_asked_for_once_more(wrong: str, rng: np.random.Generator) -> None:
    explain = split(planted(rng)).explain
    writer = Scripted(wrong, "PATTERN: A contest is won.")
    assert explainers.explain_by_reading(explain, writer).text == "A contest is won."
    assert writer.asked[0] != writer.asked[1]  # or a cache would give the same answer again
    assert writer.asked[0].prompt in writer.asked[1].prompt
    twice = Scripted(wrong, wrong)
    explanation = explainers.explain_by_reading(explain, twice)
    assert explanation.text == ""
    assert "lines with a pattern" in explanation.reason
    assert not twice.answers


def test_explainers_refuse_what_is_to_be_scored(rng: np.random.Generator) -> None:
    score: object = split(planted(rng)).score
    for explain in (explainers.explain_by_words, lambda s: explainers.explain_by_reading(s, Scripted())):
        with pytest.raises(UserError, match="needs a ExplainSet, not a ScoreSet"):
            explain(score)


def test_explainers_refuse_too_few_texts(rng: np.random.Generator) -> None:
    few = ExplainSet(split(planted(rng)).explain.of("top")[:4])
    with pytest.raises(UserError, match="4 top texts and 0 others"):
        explainers.explain_by_words(few)
    assert isinstance(split(planted(rng)).score, ScoreSet)
