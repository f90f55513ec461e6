"""Model names and prices of the Messages API: the one table, and what a request may cost at most."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from neurosae.errors import UserError, unknown_name

AS_OF = "2026-11-21"
DEFAULT_MODEL = "claude-haiku-5-5"
# What the service adds to a request unseen (the format of structured output), with a margin.
_HIDDEN_TOKENS = 500
_BYTES_PER_TOKEN = 3.0  # of English text, on the safe side for newer tokenizers
_THINKING_TOKENS = 2048


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens, and how the model thinks.

    Attributes
    ----------
    input, output : float
        For prompts of up to 100,000 tokens.
    thinking : {"off", "always", "unset"}
        Switched off by request; cannot be switched off, so that answers get more room; nothing is said about it
        (models that know no such setting).
    """

    input: float
    output: float
    thinking: str = "unset"

    def dollars(self, input_tokens: float, output_tokens: float) -> float:
        """Cost of so many tokens.

        Examples
        --------
        >>> Price(1.0, 5.0).dollars(1_000_000, 100_000)
        1.5
        """
        return (input_tokens * self.input + output_tokens * self.output) / 1e6

    def settings(self, max_tokens: int) -> dict[str, Any]:
        """``max_tokens`` and ``thinking`` of a request: thinking counts toward ``max_tokens``."""
        if self.thinking == "always":
            return {"max_tokens": max_tokens + _THINKING_TOKENS}
        return {"max_tokens": max_tokens} | ({"thinking": {"type": "disabled"}} if self.thinking == "off" else {})

    def at_most(self, body: dict[str, Any]) -> float:
        """What a request cannot exceed: a token is at least one byte, and an answer at most ``max_tokens``."""
        return self.dollars(_bytes(body) + _HIDDEN_TOKENS, body["max_tokens"])

    def about(self, body: dict[str, Any], output_tokens: float) -> float:
        """What a request will cost roughly, with an answer of `output_tokens`."""
        return self.dollars(_bytes(body) / _BYTES_PER_TOKEN, output_tokens)


def _bytes(body: dict[str, Any]) -> int:
    return len(json.dumps(body, ensure_ascii=False).encode())


PRICES: dict[str, Price] = {
    "claude-haiku-5-5": Price(0.10, 0.50, "off"),
    "claude-haiku-4-5": Price(1.0, 5.0),
    "claude-sonnet-5-5": Price(2.0, 10.0, "always"),
    "claude-sonnet-5": Price(2.0, 10.0, "off"),
    "claude-sonnet-4-6": Price(3.0, 15.0),
    "claude-opus-5-5": Price(4.0, 20.0, "always"),
    "claude-opus-5": Price(5.0, 25.0, "off"),
    "claude-opus-4-6": Price(5.0, 25.0),
    "claude-fable-5-1": Price(10.0, 50.0, "always"),
}


def price_of(model: str, given: tuple[float, float] | None = None) -> Price:
    """Price of a model: from the table, unless dollars per million input and output tokens are given.

    Raises
    ------
    UserError
        A model outside the table without a price, with the list; a negative or infinite price.

    Examples
    --------
    >>> price_of("claude-haiku-5-5").output
    0.5
    >>> price_of("my-gateway-model", (0.0, 0.0)).input
    0.0
    """
    if given is not None:
        if not all(0 <= value < float("inf") for value in given):
            raise UserError(f"The price {given} is no price", where="price", allowed="two numbers from 0")
        return Price(*given, PRICES[model].thinking if model in PRICES else "unset")
    if model not in PRICES:
        error = unknown_name("model", model, PRICES, where="judge_model")
        advice = f"Prices are of {AS_OF}; for any other model add --price INPUT OUTPUT (dollars per million tokens)"
        raise UserError(error.what, where=error.where, allowed=error.allowed, suggestion=advice)
    return PRICES[model]
