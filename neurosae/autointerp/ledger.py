"""What was spent: a write-ahead journal of attempts, and a budget that is never exceeded.

Every attempt is journalled *before* it is sent, with the most it can cost, and closed with what it did cost. An attempt
that a kill or a lost connection left without an answer may have been billed: it counts at the most it can cost.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurosae.errors import UserError
from neurosae.files import cache_folder


@dataclass(frozen=True)
class Spending:
    """Everything in a journal.

    Attributes
    ----------
    attempts : int
        Requests sent, retries included.
    dollars : float
        Cost of answers, from the tokens that the server reported.
    input_tokens, output_tokens : int
        Of these answers.
    possibly_billed : int
        Attempts of unknown outcome.
    possibly_dollars : float
        What these can have cost at most.
    """

    attempts: int
    dollars: float
    input_tokens: int
    output_tokens: int
    possibly_billed: int
    possibly_dollars: float

    def __str__(self) -> str:
        text = (
            f"{self.attempts} attempts, ${self.dollars:.4f} "
            f"({self.input_tokens:,} tokens in, {self.output_tokens:,} out)"
        )
        if self.possibly_billed:
            text += f"; {self.possibly_billed} more possibly billed, at most ${self.possibly_dollars:.4f}"
        return text


class Ledger:
    """The journal, and what may still be spent.

    Parameters
    ----------
    path : Path, optional
        Journal; one that is there is continued, and its spending counts. None starts one in the cache folder.
    budget : float, optional
        US dollars for everything in the journal; None sets no limit.

    Raises
    ------
    UserError
        A budget that is no positive number; a journal that cannot be read.
    """

    def __init__(self, path: Path | None = None, budget: float | None = None) -> None:
        if budget is not None and not 0 < budget < float("inf"):
            raise UserError(f"A budget of {budget} dollars", where="budget", allowed="a number above 0")
        new = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}.jsonl"
        self.path, self.budget = path or cache_folder("judges", "journals") / new, budget
        self.in_flight: dict[str, float] = {}
        self._attempts = self._input_tokens = self._output_tokens = self._unknown = 0
        self._dollars = self._unknown_dollars = 0.0
        self._replay()

    def _replay(self) -> None:
        """Count what earlier runs journalled; what they left open is of unknown outcome."""
        if not self.path.exists():
            return
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise UserError(f"The journal cannot be read ({error.strerror})", where=str(self.path)) from error
        for record in filter(None, map(_record, lines)):
            if record["event"] == "begin":
                self._attempts += 1
                self.in_flight[record["attempt"]] = record["at_most"]
            elif record["attempt"] in self.in_flight:
                self._close(record["attempt"], record["dollars"], record["input_tokens"], record["output_tokens"])
        for attempt in list(self.in_flight):
            self._close(attempt, None, 0, 0)

    def fits(self, at_most: float) -> bool:
        """Whether an attempt can be afforded, if every open one costs as much as it can."""
        if self.budget is None:
            return True
        return self.committed + at_most <= self.budget

    @property
    def committed(self) -> float:
        """Dollars spent, possibly spent and reserved."""
        return self._dollars + self._unknown_dollars + sum(self.in_flight.values())

    @property
    def spending(self) -> Spending:
        """Totals; attempts in flight are not in them yet, but for their number."""
        return Spending(
            self._attempts,
            self._dollars,
            self._input_tokens,
            self._output_tokens,
            self._unknown,
            self._unknown_dollars,
        )

    def begin(self, key: str, at_most: float) -> str:
        """Journal an attempt and reserve the most it can cost; only then may it be sent.

        Returns
        -------
        str
            Its name, for `end`.
        """
        attempt = uuid.uuid4().hex
        self._write({"event": "begin", "attempt": attempt, "request": key, "at_most": at_most})
        self._attempts += 1
        self.in_flight[attempt] = at_most
        return attempt

    def end(self, attempt: str, dollars: float | None, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Close an attempt with its cost; None where nobody knows whether it was billed."""
        numbers = {"dollars": dollars, "input_tokens": input_tokens, "output_tokens": output_tokens}
        self._write({"event": "end", "attempt": attempt, **numbers})
        self._close(attempt, dollars, input_tokens, output_tokens)

    def _close(self, attempt: str, dollars: float | None, input_tokens: int, output_tokens: int) -> None:
        at_most = self.in_flight.pop(attempt)
        if dollars is None:
            self._unknown += 1
            self._unknown_dollars += at_most
        else:
            self._dollars += dollars
        self._input_tokens += input_tokens
        self._output_tokens += output_tokens

    def _write(self, record: dict[str, Any]) -> None:
        """Append one line in one call; the line break in front ends a line that a kill has cut short."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, ("\n" + json.dumps(record)).encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise UserError(f"The journal cannot be written ({error.strerror})", where=str(self.path)) from error


_FIELDS = {"begin": {"attempt", "at_most"}, "end": {"attempt", "dollars", "input_tokens", "output_tokens"}}


def _record(line: str) -> dict[str, Any] | None:
    """A whole line of the journal; None for an empty one or one that was cut short."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    fields = _FIELDS.get(record.get("event", "")) if isinstance(record, dict) else None
    return record if fields is not None and fields <= set(record) else None
