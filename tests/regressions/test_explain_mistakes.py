"""Mistake 7 of the original (the corpus was ranked by the probability of failure and scored for achievement; ranked and
scored texts were the SAE's training set) and how neighbours explain and score on the same texts, reward the answer
"none", and turn missing or malformed answers into numbers or patterns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from neurosae.autointerp import scorers
from neurosae.autointerp.examples import Evidence, gather, near_duplicates, split, text_hash
from neurosae.autointerp.explainers import explain_by_reading, explain_by_words
from neurosae.autointerp.judges import Answer, Completion, Grade, GradeRequest, unanswered
from neurosae.autointerp.scores import Settings
from neurosae.errors import UserError

FAST = Settings(n_bootstrap=200, n_permutations=99)
N = 320


class Judge:
    """Sees success in "wins", is silent about every text that `silent` names, and writes what it is told to."""

    name = "test"

    def __init__(self, *answers: Answer, silent: Sequence[str] = ()) -> None:
        self.answers, self.silent = list(answers), set(silent)

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        return [
            unanswered("malformed") if r.text in self.silent else Grade(3 * ("wins" in r.text), None, True, "")
            for r in requests
        ]

    def complete(self, requests: Sequence[Completion]) -> list[Answer]:
        return [self.answers.pop(0) for _ in requests]


def texts() -> list[str]:
    """One in four is a success, one in four a failure."""
    rng = np.random.default_rng(0)
    ends = ["wins", "loses", "waits", "walks"]
    return [" ".join(map(str, rng.integers(0, 10**6, 5))) + f" {ends[i % 4]}" for i in range(N)]


@pytest.fixture
def evidence() -> Evidence:
    return gather(texts(), [float(text.endswith("wins")) for text in texts()], per_decile=10)


def test_mistake_7_a_ranking_by_the_foil_is_seen_as_one() -> None:
    """Ranked by the probability of failure, the top holds less success than random texts do, and the score says so."""
    by_failure = gather(texts(), [float(text.endswith("loses")) for text in texts()], per_decile=10)
    wrong = scorers.rubric(scorers.grade_blind(Judge(), split(by_failure).score, "success", "", ""), FAST)[0]
    assert wrong.value < 0
    assert wrong.p > 0.9


def test_delphi_explain_and_score_sets_overlap(evidence: Evidence) -> None:
    for seed in range(20):
        explain, score, _ = split(evidence, seed)
        assert not {text_hash(e.text) for e in explain.examples} & {text_hash(e.text) for e in score.examples}
        both = [e.text for e in (*explain.examples, *score.examples)]
        assert len(np.unique(near_duplicates(both))) == len(both)


def test_llamascopium_explains_and_scores_the_same_examples(evidence: Evidence) -> None:
    explain: object = split(evidence).explain
    with pytest.raises(UserError, match="needs a ScoreSet"):
        scorers.word_match(explain_by_words(split(evidence).explain), explain, FAST)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [Answer("", False, "HTTP 400: too long"), Answer("", False, "refused")])
def test_delphi_an_answer_that_failed_is_no_pattern(answer: Answer, evidence: Evidence) -> None:
    explain, score, _ = split(evidence)
    explanation = explain_by_reading(explain, Judge(answer))
    assert (explanation.text, explanation.reason) == ("", answer.reason)
    with pytest.raises(UserError, match="no explanation to score"):
        scorers.grade_pattern(Judge(), score, explanation)


def test_delphi_an_unparsed_explanation_is_not_scored(evidence: Evidence) -> None:
    chatter = Answer("HTTP 400: the prompt is too long", True, "")
    assert explain_by_reading(split(evidence).explain, Judge(chatter, chatter)).text == ""


def test_saebench_the_answer_none_scores_one_half(evidence: Evidence) -> None:
    """Of 14 texts with 4 positives, "none" is right about .714; here sets are of one size and both count the same."""
    score = split(evidence).score
    none_of_them = Judge()
    graded = scorers.grade_blind(none_of_them, score, "success", "", "")
    never = graded.table.assign(grade=0.0)
    for found in scorers.detection(scorers.Graded(never, "success", "none"), FAST):
        assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
        assert found.n_first == found.n_second


def test_llamascopium_and_axbench_missing_answers_are_no_numbers(evidence: Evidence) -> None:
    """A prediction that is missing is not "no", a rating that cannot be read is not 0, and the text is not lost."""
    score = split(evidence).score
    silent = [e.text for e in score.examples if e.stratum == "top"][:9]
    whole, partial = (scorers.grade_blind(Judge(silent=s), score, "success", "", "") for s in ((), silent))
    assert partial.n_unanswered == 9
    assert partial.table.loc[~partial.table["answered"], "grade"].isna().all()
    assert scorers.mean_grades(partial, FAST)["mean"][0] == scorers.mean_grades(whole, FAST)["mean"][0] == 3
    all_silent = Judge(silent=[e.text for e in score.examples])
    for found in scorers.detection(scorers.grade_blind(all_silent, score, "success", "", ""), FAST):
        assert np.isnan(found.value)
        assert found.reason
        assert found.n_unanswered == 50


def test_llamascopium_draws_are_seeded(evidence: Evidence) -> None:
    assert split(evidence, 3) == split(evidence, 3) != split(evidence, 4)
    score = split(evidence).score
    graded = [scorers.grade_blind(Judge(), score, "success", "", "") for _ in range(2)]
    assert scorers.detection(graded[0], FAST) == scorers.detection(graded[1], FAST)
