"""The Anthropic judge through the real SDK against a server that goes wrong on demand."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from messages_server import (
    FINAL,
    KEY,
    MALFORMED,
    TRANSIENT,
    MessagesServer,
    Plan,
    always,
    first,
    never,
    seeded,
    serving,
    true_grade,
)

import neurosae
from experiments import calibrate_judge
from neurosae.autointerp.anthropic_judge import AnthropicJudge
from neurosae.autointerp.calibration import DISTRUST
from neurosae.autointerp.examples import Example, ExplainSet
from neurosae.autointerp.explainers import explain_by_reading
from neurosae.autointerp.judges import Completion, GradeRequest, JudgeSettings
from neurosae.autointerp.prompting import load_prompt
from neurosae.errors import UserError

Serve = Callable[..., MessagesServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that stop with the test."""
    with ExitStack() as stack:
        yield lambda plan=never, **options: stack.enter_context(serving(MessagesServer(plan, **options)))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key, no address, no .env, and a cache folder of the test's own."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    monkeypatch.setenv("NEUROSAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def judge_at(address: str, *, attempts: int = 8, first_wait: float = 0.01, **settings: object) -> AnthropicJudge:
    chosen = JudgeSettings(base_url=address, **({"deadline": 10.0} | settings))
    return AnthropicJudge(chosen, attempts=attempts, first_wait=first_wait)


def asked(n: int) -> list[GradeRequest]:
    return [GradeRequest(f"Sentence {i}.", "success", "an achievement", "3: plainly") for i in range(n)]


def as_sent(request: GradeRequest) -> str:
    """The user message of a request, as the server sees it."""
    return load_prompt("grade").fill(
        text=request.text, concept=request.concept, definition=request.definition, rule=request.rule
    )[1]


def fate(user: str, plan: Plan, attempts: int = 8) -> int | str:
    """What must become of a request under a plan: its grade, or the fault that ended it."""
    malformed = failed = 0
    for attempt in range(100):
        fault = plan(user, attempt)
        if fault is None:
            return true_grade(user)
        malformed, failed = malformed + (fault in MALFORMED), failed + (fault in TRANSIENT)
        if fault in FINAL or malformed == 2 or failed == attempts:
            return fault
    raise AssertionError


def test_nothing_is_lost_and_nothing_scored_twice_under_faults(serve: Serve) -> None:
    plan = seeded(3, 0.3, (*TRANSIENT, *MALFORMED, *FINAL))
    server, requests = serve(plan), asked(500)
    judge = judge_at(server.url, concurrency=16, deadline=2.0)
    grades = judge.grade(requests)
    fates = [fate(as_sent(request), plan) for request in requests]
    assert [grade.value for grade in grades] == [f if isinstance(f, int) else None for f in fates]
    assert sum(grade.answered for grade in grades) > 400
    assert all(grade.reason for grade in grades if not grade.answered)
    assert max(server.seen.answered.values()) == 1
    # Once more: only what was malformed twice, rejected or given up is sent again.
    before = len(server.seen.arrivals)
    judge.grade(requests)
    again = {user for _, user, _ in server.seen.arrivals[before:]}
    assert again == {as_sent(r) for r, f in zip(requests, fates, strict=True) if isinstance(f, str) and f != "refusal"}


def test_no_more_than_concurrency_at_once(serve: Serve) -> None:
    server = serve(delay=0.03)
    judge_at(server.url, concurrency=4).grade(asked(24))
    assert 2 <= server.seen.most_in_flight <= 4


def test_retry_after_holds_every_request_back(serve: Serve) -> None:
    requests = asked(6)
    limited = as_sent(requests[0])
    server = serve(lambda user, attempt: "429" if user == limited and attempt == 0 else None, retry_after=0.6)
    grades = judge_at(server.url, concurrency=1).grade(requests)
    assert all(grade.answered for grade in grades)
    (told,) = [when for when, _, fault in server.seen.arrivals if fault == "429"]
    assert min(when for when, _, _ in server.seen.arrivals if when > told) >= told + 0.6


def test_a_server_that_wants_to_be_left_alone_is(serve: Serve) -> None:
    with pytest.raises(UserError, match="wait 7200 s"):
        judge_at(serve(always("429"), retry_after=7200).url).grade(asked(1))


@pytest.mark.parametrize("fault", TRANSIENT)
def test_transient_faults_are_retried_until_patience_ends(serve: Serve, fault: str) -> None:
    deadline = 0.5 if fault == "stall" else 10.0
    server = serve(first(fault, fault))
    (grade,) = judge_at(server.url, deadline=deadline).grade(asked(1))
    assert grade.value == true_grade(as_sent(asked(1)[0]))
    assert sum(server.seen.attempts.values()) == 3
    hopeless = serve(always(fault))
    (grade,) = judge_at(hopeless.url, deadline=deadline, attempts=2).grade(asked(1))
    assert (grade.value, grade.answered) == (None, False) and "no answer after 2 attempts" in grade.reason
    assert sum(hopeless.seen.attempts.values()) == 2


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_answers_are_retried_once_then_unanswered(serve: Serve, fault: str) -> None:
    server = serve(first(fault))
    assert judge_at(server.url).grade(asked(1))[0].value == true_grade(as_sent(asked(1)[0]))
    assert sum(server.seen.attempts.values()) == 2
    broken = serve(always(fault))
    (grade,) = judge_at(broken.url).grade(asked(1))
    assert (grade.value, grade.answered) == (None, False) and "malformed twice" in grade.reason
    assert sum(broken.seen.attempts.values()) == 2


def test_refusals_are_unanswered_and_not_asked_again(serve: Serve) -> None:
    server = serve(always("refusal"))
    judge = judge_at(server.url)
    assert judge.grade(asked(1)) == judge.grade(asked(1))
    assert judge.grade(asked(1))[0].reason == "refused"
    assert sum(server.seen.attempts.values()) == 1


def test_equal_requests_are_sent_once_and_answers_keep_their_order(serve: Serve) -> None:
    server = serve()
    requests = asked(5) * 3
    grades = judge_at(server.url).grade(requests)
    assert [grade.value for grade in grades] == [true_grade(as_sent(request)) for request in requests]
    assert len(server.seen.arrivals) == 5


def test_the_budget_is_never_exceeded(serve: Serve, tmp_path: Path) -> None:
    plan = seeded(5, 0.3, ("reset", "not-json", "500"))
    server, requests = serve(plan), asked(200)
    judge = judge_at(server.url, budget=0.004, journal=tmp_path / "journal.jsonl")
    with pytest.raises(UserError, match="budget of"):
        judge.grade(requests)
    billed = sum(judge.price.dollars(300, 10) for _, _, fault in server.seen.arrivals if fault != "500")
    spent = judge.spending.dollars + judge.spending.possibly_dollars
    assert 0.002 < billed <= spent <= 0.004
    # A later run with the same journal has the same budget; with more, it goes on where this one stopped.
    sent = len(server.seen.arrivals)
    with pytest.raises(UserError, match="budget of"):
        judge_at(server.url, budget=0.004, journal=tmp_path / "journal.jsonl").grade(requests)
    assert judge.price.dollars(300, 10) * (len(server.seen.arrivals) - sent) <= 0.004 - spent + 1e-12
    more = judge_at(server.url, budget=1.0, journal=tmp_path / "journal.jsonl")
    assert sum(grade.answered for grade in more.grade(requests)) > 150
    assert max(server.seen.answered.values()) == 1


def test_a_budget_below_one_request_sends_nothing(serve: Serve) -> None:
    server = serve()
    with pytest.raises(UserError, match="no room for the next request"):
        judge_at(server.url, budget=1e-6).grade(asked(3))
    assert not server.seen.arrivals


def test_a_dry_run_prices_without_a_key_or_a_request(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server, requests = serve(), asked(20)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    dry = AnthropicJudge(JudgeSettings(base_url=server.url, dry_run=True))
    quote = dry.quote(requests)
    with pytest.raises(UserError, match="sends nothing"):
        dry.grade(requests)
    assert not server.seen.arrivals
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    judge = judge_at(server.url)
    judge.grade(requests)
    assert 0 < judge.spending.dollars <= quote.at_most and quote.about <= quote.at_most
    assert dry.quote(requests).stored == 20 and dry.quote(requests).at_most == 0


def test_killed_and_resumed(serve: Serve, tmp_path: Path) -> None:
    server = serve(delay=0.03)
    script = textwrap.dedent(f"""
        from pathlib import Path
        from neurosae.autointerp.anthropic_judge import AnthropicJudge
        from neurosae.autointerp.judges import GradeRequest, JudgeSettings
        asked = [GradeRequest(f"Sentence {{i}}.", "success", "an achievement", "3: plainly") for i in range(400)]
        settings = JudgeSettings(base_url="{server.url}", concurrency=8, journal=Path("journal.jsonl"))
        AnthropicJudge(settings).grade(asked)
    """)
    found_at = os.environ | {"PYTHONPATH": str(Path(neurosae.__file__).parents[1])}
    running = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=found_at)
    while sum(server.seen.answered.values()) < 60:
        assert running.poll() is None
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    time.sleep(0.3)  # what was in flight arrives
    stored = len(list((tmp_path / "cache" / "judges" / "answers").rglob("[0-9a-f]*.json")))
    sent = server.seen.attempts.copy()
    resumed = judge_at(server.url, concurrency=8, journal=tmp_path / "journal.jsonl")
    assert 0 < resumed.spending.possibly_billed <= 8
    assert resumed.quote(asked(400)).stored == stored >= 40
    grades = resumed.grade(asked(400))
    assert [grade.value for grade in grades] == [true_grade(as_sent(request)) for request in asked(400)]
    twice = [user for user, n in server.seen.attempts.items() if n > 1]
    assert len(twice) == sum(sent.values()) - stored <= 8
    assert 0 <= resumed.spending.attempts - sum(server.seen.attempts.values()) <= 8  # journalled first, then sent


def test_completions(serve: Serve) -> None:
    server = serve()
    question = Completion("What do they share?", "You find patterns.", "explain-1-0", max_tokens=50)
    (answer,) = judge_at(server.url).complete([question])
    assert answer.answered and answer.text == f"They share {true_grade('What do they share?')}."
    (body,) = server.seen.bodies
    assert body["system"] == "You find patterns." and body["max_tokens"] == 50 and "output_config" not in body


def explain_set() -> ExplainSet:
    examples = [Example(str(i), f"Sentence {i} of many.", -i, "top" if i < 8 else "random", 10) for i in range(16)]
    return ExplainSet(tuple(examples))


@pytest.mark.parametrize("fault", [None, "no-pattern", "429", "not-json"])
def test_a_pattern_comes_through(serve: Serve, fault: str | None) -> None:
    plans: dict[str | None, Plan] = {None: never, "429": first("429")}
    server = serve(plans.get(fault, lambda user, attempt: None if "An earlier answer" in user else fault))
    judge = judge_at(server.url)
    explanation = explain_by_reading(explain_set(), judge)
    answered = server.seen.bodies[-1]
    assert explanation.text == f"They share {true_grade(answered['messages'][0]['content'])}."
    assert (explanation.reason, explanation.writer) == ("", "anthropic:claude-haiku-5-5")
    assert all(e.text in answered["messages"][0]["content"] for e in explain_set().examples)
    sent = len(server.seen.bodies)
    assert explain_by_reading(explain_set(), judge) == explanation
    assert len(server.seen.bodies) == sent  # from the cache, what was malformed as well


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refusal", "refused"),
        ("rejected", "400: prompt is too long"),
        ("no-content", "malformed twice"),
        ("500", "no answer after 2 attempts"),
        ("no-pattern", "0 lines with a pattern"),
    ],
)
def test_an_error_never_becomes_a_pattern(serve: Serve, fault: str, reason: str) -> None:
    explanation = explain_by_reading(explain_set(), judge_at(serve(always(fault)).url, attempts=2))
    assert explanation.text == ""
    assert reason in explanation.reason


def test_the_calibration_command(serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server, out = serve(first("529")), tmp_path / "out"
    options = ["--judge", "anthropic", "--base-url", server.url, "--concept", "success", "--limit", "40"]
    assert calibrate_judge.main([*options, "--draws", "100", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert DISTRUST in printed  # the server grades by a hash
    assert "80 attempts, $" in printed
    assert calibrate_judge.main([*options, "--draws", "100", "--out", str(out)]) == 0
    assert capsys.readouterr().out == printed  # from the cache, with the same journal
    assert len(server.seen.bodies) == 80
    assert {path.name for path in out.iterdir()} == {"calibration.json", "figures.csv", "journal.jsonl"}


def test_inside_a_running_event_loop(serve: Serve) -> None:
    judge = judge_at(serve().url)

    async def notebook() -> int | None:
        return judge.grade(asked(1))[0].value

    assert asyncio.run(notebook()) == true_grade(as_sent(asked(1)[0]))


def test_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(UserError, match="--judge embeddings and --judge local work offline"):
        AnthropicJudge()
    (tmp_path / ".env").write_text(f"ANTHROPIC_API_KEY={KEY}\n")
    assert AnthropicJudge().name == "anthropic:claude-haiku-5-5"


@pytest.mark.parametrize("key", ["sk-one sk-two", "sk-one\nsk-two", "sk-öne"])
def test_a_key_that_cannot_be_one(key: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    with pytest.raises(UserError, match="The key holds") as error:
        judge_at(server.url)
    assert key not in str(error.value)
    monkeypatch.setenv("ANTHROPIC_API_KEY", f" {KEY}\n")
    assert judge_at(server.url).grade(asked(1))[0].answered


def test_a_damaged_stored_answer_is_asked_for_again(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    right = judge_at(server.url).grade(asked(1))
    (stored,) = (tmp_path / "cache" / "judges" / "answers").rglob("*.json")
    for text in ('{"grade": 7}', "two", None):
        stored.write_text(json.dumps(json.loads(stored.read_text()) | {"text": text}))
        assert judge_at(server.url).quote(asked(1)).stored == 0
        assert judge_at(server.url).grade(asked(1)) == right
    assert len(server.seen.bodies) == 4


def test_a_server_of_ones_own_needs_no_key_of_ours_until_it_asks(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(UserError, match="refuses the key"):
        judge_at(serve().url).grade(asked(1))


def test_unknown_model(serve: Serve) -> None:
    with pytest.raises(UserError, match=r"claude-haiku-5-5.*--price INPUT OUTPUT"):
        judge_at(serve().url, model="claude-haiku-55")
    with pytest.raises(UserError, match="knows no model 'claude-haiku-55'"):
        judge_at(serve().url, model="claude-haiku-55", price=(1.0, 5.0)).grade(asked(1))
    own = judge_at(serve().url, model="house-model", price=(0.0, 0.0), budget=0.01)
    assert own.grade(asked(1))[0].answered and own.spending.dollars == 0


def test_unreachable_server() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        judge = judge_at(nowhere, attempts=2)
        with pytest.raises(UserError, match="cannot be reached"):
            judge.grade(asked(1))
    assert judge.spending.possibly_billed == judge.spending.dollars == 0


@pytest.mark.parametrize("address", ["ftp://host", "host:80", "http://user:secret@host"])
def test_bad_address(address: str) -> None:
    with pytest.raises(UserError, match="no usable address") as error:
        judge_at(address)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("settings", [{"concurrency": 0}, {"deadline": 0.0}, {"budget": 0.0}, {"budget": float("nan")}])
def test_bad_settings(settings: dict[str, float]) -> None:
    with pytest.raises(UserError):
        judge_at("http://127.0.0.1:1", **settings)


def test_the_key_is_written_nowhere(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "sk-wrong-fedcba9876543210"
    texts = []
    judge = judge_at(serve(seeded(1, 0.5, (*TRANSIENT[:3], *MALFORMED, *FINAL))).url, journal=tmp_path / "j.jsonl")
    texts += [grade.reason for grade in judge.grade(asked(40))]
    monkeypatch.setenv("ANTHROPIC_API_KEY", wrong)
    with pytest.raises(UserError) as error:  # the server repeats the key in its message
        judge_at(serve().url).grade(asked(1))
    # A server that repeats the key, in free text and where a grade should be.
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    for fault in ("key-said", "key-for-a-grade"):
        telling = judge_at(serve(always(fault)).url)
        texts += [grade.reason for grade in telling.grade(asked(1))]
        texts += [answer.text for answer in telling.complete([Completion("Which key?", "", "v", max_tokens=50)])]
    texts += [str(error.value), repr(error.value), repr(judge), caplog.text]
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(texts) > 40
    for text in texts:
        assert KEY[:12] not in text and wrong not in text
