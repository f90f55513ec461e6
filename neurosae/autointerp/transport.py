"""Requests to a Messages API through the official SDK: bounded, patient, cached, journalled, within a budget."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from neurosae.autointerp.cache import AnswerCache, request_key
from neurosae.autointerp.ledger import Ledger
from neurosae.autointerp.prices import Price
from neurosae.errors import UserError

if TYPE_CHECKING:
    import anthropic

T = TypeVar("T")
LONGEST_WAIT = 600.0  # seconds; a server that asks for more is not waited for
_LONGEST_BACKOFF = 30.0
_NOT_CONNECTED = ("ConnectError", "ConnectTimeout")  # nothing was sent
_WORTH_A_RETRY = (408, 409, 429)  # and everything from 500


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes
    ----------
    body : dict
        Arguments of ``messages.create``.
    prompt_version : str
    endpoint : str
        Address of the server.
    check : callable
        Raises ValueError for a text that is no valid answer.
    """

    body: dict[str, Any]
    prompt_version: str
    endpoint: str
    check: Callable[[str], object]

    @cached_property
    def key(self) -> str:
        """Key of the answer in the cache."""
        return request_key({"body": self.body, "prompt_version": self.prompt_version, "endpoint": self.endpoint})


@dataclass(frozen=True)
class Reply:
    """The text that came back, or why there is none."""

    text: str
    reason: str = ""


class _Retry(Exception):
    """This attempt failed; another may not."""

    def __init__(self, reason: str, *, connected: bool = True) -> None:
        super().__init__(reason)
        self.connected = connected


class _Malformed(Exception):
    """An answer came that is none."""


class _Rejected(Exception):
    """The server will not answer this request."""


@dataclass
class Transport:
    """Sends calls; what was answered before comes from the cache.

    Attributes
    ----------
    client : callable
        Makes the SDK's client, with its own retries off: each attempt is journalled here.
    cache : AnswerCache
    ledger : Ledger
    price : Price
    concurrency : int
        Requests in flight at once.
    deadline : float
        Seconds for one attempt, from connecting to the last byte.
    attempts : int, default 8
        Per request, when the server is busy, broken or gone.
    first_wait : float, default 0.5
        Seconds before the first retry; doubles each time, with jitter, up to 30. A longer ``retry-after`` holds all
        requests back.
    secret : str
        Never to appear in a message.
    """

    client: Callable[[], anthropic.AsyncAnthropic]
    cache: AnswerCache
    ledger: Ledger
    price: Price
    concurrency: int = 16
    deadline: float = 60.0
    attempts: int = 8
    first_wait: float = 0.5
    secret: str = ""

    def send(self, calls: Sequence[Call]) -> list[Reply]:
        """One reply per call, in their order; equal calls are sent once.

        Raises
        ------
        UserError
            What concerns every call: a refused key, an unknown model, an unreachable server, a used-up budget, a
            server that wants to be left alone for long. Answers that came before are in the cache.
        """
        by_key = {call.key: call for call in calls}
        replies = {key: reply for key, call in by_key.items() if (reply := self._stored(call)) is not None}
        missing = [call for key, call in by_key.items() if key not in replies]
        if missing:
            replies |= run_async(_Run(self).send_all(missing))
        return [replies[call.key] for call in calls]

    def is_stored(self, call: Call) -> bool:
        """Whether a call would be answered from the cache."""
        return self._stored(call) is not None

    def _stored(self, call: Call) -> Reply | None:
        """The answer in the cache; one that is no valid answer counts as none."""
        record = self.cache.get(call.key) or {}
        text, reason = record.get("text"), record.get("reason")
        if not (isinstance(text, str) and isinstance(reason, str)):
            return None
        try:
            if not reason:
                call.check(text)
        except ValueError:
            return None
        return Reply(text, reason)

    def hide(self, text: str) -> str:
        """A text without the secret."""
        return text.replace(self.secret, "***") if self.secret else text

    def clean(self, text: str) -> str:
        """A message on one line, without the secret."""
        return " ".join(self.hide(text).split())[:300]


class _Run:
    """One event loop's worth of calls."""

    def __init__(self, transport: Transport) -> None:
        self.transport, self.client = transport, transport.client()
        self.slots = asyncio.Semaphore(transport.concurrency)
        self.ledger_changed = asyncio.Condition()
        self.not_before = 0.0
        self.heard = False

    async def send_all(self, calls: Sequence[Call]) -> dict[str, Reply]:
        """Send all; the first error that concerns every call cancels the rest."""
        async with self.client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = {call.key: group.create_task(self._answer(call)) for call in calls}
            except ExceptionGroup as group_error:
                raise (group_error.subgroup(UserError) or group_error).exceptions[0] from None
        return {key: task.result() for key, task in tasks.items()}

    async def _answer(self, call: Call) -> Reply:
        """Try until there is a reply; a malformed answer is retried once."""
        malformed = failed = 0
        async with self.slots:
            while True:
                try:
                    return await self._attempt(call)
                except _Rejected as error:
                    return Reply("", str(error))
                except _Malformed as error:
                    malformed += 1
                    if malformed == 2:
                        return Reply("", f"malformed twice: {self.transport.clean(str(error))}")
                except _Retry as error:
                    failed += 1
                    if failed == self.transport.attempts:
                        return self._given_up(error)
                    backoff = min(_LONGEST_BACKOFF, self.transport.first_wait * 2 ** (failed - 1))
                    await asyncio.sleep(backoff * random.uniform(0.5, 1.0))

    def _given_up(self, error: _Retry) -> Reply:
        if not self.heard and not error.connected:
            raise UserError(
                f"The judge's server cannot be reached ({self.transport.clean(str(error))})",
                where="base_url",
                suggestion="Check the address and the network; --judge embeddings and --judge local work offline",
            )
        return Reply("", f"no answer after {self.transport.attempts} attempts: {self.transport.clean(str(error))}")

    async def _attempt(self, call: Call) -> Reply:
        """One journalled attempt: the answer is stored before the journal says that it came."""
        import anthropic

        await self._until_allowed()
        attempt = await self._reserve(call)
        cost, used = None, (0, 0)
        try:
            message = await self._create(call)
            used = _usage(message)
            cost = self.transport.price.dollars(*used) if any(used) else None
            reply = _read(message, call)
            reply = Reply(self.transport.hide(reply.text), reply.reason)  # a server may repeat the key
            record = {"text": reply.text, "reason": reply.reason, "request": call.body, "usage": list(used)}
            self.transport.cache.put(call.key, record | {"prompt_version": call.prompt_version})
            return reply
        except anthropic.APIStatusError as error:  # an error response is not billed
            cost, self.heard = 0.0, True
            raise self._status(error, call) from error
        except _Retry as error:
            cost = None if error.connected else 0.0
            raise
        finally:
            self.transport.ledger.end(attempt, cost, *used)
            async with self.ledger_changed:
                self.ledger_changed.notify_all()

    async def _until_allowed(self) -> None:
        """Wait as long as the server asked for."""
        while (wait := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def _reserve(self, call: Call) -> str:
        """Journal the attempt once the budget has room for the most it can cost."""
        ledger, at_most = self.transport.ledger, self.transport.price.at_most(call.body)
        async with self.ledger_changed:
            while not ledger.fits(at_most):
                if not ledger.in_flight:
                    raise UserError(
                        f"The budget of ${ledger.budget:.4f} has no room for the next request, which may cost "
                        f"${at_most:.4f}: {ledger.spending}",
                        where="budget",
                        suggestion="Answers so far are kept, never paid again: repeat with more; --dry-run prices it",
                    )
                await self.ledger_changed.wait()
            return ledger.begin(call.key, at_most)

    async def _create(self, call: Call) -> Any:
        """The SDK's call within the deadline; what it raises beside error responses is sorted."""
        import anthropic

        try:
            async with asyncio.timeout(self.transport.deadline):
                message = await self.client.messages.create(**call.body)
        except TimeoutError as error:
            raise _Retry(f"no answer within {self.transport.deadline:g} s") from error
        except anthropic.APIStatusError:
            raise
        except anthropic.APIConnectionError as error:
            cause = type(error.__cause__).__name__
            raise _Retry(f"{error.message} {cause}", connected=cause not in _NOT_CONNECTED) from error
        except (anthropic.APIError, ValueError) as error:  # a body that is no JSON
            self.heard = True
            raise _Malformed(f"the server's answer cannot be read ({type(error).__name__})") from error
        self.heard = True
        return message

    def _status(self, error: anthropic.APIStatusError, call: Call) -> Exception:
        """What an error response means: for every call, for this one, or for this attempt."""
        code, said = error.status_code, self.transport.clean(error.api_message or error.message)
        if code in (401, 403):
            return UserError(
                f"The server refuses the key ({code})",
                where="ANTHROPIC_API_KEY",
                suggestion="Check the key; --judge embeddings and --judge local work offline without one",
            )
        if code == 402:
            return UserError(f"The server wants to be paid first: {said}", where="judge")
        if code == 404:
            return UserError(f"The server knows no model '{call.body['model']}' (404)", where="judge_model")
        if code not in _WORTH_A_RETRY and code < 500:
            return _Rejected(f"{code}: {said}")
        wait = retry_after(error.response.headers)
        if wait > LONGEST_WAIT:
            return UserError(
                f"The server asks to wait {wait:.0f} s ({code})", suggestion="Answers so far are kept: repeat later"
            )
        self.not_before = max(self.not_before, time.monotonic() + wait)
        return _Retry(f"{code}: {said}")


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait: ``retry-after-ms``, or ``retry-after`` as seconds or as a date; else 0.

    Examples
    --------
    >>> retry_after({"retry-after": "2"}), retry_after({"retry-after-ms": "50"}), retry_after({})
    (2.0, 0.05, 0.0)
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
            return seconds if 0 <= seconds < float("inf") else 0.0
        except (KeyError, ValueError):
            continue
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else 0.0


def _usage(message: Any) -> tuple[int, int]:
    """Tokens in and out that the server reports; zeros where it reports none."""
    usage = getattr(message, "usage", None)
    counts = [getattr(usage, f"{side}_tokens", None) for side in ("input", "output")]
    into, out = (count if isinstance(count, int) else 0 for count in counts)
    return into, out


def _read(message: Any, call: Call) -> Reply:
    """The text of an answer; a refusal is a reply without one."""
    if getattr(message, "stop_reason", None) == "refusal":
        return Reply("", "refused")
    content = getattr(message, "content", None)
    if not isinstance(content, list):
        raise _Malformed("the answer has no content")
    text = "".join(block.text for block in content if getattr(block, "type", None) == "text").strip()
    if message.stop_reason == "max_tokens":
        raise _Malformed("the answer was cut short")
    try:
        call.check(text)
    except ValueError as error:
        raise _Malformed(f"{text!r} is no valid answer") from error
    return Reply(text)


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
