"""Mistakes that were made elsewhere with graded texts, each kept out by a test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from messages_server import KEY, MessagesServer, always, first, serving

from neurosae.autointerp.anthropic_judge import AnthropicJudge
from neurosae.autointerp.calibration import compare
from neurosae.autointerp.judges import Completion, Grade, GradeRequest, JudgeSettings, unanswered
from neurosae.autointerp.prices import Price

REQUEST = GradeRequest("She won.", "success", "an achievement", "3: plainly")


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ExitStack]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("NEUROSAE_CACHE", str(tmp_path))
    with ExitStack() as stack:
        yield stack


def test_an_error_response_is_no_pattern(stack: ExitStack) -> None:
    server = stack.enter_context(serving(MessagesServer(always("rejected"))))
    (answer,) = AnthropicJudge(JudgeSettings(base_url=server.url)).complete([Completion("What?", "", "explain-1")])
    assert (answer.text, answer.answered) == ("", False)
    assert "400" in answer.reason


@pytest.mark.parametrize("fault", ["not-json", "wrong-score", "score-as-text", "refusal", "rejected"])
def test_an_unparsable_score_is_no_number(stack: ExitStack, fault: str) -> None:
    server = stack.enter_context(serving(MessagesServer(always(fault))))
    (grade,) = AnthropicJudge(JudgeSettings(base_url=server.url)).grade([REQUEST])
    assert grade.value is None and grade.probability is None and not grade.answered and grade.reason


@pytest.mark.parametrize(
    ("value", "answered", "reason"), [(4, True, ""), (None, True, ""), (2, True, "?"), (0, False, "x")]
)
def test_a_grade_cannot_be_half_an_answer(value: int | None, answered: bool, reason: str) -> None:
    with pytest.raises(ValueError):
        Grade(value, None, answered, reason)


def test_unanswered_sentences_are_counted_and_never_scored() -> None:
    gold = np.array([0, 1, 2, 3] * 30)
    told = [Grade(int(g), None, True, "") for g in gold]
    partly = [unanswered("refused") if i % 4 == 3 else grade for i, grade in enumerate(told)]
    full, part = compare("j", "c", gold, told, n=50), compare("j", "c", gold, partly, n=50)
    assert part.figures.loc["kappa", "value"] == full.figures.loc["kappa", "value"] == 1
    assert part.unanswered == 0.25 and part.reasons == {"refused": 30}
    assert part.confusion.to_numpy().sum() == 90 and "25% unanswered" in part.verdict


def test_output_costs_what_output_costs(stack: ExitStack) -> None:
    assert Price(1.0, 5.0).dollars(300, 10) == pytest.approx(300e-6 + 50e-6)
    server = stack.enter_context(serving(MessagesServer(first("not-json"))))
    judge = AnthropicJudge(JudgeSettings(base_url=server.url, model="house-model", price=(1.0, 5.0)))
    judge.grade([REQUEST])
    assert judge.spending.dollars == pytest.approx(2 * (300e-6 + 50e-6))  # the malformed answer is paid for too
    assert (judge.spending.input_tokens, judge.spending.output_tokens) == (600, 20)


def test_answers_are_not_reused_for_another_question(stack: ExitStack) -> None:
    server = stack.enter_context(serving(MessagesServer()))
    other = stack.enter_context(serving(MessagesServer()))
    variants = [
        REQUEST,
        GradeRequest("She won.", "luck", "an achievement", "3: plainly"),
        GradeRequest("She won.", "success", "a feat", "3: plainly"),
        GradeRequest("She won.", "success", "an achievement", "3: hardly"),
        GradeRequest("He won.", "success", "an achievement", "3: plainly"),
    ]
    judge = AnthropicJudge(JudgeSettings(base_url=server.url))
    judge.grade(variants)
    assert len(server.seen.arrivals) == 5
    AnthropicJudge(JudgeSettings(base_url=server.url, model="house-model", price=(0.0, 0.0))).grade([REQUEST])
    assert len(server.seen.arrivals) == 6
    AnthropicJudge(JudgeSettings(base_url=other.url)).grade([REQUEST])
    assert len(other.seen.arrivals) == 1
    asked = [Completion("What?", "", version, 100) for version in ("explain-1-a", "explain-2-b")]
    judge.complete([*asked, Completion("What?", "", "explain-1-a", 200)])
    assert len(server.seen.arrivals) == 9
