"""The judge behind a Messages API: Anthropic's models, or whatever a gateway serves under the same protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from neurosae.autointerp.cache import AnswerCache
from neurosae.autointerp.judges import Answer, Completion, Grade, GradeRequest, JudgeSettings, unanswered
from neurosae.autointerp.ledger import Ledger, Spending
from neurosae.autointerp.prices import DEFAULT_MODEL, price_of
from neurosae.autointerp.prompting import Prompt, load_prompt
from neurosae.autointerp.transport import Call, Reply, Transport
from neurosae.errors import UserError
from neurosae.files import cache_folder
from neurosae.hub_access import setting

if TYPE_CHECKING:
    import anthropic

ENDPOINT = "https://api.anthropic.com"
KEY = "ANTHROPIC_API_KEY"
_GRADE_TOKENS = 64
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"grade": {"type": "integer", "enum": [0, 1, 2, 3]}},
    "required": ["grade"],
    "additionalProperties": False,
}


class _GradeAnswer(BaseModel):
    """What a graded sentence must come back as; nothing is coerced."""

    model_config = ConfigDict(strict=True, extra="forbid")
    grade: Annotated[int, Field(ge=0, le=3)]


@dataclass(frozen=True)
class Quote:
    """What requests would cost.

    Attributes
    ----------
    requests : int
    stored : int
        Of these, answered in the cache already, at no cost.
    about, at_most : float
        US dollars: a rough guess, and what the budget must have room for if all are reserved at once.
    """

    requests: int
    stored: int
    about: float
    at_most: float

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.stored} of them answered in the cache: about ${self.about:.4f}, "
            f"at most ${self.at_most:.4f}"
        )


class AnthropicJudge:
    """Grades with structured output and answers questions, through the official SDK.

    The key comes from ``ANTHROPIC_API_KEY`` in the environment or in ``.env``; a server of one's own may do without.

    Parameters
    ----------
    settings : JudgeSettings
    cache : Path, optional
        Folder of answers; the cache folder by default.
    attempts, first_wait
        See `Transport`.

    Raises
    ------
    UserError
        No key, unless `settings.dry_run`; a key that cannot be one; a model without a price; the SDK is not
        installed; a base URL that is none.
    """

    def __init__(
        self,
        settings: JudgeSettings | None = None,
        *,
        cache: Path | None = None,
        attempts: int = 8,
        first_wait: float = 0.5,
    ) -> None:
        settings = settings or JudgeSettings()
        if settings.concurrency < 1:
            raise UserError(f"{settings.concurrency} requests at once", where="concurrency", allowed="1 or more")
        if not settings.deadline > 0:
            raise UserError(f"A deadline of {settings.deadline} s", where="deadline", allowed="a number above 0")
        self.settings, self.model = settings, settings.model or DEFAULT_MODEL
        self.name = f"anthropic:{self.model}"
        self.price = price_of(self.model, settings.price)
        self.endpoint = _endpoint(settings.base_url)
        self._key = _key()
        if not (self._key or settings.dry_run or self.endpoint != ENDPOINT):
            raise UserError(
                f"There is no {KEY} in the environment or in .env",
                where="judge",
                suggestion="--judge embeddings and --judge local work offline without one",
            )
        self._transport = Transport(
            self._client,
            AnswerCache(cache or cache_folder("judges", "answers")),
            Ledger(settings.journal, settings.budget),
            self.price,
            settings.concurrency,
            settings.deadline,
            attempts,
            first_wait,
            self._key,
        )
        self._prompt = load_prompt("grade")

    def _client(self) -> anthropic.AsyncAnthropic:
        try:
            import anthropic
        except ImportError as error:
            raise UserError(
                "The package anthropic is not installed", where="judge", suggestion="Install neurosae[llm]"
            ) from error
        return anthropic.AsyncAnthropic(
            api_key=self._key or "none", base_url=self.endpoint, max_retries=0, timeout=self.settings.deadline
        )

    @property
    def spending(self) -> Spending:
        """What this judge's journal holds."""
        return self._transport.ledger.spending

    @property
    def prompt(self) -> Prompt:
        """The prompt that grades are asked with."""
        return self._prompt

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        """One grade per request; refusals and answers malformed twice are unanswered.

        Raises
        ------
        UserError
            See `Transport.send`.
        """
        return [_as_grade(reply) for reply in self._send(requests)]

    def complete(self, requests: Sequence[Completion]) -> list[Answer]:
        """One free-text answer per request.

        Raises
        ------
        UserError
            See `Transport.send`.
        """
        return [Answer(reply.text, not reply.reason, reply.reason) for reply in self._send(requests)]

    def _send(self, requests: Sequence[GradeRequest] | Sequence[Completion]) -> list[Reply]:
        if self.settings.dry_run:
            raise UserError("A dry run sends nothing", where="dry_run", suggestion="Ask for a quote")
        return self._transport.send([self._call(request) for request in requests])

    def quote(self, requests: Sequence[GradeRequest | Completion]) -> Quote:
        """What requests would cost; nothing is sent."""
        calls = {call.key: call for call in map(self._call, requests)}
        new = [call.body for call in calls.values() if not self._transport.is_stored(call)]
        short = self.price.thinking != "always"  # thinking fills an answer, however short
        about = [
            self.price.about(body, 16 if short and "output_config" in body else body["max_tokens"] / 2) for body in new
        ]
        return Quote(len(calls), len(calls) - len(new), sum(about), sum(map(self.price.at_most, new)))

    def _call(self, request: GradeRequest | Completion) -> Call:
        if isinstance(request, Completion):
            body = self._body(request.system, request.prompt, request.max_tokens)
            return Call(body, request.prompt_version, self.endpoint, _not_empty)
        system, user = self._prompt.fill(
            concept=request.concept, definition=request.definition, rule=request.rule, text=request.text
        )
        body = self._body(system, user, _GRADE_TOKENS)
        body["output_config"] = {"format": {"type": "json_schema", "schema": _SCHEMA}}
        return Call(body, self._prompt.version, self.endpoint, _GradeAnswer.model_validate_json)

    def _body(self, system: str, user: str, max_tokens: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": user}]
        body = {"model": self.model, "messages": messages, **self.price.settings(max_tokens)}
        return body | ({"system": system} if system else {})


def _as_grade(reply: Reply) -> Grade:
    if reply.reason:
        return unanswered(reply.reason)
    return Grade(_GradeAnswer.model_validate_json(reply.text).grade, None, True, "")


def _not_empty(text: str) -> None:
    if not text:
        raise ValueError("empty")


def _key() -> str:
    """The key of the service; empty where there is none."""
    key = (setting(KEY) or "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError("The key holds a space, a line break or a character outside ASCII", where=KEY)
    return key


def _endpoint(base_url: str | None) -> str:
    """The server's address: the argument, ``ANTHROPIC_BASE_URL``, or Anthropic's own."""
    address = (base_url or setting("ANTHROPIC_BASE_URL") or ENDPOINT).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise UserError(
            "The judge's server has no usable address", where="base_url", allowed="http(s)://host[:port], no password"
        )
    return address
