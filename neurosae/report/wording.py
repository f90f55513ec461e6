"""Numbers and names as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from neurosae.plots import LABELS, selector_label
from neurosae.runs.verdicts import kind

NOTHING = "–"
VERDICTS = {
    "supported": ("yes", "✓", "supported"),
    "opposite": ("no", "✕", "opposite"),
    "equivalent": ("same", "≈", "equivalent"),
    "undecided": ("open", "?", "undecided"),
    "not tested": ("none", "–", "not tested"),
}
"""First word of a verdict to its look (class), its sign and its name: colour never speaks alone."""


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number.

    >>> is_number(0.0), is_number(float("nan")), is_number(None), is_number("3")
    (True, False, False, False)
    """
    try:
        return not isinstance(value, str | bool) and value is not None and math.isfinite(value)
    except TypeError:
        return False


def number(value: Any, digits: int = 2, *, sign: bool = False) -> str:
    """A number with a true minus, or a dash where there is none.

    >>> number(-0.126), number(0.5, sign=True), number(float("nan")), number(1234567, 0)
    ('−0.13', '+0.50', '–', '1,234,567')
    """
    if not is_number(value):
        return NOTHING
    text = f"{float(value):{'+' if sign else ''},.{digits}f}"
    rounded_to_zero = text.startswith("-") and not text.strip("-0.,")
    return (text[1:] if rounded_to_zero else text).replace("-", "−")


def interval(low: Any, high: Any, digits: int = 2, *, sign: bool = False) -> str:
    """An interval in brackets; nothing where it is not known.

    >>> interval(0.1, 0.345), interval(None, 0.3)
    ('[0.10, 0.34]', '')
    """
    if not (is_number(low) and is_number(high)):
        return ""
    return f"[{number(low, digits, sign=sign)}, {number(high, digits, sign=sign)}]"


def estimate(row: Mapping[Any, Any], value: str, low: str, high: str, digits: int = 2, *, sign: bool = False) -> str:
    """A value and its 95 % interval.

    >>> estimate({"a": 0.9, "l": 0.85, "h": 0.95}, "a", "l", "h")
    '0.90 [0.85, 0.95]'
    """
    middle = number(row.get(value), digits, sign=sign)
    return f"{middle} {interval(row.get(low), row.get(high), digits, sign=sign)}".strip()


def p_value(p: Any) -> str:
    """A p-value as prose.

    >>> p_value(0.0004), p_value(0.0431), p_value(None)
    ('p < .001', 'p = .043', 'no p')
    """
    if not is_number(p):
        return "no p"
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)


def names(row: Mapping[Any, Any]) -> str:
    """A variant in words.

    >>> names({"representation": "sae", "selector": "rsa_category", "k": 8})
    'SAE latents, RSA category, k = 8'
    """
    parts = [LABELS.get(str(row["representation"]), str(row["representation"])), selector_label(row["selector"])]
    return ", ".join([*parts, *([] if row["selector"] == "all" else [f"k = {int(row['k'])}"])])


def verdict(text: Any) -> tuple[str, str, str]:
    """Look, sign and name of a verdict.

    >>> verdict("supported; RSA better than t")
    ('yes', '✓', 'supported')
    """
    word = kind(text)
    return VERDICTS.get(word, ("none", NOTHING, word))


def duration(seconds: Any) -> str:
    """Seconds as people say them.

    >>> duration(1.4), duration(235.5)
    ('1.4 s', '3 min 56 s')
    """
    if not is_number(seconds):
        return NOTHING
    minutes, rest = divmod(round(float(seconds)), 60)
    return f"{minutes} min {rest} s" if minutes else f"{float(seconds):.1f} s"
