"""Judges: one protocol for everything that grades a text from 0 to 3 for a concept, and a registry by name.

A judge never raises for one bad answer: that answer comes back as unanswered, with the reason, and is never a number.
What concerns the whole run (no key, a used-up budget, an unknown model) is a `UserError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from neurosae.errors import UserError, unknown_name

GRADES = (0, 1, 2, 3)
PRESENT = 2  # from this grade on the concept is there


@dataclass(frozen=True)
class GradeRequest:
    """One text to be graded for one concept; nothing in it tells the judge where the text comes from.

    Attributes
    ----------
    text : str
        The text to grade.
    concept : str
        Short name of what is looked for: "success", or a discovered pattern in a few words.
    definition : str
        What it means, in a sentence or two.
    rule : str
        What grades 0 to 3 mean for it.
    """

    text: str
    concept: str
    definition: str
    rule: str


@dataclass(frozen=True)
class Grade:
    """What a judge says about one text.

    Attributes
    ----------
    value : int or None
        0 to 3; None when unanswered.
    probability : float or None
        Probability of a grade of 2 or more as the judge sees it; None where it gives none.
    answered : bool
        Whether there is a value.
    reason : str
        Why there is none; empty when answered.

    Raises
    ------
    ValueError
        An answered grade outside 0-3, or an unanswered one with a value or without a reason.
    """

    value: int | None
    probability: float | None
    answered: bool
    reason: str

    def __post_init__(self) -> None:
        if self.answered != (self.value in GRADES) or self.answered == bool(self.reason):
            raise ValueError("A grade is 0 to 3 without a reason, or None with one")


def unanswered(reason: str) -> Grade:
    """A grade that was not given.

    Examples
    --------
    >>> unanswered("refused")
    Grade(value=None, probability=None, answered=False, reason='refused')
    """
    return Grade(None, None, False, reason)


@dataclass(frozen=True)
class Completion:
    """A question to be answered in free text.

    Attributes
    ----------
    prompt : str
        The user message.
    system : str
        The system message; may be empty.
    prompt_version : str
        `Prompt.version` of the file that the messages were made from; part of the cache key.
    max_tokens : int, default 400
        Longest answer in tokens.
    """

    prompt: str
    system: str
    prompt_version: str
    max_tokens: int = 400


@dataclass(frozen=True)
class Answer:
    """A free-text answer; `text` is empty and `reason` says why when there is none.

    Attributes
    ----------
    text : str
    answered : bool
    reason : str
    """

    text: str
    answered: bool
    reason: str


@runtime_checkable
class Judge(Protocol):
    """Grades texts; answers come in the order of the requests, one each."""

    @property
    def name(self) -> str:
        """Which judge and which model, for provenance: "anthropic:claude-haiku-4-5"."""
        ...

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        """One grade per request."""
        ...


@runtime_checkable
class Writer(Judge, Protocol):
    """A judge that also answers in free text, as explainers need it."""

    def complete(self, requests: Sequence[Completion]) -> list[Answer]:
        """One answer per request."""
        ...


@dataclass(frozen=True)
class JudgeSettings:
    """What a judge may be told; each judge reads what concerns it.

    Attributes
    ----------
    model : str, optional
        Model of the Anthropic or of the local judge and of the embeddings; None takes the judge's default.
    base_url : str, optional
        Messages API to talk to, also a local gateway; None takes ``ANTHROPIC_BASE_URL``, else Anthropic's.
    concurrency : int, default 16
        Requests in flight at once.
    deadline : float, default 60.0
        Seconds for one attempt of one request.
    budget : float, optional
        US dollars; requests that might exceed it are not sent.
    price : tuple of float, optional
        US dollars per million input and output tokens, for models outside the table.
    journal : Path, optional
        Write-ahead journal. The budget is for everything in it, so a resumed run that keeps its journal keeps its
        budget; None starts a new one.
    dry_run : bool, default False
        Only price requests: no key is needed, and grading is refused.
    device, dtype : str
        Of the language model behind the local judge and the embeddings.
    """

    model: str | None = None
    base_url: str | None = None
    concurrency: int = 16
    deadline: float = 60.0
    budget: float | None = None
    price: tuple[float, float] | None = None
    journal: Path | None = None
    dry_run: bool = False
    device: str = "auto"
    dtype: str = "float32"


def _anthropic(settings: JudgeSettings) -> Judge:
    from neurosae.autointerp.anthropic_judge import AnthropicJudge

    return AnthropicJudge(settings)


def _embeddings(settings: JudgeSettings) -> Judge:
    from neurosae import models
    from neurosae.autointerp.embedding_judge import EmbeddingJudge

    return EmbeddingJudge(models.load(settings.model or models.DEFAULT, settings.device, settings.dtype))


def _local(settings: JudgeSettings) -> Judge:
    from neurosae import models
    from neurosae.autointerp.local_judge import LocalJudge

    return LocalJudge(models.load(settings.model or models.DEFAULT, settings.device, settings.dtype))


JUDGES: dict[str, Callable[[JudgeSettings], Judge]] = {
    "anthropic": _anthropic,
    "embeddings": _embeddings,
    "local": _local,
}


def load_judge(name: str, settings: JudgeSettings | None = None) -> Judge:
    """The judge of a name.

    Parameters
    ----------
    name : {"anthropic", "embeddings", "local"}
    settings : JudgeSettings, optional

    Raises
    ------
    UserError
        Unknown name; whatever the judge cannot start without (a key, a price, a model).

    Examples
    --------
    >>> try:
    ...     load_judge("embedding")
    ... except UserError as error:
    ...     print(error)
    judge: Unknown judge 'embedding'. Allowed: anthropic, embeddings, local. Did you mean 'embeddings'?
    """
    if name not in JUDGES:
        raise unknown_name("judge", name, JUDGES, where="judge")
    return JUDGES[name](settings or JudgeSettings())


def writer(judge: Judge) -> Writer:
    """The judge itself, if it can also write.

    Raises
    ------
    UserError
        For the embeddings judge, which has no words.
    """
    if not isinstance(judge, Writer):
        raise UserError(f"The judge {judge.name} cannot write", where="judge", allowed="anthropic, local")
    return judge
